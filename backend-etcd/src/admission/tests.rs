use std::time::Duration;

use tenure_core::{
    id::{AttemptId, ClientId},
    queue::{ClockId, Event, Now, Queue, Stamp},
    request::Owner,
};

use super::*;

const fn permits(take: u32, of: u32) -> Mode {
    Mode::Permits { take, of }
}

const WRITER: Mode = Mode::Exclusive;
const READER: Mode = Mode::Shared;

#[test]
fn m1_m2_only_a_compatible_prefix_holds() {
    for (queue, holders) in [
        (&[][..], 0),
        (&[WRITER, WRITER], 1),
        (&[READER, READER, WRITER, READER], 2),
        (&[WRITER, READER], 1),
        (&[permits(2, 4), permits(2, 4), permits(1, 4)], 2),
        // A small request does not overtake a large one.
        (&[permits(3, 4), permits(2, 4), permits(1, 4)], 1),
        (&[permits(1, 4), permits(1, 5), permits(1, 4)], 1),
        (&[READER, permits(1, 4), READER], 1),
        (&[permits(1, 4), READER], 1),
    ] {
        assert_eq!(holder_count(queue.iter().copied()), holders, "{queue:?}");
    }
}

#[test]
fn w3_only_the_first_waiter_without_a_permit_waits_for_several_entries() {
    let entry = |index, until| Some(Awaited::Entry(index, until));
    for (mode, ahead, expected) in [
        (READER, &[][..], None),
        (READER, &[READER, READER], None),
        (READER, &[WRITER], entry(0, Until::RemovedOrShared)),
        (
            READER,
            &[READER, WRITER, READER, READER],
            entry(1, Until::RemovedOrShared),
        ),
        (
            READER,
            &[WRITER, permits(1, 2), READER],
            entry(1, Until::RemovedOrShared),
        ),
        (permits(1, 2), &[permits(1, 2)], None),
        (
            permits(1, 2),
            &[permits(1, 2), permits(1, 2)],
            Some(Awaited::AnyRemoval),
        ),
        (
            permits(1, 2),
            &[permits(1, 2), permits(2, 2)],
            entry(1, Until::RemovedOrPut),
        ),
        (
            permits(1, 2),
            &[WRITER, permits(1, 2)],
            entry(0, Until::Removed),
        ),
        (
            permits(2, 2),
            &[WRITER, permits(1, 2)],
            entry(1, Until::RemovedOrPut),
        ),
        (permits(1, 2), &[permits(1, 3)], entry(0, Until::Removed)),
        (permits(1, 2), &[READER, READER], entry(1, Until::Removed)),
        (permits(1, 2), &[WRITER, READER], entry(1, Until::Removed)),
    ] {
        assert_eq!(awaited(mode, ahead), expected, "{mode} behind {ahead:?}");
    }
}

/// Repeatable random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

fn modes_of(queue: &Queue) -> Vec<Mode> {
    queue.entries().map(|entry| entry.mode).collect()
}

/// The queue machine of the core, and this decision, on random events. Each waiter also learns of its
/// turn: the entry that it waits for changes in the same event in which the machine grants it the lock,
/// or another waiter announces it.
#[test]
fn m2_holders_and_awaited_entries_agree_with_the_queue_machine() {
    let modes = [
        WRITER,
        READER,
        READER,
        permits(1, 3),
        permits(2, 3),
        permits(3, 3),
        permits(1, 2),
    ];
    let now = Now::new(Stamp::new(ClockId::new(1), Duration::from_secs(1)), 1, 1);
    for seed in 1..=200 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut queue = Queue::new();
        for step in 0..100_u128 {
            let before: Vec<_> = queue
                .entries()
                .map(|entry| (entry.attempt, entry.mode))
                .collect();
            let holders_before = queue.holders().count();
            let event = match (random.below(3), before.len()) {
                (0, 1..) => Event::Remove {
                    attempt: before[random.below(before.len())].0,
                    fence: None,
                },
                (1, 1..) => {
                    let holder = queue.holder().unwrap();
                    let (attempt, token) = (holder.attempt, holder.grant.unwrap().token);
                    Event::Downgrade { attempt, token }
                }
                _ => Event::Enqueue {
                    attempt: AttemptId::from_u128(step + 1),
                    client: ClientId::from_u128(1),
                    owner: Owner::default(),
                    ttl: Duration::from_secs(60),
                    wait: true,
                    mode: modes[random.below(modes.len())],
                },
            };
            queue.on(event.clone(), &now);
            let after = modes_of(&queue);
            assert_eq!(
                holder_count(after.iter().copied()),
                queue.holders().count(),
                "{after:?}"
            );
            for (index, entry) in queue.entries().enumerate() {
                if !entry.mode.is_exclusive() {
                    let holds = awaited(entry.mode, &after[..index]).is_none();
                    assert_eq!(holds, entry.grant.is_some(), "entry {index} of {after:?}");
                }
                let window = usize::try_from(deciding_entries(entry.mode)).unwrap();
                if window > 0 && index >= window {
                    let known = &after[index - window..index];
                    let in_window = awaited(entry.mode, known);
                    match in_window.unwrap() {
                        Awaited::Entry(ahead, Until::Removed) => {
                            assert!(!may_await_put(entry.mode, known[ahead]));
                        }
                        other => assert_eq!(other, Awaited::Entry(window - 1, Until::RemovedOrPut)),
                    }
                }
            }
            assert_turns_are_announced(&before, holders_before, &queue);
        }
    }
}

fn assert_turns_are_announced(before: &[(AttemptId, Mode)], holders_before: usize, queue: &Queue) {
    let modes: Vec<_> = before.iter().map(|(_, mode)| *mode).collect();
    let mut puts = Vec::new();
    for (index, (attempt, mode)) in before.iter().enumerate().skip(holders_before) {
        let granted = queue
            .entry(*attempt)
            .is_some_and(|entry| entry.grant.is_some());
        if !granted || mode.is_exclusive() {
            continue;
        }
        let is_gone = |index: usize| queue.entry(before[index].0).is_none();
        let announced = match awaited(*mode, &modes[..index]).unwrap() {
            Awaited::AnyRemoval => (0..index).any(is_gone),
            Awaited::Entry(ahead, until) => {
                let is_shared = queue
                    .entry(before[ahead].0)
                    .is_some_and(|one| one.mode == READER);
                is_gone(ahead)
                    || until == Until::RemovedOrShared && is_shared
                    || until == Until::RemovedOrPut && puts.contains(&ahead)
            }
        };
        assert!(
            announced,
            "entry {index} of {modes:?} is granted and not told"
        );
        if matches!(mode, Mode::Permits { .. }) {
            puts.push(index);
        }
    }
}
