//! Several locks at once, on a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test")]

mod bench;

use tenure_core::{Acquisition, Client, lease::Phase, loss::LossReason, memory::InjectedFault};

use self::bench::{Bench, SECOND, TTL, settle};

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
    assert_eq!(guards.guards()[0].phase(), Phase::Held);
    assert_eq!(guards.phase(), Phase::Lost(LossReason::Evicted));
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
async fn m8_locks_are_valid_until_the_first_of_them_ends() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let taken = other.lock("b").unwrap().acquire().await.unwrap();
    let both = client.lock_all(["a", "b"]).unwrap();
    let acquiring = tokio::spawn(async move { both.acquire().await });
    bench.pass(5 * SECOND).await;
    let _ = taken.release().await;
    let guards = acquiring.await.unwrap().unwrap();
    let (first, last) = (&guards.guards()[0], &guards.guards()[1]);
    assert!(first.valid_until() < last.valid_until());
    assert_eq!(guards.valid_until(), first.valid_until());
    assert_eq!(guards.remaining(), first.remaining());
    assert_eq!(guards.phase(), Phase::Held);
    bench.store.set_fault(InjectedFault::Hang);
    while last.phase() == Phase::Held {
        assert_eq!(guards.phase(), first.phase());
        bench.pass(SECOND).await;
    }
    assert_eq!(guards.phase(), Phase::Suspect);
    bench.pass(TTL).await;
    assert_eq!(guards.phase(), Phase::Lost(LossReason::Expired));
}

#[tokio::test]
async fn m8_loss_at_the_moment_of_the_last_grant_is_seen() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let taken = other.lock("b").unwrap().acquire().await.unwrap();
    let both = client.lock_all(["a", "b"]).unwrap();
    let acquiring = tokio::spawn(async move { both.acquire().await });
    settle().await;
    let state = other.inspect("a").await.unwrap();
    let token = state.holder.unwrap().token.unwrap();
    // Both are done before the task that acquires runs again.
    let (evicted, _) = tokio::join!(other.evict("a", token), taken.release());
    evicted.unwrap();
    let guards = acquiring.await.unwrap().unwrap();
    guards.check().unwrap();
    assert!(guards.guards()[0].token() > token);
}
