//! Shared and counted locks: which attempts hold them, and in which order.

use tenure_core::{
    Client, Guard, Lock, Release,
    error::ErrorKind,
    loss::LossReason,
    mode::Mode,
    request::{Evicted, List},
};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, etcdctl, expect_granted, millis, name, seconds,
    wait_for_waiters, wait_until_free,
};

/// A TTL so long that no waiter reports during a test: only its watch can wake it.
pub(crate) const TTL: std::time::Duration = seconds(90);

/// Less than a third of the TTL.
pub(crate) const SOON: std::time::Duration = seconds(10);

pub(crate) fn reader(client: &Client) -> Lock {
    client.rw_lock("a").unwrap().read()
}

pub(crate) fn writer(client: &Client) -> Lock {
    client.rw_lock("a").unwrap().write()
}

pub(crate) fn permits(client: &Client, take: u32, of: u32) -> Lock {
    client.semaphore("a", of).unwrap().permits(take).unwrap()
}

pub(crate) async fn try_now(lock: &Lock) -> Option<Guard> {
    lock.try_acquire().await.unwrap().acquired()
}

/// Acquires a lock that must be granted without a wait.
pub(crate) async fn now(lock: Lock) -> Guard {
    timeout(SOON, lock.acquire()).await.unwrap().unwrap()
}

/// Starts a waiter and waits until it is at this place of the queue.
pub(crate) async fn wait_at(place: usize, lock: Lock, observer: &Client) -> JoinHandle<Guard> {
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    wait_for_waiters(observer, "a", place).await;
    waiter
}

pub(crate) async fn soon(what: &str, waiter: JoinHandle<Guard>) -> Guard {
    let guard = expect_granted(what, SOON, waiter).await;
    guard.check().unwrap();
    guard
}

pub(crate) async fn release(guard: Guard) {
    assert!(matches!(guard.release().await, Release::Released));
}

/// The number of holders and of waiters that the store has.
pub(crate) async fn counts(observer: &Client) -> (usize, usize) {
    let state = observer.inspect(&name("a")).await.unwrap();
    (state.holders().count(), state.queue.len())
}

