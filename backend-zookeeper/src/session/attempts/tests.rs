use std::time::Duration;

use tenure_core::request::Waiting;
use tokio::sync::oneshot;

use super::*;
use crate::record::tests::stat;

const NODE: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000007-lock-0000000002";
const AHEAD: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000008-lock-0000000001";
const SECOND: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000009-lock-0000000000";
const TTL: Duration = Duration::from_secs(1);
/// The session of these tests.
const SESSION: i64 = 9;

/// A predecessor on connection 1, and the receivers of its watches. A watch counts as fired once its
/// receiver is dropped.
fn predecessor(ahead: u64) -> (Predecessor, Vec<oneshot::Receiver<()>>) {
    let nodes = [AHEAD, SECOND]
        .into_iter()
        .take(if ahead > 1 { 2 } else { 1 });
    let (watches, ends) = nodes.map(|node| Watch::new(node.into(), 1)).unzip();
    let predecessor = Predecessor {
        watches,
        ahead,
        holder: None,
        as_of: 6,
    };
    (predecessor, ends)
}

/// A waiter whose node is watched on connection 1. The watches of the nodes ahead have fired.
fn waiter(ahead: u64) -> (Attempts, AttemptId) {
    let (attempts, attempt, _ends) = watching_waiter(ahead);
    (attempts, attempt)
}

/// A waiter whose node is watched on connection 1, with the ends of its watches ahead.
fn watching_waiter(ahead: u64) -> (Attempts, AttemptId, Vec<oneshot::Receiver<()>>) {
    let mut attempts = Attempts::default();
    let attempt = AttemptId::from_u128(7);
    assert_eq!(
        attempts.register(attempt, &"/ns/x".into(), None),
        Registration::New
    );
    let stat = stat(5, SESSION);
    assert!(attempts.created(attempt, NODE, &stat, FencingToken::new(0), 1));
    assert_eq!(attempts.seen(attempt, Some(&stat), SESSION, 1), None);
    let (predecessor, ends) = predecessor(ahead);
    assert!(attempts.set_waiting(attempt, predecessor));
    (attempts, attempt, ends)
}

fn is_admitted(attempts: &Attempts, attempt: AttemptId) -> bool {
    matches!(attempts.get(attempt).unwrap().position, Position::Admitted)
}

#[test]
fn w2_a_waiter_with_one_contender_ahead_is_first_when_that_leaves() {
    let (mut attempts, attempt) = waiter(1);
    let turn = attempts.predecessor_deleted(attempt, AHEAD, 1);
    assert_eq!(turn, AfterDeletion::Admitted);
    let grant = attempts.grant(attempt, TTL, Instant::ORIGIN).unwrap();
    assert_eq!(grant.token, FencingToken::new(5));
    // Only once.
    let again = attempts.predecessor_deleted(attempt, AHEAD, 1);
    assert_eq!(again, AfterDeletion::None);
}

#[test]
fn w1_x1_a_waiter_that_may_not_be_next_reads_the_queue() {
    // Two ahead; and a node that is not watched on the present connection, so that its own end may
    // not have been noticed.
    for (ahead, connection) in [(2, 1), (1, 2)] {
        let (mut attempts, attempt) = waiter(ahead);
        let turn = attempts.predecessor_deleted(attempt, AHEAD, connection);
        assert_eq!(turn, AfterDeletion::Locate);
        assert!(!is_admitted(&attempts, attempt));
    }
    let (mut attempts, attempt) = waiter(1);
    let other = attempts.predecessor_deleted(attempt, NODE, 1);
    assert_eq!(other, AfterDeletion::None, "it does not wait for that node");
}

