//! The oracle checks the contract with its own state.
//!
//! It checks each event at the store, and every guard between two events, with the exact simulated time,
//! which no client can read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Weak,
};

use tenure_core::{
    Guard,
    clock::Instant,
    id::AttemptId,
    lease::Phase,
    mode::Mode,
    queue::{Answer, Step},
};

use crate::{
    driver::TAKEOVER,
    plan::{PERMITS, Wake, ns},
    world::{State, World},
};

/// A violation of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) clause: &'static str,
    pub(crate) how: String,
}

/// The history of one entry of a queue.
#[derive(Clone, Debug, Default)]
struct Attempt {
    process: usize,
    /// The number of the acquire.
    acquire: u64,
    /// The mode of the entry; a downgrade that the store has answered makes it shared.
    mode: Mode,
    /// The number of the entry, in the order of creation.
    place: u64,
    /// The time until which the store must keep the entry unless it is removed.
    kept_until: u64,
    fenced_until: u64,
    /// The times of the requests that keep the entry, on the client's clock.
    proofs: BTreeSet<u64>,
    /// The time since which the entry is abandoned.
    over_since: Option<u64>,
    /// Whether the entry may remain until its TTL ends.
    abandoned: bool,
    pushed: bool,
}

/// The observed state of a guard.
struct Seen {
    guard: Weak<Guard>,
    lock: usize,
    process: usize,
    attempt: u64,
    mode: Mode,
    token: u64,
    valid_until: u64,
    dead: bool,
    /// Whether a task waits for its loss.
    watched: bool,
}

/// A running acquire.
struct Wait {
    lock: usize,
    process: usize,
    mode: Mode,
    /// Whether its attempt is in the queue, or was sent when no message could be lost. An acquire whose
    /// request was lost learns of that only by its time limit.
    counts: bool,
}

/// The holders of a lock before an event.
pub(crate) struct Before {
    holders: Vec<(AttemptId, u64)>,
    present: bool,
}

pub(crate) struct Oracle {
    numbers: HashMap<AttemptId, u64>,
    attempts: BTreeMap<u64, Attempt>,
    guards: BTreeMap<u64, Seen>,
    waits: BTreeMap<u64, Wait>,
    /// The tokens of grants that an operator has evicted.
    evicted: BTreeSet<u64>,
    /// The attempts that had a grant which an operator has evicted or which has lapsed.
    ended: BTreeSet<u64>,
    /// For each lock: the highest token in the store, the highest token of a guard, that of an exclusive guard,
    /// the highest floor of a guard, and the time since which it admits all waiters.
    last_token: Vec<u64>,
    last_guard: Vec<u64>,
    last_exclusive_guard: Vec<u64>,
    highest_floor: Vec<u64>,
    free_since: Vec<u64>,
    places: u64,
    broken: Option<Broken>,
}

impl Oracle {
    pub(crate) fn new(locks: usize) -> Self {
        Self {
            numbers: HashMap::new(),
            attempts: BTreeMap::new(),
            guards: BTreeMap::new(),
            waits: BTreeMap::new(),
            evicted: BTreeSet::new(),
            ended: BTreeSet::new(),
            last_token: vec![0; locks],
            last_guard: vec![0; locks],
            last_exclusive_guard: vec![0; locks],
            highest_floor: vec![0; locks],
            free_since: vec![0; locks],
            places: 0,
            broken: None,
        }
    }

