//! The arithmetic of the deadline (clause D1).

use std::time::Duration;

use crate::{
    clock::Instant,
    error::{Error, ErrorKind},
};

/// Bounds on the difference between clocks.
///
/// `valid_until = proved_from + ttl * (1 - drift) - margin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DriftBounds {
    drift_ppm: u32,
    margin: Duration,
}

impl DriftBounds {
    /// A drift of one percent and a margin of 25 ms.
    pub const DEFAULT: Self = Self {
        drift_ppm: 10_000,
        margin: Duration::from_millis(25),
    };

    /// Creates bounds from the maximum difference of clock *rates* in parts per million, and a
    /// margin for differences that do not grow with the TTL (such as between the wall clocks of
    /// servers that can succeed one another).
    #[must_use]
    pub const fn new(drift_ppm: u32, margin: Duration) -> Self {
        Self { drift_ppm, margin }
    }

    /// Returns the part of a TTL for which a proof is valid.
    #[must_use]
    pub fn validity(&self, ttl: Duration) -> Duration {
        // The drift is rounded up, so that the validity is never too long.
        let drift = (ttl.as_nanos() * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        ttl.saturating_sub(from_nanos(drift))
            .saturating_sub(self.margin)
    }

    /// Returns the moment until which a grant that is proved from `proved_from` is valid.
    #[must_use]
    pub fn deadline(&self, proved_from: Instant, ttl: Duration) -> Instant {
        proved_from + self.validity(ttl)
    }

    /// Returns the time after which `time` has passed on every other clock, too.
    #[must_use]
    pub(crate) fn lengthened(&self, time: Duration) -> Duration {
        let drift = (time.as_nanos() * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        time.saturating_add(from_nanos(drift))
            .saturating_add(self.margin)
    }

    /// Rejects a TTL whose validity is too short to survive two lost renewals (L5).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the computation.
    pub fn check(&self, ttl: Duration) -> Result<(), Error> {
        let validity = self.validity(ttl);
        let needed = ttl.saturating_sub(ttl / 4);
        if validity >= needed {
            return Ok(());
        }
        let show = humantime::format_duration;
        Err(
            Error::new(ErrorKind::Config, "choosing a TTL").with_detail(format!(
                "a TTL of {} less {} % drift and {} margin leaves {}, which is less than the three \
             quarters ({}) that it takes to survive two lost renewals; choose a longer TTL or a \
             smaller margin",
                show(ttl),
                f64::from(self.drift_ppm) / 10_000.0,
                show(self.margin),
                show(validity),
                show(needed),
            )),
        )
    }
}

fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let below = u32::try_from(nanos % SECOND).unwrap_or(0);
    u64::try_from(nanos / SECOND).map_or(Duration::MAX, |seconds| Duration::new(seconds, below))
}

impl Default for DriftBounds {
    fn default() -> Self {
        Self::DEFAULT
    }
}
