//! Sessions that were idle for a long time, and end at the moment they are used again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{BackendEvent, Connect as _, Context, EventHandler, EventSink},
    clock::{Clock, Instant, SystemClock},
    id::{AttemptId, ClientId},
    request::{Enqueued, Remove},
};
use tenure_test_servers::wire::Proxy;
use tokio::time::sleep;

use crate::common::{Raw, SOON, TTL, millis, name, room, server, store};

/// Longer than an unused session is kept.
const LONG: Duration = Duration::from_secs(121);

/// The system's clock, which can be put forward.
#[derive(Debug, Default)]
struct Shifted(Mutex<Duration>);

#[async_trait]
impl Clock for Shifted {
    fn now(&self) -> Instant {
        SystemClock.now() + *self.0.lock().unwrap()
    }

    async fn sleep_until(&self, deadline: Instant) {
        while self.now() < deadline {
            sleep(millis(1)).await;
        }
    }
}

struct Deaf;

impl EventHandler for Deaf {
    fn handle(&self, _: BackendEvent) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_an_acquire_at_the_moment_an_idle_session_ends_does_not_fail() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let clock = Arc::new(Shifted::default());
    let handler: Arc<dyn EventHandler> = Arc::new(Deaf);
    let context = Context::new(
        ClientId::random().unwrap(),
        EventSink::new(Arc::downgrade(&handler)),
        Arc::<Shifted>::clone(&clock),
    );
    let backend = store(&proxy.url()).connect(context).await.unwrap();
    for _ in 0..20 {
        let attempt = AttemptId::random().unwrap();
        let entered = backend.enqueue(Raw::enqueue("a", attempt)).await.unwrap();
        assert!(matches!(entered, Enqueued::Granted(_)));
        let removal = Remove::new(name("a"), attempt, TTL, true);
        backend.remove(removal).await.unwrap();
        sleep(millis(250)).await;
        proxy.reset();
        *clock.0.lock().unwrap() += LONG;
        proxy.delay_replies(millis(100));
        let mut ends = 0;
        for _ in 0..100 {
            ends = proxy.count("closeSession");
            if ends > 0 {
                break;
            }
            sleep(millis(3)).await;
        }
        if ends > 0 {
            let attempt = AttemptId::random().unwrap();
            let entered = backend.enqueue(Raw::enqueue("a", attempt)).await;
            proxy.delay_replies(Duration::ZERO);
            let entered = entered.unwrap();
            assert!(matches!(entered, Enqueued::Granted(_)), "{entered:?}");
            return;
        }
        proxy.delay_replies(Duration::ZERO);
    }
    panic!("no session has ended for being idle; this test shows nothing");
}

/// The core sends no removal after such an answer. An attempt that stayed in the table would keep the
/// session from being idle: the session would lapse, and the next acquire would need another one.
#[tokio::test(flavor = "multi_thread")]
async fn r4_an_attempt_that_was_answered_with_gone_is_forgotten() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let (raw, other) = (
        Raw::connect(&proxy.url()).await,
        Raw::connect(&server.url()).await,
    );
    let request = Raw::enqueue("a", AttemptId::random().unwrap());
    let entered = raw.backend.enqueue(request.clone()).await.unwrap();
    let Enqueued::Granted(grant) = entered else {
        panic!("{entered:?}");
    };
    other.backend.evict(&name("a"), grant.token).await.unwrap();
    let gone = async || {
        let again = raw.backend.enqueue(request.clone()).await;
        matches!(again, Ok(Enqueued::Gone))
    };
    let begun = SystemClock.now();
    while !gone().await {
        let waited = SystemClock.now().since(begun);
        assert!(waited < SOON, "its node is gone");
        sleep(millis(5)).await;
    }
    // No request for as long as the heartbeats of a renewed session would continue.
    sleep(TTL).await;
    proxy.reset();
    sleep(TTL).await;
    // The session for reads sends heartbeats of its own, a few seconds apart.
    let beats = proxy.count("sync");
    assert!(beats > 4, "the session lapses: {beats} heartbeats");
}
