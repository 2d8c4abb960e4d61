//! The check that the durations of a run fit into the TTL.

use std::time::Duration;

use tenure::Config;

/// Checks that a run fits into the configured TTL, and returns the arithmetic if it does not.
///
/// The part of the TTL that the client trusts must cover this sequence: two renewals are lost, the
/// client sends the third at two thirds of the TTL and waits for the request's time-out, the third
/// fails too, and the command needs time to end.
pub(crate) fn check_fits(kill_after: Duration, config: &Config) -> Result<(), String> {
    let validity = config.drift_bounds.validity(config.ttl);
    let renewals = config.ttl / 3 * 2;
    let needed = renewals
        .saturating_add(config.request_timeout)
        .saturating_add(kill_after);
    if needed <= validity {
        return Ok(());
    }
    let show = |duration: Duration| {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        humantime::format_duration(Duration::from_millis(millis)).to_string()
    };
    Err(format!(
        "a TTL of {} cannot hold --kill-after: of its {} after clock drift and margin, two thirds \
         of the TTL ({}), a request's time-out ({}) and --kill-after ({}) take {}; use a longer \
         --ttl or a shorter --kill-after",
        show(config.ttl),
        show(validity),
        show(renewals),
        show(config.request_timeout),
        show(kill_after),
        show(needed),
    ))
}
