//! Keys with contents that other programs wrote.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread,
    time::Duration,
};

use tenure_core::{
    Acquisition, Client,
    clock::{Clock as _, SystemClock},
    error::ErrorKind,
    id::AttemptId,
    request::{Enqueued, List, Remove},
};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{
    OPERATION_TIMEOUT, RawBackend, acquire, builder, client, hold, hold_all, key, millis, name,
    queue_length, seconds, store,
};

fn server() -> Server {
    Server::builder().start().unwrap()
}

fn server_time_us(server: &Server) -> u128 {
    let time = server.text(&["TIME"]).unwrap();
    let mut parts = time
        .split_whitespace()
        .map(|part| part.parse::<u128>().unwrap());
    parts.next().unwrap() * 1_000_000 + parts.next().unwrap()
}

fn holder_record(server: &Server, owner: &str, ttl_ms: u128) -> String {
    let now = server_time_us(server);
    format!(
        "tenure/1 {} {now} {now} {} {} {owner} {now} {now}",
        "a".repeat(32),
        ttl_ms * 1000,
        "b".repeat(32)
    )
}

/// A4, S2: the script accepts a holder that the client cannot display. That must not look like a
/// failure without effect, because the attempt is in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn a4_unreadable_holder_is_still_waited_for() {
    let server = server();
    let client = client(&server.url(), seconds(30)).await;
    for malformed in ["owner-without-slashes", "%zz/h/1", "a/b/99999999999"] {
        server.command(&["FLUSHALL"]).unwrap();
        let record = holder_record(&server, malformed, 1500);
        server
            .command(&["SET", &key("a", "holder"), &record, "PX", "1500"])
            .unwrap();
        let lock = client.lock("a").unwrap();
        let acquired = lock.acquire_within(seconds(10)).await;
        assert!(
            matches!(acquired, Ok(Acquisition::Acquired(_))),
            "a4: {malformed}: {acquired:?}"
        );
        assert_eq!(queue_length(&server, "a"), 0);
    }
}

/// T1, S2: a number with leading zeros is longer and therefore counted as greater than the clock,
/// whatever its value.
#[tokio::test(flavor = "multi_thread")]
async fn t1_last_token_with_leading_zeros_lowers_no_token() {
    let server = server();
    let client = client(&server.url(), seconds(30)).await;
    let guard = hold(&client, "a").await;
    let before = guard.token();
    let _ = guard.release().await;
    server
        .command(&["SET", &key("a", "fence"), "tenure/1 0000000000000000001"])
        .unwrap();
    if let Ok(Acquisition::Acquired(guard)) = client.lock("a").unwrap().try_acquire().await {
        assert!(guard.token() > before, "{before}, then {}", guard.token());
    }
}

/// I1, S2: a foreign lock with an empty value (`SET lock:x "" NX PX`) is shown as foreign.
#[tokio::test(flavor = "multi_thread")]
async fn i1_foreign_holder_with_an_empty_value_is_shown() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let client = Client::builder(store(&server.url(), options))
        .connect()
        .await
        .unwrap();
    server
        .command(&["SET", "lock:x", "", "PX", "30000"])
        .unwrap();
    let busy = client.lock("x").unwrap().try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(_)), "x1");
    let state = client.inspect(&name("x")).await.unwrap();
    let page = client.list(List::new("", 100)).await.unwrap();
    eprintln!("{state:?} {page:?}");
    assert!(
        state.holder.is_some(),
        "i1: the lock is shown as free; listed: {}",
        page.locks.len()
    );
    assert_eq!(page.locks.len(), 1);
}

/// The TTL beside a huge foreign value. A server that handles 40 MB beside other work answers late.
const FOREIGN_VALUE_TTL: Duration = seconds(8);

/// L5, S2: the value of a foreign holder was part of every reply to a waiter. The server counts the
/// connection as a subscriber's and closes it at 32 MB.
#[tokio::test(flavor = "multi_thread")]
async fn l5_huge_foreign_value_loses_no_other_grant() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let client = Client::builder(store(&server.url(), options))
        .ttl(FOREIGN_VALUE_TTL)
        .connect()
        .await
        .unwrap();
    let names: Vec<_> = (0..20).map(|n| format!("other-{n}")).collect();
    let guards = hold_all(&client, &names).await;
    let huge = vec![b'x'; 40 << 20];
    server
        .command_of_bytes(&[b"SET", b"lock:x", &huge, b"PX", b"60000"])
        .unwrap();
    let waiter = {
        let lock = client.lock("x").unwrap();
        tokio::spawn(async move { lock.acquire_within(seconds(30)).await })
    };
    tokio::time::sleep(FOREIGN_VALUE_TTL * 5 / 2).await;
    let lost: Vec<_> = guards
        .iter()
        .filter(|guard| guard.check().is_err())
        .collect();
    eprintln!(
        "connections: {:?}",
        server.info("total_connections_received")
    );
    let waits = !waiter.is_finished();
    if !waits {
        eprintln!("waiter: {:?}", waiter.await.unwrap().map(|_| ()));
    }
    assert!(lost.is_empty(), "l5: {} of 20 guards are lost", lost.len());
    assert!(waits, "the waiter gave up");
}

