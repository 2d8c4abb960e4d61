//! The core of `tenure`: the contract of a distributed lock and its lease, identical on every
//! store.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tenure_core::{Client, fence::TokenGate, memory::MemoryStore};
//!
//! let client = Client::builder(MemoryStore::new()).connect().await?;
//! let guard = client.lock("invoice-42")?.acquire().await?;
//!
//! // Before each effect, check the guard; and let the resource reject a stale token.
//! let token = guard.check()?;
//! let resource = TokenGate::new();
//! resource.pass(token, guard.floor(), || { /* write */ })?;
//!
//! let outcome = guard.release().await;
//! # let _ = outcome; Ok(()) }
//! ```
//!
//! # What a lock can and cannot promise
//!
//! At any moment at most one guard of a name reports that it is held, provided that clock *rates*
//! differ by less than one percent and the store keeps what it has acknowledged. This is a
//! statement about guards, not about work. No lock can stop a write that is in flight when the
//! lease ends, or a process that is paused between a check and a write. Therefore each grant
//! carries a [fencing token](token::FencingToken), and a resource that [checks
//! it](fence::TokenGate) rejects the late writer. If no resource checks the token, a lock makes
//! collisions rare but not impossible.
//!
//! # How a lease lives
//!
//! ```text
//! request sent      answer            renewal: a later proof moves the deadline
//!     │               │                   │
//!     ├───────────────┼───────────────────┼────────────────┬─────────────┬──▶
//!     │               └ the guard holds                    │             │
//!     └ proved_from                             valid_until: lost()      proved_from + TTL:
//!                                               fires, check() fails     others may get it
//! ```
//!
//! The deadline counts from a moment before the request was sent, so the client considers the lease
//! ended before the store grants the lock to another client: `valid_until = proved_from + TTL * (1
//! - drift) - margin`.
//!
//! # The parts
//!
//! - [`queue`] and [`lease`]: two pure state machines. The queue describes what a store holds, the
//!   lease what a client may believe. They are the specification; everything else is I/O around
//!   them.
//! - [`Client`], [`Lock`], [`Guard`]: the types that users hold; [`blocking`] has the same for
//!   programs that are not asynchronous.
//! - [`RwLock`] and [`Semaphore`]: the same lock, shared or in part; [`mode`] says who holds it together.
//!   [`LockAll`] is several locks at once, and [`Election`] a lock whose holder leads.
//! - [`backend`] and [`request`]: the trait that the author of a backend implements; [`cas`] turns
//!   any store with compare-and-swap into a backend.
//! - [`driver`]: parts that the drivers of server stores share.
//! - [`memory`]: an in-process backend, for testing how an application handles a lost lock.
//! - [`registry`] and [`settings`]: selection of a backend by configuration.
//!
//! The clauses that comments and tests cite (`L1`, `T1`, ...) are those of `docs/contract.md`.
//!
//! # Features
//!
//! `metrics` records the metrics of [`telemetry`] through the `metrics` crate. It changes nothing
//! else.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure"))]

mod acquire;
pub mod backend;
pub mod blocking;
pub mod capability;
pub mod cas;
mod client;
pub mod clock;
mod downgrade;
pub mod driver;
mod election;
pub mod error;
pub mod fence;
mod guard;
pub mod id;
mod inspection;
mod kinds;
pub mod lease;
mod lock;
mod lock_all;
pub mod loss;
pub mod memory;
pub mod mode;
pub mod name;
mod owner;
pub mod queue;
pub mod registry;
pub mod request;
pub mod secret;
pub mod settings;
pub mod telemetry;
pub mod token;

pub use acquire::Acquisition;
pub use client::{Client, ClientBuilder, Release, Shutdown, Unreleased};
pub use election::{Election, Leader, Leadership, Observer};
pub use guard::{Guard, NotHeld};
pub use kinds::{RwLock, Semaphore};
pub use lock::{Lock, RunError};
pub use lock_all::{GuardAll, LockAll, NotReleased};
