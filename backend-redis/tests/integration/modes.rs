//! Shared and counted locks: requests, messages, renewals and expiry.

use tenure_core::{
    Acquisition, Client, Guard, Release,
    backend::{BackendEvent, RenewalAnswers},
    error::ErrorKind,
    mode::Mode,
    request::{Downgrade, Downgraded, Enqueued, Evicted, List, Listed, Removed, Renewal, Renewed},
    token::FencingToken,
};
use tenure_redis::Options;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::time::{Instant, sleep};

use crate::common::{
    OPERATION_TIMEOUT, RAW_TTL, RawBackend, attempt, client, connected, hold, is_unused, key,
    millis, name, scripts_run, seconds, wait_until,
};

fn server() -> Server {
    Server::builder().start().unwrap()
}

/// The number of messages that the server has been asked to send.
fn messages_sent(server: &Server) -> u64 {
    let stat = server.info("cmdstat_publish").unwrap().unwrap_or_default();
    let calls = stat.split(',').find_map(|part| part.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_free_lock_of_any_mode_is_acquired_and_released_in_one_round_trip_each() {
    let server = server();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), RAW_TTL).await;
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
        let entry = Renewal::new(name("a"), grant.attempt, RAW_TTL, Some(grant.token));
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
        let request = Downgrade::new(name("a"), attempt(1), RAW_TTL, grant.token);
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
    let wrong = Downgrade::new(name("a"), attempt(2), RAW_TTL, grant.token);
    let answer = raw.backend.downgrade(wrong).await.unwrap();
    assert!(matches!(answer, Downgraded::Gone(_)), "{answer:?}");
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

/// D4: with `min_replicas`, each grant of a message is renewed before the core receives it. M4: a
/// downgrade that the replicas have not acknowledged is an error that can be retried.
#[tokio::test(flavor = "multi_thread")]
async fn d4_replicas_confirm_each_grant_of_a_message() {
    let master = server();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    replica.wait_until_in_step(&master).unwrap();
    let options = Options::default().replicas(1, seconds(1));
    let raw = RawBackend::connect(&master.url(), options).await;
    let writer = raw.granted("a", 1, Mode::Exclusive).await;
    for number in 2..=4 {
        raw.waits("a", number, Mode::Shared).await;
    }
    let downgrade = Downgrade::new(name("a"), attempt(1), RAW_TTL, writer.token);
    let answer = raw.backend.downgrade(downgrade.clone()).await.unwrap();
    assert_eq!(answer, Downgraded::Shared);
    wait_until("the readers are granted", OPERATION_TIMEOUT, || {
        raw.grants().len() == 3
    })
    .await;
    for grant in raw.grants() {
        assert!(grant.proved_from.is_some());
        assert_eq!(grant.floor, writer.token);
    }
    drop(replica);
    let error = raw.backend.downgrade(downgrade).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let answer = raw.renew("a", 1, Some(writer.token)).await;
    assert!(matches!(answer, Renewed::Unknown(_)), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_grants_of_several_locks_renew_in_one_call() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let mut entries = Vec::new();
    for number in 0..9 {
        let lock = ["a", "b", "c"][number % 3];
        let grant = raw.granted(lock, number as u128 + 1, Mode::Shared).await;
        let entry = Renewal::new(name(lock), grant.attempt, RAW_TTL, Some(grant.token));
        entries.push(entry.with_mode(Mode::Shared));
    }
    // One grant has ended, one has another token, and one lock cannot be read.
    assert_eq!(raw.remove("b", 2).await, Removed::AsHolder);
    entries[3].token = Some(FencingToken::new(1));
    server
        .command(&["SET", &key("c", "holder"), "tenure/2 x"])
        .unwrap();
    let before = scripts_run(&server);
    let answers = RenewalAnswers::collect(entries.len(), |answers| {
        raw.backend.renew(entries.clone(), answers)
    });
    let answers = answers.await;
    for (index, answer) in answers.iter().enumerate() {
        let is_expected = match index {
            1 => matches!(answer, Renewed::Gone(_)),
            // The report finds the grant by its attempt.
            3 => matches!(answer, Renewed::Granted(_)),
            _ if index % 3 == 2 => matches!(answer, Renewed::Unknown(_)),
            _ => matches!(answer, Renewed::Proved { .. }),
        };
        assert!(is_expected, "{index}: {answer:?}");
    }
    assert_eq!(scripts_run(&server) - before, 2, "one renewal, one report");
}

/// X1: while `restart_delay` blocks grants, a client with that option ends grants and gives none.
#[tokio::test(flavor = "multi_thread")]
async fn x1_blocked_client_admits_nobody() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let delayed = Options::default().restart_delay(seconds(3600));
    let blocked = RawBackend::connect(&server.url(), delayed).await;
    let writer = raw.granted("a", 1, Mode::Exclusive).await;
    raw.waits("a", 2, Mode::Shared).await;
    raw.waits("a", 3, Mode::Exclusive).await;
    let downgrade = Downgrade::new(name("a"), attempt(1), RAW_TTL, writer.token);
    let answer = blocked.backend.downgrade(downgrade).await.unwrap();
    assert_eq!(answer, Downgraded::Shared);
    let state = raw.backend.inspect(&name("a")).await.unwrap();
    assert_eq!((state.holders().count(), state.queue.len()), (1, 2));
    let answer = raw.renew("a", 2, None).await;
    assert!(
        matches!(&answer, Renewed::Granted(grant) if grant.floor == writer.token),
        "{answer:?}"
    );
    for number in [1, 2] {
        assert_eq!(blocked.remove("a", number).await, Removed::AsHolder);
    }
    let state = raw.backend.inspect(&name("a")).await.unwrap();
    assert_eq!((state.holders().count(), state.queue.len()), (0, 1));
    let answer = raw.renew("a", 3, None).await;
    assert!(matches!(answer, Renewed::Granted(_)), "{answer:?}");
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
