//! Shared and counted locks: requests, messages, and keys that a user deletes.

use std::time::Duration;

use tenure_core::{
    Acquisition, Client, Guard, Release,
    backend::{BackendEvent, RenewalAnswers},
    error::ErrorKind,
    id::AttemptId,
    mode::Mode,
    request::{
        Downgrade, Downgraded, Enqueued, Evicted, Grant, List, Listed, Remove, Removed, Renewal,
        Renewed,
    },
    token::FencingToken,
};
use tenure_redis::Options;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::time::{Instant, sleep};

use crate::common::{
    OPERATION_TIMEOUT, RawBackend, client, connected, hold, is_unused, key, millis, name,
    scripts_run, seconds, wait_until,
};

const TTL: Duration = seconds(60);

fn server() -> Server {
    Server::builder().start().unwrap()
}

fn attempt(number: u128) -> AttemptId {
    AttemptId::from_u128(number)
}

/// The number of messages that the server has been asked to send.
fn messages_sent(server: &Server) -> u64 {
    let stat = server.info("cmdstat_publish").unwrap().unwrap_or_default();
    let calls = stat.split(',').find_map(|part| part.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

impl RawBackend {
    async fn enqueue_mode(&self, lock: &str, number: u128, mode: Mode) -> Enqueued {
        let request = Self::enqueue(lock, attempt(number), TTL).with_mode(mode);
        self.backend.enqueue(request).await.unwrap()
    }

    async fn granted(&self, lock: &str, number: u128, mode: Mode) -> Grant {
        match self.enqueue_mode(lock, number, mode).await {
            Enqueued::Granted(grant) => grant,
            other => panic!("{lock} is not free for {mode}: {other:?}"),
        }
    }

    async fn waits(&self, lock: &str, number: u128, mode: Mode) {
        let answer = self.enqueue_mode(lock, number, mode).await;
        assert!(matches!(answer, Enqueued::Waiting(_)), "{answer:?}");
    }

    async fn remove(&self, lock: &str, number: u128) -> Removed {
        let request = Remove::new(name(lock), attempt(number), TTL, true);
        self.backend.remove(request).await.unwrap()
    }

    async fn renew(&self, lock: &str, number: u128, token: Option<FencingToken>) -> Renewed {
        let entry = Renewal::new(name(lock), attempt(number), TTL, token).with_mode(Mode::Shared);
        let answers =
            RenewalAnswers::collect(1, |answers| self.backend.renew(vec![entry], answers));
        answers.await.pop().unwrap()
    }

    fn grants(&self) -> Vec<Grant> {
        let events = self.events().into_iter();
        let grants = events.filter_map(|event| match event {
            BackendEvent::Granted(grant) => Some(grant),
            _ => None,
        });
        grants.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_free_lock_of_any_mode_is_acquired_and_released_in_one_round_trip_each() {
    let server = server();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let shared = client.rw_lock("a").unwrap().read();
    let permits = client.semaphore("b", 3).unwrap().permits(2).unwrap();
    for lock in [shared, permits] {
        for round in 0..3 {
            proxy.reset();
            let guard = lock.acquire().await.unwrap();
            assert_eq!(proxy.requests(), 1, "acquire, round {round}");
            proxy.reset();
            assert!(matches!(guard.release().await, Release::Released));
            assert_eq!(proxy.requests(), 1, "release, round {round}");
        }
        assert!(is_unused(&server, lock.name().as_str()));
    }
    assert_eq!(proxy.count("EVALSHA"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn w3_release_that_admits_a_thousand_readers_sends_one_message_to_each_client() {
    const READERS: u128 = 500;
    let server = server();
    let clients = [
        RawBackend::connect(&server.url(), Options::default()).await,
        RawBackend::connect(&server.url(), Options::default()).await,
    ];
    let writer = clients[0].granted("a", 1, Mode::Exclusive).await;
    for number in 0..2 * READERS {
        let client = &clients[usize::from(number % 2 == 1)];
        client.waits("a", 10 + number, Mode::Shared).await;
    }
    clients[0].waits("a", 2, Mode::Exclusive).await;
    let before = messages_sent(&server);
    assert_eq!(clients[0].remove("a", 1).await, Removed::AsHolder);
    assert_eq!(messages_sent(&server) - before, 2);
    let mut floors = Vec::new();
    for client in &clients {
        wait_until("all readers are granted", OPERATION_TIMEOUT, || {
            client.grants().len() == READERS as usize
        })
        .await;
        assert!(client.grants().is_sorted_by_key(|grant| grant.token));
        floors.extend(client.grants().into_iter().map(|grant| grant.floor));
    }
    floors.sort_unstable();
    assert!(floors[0] > writer.token, "m3");
    assert_eq!(floors.first(), floors.last(), "m3");
    let state = clients[0].backend.inspect(&name("a")).await.unwrap();
    assert_eq!(state.holders().count(), 2 * READERS as usize);
    assert_eq!(state.queue.len(), 1);
}

/// One run of a script grants the lock to a bounded number of waiters.
#[tokio::test(flavor = "multi_thread")]
async fn w2_waiters_beyond_one_run_are_granted_after_one_report() {
    const READERS: u128 = 2_500;
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let _ = raw.granted("a", 1, Mode::Exclusive).await;
    for number in 0..READERS {
        raw.waits("a", 10 + number, Mode::Shared).await;
    }
    let _ = raw.remove("a", 1).await;
    let mut answered = 0;
    let begun = Instant::now();
    let mut reported = 0;
    while raw.grants().len() + reported < READERS as usize {
        assert!(
            begun.elapsed() < OPERATION_TIMEOUT,
            "{}",
            raw.grants().len()
        );
        let rechecks: Vec<_> = raw
            .events()
            .into_iter()
            .filter_map(|event| match event {
                BackendEvent::Recheck { attempt } => Some(attempt),
                _ => None,
            })
            .collect();
        for &id in &rechecks[answered..] {
            let answer = raw.renew("a", id.as_u128(), None).await;
            assert!(matches!(answer, Renewed::Granted(_)), "{answer:?}");
        }
        answered = rechecks.len();
        sleep(millis(5)).await;
        reported = 0;
    }
    assert_eq!(answered, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_ten_thousand_permits_renew_with_a_hundred_requests() {
    const PERMITS: u32 = 10_000;
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let mode = Mode::permits(1, PERMITS).unwrap();
    let mut entries = Vec::new();
    for number in 0..PERMITS {
        let grant = raw.granted("a", u128::from(number) + 1, mode).await;
        let entry = Renewal::new(name("a"), grant.attempt, TTL, Some(grant.token));
        entries.push(entry.with_mode(mode));
    }
    raw.waits("a", 1 << 20, mode).await;
    let before = scripts_run(&server);
    let begun = Instant::now();
    let answers = RenewalAnswers::collect(entries.len(), |answers| {
        raw.backend.renew(entries.clone(), answers)
    });
    let answers = answers.await;
    eprintln!("{:?} for {PERMITS} renewals", begun.elapsed());
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Renewed::Proved { .. }))
    );
    assert_eq!(scripts_run(&server) - before, 100);
    let state = raw.backend.inspect(&name("a")).await.unwrap();
    assert_eq!(state.holders().count(), PERMITS as usize);
    assert_eq!(state.queue.len(), 1);
    let page = raw.backend.list(List::new("", 100)).await.unwrap();
    let counts = |listed: &Listed| (listed.holders, listed.waiters);
    assert_eq!(
        page.locks.iter().map(counts).collect::<Vec<_>>(),
        [(u64::from(PERMITS), 1)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_one_grant_of_several_is_evicted() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let mut grants = Vec::new();
    for number in 1..=5 {
        grants.push(raw.granted("a", number, Mode::Shared).await);
    }
    let evict = async |token| raw.backend.evict(&name("a"), token).await.unwrap();
    assert_eq!(evict(grants[2].token).await, Evicted::Evicted);
    let Evicted::NotHeld(holder) = evict(grants[2].token).await else {
        panic!("evicted twice")
    };
    assert_eq!(holder.unwrap().token, Some(grants[0].token));
    let state = raw.backend.inspect(&name("a")).await.unwrap();
    let tokens: Vec<_> = state.holders().filter_map(|holder| holder.token).collect();
    let staying = [0, 1, 3, 4].map(|index| grants[index].token);
    assert_eq!(tokens, staying);
    let answer = raw.renew("a", 3, Some(grants[2].token)).await;
    assert!(matches!(answer, Renewed::Gone(_)), "{answer:?}");
}

/// M4: the same attempt renews by the same script before and after its downgrade.
#[tokio::test(flavor = "multi_thread")]
async fn m4_renewal_of_a_downgraded_grant_fits_both_states() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let grant = raw.granted("a", 1, Mode::Exclusive).await;
    raw.waits("a", 2, Mode::Shared).await;
    raw.waits("a", 3, Mode::Exclusive).await;
    raw.waits("a", 4, Mode::Shared).await;
    let proved = async || {
        let answer = raw.renew("a", 1, Some(grant.token)).await;
        assert!(matches!(answer, Renewed::Proved { .. }), "{answer:?}");
    };
    proved().await;
    for _ in 0..2 {
        let request = Downgrade::new(name("a"), attempt(1), TTL, grant.token);
        let answer = raw.backend.downgrade(request).await.unwrap();
        assert_eq!(answer, Downgraded::Shared);
        proved().await;
    }
    wait_until("the reader is granted", OPERATION_TIMEOUT, || {
        !raw.grants().is_empty()
    })
    .await;
    let grants = raw.grants();
    assert_eq!(grants.len(), 1, "a queued writer is not overtaken");
    assert_eq!(
        (grants[0].attempt, grants[0].floor),
        (attempt(2), grant.token)
    );
    let wrong = Downgrade::new(name("a"), attempt(2), TTL, grant.token);
    let answer = raw.backend.downgrade(wrong).await.unwrap();
    assert!(matches!(answer, Downgraded::Gone(_)), "{answer:?}");
}

/// S2, X1: a user deletes some keys of a lock that readers hold. Nobody is granted the lock beside a
/// reader whose renewals succeed.
#[tokio::test(flavor = "multi_thread")]
async fn s2_missing_keys_lead_to_no_incompatible_grants() {
    const SHORT_TTL: Duration = millis(1500);
    const PARTS: [&str; 4] = ["holder", "queue", "entries", "fence"];
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    for mode in [Mode::Shared, Mode::permits(1, 3).unwrap()] {
        for deleted in 1..1_u32 << PARTS.len() {
            server.command(&["FLUSHALL"]).unwrap();
            let mut readers = Vec::new();
            for number in 1..=2 {
                let request = RawBackend::enqueue("a", attempt(number), SHORT_TTL).with_mode(mode);
                match raw.backend.enqueue(request).await.unwrap() {
                    Enqueued::Granted(grant) => readers.push(grant),
                    other => panic!("{other:?}"),
                }
            }
            let is_deleted = |part: usize| deleted & (1 << part) != 0;
            let parts: Vec<_> = (0..PARTS.len()).filter(|&part| is_deleted(part)).collect();
            let named: Vec<_> = parts.iter().map(|&part| PARTS[part]).collect();
            for part in &named {
                server.command(&["DEL", &key("a", part)]).unwrap();
            }
            let mut exclusive = RawBackend::enqueue("a", attempt(9), SHORT_TTL);
            exclusive.wait = false;
            let writer = raw.backend.enqueue(exclusive.clone()).await;
            let is_granted = matches!(writer, Ok(Enqueued::Granted(_)));
            // Without both keys, nothing says that the lock is held.
            assert_eq!(
                is_granted,
                is_deleted(0) && is_deleted(1),
                "{named:?}: {writer:?}"
            );
            if let Err(error) = &writer {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{named:?}: {error}");
            }
            for (number, grant) in (1..).zip(&readers) {
                let answer = raw.renew("a", number, Some(grant.token)).await;
                if is_granted {
                    assert!(matches!(answer, Renewed::Gone(_)), "{named:?}: {answer:?}");
                }
                if is_deleted(2) || is_deleted(1) {
                    let proved = matches!(answer, Renewed::Proved { .. } | Renewed::Granted(_));
                    assert!(!proved, "{named:?}: {answer:?}");
                }
            }
            // The lock becomes free in time.
            if !is_granted {
                let begun = Instant::now();
                while !matches!(
                    raw.backend.enqueue(exclusive.clone()).await,
                    Ok(Enqueued::Granted(_))
                ) {
                    assert!(begun.elapsed() < SHORT_TTL + seconds(1), "{named:?}");
                    sleep(millis(20)).await;
                }
            }
            let _ = raw.remove("a", 9).await;
        }
    }
}

/// I1: `HOLDER` of joint holders that another program overwrites.
#[tokio::test(flavor = "multi_thread")]
async fn l1_readers_end_when_another_program_takes_the_key() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let raw = RawBackend::connect(&server.url(), options).await;
    let grant = raw.granted("x", 1, Mode::Shared).await;
    let _ = raw.granted("x", 2, Mode::Shared).await;
    raw.waits("x", 3, Mode::Exclusive).await;
    server
        .command(&["SET", "lock:x", "other", "PX", "300"])
        .unwrap();
    let state = raw.backend.inspect(&name("x")).await.unwrap();
    assert_eq!(state.holders().count(), 1);
    assert_eq!(state.holder.unwrap().attempt, None);
    let answer = raw.renew("x", 1, Some(grant.token)).await;
    assert!(matches!(answer, Renewed::Gone(_)), "{answer:?}");
    sleep(millis(400)).await;
    // The second reader has not been told, and may work until its TTL ends.
    let answer = raw.renew("x", 3, None).await;
    assert!(matches!(answer, Renewed::Waiting(_)), "{answer:?}");
    assert_eq!(raw.remove("x", 2).await, Removed::AsHolder);
    let answer = raw.renew("x", 3, None).await;
    assert!(matches!(answer, Renewed::Granted(_)), "{answer:?}");
}

/// S3: the scripts of the last version without modes.
#[tokio::test(flavor = "multi_thread")]
async fn s3_version_without_modes_refuses_and_changes_nothing() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let old = |text: &str, number: u128, args: &[&str]| {
        let fence = key("a", &format!("fenced:{}", attempt(number)));
        let keys = ["holder", "fence", "queue", "entries"].map(|part| key("a", part));
        let id = attempt(number).to_string();
        let script = server.text(&["SCRIPT", "LOAD", text]).unwrap();
        let mut command = vec!["EVALSHA", &script, "5"];
        command.extend(keys.iter().map(String::as_str));
        command.extend([fence.as_str(), args[0], &id]);
        command.extend(&args[1..]);
        format!("{:?}", server.command(&command))
    };
    let fields = format!("60000000 {} a/b/1", "c".repeat(32));
    let enqueue = |number| {
        let text = include_str!("format_1/enqueue.lua");
        old(text, number, &["0 1", &fields, "60000"])
    };
    let remove = |number| old(include_str!("format_1/remove.lua"), number, &["0 0 0"]);
    let dump = || {
        let parts = ["holder", "fence", "queue", "entries"].map(|part| key("a", part));
        parts.map(|part| format!("{:?}", server.command(&["DUMP", &part]).unwrap()))
    };
    let refused = |answer: String| assert!(answer.contains(r#"TENURE_NEWER\": 2"#), "{answer}");

    // A reader waits behind an exclusive holder.
    let _ = raw.granted("a", 1, Mode::Exclusive).await;
    raw.waits("a", 2, Mode::Shared).await;
    let before = dump();
    refused(enqueue(7));
    refused(remove(1));
    assert_eq!(dump(), before);
    // Readers hold the lock.
    let _ = raw.remove("a", 1).await;
    let reader = raw.renew("a", 2, None).await;
    assert!(matches!(reader, Renewed::Granted(_)), "{reader:?}");
    let before = dump();
    refused(enqueue(7));
    refused(remove(2));
    assert_eq!(dump(), before);
    server.command(&["DEL", &key("a", "holder")]).unwrap();
    refused(enqueue(7));
    // An exclusive waiter succeeds them, and both versions understand the lock again.
    raw.waits("a", 3, Mode::Exclusive).await;
    let _ = raw.remove("a", 2).await;
    let waits = enqueue(7);
    assert!(waits.contains("waiting"), "{waits}");
    let removed = remove(3);
    assert!(removed.contains("holder"), "{removed}");
    let held = server.text(&["GET", &key("a", "holder")]).unwrap();
    let expected = format!("tenure/1 {}", attempt(7));
    assert!(held.starts_with(&expected), "{held}");
}

/// K1: a server that has reached its memory limit keeps, downgrades and releases grants.
#[tokio::test(flavor = "multi_thread")]
async fn k1_full_server_keeps_joint_grants_and_rejects_new_ones() {
    let server = server();
    let client = client(&server.url(), seconds(3)).await;
    let rw = client.rw_lock("a").unwrap();
    let writing = rw.write().acquire().await.unwrap();
    let reader = rw.read();
    let behind = tokio::spawn(async move { reader.acquire().await.unwrap() });
    wait_until("the reader waits", OPERATION_TIMEOUT, || {
        server.text(&["ZCARD", &key("a", "queue")]).unwrap() == "1"
    })
    .await;
    connected(&client).await;
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .unwrap();
    let reading = writing.downgrade().await.unwrap();
    let other = behind.await.unwrap();
    let error = rw.read().try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let proved = other.valid_until();
    wait_until("more than a TTL has passed", OPERATION_TIMEOUT, || {
        [&reading, &other].iter().all(|guard| guard.check().is_ok())
            && other.valid_until().since(proved) > seconds(4)
    })
    .await;
    for guard in [reading, other] {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
    assert!(is_unused(&server, "a"));
}

/// X3: a dead reader delays a writer by its TTL, and its permits return.
#[tokio::test(flavor = "multi_thread")]
async fn x3_dead_joint_holders_are_succeeded_in_time() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let short = millis(800);
    for (number, mode) in [
        (1, Mode::permits(2, 3).unwrap()),
        (2, Mode::permits(1, 3).unwrap()),
    ] {
        let request = RawBackend::enqueue("a", attempt(number), short).with_mode(mode);
        let answer = raw.backend.enqueue(request).await.unwrap();
        assert!(matches!(answer, Enqueued::Granted(_)), "{answer:?}");
    }
    let client = client(&server.url(), seconds(3)).await;
    let begun = Instant::now();
    let all: Client = client.clone();
    let guard: Guard = all
        .semaphore("a", 3)
        .unwrap()
        .acquire_many(3)
        .await
        .unwrap();
    let took = begun.elapsed();
    assert!(took < short + millis(700), "{took:?}");
    let busy = client.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(_)));
    let _ = guard.release().await;
    let _ = hold(&client, "a").await.release().await;
    assert!(is_unused(&server, "a"));
}
