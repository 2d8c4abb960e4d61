//! The check that the durations of a run fit into the TTL.

use std::time::Duration;

use tenure::Config;

/// The longest TTL that a message recommends, in seconds.
const MAX_RECOMMENDED_TTL: u64 = 1 << 32;

/// How the time of a lease is spent if its renewals fail: two renewals are lost, the client sends the
/// third at two thirds of the TTL and waits for the request's time-out, the third fails too, and the
/// command needs time to end.
struct Timing {
    /// The part of the TTL that the client trusts.
    validity: Duration,
    /// Until the third renewal.
    renewals: Duration,
    request_timeout: Duration,
}

impl Timing {
    fn new(ttl: Duration, config: &Config) -> Self {
        Self {
            validity: config.drift_bounds.validity(ttl),
            renewals: ttl / 3 * 2,
            request_timeout: config.request_timeout_with(ttl),
        }
    }

    /// Returns how long the command may take to end; `None` if it has no time at all.
    fn longest_kill_after(&self) -> Option<Duration> {
        self.validity
            .checked_sub(self.renewals)?
            .checked_sub(self.request_timeout)
    }
}

/// Checks that a run fits into the configured TTL. If it does not, returns the arithmetic, and the
/// values that would be accepted.
pub(crate) fn check_fits(kill_after: Duration, config: &Config) -> Result<(), String> {
    let timing = Timing::new(config.ttl, config);
    let longest = timing.longest_kill_after();
    if longest.is_some_and(|longest| kill_after <= longest) {
        return Ok(());
    }
    let needed = timing
        .renewals
        .saturating_add(timing.request_timeout)
        .saturating_add(kill_after);
    let mut remedies = Vec::new();
    if let Some(ttl) = shortest_ttl(kill_after, config) {
        remedies.push(format!("--ttl {} or more", show(ttl)));
    }
    if let Some(longest) = longest.map(round_down).filter(|longest| !longest.is_zero()) {
        remedies.push(format!("--kill-after {} or less", show(longest)));
    }
    if remedies.is_empty() {
        remedies.push("a longer --ttl and a shorter --kill-after".to_owned());
    }
    Err(format!(
        "a TTL of {} ({}) cannot hold --kill-after: of its {} after clock drift and margin, two \
         thirds of the TTL ({}), a request's time-out ({}) and --kill-after ({}) take {}; use {}",
        show(config.ttl),
        config.origin("lock.ttl").unwrap_or("default"),
        show(timing.validity),
        show(timing.renewals),
        show(timing.request_timeout),
        show(kill_after),
        show(needed),
        remedies.join(", or "),
    ))
}

/// Returns the shortest TTL in whole seconds that holds `kill_after`.
fn shortest_ttl(kill_after: Duration, config: &Config) -> Option<Duration> {
    let fits = |seconds: u64| {
        let timing = Timing::new(Duration::from_secs(seconds), config);
        let longest = timing.longest_kill_after();
        longest.is_some_and(|longest| kill_after <= longest)
    };
    let mut enough = 1;
    while !fits(enough) {
        enough *= 2;
        if enough > MAX_RECOMMENDED_TTL {
            return None;
        }
    }
    let mut too_short = enough / 2;
    while enough - too_short > 1 {
        let middle = u64::midpoint(too_short, enough);
        if fits(middle) {
            enough = middle;
        } else {
            too_short = middle;
        }
    }
    Some(Duration::from_secs(enough))
}

/// Rounds down to a whole second, or to a millisecond below one second.
fn round_down(duration: Duration) -> Duration {
    match duration.as_secs() {
        0 => Duration::from_millis(duration.subsec_millis().into()),
        seconds => Duration::from_secs(seconds),
    }
}

fn show(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}
