//! Parts that the drivers of server stores share: addresses with fail-over, connection options,
//! reconnection, and errors of connecting.
//!
//! A driver is free to use none of them; the core itself needs only the trait in
//! [`backend`](crate::backend).

mod backoff;
mod connect_error;
mod connection_options;
mod endpoints;

pub use backoff::Backoff;
pub use connect_error::{ConnectError, TlsFailure, one_line};
pub use connection_options::ConnectionOptions;
pub use endpoints::{Endpoint, EndpointList, no_server};
