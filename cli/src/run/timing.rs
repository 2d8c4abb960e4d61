//! The durations of a run, and the check that they fit into the TTL.

use std::time::Duration;

use tenure::Config;

use crate::{
    args::Run,
    exit::{CONFIG, Failure, USAGE},
};

/// The durations of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long the store keeps the lock after the last renewal.
    pub(super) ttl: Duration,
    /// The time between TERM and KILL.
    pub(super) kill_after: Duration,
    /// How long to wait for the lock; `None` waits forever, zero does not wait.
    pub(super) budget: Option<Duration>,
}

impl Timing {
    /// Takes the durations from the options and the configuration, and checks that they fit into
    /// the TTL.
    pub(super) fn new(options: &Run, config: &Config) -> Result<Self, Failure> {
        let timing = Self {
            ttl: config.ttl,
            kill_after: options.kill_after,
            budget: if options.no_wait {
                Some(Duration::ZERO)
            } else {
                options.wait.or(config.wait)
            },
        };
        let by_flag = options.ttl.is_some() || config.origin("lock.ttl") == Some("default");
        let code = if by_flag { USAGE } else { CONFIG };
        check_fits(timing.kill_after, config)
            .map_err(|arithmetic| Failure::new(code, arithmetic))?;
        Ok(timing)
    }
}

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
