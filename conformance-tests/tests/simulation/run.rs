//! One run of one seed.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    faults,
    oracle::{Broken, check_guards},
    plan::{Kind, Plan},
    store::{Flaw, Store},
    workload::process,
    world::{Idle, World},
};

/// The outcome.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) broken: Option<Broken>,
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) lines: Option<Vec<String>>,
    pub(crate) seen: BTreeSet<&'static str>,
}

/// The events that the seeds must cover, with the minimum number of a hundred seeds.
pub(crate) const HAVE_TO_BE_SEEN: &[(&str, u64)] = &[
    ("a grant lapsed in the store", 50),
    ("a link was cut", 20),
    ("a lock was held with a waiter", 80),
    ("a loss was reported at the deadline", 10),
    ("a loss was reported before the deadline", 20),
    ("a pause was longer than the TTL", 15),
    ("a process crashed", 40),
    ("a release was given up", 30),
    ("a writer became a reader", 15),
    ("several held one lock", 30),
    ("the answer to a downgrade was lost", 2),
    ("a request came twice", 30),
    ("a restart cut off a request", 15),
    ("an acquire was cancelled before its answer", 30),
    ("an acquire was cancelled in the queue", 30),
    ("an enqueue found its attempt in the queue", 8),
    ("an enqueue was carried out after its acquire had ended", 25),
    ("an operator took a lock away", 30),
    ("the answer to a removal was lost", 30),
    ("the answer to a renewal was lost", 40),
    ("the answer to an enqueue was lost", 25),
    ("the outcome of a release stayed unknown", 8),
    ("three wait for one lock", 40),
];

/// Runs one seed.
pub(crate) fn run(seed: u64, flaw: Option<Flaw>, without: &BTreeSet<Kind>, words: bool) -> Outcome {
    // The core draws its pauses from the generator of this thread.
    fastrand::seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::new(&mut rng, without);
    let store = Store::new(plan.locks, flaw);
    let idle = Arc::new(Idle::default());
    let world = World::new(rng, plan, store, words, Arc::clone(&idle));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || idle.parks())
        .build()
        .expect("a runtime");
    runtime.block_on(simulate(&world));
    // Tasks end here in any order; this is no part of the run.
    let outcome = {
        let mut state = world.state();
        Outcome {
            broken: state.oracle.broken(),
            hash: state.log.hash,
            events: state.log.events,
            lines: state.log.lines.take(),
            seen: std::mem::take(&mut state.seen),
        }
    };
    world.clear();
    drop(runtime);
    world.clear();
    outcome
}

async fn simulate(world: &Arc<World>) {
    let plan = world.state().plan.clone();
    if words_wanted(world) {
        let mut state = world.state();
        let line = format!("{plan:?}");
        if let Some(lines) = &mut state.log.lines {
            lines.push(line);
        }
    }
    for _ in 0..plan.clients {
        let born = world.state().birth();
        tokio::spawn(process(Arc::clone(world), born));
    }
    faults::schedule(world);
    world.run(plan.end, check_guards).await;
    let mut state = world.state();
    if state.oracle.is_broken() {
        return;
    }
    let at_work = state.processes.iter().enumerate();
    let at_work = at_work.filter(|(_, process)| !process.crashed && process.workers > 0);
    let at_work: Vec<_> = at_work.map(|(process, _)| process).collect();
    if !at_work.is_empty() {
        let how = format!("processes {at_work:?} never came to an end");
        state.oracle.breaks("W2", how);
    }
}

fn words_wanted(world: &World) -> bool {
    world.state().log.lines.is_some()
}
