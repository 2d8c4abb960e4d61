//! One node of a cluster does not answer.

use tenure_core::Acquisition;
use tenure_test_servers::redis::Cluster;
use tokio::time::{Instant, sleep};

use crate::common::{builder, client, key, millis, name, seconds};

/// R3, A4: a node of a cluster is stopped (SIGSTOP). Attempts for its locks fail and leave removals
/// that are retried for a TTL. They must not delay the release of a guard that is dropped on another
/// node.
#[tokio::test(flavor = "multi_thread")]
async fn r3_a_silent_node_of_a_cluster_blocks_no_release_on_another_node() {
    let cluster = Cluster::builder()
        .node_timeout(seconds(60))
        .start()
        .unwrap();
    let owner = builder(&cluster.url()).ttl(seconds(30));
    let owner = owner.request_timeout(seconds(1)).connect().await.unwrap();
    let silent = &cluster.masters()[0];
    let on_silent = |lock: &str| {
        let slot = cluster.slot_of(&key(lock, "holder")).unwrap();
        cluster.owner_of_slot(slot).unwrap().port() == silent.port()
    };
    let names: Vec<String> = (0..600).map(|n| format!("n{n}")).collect();
    let (down, healthy): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| on_silent(name));
    let reader = client(&cluster.url(), seconds(30)).await;
    let guard = match owner.lock(&healthy[0]).unwrap().try_acquire().await {
        Ok(Acquisition::Acquired(guard)) => guard,
        other => panic!("{other:?}"),
    };
    println!("{} locks at the silent node", down.len());
    silent.pause().unwrap();
    for lock in &down[..100] {
        let lock = owner.lock(lock).unwrap();
        tokio::spawn(async move { lock.acquire().await });
    }
    // The first attempts have failed.
    sleep(seconds(3)).await;
    assert!(guard.check().is_ok());
    let begun = Instant::now();
    drop(guard);
    let released = loop {
        if let Ok(state) = reader.inspect(&name(&healthy[0])).await
            && state.holder.is_none()
        {
            break begun.elapsed();
        }
        if begun.elapsed() > seconds(45) {
            break begun.elapsed();
        }
        sleep(millis(20)).await;
    };
    println!("free after {released:?}");
    silent.resume().unwrap();
    assert!(released < seconds(5), "free after {released:?} only");
}

/// L2: the renew script does not find a grant on a node that answers. The report that tells what has
/// become of it must not wait for the renewals on another node.
#[tokio::test(flavor = "multi_thread")]
async fn l2_a_silent_node_does_not_delay_the_news_of_a_loss_on_another_node() {
    const TTL: std::time::Duration = seconds(12);
    let cluster = Cluster::builder()
        .node_timeout(seconds(60))
        .start()
        .unwrap();
    let silent = &cluster.masters()[0];
    let owner_of = |lock: &str| {
        let slot = cluster.slot_of(&key(lock, "holder")).unwrap();
        cluster.owner_of_slot(slot).unwrap()
    };
    let on_silent = |lock: &String| owner_of(lock).port() == silent.port();
    let names: Vec<String> = (0..60).map(|n| format!("n{n}")).collect();
    let (down, healthy): (Vec<_>, Vec<_>) = names.into_iter().partition(on_silent);
    for pause in [false, true] {
        let owner = client(&cluster.url(), TTL).await;
        let mut others = Vec::new();
        for lock in &down[..3] {
            others.push(crate::common::hold(&owner, lock).await);
        }
        let lock = &healthy[0];
        let guard = crate::common::hold(&owner, lock).await;
        guard.renew().await.unwrap();
        let begun = Instant::now();
        let (left, node) = (guard.remaining(), owner_of(lock));
        if pause {
            silent.pause().unwrap();
        }
        node.command(&["DEL", &key(lock, "holder")]).unwrap();
        let reason = guard.lost().await;
        println!(
            "paused {pause}: {reason:?} after {:?} of {left:?}",
            begun.elapsed()
        );
        if pause {
            silent.resume().unwrap();
        }
        assert!(
            begun.elapsed() < TTL / 3 + seconds(2),
            "{:?}",
            begun.elapsed()
        );
        drop(others);
        owner.shutdown(seconds(10)).await;
    }
}
