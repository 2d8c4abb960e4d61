//! Histories: what clients did to locks under faults, and a checker that says whether a sound store
//! can have let it happen.
//!
//! A run records every grant with the moments between which its guard certainly said that it was
//! held, every wait, every write to a resource behind the lock, and every fault. [`check`] goes over
//! the record once, after sorting it, and verifies:
//!
//! | property | clauses |
//! |---|---|
//! | at most one guard of a lock says at any moment that it is held | X1 |
//! | tokens rise from grant to grant | T1 |
//! | nothing succeeds for one who is not the holder | L4, R1 |
//! | a loss is told by the deadline | L1 |
//! | a lock that is free passes to one who waits, within the bound after the last fault | X3, W2 |
//! | no write is lost where the resource checks tokens | T1 |
//!
//! What has an unknown outcome counts as something that may have happened: it accuses nobody.

mod check;
mod power;
mod record;
mod replay_file;
#[cfg(test)]
mod tests;
mod workload;

use serde::{Deserialize, Serialize};

pub use check::{Bounds, Property, Violation, check};
pub use power::{Power, Quiet};
pub use record::{Recorder, Struck};
pub use replay_file::ReplayFile;
pub use workload::Workload;

/// All that was recorded of one run. Times are microseconds since its begin, on one clock that no
/// suspension stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct History {
    /// What was granted.
    pub grants: Vec<Tenancy>,
    /// Who asked for a lock, and what came of it.
    pub waits: Vec<Wait>,
    /// What was written behind the locks.
    pub writes: Vec<Write>,
    /// What was done to the store and to the network.
    pub faults: Vec<Fault>,
}

/// One grant, as its guard showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tenancy {
    /// Which lock.
    pub lock: String,
    /// Who held it.
    pub worker: u32,
    /// With which token.
    pub token: u64,
    /// At this moment the guard had said that it is held.
    pub held_from: u64,
    /// At this moment it was about to say so for the last time: held at every moment between.
    pub held_until: u64,
    /// How it ended.
    pub ending: Ending,
}

/// How a grant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// The holder gave it back. `true` if the store said that it had it until then.
    Released {
        /// When the release was asked for.
        asked: u64,
        /// What the answer was: `Some(true)` released, `Some(false)` not held, `None` unknown.
        held: Option<bool>,
    },
    /// The guard said that it was lost.
    Lost {
        /// When it told.
        told: u64,
        /// By when it had to.
        due: u64,
        /// Why, in one word.
        reason: String,
        /// What the guard, once lost, let succeed all the same; empty if nothing.
        afterwards: Vec<String>,
    },
    /// The run ended before it.
    Open,
}

/// One acquire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Wait {
    /// Which lock.
    pub lock: String,
    /// Who asked.
    pub worker: u32,
    /// When.
    pub asked: u64,
    /// When the call returned or was dropped.
    pub ended: u64,
    /// The token, if it was granted.
    pub token: Option<u64>,
    /// What it failed with, if with anything.
    pub error: Option<String>,
}

/// One write to what a lock guards: the holder read a number and writes the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Write {
    /// Which lock, and so which resource.
    pub lock: String,
    /// Who wrote.
    pub worker: u32,
    /// Under which token.
    pub token: u64,
    /// The number that was there when the holder looked.
    pub read: u64,
    /// The place of this write among those of its resource, refused ones included.
    pub at: u64,
    /// Whether the resource took it.
    pub accepted: bool,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// What it was.
    pub what: String,
    /// From when.
    pub from: u64,
    /// Until when; when everything was whole again.
    pub until: u64,
    /// Whether it was seen to take effect.
    #[serde(default)]
    pub took_effect: bool,
}
