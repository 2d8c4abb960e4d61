//! The transport against real servers.

mod batch;
mod cancel;
mod cluster;
mod connect_errors;
mod replies;
mod sentinel;
mod single;
mod tls;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, atomic::AtomicBool},
    time::Duration,
};

use redis::Value;
use tenure_core::{
    clock::SystemClock,
    driver::ConnectionOptions,
    error::{Error, ErrorKind},
    secret::Secret,
    settings::StoreUrl,
};
use tenure_test_servers::redis::Server;
use tokio::time::Instant;

use super::{
    CallError, CallResult, Listener, ReplicaAck, Script, ScriptCall, Transport, TransportConfig,
};
use crate::{address::Address, config::Options};

/// The longest wait of any test.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The inbox channel of every test.
const INBOX: &str = "tenure-test:inbox";

static COUNT: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('INCR', KEYS[1])".to_owned()));
static ECHO: LazyLock<Script> = LazyLock::new(|| Script::new("return ARGV[1]".to_owned()));

/// The events that a listener has received, in order.
#[derive(Debug, Default)]
struct RecordedEvents(Mutex<Vec<String>>);

impl Listener for RecordedEvents {
    fn on_message(&self, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload).into_owned();
        self.0.lock().unwrap().push(text);
    }

    fn on_disconnected(&self) {
        self.0.lock().unwrap().push("down".to_owned());
    }

    fn on_reconnected(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl RecordedEvents {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|events| *events == what).count()
    }

    async fn until(&self, what: &str) {
        until(what, || self.count(what) > 0).await;
    }
}

/// Polls until the condition holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let what = what.to_owned();
    async move {
        let begun = Instant::now();
        while !holds() {
            assert!(
                begun.elapsed() < TEST_TIMEOUT,
                "not within {TEST_TIMEOUT:?}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Like [`until`], for an asynchronous condition.
async fn retry_until_ok<T, E: std::fmt::Debug>(
    what: &str,
    mut try_it: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match try_it().await {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < TEST_TIMEOUT, "{what}: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Opened {
    transport: Arc<Transport>,
    events: Arc<RecordedEvents>,
}

/// Opens a transport with a request timeout of 5 s.
async fn open(url: &str, options: Options) -> Result<Opened, Error> {
    open_within(url, options, Duration::from_secs(5)).await
}

async fn open_within(url: &str, options: Options, limit: Duration) -> Result<Opened, Error> {
    let events = Arc::new(RecordedEvents::default());
    let config = TransportConfig {
        address: Address::new(&StoreUrl::parse(url)?, &options)?,
        options,
        inbox: Some(INBOX.to_owned()),
        scripts: vec![&COUNT],
        request_timeout: limit,
        clock: Arc::new(SystemClock),
        listener: Arc::clone(&events) as Arc<dyn Listener>,
        has_warned: AtomicBool::new(false),
    };
    let transport = Arc::new(Transport::open(config).await?);
    Ok(Opened { transport, events })
}

/// Runs the calls and waits for the replicas. Returns each result with the number of replicas that
/// have acknowledged it.
async fn call_replicated(
    transport: &Transport,
    calls: Vec<ScriptCall>,
    count: u32,
    timeout: Duration,
) -> Vec<(CallResult, u32)> {
    let mut answers: Vec<_> = calls.iter().map(|_| (Ok(Value::Nil), 0)).collect();
    let replicas = Some(ReplicaAck { count, timeout });
    transport
        .call_all(calls, replicas, &mut |index, answer, acks| {
            answers[index] = (answer, acks);
        })
        .await;
    answers
}

fn user(name: &str, password: &str) -> Options {
    let connection = ConnectionOptions::default();
    Options::default()
        .connection(connection.with_credentials(Some(name.to_owned()), Some(Secret::new(password))))
}

fn call(script: &'static Script, key: &str, args: &[&str]) -> ScriptCall {
    let mut call = ScriptCall::new(script);
    call.key(key);
    for arg in args {
        call.arg(arg);
    }
    call
}

/// A call that counts its runs.
fn count(key: &str) -> ScriptCall {
    call(&COUNT, key, &[])
}

fn times_run(server: &Server, key: &str) -> String {
    server.text(&["GET", key]).unwrap()
}

#[track_caller]
fn expect_int(answer: CallResult) -> i64 {
    match answer {
        Ok(Value::Int(expect_int)) => expect_int,
        other => panic!("{other:?}"),
    }
}

/// The code of a rejection; `-` for one without a code.
#[track_caller]
fn rejection_code(answer: CallResult) -> String {
    match answer {
        Err(CallError::NotExecuted { code, .. }) => code.unwrap_or_else(|| "-".to_owned()),
        other => panic!("{other:?}"),
    }
}
