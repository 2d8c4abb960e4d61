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
use redis::{Connection, PubSub, Value};
use tenure_core::{
    backend::BackendEvent,
    id::{AttemptId, ClientId},
    name::{LockName, Namespace},
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp},
    request::{Enqueue, Owner},
    token::FencingToken,
};
use tenure_test_servers::redis::Server;

use crate::scripts::{self, Scripts};
use crate::{
    keys::{KeySpace, LockKeys, inbox},
    record::{decode_owner, read_message},
    transport::{Script, ScriptCall},
};

const ATTEMPTS: usize = 6;
const HOUR_US: u64 = 3_600_000_000;
/// A plausible time of the server's clock.
const START_TIME: u64 = 1_800_000_000_000_000;

/// The key that serves as the clock of a test.
const CLOCK_KEY: &str = "clock";

#[derive(Clone, Debug)]
enum Op {
    Enqueue(usize, bool),
    Renew(usize),
    Report(usize),
    Remove(usize, bool),
    Evict(bool),
    Inspect,
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    /// The step of the clock before the operation, forwards or backwards, in tenths of an hour.
    tenths: i64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = prop_oneof![
        5 => (0..ATTEMPTS, any::<bool>()).prop_map(|(index, wait)| Op::Enqueue(index, wait)),
        3 => (0..ATTEMPTS).prop_map(Op::Renew),
        3 => (0..ATTEMPTS).prop_map(Op::Report),
        4 => (0..ATTEMPTS, any::<bool>()).prop_map(|(index, fence)| Op::Remove(index, fence)),
        1 => any::<bool>().prop_map(Op::Evict),
        1 => Just(Op::Inspect),
    ];
    // Steps backwards are rare: they stand for a server clock that is set back.
    let tenths = prop_oneof![8 => 0_i64..8, 2 => Just(10), 2 => -12_i64..0, 1 => 20_i64..40];
    vec(
        (op, tenths).prop_map(|(op, tenths)| Step { op, tenths }),
        1..60,
    )
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

/// The state of a lock, in a form that the server and the machine can be compared in.
#[derive(Debug, PartialEq, Eq)]
struct LockState {
    last_token: u64,
    entries: Vec<EntryState>,
    fenced: BTreeMap<AttemptId, (u64, u64)>,
    ended: Option<(AttemptId, String)>,
}

#[derive(Debug, PartialEq, Eq)]
struct EntryState {
    attempt: AttemptId,
    client: String,
    owner: Owner,
    ttl: u64,
    refreshed: u64,
    enqueued: u64,
    /// The token, and the time of the grant.
    grant: Option<(u64, u64)>,
}

struct Store {
    connection: Connection,
    scripts: Scripts,
    keys: LockKeys,
    now: u64,
    floor: String,
}

impl Store {
    /// Runs a script with the test's clock, with the keys and arguments of a call for the script
    /// with the server's clock.
    fn run(&mut self, script: impl Fn(&Scripts) -> &Script, call: &ScriptCall) -> Value {
        let text = script(&self.scripts).text.clone();
        let (keys, args) = (&call.keys, &call.args);
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(keys.len()).arg(keys);
        command.arg(args);
        let clock = self.now.to_string();
        let _: () = self.query("SET", &[CLOCK_KEY, &clock]);
        call.unwrap_reply(command.query(&mut self.connection).unwrap())
    }

    fn report(&mut self, index: usize) -> Value {
        let mut call = ScriptCall::new(&Scripts::get().report);
        self.keys.push_all(&mut call);
        call.arg(&self.floor);
        call.arg(attempt(index));
        let answers = self.run(|all| &all.report, &call);
        let Value::Array(mut answers) = answers else {
            panic!("{answers:?}")
        };
        answers.remove(0)
    }

