//! The behaviour of the clients: they acquire, hold, release and cancel in all ways.

use std::{pin::pin, sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, Guard, Lock, Release, RwLock, Semaphore, clock::Clock, lease::DriftBounds,
    loss::LossReason, mode::Mode,
};

use crate::{
    driver::{SimConnect, lock_name},
    oracle,
    plan::{DRIFT_PPM, Kind, PERMITS, ns},
    world::{SimClock, World},
};

/// One process with its client and its tasks.
pub(crate) async fn process(world: Arc<World>, process: usize) {
    let clock = Arc::new(SimClock {
        world: Arc::clone(&world),
        process,
    });
    let plan = world.state().plan.clone();
    let connect = SimConnect {
        world: Arc::clone(&world),
        process,
    };
    let client = Client::builder(connect)
        .ttl(plan.ttl)
        .drift_bounds(DriftBounds::new(DRIFT_PPM, plan.margin))
        .request_timeout(plan.request_timeout)
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .connect()
        .await
        .expect("connecting is not simulated");
    for _ in 0..plan.workers {
        let worker = Worker {
            world: Arc::clone(&world),
            clock: Arc::clone(&clock),
            client: client.clone(),
            process,
        };
        world.state().processes[process].workers += 1;
        tokio::spawn(worker.work());
    }
}

struct Worker {
    world: Arc<World>,
    clock: Arc<SimClock>,
    client: Client,
    process: usize,
}

impl Worker {
    fn draw(&self, most: u64) -> u64 {
        self.world.state().rng.u64(..most.max(1))
    }

    async fn work(self) {
        let ttl = ns(self.world.state().plan.ttl);
        loop {
            let pause = self.draw(ttl / 2);
            self.clock.sleep(pause).await;
            let (over, lock, mode) = {
                let mut state = self.world.state();
                let locks = state.plan.locks;
                let lock = state.rng.usize(..locks);
                let (kind, take) = (state.rng.u8(..10), state.rng.u32(1..=PERMITS));
                let mode = match kind {
                    0..4 if state.plan.joint => Mode::Shared,
                    4..7 if state.plan.joint => Mode::Permits { take, of: PERMITS },
                    _ => Mode::Exclusive,
                };
                (state.now >= state.plan.stop, lock, mode)
            };
            if over {
                break;
            }
            if let Some(guard) = self.acquire(lock, mode).await {
                self.hold(guard, lock, mode).await;
            }
        }
        self.world.state().processes[self.process].workers -= 1;
    }

    async fn acquire(&self, lock: usize, mode: Mode) -> Option<Arc<Guard>> {
        let (acquire, ttl, way, cancel_after) = {
            let mut state = self.world.state();
            state.acquires += 1;
            let (acquire, ttl) = (state.acquires, ns(state.plan.ttl));
            let way = state.rng.u8(..10);
            let hasty = state.rng.bool();
            let most = if hasty { 12_000_000 } else { 2 * ttl };
            let after = state.rng.u64(..most);
            let cancels = state.rng.u8(..10) < 4 && state.plan.has(Kind::Cancel);
            state.oracle.waits(acquire, lock, self.process, mode);
            if state.oracle.waiting_for(lock) > 2 {
                state.seen.insert("three wait for one lock");
            }
            let number = self.process as u64;
            state.log("acquire", [number, lock as u64, acquire]);
            (acquire, ttl, way, cancels.then_some(after))
        };
        let wanted = self
            .client
            .lock_named(lock_name(lock))
            .label(acquire.to_string());
        let wanted = in_mode(wanted, mode);
        let budget = self.draw(2 * ttl);
        let mut queued = false;
        let outcome = {
            let asked = async {
                match way {
                    0 | 1 => wanted.try_acquire().await,
                    2 | 3 => wanted.acquire_within(Duration::from_nanos(budget)).await,
                    _ => wanted.acquire_observed(None, |_| queued = true).await,
                }
            };
            let mut asked = pin!(asked);
            match cancel_after {
                None => Some(asked.await),
                Some(after) => tokio::select! {
                    biased;
                    outcome = &mut asked => Some(outcome),
                    () = self.clock.sleep(after) => None,
                },
            }
        };
        let guard = match outcome {
            Some(Ok(Acquisition::Acquired(guard))) => Some(Arc::new(guard)),
            _ => None,
        };
        let mut state = self.world.state();
        let now = state.now;
        if let Some(word) = outcome_word(cancel_after.is_some(), guard.is_some(), queued) {
            state.seen.insert(word);
        }
        let attempt = guard.as_ref().map(|guard| guard.attempt());
        state.oracle.ended(acquire, attempt, now);
        state.log("acquired?", [acquire, u64::from(guard.is_some()), 0]);
        drop(state);
        if let Some(guard) = &guard {
            oracle::granted(&self.world, Arc::downgrade(guard), lock, self.process, mode);
        }
        guard
    }

