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
        awaits: Awaits::Turn,
        blocking: Arc::default(),
    }
}

fn entered(attempts: &Attempts) -> AttemptId {
    let attempt = AttemptId::random().unwrap();
    attempts.register(attempt, &LockName::new("a").unwrap(), Mode::Exclusive);
    attempt
}

#[test]
fn w2_holder_ignores_late_report_that_it_waits() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    let waits_for = |key, watch| attempts.set_predecessor(attempt, predecessor(key), watch);
    assert_eq!(waits_for("k", 7), Some(0));
    assert_eq!(attempts.mark_holding(attempt, None), Some(7));
    assert_eq!(
        attempts.mark_holding(attempt, None),
        None,
        "it holds already"
    );
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
    assert_eq!(attempts.mark_holding(attempt, None), Some(7));
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

/// A shared waiter that watches this entry since revision 5.
fn behind(attempts: &Attempts, awaits: Awaits) -> AttemptId {
    let attempt = AttemptId::random().unwrap();
    attempts.register(attempt, &LockName::new("a").unwrap(), Mode::Shared);
    assert_eq!(
        attempts.set_predecessor(attempt, located(5, awaits), 7),
        Some(0)
    );
    attempt
}

fn located(at: i64, awaits: Awaits) -> Predecessor {
    Predecessor {
        located: at,
        awaits,
        ..predecessor("k")
    }
}

fn change(put_at: i64) -> Awaits {
    Awaits::Change {
        until: Until::RemovedOrShared,
        put_at,
        is_first: true,
    }
}

fn any_of(keys: &[&str]) -> Awaits {
    Awaits::AnyRemoval(keys.iter().map(|key| Arc::from(*key)).collect())
}

#[test]
fn w2_shared_waiter_reads_its_position_and_takes_no_turn_by_itself() {
    let attempts = Attempts::default();
    let attempt = behind(&attempts, change(1));
    // A read of the watched entry finds a change that came before the watch.
    let step = attempts.advance(attempt, START, created(7, 6));
    assert!(matches!(step, NextStep::Wait), "{step:?}");
    let step = attempts.advance(attempt, START, |entry| entry.record_change(6, 8));
    assert!(matches!(step, NextStep::Wait), "an earlier watch: {step:?}");
    let step = attempts.advance(attempt, START, |entry| entry.record_change(7, 5));
    assert!(matches!(step, NextStep::Wait), "known before: {step:?}");
    let step = attempts.advance(attempt, START, |entry| entry.record_change(7, 8));
    assert!(matches!(step, NextStep::Recheck), "{step:?}");
    // A read that is older than the change is followed by another one.
    assert_eq!(
        attempts.set_predecessor(attempt, located(7, change(1)), 9),
        None
    );
    let step = attempts.end_recheck(attempt, START);
    assert!(matches!(step, NextStep::Recheck), "{step:?}");
    assert_eq!(
        attempts.set_predecessor(attempt, located(8, change(8)), 9),
        Some(7)
    );
    let step = attempts.end_recheck(attempt, START);
    assert!(matches!(step, NextStep::Wait), "{step:?}");
}

#[test]
fn w2_first_waiter_for_permits_keeps_its_watch_while_holders_leave() {
    let attempts = Attempts::default();
    let attempt = behind(&attempts, any_of(&["i", "k"]));
    let step = attempts.advance(attempt, START, created(7, 6));
    assert!(matches!(step, NextStep::Recheck), "a gap: {step:?}");
    assert_eq!(
        attempts.set_predecessor(attempt, located(6, any_of(&["i", "k"])), 8),
        None
    );
    let step = attempts.end_recheck(attempt, START);
    assert!(matches!(step, NextStep::Wait), "{step:?}");
    let waits_for = |key: &[u8]| {
        let table = attempts.lock();
        table.get(attempt).unwrap().waits_for_removal_of(key)
    };
    assert!(waits_for(b"i") && !waits_for(b"j"));
    let step = attempts.advance(attempt, START, |entry| entry.record_change(7, 9));
    assert!(matches!(step, NextStep::Recheck), "{step:?}");
    assert_eq!(
        attempts.set_predecessor(attempt, located(9, any_of(&["k"])), 8),
        None
    );
    assert!(!waits_for(b"i") && waits_for(b"k"));
    // A report with an older position arrives late.
    assert_eq!(
        attempts.set_predecessor(attempt, located(8, any_of(&["i", "k"])), 8),
        None
    );
    assert!(!waits_for(b"i"));
    let step = attempts.end_recheck(attempt, START);
    assert!(matches!(step, NextStep::Wait), "{step:?}");
    assert!(attempts.needs_watch(attempt, 7));
}

#[test]
fn s2_put_that_this_client_sent_is_not_taken_for_another_programs() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    attempts.update(attempt, |entry| entry.put_at = Some(5));
    assert!(attempts.may_have_put(attempt, 5) && !attempts.may_have_put(attempt, 6));
    // A put is in flight.
    let is_only = attempts.update(attempt, |entry| entry.put_at.take().is_some());
    assert!(attempts.may_have_put(attempt, 6));
    attempts.end_put(attempt, 6, is_only.unwrap());
    assert!(attempts.may_have_put(attempt, 6) && !attempts.may_have_put(attempt, 7));
    // The answer to the first put is lost: it may arrive after the second one.
    for answered in [None, Some(8)] {
        let is_only = attempts.update(attempt, |entry| entry.put_at.take().is_some());
        if let Some(revision) = answered {
            attempts.end_put(attempt, revision, is_only.unwrap());
        }
    }
    assert!(attempts.may_have_put(attempt, 9));
}
