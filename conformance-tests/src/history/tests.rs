//! The checker on invented histories: a sound one that comes close to every line, and one that
//! crosses each.

use std::time::Duration;

use tenure_core::mode::Mode;

use super::{
    Activity, Bounds, Ending, Fault, History, Property, ReplayFile, Tenancy, Wait, Write, check,
};

const SECOND: u64 = 1_000_000;

fn bounds() -> Bounds {
    Bounds::new(Duration::from_secs(3), Duration::from_secs(1))
}

fn grant(worker: u32, token: u64, held: (u64, u64)) -> Tenancy {
    Tenancy {
        lock: "a".to_owned(),
        worker,
        token,
        mode: Mode::Exclusive,
        shared_from: None,
        held_from: held.0 * SECOND,
        held_until: held.1 * SECOND,
        ending: Ending::Released {
            asked: held.1 * SECOND,
            held: Some(true),
        },
    }
}

fn wait(worker: u32, asked: u64, ended: u64, token: Option<u64>) -> Wait {
    Wait {
        lock: "a".to_owned(),
        worker,
        asked: asked * SECOND,
        ended: ended * SECOND,
        token,
        error: None,
    }
}

fn write(token: u64, read: u64, at: u64, accepted: bool) -> Write {
    Write {
        lock: "a".to_owned(),
        worker: 0,
        token,
        read,
        at,
        accepted,
    }
}

fn lost(told: u64, due: u64, reason: &str) -> Ending {
    Ending::Lost {
        told: told * SECOND,
        due: due * SECOND,
        reason: reason.to_owned(),
        afterwards: Vec::new(),
    }
}

/// Two grants one after the other, a loss in time, a fault that explains a long wait, and a stale
/// write that the resource refused.
fn correct() -> History {
    let mut dead = grant(2, 7, (6, 9));
    dead.ending = lost(10, 9, "expired");
    History {
        grants: vec![grant(1, 5, (0, 5)), dead, grant(3, 9, (30, 31))],
        waits: vec![
            wait(2, 1, 6, Some(7)),
            wait(3, 1, 30, Some(9)),
            wait(4, 8, 33, None),
        ],
        writes: vec![
            write(5, 0, 1, true),
            write(9, 1, 2, true),
            write(7, 1, 3, false),
        ],
        faults: vec![Fault {
            what: "no quorum".to_owned(),
            from: 8 * SECOND,
            until: 27 * SECOND,
            took_effect: true,
        }],
    }
}

#[track_caller]
fn assert_violates(history: &History, of: Property) {
    let found = check(history, &bounds());
    let kinds: Vec<_> = found.iter().map(|violation| violation.property).collect();
    assert_eq!(kinds, [of], "{found:#?}");
    assert!(found[0].to_string().contains("lock \"a\""));
}

#[test]
fn correct_history_has_no_violation() {
    assert_eq!(check(&correct(), &bounds()), []);
    assert_eq!(check(&History::default(), &bounds()), []);
}

fn in_mode(mode: Mode, grant: Tenancy) -> Tenancy {
    Tenancy { mode, ..grant }
}

/// Readers and permits that overlap, tokens of readers in another order than they were observed, and a
/// writer that readers join after its downgrade.
fn correct_in_modes() -> History {
    let two = Mode::Permits { take: 2, of: 3 };
    let one = Mode::Permits { take: 1, of: 3 };
    let mut downgraded = grant(4, 8, (6, 12));
    downgraded.shared_from = Some(8 * SECOND);
    History {
        grants: vec![
            in_mode(Mode::Shared, grant(1, 6, (0, 5))),
            in_mode(Mode::Shared, grant(2, 5, (1, 6))),
            downgraded,
            in_mode(Mode::Shared, grant(5, 9, (9, 11))),
            in_mode(two, grant(6, 10, (12, 20))),
            in_mode(one, grant(7, 11, (13, 20))),
            grant(8, 12, (20, 21)),
        ],
        ..History::default()
    }
}

#[test]
fn m1_m3_correct_history_of_several_holders_has_no_violation() {
    assert_eq!(check(&correct_in_modes(), &bounds()), []);
}

#[test]
fn m1_incompatible_holders_are_a_violation() {
    let breaks: [fn(&mut Vec<Tenancy>); 4] = [
        // A writer begins while a reader holds the lock.
        |grants| grants[2].held_from = 6 * SECOND - 1,
        // A reader joins before the downgrade.
        |grants| grants[3].held_from = 8 * SECOND - 1,
        // Four of three permits.
        |grants| grants[5].mode = Mode::Permits { take: 2, of: 3 },
        // Another number of permits.
        |grants| grants[5].mode = Mode::Permits { take: 1, of: 9 },
    ];
    for change in breaks {
        let mut history = correct_in_modes();
        change(&mut history.grants);
        assert_violates(&history, Property::TwoHolders);
    }
}

