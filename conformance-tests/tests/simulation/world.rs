//! The simulated world: the time, the scheduled events, and the client processes with their clocks.
//!
//! Time does not advance while any task can run. When no task can run, the runtime is about to park its only
//! thread; then the next scheduled event happens at its time. So a run depends on its seed only: on no other
//! clock, thread or randomness.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::clock::{Clock, Instant};
use tokio::sync::oneshot;

use crate::{
    oracle::Oracle,
    plan::{Plan, ns},
    store::Store,
};

/// A scheduled event.
pub(crate) type Action = Box<dyn FnOnce(&Arc<World>) + Send>;

/// The time of an event; the second part orders events with the same time.
type Key = (u64, u64);

pub(crate) struct World {
    state: Mutex<State>,
    idle: Arc<Idle>,
}

pub(crate) struct State {
    pub(crate) now: u64,
    number: u64,
    agenda: BTreeMap<Key, Action>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) processes: Vec<Process>,
    pub(crate) store: Store,
    pub(crate) oracle: Oracle,
    pub(crate) log: Log,
    /// The number of acquires.
    pub(crate) acquires: u64,
    /// The covered events of this run.
    pub(crate) seen: BTreeSet<&'static str>,
}

/// One process with one client.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    offset: u64,
    rate_ppm: i64,
    pub(crate) paused_until: u64,
    pub(crate) crashed: bool,
    /// The number of running tasks.
    pub(crate) workers: usize,
    /// The ends of the faults of its connection to the store, and back.
    pub(crate) cut_until: [u64; 2],
}

impl Process {
    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + self.rate_ppm).expect("about a million")
    }

    /// Returns the reading of its clock at the given time.
    pub(crate) fn reads(&self, now: u64) -> u64 {
        let run = u128::from(now) * self.rate() / 1_000_000;
        self.offset + u64::try_from(run).expect("a short run")
    }

    /// Returns the time at which its clock has the given reading.
    fn when(&self, reading: u64) -> u64 {
        let run = u128::from(reading.saturating_sub(self.offset)) * 1_000_000;
        u64::try_from(run.div_ceil(self.rate())).unwrap_or(u64::MAX)
    }
}

/// The events as a hash that two equal runs share, and optionally as text.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) lines: Option<Vec<String>>,
}

impl Log {
    fn add(&mut self, now: u64, what: &'static str, numbers: [u64; 3]) {
        self.events += 1;
        let parts = [now, numbers[0], numbers[1], numbers[2]];
        let bytes = parts.iter().flat_map(|part| part.to_le_bytes());
        for byte in bytes.chain(what.bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            let [a, b, c] = numbers;
            lines.push(format!(
                "{:4}.{:09}  {what} {a} {b} {c}",
                now / 1_000_000_000,
                now % 1_000_000_000
            ));
        }
    }
}

impl State {
    pub(crate) fn log(&mut self, what: &'static str, numbers: [u64; 3]) {
        self.log.add(self.now, what, numbers);
    }

    /// Returns the current time on the clock of a process.
    pub(crate) fn reading(&self, process: usize) -> u64 {
        self.processes[process].reads(self.now)
    }

    pub(crate) fn at(&mut self, time: u64, action: Action) -> Key {
        self.number += 1;
        let key = (time.max(self.now), self.number);
        self.agenda.insert(key, action);
        key
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.now < self.plan.heal
    }

    pub(crate) fn birth(&mut self) -> usize {
        let process = Process {
            offset: self.rng.u64(1_000_000_000..1_000_000_000_000),
            // Less than one percent, because readings are rounded to nanoseconds.
            rate_ppm: self.rng.i64(-9_890..=9_890),
            paused_until: 0,
            crashed: false,
            workers: 0,
            cut_until: [0; 2],
        };
        self.processes.push(process);
        self.processes.len() - 1
    }
}

