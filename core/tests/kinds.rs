//! Locks for readers and writers, and permits, as a user of the client meets them.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, Guard, NotHeld, Release,
    capability::Requirements,
    error::ErrorKind,
    loss::LossReason,
    memory::{InjectedFault, MemoryStore},
    mode::Mode,
    name::{LockName, Namespace},
};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

async fn client(store: &MemoryStore) -> Client {
    let builder = Client::builder(store.clone()).request_timeout(Duration::from_millis(100));
    builder.ttl(2 * SECOND).connect().await.unwrap()
}

fn is_busy(acquisition: Acquisition) -> bool {
    matches!(acquisition, Acquisition::Busy(_))
}

#[tokio::test]
async fn m1_one_name_is_one_lock_for_every_kind() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let (lock, rw) = (client.lock("a").unwrap(), client.rw_lock("a").unwrap());
    let permits = client.semaphore("a", 3).unwrap();
    let first = rw.read().acquire().await.unwrap();
    let second = rw.read().acquire().await.unwrap();
    assert!(second.token() > first.token());
    assert_eq!(second.floor(), first.token());
    assert!(is_busy(lock.try_acquire().await.unwrap()));
    assert!(is_busy(rw.write().try_acquire().await.unwrap()));
    assert!(is_busy(permits.try_acquire().await.unwrap()));
    let state = client.inspect("a").await.unwrap();
    let shown: Vec<_> = state
        .holders()
        .map(|holder| (holder.token, holder.mode))
        .collect();
    let expected = [&first, &second].map(|guard| (Some(guard.token()), Mode::Shared));
    assert_eq!(shown, expected);
    drop((first, second));
    let two = timeout(SECOND, permits.acquire_many(2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(two.mode(), Mode::Permits { take: 2, of: 3 });
    let one = permits.acquire().await.unwrap();
    assert!(is_busy(permits.try_acquire().await.unwrap()));
    assert!(is_busy(
        client
            .semaphore("a", 9)
            .unwrap()
            .try_acquire()
            .await
            .unwrap()
    ));
    assert!(is_busy(rw.read().try_acquire().await.unwrap()));
    let _ = (one.release().await, two.release().await);
    assert!(lock.try_acquire().await.unwrap().acquired().is_some());
}

#[tokio::test]
async fn m4_downgrade_keeps_token_and_lets_the_next_readers_in() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let rw = client.rw_lock("a").unwrap();
    let writing = rw.write().acquire().await.unwrap();
    let token = writing.token();
    let reader = rw.read();
    let behind = tokio::spawn(async move { reader.acquire().await.unwrap() });
    while client.inspect("a").await.unwrap().queue.is_empty() {
        tokio::task::yield_now().await;
    }
    let reading = writing.downgrade().await.unwrap();
    assert_eq!((reading.token(), reading.mode()), (token, Mode::Shared));
    let other = timeout(SECOND, behind).await.unwrap().unwrap();
    assert_eq!(other.floor(), token);
    // A second downgrade changes nothing, and the grants live on.
    let reading = reading.downgrade().await.unwrap();
    for guard in [&reading, &other] {
        guard.renew().await.unwrap();
    }
    assert!(is_busy(rw.write().try_acquire().await.unwrap()));
    let _ = (reading.release().await, other.release().await);
    assert!(rw.write().try_acquire().await.unwrap().acquired().is_some());
}

/// The reply is lost for longer than a request's time-out: the request is repeated, the guard says
/// meanwhile that it is shared, and the lock is not lost.
#[tokio::test]
async fn m4_downgrade_whose_reply_is_lost_is_repeated() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let writing = client
        .rw_lock("a")
        .unwrap()
        .write()
        .acquire()
        .await
        .unwrap();
    store.set_fault(InjectedFault::LoseReplies);
    let downgrade = tokio::spawn(writing.downgrade());
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!downgrade.is_finished());
    store.set_fault(InjectedFault::None);
    let reading = timeout(SECOND, downgrade).await.unwrap().unwrap().unwrap();
    assert_eq!(reading.mode(), Mode::Shared);
    let other = client
        .rw_lock("a")
        .unwrap()
        .read()
        .try_acquire()
        .await
        .unwrap();
    assert!(other.acquired().is_some());
}

#[tokio::test]
async fn m4_cancelled_downgrade_releases() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let rw = client.rw_lock("a").unwrap();
    let writing = rw.write().acquire().await.unwrap();
    store.set_fault(InjectedFault::Hang);
    let downgrade = timeout(Duration::from_millis(20), writing.downgrade());
    assert!(downgrade.await.is_err());
    store.set_fault(InjectedFault::None);
    let free = timeout(SECOND, rw.write().acquire()).await.unwrap();
    assert!(free.is_ok());
}

#[tokio::test]
async fn m4_downgrade_of_a_lost_guard_fails() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let writing = client
        .rw_lock("a")
        .unwrap()
        .write()
        .acquire()
        .await
        .unwrap();
    let name = LockName::new("a").unwrap();
    store.delete_state(&Namespace::default(), &name);
    let error = writing.downgrade().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("the lock is lost"), "{error}");
}