#[test]
fn m1_m4_a_waiter_behind_a_writer_reads_the_queue() {
    let mut attempts = Attempts::default();
    let (attempt, node) = (AttemptId::from_u128(7), "/ns/x/a__WRIT__0000000001");
    attempts.register(attempt, &"/ns/x".into(), None);
    let stat = stat(5, SESSION);
    assert!(attempts.created(attempt, NODE, &stat, FencingToken::new(0), 1));
    assert_eq!(attempts.seen(attempt, Some(&stat), SESSION, 1), None);
    let (watch, _end) = Watch::new(node.into(), 1);
    let predecessor = Predecessor {
        watches: vec![watch],
        ahead: 1,
        holder: None,
        as_of: 6,
    };
    assert!(attempts.set_waiting(attempt, predecessor));
    // Curator may have left a reader's node.
    let turn = attempts.predecessor_deleted(attempt, node, 1);
    assert_eq!(turn, AfterDeletion::Locate);
}

#[test]
fn w2_a_waiter_reads_the_queue_when_the_second_node_ahead_goes() {
    let (mut attempts, attempt, ends) = watching_waiter(2);
    let turn = attempts.predecessor_deleted(attempt, SECOND, 1);
    assert_eq!(turn, AfterDeletion::Locate);
    assert!(
        !is_admitted(&attempts, attempt),
        "x1: the nearest one is there"
    );
    // The queue was read, the nearest one is the only one ahead, and the watches are kept.
    assert_eq!(attempts.running_watches(attempt, 1).len(), 2);
    let lost = attempts.running_watches(attempt, 2);
    assert!(lost.is_empty(), "of a lost connection");
    drop(ends);
    let fired = attempts.running_watches(attempt, 1);
    assert!(fired.is_empty(), "a watch that has fired is set again");
    let (predecessor, _ends) = predecessor(1);
    assert!(attempts.set_waiting(attempt, predecessor));
    let turn = attempts.predecessor_deleted(attempt, SECOND, 1);
    assert_eq!(turn, AfterDeletion::None, "it is not watched any more");
    let turn = attempts.predecessor_deleted(attempt, AHEAD, 1);
    assert_eq!(turn, AfterDeletion::Admitted);
}

#[test]
fn w2_a_waiter_whose_watch_has_fired_reads_the_queue_again() {
    for fired in [0, 1] {
        let (mut attempts, attempt) = waiter(2);
        let (predecessor, mut ends) = predecessor(2);
        ends.remove(fired);
        assert!(!attempts.set_waiting(attempt, predecessor));
    }
}

#[test]
fn a4_a_waiter_that_is_being_removed_is_granted_nothing() {
    let (mut attempts, attempt) = waiter(1);
    attempts.begin_removal(attempt);
    assert_eq!(
        attempts.predecessor_deleted(attempt, AHEAD, 1),
        AfterDeletion::Locate
    );
    assert!(!attempts.begin_locating(attempt, 1));
    assert!(!attempts.is_wanted(attempt));
    attempts.set_admitted(attempt, None, false);
    assert_eq!(attempts.grant(attempt, TTL, Instant::ORIGIN), None);
}

#[test]
fn l2_the_end_of_the_own_node_is_a_loss_unless_this_client_removes_it() {
    let (mut attempts, attempt) = waiter(1);
    let reason = LossReason::Evicted;
    let lost = BackendEvent::Lost { attempt, reason };
    assert_eq!(attempts.gone(attempt, reason), Some(lost));
    assert_eq!(attempts.gone(attempt, reason), None, "told once");
    let turn = attempts.predecessor_deleted(attempt, AHEAD, 1);
    assert_eq!(
        turn,
        AfterDeletion::None,
        "w4: a waiter that is gone never holds"
    );
    let (mut attempts, attempt) = waiter(1);
    attempts.begin_removal(attempt);
    assert_eq!(attempts.gone(attempt, reason), None);
}

#[test]
fn l5_an_older_list_makes_no_holder_wait_again() {
    let (mut attempts, attempt) = waiter(1);
    attempts.set_admitted(attempt, None, false);
    let (predecessor, _ends) = predecessor(1);
    attempts.set_waiting(attempt, predecessor);
    assert!(is_admitted(&attempts, attempt));
}

#[test]
fn t3_an_attempt_has_one_node() {
    let (mut attempts, attempt) = waiter(1);
    let other = stat(6, SESSION);
    assert!(!attempts.created(attempt, AHEAD, &other, FencingToken::new(0), 1));
    let again = attempts.register(attempt, &"/ns/x".into(), None);
    assert_eq!(again, Registration::Known);
}

