//! Records the history of a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::clock::{Clock, Instant, SystemClock};

use super::{Ending, Fault, History, Tenancy, Wait, Write};

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

    /// Returns the bytes that the history has allocated. A run that watches its own memory subtracts them,
    /// because the history grows with every operation.
    #[must_use]
    pub fn allocated(&self) -> usize {
        allocated_by(&self.lock())
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

fn allocated_by(history: &History) -> usize {
    let History {
        grants,
        waits,
        writes,
        faults,
    } = history;
    let lists = grants.capacity() * size_of::<Tenancy>()
        + waits.capacity() * size_of::<Wait>()
        + writes.capacity() * size_of::<Write>()
        + faults.capacity() * size_of::<Fault>();
    let of_grants = grants.iter().map(|grant| {
        let ending = match &grant.ending {
            Ending::Lost {
                reason, afterwards, ..
            } => {
                let texts: usize = afterwards.iter().map(String::capacity).sum();
                reason.capacity() + afterwards.capacity() * size_of::<String>() + texts
            }
            Ending::Released { .. } | Ending::Open => 0,
        };
        grant.lock.capacity() + ending
    });
    let of_waits = waits.iter().map(|wait| {
        let error = wait.error.as_ref().map_or(0, String::capacity);
        wait.lock.capacity() + error
    });
    let of_writes = writes.iter().map(|write| write.lock.capacity());
    let of_faults = faults.iter().map(|fault| fault.what.capacity());
    let texts = of_grants.chain(of_waits).chain(of_writes).chain(of_faults);
    lists + texts.sum::<usize>()
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
