//! Properties of every sequence of inputs to a lease and a waiter's lease, clause by clause.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    id::AttemptId,
    request::{Holder, Owner, StoreTime, Waiting},
};

const NANO: Duration = Duration::from_nanos(1);

fn at(nanos: u64) -> Instant {
    Instant::from_origin(Duration::from_nanos(nanos))
}

fn drift_bounds() -> impl Strategy<Value = DriftBounds> {
    (0_u32..200_000, 0_u64..100_000_000)
        .prop_map(|(drift, margin)| DriftBounds::new(drift, Duration::from_nanos(margin)))
}

/// DriftBounds and a TTL that they accept.
fn accepted() -> impl Strategy<Value = (DriftBounds, Duration)> {
    let ttl = (1_000_000_u64..100_000_000_000).prop_map(Duration::from_nanos);
    (drift_bounds(), ttl).prop_filter("too little is left of the TTL", |(drift_bounds, ttl)| {
        drift_bounds.check(*ttl).is_ok()
    })
}

fn input() -> impl Strategy<Value = (u8, u64, u64)> {
    (0_u8..16, 0_u64..40, 0_u64..120)
}

/// Inputs with pauses, in hundredths of the TTL. Proofs lie some time in the past.
fn course() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    prop::collection::vec(input(), 1..40)
}

#[derive(Clone, Debug)]
struct Moment {
    before: Lease,
    input: Input,
    now: Instant,
    changed: bool,
    after: Lease,
}

fn run(drift_bounds: DriftBounds, ttl: Duration, course: &[(u8, u64, u64)]) -> Vec<Moment> {
    let part = ttl / 100;
    let mut now = Instant::from_origin(ttl * 10);
    let mut lease = Lease::new(drift_bounds, ttl, now);
    let mut moment = |&(kind, pause, age): &(u8, u64, u64)| {
        now = now + part * u32::try_from(pause).unwrap();
        let input = match kind {
            0..=5 => Input::Proved {
                from: now.before(part * u32::try_from(age).unwrap()),
            },
            6..=8 => Input::Sent,
            9..=10 => Input::RenewalFailed,
            11 => Input::Gone(LossReason::Evicted),
            12 => Input::Release,
            13 => Input::Released,
            _ => Input::Tick,
        };
        let before = lease.clone();
        let changed = lease.on(input, now);
        let after = lease.clone();
        Moment {
            before,
            input,
            now,
            changed,
            after,
        }
    };
    course.iter().map(&mut moment).collect()
}