#[test]
fn l2_on_a_new_connection_the_node_must_be_the_same_one() {
    for (stat, reason) in [
        (None, Some(LossReason::Evicted)),
        (Some(stat(5, 8)), Some(LossReason::SessionLost)),
        (Some(stat(6, SESSION)), Some(LossReason::Displaced)),
        (Some(stat(5, SESSION)), None),
    ] {
        let (mut attempts, attempt) = waiter(1);
        let event = attempts.seen(attempt, stat.as_ref(), SESSION, 2);
        let lost = reason.map(|reason| BackendEvent::Lost { attempt, reason });
        assert_eq!(event, lost);
    }
}

#[test]
fn d2_nothing_is_proved_for_a_node_that_was_not_seen_on_the_connection() {
    let (mut attempts, attempt) = waiter(1);
    attempts.set_admitted(attempt, None, false);
    let token = Some(FencingToken::new(5));
    let mut answer = |connection| attempts.answer(attempt, token, TTL, Instant::ORIGIN, connection);
    assert!(matches!(answer(1), Renewed::Proved { .. }));
    assert!(matches!(answer(2), Renewed::Unknown(_)));
}

#[test]
fn t3_l2_another_token_is_another_grant() {
    let (mut attempts, attempt) = waiter(1);
    attempts.set_admitted(attempt, None, false);
    let other = Some(FencingToken::new(4));
    let answer = attempts.answer(attempt, other, TTL, Instant::ORIGIN, 1);
    assert!(matches!(answer, Renewed::Gone(LossReason::Displaced)));
}

#[test]
fn w2_a_waiter_that_is_first_is_granted_by_its_report_too() {
    let (mut attempts, attempt) = waiter(1);
    let waiting =
        |attempts: &mut Attempts| match attempts.answer(attempt, None, TTL, Instant::ORIGIN, 1) {
            Renewed::Waiting(waiting) => Some(waiting),
            _ => None,
        };
    let answer: Option<Waiting> = waiting(&mut attempts);
    assert_eq!(answer.unwrap().ahead, Some(1));
    attempts.set_admitted(attempt, None, false);
    assert!(waiting(&mut attempts).is_none());
    let answer = attempts.answer(attempt, None, TTL, Instant::ORIGIN, 1);
    assert!(matches!(answer, Renewed::Granted(_)));
    assert_eq!(
        attempts.newest_report([attempt].into_iter()),
        Some(Instant::ORIGIN)
    );
}

#[test]
fn a_look_up_that_is_wanted_during_another_one_follows_it() {
    let (mut attempts, attempt) = waiter(1);
    assert!(attempts.begin_locating(attempt, 1));
    assert!(!attempts.begin_locating(attempt, 1));
    assert!(attempts.end_locating(attempt), "once more");
    assert!(!attempts.end_locating(attempt));
    assert!(attempts.begin_locating(attempt, 1));
    // The look-up of a connection that was lost does not end.
    assert!(attempts.begin_locating(attempt, 2));
}

#[test]
fn everything_is_checked_once_each_node_was_seen_or_is_gone() {
    let (mut attempts, attempt) = waiter(1);
    let other = AttemptId::from_u128(8);
    attempts.register(other, &"/ns/x".into(), None);
    assert!(attempts.created(other, AHEAD, &stat(4, SESSION), FencingToken::new(0), 1));
    assert_eq!(attempts.begin_check(2).len(), 2);
    assert_eq!(attempts.checked_on(), 1);
    attempts.seen(attempt, Some(&stat(5, SESSION)), SESSION, 2);
    assert_eq!(attempts.checked_on(), 1);
    attempts.forget(other);
    assert_eq!(attempts.checked_on(), 2);
}

