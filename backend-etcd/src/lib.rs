//! Locks on etcd: a FIFO queue, with revisions as fencing tokens, for uses where a mistake is
//! expensive.
//!
//! One transaction enters the queue and returns the predecessor; one removes the entry. A waiter
//! watches its predecessor and runs one more transaction when the predecessor is gone. `etcdctl
//! lock NAMESPACE/NAME` and the Go client's `concurrency.Mutex` keep the same queue under the same
//! keys: they and `tenure` exclude each other and share one order.
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
//! The locks of one client that have the same TTL share a lease. The client creates the lease when
//! it takes the first of these locks, which costs one more round trip. If the lease is lost, all of
//! these locks are lost together.
//!
//! A user needs read and write permission below its namespace and no other permission. For the
//! namespace `billing`:
//!
//! ```text
//! etcdctl role add billing
//! etcdctl role grant-permission billing --prefix=true readwrite billing/
//! etcdctl user grant-role billing billing
//! ```
//!
//! The table in [`tenure_core::name`] defines how keys encode a namespace.
//!
//! # Where the clauses are kept
//!
//! | clause | kept in |
//! |---|---|
//! | X1 | `txn.rs` (`enqueue`, `locate`), `queue.rs` (`locate`), `attempts.rs` (`next_step`); the leases in `keepalive_validity.rs` and `lease/` |
//! | A4 | `remove.rs`, `attempts.rs` (`begin_removal`, `fence`), `txn.rs` (`remove_and_fence`) |
//! | T1 | `record.rs` (`token`): the create revision above the floor |
//! | T3 | `enqueue.rs` (`repeat`) |
//! | W1 | the create revisions are the order: `txn.rs` (`enqueue`), `queue.rs` (`locate`, `predecessor_of`) |
//! | W3 | `txn.rs` (`remove_waiter`), `queue.rs` (`prepare_turn`): the waiter behind finds its new predecessor, and nobody is granted the lock; `admission.rs` (`awaited`) for the modes that are not exclusive |
//! | D1 | `lease/pool.rs` (`grant`) and `lease/mod.rs` (`prove`) count from before the request; `queue.rs` (`grant`) |
//! | D4 | not used: a grant that arrives as an event carries the last proof of its lease |
//! | L2 | `queue.rs` (`watch_holder`, `loss_event`), `watch/task.rs` (`on_own_event`), `renew.rs` (`on_gone`) |
//! | L5 | `renew.rs`; fail-over in `transport/endpoints.rs`; keep-alives in `lease/` |
//! | I2 | `inspect.rs` (`evict`) |
//! | M1, M2 | `admission.rs`, on the entries that `position.rs` reads in the transaction that enters or locates |
//! | M3 | the create revisions rise in the order of the queue; `position.rs` (`place`) takes the floor from the first entry |
//! | M4 | `rewrite.rs` (`downgrade`): a put keeps the create revision; readers watch for it |
//! | M7, S3 | `record.rs`: a mode is written in a newer format |

mod address;
mod admission;
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
mod position;
mod queue;
mod record;
mod remove;
mod renew;
mod rewrite;
mod shared;
mod transport;
mod txn;
mod watch;

pub use backend::EtcdStore;
pub use config::{KeepaliveTrust, Options};
pub use factory::EtcdFactory;
