use std::time::Duration;

use tenure_core::clock::{Clock, ManualClock};

use super::*;

/// A predecessor with this key and the watch with this id.
pub(crate) fn predecessor(key: &str, watch: u64) -> Predecessor {
    Predecessor {
        key: key.to_owned(),
        revision: 1,
        watch,
        is_holder: true,
        read_by_removal: false,
        holder: None,
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
    assert!(
        attempts
            .set_predecessor(attempt, predecessor("k", 7))
            .is_some()
    );
    assert_eq!(attempts.mark_holding(attempt), Some((Some(7), false)));
    assert_eq!(attempts.set_predecessor(attempt, predecessor("j", 8)), None);
    let snapshot = attempts.snapshot(attempt).unwrap();
    assert_eq!(snapshot.stage, Stage::Holding);
    assert!(!attempts.needs_watch(attempt, 8));
}

#[test]
fn w2_attempt_needs_only_its_latest_watch_of_each_kind() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    attempts
        .set_predecessor(attempt, predecessor("k", 7))
        .unwrap();
    attempts
        .update(attempt, |entry| entry.own_watch = 9)
        .unwrap();
    assert!(attempts.needs_watch(attempt, 7) && attempts.needs_watch(attempt, 9));
    assert_eq!(
        attempts.set_predecessor(attempt, predecessor("j", 8)),
        Some((Some(7), true))
    );
    assert!(!attempts.needs_watch(attempt, 7) && attempts.needs_watch(attempt, 8));
    let (_, ended) = attempts.begin_removal(attempt).unwrap();
    assert_eq!(ended, [9, 8]);
    assert!(!attempts.needs_watch(attempt, 8) && !attempts.needs_watch(attempt, 9));
}

/// A key is used again. A waiter that waited for its former owner is not the successor of its new
/// owner.
#[test]
fn w2_successor_matches_key_and_revision() {
    let attempts = Attempts::default();
    let attempt = entered(&attempts);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let lease = Lease::new(1, Duration::from_secs(5), clock.now());
    let lease_ref = LeaseRef::new(Arc::new(lease), clock);
    attempts
        .assign_lease(attempt, lease_ref, "me".to_owned())
        .unwrap();
    assert!(attempts.successor("k", 1).is_none());
    attempts
        .set_predecessor(attempt, predecessor("k", 7))
        .unwrap();
    assert!(attempts.successor("k", 2).is_none());
    assert_eq!(attempts.successor("k", 1).unwrap().attempt, attempt);
    attempts.mark_holding(attempt).unwrap();
    assert!(attempts.successor("k", 1).is_none());
}

/// An unanswered deletion may arrive at any time and deletes whichever entry then has that key.
#[test]
fn r1_key_is_reused_only_without_deletion_in_flight() {
    let attempts = Attempts::default();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let lease = Arc::new(Lease::new(1, Duration::from_secs(5), clock.now()));
    let enter = || {
        let attempt = entered(&attempts);
        let lease_ref = LeaseRef::new(Arc::clone(&lease), Arc::clone(&clock));
        (
            attempt,
            attempts
                .assign_lease(attempt, lease_ref, "me".to_owned())
                .unwrap(),
        )
    };
    let (answered, key) = enter();
    assert_eq!(&*key, "me0");
    let slot = attempts.claim_key_slot(answered).unwrap();
    attempts.return_key_slot(answered, slot);
    attempts.forget(answered);

    let (unanswered, key) = enter();
    assert_eq!(&*key, "me0");
    assert!(attempts.claim_key_slot(unanswered).is_some());
    // The repeated removal is answered.
    assert!(attempts.claim_key_slot(unanswered).is_none());
    attempts.forget(unanswered);

    let (_, key) = enter();
    assert_eq!(&*key, "me1");
}
