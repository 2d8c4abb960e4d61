//! Warns the operator while renewals fail, before the command is stopped.

use std::time::Duration;

use tenure::{clock::Instant, lease::Phase};

use super::held::Held;
use crate::{
    exit::{describe, print_message, print_warning},
    time,
};

/// Whether a warning about failing renewals was shown.
#[derive(Debug, Default)]
pub(super) struct RenewalWarning {
    shown: bool,
}

impl RenewalWarning {
    /// Returns when the next warning is due if the phase does not change. The client repeats a
    /// failed renewal, and a single failure needs no warning: the warning is due after half of the
    /// TTL.
    pub(super) fn due(&self, guard: &Held) -> Instant {
        match guard.phase() {
            Phase::Suspect if !self.shown => guard.valid_until().before(guard.ttl() / 2),
            _ => Instant::FAR_FUTURE,
        }
    }

    /// Shows a warning, or its end, if the phase of the guard has changed.
    pub(super) fn update(&mut self, guard: &Held, kill_after: Duration) {
        let name = guard.names();
        match guard.phase() {
            Phase::Suspect if !self.shown && time::now() >= self.due(guard) => {
                self.shown = true;
                let seconds = |duration: Duration| {
                    humantime::format_duration(Duration::from_secs(duration.as_secs()))
                };
                let left = guard.remaining();
                let until_term = match left.saturating_sub(kill_after).as_secs() {
                    0 => "within 1s".to_owned(),
                    _ => format!("in {}", seconds(left.saturating_sub(kill_after))),
                };
                let (left, why) = (seconds(left), cause(guard));
                print_warning(&format!(
                    "cannot renew lock {name}; it expires in {left}, and the command gets TERM \
                     {until_term} unless a renewal succeeds before{why}"
                ));
            }
            Phase::Held if self.shown => {
                self.shown = false;
                print_message(&format!("lock {name} is renewed again"));
            }
            _ => {}
        }
    }
}

/// Returns why renewals fail, as the end of a sentence; empty if the cause is unknown.
pub(super) fn cause(guard: &Held) -> String {
    let error = guard.last_renewal_error();
    error.map_or_else(String::new, |error| format!("; {}", describe(&error)))
}