/// L5, S2: the same with a value of ordinary size and many waiters.
#[tokio::test(flavor = "multi_thread")]
async fn l5_many_waiters_behind_a_foreign_value_lose_no_other_grant() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let client = Client::builder(store(&server.url(), options))
        .ttl(FOREIGN_VALUE_TTL)
        .connect()
        .await
        .unwrap();
    let guard = hold(&client, "other").await;
    let value = vec![b'x'; 64 << 10];
    server
        .command_of_bytes(&[b"SET", b"lock:x", &value, b"PX", b"60000"])
        .unwrap();
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let lock = client.lock("x").unwrap();
            tokio::spawn(async move { lock.acquire_within(seconds(30)).await.map(|_| ()) })
        })
        .collect();
    tokio::time::sleep(FOREIGN_VALUE_TTL * 5 / 2).await;
    let ended = waiters.iter().filter(|waiter| waiter.is_finished()).count();
    let connections = server.info("total_connections_received").unwrap();
    eprintln!(
        "connections {connections:?}, {ended} waiters ended, guard {:?}",
        guard.check()
    );
    assert!(guard.check().is_ok(), "l5: connections {connections:?}");
    assert_eq!(ended, 0, "waiters gave up");
}

/// L5, S2: one record with an invalid number failed the renewal of all grants in the same request.
#[tokio::test(flavor = "multi_thread")]
async fn l5_malformed_record_fails_no_other_renewal() {
    let server = server();
    let client = client(&server.url(), seconds(2)).await;
    let names: Vec<_> = (0..20).map(|n| format!("n{n}")).collect();
    let guards = hold_all(&client, &names).await;
    let holder = key("n7", "holder");
    let record = server.text(&["GET", &holder]).unwrap();
    let mut words: Vec<_> = record.trim().split(' ').collect();
    words[4] = "99999999999999999999999";
    server.command(&["SET", &holder, &words.join(" ")]).unwrap();
    tokio::time::sleep(seconds(5)).await;
    let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
    assert!(
        lost <= 1,
        "l5: one record is malformed, {lost} guards are lost"
    );
}

/// R4: the queue key gets its TTL together with the entries key, so a queue key that was recreated
/// beside old entries had none.
#[tokio::test(flavor = "multi_thread")]
async fn r4_queue_recreated_after_manual_deletion_expires() {
    let server = server();
    let holder = client(&server.url(), seconds(60)).await;
    let _guard = hold(&holder, "a").await;
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let join = async |id| {
        let request = RawBackend::enqueue("a", AttemptId::from_u128(id), seconds(5));
        raw.backend.enqueue(request).await.unwrap()
    };
    let _ = join(1).await;
    server.command(&["DEL", &key("a", "queue")]).unwrap();
    let _ = join(2).await;
    let ttl = server.text(&["PTTL", &key("a", "queue")]).unwrap();
    assert_ne!(ttl.trim(), "-1", "r4: the queue never expires");
}

/// W1, S2: a position that is not a finite number makes all later positions equal.
#[tokio::test(flavor = "multi_thread")]
async fn w1_order_is_kept_behind_a_non_finite_position() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let join = async |id| {
        let request = RawBackend::enqueue("a", AttemptId::from_u128(id), seconds(60));
        raw.backend.enqueue(request).await
    };
    let _ = join(9).await.unwrap();
    let _ = join(8).await.unwrap();
    let member = AttemptId::from_u128(8).to_string();
    server
        .command(&["ZADD", &key("a", "queue"), "XX", "inf", &member])
        .unwrap();
    let second = join(7).await;
    let third = join(6).await;
    eprintln!("{second:?} {third:?}");
    if let (Ok(Enqueued::Waiting(second)), Ok(Enqueued::Waiting(third))) = (second, third) {
        assert!(
            second.ahead < third.ahead,
            "w1: {:?} {:?}",
            second.ahead,
            third.ahead
        );
    }
    let leave = Remove::new(name("a"), AttemptId::from_u128(8), seconds(60), true);
    let _ = raw.backend.remove(leave).await;
}

