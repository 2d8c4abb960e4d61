use std::time::Duration;

use tenure_core::clock::{Clock, ManualClock};

use super::*;

/// Waiting for that key, with a watch of that number.
pub(crate) fn behind(key: &str, watch: u64) -> Ahead {
    Ahead {
        key: key.to_owned(),
        revision: 1,
        watch,
        is_holder: true,
        is_told: false,
        holder: None,
    }
}

fn entered(book: &Book) -> AttemptId {
    let attempt = AttemptId::random().unwrap();
    book.begin(attempt, &LockName::new("a").unwrap());
    attempt
}

#[test]
fn an_answer_from_before_its_turn_takes_a_holder_no_more_back_to_waiting() {
    let book = Book::default();
    let attempt = entered(&book);
    assert!(book.follow(attempt, behind("k", 7)).is_some());
    assert_eq!(book.hold(attempt), Some((Some(7), false)));
    assert_eq!(book.follow(attempt, behind("j", 8)), None);
    let sight = book.sight(attempt).unwrap();
    assert_eq!(sight.stage, Stage::Holding);
    assert!(!book.awaits(attempt, 8));
}

#[test]
fn only_the_last_watch_of_each_kind_is_awaited() {
    let book = Book::default();
    let attempt = entered(&book);
    book.follow(attempt, behind("k", 7)).unwrap();
    book.edit(attempt, |entry| entry.watch = 9).unwrap();
    assert!(book.awaits(attempt, 7) && book.awaits(attempt, 9));
    assert_eq!(book.follow(attempt, behind("j", 8)), Some((Some(7), true)));
    assert!(!book.awaits(attempt, 7) && book.awaits(attempt, 8));
    let (_, ended) = book.leave(attempt).unwrap();
    assert_eq!(ended, [9, 8]);
    assert!(!book.awaits(attempt, 8) && !book.awaits(attempt, 9));
}

/// A key is used again: whoever waited for the contender that had it before is not the heir of the one
/// that has it now.
#[test]
fn the_heir_waits_for_that_very_contender() {
    let book = Book::default();
    let attempt = entered(&book);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let lease = Lease::new(1, Duration::from_secs(5), clock.now());
    let seat = Seat::new(Arc::new(lease), clock);
    book.seat(attempt, seat, "me".to_owned()).unwrap();
    assert!(book.heir("k", 1).is_none());
    book.follow(attempt, behind("k", 7)).unwrap();
    assert!(book.heir("k", 2).is_none());
    assert_eq!(book.heir("k", 1).unwrap().attempt, attempt);
    book.hold(attempt).unwrap();
    assert!(book.heir("k", 1).is_none());
}

/// A deletion that was not answered may arrive at any time, and deletes whatever has that key.
#[test]
fn a_key_is_used_again_only_if_nothing_is_under_way_that_deletes_it() {
    let book = Book::default();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let lease = Arc::new(Lease::new(1, Duration::from_secs(5), clock.now()));
    let enter = || {
        let attempt = entered(&book);
        let seat = Seat::new(Arc::clone(&lease), Arc::clone(&clock));
        (attempt, book.seat(attempt, seat, "me".to_owned()).unwrap())
    };
    let (answered, key) = enter();
    assert_eq!(&*key, "me0");
    let slot = book.withhold(answered).unwrap();
    book.give_back(answered, slot);
    book.forget(answered);

    let (unanswered, key) = enter();
    assert_eq!(&*key, "me0");
    assert!(book.withhold(unanswered).is_some());
    // The repetition is answered.
    assert!(book.withhold(unanswered).is_none());
    book.forget(unanswered);

    let (_, key) = enter();
    assert_eq!(&*key, "me1");
}
