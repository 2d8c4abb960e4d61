use std::time::Duration;

use super::*;

const NODE: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000007-lock-0000000002";
const AHEAD: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000008-lock-0000000001";

fn waiter(count: u64) -> (Book, AttemptId) {
    let mut book = Book::default();
    let attempt = AttemptId::from_u128(7);
    assert_eq!(book.enter(attempt, &"/ns/x".into(), &owner()), Entered::New);
    let stat = Stat {
        czxid: 5,
        made: std::time::SystemTime::UNIX_EPOCH,
        owner: 9,
    };
    assert!(book.found(attempt, NODE, &stat, FencingToken::new(0), 1));
    let ahead = Ahead {
        next: AHEAD.into(),
        count: Some(count),
        holder: None,
        as_of: 5,
        look: false,
    };
    book.wait(attempt, ahead);
    (book, attempt)
}

fn owner() -> Owner {
    Owner::new("label", "host", 7)
}

fn proof(connection: u64, fresh: bool) -> Proof {
    Proof {
        connection,
        ttl: Duration::from_secs(1),
        fresh: fresh.then_some(Instant::ORIGIN),
    }
}

fn deleted(path: &str) -> Event {
    Event {
        path: path.to_owned(),
        deleted: true,
    }
}

#[test]
fn w2_who_had_one_ahead_is_granted_when_that_goes_and_once() {
    let (mut book, attempt) = waiter(1);
    let out = book.happened(&deleted(AHEAD), &proof(1, true));
    assert!(matches!(&out[..], [BackendEvent::Granted(grant)]
        if grant.attempt == attempt && grant.token == FencingToken::new(5)));
    assert!(book.happened(&deleted(AHEAD), &proof(1, true)).is_empty());
}

#[test]
fn w1_who_had_more_ahead_or_knows_less_looks_again() {
    for (count, connection, fresh) in [(2, 1, true), (1, 2, true), (1, 1, false)] {
        let (mut book, attempt) = waiter(count);
        let out = book.happened(&deleted(AHEAD), &proof(connection, fresh));
        assert_eq!(out, [BackendEvent::Look { attempt }]);
    }
}

#[test]
fn w2_who_is_right_behind_the_holder_is_granted_when_that_is_one_of_ours() {
    let ahead = AttemptId::from_u128(8);
    for held in [true, false] {
        let (mut book, attempt) = waiter(3);
        assert_eq!(book.enter(ahead, &"/ns/x".into(), &owner()), Entered::New);
        let stat = Stat {
            czxid: 4,
            made: std::time::SystemTime::UNIX_EPOCH,
            owner: 9,
        };
        assert!(book.found(ahead, AHEAD, &stat, FencingToken::new(0), 1));
        if held {
            book.first(ahead);
        }
        book.leave(ahead);
        let out = book.happened(&deleted(AHEAD), &proof(1, true));
        if held {
            assert!(matches!(&out[..], [BackendEvent::Granted(grant)]
                if grant.attempt == attempt));
        } else {
            assert_eq!(out, [BackendEvent::Look { attempt }]);
        }
    }
}

/// An attempt of this session whose node is that of `AHEAD`.
fn enter_ahead(book: &mut Book) -> AttemptId {
    let ahead = AttemptId::from_u128(8);
    book.enter(ahead, &"/ns/x".into(), &owner());
    let stat = Stat {
        czxid: 4,
        made: SystemTime::UNIX_EPOCH,
        owner: 9,
    };
    assert!(book.found(ahead, AHEAD, &stat, FencingToken::new(0), 1));
    ahead
}

#[test]
fn w2_who_waits_for_one_of_ours_looks_however_that_goes() {
    let ways: [fn(&mut Book, AttemptId) -> Vec<BackendEvent>; 3] = [
        |book, ahead| book.gone(ahead, LossReason::Evicted),
        |book, ahead| book.seen(ahead, None, 9, 1),
        |book, ahead| book.forget(ahead),
    ];
    for (way, tell) in ways.into_iter().enumerate() {
        let (mut book, attempt) = waiter(2);
        assert!(!book.is_ours(AHEAD));
        let ahead = enter_ahead(&mut book);
        assert!(book.is_ours(AHEAD));
        book.leave(ahead);
        let out = tell(&mut book, ahead);
        assert_eq!(out, [BackendEvent::Look { attempt }], "way {way}");
        assert!(!book.is_ours(AHEAD), "nobody tells of it any more");
    }
}

