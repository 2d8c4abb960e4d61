//! The client's clock (clause D3): it runs on while the machine is suspended, and tests inject it.

use std::{
    fmt,
    ops::Add,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

/// A moment on a [`Clock`], as the time since that clock's origin. Moments of different clocks
/// must not be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(Duration::ZERO);
    /// Later than every moment that a clock reads.
    pub const FAR_FUTURE: Self = Self(Duration::MAX);

    /// The moment that lies so long after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time since the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment less a span, but not before the origin.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// What tells the time and wakes sleepers.
///
/// An implementation must never go backwards, and must go on while the machine is suspended.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Instant;

    /// Returns once [`now`](Self::now) has reached `deadline`; after a suspension of the machine,
    /// within a second of its end.
    ///
    /// # Cancel safety
    ///
    /// Cancelling has no effect but that nobody sleeps.
    async fn sleep_until(&self, deadline: Instant);
}

/// The operating system's clock that counts suspension: `CLOCK_BOOTTIME` on Linux,
/// `CLOCK_MONOTONIC` on macOS, where it does the same.
///
/// A paused virtual machine stops this clock too; there only the fencing token protects.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "it has no state, and is written as a value"
)]
pub struct SystemClock;

/// Sleeping runs on a clock that stops with the machine, so it is cut into slices of this length,
/// after each of which the real clock is read.
const SLEEP_SLICE: Duration = Duration::from_millis(500);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Instant {
        #[cfg(target_os = "linux")]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(ID);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Instant(Duration::new(seconds, nanos))
    }

    async fn sleep_until(&self, deadline: Instant) {
        loop {
            let left = deadline.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLEEP_SLICE)).await;
        }
    }
}

/// A clock that stands still until a test moves it. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    now: Mutex<Instant>,
    moved: Notify,
}

impl ManualClock {
    /// A clock that reads one hour after its origin.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::from_origin(Duration::from_secs(3600));
        Self(Arc::new(Manual {
            now: Mutex::new(start),
            moved: Notify::new(),
        }))
    }

    /// Moves the clock on, and wakes whoever slept until then.
    pub fn advance(&self, span: Duration) {
        {
            let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = *now + span;
        }
        self.0.moved.notify_waiters();
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sleep_until(&self, deadline: Instant) {
        loop {
            let moved = self.0.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.now() >= deadline {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d3_reads_the_clock_that_counts_suspension() {
        // Both are since boot; they differ by the time the machine was suspended, never less.
        let ours = SystemClock.now().since_origin();
        let uptime = std::fs::read_to_string("/proc/uptime");
        if let Ok(uptime) = uptime {
            let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            assert!(
                (ours.as_secs_f64() - seconds).abs() < 5.0,
                "{ours:?} against {seconds}"
            );
        }
    }

    #[tokio::test]
    async fn manual_clock_wakes_sleepers() {
        let clock = ManualClock::new();
        let deadline = clock.now() + Duration::from_secs(60);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
