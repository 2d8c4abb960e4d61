//! An enqueue that a stopped server applies long after its attempt was removed (A4).

use std::sync::Arc;

use tenure_core::{
    id::AttemptId,
    request::{Enqueue, Owner, Remove},
};
use tenure_test_servers::etcd::Cluster;
use tokio::time::{Instant, sleep, timeout};

use crate::common::{
    WAIT_LIMIT, client, driver, etcdctl, millis, name, proxies, proxy_in_use, seconds, wait_until,
    wait_until_free,
};

const ROUNDS: usize = 20;
const ATTEMPTS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_applied_after_its_removal_leaves_no_entry() {
    let cluster = Cluster::builder().start().unwrap();
    let (proxies, url) = proxies(&cluster);
    let backend = driver(&url).await;
    let other = client(&cluster.url(), seconds(5)).await;
    let ttl = seconds(60);
    let mut late = 0;
    for round in 0..ROUNDS {
        // Shows which server the client uses, and that the client has a lease.
        for proxy in &proxies {
            proxy.reset();
        }
        let warm = AttemptId::random().unwrap();
        let enqueue = |lock: &str, attempt| {
            let owner = Owner::new("", "host", 1);
            Enqueue::new(name(lock), attempt, owner, ttl, round % 2 == 0)
        };
        backend.enqueue(enqueue("warm", warm)).await.unwrap();
        backend
            .remove(Remove::new(name("warm"), warm, ttl, true))
            .await
            .unwrap();
        let index = proxy_in_use(&proxies);
        let applied = || {
            let metric = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Txn\",\
                          grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
            cluster
                .server(index)
                .metric(metric)
                .ok()
                .flatten()
                .unwrap_or(0.0)
        };
        let before = applied();
        cluster.server(index).pause().unwrap();
        let mut sent = Vec::new();
        for number in 0..ATTEMPTS {
            let attempt = AttemptId::random().unwrap();
            let request = enqueue(&format!("ghost-{number}"), attempt);
            let backend = Arc::clone(&backend);
            let task = tokio::spawn(async move { backend.enqueue(request).await });
            sent.push((number, attempt, task));
        }
        let total = || {
            proxies
                .iter()
                .map(|proxy| proxy.count("Txn"))
                .sum::<usize>()
        };
        // One of them was the transaction of the first lock. Another request of the client at this
        // moment may move it to another server before it has sent all of them.
        wait_until("all enqueues are sent", WAIT_LIMIT, || total() > ATTEMPTS).await;
        let mut kept = Vec::new();
        for (number, attempt, task) in sent {
            // The core drops the enqueues that it gives up. The others have to find out that they
            // were removed.
            if number % 2 == 0 {
                task.abort();
            } else {
                kept.push(task);
            }
            let remove = Remove::new(name(&format!("ghost-{number}")), attempt, ttl, false);
            // The servers that are left elect a leader, which a busy machine delays.
            let deadline = Instant::now() + 3 * WAIT_LIMIT;
            loop {
                // The core too sends the next removal before this one has used up its time limit.
                match timeout(seconds(1), backend.remove(remove.clone())).await {
                    Ok(Ok(_)) => break,
                    answer => assert!(Instant::now() < deadline, "{answer:?}"),
                }
                sleep(millis(20)).await;
            }
        }
        cluster.server(index).resume().unwrap();
        for task in kept {
            let _ = timeout(WAIT_LIMIT, task).await.unwrap().unwrap();
        }
        cluster.wait_healthy(WAIT_LIMIT).unwrap();
        sleep(millis(100)).await;
        late += usize::from(applied() > before);
        let found = etcdctl(
            &cluster.server(index).address(),
            &["get", "--prefix", "--keys-only", "default/ghost"],
        );
        assert_eq!(found.trim(), "", "round {round}: entries were left");
    }
    eprintln!("in {late} of {ROUNDS} rounds enqueues were applied after their removal");
    assert!(
        late > 0,
        "no enqueue was applied late, so the test shows nothing"
    );
    wait_until_free(&other, "ghost-0", WAIT_LIMIT).await;
    // The fences end with the lease.
    let fences = || {
        etcdctl(
            &cluster.server(0).address(),
            &["get", "--prefix", "--keys-only", "default/%fenced/"],
        )
    };
    assert!(!fences().trim().is_empty());
    backend.close().await;
    assert_eq!(fences().trim(), "", "R4: fences were left");
}
