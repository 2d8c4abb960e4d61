//! Detects stalls of this machine: a trial during a stall proves nothing.
//!
//! The cases measure durations of hundreds of milliseconds on machines with other load. If a case
//! fails, and this process was not scheduled for longer than the case allows, or the store took that
//! long for one request, the machine may be the cause. The runner then repeats the case a few times. A
//! case that fails on a machine without stalls has failed.

use std::{
    collections::VecDeque,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tenure_core::clock::{Clock, Instant, SystemClock};

/// The interval at which the monitor runs.
const TICK: Duration = Duration::from_millis(10);
/// The shortest stall that is recorded.
const MIN_STALL: Duration = Duration::from_millis(20);
/// The longest single stall of a valid trial: a sixth of the shortest TTL of the cases.
const MAX_STALL: Duration = Duration::from_millis(80);
/// The longest sum of all stalls of a valid trial.
const MAX_STALL_TOTAL: Duration = Duration::from_millis(400);
/// The number of recorded stalls. A case with more stalls is invalid anyway.
const MAX_ENTRIES: usize = 512;

/// The stalls of this process.
static STALLS: Stalls = Stalls(Mutex::new(VecDeque::new()));

/// The end and the duration of each stall, in order of time.
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

    /// Returns the longest stall since `begin` and the sum of all stalls since `begin`.
    fn since(&self, begin: Instant) -> (Duration, Duration) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = all.iter().filter(|(ended, _)| *ended >= begin);
        within.fold(
            (Duration::ZERO, Duration::ZERO),
            |(longest, sum), (_, took)| (longest.max(*took), sum + *took),
        )
    }
}

/// Starts the monitor, once in a process.
pub(crate) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // Without the monitor every trial counts, as on a machine without stalls.
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

/// Records the duration of a request that the store normally answers at once.
pub(crate) fn record_request(asked: Instant) {
    let now = SystemClock.now();
    STALLS.record(now, now.since(asked));
}

/// Returns the longest stall if the stalls since `begin` invalidate the trial.
pub(crate) fn longest_stall_since(begin: Instant) -> Option<Duration> {
    let (longest, sum) = STALLS.since(begin);
    (longest >= MAX_STALL || sum >= MAX_STALL_TOTAL).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_before_a_trial_do_not_invalidate_it() {
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
