//! Whether this machine kept pace: a trial during which it stood still shows nothing.
//!
//! The cases measure times in the hundreds of milliseconds, on machines that do other things
//! besides. Where a case fails and this process did not get to run for longer than the case allows
//! for, or the store took that long for one request, what failed may be the machine: the runner
//! tries again, a few times. A case that fails on a machine that keeps pace has failed.

use std::{
    collections::VecDeque,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tenure_core::clock::{Clock, Instant, SystemClock};

/// How often the monitor wants to run.
const TICK: Duration = Duration::from_millis(10);
/// What is shorter is not kept.
const MIN_STALL: Duration = Duration::from_millis(20);
/// A sixth of the shortest TTL of the cases, after which nothing is where it should be.
const MAX_STALL: Duration = Duration::from_millis(80);
/// As much of it in all, in small pieces, is as bad.
const MAX_STALL_TOTAL: Duration = Duration::from_millis(400);
/// How many stalls are kept. A case that sees so many has seen enough.
const MAX_ENTRIES: usize = 512;

/// Those of this process.
static STALLS: Stalls = Stalls(Mutex::new(VecDeque::new()));

/// The latest last: when each ended and how long it was.
struct Stalls(Mutex<VecDeque<(Instant, Duration)>>);

impl Stalls {
    fn record(&self, ended: Instant, took: Duration) {
        if took < MIN_STALL {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back((ended, took));
        if all.len() > MAX_ENTRIES {
            all.pop_front();
        }
    }

    /// The longest since then, and all of them together.
    fn since(&self, begin: Instant) -> (Duration, Duration) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = all.iter().filter(|(ended, _)| *ended >= begin);
        within.fold(
            (Duration::ZERO, Duration::ZERO),
            |(longest, sum), (_, took)| (longest.max(*took), sum + *took),
        )
    }
}

/// Starts watching, once in a process.
pub(crate) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // Without the monitor every trial counts, as on a machine that always keeps pace.
        let _ = thread::Builder::new()
            .name("stall-detector".to_owned())
            .spawn(monitor);
    });
}

fn monitor() {
    let mut last = SystemClock.now();
    loop {
        thread::sleep(TICK);
        let now = SystemClock.now();
        STALLS.record(now, now.since(last).saturating_sub(TICK));
        last = now;
    }
}

/// Notes how long a request took that the store answers at once where nothing holds it up.
pub(crate) fn record_request(asked: Instant) {
    let now = SystemClock.now();
    STALLS.record(now, now.since(asked));
}

/// Whether a trial that began then shows nothing; if so, what kept it from doing so.
pub(crate) fn longest_stall_since(begin: Instant) -> Option<Duration> {
    let (longest, sum) = STALLS.since(begin);
    (longest >= MAX_STALL || sum >= MAX_STALL_TOTAL).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_before_a_trial_does_not_spoil_it() {
        let all = Stalls(Mutex::default());
        let begin = SystemClock.now();
        all.record(begin + MIN_STALL, MIN_STALL / 2);
        assert_eq!(all.since(begin), (Duration::ZERO, Duration::ZERO));
        all.record(begin + MIN_STALL, MAX_STALL);
        all.record(begin + MIN_STALL, MIN_STALL);
        assert_eq!(all.since(begin), (MAX_STALL, MAX_STALL + MIN_STALL));
        assert_eq!(
            all.since(begin + MIN_STALL * 2),
            (Duration::ZERO, Duration::ZERO)
        );
    }
}
