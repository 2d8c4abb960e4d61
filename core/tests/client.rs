//! The client on the memory backend: deadlines and losses on a manual clock, waiting and
//! cancellation on the system clock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, NotHeld, Release, RunError,
    clock::ManualClock,
    error::ErrorKind,
    id::AttemptId,
    lease::{DriftBounds, Phase},
    loss::LossReason,
    memory::{InjectedFault, MemoryStore},
    name::{LockName, Namespace},
    request::{Enqueue, Owner},
};

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
        Client::builder(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .connect()
            .await
            .unwrap()
    }

    /// Advances the clock in small steps, and runs all tasks after each.
    async fn pass(&self, span: Duration) {
        let step = Duration::from_millis(500);
        for _ in 0..span.as_millis() / step.as_millis() {
            self.clock.advance(step);
            settle().await;
        }
    }
}

/// Runs all tasks until they wait.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn name() -> LockName {
    LockName::new("a").unwrap()
}

fn ns() -> Namespace {
    Namespace::default()
}

#[tokio::test]
async fn k1_renewal_keeps_lock_far_beyond_its_ttl() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.pass(10 * TTL).await;
    assert_eq!(guard.check(), Ok(guard.token()));
    assert!(guard.remaining() > TTL / 2, "{:?}", guard.remaining());
    assert!(matches!(guard.release().await, Release::Released));
    assert_eq!(guard.check(), Err(NotHeld::Released));
    assert!(matches!(guard.release().await, Release::Released));
    assert_eq!(bench.store.residue(&ns()), 0);
}

#[tokio::test]
async fn l1_lost_completes_by_the_deadline_while_renewal_hangs() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.pass(TTL).await;
    bench.store.set_fault(InjectedFault::Hang);
    let mut lost = pin!(guard.lost());
    let deadline = guard.valid_until();
    let steps = guard.remaining().as_millis() / 500;
    for _ in 0..steps {
        bench.clock.advance(Duration::from_millis(500));
        settle().await;
        assert!(poll(&mut lost).is_pending());
    }
    // Five seconds into the silence a renewal has timed out.
    assert_eq!(guard.phase(), Phase::Suspect);
    assert_eq!(
        guard.valid_until(),
        deadline,
        "only a proof moves the deadline"
    );
    bench.clock.advance(Duration::from_millis(500));
    assert_eq!(lost.await, LossReason::Expired);
    assert_eq!(guard.check(), Err(NotHeld::Lost(LossReason::Expired)));
    assert!(guard.last_renewal_error().is_some(), "why it came to that");
    // L4: it stays lost when the store is back.
    bench.store.set_fault(InjectedFault::None);
    bench.pass(TTL).await;
    assert!(matches!(
        guard.release().await,
        Release::NotHeld(LossReason::Expired)
    ));
}

#[tokio::test]
async fn l2_eviction_is_announced_at_once_and_next_waiter_holds() {
    let bench = Bench::new();
    let (one, two) = (bench.client().await, bench.client().await);
    let guard = one.lock("a").unwrap().acquire().await.unwrap();
    let next = tokio::spawn({
        let lock = two.lock("a").unwrap();
        async move { lock.acquire().await.unwrap() }
    });
    settle().await;
    assert_eq!(bench.store.lose(&ns(), &name()), Some(guard.token()));
    assert_eq!(guard.lost().await, LossReason::Evicted);
    let next = next.await.unwrap();
    assert!(next.token() > guard.token());
    bench.pass(2 * TTL).await;
    assert!(
        next.check().is_ok(),
        "the loser's clean-up touches nobody else"
    );
}

#[tokio::test]
async fn l5_two_consecutive_lost_renewals_are_no_loss() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.store.set_fault(InjectedFault::LoseReplies);
    // Renewals go out at a third and at a half of the TTL.
    bench.pass(TTL * 6 / 10).await;
    assert_eq!(guard.phase(), Phase::Suspect);
    let trouble = guard.last_renewal_error().expect("what failed is known");
    assert_eq!(trouble.kind(), ErrorKind::OutcomeUnknown);
    bench.store.set_fault(InjectedFault::None);
    bench.pass(TTL).await;
    assert_eq!(guard.phase(), Phase::Held);
    assert!(guard.last_renewal_error().is_none());
}

