//! A proxy between a client and its server, which records what is sent and injects faults of the
//! network.

mod grpc;
mod protocol;
mod proxy;
mod record;
mod relay;
mod resp;
mod zookeeper;

pub use proxy::Proxy;
pub use record::Command;
