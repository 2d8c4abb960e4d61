//! Elections, several locks at once, and a minimum hold, on a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, Leader, Observer, Release,
    backend::Connect,
    clock::ManualClock,
    error::ErrorKind,
    memory::{InjectedFault, MemoryStore},
};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

struct Bench {
    clock: ManualClock,
    store: MemoryStore,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::new();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        Self { clock, store }
    }

    async fn client(&self) -> Client {
        self.client_of(self.store.clone()).await
    }

    async fn client_of(&self, connect: impl Connect) -> Client {
        let builder = Client::builder(connect).clock(Arc::new(self.clock.clone()));
        builder.connect().await.unwrap()
    }

    /// Advances the clock in small steps, and runs all tasks after each.
    async fn pass(&self, span: Duration) {
        let step = Duration::from_millis(500);
        for _ in 0..span.as_millis() / step.as_millis() {
            self.clock.advance(step);
            settle().await;
        }
    }

    async fn is_held(&self, client: &Client) -> bool {
        client.inspect("a").await.unwrap().holder.is_some()
    }
}

/// Runs all tasks until they wait.
async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

/// What the observer tells without the clock moving.
async fn told(observer: &mut Observer) -> Option<Leader> {
    tokio::select! {
        biased;
        leader = observer.changed() => Some(leader),
        () = settle() => None,
    }
}

fn value(leader: Option<Leader>) -> String {
    match leader {
        Some(Leader::Leads { value, .. }) => value,
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn e1_e3_observer_tells_each_leader_and_says_when_it_does_not_know() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let election = client.election("a").unwrap();
    let mut observer = other.election("a").unwrap().observe();
    assert_eq!(told(&mut observer).await, Some(Leader::Vacant));
    let first = election.campaign("first:80").await.unwrap();
    assert!(matches!(
        election.try_lead("second:80").await.unwrap(),
        Acquisition::Busy(_)
    ));
    let leader = other.election("a").unwrap().leader().await.unwrap();
    let Leader::Leads {
        value: shown, term, ..
    } = leader
    else {
        panic!("{leader:?}");
    };
    assert_eq!((shown.as_str(), term), ("first:80", Some(first.term())));
    bench.pass(TTL / 3).await;
    assert_eq!(value(told(&mut observer).await), "first:80");
    bench.pass(TTL).await;
    assert_eq!(told(&mut observer).await, None, "nothing has changed");
    // A leader that resigned is not told again, and a leader of another term is news.
    assert!(matches!(first.resign().await, Release::Released));
    assert!(matches!(first.resign().await, Release::Released));
    let again = election.campaign("first:80").await.unwrap();
    assert!(again.term() > first.term());
    bench.pass(TTL / 3).await;
    assert_eq!(value(told(&mut observer).await), "first:80");
    // The store is silent: for the takeover bound the leader stands, and then nobody is told to lead.
    bench.store.set_fault(InjectedFault::Hang);
    let mut silent = Duration::ZERO;
    let unknown = loop {
        if let Some(leader) = told(&mut observer).await {
            break leader;
        }
        bench.pass(SECOND).await;
        silent += SECOND;
        assert!(silent < 3 * TTL);
    };
    assert_eq!(unknown, Leader::Unknown);
    let bound = client.capabilities().takeover.of(TTL, TTL);
    assert!(
        silent <= bound + SECOND && silent + TTL / 3 + SECOND >= bound,
        "{silent:?}"
    );
    bench.store.set_fault(InjectedFault::None);
    bench.pass(TTL).await;
    let leader = told(&mut observer).await;
    assert!(
        matches!(leader, Some(Leader::Vacant)),
        "its grant has expired: {leader:?}"
    );
}

#[tokio::test]
async fn e1_leader_that_is_lost_leads_no_more_whatever_was_observed() {
    let bench = Bench::new();
    let client = bench.client().await;
    let leading = client.election("a").unwrap().campaign("x").await.unwrap();
    bench.store.set_fault(InjectedFault::Hang);
    bench.clock.advance(TTL);
    assert!(leading.check().is_err());
    let long = "x".repeat(257);
    let error = client
        .election("a")
        .unwrap()
        .campaign(long)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn m8_locks_are_taken_in_one_order_and_given_back_if_one_is_taken() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let all = client.lock_all(["c", "a", "b", "a"]).unwrap();
    let names: Vec<_> = all
        .locks()
        .iter()
        .map(|lock| lock.name().to_string())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    let taken = other.lock("b").unwrap().acquire().await.unwrap();
    let busy = all.try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(holder) if holder.token == Some(taken.token())));
    assert!(!bench.is_held(&client).await);
    drop(taken);
    settle().await;
    let guards = all.acquire().await.unwrap();
    assert_eq!(guards.guards().len(), 3);
    guards.check().unwrap();
    // The loss of one is the loss of all.
    let token = guards.get("b").unwrap().token();
    other.evict("b", token).await.unwrap();
    let (name, _) = guards.lost().await;
    assert_eq!(name.as_str(), "b");
    assert!(guards.check().is_err());
    let failed = guards.release().await.unwrap_err();
    assert_eq!(failed.0.len(), 1);
    assert!(failed.to_string().starts_with("\"b\" was lost"), "{failed}");
    assert!(all.try_acquire().await.unwrap().acquired().is_some());
    // A set without a lock is held, and is not lost.
    let none = client
        .lock_all::<&str>([])
        .unwrap()
        .acquire()
        .await
        .unwrap();
    tokio::select! {
        biased;
        _ = none.lost() => panic!("there is nothing to lose"),
        () = settle() => none.check().unwrap(),
    }
}

