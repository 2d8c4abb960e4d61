//! Clients with a thread of their own: the blocking API, and the option of the asynchronous one.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod faulty_store;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
    time::Duration,
};

use faulty_store::{Faults, FaultyStore};
use tenure_core::{
    Acquisition, Client, ClientBuilder, Leader, NotHeld, Release, RunError, blocking,
    error::ErrorKind,
    loss::LossReason,
    memory::{InjectedFault, MemoryStore},
    name::{LockName, Namespace},
    request::{Evicted, List},
};

const TTL: Duration = Duration::from_secs(2);
/// For what takes moments on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(20);

fn builder(store: &MemoryStore) -> ClientBuilder {
    Client::builder(store.clone()).ttl(TTL)
}

fn connect(store: &MemoryStore) -> blocking::Client {
    blocking::Client::connect(builder(store)).unwrap()
}

fn is_free(store: &MemoryStore, lock: &str) -> bool {
    let name = LockName::new(lock).unwrap();
    store.token(&Namespace::default(), &name).is_none()
}

fn acquire(client: &blocking::Client, lock: &str) -> blocking::Guard {
    client.lock(lock).unwrap().acquire().unwrap()
}

#[test]
fn k1_thread_that_sleeps_keeps_its_lock() {
    let store = MemoryStore::new();
    let guard = acquire(&connect(&store), "a");
    thread::sleep(TTL * 2);
    assert_eq!(guard.check(), Ok(guard.token()));
    assert!(guard.last_renewal_error().is_none());
}

/// Without a thread of the client's own, the same program loses its lock.
#[test]
fn k1_blocked_runtime_keeps_its_lock_on_a_thread_of_its_own() {
    for own_thread in [true, false] {
        let store = MemoryStore::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let builder = builder(&store).own_thread(own_thread);
            let client = builder.connect().await.unwrap();
            let guard = client.lock("a").unwrap().acquire().await.unwrap();
            thread::sleep(TTL * 2);
            assert_eq!(guard.check().is_ok(), own_thread);
        });
    }
}

#[test]
fn r3_dropped_guard_is_released_when_the_drop_returns() {
    let store = MemoryStore::new();
    let client = connect(&store);
    drop(acquire(&client, "a"));
    assert!(is_free(&store, "a"), "after a drop");
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _guard = acquire(&client, "a");
        panic!("on purpose");
    }));
    assert!(unwound.is_err());
    assert!(is_free(&store, "a"), "after a panic");
}

/// The limit of the drop is one request time-out, and the removal continues.
#[test]
fn r3_drop_does_not_wait_for_a_store_that_hangs() {
    let store = MemoryStore::new();
    let builder = builder(&store).request_timeout(Duration::from_millis(200));
    let client = blocking::Client::connect(builder).unwrap();
    let guard = acquire(&client, "a");
    store.set_fault(InjectedFault::Hang);
    let (done, dropped) = mpsc::channel();
    thread::spawn(move || {
        drop(guard);
        done.send(()).unwrap();
    });
    dropped.recv_timeout(LIMIT).unwrap();
    assert!(!is_free(&store, "a"));
    store.set_fault(InjectedFault::None);
    let next = client.lock("a").unwrap().acquire_within(LIMIT).unwrap();
    assert!(next.acquired().is_some());
}

/// A runtime panics if one of its threads enters it once more, and so must not be entered.
#[test]
fn blocking_client_works_inside_of_runtimes() {
    let store = MemoryStore::new();
    let use_it = async || {
        let client = connect(&store);
        let guard = acquire(&client, "a");
        assert!(guard.renew().is_ok());
        assert!(matches!(guard.release(), Release::Released));
        drop(acquire(&client, "a"));
        assert_eq!(client.shutdown(LIMIT).unreleased, []);
    };
    let current = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    current.block_on(use_it());
    let threads = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    threads.block_on(use_it());
}

#[test]
fn a5_busy_lock_names_its_holder() {
    let store = MemoryStore::new();
    let client = connect(&store);
    let lock = client.lock("a").unwrap().label("first");
    let guard = lock.acquire().unwrap();
    for busy in [
        lock.try_acquire().unwrap(),
        lock.acquire_within(Duration::from_millis(10)).unwrap(),
    ] {
        let Acquisition::Busy(holder) = busy else {
            panic!("acquired twice");
        };
        assert_eq!(holder.owner.unwrap().label, "first");
    }
    let state = client.inspect(lock.name()).unwrap();
    assert_eq!(state.holder.unwrap().token, Some(guard.token()));
    let listed = client.list(List::new("", 10)).unwrap();
    assert_eq!(listed.locks.len(), 1);
}