#[test]
fn l5_a_node_of_an_earlier_connection_is_looked_up_with_the_next_renewal_and_once() {
    let (mut attempts, attempt) = waiter(1);
    let overlooked = |attempts: &mut Attempts, number| {
        let batch = [attempt].into_iter();
        attempts.overlooked(batch, number).len()
    };
    assert_eq!(overlooked(&mut attempts, 1), 0, "it was seen there");
    assert_eq!(overlooked(&mut attempts, 2), 1);
    assert_eq!(overlooked(&mut attempts, 2), 0, "that is under way");
    attempts.seen(attempt, Some(&stat(5, SESSION)), SESSION, 3);
    attempts.begin_removal(attempt);
    assert_eq!(overlooked(&mut attempts, 4), 0, "it is being removed");
}

#[test]
fn l5_an_attempt_that_is_being_removed_keeps_no_session_unchecked() {
    let (mut attempts, attempt) = waiter(1);
    attempts.begin_removal(attempt);
    assert!(attempts.begin_check(2).is_empty());
    assert_eq!(attempts.checked_on(), 2);
    let (mut attempts, attempt) = waiter(1);
    assert_eq!(attempts.begin_check(2).len(), 1);
    attempts.begin_removal(attempt);
    assert_eq!(attempts.checked_on(), 2, "the removal began meanwhile");
}

#[test]
fn w4_x1_a_watch_that_is_used_up_grants_nothing() {
    let (mut attempts, attempt) = waiter(1);
    attempts.unwatched(attempt);
    let turn = attempts.predecessor_deleted(attempt, AHEAD, 1);
    assert_eq!(turn, AfterDeletion::Locate);
}

#[test]
fn m3_a_grant_carries_the_floor_of_the_moment_at_which_it_was_admitted() {
    let (mut attempts, attempt) = waiter(2);
    let floor = FencingToken::new(3);
    attempts.set_admitted(attempt, Some(floor), false);
    let grant = attempts.grant(attempt, TTL, Instant::ORIGIN).unwrap();
    assert_eq!((grant.token, grant.floor), (FencingToken::new(5), floor));
    attempts.set_admitted(attempt, None, false);
    let again = attempts.grant(attempt, TTL, Instant::ORIGIN);
    assert_eq!(again, Some(grant));
    // A waiter that learns that it is the only one is the lowest itself.
    let (mut attempts, attempt) = waiter(1);
    attempts.predecessor_deleted(attempt, AHEAD, 1);
    let grant = attempts.grant(attempt, TTL, Instant::ORIGIN).unwrap();
    assert_eq!(grant.floor, grant.token);
}

/// A holder of permits whose node is watched on connection 1, and whether its mark is due.
fn holder_of_permits(mark: bool) -> (Attempts, AttemptId) {
    let mut attempts = Attempts::default();
    let attempt = AttemptId::from_u128(7);
    let data: Box<[u8]> = Box::from(*b"data");
    attempts.register(attempt, &"/ns/x".into(), Some(data));
    let stat = stat(5, SESSION);
    assert!(attempts.created(attempt, NODE, &stat, FencingToken::new(0), 1));
    attempts.set_admitted(attempt, None, mark);
    (attempts, attempt)
}

#[test]
fn w2_a_mark_is_written_once_and_again_if_it_was_not_answered() {
    let (mut attempts, attempt) = holder_of_permits(false);
    assert_eq!(attempts.begin_mark(attempt, 1), None, "nobody waits for it");
    let (mut attempts, attempt) = holder_of_permits(true);
    assert!(!attempts.has_marked(attempt));
    let (node, data) = attempts.begin_mark(attempt, 1).unwrap();
    assert_eq!((&*node, &*data), (NODE, &b"data"[..]));
    assert!(attempts.has_marked(attempt), "the change is its own");
    assert_eq!(attempts.begin_mark(attempt, 1), None, "it is under way");
    assert!(
        attempts.begin_mark(attempt, 2).is_some(),
        "its connection is lost"
    );
    attempts.end_mark(attempt, None);
    assert!(attempts.begin_mark(attempt, 2).is_some(), "it has failed");
    attempts.end_mark(attempt, Some(1));
    assert_eq!(attempts.begin_mark(attempt, 3), None, "it is written");
    assert!(attempts.is_own_version(attempt, 1));
    assert!(!attempts.is_own_version(attempt, 2));
    let (mut attempts, attempt) = holder_of_permits(true);
    attempts.begin_removal(attempt);
    assert_eq!(attempts.begin_mark(attempt, 1), None, "k3: it is leaving");
    // An attempt of another mode writes none.
    let (mut attempts, attempt) = waiter(1);
    attempts.set_admitted(attempt, None, true);
    assert_eq!(attempts.begin_mark(attempt, 1), None);
}

