//! Locks on etcd: first come first served, with revisions as fencing tokens, for when being wrong is
//! expensive.
//!
//! One transaction enters the queue and says who is in front; one leaves it. Whoever waits watches
//! the one in front, and asks once more when it is gone. `etcdctl lock NAMESPACE/NAME` and
//! `concurrency.Mutex` of the Go client keep their queue in the same way under the same keys: they
//! exclude `tenure` and are excluded by it, in order.
//!
//! ```no_run
//! use tenure_core::Client;
//! use tenure_etcd::{EtcdStore, Options};
//!
//! # async fn example() -> Result<(), tenure_core::error::Error> {
//! let url = "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379".parse()?;
//! let client = Client::builder(EtcdStore::open(&url, Options::default())?).connect().await?;
//! let guard = client.lock("nightly-report")?.acquire().await?;
//! println!("token {}", guard.token());
//! # Ok(())
//! # }
//! ```
//!
//! The locks of one client that have the same TTL share a lease. It is made when the first of them is
//! taken, which costs one more round trip, and is lost for all of them together.
//!
//! A user needs the rights to read and to write below its namespace and no others, here for the
//! namespace `billing`:
//!
//! ```text
//! etcdctl role add billing
//! etcdctl role grant-permission billing --prefix=true readwrite billing/
//! etcdctl user grant-role billing billing
//! ```
//!
//! A namespace is written in keys by the table of [`tenure_core::name`].

mod address;
mod attempts;
mod backend;
mod check;
mod config;
mod enqueue;
mod error;
mod factory;
mod inspect;
mod keepalive_validity;
mod keys;
mod lease;
mod queue;
mod record;
mod remove;
mod renew;
mod shared;
mod transport;
mod txn;
mod uncontended;
mod watch;

pub use backend::EtcdStore;
pub use config::{KeepaliveTrust, Options};
pub use factory::EtcdFactory;