#[tokio::test]
async fn a3_unknown_outcome_is_an_error_and_leaves_nothing() {
    let bench = Bench::new();
    let client = bench.client().await;
    bench.store.set_fault(InjectedFault::LoseReplies);
    let error = client.lock("a").unwrap().try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(error.lock(), Some(&name()));
    assert_eq!(client.live_attempts(), 0);
    bench.store.set_fault(InjectedFault::None);
    bench.pass(Duration::from_secs(2)).await;
    let state = client.inspect(&name()).await.unwrap();
    assert_eq!(state.holder, None);
}

/// A3, W2: an acquire that waits outlives requests that are not answered. Its failed attempts are
/// removed.
#[tokio::test]
async fn w2_wait_outlives_unanswered_requests() {
    for fault in [
        InjectedFault::Hang,
        InjectedFault::LoseReplies,
        InjectedFault::Unreachable,
    ] {
        let bench = Bench::new();
        let client = bench.client().await;
        bench.store.set_fault(fault);
        let waiting = tokio::spawn({
            let lock = client.lock("a").unwrap();
            async move { lock.acquire_within(10 * TTL).await.unwrap() }
        });
        bench.pass(TTL).await;
        assert!(!waiting.is_finished(), "{fault:?}");
        bench.store.set_fault(InjectedFault::None);
        // At most until the last unanswered attempt has expired.
        bench.pass(2 * TTL).await;
        assert!(waiting.is_finished(), "{fault:?}");
        let guard = waiting.await.unwrap().acquired().unwrap();
        let state = client.inspect(&name()).await.unwrap();
        assert!(state.queue.is_empty(), "{fault:?}: {state:?}");
        assert!(matches!(guard.release().await, Release::Released));
        let state = client.inspect(&name()).await.unwrap();
        assert_eq!(state.holder, None, "{fault:?}");
    }
}

/// A1, A3: the budget ends a wait for a store that gives no answer, with the error of its requests.
#[tokio::test]
async fn a1_budget_ends_a_wait_for_a_silent_store() {
    let bench = Bench::new();
    let client = bench.client().await;
    bench.store.set_fault(InjectedFault::LoseReplies);
    let waiting = tokio::spawn({
        let lock = client.lock("a").unwrap();
        async move { lock.acquire_within(TTL).await }
    });
    bench.pass(TTL - Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    bench.pass(Duration::from_secs(1)).await;
    assert!(waiting.is_finished());
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(error.lock(), Some(&name()));
}

#[tokio::test]
async fn a4_acquire_cancelled_at_any_point_leaves_nothing() {
    for polls in 0..6 {
        let bench = Bench::new();
        let (one, two) = (bench.client().await, bench.client().await);
        let held = one.lock("a").unwrap().acquire().await.unwrap();
        {
            let lock = two.lock("a").unwrap();
            let mut acquire = Box::pin(lock.acquire());
            for _ in 0..polls {
                assert!(poll(&mut acquire.as_mut()).is_pending());
                settle().await;
            }
            if polls % 2 == 1 {
                // Granted by a push, and dropped before the caller received the grant.
                let _ = held.release().await;
            }
        }
        settle().await;
        let _ = held.release().await;
        let guard = one
            .lock("a")
            .unwrap()
            .try_acquire()
            .await
            .unwrap()
            .acquired();
        assert!(
            guard.is_some(),
            "after {polls} polls somebody still has the lock"
        );
        assert_eq!(two.live_attempts(), 0);
    }
}

#[tokio::test]
async fn a5_busy_names_the_holder() {
    let bench = Bench::new();
    let (one, two) = (bench.client().await, bench.client().await);
    let guard = one
        .lock("a")
        .unwrap()
        .label("nightly")
        .acquire()
        .await
        .unwrap();
    let Acquisition::Busy(holder) = two.lock("a").unwrap().try_acquire().await.unwrap() else {
        panic!("acquired twice")
    };
    assert_eq!(holder.token, Some(guard.token()));
    assert_eq!(holder.owner.unwrap().label, "nightly");
    assert_eq!(holder.expires_in, Some(TTL));
    let lock = two.lock("a").unwrap();
    let second = lock.acquire_within(Duration::ZERO).await.unwrap();
    assert!(matches!(second, Acquisition::Busy(_)));
}

#[tokio::test]
async fn w2_waiter_gets_lock_of_silent_holder_within_bound() {
    let bench = Bench::new();
    let (one, two) = (bench.client().await, bench.client().await);
    one.lock("a").unwrap().acquire().await.unwrap().abandon();
    let waiter = tokio::spawn({
        let lock = two.lock("a").unwrap();
        async move { lock.acquire().await.unwrap() }
    });
    bench.pass(TTL - Duration::from_secs(1)).await;
    assert!(!waiter.is_finished(), "not before one TTL");
    bench.pass(Duration::from_secs(3)).await;
    assert!(waiter.is_finished());
}

#[tokio::test]
async fn w1_dead_waiters_delay_the_queue_only_by_their_own_ttl() {
    let bench = Bench::new();
    let (holder, dead, live) = (
        bench.client().await,
        bench.client().await,
        bench.client().await,
    );
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let owner = || Owner::new("dead", "host", 1);
    for ttl in [3, 6] {
        // Enqueued through the driver, so the client does not report it.
        let request = Enqueue::new(
            name(),
            AttemptId::random().unwrap(),
            owner(),
            Duration::from_secs(ttl),
            true,
        );
        dead.backend().enqueue(request).await.unwrap();
    }
    let waiter = tokio::spawn({
        let lock = live.lock("a").unwrap().ttl(Duration::from_secs(3000));
        async move { lock.acquire().await.unwrap() }
    });
    settle().await;
    let _ = guard.release().await;
    bench.pass(Duration::from_secs(5)).await;
    assert!(!waiter.is_finished());
    bench.pass(Duration::from_secs(2)).await;
    assert!(waiter.is_finished());
}

#[tokio::test]
async fn w5_waiter_without_entry_continues_at_end_of_queue() {
    let bench = Bench::new();
    let (one, two) = (bench.client().await, bench.client().await);
    let _held = one.lock("a").unwrap().acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = two.lock("a").unwrap();
        async move { lock.acquire().await.unwrap() }
    });
    settle().await;
    // Both entries are gone. The waiter's report reveals this, and a new attempt acquires the lock.
    assert!(bench.store.delete_state(&ns(), &name()));
    bench.pass(TTL).await;
    assert!(waiter.is_finished());
}

