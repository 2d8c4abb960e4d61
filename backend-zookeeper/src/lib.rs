//! Locks on ZooKeeper: FIFO order, transaction ids as fencing tokens, and mutual exclusion with
//! programs that use Curator's or kazoo's lock recipes.
//!
//! This crate is a driver on the client crate `zookeeper-client`. The servers keep the queue of a lock
//! as sequential ephemeral nodes; the core decides when to renew and what a client may believe.
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
//! `docs/backends/zookeeper.md` describes the servers, the rights that a user needs, and each option.
//!
//! # Where the clauses are kept
//!
//! | clause | kept in |
//! |---|---|
//! | X1 | `order.rs` (`standing`), `session/attempts.rs` (`predecessor_deleted`, `grant`), `session/proof.rs`, `session/task.rs` (`accept`) |
//! | A4 | `remove.rs`; `shared.rs` (`assign`, `fence`), `session/attempts.rs` (`is_wanted`, `begin_removal`) |
//! | T1 | `record.rs` (`token`, `token_of`): the transaction id above the floor |
//! | T3 | `enqueue.rs` (`repeat`, `grant`) |
//! | W1 | the numbers of the nodes are the order: `enqueue.rs` (`create`), `order.rs` (`compare`, `standing`) |
//! | W3 | `locate.rs` (`watch`), `session/watches.rs` (`follow_ahead`): the waiter behind finds its new predecessor, and nobody is granted the lock |
//! | D1 | `session/proof.rs` (`answered`) counts from before the heartbeat that was answered; `session/mod.rs` (`prove`) |
//! | D4 | not used: a grant that arrives as an event carries the last proof of its session |
//! | L2 | `session/watches.rs` (`own_node_changed`), `session/attempts.rs` (`gone`, `end`) |
//! | L5 | `session/time.rs`, `session/heartbeat.rs`, `session/task.rs` (`round`) |
//! | I2 | `inspect.rs` (`evict`) |
//! | M1, M2, M6 | `keys.rs` (`node_prefix`, `mode_of`), `order.rs` (`count_holders`, `of_sharing`) |
//! | M3 | `locate.rs` (`token_at`), `session/attempts.rs` (`set_admitted`) |
//! | M4 | `downgrade.rs`, `session/attempts/downgrade.rs`, `session/watches.rs` (`set_own_watch`) |
//! | W3 of permits | `order.rs`; `session/attempts/mark.rs`, `renew.rs` (`check_queue`) |

mod address;
mod backend;
mod check;
mod config;
mod downgrade;
mod enqueue;
mod error;
mod factory;
mod inspect;
mod keys;
mod locate;
mod order;
mod queue;
mod record;
mod remove;
mod renew;
mod session;
mod shared;
mod transport;

pub use backend::ZooKeeperStore;
pub use config::{Acl, Options};
pub use factory::ZooKeeperFactory;
