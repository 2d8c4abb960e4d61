//! The identity of the clock that this process reads: boot of the machine and time namespace.
//!
//! All processes with the same identity read the same `CLOCK_BOOTTIME` and can compare its times.

use tenure_core::{
    clock::{Clock, SystemClock},
    queue::ClockId,
};

/// Returns the identity of a client's clock if the clock is the one that all processes of this host
/// share. Returns `None` for any other clock: other clients cannot compare times with it.
pub(crate) fn identity(clock: &dyn Clock) -> Option<ClockId> {
    let before = SystemClock.now();
    let read = clock.now();
    let after = SystemClock.now();
    if read < before || read > after {
        return None;
    }
    host_identity()
}

#[cfg(target_os = "linux")]
fn host_identity() -> Option<ClockId> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = boot.trim().chars().filter(|c| *c != '-').collect();
    let boot = u128::from_str_radix(&digits, 16).ok()?;
    // Kernels before 5.6 have no time namespaces and no such file.
    let namespace = std::fs::read_link("/proc/self/ns/time")
        .ok()
        .and_then(|link| {
            let digits: String = link
                .to_str()?
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            digits.parse::<u64>().ok()
        })
        .unwrap_or(0);
    // The boot id is random, so any fixed mixing keeps different pairs distinct.
    Some(ClockId::new(
        boot ^ (u128::from(namespace).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
    ))
}

#[cfg(not(target_os = "linux"))]
fn host_identity() -> Option<ClockId> {
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tenure_core::clock::ManualClock;

    use super::*;

    #[test]
    fn only_the_host_clock_is_shared() {
        #[cfg(target_os = "linux")]
        assert!(identity(&SystemClock).is_some());
        let manual = ManualClock::new();
        manual.advance(Duration::from_secs(1));
        assert_eq!(identity(&manual), None);
    }
}