#[tokio::test]
async fn m8_opposite_orders_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let (one, other) = (bench.client().await, bench.client().await);
    let transfer = |client: Client, names: [&'static str; 2]| {
        tokio::spawn(async move {
            for _ in 0..50 {
                let guards = client.lock_all(names).unwrap().acquire().await.unwrap();
                tokio::task::yield_now().await;
                guards.release().await.unwrap();
            }
        })
    };
    let tasks = [transfer(one, ["x", "y"]), transfer(other, ["y", "x"])];
    for task in tasks {
        tokio::time::timeout(20 * SECOND, task)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn m8_error_names_what_may_still_be_held() {
    let bench = Bench::new();
    let client = bench.client().await;
    let all = client.lock_all(["a", "b"]).unwrap();
    let held = client.lock("b").unwrap().acquire().await.unwrap();
    let store = bench.store.clone();
    let acquiring = tokio::spawn(async move { all.acquire_within(2 * SECOND).await });
    settle().await;
    store.set_fault(InjectedFault::LoseReplies);
    bench.pass(20 * SECOND).await;
    let error = acquiring.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("whether \"a\" was released"),
        "{error}"
    );
    held.abandon();
}

#[tokio::test]
async fn h1_minimum_hold_outlasts_the_work_the_guard_and_the_ttl() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let lock = client.lock("a").unwrap().min_hold(3 * TTL);
    // A release waits.
    let guard = lock.acquire().await.unwrap();
    let releasing = tokio::spawn(async move { guard.release().await });
    bench.pass(3 * TTL).await;
    assert!(bench.is_held(&other).await && !releasing.is_finished());
    bench.pass(TTL / 10).await;
    assert!(matches!(releasing.await.unwrap(), Release::Released));
    // A dropped guard holds, also if it was the client's last handle.
    let guard = lock.acquire().await.unwrap();
    drop((guard, lock, client));
    bench.pass(3 * TTL).await;
    assert!(bench.is_held(&other).await);
    bench.pass(TTL / 10).await;
    assert!(!bench.is_held(&other).await);
}