    /// Runs on the server the operation that the machine runs.
    fn ask(&mut self, op: &Op, token: u64) -> Value {
        match *op {
            Op::Enqueue(index, wait) => {
                let name = LockName::new("any").unwrap();
                let request = Enqueue::new(name, attempt(index), owner(index), ttl(index), wait);
                let call = scripts::enqueue_call(&self.keys, &request, client(index), &self.floor);
                self.run(|all| &all.enqueue, &call)
            }
            Op::Renew(index) => {
                let mut call = ScriptCall::new(&Scripts::get().renew);
                call.key(&self.keys.holder);
                call.arg(attempt(index));
                call.arg(token);
                match self.run(|all| &all.renew, &call) {
                    Value::Array(answers) if answers == [Value::Int(1)] => {
                        Value::Array(vec![text("granted"), text(&token.to_string())])
                    }
                    _ => self.report(index),
                }
            }
            Op::Report(index) => self.report(index),
            Op::Remove(index, fence) => {
                let fence = if fence { ttl(index) } else { Duration::ZERO };
                let call =
                    scripts::remove_call(&self.keys, attempt(index), fence, &self.floor, false);
                self.run(|all| &all.remove, &call)
            }
            Op::Evict(_) => {
                let mut call = ScriptCall::new(&Scripts::get().evict);
                self.keys.push_all(&mut call);
                call.arg(token);
                call.arg(&self.floor);
                call.arg(0);
                self.run(|all| &all.evict, &call)
            }
            Op::Inspect => {
                let mut call = ScriptCall::new(&Scripts::get().inspect);
                self.keys.push_for_inspect(&mut call);
                call.arg("-inf");
                call.arg(500);
                self.run(|all| &all.inspect, &call)
            }
        }
    }

    fn query<T: redis::FromRedisValue>(&mut self, command: &str, args: &[&str]) -> T {
        redis::cmd(command)
            .arg(args)
            .query(&mut self.connection)
            .unwrap()
    }

    fn state(&mut self) -> LockState {
        let number = |word: &str| word.parse::<u64>().unwrap();
        let mut state = LockState {
            last_token: 0,
            entries: Vec::new(),
            fenced: BTreeMap::new(),
            ended: None,
        };
        let keys = self.keys.clone();
        if let Some(holder) = self.query::<Option<String>>("GET", &[&keys.holder]) {
            let words: Vec<_> = holder.split(' ').collect();
            let [
                _,
                id,
                refreshed,
                token,
                ttl,
                client,
                owner,
                enqueued,
                granted,
            ] = words[..]
            else {
                panic!("{holder}");
            };
            state.entries.push(EntryState {
                attempt: AttemptId::parse(id).unwrap(),
                client: client.to_owned(),
                owner: decode_owner(owner).unwrap(),
                ttl: number(ttl),
                refreshed: number(refreshed),
                enqueued: number(enqueued),
                grant: Some((number(token), number(granted))),
            });
        }
        if let Some(fence) = self.query::<Option<String>>("GET", &[&keys.last_token()]) {
            let words: Vec<_> = fence.split(' ').collect();
            state.last_token = number(words[1]);
            state.ended = words
                .get(2)
                .map(|id| (AttemptId::parse(id).unwrap(), words[3].to_owned()));
        }
        for id in self.query::<Vec<String>>("ZRANGE", &[&keys.queue(), "0", "-1"]) {
            let entry: String = self.query("HGET", &[&keys.entries(), &id]);
            let words: Vec<_> = entry.split(' ').collect();
            let [_, refreshed, ttl, client, enqueued, _as_of, owner] = words[..] else {
                panic!("{entry}");
            };
            state.entries.push(EntryState {
                attempt: AttemptId::parse(&id).unwrap(),
                client: client.to_owned(),
                owner: decode_owner(owner).unwrap(),
                ttl: number(ttl),
                refreshed: number(refreshed),
                enqueued: number(enqueued),
                grant: None,
            });
        }
        for index in 0..ATTEMPTS {
            let fenced: Option<String> = self.query("GET", &[&keys.fence(attempt(index))]);
            if let Some(fenced) = fenced {
                let words: Vec<_> = fenced.split(' ').collect();
                let (since, life) = (number(words[1]), number(words[2]));
                if self.now < since + life {
                    state.fenced.insert(attempt(index), (since, life));
                } else {
                    // The server would expire this key by its own clock.
                    let _: i64 = self.query("DEL", &[&keys.fence(attempt(index))]);
                }
            }
        }
        let waiting = state
            .entries
            .iter()
            .filter(|entry| entry.grant.is_none())
            .count();
        let kept: usize = self.query("HLEN", &[&keys.entries()]);
        assert_eq!(waiting, kept, "positions and entries differ");
        state
    }
}

fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap()
}

