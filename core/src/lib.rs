//! The core of `tenure`: what a distributed lock and its lease promise.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure"))]

pub mod backend;
pub mod capability;
pub mod cas;
pub mod clock;
pub mod error;
pub mod fence;
pub mod id;
pub mod lease;
pub mod loss;
pub mod name;
pub mod queue;
pub mod request;
pub mod secret;
pub mod token;