impl World {
    pub(crate) fn new(
        rng: fastrand::Rng,
        plan: Plan,
        store: Store,
        words: bool,
        idle: Arc<Idle>,
    ) -> Arc<Self> {
        let oracle = Oracle::new(plan.locks);
        Arc::new(Self {
            state: Mutex::new(State {
                now: 0,
                number: 0,
                agenda: BTreeMap::new(),
                rng,
                plan,
                processes: Vec::new(),
                store,
                oracle,
                log: Log {
                    hash: 0xcbf2_9ce4_8422_2325,
                    events: 0,
                    lines: words.then(Vec::new),
                },
                acquires: 0,
                seen: BTreeSet::new(),
            }),
            idle,
        })
    }

    /// Do not hold this lock during calls of the core, which read the clock.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no poison")
    }

    /// Schedules an event of a process: not while it is paused, and not after it has crashed.
    pub(crate) fn within(&self, process: usize, time: u64, action: Action) -> Key {
        let gated: Action = Box::new(move |world| {
            let later = {
                let mut state = world.state();
                let Process {
                    paused_until,
                    crashed,
                    ..
                } = state.processes[process];
                if crashed {
                    return;
                }
                // The events that waited for a process continue in any order.
                (state.now < paused_until).then(|| paused_until + state.rng.u64(..300_000))
            };
            match later {
                Some(time) => {
                    world.within(process, time, action);
                }
                None => action(world),
            }
        });
        self.state().at(time, gated)
    }

    /// Runs the events until the given time, with a check between any two events.
    pub(crate) async fn run(self: &Arc<Self>, until: u64, check: impl Fn(&Arc<Self>)) {
        loop {
            self.idle.wait().await;
            check(self);
            let action = {
                let mut state = self.state();
                if state.oracle.is_broken() {
                    return;
                }
                match state.agenda.first_key_value() {
                    Some((&(time, _), _)) if time <= until => {
                        state.now = time;
                        state.agenda.pop_first().map(|(_, action)| action)
                    }
                    _ => {
                        state.now = until;
                        None
                    }
                }
            };
            match action {
                Some(action) => action(self),
                None => return,
            }
        }
    }

    /// Removes all events, so that they do not keep anything alive.
    pub(crate) fn clear(&self) {
        let agenda = std::mem::take(&mut self.state().agenda);
        drop(agenda);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// Detects when no task can run.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<(bool, Option<Waker>)>);

impl Idle {
    /// The runtime's thread is about to park.
    pub(crate) fn parks(&self) {
        let mut idle = self.0.lock().expect("no poison");
        idle.0 = true;
        if let Some(waker) = idle.1.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        self.0.lock().expect("no poison").0 = false;
        poll_fn(|context| {
            let mut idle = self.0.lock().expect("no poison");
            if idle.0 {
                return Poll::Ready(());
            }
            idle.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The clock of one process.
#[derive(Debug)]
pub(crate) struct SimClock {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

impl SimClock {
    pub(crate) async fn sleep(&self, nanos: u64) {
        self.sleep_until(self.now() + Duration::from_nanos(nanos))
            .await;
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Instant {
        let reading = self.world.state().reading(self.process);
        Instant::from_origin(Duration::from_nanos(reading))
    }

    async fn sleep_until(&self, deadline: Instant) {
        while self.now() < deadline {
            if deadline.since_origin() > Duration::from_secs(1_000_000) {
                return std::future::pending().await;
            }
            let time = {
                let state = self.world.state();
                state.processes[self.process].when(ns(deadline.since_origin()))
            };
            let (rings, bell) = oneshot::channel();
            let action = Box::new(move |_: &Arc<World>| {
                let _: Result<(), ()> = rings.send(());
            });
            let key = self.world.within(self.process, time, action);
            let _alarm = Alarm {
                world: &self.world,
                key,
            };
            if bell.await.is_err() {
                // The process has crashed.
                return std::future::pending().await;
            }
        }
    }
}

/// Removes the event when the sleep is dropped.
struct Alarm<'a> {
    world: &'a World,
    key: Key,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let action = self.world.state().agenda.remove(&self.key);
        drop(action);
    }
}
