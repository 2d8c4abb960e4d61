//! The core on a simulated store in simulated time.
//!
//! A seed decides all events: delays, losses, duplicates, the order of all messages, pauses and
//! crashes of processes, cut links, restarts of the store, evictions, cancelled acquires and
//! releases, the rates of the clocks. The client is real and runs on a runtime with one
//! thread; its clock, its store and its network are simulated, so that a minute takes some milliseconds of
//! real time, and the same seed gives the same run. An oracle with its own state checks every event at the
//! store, and every guard between two events (`oracle.rs`).
//!
//! A failing seed prints the violation, the command to replay it, and the end of its log:
//!
//! ```text
//! SIM_SEED=123 cargo test -p tenure-conformance --test simulation -- --nocapture replay
//! ```
//!
//! `SIM_SEEDS` sets the number of seeds and `SIM_FROM` the first one. `SIM_WITHOUT` excludes kinds of faults
//! (`loss,pause`), `SIM_FLAW` adds a flaw to the store (`NoFencing`).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

mod driver;
mod faults;
mod oracle;
mod plan;
mod run;
mod store;
mod workload;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use plan::Kind;
use run::{Outcome, run};
use store::Flaw;

/// The number of seeds of a test run.
const SEEDS: u64 = 2_400;
/// The number of threads, which continuous integration machines have.
const THREADS: usize = 2;
/// The number of seeds within which a flaw must be found.
const FLAW_SEEDS: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is not a number")),
    )
}

fn without() -> BTreeSet<Kind> {
    let text = env::var("SIM_WITHOUT").unwrap_or_default();
    let words = text.split(',').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let mut kinds = Kind::ALL.into_iter();
            let kind = kinds.find(|kind| kind.word() == word);
            kind.unwrap_or_else(|| panic!("SIM_WITHOUT: {word:?} is none of {:?}", Kind::ALL))
        })
        .collect()
}

fn flaw() -> Option<Flaw> {
    let text = env::var("SIM_FLAW").ok()?;
    let found = Flaw::ALL
        .into_iter()
        .find(|flaw| format!("{flaw:?}") == text);
    Some(found.unwrap_or_else(|| panic!("SIM_FLAW: {text:?} is none of {:?}", Flaw::ALL)))
}

/// Returns the kinds of faults that the failing seed does not need.
fn shrink(seed: u64, flaw: Option<Flaw>, without: &BTreeSet<Kind>) -> BTreeSet<Kind> {
    let mut needless = without.clone();
    for kind in Kind::ALL {
        let mut fewer = needless.clone();
        fewer.insert(kind);
        if run(seed, flaw, &fewer, false).broken.is_some() {
            needless = fewer;
        }
    }
    needless
}

/// Describes a failing seed.
fn report(seed: u64, flaw: Option<Flaw>, without: &BTreeSet<Kind>) -> String {
    const TAIL: usize = 60;
    let needless = shrink(seed, flaw, without);
    let words: Vec<_> = needless.iter().map(|kind| kind.word()).collect();
    let mut variables = format!("SIM_SEED={seed}");
    if !words.is_empty() {
        variables = format!("{variables} SIM_WITHOUT={}", words.join(","));
    }
    if let Some(flaw) = flaw {
        variables = format!("{variables} SIM_FLAW={flaw:?}");
    }
    let outcome = run(seed, flaw, &needless, true);
    let lines = outcome.lines.unwrap_or_default();
    let broken = outcome.broken.map_or_else(String::new, |broken| {
        format!("{}: {}", broken.clause, broken.how)
    });
    format!(
        "seed {seed} violates {broken}\nreplay it with: {variables} cargo test -p \
         tenure-conformance --test simulation -- --nocapture replay\n{}\n",
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    )
}

/// Runs seeds on all threads until one fails, and sums the outcomes up.
fn go_through(from: u64, count: u64) -> (Option<u64>, BTreeMap<&'static str, u64>, u64) {
    let next = AtomicU64::new(from);
    let failed = Mutex::new(None::<u64>);
    let tally = Mutex::new(BTreeMap::new());
    let events = AtomicU64::new(0);
    let without = without();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from + count || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let outcome = run(seed, flaw(), &without, false);
                    events.fetch_add(outcome.events, Ordering::SeqCst);
                    if outcome.broken.is_some() {
                        let mut failed = failed.lock().unwrap();
                        *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                    }
                    let mut tally = tally.lock().unwrap();
                    for seen in outcome.seen {
                        *tally.entry(seen).or_insert(0) += 1;
                    }
                }
            });
        }
    });
    (
        failed.into_inner().unwrap(),
        tally.into_inner().unwrap(),
        events.into_inner(),
    )
}

#[test]
fn every_clause_holds_in_every_run() {
    let from = number("SIM_FROM").unwrap_or(0);
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let (failed, tally, events) = go_through(from, count);
    if let Some(seed) = failed {
        panic!("{}", report(seed, flaw(), &without()));
    }
    println!("{count} seeds, {events} events");
    for (seen, seeds) in &tally {
        println!("{seeds:6}  {seen}");
    }
    if !without().is_empty() || count < 1000 {
        return;
    }
    for (seen, percent) in run::HAVE_TO_BE_SEEN {
        let seeds = tally.get(seen).copied().unwrap_or(0);
        assert!(
            seeds * 100 >= count * percent,
            "only {seeds} of {count} seeds have seen this: {seen}"
        );
    }
}

#[test]
fn run_depends_on_its_seed_only() {
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| run(seed, None, &BTreeSet::new(), true));
        let lines = [first.lines.unwrap(), second.lines.unwrap()];
        let differs = lines[0].iter().zip(&lines[1]).position(|(a, b)| a != b);
        assert_eq!(
            differs, None,
            "seed {seed} differs from that line of its log on"
        );
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert!(first.events > 100, "seed {seed} does nothing");
    }
}

#[test]
fn broken_variants_are_found() {
    let next = AtomicU64::new(0);
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
                    let Some(&flaw) = Flaw::ALL.get(at) else {
                        return;
                    };
                    let found = (0..FLAW_SEEDS).find_map(|seed| {
                        let outcome = run(seed, Some(flaw), &BTreeSet::new(), false);
                        outcome.broken.map(|broken| (seed, broken))
                    });
                    match found {
                        Some((seed, broken)) => {
                            println!("{flaw:?}: seed {seed}, {}: {}", broken.clause, broken.how);
                        }
                        None => missed.lock().unwrap().push(flaw),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert_eq!(missed, [], "not found within {FLAW_SEEDS} seeds");
}

/// Repeats the run of `SIM_SEED` with its whole log. The default is seed 0.
#[test]
fn replay() {
    let seed = number("SIM_SEED").unwrap_or(0);
    let outcome: Outcome = run(seed, flaw(), &without(), true);
    for line in outcome.lines.iter().flatten() {
        println!("{line}");
    }
    if let Some(broken) = outcome.broken {
        panic!("seed {seed} violates {}: {}", broken.clause, broken.how);
    }
}
