//! The ends of guards, clients and runtimes: drops, shutdowns and cancellations beside each other.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    cell::RefCell,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    Client, Release,
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    blocking,
    capability::Capabilities,
    error::{Error, ErrorKind},
    memory::{InjectedFault, MemoryStore},
    name::{LockName, Namespace},
    request::{Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal},
    token::FencingToken,
};
use tokio::time::{Instant, sleep, timeout};

/// The script of one removal: how long it waits before it is applied, and its answer after it.
#[derive(Clone, Copy, Debug)]
struct Step {
    before: Duration,
    /// `None`: the answer is lost.
    after: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
struct Script {
    local: bool,
    /// By the number of the removal; the last one counts for all others.
    removals: Arc<Vec<Step>>,
    sent: Arc<AtomicUsize>,
    close_hangs: bool,
    /// Once closed, requests fail.
    closed: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Debug)]
struct Store(MemoryStore, Script);

#[derive(Debug)]
struct Driver(Arc<dyn Backend>, Script);

#[async_trait]
impl Connect for Store {
    fn info(&self) -> BackendInfo {
        let info = Connect::info(&self.0);
        if self.1.local {
            return info.without_network();
        }
        info
    }
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let inner = self.0.connect(context).await?;
        Ok(Arc::new(Driver(inner, self.1.clone())))
    }
}

#[async_trait]
impl Backend for Driver {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.0.capabilities().await
    }
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.0.enqueue(request).await
    }
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        self.0.renew(entries, answers).await;
    }
    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let n = self.1.sent.fetch_add(1, Ordering::SeqCst);
        let step = self
            .1
            .removals
            .get(n)
            .or_else(|| self.1.removals.last())
            .copied();
        if let Some(step) = step {
            sleep(step.before).await;
        }
        if self.1.closed.load(Ordering::SeqCst) {
            self.1.log.lock().unwrap().push(format!("{n}: closed"));
            return Err(Error::new(ErrorKind::Closed, "releasing"));
        }
        let answer = self.0.remove(request).await;
        self.1.log.lock().unwrap().push(format!("{n}: {answer:?}"));
        match step.map(|step| step.after) {
            Some(Some(after)) => sleep(after).await,
            Some(None) => pending().await,
            None => {}
        }
        answer
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
        if self.1.close_hangs {
            pending::<()>().await;
        }
        self.1.closed.store(true, Ordering::SeqCst);
        self.0.close().await;
    }
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn is_free(store: &MemoryStore, lock: &str) -> bool {
    let name = LockName::new(lock).unwrap();
    store.token(&Namespace::default(), &name).is_none()
}

fn scripted(local: bool, removals: &[(u64, Option<u64>)]) -> Store {
    let removals = removals.iter().map(|(before, after)| Step {
        before: millis(*before),
        after: after.map(millis),
    });
    let script = Script {
        local,
        removals: Arc::new(removals.collect()),
        ..Script::default()
    };
    Store(MemoryStore::new(), script)
}

/// R1: "If an earlier removal by the same client got no answer, a removal that finds nothing before
/// `valid_until` counts as `Released`." Here the network delays the first request; the second one is
/// applied before it, and the answer to the second one is lost.
#[tokio::test]
async fn r1_first_removal_is_overtaken_by_the_second_whose_answer_is_lost() {
    let store = scripted(false, &[(600, Some(0)), (0, None)]);
    let builder = Client::builder(store.clone()).request_timeout(millis(1_000));
    let client = builder.connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    let release = guard.release().await;
    println!("{release:?} {:?}", store.1.log.lock().unwrap());
    assert!(
        matches!(release, Release::Released | Release::Unknown(_)),
        "nobody else has touched the grant: {release:?}"
    );
}

/// `scope` shuts the client down whatever happens, also if `body` panics. A closure that
/// returns a future is an `AsyncFnOnce`, too, and may panic before it returns one.
#[tokio::test]
async fn scope_shuts_down_after_a_panic_before_the_first_poll() {
    let store = MemoryStore::new();
    let leaked = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&leaked);
    let scope = Client::builder(store.clone()).scope(move |client: &Client| {
        *kept.lock().unwrap() = Some(client.clone());
        assert!(client.live_attempts() > 0, "on purpose");
        async { Ok::<_, Error>(()) }
    });
    assert!(tokio::spawn(scope).await.unwrap_err().is_panic());
    let client = leaked.lock().unwrap().take().unwrap();
    let guard = client.lock("a").unwrap().acquire().await;
    assert!(guard.is_err(), "the client was not shut down: {guard:?}");
}

