//! The core of `tenure`: what a distributed lock and its lease promise.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure"))]

pub mod backend;
pub mod capability;
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
pub mod request;
pub mod secret;
pub mod telemetry;
pub mod token;

pub use client::{Acquisition, Client, ClientBuilder, Shutdown, Unreleased};
pub use guard::{Guard, NotHeld, Release};
pub use lock::{Lock, RunError};