    pub(crate) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.clone()
    }

    pub(crate) fn breaks(&mut self, clause: &'static str, how: String) {
        self.broken.get_or_insert(Broken { clause, how });
    }

    /// Attempts by number, since their random ids differ between runs.
    pub(crate) fn number(&mut self, attempt: AttemptId) -> u64 {
        let next = self.numbers.len() as u64;
        *self.numbers.entry(attempt).or_insert(next)
    }

    fn attempt(&mut self, attempt: AttemptId) -> &mut Attempt {
        let number = self.number(attempt);
        self.attempts.entry(number).or_default()
    }

    /// Records that an attempt of an acquire is about to enqueue. The acquire has given up its earlier
    /// attempts.
    pub(crate) fn names(
        &mut self,
        attempt: AttemptId,
        process: usize,
        mode: Mode,
        label: &str,
        now: u64,
        heal: u64,
    ) {
        let acquire = label.parse().expect("a number");
        if let Some(wait) = self.waits.get_mut(&acquire) {
            wait.counts = now >= heal;
        }
        let number = self.number(attempt);
        for (other, earlier) in &mut self.attempts {
            if earlier.acquire == acquire && *other != number {
                earlier.over_since.get_or_insert(now);
            }
        }
        let entry = self.attempt(attempt);
        entry.process = process;
        entry.acquire = acquire;
        entry.mode = mode;
    }

    pub(crate) fn fence(&mut self, attempt: AttemptId, until: u64) {
        self.attempt(attempt).fenced_until = until;
    }

    pub(crate) fn pushed(&mut self, attempt: AttemptId) {
        self.attempt(attempt).pushed = true;
    }

    pub(crate) fn evicted(&mut self, attempt: u64, token: u64) {
        self.evicted.insert(token);
        self.ended.insert(attempt);
    }

    pub(crate) fn was_ended(&self, attempt: u64) -> bool {
        self.ended.contains(&attempt)
    }

    pub(crate) fn waits(&mut self, acquire: u64, lock: usize, process: usize, mode: Mode) {
        let counts = false;
        let wait = Wait {
            lock,
            process,
            mode,
            counts,
        };
        self.waits.insert(acquire, wait);
    }

    /// Returns the number of processes that wait for a lock.
    pub(crate) fn waiting_for(&self, lock: usize) -> usize {
        self.waits.values().filter(|wait| wait.lock == lock).count()
    }

    /// Records that the client of an attempt has heard that it is in the queue.
    pub(crate) fn queued(&mut self, attempt: AttemptId) {
        let acquire = self.attempt(attempt).acquire;
        if let Some(wait) = self.waits.get_mut(&acquire) {
            wait.counts = true;
        }
    }

    /// Records the end of an acquire: nothing of it may remain except the granted attempt.
    pub(crate) fn ended(&mut self, acquire: u64, granted: Option<AttemptId>, now: u64) {
        self.waits.remove(&acquire);
        let granted = granted.map(|attempt| self.number(attempt));
        for (number, attempt) in &mut self.attempts {
            if attempt.acquire == acquire && Some(*number) != granted {
                attempt.over_since.get_or_insert(now);
            }
        }
    }

    /// Records the end of a guard.
    pub(crate) fn over(&mut self, attempt: AttemptId, abandoned: bool, now: u64) {
        let attempt = self.attempt(attempt);
        attempt.over_since.get_or_insert(now);
        attempt.abandoned |= abandoned;
    }

    pub(crate) fn unwatched(&mut self, attempt: AttemptId) {
        let number = self.number(attempt);
        if let Some(seen) = self.guards.get_mut(&number) {
            seen.watched = false;
        }
    }

    /// Ends the checks of a guard, which its downgrade is about to take.
    pub(crate) fn forget_guard(&mut self, attempt: AttemptId) {
        let number = self.number(attempt);
        self.guards.remove(&number);
    }

    /// Records the end of a process and of its acquires.
    pub(crate) fn crashed(&mut self, process: usize) {
        self.waits.retain(|_, wait| wait.process != process);
    }
}

impl State {
    pub(crate) fn watch(&self, lock: usize) -> BeforeOf {
        BeforeOf(
            self.store.queues[lock]
                .entries()
                .map(|entry| (entry.attempt, entry.grant.map(|grant| grant.token.get())))
                .collect(),
        )
    }

