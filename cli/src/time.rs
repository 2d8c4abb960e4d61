//! The clock of the lease, which also runs while the machine is suspended.

use tenure::clock::{Clock, Instant, SystemClock};

/// Returns the current time.
pub(crate) fn now() -> Instant {
    SystemClock.now()
}

/// Sleeps until `moment`.
pub(crate) async fn sleep_until(moment: Instant) {
    SystemClock.sleep_until(moment).await;
}
