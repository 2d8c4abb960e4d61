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
const LEAST: Duration = Duration::from_millis(20);
/// A sixth of the shortest TTL of the cases, after which nothing is where it should be.
const SPOILS: Duration = Duration::from_millis(80);
/// As much of it in all, in small pieces, is as bad.
const SPOILS_IN_ALL: Duration = Duration::from_millis(400);
/// How many standstills are kept. A case that sees so many has seen enough.
const KEPT: usize = 512;

/// Those of this process.
static STANDSTILLS: Standstills = Standstills(Mutex::new(VecDeque::new()));

/// The latest last: when each ended and how long it was.
struct Standstills(Mutex<VecDeque<(Instant, Duration)>>);

impl Standstills {
    fn note(&self, ended: Instant, took: Duration) {
        if took < LEAST {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back((ended, took));
        if all.len() > KEPT {
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
pub(crate) fn watch() {
    static WATCHING: OnceLock<()> = OnceLock::new();
    WATCHING.get_or_init(|| {
        // Without the monitor every trial counts, as on a machine that always keeps pace.
        let _ = thread::Builder::new()
            .name("pace".to_owned())
            .spawn(monitor);
    });
}

fn monitor() {
    let mut last = SystemClock.now();
    loop {
        thread::sleep(TICK);
        let now = SystemClock.now();
        STANDSTILLS.note(now, now.since(last).saturating_sub(TICK));
        last = now;
    }
}

/// Notes how long a request took that the store answers at once where nothing holds it up.
pub(crate) fn answered(asked: Instant) {
    let now = SystemClock.now();
    STANDSTILLS.note(now, now.since(asked));
}

/// Whether a trial that began then shows nothing; if so, what kept it from doing so.
pub(crate) fn spoilt(begin: Instant) -> Option<Duration> {
    let (longest, sum) = STANDSTILLS.since(begin);
    (longest >= SPOILS || sum >= SPOILS_IN_ALL).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_before_a_trial_does_not_spoil_it() {
        let all = Standstills(Mutex::default());
        let begin = SystemClock.now();
        all.note(begin + LEAST, LEAST / 2);
        assert_eq!(all.since(begin), (Duration::ZERO, Duration::ZERO));
        all.note(begin + LEAST, SPOILS);
        all.note(begin + LEAST, LEAST);
        assert_eq!(all.since(begin), (SPOILS, SPOILS + LEAST));
        assert_eq!(
            all.since(begin + LEAST * 2),
            (Duration::ZERO, Duration::ZERO)
        );
    }
}