#[test]
fn l2_loss_runs_the_action_and_ends_the_guard() {
    let store = MemoryStore::new();
    let client = connect(&store);
    let guard = acquire(&client, "a");
    let (tell, lost) = mpsc::channel();
    guard.on_lost(move |reason| tell.send(reason).unwrap());
    let evicted = client.evict(guard.name(), guard.token()).unwrap();
    assert!(matches!(evicted, Evicted::Evicted), "{evicted:?}");
    assert_eq!(lost.recv_timeout(LIMIT), Ok(LossReason::Evicted));
    assert_eq!(guard.check(), Err(NotHeld::Lost(LossReason::Evicted)));
    assert!(matches!(guard.release(), Release::NotHeld(_)));
}

/// The action is dropped with the guard: nothing waits for a loss that cannot come any more.
#[test]
fn r2_action_is_dropped_after_a_release() {
    let client = connect(&MemoryStore::new());
    let guard = acquire(&client, "a");
    let (tell, lost) = mpsc::channel::<LossReason>();
    guard.on_lost(move |reason| tell.send(reason).unwrap());
    drop(guard);
    let end = lost.recv_timeout(LIMIT);
    assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn run_reports_a_loss_with_the_output() {
    let store = MemoryStore::new();
    let client = connect(&store);
    let lock = client.lock("a").unwrap();
    assert!(lock.run(|guard| guard.token()).is_ok());
    assert!(is_free(&store, "a"));
    let lost = lock.run(|guard| client.evict(guard.name(), guard.token()).is_ok());
    let Err(RunError::Lost { output, .. }) = lost else {
        panic!("{lost:?}");
    };
    assert_eq!(output, Some(true));
}

#[test]
fn errors_of_connecting_are_reported() {
    let error = blocking::Client::connect(builder(&MemoryStore::new()).ttl(Duration::ZERO));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Config);
}

/// A4, for a client with a thread of its own: the request of a cancelled acquire is dropped there, and
/// the attempt removed.
#[tokio::test]
async fn a4_cancelled_acquire_leaves_nothing() {
    let store = MemoryStore::new();
    let faults = Faults {
        enqueue_delay: Duration::from_secs(3_600),
        ..Faults::default()
    };
    let slow = Client::builder(FaultyStore(store.clone(), faults.clone())).own_thread(true);
    let client = slow.connect().await.unwrap();
    let lock = client.lock("a").unwrap();
    let acquire = tokio::spawn(async move { lock.acquire().await });
    let name = LockName::new("a").unwrap();
    while store.token(&Namespace::default(), &name).is_none() {
        tokio::task::yield_now().await;
    }
    acquire.abort();
    let other = builder(&store).connect().await.unwrap();
    let next = other.lock("a").unwrap().acquire_within(LIMIT).await;
    assert!(next.unwrap().acquired().is_some());
    assert_eq!(*faults.removes.lock().unwrap(), ["a"]);
}

#[test]
fn a5_run_names_the_holder_of_a_busy_lock() {
    let client = connect(&MemoryStore::new());
    let lock = client.lock("a").unwrap();
    let budget = Duration::from_millis(20);
    assert_eq!(lock.try_run(|_| 7).unwrap(), 7);
    assert_eq!(lock.run_within(LIMIT, |_| 7).unwrap(), 7);
    let _guard = lock.acquire().unwrap();
    for busy in [lock.try_run(|_| ()), lock.run_within(budget, |_| ())] {
        assert!(matches!(busy, Err(RunError::Busy(_))), "{busy:?}");
    }
}

#[test]
fn m1_m4_m8_every_kind_of_lock_blocks_its_thread() {
    let client = connect(&MemoryStore::new());
    let rw = client.rw_lock("catalogue").unwrap();
    let writing = rw.write().acquire().unwrap();
    let reading = writing.downgrade().unwrap();
    let other = rw.read().acquire().unwrap();
    assert_eq!(other.floor(), reading.token());
    assert!(rw.write().try_acquire().unwrap().acquired().is_none());
    drop((reading, other));
    assert!(rw.write().try_acquire().unwrap().acquired().is_some());

    let permits = client.semaphore("licences", 2).unwrap();
    let both = permits.acquire_many(2).unwrap();
    let one = permits.permits(1).unwrap();
    assert!(one.try_acquire().unwrap().acquired().is_none());
    drop(both);

    let all = client.lock_all(["a", "b"]).unwrap();
    let guards = all.acquire().unwrap();
    guards.check().unwrap();
    assert!(guards.token("b").is_some() && guards.token("c").is_none());
    // Dropping waits for the releases.
    drop(guards);
    let guards = all.try_acquire().unwrap().acquired().unwrap();
    guards.release().unwrap();
    let held = client.lock("b").unwrap().acquire().unwrap();
    let budget = Duration::from_millis(20);
    assert!(all.acquire_within(budget).unwrap().acquired().is_none());
    drop(held);

    let election = client.election("scheduler").unwrap();
    let leading = election.campaign("10.0.0.7:80").unwrap();
    let leader = election.leader().unwrap();
    assert!(matches!(&leader, Leader::Leads { value, term, .. }
        if value == leading.value() && *term == Some(leading.token())));
    assert!(matches!(leading.resign(), Release::Released));
    assert_eq!(election.leader().unwrap(), Leader::Vacant);
}