const READER: &str =
    "/ns/x/_c_00000000-0000-0000-0000-000000000007-zxid-0000000000000005-__READ__0000000002";

/// A holder whose node is watched on connection 1.
fn writer() -> (Attempts, AttemptId) {
    let (mut attempts, attempt) = waiter(1);
    attempts.set_admitted(attempt, None, false);
    (attempts, attempt)
}

#[test]
fn m4_a_downgrade_replaces_the_node_and_keeps_the_token() {
    let (mut attempts, attempt) = writer();
    let token = FencingToken::new(5);
    let step = attempts.downgrade_step(attempt, token);
    assert_eq!(step, DowngradeStep::Replace(NODE.into(), READER.into()));
    assert!(attempts.begin_downgrade(attempt, &READER.into(), 1));
    assert!(attempts.is_being_replaced(attempt, NODE, 1));
    let nodes: Vec<_> = attempts.get(attempt).unwrap().nodes().cloned().collect();
    assert_eq!(
        nodes,
        [NODE.into(), READER.into()],
        "a removal deletes both"
    );
    attempts.downgraded(attempt, &READER.into(), &stat(9, SESSION), 1);
    assert_eq!(attempts.node(attempt).as_deref(), Some(READER));
    assert_eq!(
        attempts.seen(attempt, Some(&stat(9, SESSION)), SESSION, 1),
        None
    );
    assert!(
        attempts.is_being_replaced(attempt, NODE, 1),
        "l2: an event of the old node"
    );
    assert!(!attempts.is_being_replaced(attempt, READER, 1));
    let answer = attempts.answer(attempt, Some(token), TTL, Instant::ORIGIN, 1);
    assert!(matches!(answer, Renewed::Proved { .. }), "{answer:?}");
    let again = attempts.downgrade_step(attempt, token);
    assert_eq!(again, DowngradeStep::Shared, "it can be repeated");
}

#[test]
fn m4_l2_a_downgrade_without_an_answer_is_resolved_on_the_next_connection() {
    let (mut attempts, attempt) = writer();
    assert!(attempts.begin_downgrade(attempt, &READER.into(), 1));
    // On the next connection the events of the writer's node count again.
    assert!(!attempts.is_being_replaced(attempt, NODE, 2));
    assert_eq!(attempts.pending_downgrade(attempt).as_deref(), Some(READER));
    attempts.end_downgrade(attempt, 1);
    assert_eq!(attempts.pending_downgrade(attempt), None);
    // A copy that was sent on the present connection stays.
    assert!(attempts.begin_downgrade(attempt, &READER.into(), 2));
    attempts.end_downgrade(attempt, 1);
    assert!(attempts.pending_downgrade(attempt).is_some());
}

#[test]
fn m4_only_the_grant_with_this_token_is_downgraded() {
    let (mut attempts, attempt) = writer();
    let step = attempts.downgrade_step(attempt, FencingToken::new(4));
    assert_eq!(step, DowngradeStep::Gone(LossReason::Displaced));
    attempts.begin_removal(attempt);
    let step = attempts.downgrade_step(attempt, FencingToken::new(5));
    assert_eq!(step, DowngradeStep::Gone(LossReason::Closed));
    assert!(!attempts.begin_downgrade(attempt, &READER.into(), 1));
    let (mut attempts, attempt) = writer();
    attempts.gone(attempt, LossReason::Evicted);
    let step = attempts.downgrade_step(attempt, FencingToken::new(5));
    assert_eq!(step, DowngradeStep::Gone(LossReason::Evicted));
    let (attempts, attempt) = waiter(1);
    let step = attempts.downgrade_step(attempt, FencingToken::new(5));
    assert_eq!(step, DowngradeStep::Gone(LossReason::Displaced), "it waits");
}