async fn two_clients(server: &Server) -> (Client, Client) {
    let url = server.url();
    (client(&url, TTL).await, client(&url, TTL).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_m2_readers_share_and_a_writer_waits_its_turn() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let first = now(reader(&one)).await;
    let second = try_now(&reader(&two)).await.unwrap();
    let third = now(reader(&one)).await;
    assert_eq!(counts(&one).await, (3, 0));
    assert!(
        first.token() < second.token() && second.token() < third.token(),
        "M3"
    );
    for guard in [&first, &second, &third] {
        assert_eq!(
            (guard.mode(), guard.floor()),
            (Mode::Shared, first.token()),
            "M3"
        );
    }
    assert!(try_now(&writer(&two)).await.is_none(), "M1");
    let writing = wait_at(1, writer(&two), &one).await;
    let behind = wait_at(2, reader(&one), &one).await;
    assert!(
        try_now(&reader(&two)).await.is_none(),
        "M2: a reader passes a writer"
    );
    release(second).await;
    release(third).await;
    sleep(millis(300)).await;
    assert!(!writing.is_finished() && !behind.is_finished(), "M1");
    release(first).await;
    let written = soon("the writer", writing).await;
    assert_eq!(written.floor(), written.token());
    sleep(millis(300)).await;
    assert!(!behind.is_finished(), "M1");
    release(written).await;
    let last = soon("the reader behind the writer", behind).await;
    assert_eq!(last.floor(), last.token(), "M3");
    release(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_m2_permits_are_summed_and_granted_in_order() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let first = now(permits(&one, 2, 4)).await;
    let second = try_now(&permits(&two, 1, 4)).await.unwrap();
    let third = now(permits(&two, 1, 4)).await;
    assert_eq!(
        (second.floor(), third.mode()),
        (first.token(), Mode::permits(1, 4).unwrap())
    );
    assert!(
        try_now(&permits(&one, 1, 4)).await.is_none(),
        "M1: five of four"
    );
    let large = wait_at(1, permits(&two, 4, 4), &one).await;
    let small = wait_at(2, permits(&one, 1, 4), &one).await;
    let last = wait_at(3, permits(&two, 1, 4), &one).await;
    release(second).await;
    release(third).await;
    sleep(millis(300)).await;
    assert!(
        !small.is_finished(),
        "M2: a small request passes a large one"
    );
    release(first).await;
    let large = soon("the large request", large).await;
    sleep(millis(300)).await;
    assert!(!small.is_finished() && !last.is_finished(), "M1");
    release(large).await;
    let small = soon("the first small request", small).await;
    let last = soon("the last small request, which its predecessor tells", last).await;
    assert_eq!(counts(&one).await, (2, 0));
    // Another number of permits excludes.
    assert!(try_now(&permits(&one, 1, 5)).await.is_none(), "M6");
    assert!(try_now(&reader(&one)).await.is_none(), "M1");
    let other = wait_at(1, permits(&one, 1, 5), &one).await;
    let exclusive = wait_at(2, writer(&two), &one).await;
    release(small).await;
    release(last).await;
    let other = soon("the other number of permits", other).await;
    release(other).await;
    release(soon("the writer", exclusive).await).await;
}

/// Permits that come free one after the other, and waiters that leave the queue.
#[tokio::test(flavor = "multi_thread")]
async fn w2_first_waiter_for_permits_learns_of_each_removal_ahead() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut holders = Vec::new();
        for _ in 0..3 {
            holders.push(Some(now(permits(&one, 1, 3)).await));
        }
        let leaves = wait_at(1, permits(&two, 1, 3), &one).await;
        let large = wait_at(2, permits(&two, 2, 3), &one).await;
        let small = wait_at(3, permits(&one, 1, 3), &one).await;
        leaves.abort();
        wait_for_waiters(&one, "a", 2).await;
        release(holders[order[0]].take().unwrap()).await;
        sleep(millis(100)).await;
        assert!(!large.is_finished(), "one permit is free");
        release(holders[order[1]].take().unwrap()).await;
        let large = soon("two permits are free", large).await;
        release(holders[order[2]].take().unwrap()).await;
        let small = soon("one more permit is free", small).await;
        release(large).await;
        release(small).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_downgrade_admits_the_readers_right_behind_and_nobody_else() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let writing = now(writer(&one)).await;
    let token = writing.token();
    let first = wait_at(1, reader(&two), &one).await;
    let second = wait_at(2, reader(&one), &one).await;
    let writer_behind = wait_at(3, writer(&two), &one).await;
    let last = wait_at(4, reader(&one), &one).await;
    let began = Instant::now();
    let reading = writing.downgrade().await.unwrap();
    let first = soon("the first reader", first).await;
    let second = soon("the second reader", second).await;
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
    assert_eq!((reading.token(), reading.mode()), (token, Mode::Shared));
    reading.check().unwrap();
    assert_eq!((first.floor(), second.floor()), (token, token), "M3");
    let state = two.inspect(&name("a")).await.unwrap();
    let tokens: Vec<_> = state.holders().map(|holder| holder.token).collect();
    assert_eq!(
        tokens,
        [&reading, &first, &second].map(|guard| Some(guard.token()))
    );
    assert!(state.holders().all(|holder| holder.mode == Mode::Shared));
    assert_eq!(
        state.queue.iter().map(|one| one.mode).collect::<Vec<_>>(),
        [Mode::Exclusive, Mode::Shared]
    );
    assert!(!writer_behind.is_finished() && !last.is_finished());
    // A renewal finds the entry unaltered.
    reading.renew().await.unwrap();
    release(first).await;
    release(second).await;
    sleep(millis(300)).await;
    assert!(!writer_behind.is_finished(), "M1");
    release(reading).await;
    release(soon("the writer behind", writer_behind).await).await;
    release(soon("the last reader", last).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_downgrade_is_repeated_until_it_is_answered() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (one, two) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    let writing = now(writer(&one)).await;
    let behind = wait_at(1, reader(&two), &two).await;
    proxy.drop_reply_of_and_cut("Txn");
    let reading = timeout(WAIT_LIMIT, writing.downgrade())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(proxy.replies_dropped(), 1);
    release(soon("the reader behind", behind).await).await;
    reading.renew().await.unwrap();
    release(reading).await;
    // A lost grant is not downgraded, and nothing is created.
    let writing = now(writer(&one)).await;
    etcdctl(&server.address(), &["del", "--prefix", "default/a/"]);
    assert!(writing.downgrade().await.is_err());
    assert_eq!(counts(&two).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_all_holders_are_shown_and_one_is_evicted() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let first = now(reader(&one)).await;
    let second = now(reader(&two)).await;
    let third = now(reader(&one)).await;
    let writing = wait_at(1, writer(&two), &one).await;
    let listed = one.list(List::new("", 10)).await.unwrap().locks.remove(0);
    assert_eq!((listed.holders, listed.waiters), (3, 1));
    assert_eq!(listed.holder.unwrap().token, Some(first.token()));
    let state = one.inspect(&name("a")).await.unwrap();
    assert!(state.holders().all(|holder| holder.expires_in.is_some()));
    let waiting = state.queue[0].attempt.unwrap();
    // The token of a waiter is no grant.
    let newer = tenure_core::token::FencingToken::new(third.token().get() + 1);
    assert!(matches!(
        one.evict(&name("a"), newer).await.unwrap(),
        Evicted::NotHeld(Some(_))
    ));
    assert_eq!(
        one.evict(&name("a"), second.token()).await.unwrap(),
        Evicted::Evicted
    );
    let lost = timeout(SOON, second.lost()).await;
    assert_eq!(lost, Ok(LossReason::Evicted), "L2");
    first.check().unwrap();
    third.check().unwrap();
    assert_eq!(counts(&one).await, (2, 1));
    release(first).await;
    release(third).await;
    let writing = soon("the writer", writing).await;
    assert_eq!(writing.attempt(), waiting);
}

/// The lease of an entry of this mode.
fn lease_of(server: &Server, mode: &str) -> String {
    let found = etcdctl(&server.address(), &["get", "--prefix", "default/a/"]);
    let lines: Vec<_> = found.lines().collect();
    let entry = lines.chunks(2).find(|entry| entry[1].contains(mode));
    let tail = entry.unwrap()[0].rsplit('/').next().unwrap().to_owned();
    tail.split('-').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_dead_reader_in_the_middle_and_dead_waiting_writer_leave_the_queue() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let short = client(&server.url(), TTL + seconds(1)).await;
    // A dead reader between two others.
    let first = now(reader(&one)).await;
    let dead = now(reader(&short).label("dead")).await;
    let third = now(reader(&one)).await;
    let writing = wait_at(1, writer(&two), &one).await;
    etcdctl(
        &server.address(),
        &["lease", "revoke", &lease_of(&server, "dead")],
    );
    assert!(timeout(SOON, dead.lost()).await.is_ok());
    release(third).await;
    assert!(!writing.is_finished());
    release(first).await;
    let writing = soon("the writer", writing).await;
    release(writing).await;
    // A dead writer between readers.
    let first = now(reader(&one)).await;
    let lock = writer(&short).label("dead");
    let dead = tokio::spawn(async move { lock.acquire().await.map(drop) });
    wait_for_waiters(&one, "a", 1).await;
    let behind = wait_at(2, reader(&two), &one).await;
    let lease = lease_of(&server, "dead");
    dead.abort();
    etcdctl(&server.address(), &["lease", "revoke", &lease]);
    release(soon("the reader behind the dead writer", behind).await).await;
    release(first).await;
    // A dead holder of permits.
    let first = now(permits(&one, 1, 2)).await;
    let dead = now(permits(&short, 1, 2).label("dead")).await;
    let next = wait_at(1, permits(&two, 1, 2), &one).await;
    etcdctl(
        &server.address(),
        &["lease", "revoke", &lease_of(&server, "dead")],
    );
    release(soon("the permit of the dead holder", next).await).await;
    drop((dead, first));
}

/// A holder of permits that was killed before it announced itself: its successor reads the queue with
/// its next report.
#[tokio::test(flavor = "multi_thread")]
async fn w2_missing_announcement_is_found_by_the_next_report() {
    let server = Server::builder().start().unwrap();
    let ttl = seconds(3);
    let (one, two) = (
        client(&server.url(), TTL).await,
        client(&server.url(), ttl).await,
    );
    let holder = now(permits(&one, 2, 2)).await;
    let lease = etcdctl(&server.address(), &["lease", "grant", "600"]);
    let lease = lease.split(' ').nth(1).unwrap();
    let value = "{\"tenure\":2,\"attempt\":\"00000000000000000000000000000001\",\"label\":\"dead\",\
                 \"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":1,\"mode\":\"1/2\"}";
    let key = format!("default/a/{lease}-0");
    etcdctl(
        &server.address(),
        &["put", &key, value, &format!("--lease={lease}")],
    );
    wait_for_waiters(&one, "a", 1).await;
    let single = wait_at(2, permits(&two, 1, 2), &one).await;
    let mut more = Vec::new();
    for place in 3..6 {
        more.push(wait_at(place, permits(&two, 1, 2), &one).await);
    }
    release(holder).await;
    let guard = expect_granted("a report finds it", ttl, single).await;
    assert_eq!(counts(&one).await, (2, 3));
    release(guard).await;
    for waiter in more {
        release(soon("each of the others", waiter).await).await;
    }
}

/// The awaited change comes before the server has the waiter's watch.
#[tokio::test(flavor = "multi_thread")]
async fn w2_change_before_the_watch_exists_is_not_missed() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (one, two) = (
        client(&server.url(), TTL).await,
        client(&proxy.url(), TTL).await,
    );
    release(acquire_free(&two, "lease").await).await;
    // A writer before a reader releases or is downgraded.
    for downgrades in [false, true] {
        let writing = now(writer(&one)).await;
        proxy.delay_requests(millis(200));
        let behind = wait_at(1, reader(&two), &one).await;
        let reading = if downgrades {
            Some(writing.downgrade().await.unwrap())
        } else {
            release(writing).await;
            None
        };
        proxy.delay_requests(millis(0));
        release(soon("the reader", behind).await).await;
        drop(reading);
        wait_until_free(&one, "a", SOON).await;
    }
    // A holder of permits releases before the first waiter, or the second one, watches.
    for waiters_before in [0, 1] {
        let holder = now(permits(&one, 2, 2)).await;
        let mut before = Vec::new();
        if waiters_before == 1 {
            before.push(wait_at(1, permits(&one, 1, 2), &one).await);
            // The first waiter watches.
            sleep(millis(200)).await;
        }
        proxy.delay_requests(millis(200));
        let waiter = wait_at(waiters_before + 1, permits(&two, 1, 2), &one).await;
        release(holder).await;
        // The first waiter holds until the last one does, too.
        let mut guards = Vec::new();
        for waiter in before {
            guards.push(soon("the first waiter", waiter).await);
        }
        proxy.delay_requests(millis(0));
        guards.push(soon("the last waiter", waiter).await);
        for guard in guards {
            release(guard).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_s3_unreadable_mode_is_refused_and_never_ignored() {
    let server = Server::builder().start().unwrap();
    let (one, two) = two_clients(&server).await;
    let _held = [
        now(reader(&one)).await,
        now(reader(&one)).await,
        now(reader(&one)).await,
    ];
    let found = etcdctl(&server.address(), &["get", "--prefix", "default/a/"]);
    let lines: Vec<_> = found.lines().collect();
    let (key, value) = (lines[2], lines[3]);
    assert!(
        value.contains("\"tenure\":2") && value.contains("\"mode\":\"shared\""),
        "S3: {value}"
    );
    for (from, to, kind) in [
        ("\"shared\"", "\"9/3\"", ErrorKind::Corrupt),
        ("\"shared\"", "\"upgraded\"", ErrorKind::Corrupt),
        ("\"tenure\":2", "\"tenure\":3", ErrorKind::NewerFormat),
    ] {
        let altered = value.replace(from, to);
        etcdctl(&server.address(), &["put", "--ignore-lease", key, &altered]);
        for lock in [reader(&two), permits(&two, 1, 9)] {
            let tried = lock.try_acquire().await.unwrap_err();
            assert_eq!(tried.kind(), kind, "{to}: {tried}");
            let waited = lock.acquire_within(SOON).await.unwrap_err();
            assert_eq!(waited.kind(), kind, "{to}: {waited}");
        }
        assert!(two.inspect(&name("a")).await.is_err());
    }
    let keys = etcdctl(
        &server.address(),
        &["get", "--prefix", "--keys-only", "default/a/"],
    );
    assert_eq!(
        keys.split_whitespace().count(),
        3,
        "nothing stays behind: {keys}"
    );
}