/// Builder::scope: "Dropping the future drops the body and the client without a shutdown; the locks are
/// released in the background."
#[tokio::test]
async fn scope_cancelled_during_its_shutdown_releases_in_the_background() {
    let store = scripted(false, &[(300, Some(0))]);
    let scope = Client::builder(store.clone()).scope(async |client| {
        // As a task that still runs at the end of the scope.
        let guard = client.lock("a")?.acquire().await?;
        tokio::spawn(async move { guard.lost().await });
        Ok::<_, Error>(())
    });
    assert!(timeout(millis(100), scope).await.is_err());
    // A tenth of the TTL, and ten times the time of a removal.
    sleep(seconds(3)).await;
    println!("{:?}", store.1.log.lock().unwrap());
    assert!(is_free(&store.0, "a"), "nothing releases the lock");
}

/// As above, without a task: the guard is what the body returns.
#[tokio::test]
async fn scope_cancelled_during_its_shutdown_releases_the_returned_guard() {
    let store = scripted(false, &[(300, Some(0))]);
    let scope =
        Client::builder(store.clone()).scope(async |client| client.lock("a")?.acquire().await);
    assert!(timeout(millis(100), scope).await.is_err());
    sleep(seconds(3)).await;
    assert!(is_free(&store.0, "a"), "nothing releases the lock");
}

