//! The two pure machines against every schedule within bounds: one lock, two or three clients, and
//! a network that delays, drops, duplicates and reorders.
//!
//! The machines are the real ones, not copies: the store is a [`Queue`](tenure_core::queue::Queue),
//! what a client believes is a [`Lease`](tenure_core::lease::Lease), what a waiter may take for its
//! own is a [`WaiterLease`](tenure_core::lease::WaiterLease). Around them stands as little as possible: a clock
//! for each, messages under way, and who does what.
//!
//! - **Time** goes in steps by which the store's clock moves ten units. A client's clock moves
//!   nine or eleven, the limits of the drift that the terms allow, and TTLs are chosen so that a
//!   deadline that is one unit too late is found.
//! - **Delay and reordering**: any message under way may be the next to arrive. **Loss**: it may
//!   stay under way for ever. **Duplication**: within a budget it arrives and stays under way.
//! - **Pause**: nobody has to do anything while time passes. **Crash**: a client forgets all.
//! - Renewals are sent at any time, which includes every schedule that a lease would choose.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that measures"
)]

mod world;

use std::{
    thread::available_parallelism,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model};
use world::{Bounds, Rule};

/// The most actions of a schedule.
const DEPTH: usize = 13;

/// A machine that has other work too.
const LIMIT: Duration = Duration::from_secs(240);

/// Explores everything within the bounds. There have to be `at_least` so many states, so that a
/// change that makes the exploration trivial is noticed.
fn explore(bounds: Bounds, at_least: usize) {
    let started = Instant::now();
    let clients = bounds.clients;
    let checker = bounds
        .checker()
        .threads(available_parallelism().map_or(1, usize::from))
        // Not when every example has been found: the rest may hold a counter-example.
        .finish_when(HasDiscoveries::AllOf(["none"].into()))
        .target_max_depth(DEPTH)
        .timeout(LIMIT)
        .spawn_bfs()
        .join();
    println!(
        "{clients} clients: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
    assert!(
        started.elapsed() < LIMIT,
        "too many states to explore in time"
    );
    assert!(
        checker.unique_state_count() >= at_least,
        "only {} states: the model has lost its freedom",
        checker.unique_state_count()
    );
}

/// A wrong rule must be found out, and by the property that it breaks.
fn refute(rule: Rule) {
    let bounds = Bounds {
        rule,
        ..Bounds::SMALL
    };
    let checker = bounds
        .checker()
        .finish_when(HasDiscoveries::AllOf(["X1"].into()))
        .timeout(Duration::from_secs(120))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let Some(path) = checker.discovery("X1") else {
        panic!("{rule:?} was not refuted in {states} states");
    };
    assert!(path.last_state().believers().count() > 1);
    println!("{rule:?}, {states} states: {:?}", path.into_actions());
}

#[test]
fn x1_t1_t2_k2_l4_hold_for_two_clients() {
    explore(Bounds::TWO, 100_000);
}

#[test]
fn x1_t1_t2_k2_l4_hold_for_three_clients() {
    explore(Bounds::THREE, 100_000);
}

#[test]
fn d1_a_deadline_counted_from_the_reply_is_refuted() {
    refute(Rule::DeadlineFromReply);
}

#[test]
fn d4_a_push_counted_from_its_arrival_is_refuted() {
    refute(Rule::PushFromArrival);
}

#[test]
fn d1_a_deadline_without_the_drift_is_refuted() {
    refute(Rule::NoDrift);
}
