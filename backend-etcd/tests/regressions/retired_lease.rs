//! Fences that ended with their lease while a fenced enqueue is still in flight (A4).

use std::sync::Arc;

use tenure_core::{
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    id::{AttemptId, ClientId},
    request::{Enqueue, Owner, Remove},
};
use tenure_etcd::Options;
use tenure_test_servers::etcd::Cluster;
use tokio::{task::JoinSet, time::sleep};

use crate::common::{
    WAIT_LIMIT, etcdctl, millis, name, proxies, proxy_in_use, seconds, store, wait_until,
};

struct IgnoreEvents;

impl EventHandler for IgnoreEvents {
    fn handle(&self, _event: BackendEvent) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_that_outlives_its_fence_has_no_lease() {
    let cluster = Cluster::builder().start().unwrap();
    let (proxies, url) = proxies(&cluster);
    let handler: Arc<dyn EventHandler> = Arc::new(IgnoreEvents);
    let sink = EventSink::new(Arc::downgrade(&handler));
    let context = Context::new(ClientId::random().unwrap(), sink, Arc::new(SystemClock))
        .with_request_timeout(seconds(10));
    let backend: Arc<dyn Backend> = store(&url, Options::default())
        .connect(context)
        .await
        .unwrap();
    let ttl = seconds(12);
    let enqueue = |lock: &str, attempt| {
        Enqueue::new(name(lock), attempt, Owner::new("", "host", 1), ttl, true)
    };
    let fenced = async |lock: &str, attempt| {
        let remove = Remove::new(name(lock), attempt, ttl, false);
        while backend.remove(remove.clone()).await.is_err() {
            sleep(millis(20)).await;
        }
    };
    for proxy in &proxies {
        proxy.reset();
    }
    let warm = AttemptId::random().unwrap();
    backend.enqueue(enqueue("warm", warm)).await.unwrap();
    let remove = Remove::new(name("warm"), warm, ttl, true);
    backend.remove(remove).await.unwrap();
    let index = proxy_in_use(&proxies);
    cluster.server(index).pause().unwrap();
    let mut late = JoinSet::new();
    let mut attempts = Vec::new();
    for _ in 0..20 {
        let attempt = AttemptId::random().unwrap();
        attempts.push(attempt);
        let (backend, request) = (Arc::clone(&backend), enqueue("ghost", attempt));
        late.spawn(async move { backend.enqueue(request).await });
    }
    let total = || {
        proxies
            .iter()
            .map(|proxy| proxy.count("Txn"))
            .sum::<usize>()
    };
    wait_until("all enqueues are sent", WAIT_LIMIT, || total() > 20).await;
    for attempt in attempts {
        fenced("ghost", attempt).await;
    }
    late.shutdown().await;
    // The client no longer knows these attempts. Their lease is retired after it has fenced a
    // thousand.
    for _ in 0..50 {
        let mut part = JoinSet::new();
        for _ in 0..20 {
            let (backend, attempt) = (Arc::clone(&backend), AttemptId::random().unwrap());
            let request = enqueue("other", attempt);
            let remove = Remove::new(name("other"), attempt, ttl, false);
            part.spawn(async move {
                let _ = backend.enqueue(request).await;
                while backend.remove(remove.clone()).await.is_err() {
                    sleep(millis(20)).await;
                }
            });
        }
        part.join_all().await;
    }
    let other = cluster.server(index + 1).address();
    let fences = || {
        let found = etcdctl(
            &other,
            &["get", "--prefix", "--keys-only", "default/%fenced/"],
        );
        found.lines().filter(|line| !line.is_empty()).count()
    };
    wait_until("the lease ends, and the fences with it", WAIT_LIMIT, || {
        fences() < 100
    })
    .await;
    cluster.server(index).resume().unwrap();
    cluster.wait_healthy(WAIT_LIMIT).unwrap();
    sleep(seconds(1)).await;
    let found = etcdctl(
        &cluster.server(index).address(),
        &["get", "--prefix", "--keys-only", "default/ghost"],
    );
    assert_eq!(found.trim(), "", "A4: entries were left");
    backend.close().await;
    assert_eq!(fences(), 0, "R4");
}
