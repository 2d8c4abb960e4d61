//! The clock that the lease runs on, also while the machine is suspended.

use tenure::clock::{Clock, Instant, SystemClock};

/// The present moment.
pub(crate) fn now() -> Instant {
    SystemClock.now()
}

/// Returns once that moment has come.
pub(crate) async fn sleep_until(moment: Instant) {
    SystemClock.sleep_until(moment).await;
}