/// W2, X3: one live waiter behind 1,000 and then 10,000 dead waiters.
#[tokio::test(flavor = "multi_thread")]
async fn x3_many_dead_waiters_delay_nobody_beyond_the_takeover_bound() {
    let server = server();
    for count in ["1000", "10000"] {
        server.command(&["FLUSHALL"]).unwrap();
        let script = "local t = redis.call('TIME')[1] - 10\n\
            for i = 1, ARGV[1] do\n\
              local id = string.format('%032x', i)\n\
              redis.call('ZADD', KEYS[1], i, id)\n\
              redis.call('HSET', KEYS[2], id, 'tenure/1 ' .. t .. '000000 1000000 ' .. id .. ' 1 1 a/b/1')\n\
            end";
        let (queue, entries) = (key("a", "queue"), key("a", "entries"));
        server
            .command(&["EVAL", script, "2", &queue, &entries, count])
            .unwrap();
        let ttl = millis(300);
        let client = builder(&server.url()).ttl(ttl).connect().await.unwrap();
        let begun = now();
        let guard = tokio::time::timeout(OPERATION_TIMEOUT, acquire(&client, "a")).await;
        let took = now().since(begun);
        let bound = ttl / 2 + millis(500);
        eprintln!("{count}: {took:?}, bound {bound:?}, {:?}", guard.is_ok());
        let slow = server.text(&["SLOWLOG", "GET", "3"]).unwrap_or_default();
        eprintln!("{slow}");
        assert!(took < bound, "x3: {count} dead: {took:?}");
    }
}

/// L5, S2: a foreign value becomes huge while a client waits, so that it is requested again and
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn l5_foreign_value_that_becomes_huge_loses_no_other_grant() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let client = Client::builder(store(&server.url(), options))
        .ttl(FOREIGN_VALUE_TTL)
        .connect()
        .await
        .unwrap();
    let names: Vec<_> = (0..20).map(|n| format!("other-{n}")).collect();
    let guards = hold_all(&client, &names).await;
    server
        .command(&["SET", "lock:x", "small", "PX", "60000"])
        .unwrap();
    let waiter = acquire(&client, "x");
    tokio::time::sleep(seconds(1)).await;
    let huge = vec![b'x'; 40 << 20];
    server
        .command_of_bytes(&[b"SET", b"lock:x", &huge, b"PX", b"60000"])
        .unwrap();
    tokio::time::sleep(FOREIGN_VALUE_TTL * 5 / 2).await;
    let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
    let connections = server.info("total_connections_received").unwrap();
    eprintln!(
        "connections {connections:?}, waiter ended {}",
        waiter.is_finished()
    );
    assert_eq!(
        lost, 0,
        "l5: {lost} of 20 guards are lost; connections {connections:?}"
    );
}

/// S2, T1: a last token beyond the maximum.
#[tokio::test(flavor = "multi_thread")]
async fn s2_last_token_beyond_the_maximum_is_corrupt_and_grants_nothing() {
    let server = server();
    let client = client(&server.url(), seconds(30)).await;
    server
        .command(&["SET", &key("a", "fence"), "tenure/1 9999999999999999999"])
        .unwrap();
    let lock = client.lock("a").unwrap();
    if let Ok(Acquisition::Acquired(guard)) = lock.try_acquire().await {
        let token = guard.token();
        let _ = guard.release().await;
        let next = lock.try_acquire().await;
        panic!("s2: granted with token {token}; and then {next:?}");
    }
}

/// S2, S3: a client that already waits learns of malformed state just as a new client does.
#[tokio::test(flavor = "multi_thread")]
async fn s2_waiter_learns_that_the_holder_record_is_malformed() {
    let server = server();
    for malformed in ["tenure/1 garbage", "tenure/2 garbage", "tenure/3 newer"] {
        server.command(&["FLUSHALL"]).unwrap();
        let client = client(&server.url(), seconds(1)).await;
        let guard = hold(&client, "a").await;
        let waiter = {
            let lock = client.lock("a").unwrap();
            tokio::spawn(async move { lock.acquire().await.map(|_| ()) })
        };
        crate::common::wait_until("the waiter is queued", OPERATION_TIMEOUT, || {
            queue_length(&server, "a") == 1
        })
        .await;
        server
            .command(&["SET", &key("a", "holder"), malformed])
            .unwrap();
        let fresh = client.lock("a").unwrap().try_acquire().await;
        let ended = tokio::time::timeout(seconds(10), waiter).await;
        eprintln!(
            "{malformed}: guard {:?}, fresh {fresh:?}, waiter {ended:?}",
            guard.check()
        );
        assert!(
            matches!(ended, Ok(Ok(Err(_)))),
            "s2: {malformed}: after ten TTLs the waiter still waits without an error; a new acquire: {fresh:?}"
        );
    }
}

