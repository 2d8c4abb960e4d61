//! Elections, on a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test")]

mod bench;
mod faulty_store;

use std::time::Duration;

use tenure_core::{
    Acquisition, Leader, Observer, Release, error::ErrorKind, memory::InjectedFault,
};

use self::{
    bench::{Bench, SECOND, TTL, settle},
    faulty_store::{Faults, FaultyStore},
};

/// What the observer tells without the clock moving.
async fn told(observer: &mut Observer) -> Option<Leader> {
    tokio::select! {
        biased;
        leader = observer.changed() => Some(leader),
        () = settle() => None,
    }
}

/// How long the store is silent until the observer tells that the leader is unknown.
async fn silence(bench: &Bench, observer: &mut Observer) -> Duration {
    let mut silent = Duration::ZERO;
    loop {
        if let Some(leader) = told(observer).await {
            assert_eq!(leader, Leader::Unknown);
            return silent;
        }
        bench.pass(SECOND).await;
        silent += SECOND;
        assert!(silent < 3 * TTL);
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
    assert!(!bench.is_held(&other).await);
    assert!(matches!(first.resign().await, Release::Released));
    let again = election.campaign("first:80").await.unwrap();
    assert!(again.term() > first.term());
    bench.pass(TTL / 3).await;
    assert_eq!(value(told(&mut observer).await), "first:80");
    // The store is silent: for the takeover bound the leader stands, and then nobody is told to lead.
    bench.store.set_fault(InjectedFault::Hang);
    let silent = silence(&bench, &mut observer).await;
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

#[tokio::test]
async fn e3_answer_that_is_older_than_the_takeover_bound_names_no_leader() {
    let bench = Bench::new();
    let client = bench.client().await;
    let faults = Faults::default();
    let store = FaultyStore(bench.store.clone(), faults.clone());
    let watching = bench.client_of(store).await.election("a").unwrap();
    let election = client.election("a").unwrap();
    let old = election.campaign("old").await.unwrap();
    let mut observer = watching.ttl(SECOND).observe();
    assert_eq!(value(told(&mut observer).await), "old");
    let late = faults.inspections.lock().await;
    bench.pass(SECOND).await;
    assert_eq!(told(&mut observer).await, None, "the question is sent");
    bench.pass(2 * SECOND).await;
    assert_eq!(told(&mut observer).await, Some(Leader::Unknown));
    let _ = old.resign().await;
    let _new = election.campaign("new").await.unwrap();
    drop(late);
    assert_eq!(value(told(&mut observer).await), "new");
}

#[tokio::test]
async fn e3_leader_with_a_shorter_ttl_is_unknown_sooner() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let election = client.election("a").unwrap().ttl(3 * SECOND);
    let _leading = election.campaign("x").await.unwrap();
    let mut observer = other.election("a").unwrap().ttl(TTL).observe();
    assert_eq!(value(told(&mut observer).await), "x");
    bench.store.set_fault(InjectedFault::Hang);
    let silent = silence(&bench, &mut observer).await;
    let bound = client.capabilities().takeover.of(3 * SECOND, TTL);
    assert!(silent <= bound + SECOND, "{silent:?}");
    assert!(silent + SECOND < client.capabilities().takeover.of(TTL, TTL));
}