    /// Downgrades the guard. Returns `None` if that fails or is cancelled.
    async fn downgrade(&self, guard: Guard, lock: usize) -> Option<Arc<Guard>> {
        let attempt = guard.attempt();
        let cancel_after = {
            let mut state = self.world.state();
            let after = state.rng.u64(..20_000_000);
            let cancels = state.rng.u8(..10) < 2 && state.plan.has(Kind::Cancel);
            if cancels { after } else { u64::MAX / 2 }
        };
        let outcome = tokio::select! {
            biased;
            outcome = guard.downgrade() => outcome.ok(),
            () = self.clock.sleep(cancel_after) => None,
        };
        match outcome {
            Some(guard) => {
                let guard = Arc::new(guard);
                let mut state = self.world.state();
                state.seen.insert("a writer became a reader");
                drop(state);
                let weak = Arc::downgrade(&guard);
                oracle::granted(&self.world, weak, lock, self.process, Mode::Shared);
                Some(guard)
            }
            None => {
                let mut state = self.world.state();
                let now = state.now;
                state.oracle.over(attempt, false, now);
                None
            }
        }
    }

    async fn hold(&self, guard: Arc<Guard>, lock: usize, mode: Mode) {
        let attempt = guard.attempt();
        let (downgrades, pause) = {
            let mut state = self.world.state();
            let joint = state.plan.joint && mode == Mode::Exclusive;
            let most = ns(state.plan.ttl) / 4;
            (joint && state.rng.u8(..3) == 0, state.rng.u64(..most))
        };
        let guard = if downgrades {
            self.world.state().oracle.unwatched(attempt);
            self.clock.sleep(pause).await;
            self.world.state().oracle.forget_guard(attempt);
            let guard = Arc::try_unwrap(guard).expect("the oracle has a weak reference");
            match self.downgrade(guard, lock).await {
                Some(guard) => guard,
                None => return,
            }
        } else {
            guard
        };
        let (span, end, hurries) = {
            let mut state = self.world.state();
            let ttl = ns(state.plan.ttl);
            let short = state.rng.bool();
            let most = if short { ttl / 4 } else { 3 * ttl };
            let span = state.rng.u64(..most);
            let mut end = state.rng.u8(..10);
            if !state.plan.has(Kind::Drop) {
                end = 9;
            }
            (span, end, state.rng.u8(..5) == 0)
        };
        if hurries {
            let _: Result<(), _> = guard.renew().await;
        }
        let lost = tokio::select! {
            biased;
            reason = guard.lost() => Some(reason),
            () = self.clock.sleep(span) => None,
        };
        {
            let mut state = self.world.state();
            state.oracle.unwatched(attempt);
            if state.oracle.waiting_for(lock) > 0 {
                state.seen.insert("a lock was held with a waiter");
            }
        }
        if let Some(reason) = lost {
            self.told(&guard, reason);
        }
        match end {
            // Dropping the guard releases in the background.
            0 | 1 => self.over(&guard, false),
            2 => {
                self.over(&guard, true);
                if let Ok(guard) = Arc::try_unwrap(guard) {
                    guard.abandon();
                }
            }
            // A cancelled release.
            3 | 4 => {
                let patience = self.draw(15_000_000);
                tokio::select! {
                    biased;
                    _ = guard.release() => {}
                    () = self.clock.sleep(patience) => {
                        self.world.state().seen.insert("a release was given up");
                    }
                }
                self.over(&guard, false);
            }
            _ => self.release(&guard, lock, lost.is_some()).await,
        }
    }

