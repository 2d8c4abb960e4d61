//! The adapter over an in-memory map that injects conflicts and lost answers.

mod map;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;

use self::map::{Client, Map, SHARED, client, client_with};
use super::*;
use crate::{
    clock::{Clock, Instant, ManualClock},
    id::AttemptId,
    request::Owner,
};

const TTL: Duration = Duration::from_secs(30);

fn job() -> LockName {
    LockName::new("job").unwrap()
}

const fn id(n: u128) -> AttemptId {
    AttemptId::from_u128(n)
}

impl Client {
    async fn enqueue(&self, attempt: u128, wait: bool) -> Result<Enqueued, Error> {
        let owner = Owner::new(format!("owner {attempt}"), "host", 1);
        let request = Enqueue::new(job(), id(attempt), owner, TTL, wait);
        self.cas.enqueue(request).await
    }

    async fn acquire(&self, attempt: u128) -> Grant {
        match self.enqueue(attempt, true).await.unwrap() {
            Enqueued::Granted(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    async fn wait(&self, attempt: u128) -> Waiting {
        match self.enqueue(attempt, true).await.unwrap() {
            Enqueued::Waiting(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    async fn renew(&self, attempt: u128, token: Option<FencingToken>) -> Renewed {
        let renewal = Renewal::new(job(), id(attempt), TTL, token);
        let renewed = RenewalAnswers::collect(1, |answers| self.cas.renew(vec![renewal], answers));
        renewed.await.remove(0)
    }

    async fn remove(&self, attempt: u128, known: bool) -> Removed {
        let request = Remove::new(job(), id(attempt), TTL, known);
        self.cas.remove(request).await.unwrap()
    }

    async fn event(&self) -> BackendEvent {
        for _ in 0..1000 {
            let event = self.log.0.lock().unwrap().pop();
            if let Some(event) = event {
                return event;
            }
            tokio::task::yield_now().await;
        }
        panic!("no event came");
    }
}

fn pair() -> (Arc<Map>, Client, Client) {
    let map = Arc::new(Map::default());
    let clock = ManualClock::new();
    let a = client(&map, 1, &clock, SHARED);
    let b = client(&map, 2, &clock, SHARED);
    (map, a, b)
}

#[tokio::test]
async fn w1_t1_release_grants_in_order_and_wakes_only_the_next() {
    let (map, a, b) = pair();
    let first_ = a.acquire(1).await;
    let waiting = b.wait(2).await;
    assert_eq!(waiting.ahead, Some(1));
    let holder = waiting.holder.unwrap();
    assert_eq!(holder.token, Some(first_.token));
    assert_eq!(holder.expires_in, Some(TTL));
    assert_eq!(a.wait(3).await.ahead, Some(2));
    assert_eq!(a.remove(1, true).await, Removed::AsHolder);
    let BackendEvent::Granted(grant) = b.event().await else {
        panic!()
    };
    assert_eq!(grant.attempt, id(2));
    assert!(grant.token > first_.token && grant.as_of > waiting.as_of);
    // The core determines from when the grant counts (D4).
    assert_eq!(grant.proved_from, None);
    assert_eq!(b.remove(2, true).await, Removed::AsHolder);
    let BackendEvent::Granted(third) = a.event().await else {
        panic!()
    };
    assert!(third.attempt == id(3) && third.token > grant.token);
    // After a deletion by hand, tokens continue to increase.
    map.blobs.lock().unwrap().clear();
    assert!(matches!(
        a.renew(3, Some(third.token)).await,
        Renewed::Gone(_)
    ));
    assert!(b.acquire(4).await.token > third.token);
}

#[tokio::test]
async fn t3_repeated_enqueue_renews_the_same_grant() {
    let (_, a, _) = pair();
    let first_ = a.acquire(1).await;
    a.clock.advance(TTL / 2);
    let again = a.acquire(1).await;
    assert_eq!(first_.token, again.token);
    assert_eq!(again.proved_from, Some(a.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a2_conflicts_are_retried_and_keep_queue_positions() {
    let (map, a, b) = pair();
    map.conflicts.store(5, Ordering::SeqCst);
    let grant = a.acquire(1).await;
    map.conflicts.store(5, Ordering::SeqCst);
    assert_eq!(b.wait(2).await.ahead, Some(1));
    map.conflicts.store(5, Ordering::SeqCst);
    assert!(matches!(
        a.renew(1, Some(grant.token)).await,
        Renewed::Proved { .. }
    ));
    map.conflicts.store(u32::MAX, Ordering::SeqCst);
    let error = b.enqueue(5, true).await.unwrap_err();
    assert!(error.is_without_effect(), "{error}");
    assert!(error.to_string().contains("default/job"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn clients_that_write_read_with_a_permit_and_a_holder_only_after_conflicts() {
    let (map, a, b) = pair();
    let waits = || std::mem::take(&mut *map.permit_waits.lock().unwrap());
    let request = Duration::from_secs(5);
    map.grants_permits.store(true, Ordering::SeqCst);
    let grant = a.acquire(1).await;
    b.wait(2).await;
    assert_eq!(waits(), [(request, false); 2]);
    // The permit is kept over all further conflicts, and returned with the swap.
    map.conflicts.store(5, Ordering::SeqCst);
    b.wait(3).await;
    assert_eq!(waits(), [(request, false)]);
    b.clock.advance(TTL / 3);
    assert!(matches!(b.renew(2, None).await, Renewed::Waiting(_)));
    assert_eq!(waits(), [(TTL / 10, false)]);
    // A holder does not wait behind clients that enter the queue.
    map.conflicts.store(7, Ordering::SeqCst);
    let renewed = a.renew(1, Some(grant.token)).await;
    assert!(matches!(renewed, Renewed::Proved { .. }));
    assert_eq!(waits(), []);
    // A try reads; only its swap after a conflict needs a permit.
    assert!(matches!(
        b.enqueue(4, false).await.unwrap(),
        Enqueued::Busy(_)
    ));
    assert_eq!(waits(), []);
    map.conflicts.store(20, Ordering::SeqCst);
    assert_eq!(a.remove(1, true).await, Removed::AsHolder);
    assert_eq!(waits(), [(TTL / 10, true)]);
    assert_eq!(map.permits.load(Ordering::SeqCst), 0);
    // Without a permit, the swap is tried all the same.
    map.grants_permits.store(false, Ordering::SeqCst);
    map.conflicts.store(2, Ordering::SeqCst);
    b.wait(5).await;
    assert_eq!(
        waits(),
        [(request, false), (request, true), (request, true)]
    );
}

#[tokio::test]
async fn w3_new_holder_renews_without_a_second_read() {
    let (map, a, b) = pair();
    a.acquire(1).await;
    b.wait(2).await;
    let reads = map.reads.load(Ordering::SeqCst);
    a.remove(1, true).await;
    let BackendEvent::Granted(grant) = b.event().await else {
        panic!()
    };
    let renewed = b.renew(2, Some(grant.token)).await;
    assert!(matches!(renewed, Renewed::Proved { .. }));
    assert_eq!(b.remove(2, true).await, Removed::AsHolder);
    // The releaser re-reads after the waiter's entry; the waiter reads once when it is woken.
    assert!(map.reads.load(Ordering::SeqCst) <= reads + 2);
}

#[tokio::test]
async fn a3_lost_answer_is_outcome_unknown_and_can_be_repeated() {
    let (map, a, _) = pair();
    map.lose_answer.store(1, Ordering::SeqCst);
    let error = a.enqueue(1, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(error.lock(), Some(&job()));
    let grant = a.acquire(1).await;
    map.lose_answer.store(1, Ordering::SeqCst);
    assert!(matches!(
        a.renew(1, Some(grant.token)).await,
        Renewed::Unknown(_)
    ));
    assert_eq!(a.remove(1, false).await, Removed::AsHolder);
    assert_eq!(a.remove(1, false).await, Removed::Absent);
}

/// The readers that a downgrade has let in are woken, also if its answer was lost.
#[tokio::test]
async fn m4_repeated_downgrade_wakes_the_readers() {
    let (map, a, b) = pair();
    let grant = a.acquire(1).await;
    let owner = Owner::new("reader", "host", 1);
    let reader = Enqueue::new(job(), id(2), owner, TTL, true).with_mode(Mode::Shared);
    assert!(matches!(
        b.cas.enqueue(reader).await.unwrap(),
        Enqueued::Waiting(_)
    ));
    // The state that the client remembers is then the current one, and its first swap succeeds.
    let _ = a.renew(1, Some(grant.token)).await;
    let downgrade = || Downgrade::new(job(), id(1), TTL, grant.token);
    map.lose_answer.store(1, Ordering::SeqCst);
    let error = a.cas.downgrade(downgrade()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    let state = b.cas.inspect(&job()).await.unwrap();
    assert_eq!(state.holders().count(), 2);
    assert!(map.wakes.lock().unwrap().is_empty());
    let done = a.cas.downgrade(downgrade()).await.unwrap();
    assert_eq!(done, Downgraded::Shared);
    let BackendEvent::Granted(reading) = b.event().await else {
        panic!()
    };
    assert_eq!(reading.attempt, id(2));
}

#[tokio::test]
async fn a4_late_swap_fails_on_version_of_removal() {
    for known_before in [false, true] {
        let (map, a, b) = pair();
        if known_before {
            b.acquire(9).await;
            b.remove(9, true).await;
        }
        map.lose_request.store(1, Ordering::SeqCst);
        assert!(a.enqueue(1, true).await.is_err());
        assert_eq!(a.remove(1, false).await, Removed::Absent);
        let (path, expected, bytes) = map.late.lock().unwrap().take().unwrap();
        assert_eq!(map.swap(&path, expected, bytes), Swap::Conflict);
        assert!(b.cas.inspect(&job()).await.unwrap().holder.is_none());
        // The same holds for a swap that had not reached the store.
        assert_eq!(a.enqueue(1, true).await.unwrap(), Enqueued::Gone);
    }
}

#[tokio::test]
async fn removal_of_absent_attempt_writes_nothing() {
    let (map, a, _) = pair();
    assert_eq!(a.remove(1, true).await, Removed::Absent);
    assert_eq!(map.swaps.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a5_busy_names_holder_and_leaves_nothing() {
    let (map, a, b) = pair();
    let grant = a.acquire(1).await;
    let before = map.swaps.load(Ordering::SeqCst);
    let Enqueued::Busy(holder) = b.enqueue(2, false).await.unwrap() else {
        panic!()
    };
    assert_eq!(holder.token, Some(grant.token));
    assert_eq!(holder.owner.unwrap().label, "owner 1");
    assert!(matches!(
        holder.since,
        Some(crate::request::Since::Granted(_))
    ));
    assert_eq!(map.swaps.load(Ordering::SeqCst), before);
    assert_eq!(
        *b.cas.store().watched.lock().unwrap(),
        [(job(), true), (job(), false)]
    );
}

#[tokio::test]
async fn x3_silent_holder_expires_after_its_ttl_and_not_before() {
    let (_, a, b) = pair();
    let grant = a.acquire(1).await;
    b.clock.advance(TTL - Duration::from_millis(1));
    assert!(matches!(
        b.enqueue(2, false).await.unwrap(),
        Enqueued::Busy(_)
    ));
    b.clock.advance(Duration::from_millis(1));
    assert!(b.cas.inspect(&job()).await.unwrap().holder.is_none());
    assert!(b.acquire(3).await.token > grant.token);
    // K2: the expired attempt is not revived, and its renewal is answered with the loss.
    assert!(matches!(
        a.renew(1, Some(grant.token)).await,
        Renewed::Gone(LossReason::Expired)
    ));
}

#[tokio::test]
async fn k1_early_report_of_waiter_needs_no_write() {
    let (map, a, b) = pair();
    a.acquire(1).await;
    let waiting = b.wait(2).await;
    let swaps = map.swaps.load(Ordering::SeqCst);
    b.clock.advance(TTL / 6 - Duration::from_millis(1));
    let Renewed::Waiting(early) = b.renew(2, None).await else {
        panic!()
    };
    assert_eq!(map.swaps.load(Ordering::SeqCst), swaps);
    assert_eq!(early.proved_from, waiting.proved_from);
    b.clock.advance(Duration::from_millis(1));
    let Renewed::Waiting(later) = b.renew(2, None).await else {
        panic!()
    };
    assert_eq!(map.swaps.load(Ordering::SeqCst), swaps + 1);
    assert_eq!(later.proved_from, b.clock.now());
    assert!(later.as_of > early.as_of);
    // A report detects a dead holder nevertheless.
    b.clock.advance(TTL * 5 / 6);
    assert!(matches!(b.renew(2, None).await, Renewed::Granted(_)));
}

#[tokio::test]
async fn k1_batch_at_one_lock_is_one_swap() {
    let (map, a, _) = pair();
    let grant = a.acquire(1).await;
    for waiter in 2..6 {
        a.wait(waiter).await;
    }
    a.clock.advance(TTL / 3);
    let swaps = map.swaps.load(Ordering::SeqCst);
    let mut batch = vec![Renewal::new(job(), id(1), TTL, Some(grant.token))];
    batch.extend((2..6).map(|waiter| Renewal::new(job(), id(waiter), TTL, None)));
    batch.push(Renewal::new(job(), id(99), TTL, None));
    let renewed = RenewalAnswers::collect(6, |answers| a.cas.renew(batch, answers));
    let answers = renewed.await;
    assert_eq!(map.swaps.load(Ordering::SeqCst), swaps + 1);
    assert!(matches!(answers[0], Renewed::Proved { .. }));
    assert!(matches!(&answers[4], Renewed::Waiting(waiting) if waiting.ahead == Some(4)));
    assert!(matches!(answers[5], Renewed::Gone(_)));
}

#[tokio::test]
async fn i2_eviction_is_announced_at_once() {
    let (_, a, b) = pair();
    let grant = a.acquire(1).await;
    b.wait(2).await;
    let wrong = FencingToken::new(grant.token.get() - 1);
    assert!(matches!(
        b.cas.evict(&job(), wrong).await.unwrap(),
        Evicted::NotHeld(Some(_))
    ));
    let evicted = b.cas.evict(&job(), grant.token).await.unwrap();
    assert_eq!(evicted, Evicted::Evicted);
    assert_eq!(
        a.event().await,
        BackendEvent::Lost {
            attempt: id(1),
            reason: LossReason::Evicted
        }
    );
    assert!(matches!(b.event().await, BackendEvent::Granted(_)));
}

#[tokio::test]
async fn x3_entry_of_another_clock_expires_only_after_unchanged_for_its_ttl() {
    let map = Arc::new(Map::default());
    let (ours, theirs) = (ManualClock::new(), ManualClock::new());
    // The other clock is far ahead: a direct comparison would make the entry dead at once.
    ours.advance(100 * TTL);
    let a = client(&map, 1, &theirs, None);
    let b = client(&map, 2, &ours, None);
    let grant = a.acquire(1).await;
    let first_ = b.wait(2).await;
    assert_eq!(first_.holder.unwrap().expires_in, Some(TTL));
    ours.advance(TTL - Duration::from_millis(1));
    let Renewed::Waiting(still) = b.renew(2, None).await else {
        panic!()
    };
    assert_eq!(
        still.holder.unwrap().expires_in,
        Some(Duration::from_millis(1))
    );
    // The renewal restarts the observation.
    assert!(matches!(
        a.renew(1, Some(grant.token)).await,
        Renewed::Proved { .. }
    ));
    ours.advance(Duration::from_millis(1));
    assert!(matches!(b.renew(2, None).await, Renewed::Waiting(_)));
    for _ in 0..3 {
        ours.advance(TTL / 3);
        let _ = b.renew(2, None).await;
    }
    let state = b.cas.inspect(&job()).await.unwrap();
    assert_eq!(state.holder.unwrap().attempt, Some(id(2)));
    assert!(matches!(
        a.renew(1, Some(grant.token)).await,
        Renewed::Gone(LossReason::Expired)
    ));
    // Entries that are gone are forgotten.
    let _ = b.renew(2, None).await;
    assert_eq!(b.cas.shared.observed.len(), 0);
}

#[tokio::test]
async fn x3_dead_waiters_of_another_clock_are_not_granted() {
    let map = Arc::new(Map::default());
    let (ours, theirs) = (ManualClock::new(), ManualClock::new());
    let a = client(&map, 1, &theirs, None);
    let b = client(&map, 2, &ours, None);
    a.acquire(1).await;
    a.wait(2).await;
    a.wait(3).await;
    b.wait(4).await;
    for _ in 0..3 {
        ours.advance(TTL / 3);
        let _ = b.renew(4, None).await;
    }
    let state = b.cas.inspect(&job()).await.unwrap();
    assert_eq!(state.holder.unwrap().attempt, Some(id(4)));
    assert!(state.queue.is_empty());
}

/// The client that hands the lock over cannot compare the clocks, so it hands it to the waiter.
#[tokio::test]
async fn w4_waiter_that_lapsed_by_its_own_clock_is_told_of_no_grant() {
    let map = Arc::new(Map::default());
    let (ours, theirs) = (ManualClock::new(), ManualClock::new());
    let a = client(&map, 1, &theirs, None);
    let b = client(&map, 2, &ours, None);
    a.acquire(1).await;
    b.wait(2).await;
    ours.advance(TTL);
    assert_eq!(a.remove(1, true).await, Removed::AsHolder);
    let state = a.cas.inspect(&job()).await.unwrap();
    assert_eq!(state.holder.unwrap().attempt, Some(id(2)));
    // Once the message was taken, the waiter's client has looked.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(map.wakes.lock().unwrap().is_empty());
    assert!(b.log.0.lock().unwrap().is_empty());
    let renewed = b.renew(2, None).await;
    assert!(
        matches!(renewed, Renewed::Gone(LossReason::Expired)),
        "{renewed:?}"
    );
}

#[tokio::test]
async fn d2_stamp_is_read_after_the_state_it_replaces() {
    // A delayed renewal must not publish an older stamp than the one that a later renewal has
    // proved.
    #[derive(Debug)]
    struct Advancing(ManualClock);
    #[async_trait]
    impl Clock for Advancing {
        fn now(&self) -> Instant {
            self.0.advance(Duration::from_millis(1));
            self.0.now()
        }
        async fn sleep_until(&self, deadline: Instant) {
            self.0.sleep_until(deadline).await;
        }
    }
    let map = Arc::new(Map::default());
    let clock = ManualClock::new();
    let advancing = Arc::new(Advancing(clock.clone()));
    let a = client_with(&map, 1, &clock, advancing, SHARED, |context| context).unwrap();
    let grant = a.acquire(1).await;
    map.conflicts.store(3, Ordering::SeqCst);
    let Renewed::Proved { from } = a.renew(1, Some(grant.token)).await else {
        panic!()
    };
    let (_, state) = a.cas.shared.read(&a.cas.shared.key(&job())).await.unwrap();
    let stamp = state.queue.entry(id(1)).unwrap().refreshed;
    // The reported stamp is the published one, and it was read again after the conflicts.
    assert_eq!(a.cas.shared.own_stamp(&stamp, from), Some(from));
    assert!(from.since(grant.proved_from.unwrap()) >= Duration::from_millis(3));
}

#[tokio::test]
async fn s2_corrupt_blob_is_an_error_and_never_a_free_lock() {
    let (map, a, b) = pair();
    a.acquire(1).await;
    map.overwrite("default/job", |bytes| bytes.truncate(40));
    let fresh = client(&map, 3, &b.clock, SHARED);
    let error = fresh.enqueue(2, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("default/job"), "{error}");
    let error = fresh.cas.inspect(&job()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let page = fresh.cas.list(List::new("", 10)).await.unwrap();
    let unreadable = page.locks[0].unreadable.as_deref().unwrap();
    assert!(unreadable.contains("default/job"), "{unreadable}");
    // A reader that does not know this field must not show the lock as free.
    assert!(page.locks[0].holder.is_some());
    // Also for the client that has cached the previous state.
    let renewed = a.renew(1, None).await;
    assert!(matches!(renewed, Renewed::Unknown(error) if error.kind() == ErrorKind::Corrupt));
    map.overwrite("default/job", |bytes| *bytes = b"tenure 7 x\n".to_vec());
    let error = fresh.enqueue(2, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerFormat);
    // Clients of the newer version may hold the lock: nobody is told to delete it.
    let text = error.to_string();
    assert!(text.contains("update this program"), "{text}");
    assert!(!text.contains("delete"), "{text}");
}

#[tokio::test]
async fn l4_grant_restored_by_rollback_is_not_renewed() {
    let (map, a, b) = pair();
    let old = a.acquire(1).await;
    let rolled_back = map.blobs.lock().unwrap().clone();
    a.remove(1, true).await;
    let now = b.acquire(2).await;
    assert!(now.token > old.token);
    *map.blobs.lock().unwrap() = rolled_back;
    let wrong = FencingToken::new(old.token.get() + 1);
    assert!(matches!(
        a.renew(1, Some(wrong)).await,
        Renewed::Gone(LossReason::Displaced)
    ));
    assert!(matches!(
        b.renew(2, Some(now.token)).await,
        Renewed::Gone(_)
    ));
}

#[tokio::test]
async fn i1_inspect_and_list_change_nothing_and_page() {
    let (map, a, b) = pair();
    for n in 0..7_u32 {
        let name = LockName::new(format!("p/{n}")).unwrap();
        let owner = Owner::new("x", "h", n);
        let attempt = id(u128::from(n) + 10);
        let request = Enqueue::new(name, attempt, owner, TTL, true);
        a.cas.enqueue(request).await.unwrap();
    }
    a.acquire(1).await;
    a.remove(1, true).await;
    let before = map.blobs.lock().unwrap().clone();
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = b.cas.list(List::new("p/", 3).at(cursor)).await.unwrap();
        found.extend(page.locks.into_iter().map(|lock| lock.name.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, ["p/0", "p/1", "p/2", "p/3", "p/4", "p/5", "p/6"]);
    // A free lock is not listed.
    assert_eq!(b.cas.list(List::new("job", 3)).await.unwrap().locks, []);
    assert_eq!(*map.blobs.lock().unwrap(), before);
}

#[tokio::test]
async fn own_release_and_renewal_need_no_read() {
    let (map, a, _) = pair();
    let grant = a.acquire(1).await;
    let reads = map.reads.load(Ordering::SeqCst);
    let _ = a.renew(1, Some(grant.token)).await;
    a.remove(1, true).await;
    assert_eq!(map.reads.load(Ordering::SeqCst), reads);
}

#[tokio::test]
async fn t1_token_floor_raises_tokens_and_has_a_limit() {
    let map = Arc::new(Map::default());
    let clock = ManualClock::new();
    let with_floor = |floor: u64| {
        let floor = FencingToken::new(floor);
        let reads = Arc::new(clock.clone());
        client_with(&map, 1, &clock, reads, None, |context| {
            context.with_token_floor(floor)
        })
    };
    let grant = with_floor(1 << 60).unwrap().acquire(1).await;
    assert!(grant.token.get() > 1 << 60);
    let invalid = with_floor(u64::MAX).err().unwrap();
    assert_eq!(invalid.kind(), ErrorKind::Config);
}
