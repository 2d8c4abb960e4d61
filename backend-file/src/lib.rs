//! Locks for the processes of one host, stored in a directory: no server, no installation.
//!
//! ```
//! use tenure_file::FileStore;
//!
//! let store = FileStore::new(FileStore::default_root());
//! # let _ = store;
//! ```
//!
//! Pass a [`FileStore`] to the builder of a client, like any other backend. The queue, tokens and
//! expiry come from the compare-and-swap adapter of the core ([`tenure_core::cas`]). This crate
//! publishes versions of a lock's state by renaming a file whose name is the version (ADR 0003),
//! and wakes waiters through one FIFO for each client.
//!
//! **What it tolerates.** A process that is stopped or killed at any instruction blocks no other
//! process for longer than its TTL, and corrupts nothing. A thousand processes that wait for one lock
//! are served in order, and each change costs the same as with ten. A truncated or overwritten state file
//! causes an error that names the file; it never frees the lock. After a power loss every lock is
//! readable.
//!
//! **What it does not tolerate.** Several hosts: a directory on a network file system is rejected
//! unless [`Options::allow_network`] is set. Any user with write access to the directory can take
//! or break every lock in it. Therefore it belongs to one user, or to a group if it was created for
//! [sharing](Options::shared).
//!
//! **Files**: see [`paths`].
//!
//! # Where the clauses are kept
//!
//! | clause | kept in |
//! |---|---|
//! | X1 | the queue machine of the core; `dir.rs` (`replace`) publishes one version after the other |
//! | A4 | the adapter of the core: `cas/mod.rs` (`remove`), `cas/attempts.rs` (`fence`) |
//! | T1 | the queue machine: `queue/state.rs` (`next_token`); the adapter passes the wall clock as the floor: `cas/transaction.rs` (`read_clocks`) |
//! | T3 | the queue machine: `queue/mod.rs` (`enqueue`) |
//! | W1 | the queue machine: `queue/mod.rs` (`enqueue`, `advance`) |
//! | W3 | the queue machine: `queue/mod.rs` (`remove_entry`); the adapter wakes: `cas/transaction.rs` (`notify`), `fifo.rs` |
//! | D1 | the adapter reads the clock before it writes: `cas/transaction.rs` (`read_clocks`) |
//! | D4 | the adapter: `cas/transaction.rs` (`report_grant`) |
//! | L2 | the adapter: `cas/transaction.rs` (`report_loss`), `cas/mod.rs` (`renew_one`) |
//! | L5 | the adapter: each lock is renewed by itself, and an error is `Unknown`, never `Gone`: `cas/mod.rs` (`renew_lock`) |
//! | M2 | the queue machine: `queue/mod.rs` (`advance`), `mode.rs` (`admits`) |
//! | M3 | the queue machine: `queue/state.rs` (`floor`) |
//! | M4 | the adapter and the queue machine: `cas/mod.rs` (`downgrade`), `queue/mod.rs` (`downgrade`) |
//! | S3 | the adapter: `cas/blob.rs` (`encode`, `decode`) |
//! | I2 | the adapter and the queue machine: `cas/mod.rs` (`evict`) |

mod backend;
mod clock;
mod config;
mod data;
mod delete;
mod delta;
mod dir;
mod dir_handle;
mod error;
mod factory;
mod fifo;
pub mod paths;
mod permit;
mod root;

pub use backend::FileStore;
pub use config::Options;
pub use factory::FileFactory;
