//! The memory backend: a store inside of the process, for tests and for one process's own locks.
//!
//! It runs the queue machine behind a mutex and keeps the whole contract, so that code under test
//! meets real waiting, real renewal and real loss. A test drives its clock, takes a lock away
//! ([`MemoryStore::lose`]) or makes the store hang ([`MemoryStore::set_fault`]).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tenure_core::{Client, memory::MemoryStore, name::{LockName, Namespace}};
//!
//! let store = MemoryStore::new();
//! let client = Client::builder(store.clone()).connect().await?;
//! let guard = client.lock("nightly-report")?.acquire().await?;
//!
//! // What does my code do when the lock is gone?
//! store.lose(&Namespace::default(), &LockName::new("nightly-report")?);
//! println!("lost: {}", guard.lost().await);
//! assert!(guard.check().is_err());
//! # Ok(()) }
//! ```

mod backend;
mod factory;
mod store;

pub use factory::MemoryFactory;
pub use store::{InjectedFault, MemoryStore};