fn model_state(queue: &Queue, now: u64) -> LockState {
    let stored = serde_json::to_value(queue).unwrap();
    let nanos = |value: &serde_json::Value| value.as_u64().unwrap() / 1000;
    let id = |value: &serde_json::Value| AttemptId::parse(value.as_str().unwrap()).unwrap();
    let fenced = stored["fenced"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|fenced| {
            let since = nanos(&fenced["since"]["at"]);
            (id(&fenced["attempt"]), (since, nanos(&fenced["ttl"])))
        });
    LockState {
        last_token: queue.last_token().get(),
        entries: queue
            .entries()
            .map(|entry| EntryState {
                attempt: entry.attempt,
                client: entry.client.to_string(),
                owner: entry.owner.clone(),
                ttl: micros(entry.ttl),
                refreshed: micros(entry.refreshed.at),
                enqueued: entry.enqueued_at_us,
                grant: entry
                    .grant
                    .map(|grant| (grant.token.get(), grant.granted_at_us)),
            })
            .collect(),
        fenced: fenced
            .filter(|(_, (since, life))| now < since + life)
            .collect(),
        ended: stored
            .get("ended")
            .filter(|ended| !ended.is_null())
            .map(|ended| {
                (
                    id(&ended["attempt"]),
                    ended["ending"].as_str().unwrap().to_owned(),
                )
            }),
    }
}

/// The scripts do not record that a grant was released, because the client that released it knows.
fn forget_release(queue: &mut Queue, before: &Queue) {
    let mut stored = serde_json::to_value(&*queue).unwrap();
    if stored["ended"]["ending"] == "released" {
        let before = serde_json::to_value(before).unwrap();
        stored["ended"] = before.get("ended").cloned().unwrap_or_default();
        *queue = serde_json::from_value(stored).unwrap();
    }
}

fn event(op: &Op, token: u64) -> Option<Event> {
    Some(match *op {
        Op::Enqueue(index, wait) => Event::Enqueue {
            attempt: attempt(index),
            client: client(index),
            owner: owner(index),
            ttl: ttl(index),
            wait,
            mode: tenure_core::mode::Mode::Exclusive,
        },
        Op::Renew(index) | Op::Report(index) => Event::Renew {
            attempt: attempt(index),
        },
        Op::Remove(index, fence) => Event::Remove {
            attempt: attempt(index),
            fence: fence.then(|| ttl(index)),
        },
        Op::Evict(_) => Event::Evict {
            token: FencingToken::new(token),
        },
        Op::Inspect => return None,
    })
}

