//! The store's own protocol, as far as locks need it.
//!
//! Spoken here and not by a client library, because what a lease rests on is which connection a
//! request went over and when it was handed to it: a library that reconnects behind its caller's
//! back, queues requests until then and gives up a session by a clock of its own hides just that.

pub(crate) mod conn;
pub(crate) mod jute;
pub(crate) mod open;
pub(crate) mod proto;
