use std::time::Duration;

use tenure_core::clock::{Clock, ManualClock};

use super::*;
use crate::watch::{Watch, WatchTarget};

/// A predecessor with this key, which holds the lock.
pub(crate) fn predecessor(key: &str) -> Predecessor {
    Predecessor {
        key: key.to_owned(),
        revision: 1,
        before: None,
        holder: None,
        located: 0,
        created: None,
        removed_at: 0,
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
    assert_eq!(attempts.mark_holding(attempt), Some(7));
    assert_eq!(attempts.mark_holding(attempt), None, "it holds already");
    assert_eq!(waits_for("j", 9), None);
    let snapshot = attempts.snapshot(attempt).unwrap();
    assert_eq!(snapshot.stage, Stage::Holding);
    assert!(!attempts.needs_watch(attempt, 7) && !attempts.needs_watch(attempt, 9));
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
    assert_eq!(attempts.set_next_in_line(attempt, 6, 8), None);
    let next = attempts.set_next_in_line(attempt, 7, 8);
    assert_eq!(next.as_deref(), Some("k"));
    assert_eq!(attempts.set_next_in_line(attempt, 7, 9), None);
    let table = attempts.lock();
    let predecessor = table.get(attempt).unwrap().predecessor.as_ref().unwrap();
    assert_eq!((&predecessor.before, predecessor.located), (&None, 0));
}

/// A waiter that is next in line since revision 5, and the time until which its lease is proved.
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
    let mut next = predecessor("k");
    next.located = 5;
    attempts.set_predecessor(attempt, next, 7).unwrap();
    (attempt, lapses)
}

fn created(id: u64, as_of: i64) -> impl FnOnce(&mut Attempt) {
    move |entry| {
        let predecessor = entry.predecessor.as_mut().unwrap();
        predecessor.created = Some(CreatedWatch { id, as_of });
    }
}

fn removed(at: i64) -> impl FnOnce(&mut Attempt) {
    move |entry| entry.predecessor.as_mut().unwrap().removed_at = at
}

const START: Instant = Instant::ORIGIN;

#[test]
fn w2_removal_of_the_predecessor_makes_the_next_in_line_the_holder() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    let step = attempts.advance(attempt, START, created(7, 5));
    assert!(matches!(step, NextStep::Wait), "{step:?}");
    let step = attempts.advance(attempt, START, removed(6));
    assert!(matches!(step, NextStep::Hold(_, _, 7)), "{step:?}");
    let step = attempts.advance(attempt, START, |_| ());
    assert!(matches!(step, NextStep::Wait), "it holds already: {step:?}");
    let (snapshot, ended) = attempts.begin_removal(attempt).unwrap();
    assert_eq!((snapshot.stage, ended), (Stage::Holding, 7));
}

#[test]
fn w2_failed_read_of_the_position_allows_the_next_one() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    // The store has moved on since the position was read.
    let step = attempts.advance(attempt, START, created(7, 6));
    assert!(matches!(step, NextStep::Recheck), "{step:?}");
    let step = attempts.advance(attempt, START, |_| ());
    assert!(
        matches!(step, NextStep::Wait),
        "a read is in flight: {step:?}"
    );
    attempts.abandon_recheck(attempt);
    let step = attempts.advance(attempt, START, removed(8));
    assert!(matches!(step, NextStep::Recheck), "{step:?}");
}

#[test]
fn l2_watch_of_a_new_holder_restarts_after_the_revision_that_granted() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    let predecessor = Arc::from("k");
    let mut watch = Watch {
        target: WatchTarget::Next { predecessor },
        attempt,
        own: Arc::from("me"),
        from: 1,
    };
    watch.prepare_restart(attempts.lock().get(attempt).unwrap());
    assert_eq!(watch.from, 1, "a waiter's watch begins at its creation");
    attempts.advance(attempt, START, created(7, 5));
    let step = attempts.advance(attempt, START, removed(6));
    assert!(matches!(step, NextStep::Hold(_, _, 7)), "{step:?}");
    watch.prepare_restart(attempts.lock().get(attempt).unwrap());
    assert_eq!((watch.target, watch.from), (WatchTarget::Own, 7));
}

#[test]
fn l2_holder_has_no_confirmed_watch_before_its_own_is_created() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    attempts.update(attempt, |entry| entry.confirmed_stream = 3);
    assert_eq!(attempts.mark_holding(attempt), Some(7));
    assert_eq!(attempts.snapshot(attempt).unwrap().confirmed_stream, 0);
}

#[test]
fn x1_w4_removal_of_the_predecessor_grants_only_with_a_full_proof() {
    let rechecks = |change: &dyn Fn(&Attempts, AttemptId, Instant) -> NextStep| {
        let attempts = Attempts::default();
        let (attempt, lapses) = next_in_line(&attempts);
        let step = change(&attempts, attempt, lapses);
        assert!(matches!(step, NextStep::Recheck), "{step:?}");
        let step = attempts.advance(attempt, lapses, |_| ());
        assert!(matches!(step, NextStep::Wait), "one read at a time");
    };
    // The server has not created the watch.
    rechecks(&|attempts, attempt, _| attempts.advance(attempt, START, removed(6)));
    // The watch was replaced.
    rechecks(&|attempts, attempt, _| {
        attempts.advance(attempt, START, created(8, 5));
        attempts.advance(attempt, START, removed(6))
    });
    // Something may have changed before the watch was created.
    rechecks(&|attempts, attempt, _| attempts.advance(attempt, START, created(7, 6)));
    // The lease may have expired.
    rechecks(&|attempts, attempt, lapses| {
        attempts.advance(attempt, START, created(7, 5));
        attempts.advance(attempt, lapses, removed(6))
    });
    // Another program has changed the waiter's key.
    rechecks(&|attempts, attempt, _| {
        attempts.advance(attempt, START, created(7, 5));
        attempts.update(attempt, |entry| entry.needs_check = true);
        attempts.advance(attempt, START, removed(6))
    });
}

#[test]
fn w2_removal_seen_during_a_read_is_decided_by_that_read() {
    for located in [6, 5, 8] {
        let attempts = Attempts::default();
        let (attempt, _) = next_in_line(&attempts);
        let step = attempts.advance(attempt, START, created(7, 6));
        assert!(matches!(step, NextStep::Recheck), "{step:?}");
        let step = attempts.advance(attempt, START, removed(8));
        assert!(matches!(step, NextStep::Wait), "a read is in flight");
        let mut read = predecessor("k");
        read.located = located;
        assert_eq!(attempts.set_predecessor(attempt, read, 9), None);
        let step = attempts.end_recheck(attempt, START);
        let expected = match located {
            // The removed key was that of an earlier entry.
            8 => matches!(step, NextStep::Wait),
            // The read is older than the watch.
            5 => matches!(step, NextStep::Recheck),
            _ => matches!(step, NextStep::Hold(..)),
        };
        assert!(expected, "{located}: {step:?}");
    }
}

#[test]
fn a4_attempt_that_is_being_removed_takes_no_turn() {
    let attempts = Attempts::default();
    let (attempt, _) = next_in_line(&attempts);
    attempts.advance(attempt, START, created(7, 5));
    attempts.begin_removal(attempt).unwrap();
    let step = attempts.advance(attempt, START, |_| ());
    assert!(matches!(step, NextStep::Wait), "{step:?}");
}
