//! The checks of the server when a client connects.

use std::time::Duration;

use tenure_core::{
    Client,
    error::{Error, ErrorKind},
};
use tenure_redis::{Eviction, Options};
use tenure_test_servers::redis::{Cluster, Server};
use tokio::time::{Instant, sleep};

use crate::common::{
    OPERATION_TIMEOUT, builder, client, connected, enqueue_waiter, expect_granted, hold, millis,
    seconds, store,
};

async fn connect(url: &str, options: Options) -> Result<Client, Error> {
    Client::builder(store(url, options)).connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_server_that_may_evict_locks_is_rejected_unless_allowed() {
    let server = Server::builder()
        .config("maxmemory", "100mb")
        .config("maxmemory-policy", "allkeys-lru")
        .start()
        .unwrap();
    let error = connect(&server.url(), Options::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for word in ["allkeys-lru", "noeviction", "eviction"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let warned = connect(&server.url(), Options::default().eviction(Eviction::Warn)).await;
    let guard = hold(&warned.unwrap(), "a").await;
    let _ = guard.release().await;
    server
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .unwrap();
    connect(&server.url(), Options::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_replica_or_cluster_node_is_rejected_as_single_server() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    let error = builder(&replica.url()).connect().await.unwrap_err();
    assert!(error.to_string().contains("replica"), "{error}");
    assert!(error.to_string().contains("redis+sentinel://"), "{error}");
    builder(&master.url()).connect().await.unwrap();

    let cluster = Cluster::builder().start().unwrap();
    let error = builder(&cluster.masters()[0].url())
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
    let right = client(&cluster.url(), seconds(10)).await;
    let guard = hold(&right, "a").await;
    let _ = guard.release().await;
    let address = master.url().replace("redis://", "redis+cluster://");
    let error = builder(&address).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("`redis://`"), "{error}");
}

/// With `restart_delay` there are never two holders, even if the server loses all state: by the end
/// of the delay, every earlier holder has lost its lock.
#[tokio::test(flavor = "multi_thread")]
async fn x1_restarted_server_grants_nothing_for_the_restart_delay() {
    const TTL: Duration = seconds(4);
    let server = Server::builder().start().unwrap();
    let options = || Options::default().restart_delay(TTL);
    let connect = async || {
        let store = store(&server.url(), options());
        Client::builder(store).ttl(TTL).connect().await.unwrap()
    };
    let careful = connect().await;
    let take = async |client: &Client, lock: &str| {
        let lock = client.lock(lock).unwrap();
        let begun = Instant::now();
        let mut refused = 0;
        loop {
            match lock.try_acquire().await {
                Ok(got) => return (got.acquired().unwrap(), refused),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(error.is_retryable());
                    assert!(begun.elapsed() < TTL + OPERATION_TIMEOUT, "{error}");
                    refused += u64::from(error.to_string().contains("restart_delay"));
                }
            }
            sleep(millis(20)).await;
        }
    };
    let (old, refused) = take(&careful, "a").await;
    assert!(refused > 0, "the server has just started");
    let before = old.valid_until();
    old.renew().await.unwrap();
    assert!(old.valid_until() > before);

    let fresh = connect().await;
    let waiting = connect().await;
    let _ = take(&waiting, "b").await.0.release().await;
    let waiter = enqueue_waiter(&server, &waiting, "a", 1).await;
    server.restart().unwrap();
    let restarted = Instant::now();
    connected(&fresh).await;
    let error = fresh.lock("b").unwrap().try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("restart_delay"), "{error}");
    // A waiter keeps waiting.
    let new = expect_granted("the waiter is granted", TTL + OPERATION_TIMEOUT, waiter).await;
    assert!(old.check().is_err(), "two holders");
    assert!(new.token() > old.token(), "t1");
    // The server reports its uptime in whole seconds.
    assert!(restarted.elapsed() > TTL - seconds(2));
    let _ = new.release().await;
    let (again, _) = take(&careful, "a").await;
    assert!(
        again.token() > new.token(),
        "t1: tokens also rise for the old client"
    );
}
