//! Compares one run with several items to several runs with one item each.

use std::time::Duration;

use proptest::{
    collection::vec, prelude::*, sample::subsequence, strategy::Just, test_runner::TestCaseError,
};
use redis::{Arg, Cmd, Connection, Value};
use tenure_core::{
    id::{AttemptId, ClientId},
    mode::Mode,
    name::{LockName, Namespace},
    request::{Enqueue, Owner},
};
use tenure_test_servers::redis::Server;

use crate::scripts::{self, Scripts};
use crate::{
    keys::{KeySpace, LockKeys},
    transport::ScriptCall,
};

const LOCKS: usize = 4;
const HOUR_US: u64 = 3_600_000_000;
/// The key that serves as the clock of a test.
const CLOCK_KEY: &str = "clock";

#[derive(Clone, Copy, Debug)]
enum Operation {
    Enqueue { wait: bool },
    Remove { fence: bool },
}

/// The same operation on several locks, with one attempt for each.
#[derive(Clone, Debug)]
struct Step {
    operation: Operation,
    locks: Vec<usize>,
    attempts: [u128; LOCKS],
    modes: [Mode; LOCKS],
    tenths: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = prop_oneof![
        4 => any::<bool>().prop_map(|wait| Operation::Enqueue { wait }),
        3 => prop_oneof![3 => Just(false), 1 => Just(true)].prop_map(|fence| Operation::Remove { fence }),
    ];
    let locks = subsequence((0..LOCKS).collect::<Vec<_>>(), 1..=LOCKS).prop_shuffle();
    let attempts = [1..5_u128, 1..5_u128, 1..5_u128, 1..5_u128];
    let mode = || {
        let permits = Mode::permits(1, 2).unwrap();
        prop_oneof![2 => Just(Mode::Exclusive), 1 => Just(Mode::Shared), 1 => Just(permits)]
    };
    let modes = [mode(), mode(), mode(), mode()];
    let step = (operation, locks, attempts, modes, 0..8_u64).prop_map(
        |(operation, locks, attempts, modes, tenths)| Step {
            operation,
            locks,
            attempts,
            modes,
            tenths,
        },
    );
    vec(step, 1..40)
}

fn keys(namespace: &str, lock: usize) -> LockKeys {
    KeySpace::new(&Namespace::new(namespace).unwrap())
        .lock(&LockName::new(format!("lock {lock}")).unwrap(), false)
        .unwrap()
}

fn call(
    operation: Operation,
    keys: &LockKeys,
    number: u128,
    mode: Mode,
    floor: &str,
) -> ScriptCall {
    let ttl = Duration::from_micros(HOUR_US);
    let attempt = AttemptId::from_u128(number);
    match operation {
        Operation::Enqueue { wait } => {
            let name = LockName::new("any").unwrap();
            let owner = Owner::new("label", "host", 7);
            let request = Enqueue::new(name, attempt, owner, ttl, wait).with_mode(mode);
            scripts::enqueue_call(keys, &request, ClientId::from_u128(9), floor)
        }
        Operation::Remove { fence } => {
            let fence = if fence { ttl } else { Duration::ZERO };
            scripts::remove_call(keys, attempt, fence, floor, false)
        }
    }
}

struct Store {
    connection: Connection,
    scripts: Scripts,
}

impl Store {
    /// Runs a command on the clock of the test and returns the replies.
    fn run(&mut self, operation: Operation, command: &Cmd) -> Vec<Value> {
        let script = match operation {
            Operation::Enqueue { .. } => &self.scripts.enqueue,
            Operation::Remove { .. } => &self.scripts.remove,
        };
        let mut whole = redis::cmd("EVAL");
        whole.arg(&script.text);
        for word in command.args_iter().skip(2) {
            if let Arg::Simple(word) = word {
                whole.arg(word);
            }
        }
        whole.query(&mut self.connection).unwrap()
    }

    /// Everything that is stored for the locks of a namespace.
    fn state(&mut self, namespace: &str) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("tenure:{{{namespace}:*"))
            .query(&mut self.connection)
            .unwrap();
        keys.sort_unstable();
        keys.into_iter()
            .map(|key| {
                let mut dump = redis::cmd("DUMP");
                let value = dump.arg(&key).query(&mut self.connection).unwrap();
                (key.replacen(namespace, "", 1), value)
            })
            .collect()
    }
}

fn run_history(store: &mut Store, steps: &[Step], floor: &str) -> Result<(), TestCaseError> {
    let _: () = redis::cmd("FLUSHALL").query(&mut store.connection).unwrap();
    let mut now = 1_800_000_000_000_000_u64;
    for step in steps {
        now += step.tenths * HOUR_US / 10;
        let mut set = redis::cmd("SET");
        let _: () = set
            .arg(CLOCK_KEY)
            .arg(now)
            .query(&mut store.connection)
            .unwrap();
        let calls = |namespace: &'static str| {
            let call = |&lock: &usize| {
                call(
                    step.operation,
                    &keys(namespace, lock),
                    step.attempts[lock],
                    step.modes[lock],
                    floor,
                )
            };
            step.locks.iter().map(call).collect::<Vec<_>>()
        };
        let batched = calls("a");
        prop_assert!(batched.iter().all(|call| batched[0].can_batch_with(call)));
        let batched = store.run(step.operation, &ScriptCall::command(batched.iter(), false));
        let mut single = Vec::new();
        for call in calls("b") {
            single.extend(store.run(
                step.operation,
                &ScriptCall::command([&call].into_iter(), false),
            ));
        }
        prop_assert_eq!(batched, single, "{:?}", step);
        prop_assert_eq!(store.state("a"), store.state("b"), "after {:?}", step);
    }
    Ok(())
}

#[test]
fn run_with_several_items_equals_several_runs() {
    let server = Server::builder().start().unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut store = Store {
        connection: client.get_connection().unwrap(),
        scripts: Scripts::with_clock(&format!("local stamp = redis.call('GET', '{CLOCK_KEY}')\n")),
    };
    let config = ProptestConfig {
        cases: 100,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let floors = prop_oneof![3 => Just("0"), 1 => Just("999999999999999998")];
    let store = std::cell::RefCell::new(&mut store);
    proptest!(config, |(steps in steps(), floor in floors)| {
        run_history(&mut store.borrow_mut(), &steps, floor)?;
    });
}

#[test]
fn w1_items_for_one_lock_are_enqueued_in_order() {
    let server = Server::builder().start().unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let keys = keys("a", 0);
    let scripts = Scripts::get();
    let load = |text: &str| redis::cmd("SCRIPT").arg("LOAD").arg(text).clone();
    for script in [&scripts.enqueue, &scripts.remove] {
        let _: String = load(&script.text).query(&mut connection).unwrap();
    }
    let mut run = |operation| -> Vec<Value> {
        let calls = [3, 1, 2].map(|number| call(operation, &keys, number, Mode::Exclusive, "0"));
        let command = ScriptCall::command(calls.iter(), false);
        command.query(&mut connection).unwrap()
    };
    let answers = run(Operation::Enqueue { wait: true });
    assert!(matches!(answers[0], Value::BulkString(_)), "{answers:?}");
    for (answer, ahead) in answers[1..].iter().zip([1, 2]) {
        let Value::Array(parts) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(parts[3], Value::Int(ahead));
    }
    // Each removal makes the next attempt the holder.
    let holder = || Value::BulkString(b"holder".to_vec());
    let answers = run(Operation::Remove { fence: false });
    assert_eq!(answers, [holder(), holder(), holder()]);
}
