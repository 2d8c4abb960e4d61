//! Locks for the processes of one host, kept in a directory: no server, nothing to install.
//!
//! ```
//! use tenure_file::FileStore;
//!
//! let store = FileStore::new(FileStore::default_root());
//! # let _ = store;
//! ```
//!
//! [`FileStore`] is given to the builder of a client like any other backend. The queue, tokens
//! and expiry come from the compare-and-swap adapter of the core ([`tenure_core::cas`]); this
//! crate publishes versions of a lock's state by renaming a file whose name is the version
//! (ADR 0003), and wakes waiters by one FIFO for each client.
//!
//! **What it stands.** A process that is stopped or killed at any instruction blocks nobody for
//! longer than its TTL and breaks nothing. A state file that was cut off or scribbled over is an
//! error that names the file, never a free lock. Power loss leaves every lock readable.
//!
//! **What it does not.** Several hosts: a directory on a network file system is refused unless
//! [`Options::allow_network`] is set. Whoever may write to the directory may take or break any
//! lock in it: it belongs to one user, or to a group if it was made for
//! [sharing](Options::shared).
//!
//! **Which files there are**: see [`paths`].

mod backend;
mod clock;
mod config;
mod data;
mod dir;
mod error;
mod factory;
mod fifo;
pub mod paths;
mod root;

pub use backend::FileStore;
pub use config::Options;
pub use factory::FileFactory;