proptest! {
    #[test]
    fn d1_deadline_is_exact_to_the_nanosecond(
        ttl in 0_u128..u128::from(u64::MAX) * 4, drift in 0_u32..2_000_000, margin: u64, from: u64,
    ) {
        let duration = |nanos: u128| {
            let (seconds, below) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            Duration::new(u64::try_from(seconds).unwrap(), u32::try_from(below).unwrap())
        };
        let drift_bounds = DriftBounds::new(drift, Duration::from_nanos(margin));
        // The drift is rounded up; the multiplication before the division needs 128 bits.
        let product = ttl * u128::from(drift);
        let loss = product / 1_000_000 + u128::from(product % 1_000_000 > 0);
        let valid = ttl.saturating_sub(loss).saturating_sub(u128::from(margin));
        prop_assert_eq!(drift_bounds.validity(duration(ttl)), duration(valid));
        let deadline = at(from) + duration(valid);
        prop_assert_eq!(drift_bounds.deadline(at(from), duration(ttl)), deadline);
        prop_assert!(drift_bounds.validity(duration(ttl)) <= duration(ttl));
    }

    #[test]
    fn d2_only_a_proof_moves_the_deadline_and_only_forward((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { before, input, now, after, .. } in run(drift_bounds, ttl, &course) {
            prop_assert!(after.valid_until() >= before.valid_until());
            let proof = match input {
                Input::Proved { from } if before.check(now).is_live() => from,
                _ => before.proved_from(),
            };
            prop_assert_eq!(after.proved_from(), proof.max(before.proved_from()));
            prop_assert_eq!(after.valid_until(), drift_bounds.deadline(after.proved_from(), ttl));
        }
    }

    #[test]
    fn l1_lost_at_deadline_after_any_inputs((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { before, now, after, .. } in run(drift_bounds, ttl, &course) {
            let late = now >= before.valid_until();
            if before.phase().is_live() && late {
                prop_assert_eq!(before.check(now), Phase::Lost(LossReason::Expired));
                prop_assert_eq!(after.phase(), Phase::Lost(LossReason::Expired));
            }
            // `check` detects it without any input.
            if after.phase().is_live() {
                let last = after.valid_until().before(NANO);
                prop_assert!(after.check(last).is_live() || now > last);
                prop_assert!(!after.check(after.valid_until()).is_live());
            }
        }
    }

    #[test]
    fn l2_l4_end_is_final_and_own_release_reports_no_loss((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { before, input, now, changed, after } in run(drift_bounds, ttl, &course) {
            prop_assert_eq!(changed, before.phase() != after.phase());
            if before.phase().is_final() {
                prop_assert_eq!(&before, &after);
            }
            if before.phase() == Phase::Releasing {
                let released = input == Input::Released;
                let expected = if released { Phase::Released } else { Phase::Releasing };
                prop_assert_eq!(after.phase(), expected);
            }
            if let (true, Input::Gone(reason)) = (before.check(now).is_live(), input) {
                prop_assert_eq!(after.phase(), Phase::Lost(reason));
            }
        }
    }

    #[test]
    fn l5_failed_renewals_alone_end_nothing((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { before, input, now, after, .. } in run(drift_bounds, ttl, &course) {
            if matches!(input, Input::RenewalFailed | Input::Sent | Input::Tick) && before.check(now).is_live() {
                prop_assert!(after.phase().is_live());
            }
        }
    }

    #[test]
    fn k1_next_renewal_is_within_a_third_of_the_ttl((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { now, after, .. } in run(drift_bounds, ttl, &course) {
            if after.phase().is_live() {
                let last = now.max(after.proved_from());
                prop_assert!(after.next_renewal() <= last + ttl / 3);
            }
        }
    }

    #[test]
    fn k3_no_renewal_is_due_after_loss_or_release((drift_bounds, ttl) in accepted(), course in course()) {
        for Moment { after, .. } in run(drift_bounds, ttl, &course) {
            prop_assert_eq!(after.phase().is_live(), after.next_renewal() < Instant::FAR_FUTURE);
        }
    }

    #[test]
    fn l5_third_renewal_is_sent_before_the_deadline(
        (drift_bounds, ttl) in accepted(), failing in any::<bool>(), push_age in prop::option::of(0_u32..60),
    ) {
        let granted = Instant::from_origin(ttl * 3);
        let mut lease = match push_age {
            None => Lease::new(drift_bounds, ttl, granted),
            // A grant that was pushed on the basis of a report of this age.
            Some(age) => Lease::pushed(drift_bounds, ttl, granted.before(ttl / 100 * age), granted),
        };
        for lost in 0..2 {
            let now = lease.next_renewal();
            prop_assert!(now < lease.valid_until(), "renewal {lost} would come too late");
            lease.on(Input::Sent, now);
            if failing {
                lease.on(Input::RenewalFailed, now + NANO);
            }
        }
        let third = lease.next_renewal();
        prop_assert!(third < lease.valid_until());
        lease.on(Input::Sent, third);
        lease.on(Input::Proved { from: third }, third + NANO);
        prop_assert_eq!(lease.phase(), Phase::Held);
        prop_assert_eq!(lease.valid_until(), drift_bounds.deadline(third, ttl));
    }

    #[test]
    fn k1_old_proofs_cause_no_busy_loop((drift_bounds, ttl) in accepted(), age in 0_u32..70) {
        // A store whose proofs always have this age, and that answers at once.
        let age = ttl / 100 * age;
        let start = Instant::from_origin(ttl * 3);
        let (mut lease, mut now) = (Lease::new(drift_bounds, ttl, start.before(age)), start);
        let answer = Waiting::new(start.before(age), StoreTime::new(1));
        let mut waiter_lease = WaiterLease::new(ttl, &answer, None, start);
        for _ in 0..100 {
            now = now.max(lease.next_renewal()) + NANO;
            lease.on(Input::Sent, now);
            lease.on(Input::Proved { from: now.before(age) }, now);
            prop_assert!(lease.next_renewal() >= now + ttl / 18);
        }
        prop_assert!(lease.phase().is_live());
        for _ in 0..100 {
            now = now.max(waiter_lease.next_report());
            waiter_lease.on_waiting(&Waiting::new(now.before(age), StoreTime::new(1)), None, now);
            prop_assert!(waiter_lease.next_report() >= now + ttl / 18);
            prop_assert!(waiter_lease.next_report() <= now + ttl / 3);
        }
    }

    #[test]
    fn d4_push_counts_from_last_report_answered_waiting(
        answers in prop::collection::vec((0_u64..1_000, 0_u64..50), 1..30), pushed: u8,
    ) {
        let ttl = Duration::from_secs(1);
        let waiting = |(from, time)| Waiting::new(at(from), StoreTime::new(time));
        let mut waiter_lease = WaiterLease::new(ttl, &waiting(answers[0]), None, at(2_000));
        let mut heard = vec![answers[0]];
        for &answer in &answers[1..] {
            // Answers arrive in any order; an outdated one is dropped.
            if answer.1 >= heard.iter().map(|heard| heard.1).max().unwrap() {
                heard.push(answer);
            }
            waiter_lease.on_waiting(&waiting(answer), None, at(2_000));
        }
        let latest = heard.iter().map(|heard| heard.1).max().unwrap();
        let from = heard.iter().map(|heard| heard.0).max().map(at);
        let expected = from.filter(|_| u64::from(pushed) > latest);
        prop_assert_eq!(waiter_lease.accept_push(StoreTime::new(u64::from(pushed))), expected);
        prop_assert_eq!(waiter_lease.accept_push(StoreTime::new(latest)), None);
    }

    #[test]
    fn w4_push_to_expired_waiter_is_lost_at_once((drift_bounds, ttl) in accepted(), over in 0_u64..1_000) {
        let reported = Instant::from_origin(ttl);
        let waiter_lease = WaiterLease::new(ttl, &Waiting::new(reported, StoreTime::new(1)), None, reported);
        let from = waiter_lease.accept_push(StoreTime::new(2)).unwrap();
        let now = drift_bounds.deadline(reported, ttl) + Duration::from_nanos(over);
        prop_assert!(!Lease::pushed(drift_bounds, ttl, from, now).check(now).is_live());
    }

    #[test]
    fn w2_first_waiter_reports_when_the_grant_expires(
        ttl in 1_000_u64..100_000, left in 0_u64..200_000, ahead in 1_u64..3, every in prop::option::of(1_u64..50),
    ) {
        let millis = Duration::from_millis;
        let holder = Holder::new(AttemptId::from_u128(1), Owner::default());
        let now = at(5_000_000);
        let answer = Waiting::new(now, StoreTime::new(1))
            .with_ahead(ahead)
            .with_holder(Some(holder.with_expires_in(Some(millis(left)))));
        let waiter_lease = WaiterLease::new(millis(ttl), &answer, every.map(millis), now);
        let mut expected = now + millis(ttl) / 3;
        if ahead == 1 {
            expected = expected.min(now + millis((left + 1).max(10)));
        }
        if let Some(every) = every {
            expected = expected.min(now + millis(every));
        }
        prop_assert_eq!(waiter_lease.next_report(), expected);
    }
}

#[test]
fn d1_documented_example_holds() {
    let second = Duration::from_secs(1);
    let validity = DriftBounds::DEFAULT.validity(10 * second);
    assert_eq!(validity, Duration::from_millis(10_000 - 100 - 25));
}

#[test]
fn l5_drift_bounds_reject_a_ttl_that_cannot_lose_two_renewals() {
    let drift_bounds = DriftBounds::new(10_000, Duration::from_millis(25));
    let error = drift_bounds.check(Duration::from_millis(104)).unwrap_err();
    assert!(error.to_string().contains("three"), "{error}");
    assert!(drift_bounds.check(Duration::from_millis(105)).is_ok());
    // No TTL overflows the arithmetic.
    assert!(drift_bounds.check(Duration::MAX).is_ok());
    assert!(drift_bounds.validity(Duration::MAX) < Duration::MAX - Duration::MAX / 101);
    assert!(
        DriftBounds::new(u32::MAX, Duration::MAX)
            .check(Duration::MAX)
            .is_err()
    );
}

#[test]
fn d2_outdated_reply_does_not_end_suspect_phase() {
    let ttl = Duration::from_secs(9);
    let mut lease = Lease::new(DriftBounds::DEFAULT, ttl, at(100));
    lease.on(Input::Proved { from: at(300) }, at(400));
    lease.on(Input::RenewalFailed, at(500));
    lease.on(Input::Proved { from: at(200) }, at(600));
    assert_eq!(lease.phase(), Phase::Suspect);
    assert_eq!(lease.proved_from(), at(300));
    lease.on(Input::Proved { from: at(550) }, at(700));
    assert_eq!(lease.phase(), Phase::Held);
}

#[test]
fn l1_proof_at_the_deadline_is_too_late() {
    let mut lease = Lease::new(DriftBounds::DEFAULT, Duration::from_secs(9), at(100));
    let deadline = lease.valid_until();
    lease.on(Input::Proved { from: at(200) }, deadline);
    assert_eq!(lease.phase(), Phase::Lost(LossReason::Expired));
}
