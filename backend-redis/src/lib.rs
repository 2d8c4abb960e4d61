//! Locks on Redis: first come first served, with fencing tokens, handed over by push.
//!
//! A driver and nothing more: the queue is kept by one Lua script per operation, and everything
//! that is policy (when to renew, what may be believed) is the core's.

mod backend;
mod config;
mod confirm;
mod error;
mod factory;
mod keys;
mod link;
mod record;
mod renewal;
mod reply;
mod scripts;
mod view;

pub use backend::RedisStore;
pub use config::{Durability, Eviction, Options};
pub use factory::RedisFactory;
