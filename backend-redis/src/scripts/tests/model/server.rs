//! Runs the operations on a server and reads what it stores.

use std::{collections::BTreeMap, time::Duration};

use redis::{Connection, Value};
use tenure_core::{
    id::AttemptId,
    mode::{Mode, Occupancy},
    name::LockName,
    request::{Enqueue, Owner},
};

use super::{ATTEMPTS, Op, attempt, client, owner, ttl};
use crate::{
    keys::LockKeys,
    record::decode_owner,
    scripts::{self, Scripts},
    transport::{Script, ScriptCall},
};

/// The key that serves as the clock of a test.
pub(super) const CLOCK_KEY: &str = "clock";

const EXPIRY_OFFSET: u64 = 9_000_000_000_000_000;

/// The state of a lock, in a form that the server and the machine can be compared in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LockState {
    pub(super) last_token: u64,
    pub(super) entries: Vec<EntryState>,
    pub(super) fenced: BTreeMap<AttemptId, (u64, u64)>,
    pub(super) ended: Option<(AttemptId, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryState {
    pub(super) attempt: AttemptId,
    pub(super) client: String,
    pub(super) owner: Owner,
    pub(super) ttl: u64,
    pub(super) refreshed: u64,
    pub(super) enqueued: u64,
    /// The token, and the time of the grant.
    pub(super) grant: Option<(u64, u64)>,
    pub(super) mode: Mode,
}

pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) scripts: Scripts,
    pub(super) keys: LockKeys,
    pub(super) now: u64,
    pub(super) floor: String,
}

fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn number(word: &str) -> u64 {
    word.parse().unwrap()
}

/// Reads the record of a waiter or of a joint holder.
fn entry_state(attempt: AttemptId, record: &str) -> EntryState {
    let words: Vec<_> = record.split(' ').collect();
    let [
        version,
        refreshed,
        ttl,
        client,
        enqueued,
        _as_of,
        owner,
        ref more @ ..,
    ] = words[..]
    else {
        panic!("{record}");
    };
    let (mode, grant) = match (version, more) {
        ("tenure/1", []) => (Mode::Exclusive, None),
        ("tenure/2", [mode]) => (Mode::parse(mode).unwrap(), None),
        ("tenure/2", [mode, token, granted]) => (
            Mode::parse(mode).unwrap(),
            Some((number(token), number(granted))),
        ),
        _ => panic!("{record}"),
    };
    assert!(version == "tenure/1" || !mode.is_exclusive(), "{record}");
    EntryState {
        attempt,
        client: client.to_owned(),
        owner: decode_owner(owner).unwrap(),
        ttl: number(ttl),
        refreshed: number(refreshed),
        enqueued: number(enqueued),
        grant,
        mode,
    }
}

