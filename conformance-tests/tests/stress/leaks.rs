//! The check of the long run: it reports figures that grow, and accepts those that stay or shrink.

use std::{sync::Arc, time::Duration};

use tenure_conformance::fault::Faulty;
use tenure_core::{Client, memory::MemoryStore};
use tokio::runtime::Handle;

use crate::{
    connection_faults::{Durations, Soak},
    growth::{Figure, Samples},
};

/// Describes what has grown in samples of one figure, the first of which belong to the warm-up.
fn growing(figure: impl Fn(u32) -> Figure) -> Vec<String> {
    let mut samples = Samples::default();
    for minute in 0..15 {
        let at = Duration::from_secs(60) * minute;
        samples.add("samples", at, vec![figure(minute)]);
    }
    samples.growing(Duration::from_secs(300))
}

fn keys(of: impl Fn(u32) -> u32) -> Vec<String> {
    growing(|minute| Figure::number("keys", f64::from(of(minute))))
}

#[test]
fn steady_and_shrinking_figures_are_no_leak() {
    assert_eq!(keys(|_| 1_000), [""; 0]);
    assert_eq!(keys(|minute| 1_000 - minute), [""; 0]);
    // It varies, and one sample is out of line.
    assert_eq!(keys(|minute| 50 + minute % 2 * 9), [""; 0]);
    assert_eq!(keys(|minute| if minute == 9 { 90 } else { 50 }), [""; 0]);
}

#[test]
fn figure_that_grows_during_the_warm_up_only_is_no_leak() {
    assert_eq!(keys(|minute| minute.min(5) * 1_000), [""; 0]);
}

#[test]
fn figure_that_grows_slowly_is_a_leak() {
    let found = keys(|minute| minute * 2);
    let expected = "a leak: 18 keys more, where 10 keys are allowed and 19 keys are the mean";
    assert_eq!(found, [expected]);
    assert_eq!(keys(|minute| 10_000 + minute * 2), [""; 0]);
    assert_eq!(keys(|minute| 10_000 + minute * 300).len(), 1);
    // It varies much more than it grows.
    assert_eq!(keys(|minute| minute * 2 + minute % 2 * 9).len(), 1);
}

#[test]
fn memory_that_grows_by_less_than_a_tenth_is_no_leak() {
    let memory = |each: u32| {
        growing(|minute| Figure::bytes("allocated", 1e9 + f64::from(minute * each))).len()
    };
    assert_eq!(memory(5_000_000), 0);
    assert_eq!(memory(20_000_000), 1);
}

#[test]
fn figure_that_grows_by_design_is_no_leak() {
    let history = |minute| Figure::bytes("history", f64::from(minute) * 1e9);
    assert_eq!(growing(history).len(), 1);
    assert_eq!(
        growing(|minute| history(minute).that_grows_by_design()),
        [""; 0]
    );
}

/// In each period, ten more clients that are never shut down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "tasks more, where")]
async fn run_with_clients_that_are_never_shut_down_fails() {
    let ttl = Duration::from_millis(200);
    let durations = Durations {
        whole: Duration::from_secs(24),
        faults: Duration::from_millis(300),
        calm: Duration::ZERO,
    };
    let store = MemoryStore::new();
    let way = || Faulty::above(Arc::new(store.clone()));
    let ways = (0..12).map(|_| way()).collect();
    let runtime = Handle::current();
    let leak = move || {
        for _ in 0..10 {
            let client = Client::builder(store.clone()).ttl(ttl).connect();
            std::mem::forget(runtime.block_on(client).unwrap());
        }
        Vec::new()
    };
    Soak::new("leak", ttl, durations)
        .run(ways, || {}, leak)
        .await;
}
