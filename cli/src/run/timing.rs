//! The times of a run, and whether they fit into each other.

use std::time::Duration;

use tenure::Config;

use crate::{
    args::Run,
    exit::{CONFIG, Failure, USAGE},
};

/// How long everything may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long the store keeps the lock after we fall silent.
    pub(super) ttl: Duration,
    /// Between TERM and KILL.
    pub(super) kill_after: Duration,
    /// How long to wait for the lock; `None` is for ever, zero is not at all.
    pub(super) budget: Option<Duration>,
}

impl Timing {
    /// What the options and the configuration print_message, if the TTL can hold it.
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

/// Whether the configured TTL holds what has to go into it, with the arithmetic if not.
///
/// That is the part of the TTL that the client believes in, and in it: two renewals may be lost,
/// the third is sent at two thirds of the TTL and may take its time; if that fails too, the command
/// needs its time to end.
pub(crate) fn check_fits(kill_after: Duration, config: &Config) -> Result<(), String> {
    let validity = config.terms.validity(config.ttl);
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
