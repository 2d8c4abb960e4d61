//! Distant servers: each reply arrives with a delay, and any number of replies may be in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure_core::Release;
use tenure_test_servers::etcd::{Cluster, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::common::{
    WAIT_LIMIT, client, expect_granted, millis, seconds, spawn_acquire, wait_for_waiters,
};

/// A proxy that delays each reply by the same time and has room for any number of replies in
/// flight. (The proxy of the test servers delays one piece after the other.)
struct DelayProxy {
    address: String,
    made: Arc<AtomicU64>,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
}

impl DelayProxy {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let delay = Arc::new(AtomicU64::new(0));
        let given = Arc::clone(&delay);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let Ok(far) = TcpStream::connect(&target).await else {
                    continue;
                };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (mut ours, mut to_us) = near.into_split();
                let (mut theirs, mut to_them) = far.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut ours, &mut to_them).await;
                });
                let given = Arc::clone(&given);
                let (late, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
                tokio::spawn(async move {
                    let mut piece = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = theirs.read(&mut piece).await {
                        let delay = millis(given.load(Ordering::Relaxed));
                        let _ = late.send((Instant::now() + delay, piece[..read].to_vec()));
                    }
                });
                tokio::spawn(async move {
                    while let Some((at, piece)) = due.recv().await {
                        sleep_until(at).await;
                        if to_us.write_all(&piece).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            made,
            delay,
        }
    }
}

/// Holds a lock and waits for it with a client whose replies are all delayed.
async fn hold_and_wait_with_delay(
    delay: Duration,
    ttl: Duration,
    targets: Vec<String>,
    near: &str,
) {
    let near = client(near, seconds(60)).await;
    let mut far = Vec::new();
    for target in targets {
        far.push(DelayProxy::start(target).await);
    }
    let addresses: Vec<_> = far.iter().map(|far| far.address.as_str()).collect();
    let away = client(&format!("etcd://{}", addresses.join(",")), ttl).await;
    let _ = expect_granted(
        "the client gets a lease",
        WAIT_LIMIT,
        spawn_acquire(&away, "lease"),
    )
    .await
    .release()
    .await;
    let guard = expect_granted("the lock is free", WAIT_LIMIT, spawn_acquire(&away, "a")).await;
    for far in &far {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        far.delay.store(millis, Ordering::Relaxed);
    }
    let connections = || {
        far.iter()
            .map(|far| far.made.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    let waiter = spawn_acquire(&near, "a");
    let began = Instant::now();
    let before = connections();
    while began.elapsed() < (ttl * 3).min(seconds(40)) {
        assert!(
            guard.check().is_ok(),
            "L5: {delay:?}, after {:?}, {} connections",
            began.elapsed(),
            connections() - before
        );
        sleep(millis(10)).await;
    }
    eprintln!("{delay:?}: {} connections", connections() - before);
    let began = Instant::now();
    let released = guard.release().await;
    eprintln!("{delay:?}: {released:?} after {:?}", began.elapsed());
    assert!(matches!(released, Release::Released), "R1: {released:?}");
    let next = expect_granted("R2", WAIT_LIMIT, waiter).await;
    // The same client as a waiter.
    let waiter = spawn_acquire(&away, "a");
    wait_for_waiters(&near, "a", 1).await;
    sleep(seconds(9)).await;
    let _ = next.release().await;
    let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
    assert!(next.check().is_ok());
}

/// L5, R1: a round trip takes a 23rd of the TTL.
#[tokio::test(flavor = "multi_thread")]
async fn l5_r1_slow_server_ends_no_grant() {
    let server = Server::builder().start().unwrap();
    hold_and_wait_with_delay(
        millis(1300),
        seconds(30),
        vec![server.address()],
        &server.url(),
    )
    .await;
}

/// L5, R1: the same delay for each member of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn l5_r1_slow_cluster_ends_no_grant() {
    let cluster = Cluster::builder().start().unwrap();
    let targets = cluster.servers().iter().map(Server::address).collect();
    hold_and_wait_with_delay(millis(1300), seconds(30), targets, &cluster.url()).await;
}

/// L5, R1: a delay that fits the shortest TTL.
#[tokio::test(flavor = "multi_thread")]
async fn l5_r1_slow_server_ends_no_grant_with_the_shortest_ttl() {
    let server = Server::builder().start().unwrap();
    hold_and_wait_with_delay(
        millis(280),
        seconds(2),
        vec![server.address()],
        &server.url(),
    )
    .await;
}