/// R5: a release that another task executes is neither waited for nor named.
#[tokio::test]
async fn r5_shutdown_waits_for_a_release_under_way_or_names_it() {
    let store = scripted(false, &[(300, Some(0))]);
    let client = Client::builder(store.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    let release = tokio::spawn(async move { guard.release().await });
    sleep(millis(50)).await;
    let report = client.shutdown(seconds(10)).await;
    let free = is_free(&store.0, "a");
    let release = release.await.unwrap();
    sleep(seconds(2)).await;
    println!("{report:?} {release:?} {:?}", store.1.log.lock().unwrap());
    assert!(
        is_free(&store.0, "a") || !report.unreleased.is_empty(),
        "left, and not named: {report:?}"
    );
    assert!(free || !report.unreleased.is_empty(), "{report:?}");
}

/// R5, scope: a drop that tries the removal itself beside a shutdown.
#[test]
fn r5_shutdown_beside_the_drop_of_a_guard_of_a_local_store() {
    let store = scripted(true, &[(80, Some(0))]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let client = runtime
        .block_on(Client::builder(store.clone()).connect())
        .unwrap();
    let guard = runtime
        .block_on(client.lock("a").unwrap().acquire())
        .unwrap();
    let dropper = thread::spawn(move || drop(guard));
    thread::sleep(millis(30));
    let report = runtime.block_on(client.shutdown(seconds(10)));
    dropper.join().unwrap();
    thread::sleep(seconds(1));
    println!("{report:?} {:?}", store.1.log.lock().unwrap());
    assert!(
        is_free(&store.0, "a") || !report.unreleased.is_empty(),
        "left, and not named: {report:?}"
    );
}

/// R5: "names what could not be released", also of a guard that was dropped before.
#[tokio::test]
async fn r5_shutdown_names_a_dropped_guard_that_could_not_be_released() {
    let store = MemoryStore::new();
    let client = Client::builder(store.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    store.set_fault(InjectedFault::Hang);
    drop(guard);
    let report = client.shutdown(millis(300)).await;
    assert!(!is_free(&store, "a"));
    assert_eq!(report.unreleased.len(), 1, "{report:?}");
}

/// As above, for the blocking API: its drop has waited for one request time-out before.
#[test]
fn r5_blocking_shutdown_names_what_a_drop_could_not_release() {
    let store = MemoryStore::new();
    let builder = Client::builder(store.clone()).request_timeout(millis(200));
    let client = blocking::Client::connect(builder).unwrap();
    let guard = client.lock("a").unwrap().acquire().unwrap();
    store.set_fault(InjectedFault::Hang);
    drop(guard);
    let report = client.shutdown(millis(300));
    assert!(!is_free(&store, "a"));
    assert_eq!(report.unreleased.len(), 1, "{report:?}");
}

/// `request_timeout(Duration::MAX)` is accepted by `connect`.
#[tokio::test]
async fn scope_without_a_request_time_out_does_not_panic() {
    let builder = || Client::builder(MemoryStore::new()).request_timeout(Duration::MAX);
    let client = builder().connect().await.unwrap();
    drop(client.lock("a").unwrap().acquire().await.unwrap());
    client.shutdown(seconds(1)).await;
    let scope = builder().scope(async |client| {
        drop(client.lock("a")?.acquire().await?);
        Ok::<_, Error>(())
    });
    assert!(tokio::spawn(scope).await.is_ok(), "scope panics");
}

/// The end of a client whose time-out is long: the releaser must close the backend.
#[tokio::test]
async fn client_without_a_request_time_out_closes_its_backend() {
    let store = scripted(false, &[]);
    let builder = Client::builder(store.clone()).request_timeout(Duration::MAX);
    drop(builder.connect().await.unwrap());
    sleep(millis(500)).await;
    assert!(store.1.closed.load(Ordering::SeqCst), "not closed");
}

/// blocking::Client::connect: "Blocks for up to the request time-out."
#[test]
fn blocking_connect_is_limited_if_a_refused_connection_does_not_close() {
    let mut store = scripted(false, &[]);
    store.1.close_hangs = true;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let builder = Client::builder(store)
            .request_timeout(millis(200))
            .ttl(Duration::ZERO);
        tell.send(blocking::Client::connect(builder).is_err())
            .unwrap();
    });
    assert_eq!(told.recv_timeout(seconds(5)), Ok(true));
}

/// `on_lost`: "Runs `action` once if the lock is lost, at its deadline at the latest [...] `action` runs on
/// a thread that renews nothing", so it may block.
#[test]
fn on_lost_runs_however_many_other_actions_block() {
    const COUNT: usize = 600;
    let store = MemoryStore::new();
    let client = blocking::Client::connect(Client::builder(store)).unwrap();
    let (ran, run) = mpsc::channel();
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let guards: Vec<_> = (0..COUNT)
        .map(|n| client.lock(format!("{n}")).unwrap().acquire().unwrap())
        .collect();
    for guard in &guards {
        let (ran, gate) = (ran.clone(), Arc::clone(&gate));
        guard.on_lost(move |_| {
            ran.send(()).unwrap();
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        });
    }
    for guard in &guards {
        let _ = client.evict(guard.name(), guard.token()).unwrap();
    }
    let mut count = 0;
    while count < COUNT && run.recv_timeout(seconds(5)).is_ok() {
        count += 1;
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(count, COUNT);
}

/// A guard of a client on this runtime.
fn held_on(runtime: &tokio::runtime::Runtime, store: &Store) -> tenure_core::Guard {
    runtime.block_on(async {
        let client = Client::builder(store.clone()).connect().await.unwrap();
        client.lock("a").unwrap().acquire().await.unwrap()
    })
}

thread_local! {
    static LOCAL: RefCell<Option<tenure_core::Guard>> = const { RefCell::new(None) };
    static BLOCKING: RefCell<Option<blocking::Guard>> = const { RefCell::new(None) };
}

/// R3: "Dropping a guard never panics", also in a destructor of a thread local.
#[test]
fn r3_guard_in_a_thread_local() {
    let store = scripted(true, &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let guard = held_on(&runtime, &store);
    let plain = blocking::Client::connect(Client::builder(store.clone())).unwrap();
    let other = plain.lock("b").unwrap().acquire().unwrap();
    let ended = thread::spawn(move || {
        LOCAL.set(Some(guard));
        BLOCKING.set(Some(other));
    });
    ended.join().unwrap();
    assert!(is_free(&store.0, "a"));
    assert!(is_free(&store.0, "b"));
}

/// The last guard, and with it the client, is dropped by an action on the client's own runtime.
#[test]
fn last_guard_is_dropped_in_an_action() {
    let store = MemoryStore::new();
    let client = blocking::Client::connect(Client::builder(store.clone())).unwrap();
    let first = client.lock("a").unwrap().acquire().unwrap();
    let second = client.lock("b").unwrap().acquire().unwrap();
    first.on_lost(move |_| drop(second));
    drop(client);
    let begun = Instant::now();
    drop(first);
    let mut free = false;
    while !free && begun.elapsed() < seconds(5) {
        free = is_free(&store, "b");
        thread::sleep(millis(5));
    }
    assert!(free && is_free(&store, "a"));
}

/// A panic in the action ends nothing else.
#[test]
fn action_that_panics_ends_nothing_else() {
    let store = MemoryStore::new();
    let client = blocking::Client::connect(Client::builder(store)).unwrap();
    let first = client.lock("a").unwrap().acquire().unwrap();
    let (tell, told) = mpsc::channel();
    first.on_lost(|_| panic!("on purpose"));
    first.on_lost(move |_| tell.send(()).unwrap());
    let _ = client.evict("a", first.token()).unwrap();
    assert!(told.recv_timeout(seconds(5)).is_ok());
    let second = client.lock("a").unwrap().acquire().unwrap();
    assert!(second.renew().is_ok());
}

/// A request whose runtime ends while it is in flight, and a drop inside of a runtime that ends.
#[test]
fn guard_dropped_with_the_runtime_of_a_local_store() {
    let store = scripted(true, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let guard = held_on(&runtime, &store);
    runtime.spawn(async move { guard.lost().await });
    runtime.block_on(tokio::task::yield_now());
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(runtime)));
    assert!(dropped.is_ok());
    assert!(is_free(&store.0, "a"));
}

/// Own thread: the client and its thread outlive the runtime of the program.
#[test]
fn own_thread_outlives_the_runtime() {
    let store = MemoryStore::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let builder = Client::builder(store.clone())
        .ttl(seconds(1))
        .own_thread(true);
    let client = runtime.block_on(builder.connect()).unwrap();
    let guard = runtime
        .block_on(client.lock("a").unwrap().acquire())
        .unwrap();
    drop(runtime);
    thread::sleep(seconds(2));
    assert!(guard.check().is_ok());
    drop((guard, client));
    thread::sleep(millis(500));
    assert!(is_free(&store, "a"));
}

fn named_threads(wanted: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    let names = tasks.filter_map(|task| name(task.ok()?).ok());
    names.filter(|name| name.trim() == wanted).count()
}

/// R3, own thread and a local store: a guard that is dropped on the client's own thread waits there for
/// a request that only this thread can execute; the background does it then.
#[test]
fn guard_of_a_local_store_dropped_on_the_own_thread() {
    let store = scripted(true, &[]);
    let client = blocking::Client::connect(Client::builder(store.clone())).unwrap();
    let guard = client.lock("a").unwrap().acquire().unwrap();
    // The release times out at the driver's side, so that the last reference is on the own thread.
    store.0.set_fault(InjectedFault::Hang);
    let begun = Instant::now();
    drop(guard);
    println!("drop took {:?}", begun.elapsed());
    store.0.set_fault(InjectedFault::None);
    thread::sleep(millis(500));
    assert!(is_free(&store.0, "a"));
}

/// Helper threads of drops end, also if the store hangs for ever.
#[test]
fn helper_threads_of_drops_end() {
    let store = scripted(true, &[(3_600_000, None)]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(Client::builder(store).connect()).unwrap();
    for n in 0..5 {
        let guard = runtime
            .block_on(client.lock(format!("{n}")).unwrap().acquire())
            .unwrap();
        let begun = Instant::now();
        drop(guard);
        assert!(begun.elapsed() < millis(400), "{:?}", begun.elapsed());
        thread::sleep(millis(1_100));
    }
    assert_eq!(named_threads("tenure-release"), 0);
}

/// `blocking::Client`: dropped clients and failed connects leave no thread.
#[test]
fn many_clients_come_and_go_with_their_threads() {
    for n in 0..50 {
        let store = MemoryStore::new();
        let client = blocking::Client::connect(Client::builder(store.clone())).unwrap();
        let guard = client.lock("a").unwrap().acquire().unwrap();
        guard.on_lost(|_| {});
        if n % 2 == 0 {
            client.shutdown(seconds(1));
        }
        drop(client);
        drop(guard);
        assert!(is_free(&store, "a"));
    }
}

/// `own_thread`: "The thread ends after the client." The driver does not close.
#[test]
fn own_thread_ends_although_the_driver_does_not_close() {
    let mut store = scripted(false, &[]);
    store.1.close_hangs = true;
    let builder = Client::builder(store).request_timeout(millis(100));
    let client = blocking::Client::connect(builder).unwrap();
    let handle = Arc::clone(client.as_async().backend());
    client.shutdown(millis(200));
    let before = Arc::strong_count(&handle);
    drop(client);
    thread::sleep(seconds(3));
    // One is this test's; every other one is that of a task on the thread.
    assert_eq!(Arc::strong_count(&handle), 1, "before the drop: {before}");
}
