//! Compares the scripts on a real server with the core's queue machine. Both run the same random
//! operations at the same times; after each operation, the reply, the messages and the state have
//! to be equal.
//!
//! The test controls the clock, in place of `clock.lua`. Time steps are hours, so that no key
//! expires on the server by itself. The conformance suite checks on the real clock that keys
//! expire, and no earlier than they may.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, test_runner::TestCaseError};
use redis::{PubSub, Value};
use tenure_core::{
    backend::BackendEvent,
    id::{AttemptId, ClientId},
    mode::Mode,
    name::{LockName, Namespace},
    queue::{ClockId, Event, Now, Queue, Stamp},
    request::Owner,
    token::FencingToken,
};
use tenure_test_servers::redis::Server;

use self::{
    machine::{
        Messages, event, expected_attempts, expected_reply, forget_release, messages_match, micros,
        model_state, normalize_reply, shown_attempts,
    },
    server::{CLOCK_KEY, Store},
};
use crate::{
    keys::{INBOX_PREFIX, KeySpace, inbox},
    record::read_message,
    scripts::Scripts,
};

mod machine;
mod server;

const ATTEMPTS: usize = 7;
const HOUR_US: u64 = 3_600_000_000;
/// A plausible time of the server's clock.
const START_TIME: u64 = 1_800_000_000_000_000;

#[derive(Clone, Debug)]
enum Op {
    Enqueue(usize, bool, Mode),
    /// With the script for exclusive grants, or with the one for the others.
    Renew(usize, bool),
    Report(usize),
    /// With the token of the grant, or with another one.
    Downgrade(usize, bool),
    Remove(usize, bool),
    /// The grant of this holder; of none if there are fewer.
    Evict(usize),
    Inspect,
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    /// The step of the clock before the operation, forwards or backwards, in tenths of an hour.
    tenths: i64,
}

fn permits(take: u32, of: u32) -> Mode {
    Mode::permits(take, of).unwrap()
}

/// The modes of a history: all exclusive, readers and writers, permits, or everything.
fn modes() -> impl Strategy<Value = Vec<Mode>> {
    let readers = vec![Mode::Shared, Mode::Shared, Mode::Exclusive];
    let counted = vec![permits(1, 4), permits(1, 4), permits(2, 4), permits(4, 4)];
    let mixed = vec![
        Mode::Exclusive,
        Mode::Shared,
        Mode::Shared,
        permits(1, 2),
        permits(1, 3),
        permits(2, 3),
    ];
    prop_oneof![
        Just(vec![Mode::Exclusive]),
        Just(readers),
        Just(counted),
        Just(mixed)
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    modes().prop_flat_map(|modes| {
        let mode = proptest::sample::select(modes);
        let op = prop_oneof![
            6 => (0..ATTEMPTS, prop_oneof![3 => Just(true), 1 => Just(false)], mode)
                .prop_map(|(index, wait, mode)| Op::Enqueue(index, wait, mode)),
            3 => (0..ATTEMPTS, any::<bool>()).prop_map(|(index, joint)| Op::Renew(index, joint)),
            3 => (0..ATTEMPTS).prop_map(Op::Report),
            1 => (0..ATTEMPTS, prop_oneof![5 => Just(true), 1 => Just(false)])
                .prop_map(|(index, own)| Op::Downgrade(index, own)),
            4 => (0..ATTEMPTS, prop_oneof![2 => Just(false), 1 => Just(true)])
                .prop_map(|(index, fence)| Op::Remove(index, fence)),
            1 => (0..4_usize).prop_map(Op::Evict),
            1 => Just(Op::Inspect),
        ];
        // Steps backwards are rare: they stand for a server clock that is set back.
        let tenths = prop_oneof![8 => 0_i64..8, 2 => Just(10), 2 => -12_i64..0, 1 => 20_i64..40];
        let step = (op, tenths).prop_map(|(op, tenths)| Step { op, tenths });
        vec(step, 1..60)
    })
}

fn attempt(index: usize) -> AttemptId {
    AttemptId::from_u128(index as u128 + 1)
}

fn client(index: usize) -> ClientId {
    ClientId::from_u128(index as u128 % 2 + 100)
}

fn owner(index: usize) -> Owner {
    Owner::new(format!("label {index}"), "host", 7)
}

fn ttl(index: usize) -> Duration {
    Duration::from_micros(HOUR_US * (1 + index as u64 % 3))
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::builder().start().unwrap())
}

/// All messages up to one that the test itself sends.
fn messages(store: &mut Store, inboxes: &mut PubSub<'_>) -> Messages {
    let _: i64 = store.query("PUBLISH", &[&inbox(client(0)), "end"]);
    let mut messages = Vec::new();
    loop {
        let message = inboxes.get_message().unwrap();
        let channel = message.get_channel_name().strip_prefix(INBOX_PREFIX);
        let client = ClientId::parse(channel.unwrap()).unwrap();
        match message.get_payload_bytes() {
            b"end" => return messages,
            payload => messages.push((client, read_message(payload).unwrap())),
        }
    }
}

/// The token that an operation names.
fn named_token(op: &Op, queue: &Queue) -> u64 {
    let mut holders = queue.holders();
    let grant = |entry: &tenure_core::queue::Entry| entry.grant.unwrap().token.get();
    let own = |index: usize| {
        queue
            .holders()
            .find(|entry| entry.attempt == attempt(index))
    };
    match *op {
        Op::Renew(index, _) | Op::Downgrade(index, true) => own(index).map_or(7, grant),
        Op::Downgrade(index, false) => own(index).map_or(7, grant).saturating_sub(1),
        Op::Evict(number) => holders.nth(number).map_or(7, grant),
        _ => 7,
    }
}