#[test]
fn m3_equal_tokens_and_tokens_below_those_excluded_are_a_violation() {
    let breaks: [fn(&mut Vec<Tenancy>); 3] = [
        |grants| grants[1].token = 6,
        |grants| grants[6].token = 7,
        |grants| grants[3].token = 7,
    ];
    for change in breaks {
        let mut history = correct_in_modes();
        change(&mut history.grants);
        assert_violates(&history, Property::TokenFell);
    }
}

#[test]
fn x1_two_holders_are_a_violation() {
    let mut history = correct();
    history.grants[0].held_until = 6 * SECOND + 1;
    assert_violates(&history, Property::TwoHolders);
    // One that ended long before lies between the two that overlap.
    let mut history = correct();
    history.grants[0].held_until = 30 * SECOND + 1;
    let found = check(&history, &bounds());
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn x1_guard_of_an_evicted_grant_may_be_held_for_a_moment() {
    let mut history = correct();
    history.grants[0].held_until = 7 * SECOND;
    history.grants[0].ending = lost(7, 20, "evicted");
    assert_eq!(check(&history, &bounds()), []);
}

#[test]
fn t1_token_that_falls_or_stays_is_a_violation() {
    for token in [7, 6] {
        let mut history = correct();
        history.grants[2].token = token;
        assert_violates(&history, Property::TokenFell);
    }
}

#[test]
fn t1_tokens_of_different_locks_are_not_compared() {
    let mut history = correct();
    let mut other = grant(5, 1, (40, 41));
    other.lock = "b".to_owned();
    history.grants.push(other);
    assert_eq!(check(&history, &bounds()), []);
}

#[test]
fn l1_late_report_of_a_loss_is_a_violation() {
    let mut history = correct();
    history.grants[1].ending = lost(11, 9, "expired");
    assert_violates(&history, Property::LateNotice);
}

#[test]
fn l4_operation_that_succeeds_after_the_loss_is_a_violation() {
    let mut history = correct();
    if let Ending::Lost { afterwards, .. } = &mut history.grants[1].ending {
        afterwards.push("release()".to_owned());
    }
    assert_violates(&history, Property::NotTheHolder);
}

#[test]
fn w2_free_lock_that_is_not_granted_is_a_violation() {
    // Healed at 20 and granted at 30, where four seconds are allowed.
    let mut history = correct();
    history.faults[0].until = 20 * SECOND;
    assert_violates(&history, Property::Stalled);
    // And a waiter without a grant, after all other operations.
    let mut history = correct();
    history.waits[2].ended = 36 * SECOND;
    assert_violates(&history, Property::Stalled);
}

#[test]
fn t1_lost_write_is_a_violation() {
    // Two wrote what follows the same number.
    let mut history = correct();
    history.writes[1].read = 0;
    assert_violates(&history, Property::LostUpdate);
    // A stale token was taken.
    let mut history = correct();
    history.writes[2] = write(7, 2, 3, true);
    assert_violates(&history, Property::LostUpdate);
}

#[test]
fn saved_history_has_the_same_violations() {
    let mut history = correct();
    history.grants[2].token = 1;
    let replay_file = ReplayFile::new(history, bounds());
    let directory = tempfile::tempdir().unwrap();
    let file = replay_file.write(directory.path(), "fell").unwrap();
    let read = ReplayFile::read(&file).unwrap();
    assert_eq!(read, replay_file);
    assert_eq!(read.check(), replay_file.check());
    assert_eq!(read.check()[0].property, Property::TokenFell);
}

#[test]
fn release_with_unknown_outcome_is_no_violation() {
    let mut history = correct();
    history.grants[0].ending = Ending::Released {
        asked: 5 * SECOND,
        held: None,
    };
    assert_eq!(check(&history, &bounds()), []);
}

#[test]
fn run_with_too_little_activity_is_an_error() {
    let activity = Activity::of(&correct());
    let seen = Activity::none().operations(9).grants(3, 2).faults(1, 1);
    assert_eq!(activity, seen);
    assert!(activity.at_least(&seen).is_ok());
    for more in [
        seen.operations(10),
        seen.grants(4, 2),
        seen.grants(3, 3),
        seen.faults(2, 1),
        seen.faults(1, 2),
    ] {
        let error = activity.at_least(&more).unwrap_err();
        assert!(error.to_string().contains("too little activity"), "{error}");
    }
}