#[tokio::test]
async fn h1_shorter_than_the_work_it_changes_nothing() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(SECOND)
        .acquire()
        .await
        .unwrap();
    bench.pass(2 * SECOND).await;
    assert!(matches!(guard.release().await, Release::Released));
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(10 * SECOND)
        .acquire()
        .await
        .unwrap();
    client.evict("a", guard.token()).await.unwrap();
    // A lost guard has nothing to hold.
    assert!(matches!(guard.release().await, Release::NotHeld(_)));
}

#[tokio::test]
async fn h1_shutdown_waits_within_its_bound_and_names_the_rest() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let lock = |name: &str| client.lock(name).unwrap();
    let short = lock("short").min_hold(SECOND).acquire().await.unwrap();
    let long = lock("a").min_hold(10 * TTL).acquire().await.unwrap();
    let token = long.token();
    drop((short, long));
    let closing = {
        let client = client.clone();
        tokio::spawn(async move { client.shutdown(4 * SECOND).await })
    };
    bench.pass(4 * SECOND).await;
    let report = closing.await.unwrap();
    assert_eq!(report.released, 1);
    let named: Vec<_> = report.unreleased.iter().map(|left| left.token).collect();
    assert_eq!(named, [token]);
    drop(client);
    settle().await;
    assert!(bench.is_held(&other).await);
    bench.pass(TTL).await;
    assert!(!bench.is_held(&other).await, "the TTL is what remains");
}

#[tokio::test]
async fn m8_a_try_that_fails_keeps_nothing_for_a_minimum_hold() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let taken = other.lock("b").unwrap().acquire().await.unwrap();
    let both = client.lock_all(["a", "b"]).unwrap().min_hold(TTL);
    // The clock does not move.
    assert!(both.try_acquire().await.unwrap().acquired().is_none());
    assert!(!bench.is_held(&client).await);
    let acquiring = tokio::spawn({
        let both = both.clone();
        async move { both.acquire().await }
    });
    settle().await;
    assert!(bench.is_held(&client).await);
    acquiring.abort();
    settle().await;
    assert!(
        !bench.is_held(&client).await,
        "A4: a cancelled acquire keeps a lock"
    );
    let _ = taken.release().await;
    let guards = both.acquire().await.unwrap();
    assert!(guards.min_hold_left() >= TTL);
}

#[tokio::test]
async fn m8_a_lock_that_is_lost_before_all_are_held_is_acquired_again() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let taken = other.lock("b").unwrap().acquire().await.unwrap();
    let both = client.lock_all(["a", "b"]).unwrap();
    let acquiring = tokio::spawn(async move { both.acquire_within(10 * SECOND).await });
    settle().await;
    let token = other
        .inspect("a")
        .await
        .unwrap()
        .holder
        .unwrap()
        .token
        .unwrap();
    other.evict("a", token).await.unwrap();
    settle().await;
    let holder = other.inspect("a").await.unwrap().holder;
    assert!(holder.is_some_and(|holder| holder.token > Some(token)));
    let _ = taken.release().await;
    let guards = acquiring.await.unwrap().unwrap().acquired().unwrap();
    guards.check().unwrap();
}

