//! The client's clock (clause D3). It advances while the machine is suspended, and tests can inject
//! their own.

use std::{
    fmt,
    ops::Add,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

/// A moment on a [`Clock`], stored as the time since that clock's origin. Do not compare moments of
/// different clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(Duration::ZERO);
    /// Later than every moment that a clock reads.
    pub const FAR_FUTURE: Self = Self(Duration::MAX);

    /// Creates the moment that is `since_origin` after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Returns the time since the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Returns the time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the moment `span` before this one, but not before the origin.
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

/// A source of time and timers.
///
/// An implementation must never go backwards, and must advance while the machine is suspended.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the current moment.
    fn now(&self) -> Instant;

    /// Waits until [`now`](Self::now) has reached `deadline`. After a suspension of the machine,
    /// completes within a second of the resume.
    ///
    /// # Cancel safety
    ///
    /// Cancelling has no effect beyond ending the sleep.
    async fn sleep_until(&self, deadline: Instant);
}

/// The operating system's clock that includes suspension: `CLOCK_BOOTTIME` on Linux, and
/// `CLOCK_MONOTONIC` on macOS, where it includes suspension as well.
///
/// Pausing a virtual machine also stops this clock; then only the fencing token protects the
/// resource.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "it has no state, and is written as a value"
)]
pub struct SystemClock;

/// Sleeping uses a clock that stops during suspension. Sleeps are therefore split into slices of
/// this length, and the real clock is read after each slice.
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

/// A clock that advances only when a test moves it. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    now: Mutex<Instant>,
    moved: Notify,
}

impl ManualClock {
    /// Creates a clock that reads one hour after its origin.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::from_origin(Duration::from_secs(3600));
        Self(Arc::new(Manual {
            now: Mutex::new(start),
            moved: Notify::new(),
        }))
    }

    /// Advances the clock, and wakes the sleepers whose deadline has passed.
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
        // Both count from boot, including suspension.
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