#[tokio::test]
async fn r1_lost_answer_of_own_removal_is_released() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.store.set_fault(InjectedFault::LoseReplies);
    let mut release = pin!(guard.release());
    assert!(poll(&mut release).is_pending());
    bench.store.set_fault(InjectedFault::None);
    bench.clock.advance(Duration::from_millis(100));
    assert!(matches!(release.await, Release::Released));
}

#[tokio::test]
async fn r1_unanswered_release_is_unknown_and_can_be_repeated() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.store.set_fault(InjectedFault::Unreachable);
    let mut release = pin!(guard.release());
    let outcome = loop {
        match poll(&mut release) {
            Poll::Ready(outcome) => break outcome,
            Poll::Pending => {
                bench.clock.advance(Duration::from_millis(100));
                settle().await;
            }
        }
    };
    assert!(matches!(outcome, Release::Unknown(_)), "{outcome:?}");
    bench.store.set_fault(InjectedFault::None);
    let outcome = guard.release().await;
    assert!(matches!(outcome, Release::Released), "{outcome:?}");
}

#[tokio::test]
async fn r1_repeated_release_returns_outcome_of_cancelled_one() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.store.set_fault(InjectedFault::LoseReplies);
    {
        // Dropped while its answer is pending; the releaser continues the removal.
        let mut release = pin!(guard.release());
        assert!(poll(&mut release).is_pending());
    }
    bench.store.set_fault(InjectedFault::None);
    bench.pass(Duration::from_secs(2)).await;
    let outcome = guard.release().await;
    assert!(matches!(outcome, Release::Released), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_drop_outside_of_the_runtime_releases() {
    let store = MemoryStore::new();
    let client = Client::builder(store.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    let again = client
        .lock("a")
        .unwrap()
        .acquire_within(Duration::from_secs(10))
        .await
        .unwrap();
    assert!(again.acquired().is_some());
}

#[test]
fn r3_drop_after_end_of_runtime_is_harmless() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let guard = runtime.block_on(async {
        let client = Client::builder(MemoryStore::new()).connect().await.unwrap();
        client.lock("a").unwrap().acquire().await.unwrap()
    });
    drop(runtime);
    drop(guard);
}

#[tokio::test]
async fn r5_shutdown_releases_everything_and_reports_the_rest() {
    let bench = Bench::new();
    let (one, two) = (bench.client().await, bench.client().await);
    let a = one.lock("a").unwrap().acquire().await.unwrap();
    let b = one.lock("b").unwrap().acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = one.lock("a").unwrap();
        async move { lock.acquire().await }
    });
    settle().await;
    let report = one.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.released, report.unreleased.len()), (2, 0));
    assert_eq!(a.lost().await, LossReason::Closed);
    assert_eq!(b.check(), Err(NotHeld::Lost(LossReason::Closed)));
    assert_eq!(
        waiting.await.unwrap().unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert_eq!(
        one.lock("c").unwrap().acquire().await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert!(
        two.lock("a")
            .unwrap()
            .try_acquire()
            .await
            .unwrap()
            .acquired()
            .is_some()
    );

    let held = two.lock("d").unwrap().acquire().await.unwrap();
    // The guard of `a` was dropped, and is released in the background.
    settle().await;
    bench.store.set_fault(InjectedFault::Hang);
    let mut shutdown = pin!(two.shutdown(Duration::from_secs(1)));
    let report = loop {
        match poll(&mut shutdown) {
            Poll::Ready(report) => break report,
            Poll::Pending => {
                bench.clock.advance(Duration::from_millis(100));
                settle().await;
            }
        }
    };
    assert_eq!(report.unreleased.len(), 1);
    assert_eq!(report.unreleased[0].token, held.token());
}

#[tokio::test]
async fn run_stops_the_work_on_loss_and_prefers_the_loss() {
    let bench = Bench::new();
    let client = bench.client().await;
    let lock = client.lock("a").unwrap();
    let done = lock.run(async |guard| guard.token()).await.unwrap();
    assert!(done.get() > 0);
    // The body revokes its own lock and completes in the same poll.
    let lost = lock
        .run(async |_| bench.store.lose(&ns(), &name()).is_some())
        .await;
    assert!(
        matches!(
            lost,
            Err(RunError::Lost {
                reason: LossReason::Evicted,
                output: Some(true)
            })
        ),
        "{lost:?}"
    );
    let stopped = lock
        .run(async |_| {
            bench.store.lose(&ns(), &name());
            std::future::pending::<()>().await;
        })
        .await;
    assert!(
        matches!(stopped, Err(RunError::Lost { output: None, .. })),
        "{stopped:?}"
    );
}

#[tokio::test]
async fn one_client_renews_a_thousand_locks_together() {
    let bench = Bench::new();
    let client = bench.client().await;
    let mut guards = Vec::new();
    for index in 0..1000 {
        guards.push(
            client
                .lock(format!("l{index}"))
                .unwrap()
                .acquire()
                .await
                .unwrap(),
        );
    }
    bench.pass(2 * TTL).await;
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
}

#[tokio::test]
async fn c2_ttl_with_too_little_validity_is_rejected_with_computation() {
    let store = MemoryStore::new();
    let short = Duration::from_millis(20);
    let error = Client::builder(store.clone())
        .ttl(short)
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("20ms"), "{error}");
    let drift_bounds = DriftBounds::new(10_000, Duration::ZERO);
    assert!(
        Client::builder(store)
            .ttl(short)
            .drift_bounds(drift_bounds)
            .connect()
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn renew_returns_fresh_proof_or_loss() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    bench.clock.advance(Duration::from_secs(5));
    let before = guard.valid_until();
    guard.renew().await.unwrap();
    assert_eq!(guard.valid_until().since(before), Duration::from_secs(5));
    bench.store.delete_state(&ns(), &name());
    assert_eq!(guard.renew().await, Err(NotHeld::Lost(LossReason::Evicted)));
}

#[tokio::test]
async fn an_attempt_id_is_never_used_twice() {
    assert_ne!(AttemptId::random().unwrap(), AttemptId::random().unwrap());
}

fn poll<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}
