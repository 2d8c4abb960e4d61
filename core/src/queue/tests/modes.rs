//! Properties of queues whose entries have different modes, and the comparison with the independent
//! model.

use std::collections::BTreeSet;

use super::*;

fn permits(take: u32, of: u32) -> Mode {
    Mode::Permits { take, of }
}

/// Histories with all modes, and downgrades.
fn mixed(clocks: u128) -> impl Strategy<Value = Vec<Act>> {
    let mode = prop_oneof![
        2 => Just(Mode::Exclusive),
        3 => Just(Mode::Shared),
        2 => Just(permits(1, 3)),
        1 => Just(permits(2, 3)),
        1 => Just(permits(1, 2)),
    ];
    let downgrade = prop::option::weighted(0.1, (0..ATTEMPTS, prop::bool::weighted(0.8)));
    let changes = prop::collection::vec((mode, downgrade), 80);
    (acts(clocks), changes).prop_map(|(mut acts, changes)| {
        for (act, (mode, downgrade)) in acts.iter_mut().zip(changes) {
            act.mode = mode;
            if let Some((who, present)) = downgrade {
                act.op = Op::Downgrade(who, present);
            }
        }
        acts
    })
}

fn modes(queue: &Queue) -> Vec<Mode> {
    queue.holders().map(|entry| entry.mode).collect()
}

proptest! {
    #[test]
    fn m1_m2_holders_are_compatible_and_a_prefix(acts in mixed(2)) {
        for Moment { after, .. } in history_with_ghosts(&acts) {
            let held = modes(&after);
            let taken: u32 = held.iter().map(|mode| match mode {
                Mode::Permits { take, .. } => *take,
                _ => 0,
            }).sum();
            let compatible = match held.first() {
                None | Some(Mode::Exclusive) => held.len() <= 1,
                Some(Mode::Shared) => held.iter().all(|mode| *mode == Mode::Shared),
                Some(Mode::Permits { of, .. }) => {
                    let same = |mode: &Mode| matches!(mode, Mode::Permits { of: other, .. } if other == of);
                    held.iter().all(same) && taken <= *of
                }
            };
            prop_assert!(compatible, "{held:?}");
            let behind = after.entries().skip(held.len());
            prop_assert!(behind.into_iter().all(|entry| entry.grant.is_none()));
            prop_assert_eq!(after.validate(), Ok(()));
        }
    }

    #[test]
    fn m2_nobody_is_overtaken(acts in mixed(2)) {
        for moment in history(&acts) {
            let newly = moment.after.holders().filter(|entry| {
                moment.before.entry(entry.attempt).is_none_or(|before| before.grant.is_none())
            });
            for granted in newly {
                // Whoever was ahead holds too, or has left.
                for ahead in moment.before.entries().take_while(|entry| entry.attempt != granted.attempt) {
                    let still = moment.after.entry(ahead.attempt);
                    prop_assert!(still.is_none_or(|entry| entry.grant.is_some()));
                }
            }
        }
    }

    #[test]
    fn m3_tokens_rise_and_the_floor_never_falls(acts in mixed(2)) {
        let (mut tokens, mut last_floor) = (BTreeSet::new(), 0);
        for moment in history(&acts) {
            for notice in &moment.step.notices {
                if let NoticeKind::Granted { token, floor, .. } = notice.kind {
                    prop_assert!(tokens.insert(token) && floor <= token);
                }
            }
            if let Answer::Granted { token, floor } = moment.step.answer {
                tokens.insert(token);
                prop_assert!(floor <= token);
                let alive = moment.after.holders().map(|entry| entry.grant.unwrap().token);
                prop_assert_eq!(alive.min(), Some(floor));
                prop_assert!(floor.get() >= last_floor, "{floor} after {last_floor}");
                last_floor = floor.get();
            }
        }
    }

    #[test]
    fn m4_downgrade_keeps_entry_place_and_token(acts in mixed(2)) {
        for moment in history(&acts) {
            let Event::Downgrade { attempt, token } = moment.event else { continue };
            let Some(before) = moment.before.entry(attempt) else { continue };
            if before.grant.is_none_or(|grant| grant.token != token) || before.has_lapsed(&moment.now) {
                continue;
            }
            let after = moment.after.entry(attempt).unwrap();
            let mode = if before.mode.is_exclusive() { Mode::Shared } else { before.mode };
            prop_assert_eq!((after.grant, after.mode), (before.grant, mode));
            let held = matches!(moment.step.answer, Answer::Granted { token: same, .. } if same == token);
            prop_assert!(held);
        }
    }

    #[test]
    fn w3_leaving_wakes_only_those_whose_turn_it_is(acts in mixed(2)) {
        for moment in history(&acts) {
            for (who, _) in moment.told_granted() {
                let gone = moment.after.entry(who).is_none();
                let subject = moment.event.subject(&moment.before) == Some(who);
                let holds = moment.after.entry(who).is_some_and(|entry| entry.grant.is_some());
                prop_assert!(holds || gone && subject);
            }
        }
    }

    #[test]
    fn i2_eviction_revokes_one_grant_among_several(acts in mixed(2)) {
        for moment in history(&acts) {
            let Event::Evict { token } = moment.event else { continue };
            for entry in moment.before.holders() {
                let gone = moment.after.entry(entry.attempt).is_none();
                let named = entry.grant.unwrap().token == token;
                prop_assert_eq!(gone, named || entry.has_lapsed(&moment.now));
            }
        }
    }

    #[test]
    fn s3_only_other_modes_change_the_stored_state(acts in mixed(2)) {
        for moment in history_with_ghosts(&acts) {
            let text = serde_json::to_string(&moment.after).unwrap();
            prop_assert_eq!(text.contains("mode"), !moment.after.is_exclusive());
            prop_assert_eq!(&serde_json::from_str::<Queue>(&text).unwrap(), &moment.after);
        }
    }

    #[test]
    fn agrees_with_a_naive_model(acts in acts(2)) {
        agree(&acts)?;
    }

    #[test]
    fn agrees_with_a_naive_model_in_all_modes(acts in mixed(2)) {
        agree(&acts)?;
    }
}

