//! A proxy between a client and its server, which records what is sent and injects faults of the
//! network.

mod parser;
mod proxy;
mod pump;
mod record;

pub use proxy::Proxy;
pub use record::Command;