#[tokio::test]
async fn m8_locks_are_given_back_together() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let _taken = other.lock("z").unwrap().acquire().await.unwrap();
    let all = client.lock_all(["a", "b", "c", "d", "z"]).unwrap();
    let acquiring = tokio::spawn(async move { all.acquire_within(SECOND).await });
    settle().await;
    bench.store.set_fault(InjectedFault::Hang);
    // The budget, two time-outs of a request, and one second for the steps of the clock.
    bench.pass(12 * SECOND).await;
    assert!(acquiring.is_finished());
    let error = acquiring.await.unwrap().unwrap_err();
    for name in ["a", "b", "c", "d"] {
        assert!(
            error.to_string().contains(&format!("whether {name:?}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn r5_cancelled_shutdown_leaves_no_guard_that_holds() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(2 * SECOND)
        .acquire()
        .await
        .unwrap();
    tokio::select! {
        biased;
        _ = client.shutdown(20 * SECOND) => panic!("it waits for the minimum hold"),
        () = settle() => {}
    }
    assert!(guard.check().is_err());
    let other = bench.client().await;
    assert!(bench.is_held(&other).await);
    bench.pass(3 * SECOND).await;
    assert!(!bench.is_held(&other).await);
}

/// Another thread that looks at the guard must not end the minimum hold.
#[test]
fn h1_shutdown_keeps_the_lock_though_the_guard_is_checked() {
    for _ in 0..200 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = MemoryStore::new();
        let connect = || {
            runtime
                .block_on(Client::builder(store.clone()).connect())
                .unwrap()
        };
        let (client, other) = (connect(), connect());
        let lock = client.lock("a").unwrap().min_hold(60 * SECOND);
        let guard = Arc::new(runtime.block_on(lock.acquire()).unwrap());
        let all_check = Arc::new(Barrier::new(3));
        let checks: Vec<_> = (0..2)
            .map(|_| {
                let (checked, all_check) = (Arc::clone(&guard), Arc::clone(&all_check));
                std::thread::spawn(move || {
                    all_check.wait();
                    while checked.check().is_ok() {}
                })
            })
            .collect();
        all_check.wait();
        let report = runtime.block_on(client.shutdown(Duration::from_millis(5)));
        checks.into_iter().for_each(|check| check.join().unwrap());
        assert_eq!(report.unreleased.len(), 1);
        // Whatever was queued for the lock is done when this client has been through its own queue.
        let state = runtime.block_on(async {
            settle().await;
            other.inspect("a").await
        });
        assert!(state.unwrap().holder.is_some());
        runtime.shutdown_background();
    }
}

/// The releaser ends with a guard whose minimum hold is not over, before it has taken it and after.
#[test]
fn r3_end_of_a_runtime_does_not_wait_for_a_minimum_hold() {
    for taken in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = Client::builder(MemoryStore::new())
                .ttl(120 * SECOND)
                .connect()
                .await
                .unwrap();
            drop(
                client
                    .lock("a")
                    .unwrap()
                    .min_hold(120 * SECOND)
                    .acquire()
                    .await
                    .unwrap(),
            );
            if taken {
                settle().await;
            }
        });
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            ended.send(()).unwrap();
        });
        assert!(end.recv_timeout(60 * SECOND).is_ok(), "{taken}");
    }
}

#[tokio::test]
async fn m4_released_guard_cannot_be_downgraded() {
    let bench = Bench::new();
    let client = bench.client().await;
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
    bench.store.set_fault(InjectedFault::Hang);
    let (released, ()) = tokio::join!(guard.release(), bench.pass(12 * SECOND));
    assert!(matches!(released, Release::Unknown(_)));
    assert!(guard.downgrade().await.is_err());
}

#[tokio::test]
async fn e3_answer_that_took_too_long_confirms_nothing() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let election = client.election("a").unwrap();
    let ttl = SECOND;
    let mut observer = other.election("a").unwrap().ttl(ttl).observe();
    assert_eq!(told(&mut observer).await, Some(Leader::Vacant));
    bench.store.set_fault(InjectedFault::Hang);
    bench.pass(4 * SECOND).await;
    assert_eq!(
        told(&mut observer).await,
        None,
        "the store has the time for one answer"
    );
    bench.pass(SECOND).await;
    assert_eq!(told(&mut observer).await, Some(Leader::Unknown));
    // A question that was sent when nobody led is answered late.
    assert_eq!(told(&mut observer).await, None);
    bench.pass(4 * SECOND).await;
    bench.store.set_fault(InjectedFault::None);
    let _leading = election.campaign("x").await.unwrap();
    // The call is cancelled more often than the store answers.
    for _ in 0..3 {
        bench.pass(SECOND).await;
        if let Some(leader) = told(&mut observer).await {
            return assert_eq!(value(Some(leader)), "x");
        }
    }
    panic!("the observer learns nothing");
}