#[tokio::test]
async fn m5_m6_requests_that_cannot_be_fulfilled_are_refused_at_once() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let reading = client.rw_lock("a").unwrap().read().acquire().await.unwrap();
    let error = reading.upgrade().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("acquire the lock for writing"),
        "{error}"
    );
    assert!(reading.check().is_ok());
    assert_eq!(
        client.semaphore("b", 0).unwrap_err().kind(),
        ErrorKind::Config
    );
    let permits = client.semaphore("b", 3).unwrap();
    for take in [0, 4] {
        let error = permits.acquire_many(take).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("\"b\""), "{error}");
    }
    let mode = Mode::Permits { take: 4, of: 3 };
    let error = client
        .lock("b")
        .unwrap()
        .mode(mode)
        .try_acquire()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let one = permits.acquire().await.unwrap();
    let error = one.downgrade().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn i2_one_reader_of_several_is_evicted() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let read = client.rw_lock("a").unwrap().read();
    let first = read.acquire().await.unwrap();
    let second = read.acquire().await.unwrap();
    client.evict("a", first.token()).await.unwrap();
    assert_eq!(first.ended().await, NotHeld::Lost(LossReason::Evicted));
    second.renew().await.unwrap();
    // The floor of the next reader shuts out the evicted one.
    let third = read.acquire().await.unwrap();
    assert_eq!(third.floor(), second.token());
}

/// One client's renewals do not keep another client's grant alive.
#[tokio::test]
async fn x3_a_dead_reader_does_not_keep_a_writer_waiting() {
    let store = MemoryStore::new();
    let (dead, alive) = (client(&store).await, client(&store).await);
    let read = |client: &Client| client.rw_lock("a").unwrap().read().ttl(SECOND / 4);
    let first = read(&dead).acquire().await.unwrap();
    let second = read(&alive).acquire().await.unwrap();
    first.abandon();
    let write = alive.rw_lock("a").unwrap().write();
    let writer = tokio::spawn(async move { write.acquire_within(10 * SECOND).await.unwrap() });
    // The living reader keeps the writer from the lock, also beyond the TTL of the dead one.
    tokio::time::sleep(SECOND).await;
    assert!(second.check().is_ok() && !writer.is_finished());
    assert_eq!(alive.inspect("a").await.unwrap().holders().count(), 1);
    let _ = second.release().await;
    let written: Option<Guard> = timeout(SECOND, writer).await.unwrap().unwrap().acquired();
    assert!(written.is_some());
}

/// A store whose driver was written before there were modes.
#[derive(Debug)]
struct Old(MemoryStore);

mod old {
    use tenure_core::{
        backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
        capability::Capabilities,
        error::Error,
        mode::Modes,
        name::LockName,
        request::{Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal},
        token::FencingToken,
    };

    use super::*;

    #[derive(Debug)]
    struct Driver(Arc<dyn Backend>);

    #[async_trait::async_trait]
    impl Connect for Old {
        fn info(&self) -> BackendInfo {
            Connect::info(&self.0)
        }
        async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
            Ok(Arc::new(Driver(self.0.connect(context).await?)))
        }
    }

    #[async_trait::async_trait]
    impl Backend for Driver {
        fn info(&self) -> BackendInfo {
            self.0.info()
        }
        async fn capabilities(&self) -> Result<Capabilities, Error> {
            Ok(self.0.capabilities().await?.with_modes(Modes::default()))
        }
        async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
            assert_eq!(request.mode, Mode::Exclusive);
            self.0.enqueue(request).await
        }
        async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
            self.0.renew(entries, answers).await;
        }
        async fn remove(&self, request: Remove) -> Result<Removed, Error> {
            self.0.remove(request).await
        }
        async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
            self.0.inspect(name).await
        }
        async fn list(&self, request: List) -> Result<Page, Error> {
            self.0.list(request).await
        }
        async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
            self.0.evict(name, token).await
        }
        async fn close(&self) {
            self.0.close().await;
        }
    }
}

#[tokio::test]
async fn m7_mode_that_the_backend_does_not_offer_is_refused_before_any_request() {
    let builder = || Client::builder(Old(MemoryStore::new()));
    let client = builder().connect().await.unwrap();
    let rw = client.rw_lock("a").unwrap();
    for lock in [
        rw.read(),
        client.semaphore("a", 2).unwrap().permits(1).unwrap(),
    ] {
        let error = lock.acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("only exclusive locks"),
            "{error}"
        );
    }
    let writing = rw.write().acquire().await.unwrap();
    let error = writing.downgrade().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let mut required = Requirements::default();
    required.shared = true;
    let error = builder().require(required).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("shared locks"), "{error}");
}

#[tokio::test]
async fn m4_released_guard_cannot_be_downgraded() {
    let store = MemoryStore::new();
    let client = client(&store).await;
    let guard = client
        .rw_lock("a")
        .unwrap()
        .write()
        .acquire()
        .await
        .unwrap();
    let _ = guard.release().await;
    let error = guard.downgrade().await.unwrap_err();
    assert!(
        error.to_string().contains("the lock is released"),
        "{error}"
    );
    let guard = client
        .rw_lock("a")
        .unwrap()
        .write()
        .acquire()
        .await
        .unwrap();
    store.set_fault(InjectedFault::Hang);
    assert!(matches!(guard.release().await, Release::Unknown(_)));
    assert!(guard.downgrade().await.is_err());
}