    /// Checks the effect of an event of the given attempt on the store.
    pub(crate) fn judge(
        &mut self,
        lock: usize,
        id: AttemptId,
        event: &'static str,
        before: BeforeOf,
        step: &Step,
        sent: Option<Instant>,
    ) {
        let now = self.now;
        let ttl = ns(self.plan.ttl);
        let after = self.watch(lock);
        let number = self.oracle.number(id);
        let answer = match step.answer {
            Answer::Granted { token, .. } => token.get(),
            Answer::Waiting { ahead } => 1_000_000 + ahead as u64,
            Answer::Gone(_) => 2_000_000,
            Answer::Busy => 3_000_000,
            _ => 4_000_000,
        };
        self.log(event, [lock as u64, number, answer]);
        let before = before.about(id);
        let present = after.has(id);
        let oracle = &mut self.oracle;
        let places = oracle.places;
        let entry = oracle.attempt(id);
        let (fenced_until, over) = (entry.fenced_until, entry.over_since.is_some());
        let mut broken = None;
        let mut breaks = |clause, how: &str| {
            broken.get_or_insert_with(|| Broken {
                clause,
                how: format!("{how}: attempt {number}, lock {lock}"),
            });
        };
        // An expired entry ends before the event, which may create it again.
        let lapsed = entry.kept_until <= now;
        match event {
            "enqueue" if (!before.present || lapsed) && present => {
                if fenced_until > now {
                    breaks(
                        "A4",
                        "an enqueue had its effect after a removal that fences",
                    );
                }
                if over {
                    self.seen
                        .insert("an enqueue was carried out after its acquire had ended");
                }
                entry.place = places;
                oracle.places += 1;
            }
            "enqueue" if before.present => {
                self.seen
                    .insert("an enqueue found its attempt in the queue");
            }
            "renew" if !before.present && present => {
                breaks("W5", "a renewal or report has made an entry");
            }
            "renew" if !present && matches!(step.answer, Answer::Granted { .. }) => {
                self.seen.insert("a flaw: a renewal of nothing is answered");
            }
            "remove" if present => breaks("R2", "a removal was acknowledged and removed nothing"),
            "remove" if !before.present => {
                self.seen.insert("a removal found nothing");
            }
            _ => {}
        }
        // The time until which each earlier grant had to be kept, before this event.
        let kept: Vec<_> = before
            .holders
            .iter()
            .map(|&(held, token)| (held, token, oracle.attempt(held).kept_until))
            .collect();
        let entry = oracle.attempt(id);
        if event == "downgrade" && matches!(step.answer, Answer::Granted { .. }) {
            entry.mode = Mode::Shared;
        }
        if matches!(step.answer, Answer::Granted { .. } | Answer::Waiting { .. })
            && let Some(sent) = sent
        {
            entry.kept_until = now + ttl;
            entry.proofs.insert(ns(sent.since_origin()));
        }
        // A holder keeps the lock unless it left or its time is over.
        let holders = after.holders();
        let mut lapsed = Vec::new();
        for (held, token, kept_until) in kept {
            if holders.contains(&(held, token)) {
                continue;
            }
            let own = held == id && matches!(event, "remove" | "evict");
            // A late copy of an enqueue may be granted anew once its first grant has lapsed.
            if holders.iter().any(|&(attempt, _)| attempt == held) && kept_until > now {
                breaks("T3", "the token of a grant has changed");
            } else if !own && kept_until > now {
                let clause = if event == "remove" { "R1" } else { "X3" };
                breaks(clause, &format!("token {token} was ended before its time"));
            } else if !own {
                self.seen.insert("a grant lapsed in the store");
                lapsed.push(held);
            }
        }
        for held in lapsed {
            let held = oracle.number(held);
            oracle.ended.insert(held);
        }
        for &(held, token) in &holders {
            if before.holders.contains(&(held, token)) {
                continue;
            }
            if token <= oracle.last_token[lock] {
                breaks("T1", &format!("token {token} does not rise"));
            }
            oracle.last_token[lock] = oracle.last_token[lock].max(token);
            let place = oracle.attempt(held).place;
            for waiter in after.waiters() {
                let waiter = oracle.attempt(waiter);
                if waiter.place < place && waiter.kept_until > now {
                    breaks("W1", "one that came later was granted the lock");
                }
            }
        }
        let mut modes = Vec::new();
        for &(held, _) in &holders {
            let holder = oracle.attempt(held);
            if holder.kept_until > now {
                modes.push(holder.mode);
            }
        }
        if modes.len() > 1 {
            self.seen.insert("several held one lock");
        }
        if !compatible(&modes) {
            breaks("M1", &format!("the store has the holders {modes:?}"));
        }
        if let Some(broken) = broken {
            self.oracle.breaks(broken.clause, broken.how);
        }
    }
}

/// The queue of a lock at one time.
pub(crate) struct BeforeOf(Vec<(AttemptId, Option<u64>)>);