fn agree(acts: &[Act]) -> Result<(), TestCaseError> {
    let mut naive = naive::Naive::default();
    for moment in history_with_ghosts(acts) {
        let (answer, told) = naive.on(&moment.event, &moment.now);
        prop_assert_eq!(answer, naive::show(&moment.step.answer));
        let notices: Vec<_> = moment.step.notices.iter().map(naive::show_notice).collect();
        prop_assert_eq!(told, notices);
        prop_assert_eq!(naive.rows(), naive::rows_of(&moment.after));
    }
    Ok(())
}

/// Enqueues attempts with these modes, one microsecond after the other.
fn queue_of(modes: &[Mode]) -> Queue {
    let mut queue = Queue::new();
    for (who, mode) in (0..).zip(modes) {
        let mut event = event(&Op::Enqueue(who, true), &queue);
        if let Event::Enqueue { mode: of, ttl, .. } = &mut event {
            *of = *mode;
            *ttl = Duration::from_secs(1);
        }
        queue.on(event, &now(u64::try_from(who).unwrap(), 0, 0));
    }
    queue
}

fn held(queue: &Queue) -> Vec<u128> {
    let ids = queue.holders().map(|entry| entry.attempt.as_u128() - 1);
    ids.collect()
}

fn remove(queue: &mut Queue, who: u128) -> Step {
    let removal = event(&Op::Remove(who, false), queue);
    queue.on(removal, &now(10, 0, 0))
}

#[test]
fn m2_a_reader_behind_a_waiting_writer_waits() {
    let mut queue = queue_of(&[Mode::Shared, Mode::Shared, Mode::Exclusive, Mode::Shared]);
    assert_eq!(held(&queue), [0, 1]);
    remove(&mut queue, 0);
    assert_eq!(held(&queue), [1]);
    remove(&mut queue, 1);
    assert_eq!(held(&queue), [2]);
    remove(&mut queue, 2);
    assert_eq!(held(&queue), [3]);
}

