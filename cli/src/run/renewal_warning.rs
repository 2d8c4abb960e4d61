//! What is said while renewals fail: an operator should hear of it before the command is stopped.

use tenure::{Guard, clock::Instant, lease::Phase};

use crate::{
    escape::quote,
    exit::{describe, print_message},
    time,
};

/// Whether it was said that the lock is in doubt.
#[derive(Debug, Default)]
pub(super) struct RenewalWarning {
    shown: bool,
}

impl RenewalWarning {
    /// When there will be something to say if nothing changes. A renewal that fails is tried again,
    /// and mostly nobody need hear of it: half of the TTL must have gone by.
    pub(super) fn due(&self, guard: &Guard) -> Instant {
        match guard.phase() {
            Phase::Suspect if !self.shown => guard.valid_until().before(guard.ttl() / 2),
            _ => Instant::FAR_FUTURE,
        }
    }

    /// Says what has changed.
    pub(super) fn update(&mut self, guard: &Guard) {
        let name = quote(guard.name().as_str());
        match guard.phase() {
            Phase::Suspect if !self.shown && time::now() >= self.due(guard) => {
                self.shown = true;
                let left = humantime::format_duration(std::time::Duration::from_secs(
                    guard.remaining().as_secs(),
                ));
                let why = cause(guard);
                print_message(&format!(
                    "the lock {name} is not renewed, and ends in {left} unless that changes{why}"
                ));
            }
            Phase::Held if self.shown => {
                self.shown = false;
                print_message(&format!("the lock {name} is renewed again"));
            }
            _ => {}
        }
    }
}

/// Why renewals fail, as the end of a sentence; empty where that is not known.
pub(super) fn cause(guard: &Guard) -> String {
    let trouble = guard.trouble();
    trouble.map_or_else(String::new, |error| format!("; {}", describe(&error)))
}