impl BeforeOf {
    fn holders(&self) -> Vec<(AttemptId, u64)> {
        let holders = self.0.iter();
        holders
            .filter_map(|&(attempt, token)| Some((attempt, token?)))
            .collect()
    }

    fn waiters(&self) -> impl Iterator<Item = AttemptId> {
        let waiters = self.0.iter().filter(|(_, token)| token.is_none());
        waiters.map(|&(attempt, _)| attempt)
    }

    fn has(&self, attempt: AttemptId) -> bool {
        self.0.iter().any(|&(other, _)| other == attempt)
    }

    fn about(self, attempt: AttemptId) -> Before {
        Before {
            present: self.has(attempt),
            holders: self.holders(),
        }
    }
}

/// Returns whether several may hold a lock together in these modes. Says the same as the queue's rule in other
/// words (clause M1).
fn compatible(modes: &[Mode]) -> bool {
    let mut taken = 0;
    let mut permits = modes.iter().map(|mode| match *mode {
        Mode::Permits { take, of } => {
            taken += take;
            of == PERMITS
        }
        _ => false,
    });
    modes.len() <= 1
        || modes.iter().all(|mode| *mode == Mode::Shared)
        || permits.all(|is| is) && taken <= PERMITS
}

/// Checks a new guard.
pub(crate) fn granted(world: &World, guard: Weak<Guard>, lock: usize, process: usize, mode: Mode) {
    let Some(strong) = guard.upgrade() else {
        return;
    };
    let (id, token, floor) = (strong.attempt(), strong.token().get(), strong.floor().get());
    let live = strong.phase().is_live();
    let mut state = world.state();
    let number = state.oracle.number(id);
    state.log("guard", [process as u64, number, token]);
    let now = state.now;
    let evicted = state.oracle.evicted.contains(&token);
    let oracle = &mut state.oracle;
    // Guards that share the lock may come in any order; a guard that was downgraded has its token still.
    let last = if mode == Mode::Exclusive {
        oracle.last_guard[lock]
    } else {
        oracle.last_exclusive_guard[lock].saturating_sub(1)
    };
    if token <= last && live && !evicted {
        let how = format!("a guard with token {token} came after one with {last}");
        oracle.breaks("T1", how);
    }
    oracle.last_guard[lock] = oracle.last_guard[lock].max(token);
    if mode == Mode::Exclusive {
        oracle.last_exclusive_guard[lock] = oracle.last_exclusive_guard[lock].max(token);
    }
    oracle.highest_floor[lock] = oracle.highest_floor[lock].max(floor);
    oracle.free_since[lock] = now;
    let seen = Seen {
        guard,
        lock,
        process,
        attempt: number,
        mode,
        token,
        valid_until: 0,
        dead: false,
        watched: true,
    };
    state.oracle.guards.insert(number, seen);
}

/// Checks every guard and every lock between two events.
pub(crate) fn check_guards(world: &std::sync::Arc<World>) {
    let guards: Vec<_> = {
        let state = world.state();
        let guards = state.oracle.guards.iter();
        guards
            .map(|(&number, seen)| (number, seen.guard.upgrade()))
            .collect()
    };
    let looked: Vec<_> = guards
        .into_iter()
        .map(|(number, guard)| {
            let facts = guard.map(|guard| {
                // In this order: otherwise a renewal between the two reads would look like a loss.
                let phase = guard.phase();
                (phase, ns(guard.valid_until().since_origin()))
            });
            (number, facts)
        })
        .collect();
    let mut state = world.state();
    let locks = state.plan.locks;
    let mut held: Vec<Vec<Mode>> = vec![Vec::new(); locks];
    let mut tokens: Vec<Vec<u64>> = vec![Vec::new(); locks];
    let mut live: Vec<Vec<Mode>> = vec![Vec::new(); locks];
    for (number, facts) in looked {
        let Some((phase, valid_until)) = facts else {
            state.oracle.guards.remove(&number);
            continue;
        };
        guard_is_sound(&mut state, number, phase, valid_until);
        let seen = &state.oracle.guards[&number];
        let (lock, mode, token, process) = (seen.lock, seen.mode, seen.token, seen.process);
        if !phase.is_live() || state.processes[process].crashed {
            continue;
        }
        live[lock].push(mode);
        if state.oracle.evicted.contains(&token) {
            continue;
        }
        held[lock].push(mode);
        tokens[lock].push(token);
        let floor = state.oracle.highest_floor[lock];
        if token < floor {
            let how = format!("token {token} of lock {lock} is held and below the floor {floor}");
            state.oracle.breaks("M3", how);
        }
    }
    for lock in 0..locks {
        if !compatible(&held[lock]) {
            let (modes, tokens) = (&held[lock], &tokens[lock]);
            let how = format!("tokens {tokens:?} of lock {lock} are held together as {modes:?}");
            state.oracle.breaks("X1", how);
        }
    }
    locks_move_on(&mut state, &live);
    nothing_stays(&mut state);
}

