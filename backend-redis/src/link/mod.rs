//! The way to the server or servers: one client's connections, and what becomes of a request that
//! is sent over them. It knows nothing of locks.

mod call;

pub(crate) use call::{Answer, Call, Fault, Listener, Script};
