//! Locks on Redis: first come first served, with fencing tokens, handed over by push.
//!
//! A driver and nothing more: the queue is kept by one Lua script per operation, and everything
//! that is policy (when to renew, what may be believed) is the core's.
//!
//! ```no_run
//! use tenure_core::Client;
//! use tenure_redis::{Options, RedisStore};
//!
//! # async fn example() -> Result<(), tenure_core::error::Error> {
//! let url = "redis://127.0.0.1:6379".parse()?;
//! let client = Client::builder(RedisStore::open(&url, Options::default())?).connect().await?;
//! let guard = client.lock("nightly-report")?.acquire().await?;
//! println!("token {}", guard.token());
//! # Ok(())
//! # }
//! ```
//!
//! What the servers must be and may lose, the rights that are needed, and what each option means is
//! in `docs/operations.md`.

mod address;
mod backend;
mod check;
mod config;
mod enqueue;
mod error;
mod factory;
mod grant_confirmation;
mod inspect;
mod keys;
mod queue;
mod record;
mod remove;
mod renew;
mod reply;
mod scripts;
mod shared;
mod transport;

pub use backend::RedisStore;
pub use config::{Durability, Eviction, Options};
pub use factory::RedisFactory;
