//! Records the history of a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::clock::{Clock, Instant, SystemClock};

use super::{Fault, History, Tenancy, Wait, Write};

/// A recorder of the workers and the faults of one run. Clones share one history.
#[derive(Clone, Debug)]
pub struct Recorder {
    begin: Instant,
    history: Arc<Mutex<History>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Creates an empty history that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            begin: SystemClock.now(),
            history: Arc::default(),
        }
    }

    /// Returns the microseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.at(SystemClock.now())
    }

    /// Records the start of a fault. The fault ends when the returned value is ended or dropped.
    #[must_use]
    pub fn fault(&self, what: impl Into<String>) -> ActiveFault {
        ActiveFault {
            recorder: self.clone(),
            what: what.into(),
            from: self.now(),
            took_effect: false,
        }
    }

    /// Returns the history up to now.
    #[must_use]
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    pub(super) fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.since(self.begin).as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn granted(&self, grant: Tenancy) {
        self.lock().grants.push(grant);
    }

    pub(super) fn waited(&self, wait: Wait) {
        self.lock().waits.push(wait);
    }

    pub(super) fn wrote(&self, write: Write) {
        self.lock().writes.push(write);
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fault that is active until this value is dropped.
#[derive(Debug)]
pub struct ActiveFault {
    recorder: Recorder,
    what: String,
    from: u64,
    took_effect: bool,
}

impl ActiveFault {
    /// Records that the fault had an observed effect.
    pub const fn took_effect(&mut self) {
        self.took_effect = true;
    }

    /// Ends the fault, after recovery.
    pub fn end(self) {}
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        let fault = Fault {
            what: std::mem::take(&mut self.what),
            from: self.from,
            until: self.recorder.now(),
            took_effect: self.took_effect,
        };
        self.recorder.lock().faults.push(fault);
    }
}