#[test]
fn a_holder_of_ours_is_shown_unless_its_node_was_written_over() {
    let (mut book, _) = waiter(1);
    let ttl = Duration::from_secs(3);
    assert_eq!(book.holder(AHEAD, ttl), None);
    let ahead = enter_ahead(&mut book);
    let holder = book.holder(AHEAD, ttl).unwrap();
    assert_eq!(holder.attempt, Some(ahead));
    assert_eq!(holder.owner, Some(owner()));
    assert_eq!(holder.token, Some(FencingToken::new(4)));
    assert_eq!(holder.ttl, Some(ttl));
    assert_eq!(holder.since, Some(Since::Enqueued(SystemTime::UNIX_EPOCH)));
    book.get_mut(ahead).unwrap().trouble = Some(changed(AHEAD));
    assert_eq!(book.holder(AHEAD, ttl), None);
}

/// An attempt of this session with a node of that number, of which nothing else is known.
fn enter_at(book: &mut Book, number: u32) -> AttemptId {
    let attempt = AttemptId::from_u128(number.into());
    book.enter(attempt, &"/ns/x".into(), &owner());
    let path = format!("/ns/x/_c_00000000-0000-0000-0000-{number:012}-lock-{number:010}");
    let stat = Stat {
        czxid: i64::from(number) + 10,
        made: SystemTime::UNIX_EPOCH,
        owner: 9,
    };
    assert!(book.found(attempt, &path, &stat, FencingToken::new(0), 1));
    attempt
}

const TTL: Duration = Duration::from_secs(3);

/// A holder and the waiter behind it, both of this session.
fn held() -> (Book, AttemptId, AttemptId) {
    let (mut book, attempt) = waiter(1);
    let holder = enter_ahead(&mut book);
    book.first(holder);
    (book, holder, attempt)
}

#[test]
fn w1_whose_number_follows_that_of_one_of_ours_waits_for_that_one() {
    let (mut book, holder, attempt) = held();
    let next = enter_at(&mut book, 3);
    assert!(book.line_up(next, TTL));
    assert!(!book.line_up(next, TTL), "it stands there already");
    assert_eq!(book.waiting("/ns/x"), 2);
    let Place::Waiting(ahead) = book.get(next).unwrap().place.clone() else {
        panic!("it does not wait");
    };
    assert_eq!((&*ahead.next, ahead.count, ahead.as_of), (NODE, None, 13));
    let shown = ahead.holder.unwrap();
    assert_eq!(
        (shown.attempt, shown.token),
        (Some(holder), Some(FencingToken::new(4)))
    );
    // Nobody gets between them.
    let granted = |out: &[BackendEvent], to| matches!(out, [BackendEvent::Granted(grant)] if grant.attempt == to);
    for (goes, node, comes) in [(holder, AHEAD, attempt), (attempt, NODE, next)] {
        book.leave(goes);
        assert!(granted(
            &book.happened(&deleted(node), &proof(1, true)),
            comes
        ));
    }
    assert_eq!(book.waiting("/ns/x"), 0);
}

#[test]
fn a5_who_lines_up_is_shown_whoever_of_ours_holds_by_then() {
    let (mut book, holder, attempt) = held();
    let next = enter_at(&mut book, 3);
    assert!(book.line_up(next, TTL));
    book.leave(holder);
    let _ = book.happened(&deleted(AHEAD), &proof(1, true));
    let last = enter_at(&mut book, 4);
    assert!(book.line_up(last, TTL));
    match &book.get(last).unwrap().place {
        Place::Waiting(ahead) => {
            assert_eq!(ahead.holder.as_ref().unwrap().attempt, Some(attempt));
        }
        _ => panic!("it does not wait"),
    }
}

