//! The way to the servers.

mod endpoints;

pub(crate) use self::endpoints::{Link, Member};
