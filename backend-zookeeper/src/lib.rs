//! Locks on ZooKeeper: first come first served, with transaction ids as fencing tokens, shared with
//! programs that use Curator's or kazoo's lock recipes.
//!
//! A driver and nothing more: the servers keep the queue as sequential ephemeral nodes, and
//! everything that is policy (when to renew, what may be believed) is the core's.
//!
//! ```no_run
//! use tenure_core::Client;
//! use tenure_zookeeper::{Options, ZooKeeperStore};
//!
//! # async fn example() -> Result<(), tenure_core::error::Error> {
//! let url = "zookeeper://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/app".parse()?;
//! let store = ZooKeeperStore::open(&url, Options::default())?;
//! let client = Client::builder(store).connect().await?;
//! let guard = client.lock("nightly-report")?.acquire().await?;
//! println!("token {}", guard.token());
//! # Ok(())
//! # }
//! ```
//!
//! What the servers must be, the rights that are needed, and what each option means is in
//! `docs/operations.md`.

mod backend;
mod config;
mod connect;
mod core;
mod enqueue;
mod error;
mod factory;
mod paths;
mod queue;
mod record;
mod remove;
mod renewal;
mod session;
mod target;
mod view;
mod wire;

pub use backend::ZooKeeperStore;
pub use config::{Acl, Options};
pub use factory::ZooKeeperFactory;
