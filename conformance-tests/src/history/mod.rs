//! Histories of clients under faults, and a checker that finds violations of the contract.
//!
//! A run records every grant with the times between which its guard certainly reported that it was held,
//! every wait, every write to a resource that the lock protects, and every fault. [`check`] verifies:
//!
//! | property | clauses |
//! |---|---|
//! | at any time the guards of a lock that report that they are held are compatible: at most one, unless they are shared or have permits | X1, M1 |
//! | tokens rise from grant to grant | T1 |
//! | no operation of a client that is not the holder succeeds | L4, R1 |
//! | a loss is reported by the deadline | L1 |
//! | a free lock is granted to a waiter within the bound after the last fault | X3, W2 |
//! | no write is lost if the resource checks tokens | T1 |
//!
//! An operation with an unknown outcome may or may not have happened; it is no violation.

mod activity;
mod check;
mod record;
mod replay_file;
#[cfg(test)]
mod tests;
mod workload;

use serde::{Deserialize, Serialize};
use tenure_core::mode::Mode;

pub use activity::{Activity, TooLittleActivity};
pub use check::{Bounds, Property, Violation, check};
pub use record::{ActiveFault, Recorder};
pub use replay_file::ReplayFile;
pub use workload::{Pause, Workload};

/// The record of one run. Times are microseconds since its start, on a clock that continues during a
/// suspension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct History {
    /// The grants.
    pub grants: Vec<Tenancy>,
    /// The acquires with their outcomes.
    pub waits: Vec<Wait>,
    /// The writes to the protected resources.
    pub writes: Vec<Write>,
    /// The faults of the store and the network.
    pub faults: Vec<Fault>,
}

/// One grant, as its guard reported it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tenancy {
    /// The name of the lock.
    pub lock: String,
    /// The number of the holder.
    pub worker: u32,
    /// The token of the grant.
    pub token: u64,
    /// What the grant shares the lock with.
    #[serde(default)]
    pub mode: Mode,
    /// The time from which the grant is shared, if it was downgraded.
    #[serde(default)]
    pub shared_from: Option<u64>,
    /// The time of the first check of the guard, which reported that it was held.
    pub held_from: u64,
    /// The start of the last check that reported this. The guard was held in between.
    pub held_until: u64,
    /// The end of the grant.
    pub ending: Ending,
}

/// The end of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// The holder released the lock.
    Released {
        /// The time of the release.
        asked: u64,
        /// The outcome: `Some(true)` is released, `Some(false)` not held, `None` unknown.
        held: Option<bool>,
    },
    /// The guard reported its loss.
    Lost {
        /// The time of the report.
        told: u64,
        /// The deadline of the report.
        due: u64,
        /// The reason, in one word.
        reason: String,
        /// The operations of the lost guard that succeeded.
        afterwards: Vec<String>,
    },
    /// The run ended before the grant.
    Open,
}

/// One acquire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Wait {
    /// The name of the lock.
    pub lock: String,
    /// The number of the worker.
    pub worker: u32,
    /// The time of the call.
    pub asked: u64,
    /// The time at which the call returned or was cancelled.
    pub ended: u64,
    /// The token, if it was granted.
    pub token: Option<u64>,
    /// The error, if the call failed.
    pub error: Option<String>,
}

/// One write to the resource of a lock: the holder read a number and writes the next number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Write {
    /// The name of the lock, which identifies the resource.
    pub lock: String,
    /// The number of the worker.
    pub worker: u32,
    /// The token of the writer.
    pub token: u64,
    /// The number that the holder read.
    pub read: u64,
    /// The position of this write among all writes of its resource, including refused ones.
    pub at: u64,
    /// Whether the resource accepted the write.
    pub accepted: bool,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The description of the fault.
    pub what: String,
    /// The start of the fault.
    pub from: u64,
    /// The end of the fault, after recovery.
    pub until: u64,
    /// Whether the fault had an observed effect.
    #[serde(default)]
    pub took_effect: bool,
}
