//! The memory backend: an in-process store, for tests and for locks within one process.
//!
//! It runs the queue behind a mutex and fulfils the whole contract, so that code under test
//! experiences real waiting, renewal and loss. A test can drive its clock, revoke a lock
//! ([`MemoryStore::lose`]) or make the store hang ([`MemoryStore::set_fault`]).
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
