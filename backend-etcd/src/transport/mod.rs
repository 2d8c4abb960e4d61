//! Connections to the servers.

mod endpoints;

pub(crate) use self::endpoints::{Connection, Endpoints};