fn guard_is_sound(state: &mut State, number: u64, phase: Phase, valid_until: u64) {
    let validity = state.plan.validity();
    let oracle = &mut state.oracle;
    let Some(seen) = oracle.guards.get_mut(&number) else {
        return;
    };
    let mut broken = Vec::new();
    if phase.is_live() && seen.dead {
        broken.push(("L4", "a guard that was not held is held again".to_owned()));
    }
    if valid_until < seen.valid_until {
        broken.push(("D2", "a deadline has moved back".to_owned()));
    }
    let proofs = &oracle.attempts[&seen.attempt].proofs;
    if valid_until != seen.valid_until
        && phase.is_live()
        && !proofs.contains(&(valid_until.saturating_sub(validity)))
    {
        let how = format!("the deadline {valid_until} follows from no request that was sent");
        broken.push(("D1", how));
    }
    seen.valid_until = valid_until;
    seen.dead |= !phase.is_live();
    let process = &state.processes[seen.process];
    let due = process.reads(state.now.saturating_sub(1_000_000)) > valid_until;
    let runs = !process.crashed && process.paused_until + 1_000_000 < state.now;
    if seen.watched && due && runs && !matches!(phase, Phase::Releasing | Phase::Released) {
        broken.push(("L1", "a loss was not told at the deadline".to_owned()));
    }
    for (clause, how) in broken {
        oracle.breaks(clause, format!("{how}: attempt {number}"));
    }
}

/// Checks that a lock which is free, or which admits all its waiters, is granted within the bound.
fn locks_move_on(state: &mut State, live: &[Vec<Mode>]) {
    let bound = ns(TAKEOVER.of(state.plan.ttl, state.plan.ttl)) + 100_000_000;
    let (now, quiet) = (state.now, state.plan.quiet());
    for (lock, held) in live.iter().enumerate() {
        let mut waiting = state.oracle.waits.values().filter(|wait| {
            wait.counts && wait.lock == lock && !state.processes[wait.process].crashed
        });
        let joins = |wait: &Wait| {
            let mut modes = held.clone();
            modes.push(wait.mode);
            compatible(&modes)
        };
        let Some(first) = waiting.next() else {
            state.oracle.free_since[lock] = now;
            continue;
        };
        if !joins(first) || !waiting.all(joins) {
            state.oracle.free_since[lock] = now;
        }
        let since = state.oracle.free_since[lock].max(quiet);
        if now.saturating_sub(since) > bound {
            let how = format!("lock {lock} admits all its waiters since {since}");
            state.oracle.breaks("W2", how);
        }
    }
}

/// Checks that abandoned entries are removed within some round trips after the end of the faults.
fn nothing_stays(state: &mut State) {
    const ROUND_TRIPS: u64 = 60_000_000;
    let settled = state.plan.settled();
    if state.now < settled {
        return;
    }
    let entries: Vec<_> = state
        .store
        .queues
        .iter()
        .flat_map(|queue| queue.entries().map(|entry| entry.attempt))
        .collect();
    for id in entries {
        let now = state.now;
        let number = state.oracle.number(id);
        let attempt = state.oracle.attempt(id);
        let Some(since) = attempt.over_since else {
            continue;
        };
        if attempt.abandoned || since < settled || state.processes[attempt.process].crashed {
            continue;
        }
        if now > since + ROUND_TRIPS {
            let how = format!("attempt {number} was over at {since} and is in the store");
            state.oracle.breaks("A4", how);
        }
    }
    if state.plan.wake == Wake::Grant {
        state.seen.insert("all was quiet in the end");
    }
}