#[test]
fn w1_a5_s3_who_knows_less_reads_the_queue() {
    type Way = fn(&mut Book, AttemptId, AttemptId);
    let ways: [(&str, u32, Way); 7] = [
        ("somebody is between", 4, |_, _, _| ()),
        ("the one in front left", 3, |book, _, ahead| {
            drop(book.forget(ahead))
        }),
        ("the one in front is lost", 3, |book, _, ahead| {
            drop(book.gone(ahead, LossReason::Evicted));
        }),
        ("the one in front holds", 3, |book, _, ahead| {
            book.first(ahead)
        }),
        ("another holds by now", 3, |book, holder, _| {
            drop(book.gone(holder, LossReason::Evicted));
        }),
        ("who holds by now is not known", 3, |book, holder, _| {
            drop(book.forget(holder))
        }),
        (
            "the holder's node was written over",
            3,
            |book, holder, _| {
                book.get_mut(holder).unwrap().trouble = Some(changed(AHEAD));
            },
        ),
    ];
    for (why, number, way) in ways {
        let (mut book, holder, attempt) = held();
        way(&mut book, holder, attempt);
        let next = enter_at(&mut book, number);
        assert!(!book.line_up(next, TTL), "{why}");
        assert!(matches!(book.get(next).unwrap().place, Place::Asked));
    }
    let (mut book, _) = waiter(1);
    let next = enter_at(&mut book, 3);
    assert!(!book.line_up(next, TTL), "the holder is none of ours");
}

#[test]
fn w2_who_lined_up_looks_when_the_one_in_front_leaves_the_queue() {
    let (mut book, _, attempt) = held();
    let next = enter_at(&mut book, 3);
    assert!(book.line_up(next, TTL));
    book.leave(attempt);
    let out = book.happened(&deleted(NODE), &proof(1, true));
    assert_eq!(out, [BackendEvent::Look { attempt: next }]);
}

#[test]
fn it_is_known_which_locks_are_waited_for() {
    let (mut book, attempt) = waiter(1);
    assert_eq!((book.waiting("/ns/x"), book.waiting("/ns/y")), (1, 0));
    book.first(attempt);
    assert_eq!(book.waiting("/ns/x"), 0);
}

#[test]
fn l2_the_own_node_s_end_is_a_loss_unless_we_removed_it() {
    let (mut book, attempt) = waiter(1);
    let lost = BackendEvent::Lost {
        attempt,
        reason: LossReason::Evicted,
    };
    assert_eq!(book.happened(&deleted(NODE), &proof(1, true)), [lost]);
    assert!(book.happened(&deleted(AHEAD), &proof(1, true)).is_empty());
    let (mut book, attempt) = waiter(1);
    book.leave(attempt);
    assert!(book.happened(&deleted(NODE), &proof(1, true)).is_empty());
}

#[test]
fn r1_l5_a_list_from_before_its_turn_makes_no_holder_wait_again() {
    let (mut book, attempt) = waiter(1);
    let ahead = match &book.get(attempt).unwrap().place {
        Place::Waiting(ahead) => (**ahead).clone(),
        place => panic!("{place:?}"),
    };
    book.first(attempt);
    book.wait(attempt, ahead);
    assert!(matches!(book.get(attempt).unwrap().place, Place::First));
}

#[test]
fn t3_an_attempt_has_one_node() {
    let (mut book, attempt) = waiter(1);
    let stat = Stat {
        czxid: 6,
        made: std::time::SystemTime::UNIX_EPOCH,
        owner: 9,
    };
    assert!(!book.found(attempt, AHEAD, &stat, FencingToken::new(0), 1));
    assert_eq!(
        book.enter(attempt, &"/ns/x".into(), &owner()),
        Entered::Known
    );
}

#[test]
fn l2_on_a_new_connection_the_node_must_be_the_same_one() {
    let made = std::time::SystemTime::UNIX_EPOCH;
    for (stat, reason) in [
        (None, Some(LossReason::Evicted)),
        (Some((5, 8)), Some(LossReason::SessionLost)),
        (Some((6, 9)), Some(LossReason::Displaced)),
        (Some((5, 9)), None),
    ] {
        let (mut book, attempt) = waiter(1);
        let stat = stat.map(|(czxid, owner)| Stat { czxid, made, owner });
        let out = book.seen(attempt, stat.as_ref(), 9, 2);
        let lost = reason.map(|reason| BackendEvent::Lost { attempt, reason });
        assert_eq!(out, Vec::from_iter(lost));
    }
}