#[test]
fn m2_small_requests_do_not_overtake_a_large_one() {
    let modes = [permits(2, 3), permits(1, 3), permits(3, 3), permits(1, 3)];
    let mut queue = queue_of(&modes);
    assert_eq!(held(&queue), [0, 1]);
    remove(&mut queue, 0);
    assert_eq!(
        held(&queue),
        [1],
        "one permit of three is not enough for the first waiter"
    );
    remove(&mut queue, 1);
    assert_eq!(held(&queue), [2]);
}

#[test]
fn m2_a_writer_that_leaves_lets_the_readers_behind_it_join() {
    let mut queue = queue_of(&[Mode::Shared, Mode::Exclusive, Mode::Shared, Mode::Shared]);
    let step = remove(&mut queue, 1);
    assert_eq!(held(&queue), [0, 2, 3]);
    assert_eq!(
        (step.answer, step.notices.len()),
        (Answer::RemovedWaiter, 2)
    );
}

#[test]
fn m2_a_dead_writer_does_not_keep_readers_from_readers() {
    let mut queue = queue_of(&[Mode::Shared, Mode::Exclusive, Mode::Shared]);
    let second = 1_000_000;
    let late = now(second - 1, 0, 0);
    for who in [0, 2] {
        queue.on(event(&Op::Renew(who), &queue), &late);
    }
    assert_eq!(held(&queue), [0]);
    // The predecessor of the last reader is the writer, until it lapses.
    let left = queue.recheck(attempt(2), &late).unwrap();
    assert_eq!(left, Duration::from_micros(2));
    queue.on(event(&Op::Renew(2), &queue), &now(second + 1, 0, 0));
    assert_eq!(held(&queue), [0, 2]);
}

#[test]
fn x3_the_first_waiter_looks_after_every_holder() {
    let mut queue = queue_of(&[permits(1, 2), permits(1, 2), permits(1, 2)]);
    let late = now(900_000, 0, 0);
    queue.on(event(&Op::Renew(1), &queue), &late);
    // The first holder lapses before its neighbour, which is nearer to the waiter.
    let left = queue.recheck(attempt(2), &late).unwrap();
    assert_eq!(left, Duration::from_micros(100_000));
    queue.on(event(&Op::Renew(2), &queue), &late);
    let step = queue.on(event(&Op::Renew(2), &queue), &now(1_000_000, 0, 0));
    assert_eq!(held(&queue), [1, 2]);
    assert_eq!(step.notices.len(), 2);
}

#[test]
fn m4_a_queued_writer_is_not_overtaken_by_a_downgrade() {
    let modes = [Mode::Exclusive, Mode::Shared, Mode::Exclusive, Mode::Shared];
    let mut queue = queue_of(&modes);
    for _ in 0..2 {
        let downgrade = event(&Op::Downgrade(0, true), &queue);
        queue.on(downgrade, &now(9, 0, 0));
        assert_eq!(held(&queue), [0, 1]);
    }
}

#[test]
fn x3_a_clock_that_was_set_back_delays_no_reader_behind_a_dead_writer() {
    let mut queue = queue_of(&[Mode::Shared, Mode::Exclusive, Mode::Shared]);
    for who in 0..3 {
        queue.on(event(&Op::Renew(who), &queue), &now(900_000, 0, 0));
    }
    // The clock falls back; the writer is dead, the readers live.
    for at in [100_000, 1_000_000] {
        for who in [0, 2] {
            queue.on(event(&Op::Renew(who), &queue), &now(at, 0, 0));
        }
    }
    queue.on(event(&Op::Renew(2), &queue), &now(1_100_000, 0, 0));
    assert_eq!(held(&queue), [0, 2]);
}