/// L5: the huge value is in a record that looks like one of ours; no option is set.
#[tokio::test(flavor = "multi_thread")]
async fn l5_huge_owner_in_a_holder_record_loses_no_other_grant() {
    let server = server();
    let client = client(&server.url(), seconds(3)).await;
    let names: Vec<_> = (0..20).map(|n| format!("other-{n}")).collect();
    let guards = hold_all(&client, &names).await;
    let record = holder_record(&server, "a/b/1", 60_000);
    let holder = key("x", "holder");
    server
        .command(&["SET", &holder, &record, "PX", "60000"])
        .unwrap();
    let _waiter = acquire(&client, "x");
    tokio::time::sleep(seconds(1)).await;
    let probe = SilenceProbe::start(&server);
    let cpu_before = cpu_seconds(&server);
    let huge = format!("{}/b/1", "a".repeat(40 << 20));
    let record = holder_record(&server, &huge, 60_000);
    server
        .command(&["SET", &holder, &record, "PX", "60000"])
        .unwrap();
    tokio::time::sleep(seconds(15)).await;
    let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
    let cpu = cpu_seconds(&server) - cpu_before;
    let silence = probe.longest_silence();
    eprintln!("{lost} lost, {cpu:.3} s of CPU, silent for {silence:?}");
    // How much the server computes does not depend on how busy the machine is.
    assert!(cpu < 3.0, "l5: the huge record took {cpu:.3} s of CPU");
    assert!(
        lost == 0 || silence > MAX_SILENCE,
        "l5: {lost} of 20 guards are lost, although the server was silent for {silence:?} at most"
    );
}

/// The longest silence of a server on a machine that is not overloaded. It leaves a grant with a
/// TTL of 3 s enough time for two renewals that fail.
const MAX_SILENCE: Duration = millis(500);

/// Measures on a connection of its own how long the server answers nothing.
struct SilenceProbe {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<Duration>,
}

impl SilenceProbe {
    fn start(server: &Server) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let mut socket = UnixStream::connect(server.unix_socket()).unwrap();
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while stopped.recv_timeout(millis(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let asked = now();
                socket.write_all(b"PING\r\n").unwrap();
                socket.read_exact(&mut [0; b"+PONG\r\n".len()]).unwrap();
                longest = longest.max(now().since(asked));
            }
            longest
        });
        Self { stop, thread }
    }

    fn longest_silence(self) -> Duration {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// The processor time that the server has used.
fn cpu_seconds(server: &Server) -> f64 {
    let used = |field| server.info(field).unwrap().unwrap().parse::<f64>().unwrap();
    used("used_cpu_user") + used("used_cpu_sys")
}

/// A4, S3: behind an entry of a newer version, or a malformed one, the position was taken before
/// that entry was read, and the error claimed to have had no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a4_acquire_rejected_for_a_newer_waiter_leaves_no_entry() {
    for malformed in [
        "tenure/3 whatever",
        "tenure/2 nonsense",
        "tenure/1 nonsense",
    ] {
        let server = Server::builder().start().unwrap();
        let client = client(&server.url(), seconds(30)).await;
        let guard = hold(&client, "a").await;
        let id = "c".repeat(32);
        server
            .command(&["ZADD", &key("a", "queue"), "1", &id])
            .unwrap();
        server
            .command(&["HSET", &key("a", "entries"), &id, malformed])
            .unwrap();
        let lock = client.lock("a").unwrap();
        let error = lock.acquire_within(seconds(5)).await.unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::NewerFormat | ErrorKind::Corrupt
        ));
        tokio::time::sleep(millis(300)).await;
        let leftover = queue_length(&server, "a") - 1;
        // The entry of the newer version is removed, and the holder releases the lock.
        server.command(&["ZREM", &key("a", "queue"), &id]).unwrap();
        server
            .command(&["HDEL", &key("a", "entries"), &id])
            .unwrap();
        let _ = guard.release().await;
        let next = lock.try_acquire().await;
        assert_eq!(
            leftover, 0,
            "a4: {malformed}: {leftover} entries left in the queue; then {next:?}"
        );
    }
}

fn now() -> tenure_core::clock::Instant {
    SystemClock.now()
}
