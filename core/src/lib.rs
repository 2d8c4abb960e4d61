//! The core of `tenure`: what a distributed lock and its lease promise, kept the same on every
//! store.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tenure_core::{Client, fence::TokenGate, memory::MemoryStore};
//!
//! let client = Client::builder(MemoryStore::new()).connect().await?;
//! let guard = client.lock("invoice-42")?.acquire().await?;
//!
//! // Before each effect: is it still ours? And let the resource refuse whoever comes too late.
//! let token = guard.check()?;
//! let resource = TokenGate::new();
//! resource.pass(token, || { /* write */ })?;
//!
//! let outcome = guard.release().await;
//! # let _ = outcome; Ok(()) }
//! ```
//!
//! # What a lock can and cannot promise
//!
//! At most one guard of a name says at any moment that it is held, as long as clock *rates* differ
//! by less than one percent and the store keeps what it has acknowledged. That is a statement
//! about guards, not about work: a write that was under way when the lease ended, or a process
//! that was paused between asking and writing, is beyond any lock. Against that each grant carries
//! a [fencing token](token::FencingToken), and a resource that [checks it](fence::TokenGate) refuses the
//! late writer. If nothing checks the token, a lock makes collisions rare and no more.
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
//! The deadline counts from before the request was sent, so the client stops believing before the
//! store gives the lock to anybody else: `valid_until = proved_from + TTL * (1 - drift) - margin`.
//!
//! # The parts
//!
//! - [`queue`] and [`lease`]: two pure state machines. One says what a store holds, the other what a
//!   client may believe. They are the specification; everything else is I/O around them.
//! - [`Client`], [`Lock`], [`Guard`]: what users hold.
//! - [`backend`] and [`request`]: the trait that the author of a backend implements; [`cas`] makes a
//!   backend of any store with compare-and-swap.
//! - [`memory`]: a backend inside of the process, to test one's own handling of losses with.
//! - [`registry`] and [`settings`]: choosing a backend by configuration.
//!
//! The clauses that comments and tests cite (`L1`, `T1`, ...) are those of `docs/contract.md`.
//!
//! # Features
//!
//! `metrics` records the metrics of [`telemetry`] through the facade of that name. It changes
//! nothing else.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure"))]

pub mod backend;
pub mod capability;
pub mod cas;
mod client;
pub mod clock;
pub mod error;
pub mod fence;
mod guard;
pub mod id;
pub mod lease;
mod lock;
pub mod loss;
pub mod memory;
pub mod name;
pub mod queue;
pub mod registry;
pub mod request;
pub mod secret;
pub mod settings;
pub mod telemetry;
pub mod token;

pub use client::{Acquisition, Client, ClientBuilder, Shutdown, Unreleased};
pub use guard::{Guard, NotHeld, Release};
pub use lock::{Lock, RunError};
