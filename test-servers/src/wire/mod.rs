//! A proxy between a client and its server that records requests and injects network faults.

mod cursor;
mod found;
mod grpc;
mod protocol;
mod proxy;
mod record;
mod relay;
mod resp;
mod zookeeper;

pub use proxy::Proxy;
pub use record::Command;