    /// Checks the reason of a reported loss.
    fn told(&self, guard: &Guard, reason: LossReason) {
        let valid_until = ns(guard.valid_until().since_origin());
        let still = guard.check().is_ok();
        let mut state = self.world.state();
        let number = state.oracle.number(guard.attempt());
        state.log("lost", [number, reason as u64, 0]);
        if still {
            state
                .oracle
                .breaks("L4", format!("attempt {number} was lost and is held"));
        }
        if state.reading(self.process) < valid_until {
            state.seen.insert("a loss was reported before the deadline");
            // An eviction or an expiry ends the attempt, also when a late copy of its enqueue is granted the lock
            // after it: late news of the first grant then count against the second one.
            let ended = state.oracle.was_ended(number);
            if is_granted(&state, guard) && !ended {
                let how = format!("attempt {number} was lost ({reason}) and the store has it");
                state.oracle.breaks("L5", how);
            }
        } else {
            state.seen.insert("a loss was reported at the deadline");
        }
    }

    async fn release(&self, guard: &Guard, lock: usize, lost: bool) {
        let live = guard.phase().is_live();
        let outcome = guard.release().await;
        self.over(guard, false);
        let mut state = self.world.state();
        let number = state.oracle.number(guard.attempt());
        let word = match outcome {
            Release::Released => 1,
            Release::NotHeld(_) => 2,
            _ => 3,
        };
        state.log("released", [lock as u64, number, word]);
        let granted = is_granted(&state, guard);
        match outcome {
            Release::Released if lost || !live => {
                let how = format!("attempt {number} was lost, and its release succeeded");
                state.oracle.breaks("L4", how);
            }
            Release::Released if granted => {
                let how = format!("attempt {number} was released, and the store has it");
                state.oracle.breaks("R2", how);
            }
            Release::NotHeld(_) if live && granted => {
                let how = format!("attempt {number} was held by the store when it said no");
                state.oracle.breaks("R1", how);
            }
            Release::Unknown(_) => {
                state.seen.insert("the outcome of a release stayed unknown");
                if state.now > state.plan.settled() {
                    let how = format!("attempt {number}: unknown, though every answer came");
                    state.oracle.breaks("R1", how);
                }
            }
            _ => {}
        }
    }

    fn over(&self, guard: &Guard, abandoned: bool) {
        let mut state = self.world.state();
        let now = state.now;
        state.oracle.over(guard.attempt(), abandoned, now);
    }
}

/// Returns the lock as an acquire in this mode takes it.
fn in_mode(lock: Lock, mode: Mode) -> Lock {
    match mode {
        Mode::Shared => RwLock::new(lock).read(),
        Mode::Permits { take, of } => {
            let semaphore = Semaphore::new(lock, of).expect("some permits");
            semaphore.permits(take).expect("no more than there are")
        }
        _ => RwLock::new(lock).write(),
    }
}

/// Returns whether the store has this grant, unexpired. A late copy of the enqueue can give the attempt another one.
fn is_granted(state: &crate::world::State, guard: &Guard) -> bool {
    let now = state.store.now(state.now);
    let name: usize = guard.name().as_str().parse().expect("a number");
    state.store.queues[name]
        .entry(guard.attempt())
        .is_some_and(|entry| {
            let token = entry.grant.as_ref().map(|grant| grant.token);
            token == Some(guard.token()) && !entry.has_lapsed(&now)
        })
}

fn outcome_word(cancels: bool, granted: bool, queued: bool) -> Option<&'static str> {
    match (cancels, granted, queued) {
        (true, false, true) => Some("an acquire was cancelled in the queue"),
        (true, false, false) => Some("an acquire was cancelled before its answer"),
        (true, true, _) => Some("an acquire ended just before it was cancelled"),
        _ => None,
    }
}