fn run_history(steps: &[Step], floor: u64) -> Result<(), TestCaseError> {
    static RUN_NUMBER: Mutex<u64> = Mutex::new(0);
    let mut run_number = RUN_NUMBER.lock().unwrap_or_else(PoisonError::into_inner);
    *run_number += 1;
    let redis = redis::Client::open(server().url()).unwrap();
    let mut listening = redis.get_connection().unwrap();
    let mut inboxes = listening.as_pubsub();
    inboxes
        .subscribe(&[inbox(client(0)), inbox(client(1))])
        .unwrap();
    let name = LockName::new(format!("lock {run_number}")).unwrap();
    let mut store = Store {
        connection: redis.get_connection().unwrap(),
        scripts: Scripts::with_clock(&format!("local stamp = redis.call('GET', '{CLOCK_KEY}')\n")),
        keys: KeySpace::new(&Namespace::default())
            .lock(&name, false)
            .unwrap(),
        now: START_TIME,
        floor: floor.to_string(),
    };
    let mut queue = Queue::new();
    let mut as_of: BTreeMap<AttemptId, u64> = BTreeMap::new();
    for step in steps {
        // Inspecting is no event of the machine, so the clock does not advance with it. Whatever
        // lapses with time then ends in both at the same event.
        if !matches!(step.op, Op::Inspect) {
            store.now = store
                .now
                .saturating_add_signed(step.tenths * (HOUR_US as i64) / 10);
        }
        let at = |time| {
            let stamp = Stamp::new(ClockId::new(1), Duration::from_micros(time));
            Now::new(stamp, time, time + floor)
        };
        // An exclusive grant that no waiter follows is removed without reading the clock, as if the
        // removal had come before the grant lapsed.
        let removed_at = match (&step.op, queue.holder()) {
            (Op::Remove(index, false), Some(holder))
                if holder.attempt == attempt(*index)
                    && holder.mode.is_exclusive()
                    && queue.entries().count() == 1 =>
            {
                Some(micros(holder.refreshed.at).min(store.now))
            }
            _ => None,
        };
        let now = at(removed_at.unwrap_or(store.now));
        let token = named_token(&step.op, &queue);
        let answer = store.ask(&step.op, token);
        let received = messages(&mut store, &mut inboxes);
        let Some(event) = event(&step.op, token) else {
            prop_assert!(received.is_empty());
            prop_assert_eq!(store.state(), model_state(&queue, store.now));
            prop_assert_eq!(shown_attempts(&answer), expected_attempts(&queue, &now));
            if !queue.holders().any(|entry| entry.has_lapsed(&now)) {
                let listed = queue.listed(name.clone(), &now);
                let listed = listed.map_or((0, 0), |listed| (listed.holders, listed.waiters));
                let (holders, waiters) = store.list();
                prop_assert_eq!((holders as u64, waiters as u64), listed);
            }
            continue;
        };
        // First end what has lapsed, by an event that does nothing else.
        let mut notices = queue
            .on(
                Event::Evict {
                    token: FencingToken::new(0),
                },
                &now,
            )
            .notices;
        let before_step = queue.clone();
        let transition = queue.on(event, &now);
        notices.extend(transition.notices);
        forget_release(&mut queue, &before_step);
        if removed_at.is_some() {
            let nothing = FencingToken::new(0);
            queue.on(Event::Evict { token: nothing }, &at(store.now));
        }
        let recheck = match step.op {
            Op::Enqueue(index, ..) | Op::Renew(index, _) | Op::Report(index) => {
                queue.recheck(attempt(index), &now)
            }
            _ => None,
        };
        prop_assert_eq!(
            normalize_reply(&step.op, &answer),
            expected_reply(&step.op, transition.answer, recheck, &queue),
            "{:?}",
            step
        );
        prop_assert!(
            messages_match(&received, &notices),
            "received {:?}, expected {:?}",
            received,
            notices
        );
        prop_assert_eq!(
            store.state(),
            model_state(&queue, store.now),
            "after {:?}",
            step
        );
        // An entry that has lapsed and was enqueued again in one operation is another one.
        as_of.retain(|index, _| before_step.entry(*index).is_some());
        // The store times sent to one attempt rise, whatever the server's clock does (D4).
        let mut rises = |index, at| as_of.insert(index, at).is_none_or(|before| before < at);
        if let (
            Op::Enqueue(index, ..) | Op::Renew(index, _) | Op::Report(index),
            ("waiting", Value::Array(parts)),
        ) = (
            &step.op,
            (normalize_reply(&step.op, &answer).0.as_str(), &answer),
        ) && let Value::BulkString(at) = &parts[1]
            && queue.entry(attempt(*index)).is_some()
        {
            let at = String::from_utf8_lossy(at).parse().unwrap();
            prop_assert!(
                rises(attempt(*index), at),
                "a report's reply is not later than the previous one"
            );
        }
        for event in received.iter().flat_map(|(_, events)| events) {
            if let BackendEvent::Granted(grant) = event {
                prop_assert!(
                    rises(grant.attempt, grant.as_of.get()),
                    "a push is not later"
                );
            }
        }
        as_of.retain(|index, _| {
            queue
                .entry(*index)
                .is_some_and(|entry| entry.grant.is_none())
        });
    }
    for key in store.query::<Vec<String>>("KEYS", &["tenure:*"]) {
        let _: i64 = store.query("DEL", &[&key]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn scripts_behave_like_the_queue_machine(
        steps in steps(),
        // Numbers with a long carry, and numbers that a double cannot represent.
        floor in prop_oneof![3 => Just(0), 1 => Just(999_999_999_999_999_998), 1 => Just(1 << 61)],
    ) {
        run_history(&steps, floor)?;
    }
}
