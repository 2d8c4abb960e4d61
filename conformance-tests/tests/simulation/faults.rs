//! Faults beside those of single messages, at times that the seed decides.

use std::sync::Arc;

use tenure_core::backend::BackendEvent;

use crate::{
    driver::evict,
    plan::{Kind, ns},
    workload::process,
    world::{State, World},
};

/// Schedules all faults of a run.
pub(crate) fn schedule(world: &Arc<World>) {
    let mut state = world.state();
    let heal = state.plan.heal;
    let ttl = ns(state.plan.ttl);
    for kind in [
        Kind::Pause,
        Kind::Crash,
        Kind::Restart,
        Kind::Partition,
        Kind::Evict,
    ] {
        let most = match kind {
            Kind::Pause | Kind::Partition => 6,
            Kind::Evict => 4,
            _ => 2,
        };
        let count = state.rng.u64(1..=most);
        for _ in 0..count {
            let time = state.rng.u64(..heal);
            // Either short, or longer than any wait.
            let long = state.rng.bool();
            let span = state
                .rng
                .u64(1_000_000..if long { 2 * ttl } else { ttl / 3 });
            let span = span.min(heal - time);
            if state.plan.has(kind) {
                state.at(time, Box::new(move |world| inject(world, kind, span)));
            }
        }
    }
}

/// Returns a running process, if there is one.
fn victim(state: &mut State) -> Option<usize> {
    let up: Vec<_> = (0..state.processes.len())
        .filter(|&process| !state.processes[process].crashed)
        .collect();
    state.rng.choice(&up).copied()
}

fn inject(world: &Arc<World>, kind: Kind, span: u64) {
    let mut state = world.state();
    let until = state.now + span;
    let long = span > ns(state.plan.ttl);
    match kind {
        Kind::Pause => {
            let Some(victim) = victim(&mut state) else {
                return;
            };
            state.log("pause", [victim as u64, span, 0]);
            state.seen.insert(if long {
                "a pause was longer than the TTL"
            } else {
                "a pause was shorter than the TTL"
            });
            let process = &mut state.processes[victim];
            process.paused_until = process.paused_until.max(until);
        }
        Kind::Crash => {
            let Some(victim) = victim(&mut state) else {
                return;
            };
            state.log("crash", [victim as u64, 0, 0]);
            state.seen.insert("a process crashed");
            state.processes[victim].crashed = true;
            state.oracle.crashed(victim);
            state.at(
                until,
                Box::new(|world| {
                    let born = world.state().birth();
                    tokio::spawn(process(Arc::clone(world), born));
                }),
            );
        }
        Kind::Restart => {
            state.log("restart", [span, 0, 0]);
            state.seen.insert("the store restarted");
            state.store.restart();
            state.store.down_until = until;
            let all: Vec<_> = (0..state.processes.len()).collect();
            let soon = state.now;
            drop(state);
            for process in all {
                emit(world, process, soon, BackendEvent::Suspect);
                emit(world, process, until, BackendEvent::Reconnected);
            }
        }
        Kind::Partition => {
            let Some(victim) = victim(&mut state) else {
                return;
            };
            let ways = state.rng.usize(1..4);
            let noticed = state.rng.bool();
            state.log("partition", [victim as u64, span, ways as u64]);
            state.seen.insert(match ways {
                1 | 2 => "a link was cut in one direction",
                _ => "a link was cut",
            });
            for way in 0..2 {
                if ways & (1 << way) != 0 {
                    let cut = &mut state.processes[victim].cut_until[way];
                    *cut = until.max(*cut);
                }
            }
            let soon = state.now;
            drop(state);
            if noticed {
                emit(world, victim, soon, BackendEvent::Suspect);
                emit(world, victim, until, BackendEvent::Reconnected);
            }
        }
        Kind::Evict => {
            let locks = state.plan.locks;
            let lock = state.rng.usize(..locks);
            drop(state);
            evict(world, lock);
        }
        _ => {}
    }
}

/// Lets the client library of a process notice a change of its connection after a delay.
fn emit(world: &Arc<World>, process: usize, time: u64, event: BackendEvent) {
    let time = time + world.state().rng.u64(..5_000_000);
    world.within(
        process,
        time,
        Box::new(move |world| {
            let sink = {
                let state = world.state();
                let mut clients = state.store.clients.values();
                clients
                    .find(|(other, _)| *other == process)
                    .map(|(_, sink)| sink.clone())
            };
            if let Some(sink) = sink {
                sink.send(event);
            }
        }),
    );
}
