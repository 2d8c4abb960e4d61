//! Futures of the driver that are dropped at each await point.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use tenure_core::{
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    id::{AttemptId, ClientId},
    request::{Enqueue, Enqueued, Owner, Remove},
};
use tenure_etcd::Options;
use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::common::{etcdctl, millis, name, seconds, store};

struct IgnoreEvents;

impl EventHandler for IgnoreEvents {
    fn handle(&self, _event: BackendEvent) {}
}

/// Ends with `None` after this number of polls.
struct LimitedPolls<F>(Pin<Box<F>>, usize);

impl<F: Future> Future for LimitedPolls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        let polled = self.0.as_mut().poll(task).map(Some);
        if self.1 == 0 && polled.is_pending() {
            return Poll::Ready(None);
        }
        polled
    }
}

async fn connect(url: &str, handler: &Arc<dyn EventHandler>) -> Arc<dyn Backend> {
    let sink = EventSink::new(Arc::downgrade(handler));
    let context = Context::new(ClientId::random().unwrap(), sink, Arc::new(SystemClock));
    store(url, Options::default())
        .connect(context)
        .await
        .unwrap()
}

/// A4: with and without a lease, for a free lock and for a held one.
#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_dropped_at_any_await_point_leaves_nothing() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    proxy.delay_replies(millis(2));
    let handler: Arc<dyn EventHandler> = Arc::new(IgnoreEvents);
    let ttl = seconds(60);
    let enqueue = |lock: &str, attempt, wait| {
        Enqueue::new(name(lock), attempt, Owner::new("", "host", 1), ttl, wait)
    };
    for (warm, wait, taken) in [
        (false, true, false),
        (true, true, false),
        (true, true, true),
        (false, true, true),
        (true, false, false),
        (false, false, true),
    ] {
        let other = connect(&server.url(), &handler).await;
        let holder = AttemptId::random().unwrap();
        // A key that is not a contender makes the enqueue send a second request.
        etcdctl(&server.address(), &["put", "default/a/noise", "x"]);
        if taken {
            let held = other.enqueue(enqueue("a", holder, true)).await.unwrap();
            assert!(matches!(held, Enqueued::Granted(_)));
        }
        let mut polls = 0;
        loop {
            polls += 1;
            let backend = connect(&proxy.url(), &handler).await;
            if warm {
                let attempt = AttemptId::random().unwrap();
                backend.enqueue(enqueue("w", attempt, true)).await.unwrap();
                let remove = Remove::new(name("w"), attempt, ttl, true);
                backend.remove(remove).await.unwrap();
            }
            let attempt = AttemptId::random().unwrap();
            let entering = LimitedPolls(
                Box::pin(backend.enqueue(enqueue("a", attempt, wait))),
                polls,
            );
            let done = entering.await.is_some();
            // The future of a removal may be dropped as well.
            let remove = Remove::new(name("a"), attempt, ttl, done);
            for also in 1..3 {
                let leaving = LimitedPolls(Box::pin(backend.remove(remove.clone())), also);
                let _ = leaving.await;
            }
            let again = Remove::new(name("a"), attempt, ttl, false);
            backend.remove(again.clone()).await.unwrap();
            backend.remove(again).await.unwrap();
            tokio::time::sleep(millis(10)).await;
            let keys = etcdctl(
                &server.address(),
                &["get", "--prefix", "--keys-only", "default/a/"],
            );
            let left = keys
                .lines()
                .filter(|line| line.contains(&attempt.to_string()))
                .count();
            assert_eq!(left, 0, "A4: {polls} polls, {warm} {wait} {taken}: {keys}");
            let late = backend.enqueue(enqueue("a", attempt, wait)).await.unwrap();
            assert!(matches!(late, Enqueued::Gone), "A4: {late:?}");
            backend.close().await;
            if done {
                break;
            }
        }
        eprintln!("{polls} polls, {warm} {wait} {taken}");
        let fences = etcdctl(
            &server.address(),
            &["get", "--prefix", "--keys-only", "default/%fenced/"],
        );
        assert_eq!(fences.trim(), "", "R4");
        other.close().await;
        let keys = etcdctl(
            &server.address(),
            &["get", "--prefix", "--keys-only", "default/a/"],
        );
        assert_eq!(keys.trim(), "default/a/noise");
        etcdctl(&server.address(), &["del", "default/a/noise"]);
    }
}
