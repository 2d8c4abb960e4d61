//! Model check of the two pure state machines for every schedule within bounds: one lock, exclusive, shared
//! or counted, two or three clients, and a network that delays, drops, duplicates and reorders messages.
//!
//! The check uses the real state machines, not copies: the store is a
//! [`Queue`](tenure_core::queue::Queue), a holder has a [`Lease`](tenure_core::lease::Lease) and a
//! waiter a [`WaiterLease`](tenure_core::lease::WaiterLease). The model adds only a clock for each
//! party, the messages in flight and the possible actions.
//!
//! - **Time** advances in steps. In a step the store's clock advances by ten units, a client's
//!   clock by nine or eleven, the limits that the drift bounds allow. The TTLs are chosen so that a
//!   deadline that is one unit too late is found.
//! - **Delay and reordering**: any message in flight can arrive next. **Loss**: a message can stay
//!   in flight forever. **Duplication**: within a budget, a message arrives and stays in flight.
//! - **Pause**: time can pass without any action. **Crash**: a client loses its state.
//! - Renewals are sent at any time, which includes every schedule that a lease computes.

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
use tenure_core::mode::Mode;
use world::{Bounds, Rule};

/// Maximum number of actions in a schedule.
const DEPTH: usize = 13;

/// Time limit, with slack for a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Explores all states within the bounds. Requires `at_least` states, so that a change that makes
/// the exploration trivial is detected.
fn explore(bounds: Bounds, at_least: usize) {
    let started = Instant::now();
    let clients = bounds.clients;
    let checker = bounds
        .checker()
        .threads(available_parallelism().map_or(1, usize::from))
        // Do not stop once every example is found: the remaining states can contain a
        // counter-example.
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

/// Checks that the model check refutes a wrong rule by the property that it violates.
fn refute(rule: Rule) {
    refute_within(Bounds {
        rule,
        ..Bounds::SMALL
    });
}

fn refute_within(bounds: Bounds) {
    const PROPERTY: &str = "X1, M1";
    let rule = bounds.rule;
    let checker = bounds
        .checker()
        .finish_when(HasDiscoveries::AllOf([PROPERTY].into()))
        .timeout(Duration::from_secs(120))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let Some(path) = checker.discovery(PROPERTY) else {
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
fn m1_m3_m4_hold_for_readers_and_writers() {
    explore(Bounds::READERS, 100_000);
}

#[test]
fn m1_m3_hold_for_permits() {
    explore(Bounds::PERMITS, 100_000);
}

#[test]
fn m4_a_downgrade_that_counts_from_its_answer_is_refuted() {
    refute_within(Bounds {
        rule: Rule::SharedFromReply,
        modes: [Mode::Exclusive, Mode::Shared, Mode::Exclusive],
        downgrades: true,
        ..Bounds::SMALL
    });
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