/// Converts a script's reply to the form of the machine's answer: its kind, and the details that
/// the machine also returns.
fn normalize_reply(value: &Value) -> (String, Vec<String>) {
    let parts = match value {
        Value::BulkString(word) => {
            let word = String::from_utf8(word.clone()).unwrap();
            return match word.parse::<u64>() {
                Ok(_) => ("granted".to_owned(), vec![word]),
                Err(_) => (word, Vec::new()),
            };
        }
        Value::Array(parts) => parts,
        other => panic!("{other:?}"),
    };
    let parts: Vec<_> = parts
        .iter()
        .map(|part| match part {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Value::Int(number) => number.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let more = match parts[0].as_str() {
        "granted" | "gone" => vec![parts[1].clone()],
        // The number of entries ahead, and the time after which to ask again.
        "waiting" => vec![parts[3].clone(), parts[4].clone()],
        _ => Vec::new(),
    };
    (parts[0].clone(), more)
}

fn expected_reply(op: &Op, answer: Answer, recheck: Option<Duration>) -> (String, Vec<String>) {
    let (kind, more) = match answer {
        Answer::Busy => ("busy", vec![]),
        Answer::Evicted => ("evicted", vec![]),
        Answer::Gone(_) if matches!(op, Op::Remove(..)) => ("absent", vec![]),
        Answer::Gone(reason) => ("gone", vec![reason.as_str().to_owned()]),
        Answer::Granted { token, .. } => ("granted", vec![token.to_string()]),
        Answer::Nothing => ("not held", vec![]),
        Answer::RemovedHolder => ("holder", vec![]),
        Answer::RemovedWaiter => ("waiter", vec![]),
        Answer::Waiting { ahead } => {
            let within = micros(recheck.expect("another entry is ahead"));
            ("waiting", vec![ahead.to_string(), within.to_string()])
        }
        other => panic!("{other:?}"),
    };
    (kind.to_owned(), more)
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::builder().start().unwrap())
}

/// All messages up to one that the test itself sends.
fn messages(store: &mut Store, inboxes: &mut PubSub<'_>) -> Vec<BackendEvent> {
    let _: i64 = store.query("PUBLISH", &[&inbox(client(0)), "end"]);
    let mut events = Vec::new();
    loop {
        let message = inboxes.get_message().unwrap();
        match message.get_payload_bytes() {
            b"end" => return events,
            payload => events.push(read_message(payload).unwrap()),
        }
    }
}

fn messages_match(received: &[BackendEvent], notices: &[Notice]) -> bool {
    received.len() == notices.len()
        && received
            .iter()
            .zip(notices)
            .all(|(received, notice)| match (received, notice.kind) {
                (BackendEvent::Granted(grant), NoticeKind::Granted { token, ttl, .. }) => {
                    (grant.attempt, grant.token, grant.ttl) == (notice.attempt, token, ttl)
                }
                (BackendEvent::Lost { attempt, reason }, NoticeKind::Lost(expected_reason)) => {
                    (*attempt, *reason) == (notice.attempt, expected_reason)
                }
                _ => false,
            })
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
        // A grant that no waiter follows is removed without reading the clock, as if the removal
        // had come before the grant lapsed.
        let removed_at = match (&step.op, queue.holder()) {
            (Op::Remove(index, false), Some(holder))
                if holder.attempt == attempt(*index) && queue.entries().count() == 1 =>
            {
                Some(micros(holder.refreshed.at).min(store.now))
            }
            _ => None,
        };
        let now = at(removed_at.unwrap_or(store.now));
        let held = queue
            .holder()
            .and_then(|entry| entry.grant)
            .map_or(7, |grant| grant.token.get());
        let token = match step.op {
            Op::Evict(false) => held.saturating_sub(1),
            _ => held,
        };
        let answer = store.ask(&step.op, token);
        let received = messages(&mut store, &mut inboxes);
        let Some(event) = event(&step.op, token) else {
            prop_assert!(received.is_empty());
            prop_assert_eq!(store.state(), model_state(&queue, store.now));
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
            Op::Enqueue(index, _) | Op::Renew(index) | Op::Report(index) => {
                queue.recheck(attempt(index), &now)
            }
            _ => None,
        };
        prop_assert_eq!(
            normalize_reply(&answer),
            expected_reply(&step.op, transition.answer, recheck),
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
        // The store times sent to one attempt rise, whatever the server's clock does (D4).
        let mut rises = |index, at| as_of.insert(index, at).is_none_or(|before| before < at);
        if let (
            Op::Enqueue(index, _) | Op::Renew(index) | Op::Report(index),
            ("waiting", Value::Array(parts)),
        ) = (&step.op, (normalize_reply(&answer).0.as_str(), &answer))
            && let Value::BulkString(at) = &parts[1]
            && queue.entry(attempt(*index)).is_some()
        {
            let at = String::from_utf8_lossy(at).parse().unwrap();
            prop_assert!(
                rises(attempt(*index), at),
                "a report's reply is not later than the previous one"
            );
        }
        for event in &received {
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
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn scripts_behave_like_the_queue_machine(
        steps in steps(),
        // Numbers with a long carry, and numbers that a double cannot represent.
        floor in prop_oneof![3 => Just(0), 1 => Just(999_999_999_999_999_998), 1 => Just(1 << 61)],
    ) {
        run_history(&steps, floor)?;
    }
}