fn exclusive_holder(record: &str) -> EntryState {
    let words: Vec<_> = record.split(' ').collect();
    let [
        "tenure/1",
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
        panic!("{record}");
    };
    EntryState {
        attempt: AttemptId::parse(id).unwrap(),
        client: client.to_owned(),
        owner: decode_owner(owner).unwrap(),
        ttl: number(ttl),
        refreshed: number(refreshed),
        enqueued: number(enqueued),
        grant: Some((number(token), number(granted))),
        mode: Mode::Exclusive,
    }
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

    fn evict(&mut self, token: u64) -> Value {
        let mut call = ScriptCall::new(&Scripts::get().evict);
        self.keys.push_all(&mut call);
        call.arg(token);
        call.arg(&self.floor);
        call.arg(0);
        self.run(|all| &all.evict, &call)
    }

    /// Runs a renew script. Returns whether it renewed the grant.
    fn renew(&mut self, index: usize, token: u64, joint: bool) -> bool {
        let answers = if joint {
            let mut call = ScriptCall::new(&Scripts::get().renew_joint);
            self.keys.push_for_inspect(&mut call);
            call.arg(1);
            call.arg(attempt(index));
            call.arg(token);
            self.run(|all| &all.renew_joint, &call)
        } else {
            let mut call = ScriptCall::new(&Scripts::get().renew);
            call.key(&self.keys.holder);
            call.arg(attempt(index));
            call.arg(token);
            self.run(|all| &all.renew, &call)
        };
        answers == Value::Array(vec![Value::Int(1)])
    }

    /// Runs on the server the operation that the machine runs.
    pub(super) fn ask(&mut self, op: &Op, token: u64) -> Value {
        match *op {
            Op::Enqueue(index, wait, mode) => {
                let name = LockName::new("any").unwrap();
                let request = Enqueue::new(name, attempt(index), owner(index), ttl(index), wait)
                    .with_mode(mode);
                let call = scripts::enqueue_call(&self.keys, &request, client(index), &self.floor);
                self.run(|all| &all.enqueue, &call)
            }
            Op::Renew(index, joint) => {
                if !self.renew(index, token, joint) {
                    return self.report(index);
                }
                if joint {
                    // The script renews one grant and leaves to the others what has lapsed.
                    self.evict(0);
                }
                Value::Array(vec![text("granted"), text(&token.to_string())])
            }
            Op::Report(index) => self.report(index),
            Op::Downgrade(index, _) => {
                let mut call = ScriptCall::new(&Scripts::get().downgrade);
                self.keys.push_all(&mut call);
                call.arg(attempt(index));
                call.arg(token);
                call.arg(&self.floor);
                call.arg(0);
                self.run(|all| &all.downgrade, &call)
            }
            Op::Remove(index, fence) => {
                let fence = if fence { ttl(index) } else { Duration::ZERO };
                let call =
                    scripts::remove_call(&self.keys, attempt(index), fence, &self.floor, false);
                self.run(|all| &all.remove, &call)
            }
            Op::Evict(_) => self.evict(token),
            Op::Inspect => {
                let mut call = ScriptCall::new(&Scripts::get().inspect);
                self.keys.push_for_inspect(&mut call);
                call.arg("-inf");
                call.arg(500);
                self.run(|all| &all.inspect, &call)
            }
        }
    }

    /// The number of holders and of waiters that a listing shows.
    pub(super) fn list(&mut self) -> (i64, i64) {
        let mut call = ScriptCall::new(&Scripts::get().list);
        self.keys.push_for_inspect(&mut call);
        let Value::Array(answers) = self.run(|all| &all.list, &call) else {
            panic!("no list")
        };
        let [Value::Array(parts)] = &answers[..] else {
            panic!("{answers:?}")
        };
        let [
            _,
            Value::BulkString(ref shown),
            _,
            Value::Int(waiters),
            Value::Int(joint),
        ] = parts[..]
        else {
            panic!("{parts:?}")
        };
        (joint.max(i64::from(!shown.is_empty())), waiters)
    }

    pub(super) fn query<T: redis::FromRedisValue>(&mut self, command: &str, args: &[&str]) -> T {
        redis::cmd(command)
            .arg(args)
            .query(&mut self.connection)
            .unwrap()
    }

    fn entry(&mut self, id: &str) -> EntryState {
        let record: String = self.query("HGET", &[&self.keys.entries(), id]);
        entry_state(AttemptId::parse(id).unwrap(), &record)
    }

    /// The holders and the waiters. Checks that the holder key, the queue and the entries agree.
    fn entries(&mut self) -> Vec<EntryState> {
        let keys = self.keys.clone();
        let mut entries = Vec::new();
        let holder = self.query::<Option<String>>("GET", &[&keys.holder]);
        let members: Vec<(String, i64)> =
            self.query("ZRANGE", &[&keys.queue(), "0", "-1", "WITHSCORES"]);
        let mut joint = 0;
        match &holder {
            Some(record) if record.starts_with("tenure/1 ") => {
                entries.push(exclusive_holder(record));
            }
            Some(record) => {
                let words: Vec<_> = record.split(' ').collect();
                let ["tenure/2", mode, count, latest] = words[..] else {
                    panic!("{record}");
                };
                joint = count.parse().unwrap();
                let mut occupancy = Occupancy::Free;
                for (member, _) in &members[joint..2 * joint] {
                    let entry = self.entry(member.strip_prefix('g').unwrap());
                    assert!(occupancy.admits(entry.mode), "{record}: {entry:?}");
                    occupancy.add(entry.mode);
                    assert!(entry.refreshed <= number(latest), "{record}: {entry:?}");
                    entries.push(entry);
                }
                let expected = match occupancy {
                    Occupancy::Shared => "shared".to_owned(),
                    Occupancy::Permits { taken, of } => format!("{taken}/{of}"),
                    other => panic!("{other:?}"),
                };
                assert_eq!(mode, expected);
                let mut by_expiry: Vec<_> = entries
                    .iter()
                    .map(|entry| {
                        let expiry = entry.refreshed + entry.ttl;
                        let score = expiry.cast_signed() - EXPIRY_OFFSET.cast_signed();
                        (score, entry.attempt.to_string())
                    })
                    .collect();
                by_expiry.sort();
                let stored: Vec<_> = members[..joint]
                    .iter()
                    .map(|(member, score)| (*score, member.clone()))
                    .collect();
                assert_eq!(stored, by_expiry);
            }
            None => {}
        }
        assert!(members.is_sorted_by_key(|(_, score)| *score));
        for (id, score) in &members[2 * joint..] {
            assert!(*score > 0, "{id} at {score}");
            let entry = self.entry(id);
            assert_eq!(entry.grant, None);
            entries.push(entry);
        }
        let kept: usize = self.query("HLEN", &[&keys.entries()]);
        assert_eq!(members.len() - joint, kept, "positions and entries differ");
        for key in [keys.holder.clone(), keys.queue(), keys.entries()] {
            let ttl: i64 = self.query("PTTL", &[&key]);
            assert_ne!(ttl, -1, "{key} never expires");
        }
        entries
    }

    pub(super) fn state(&mut self) -> LockState {
        let keys = self.keys.clone();
        let mut state = LockState {
            last_token: 0,
            entries: self.entries(),
            fenced: BTreeMap::new(),
            ended: None,
        };
        if let Some(fence) = self.query::<Option<String>>("GET", &[&keys.last_token()]) {
            let words: Vec<_> = fence.split(' ').collect();
            state.last_token = number(words[1]);
            state.ended = words
                .get(2)
                .map(|id| (AttemptId::parse(id).unwrap(), words[3].to_owned()));
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
        state
    }
}
