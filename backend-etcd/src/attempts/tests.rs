use std::time::Duration;

use tenure_core::clock::{Clock, ManualClock};

use super::*;

/// A predecessor with this key, which holds the lock.
pub(crate) fn predecessor(key: &str) -> Predecessor {
    Predecessor {
        key: key.to_owned(),
        revision: 1,
        before: None,
        holder: None,
        verified: None,
    }
}

fn entered(attempts: &Attempts) -> AttemptId {
    let attempt = AttemptId::random().unwrap();
    attempts.register(attempt, &LockName::new("a").unwrap());
    attempt
}

#[test]
fn w2_holder_ignores_late_report_that_it_waits() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    let waits_for = |key, watch| attempts.set_predecessor(attempt, predecessor(key), watch);
    assert_eq!(waits_for("k", 7), Some(0));
    assert_eq!(attempts.mark_holding(attempt, 8), Some(7));
    assert_eq!(attempts.mark_holding(attempt, 9), None, "it holds already");
    assert_eq!(waits_for("j", 9), None);
    let snapshot = attempts.snapshot(attempt).unwrap();
    assert_eq!(snapshot.stage, Stage::Holding);
    assert!(attempts.needs_watch(attempt, 8) && !attempts.needs_watch(attempt, 9));
}

#[test]
fn w2_attempt_needs_only_its_latest_watch() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    let waits_for = |key, watch| attempts.set_predecessor(attempt, predecessor(key), watch);
    waits_for("k", 7).unwrap();
    assert_eq!(waits_for("k", 8), None, "the same predecessor");
    assert!(attempts.needs_watch(attempt, 7) && !attempts.needs_watch(attempt, 8));
    assert_eq!(waits_for("j", 9), Some(7));
    assert!(!attempts.needs_watch(attempt, 7) && attempts.needs_watch(attempt, 9));
    let (_, ended) = attempts.begin_removal(attempt).unwrap();
    assert_eq!(ended, 9);
    assert!(!attempts.needs_watch(attempt, 9));
}

#[test]
fn w2_only_the_watch_in_use_reports_the_contender_before_the_predecessor() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    let mut behind_two = predecessor("k");
    behind_two.before = Some(EntryId {
        key: Arc::from("j"),
        revision: 1,
    });
    attempts.set_predecessor(attempt, behind_two, 7).unwrap();
    attempts.set_verified(attempt, VERIFIED);
    assert_eq!(attempts.set_next_in_line(attempt, 6, 8), None);
    let next = attempts.set_next_in_line(attempt, 7, 8);
    assert_eq!(next.as_deref(), Some("k"));
    assert_eq!(attempts.set_next_in_line(attempt, 7, 9), None);
    let table = attempts.lock();
    let predecessor = table.get(attempt).unwrap().predecessor.as_ref().unwrap();
    assert_eq!((&predecessor.before, predecessor.verified), (&None, None));
}

const VERIFIED: Verified = Verified {
    watch: 7,
    stream: 1,
    revision: 5,
};

/// A waiter that is next in line, its lease, and the time until which the lease is proved.
fn next_in_line(attempts: &Attempts) -> (AttemptId, Instant) {
    let attempt = entered(attempts);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let ttl = Duration::from_secs(5);
    let lease = Lease::new(1, ttl, clock.now());
    let lapses = clock.now() + ttl;
    let lease_ref = LeaseRef::new(Arc::new(lease), clock);
    attempts
        .assign_lease(attempt, lease_ref, "me".to_owned())
        .unwrap();
    attempts
        .set_predecessor(attempt, predecessor("k"), 7)
        .unwrap();
    (attempt, lapses)
}

#[test]
fn x1_w4_removal_of_the_predecessor_grants_only_with_a_full_proof() {
    let attempts = Attempts::default();
    let (attempt, lapses) = next_in_line(&attempts);
    let take = |watch, stream, removed_at, now| {
        let taken = attempts.take_turn(attempt, watch, stream, removed_at, now);
        taken.is_some()
    };
    let start = Instant::ORIGIN;
    assert!(!take(7, 1, 6, start), "its position was not verified");
    attempts.set_verified(attempt, VERIFIED);
    assert!(!take(8, 1, 6, start), "another watch");
    assert!(!take(7, 2, 6, start), "the stream was opened again since");
    assert!(!take(7, 1, 5, start), "an event before the verification");
    assert!(!take(7, 1, 6, lapses), "the lease may have expired");
    assert!(take(7, 1, 6, start));
    assert!(!take(7, 1, 6, start), "it holds already");
    let (snapshot, ended) = attempts.begin_removal(attempt).unwrap();
    assert_eq!((snapshot.stage, ended), (Stage::Holding, 7));
}

#[test]
fn x1_s2_waiter_whose_key_was_changed_is_not_verified() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    attempts.update(attempt, |entry| entry.needs_check = true);
    attempts.set_verified(attempt, VERIFIED);
    let taken = attempts.take_turn(attempt, 7, 1, 6, Instant::ORIGIN);
    assert!(taken.is_none());
}

#[test]
fn a4_attempt_that_is_being_removed_takes_no_turn() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    attempts.set_verified(attempt, VERIFIED);
    attempts.begin_removal(attempt).unwrap();
    let taken = attempts.take_turn(attempt, 7, 1, 6, Instant::ORIGIN);
    assert!(taken.is_none());
}
