//! The workers of a run, which acquire locks, write with the token, and release.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{Acquisition, Client, Guard, Release, mode::Mode};
use tokio::{
    sync::{OwnedRwLockWriteGuard, RwLock},
    task::JoinSet,
    time::sleep,
};

use super::{Activity, Ending, History, Recorder, Tenancy, TooLittleActivity, Wait, Write};
use crate::fault::{Fault as NetworkFault, Line};

/// The time limit of one acquire.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval between two checks of a guard.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// The number of permits of a lock that has several.
const PERMITS: u32 = 3;
/// One of this number of turns is cancelled: its acquire is dropped at a random time.
const TURNS_PER_CANCELLATION: u32 = 8;

/// Running workers that compete for a few locks.
#[derive(Debug)]
pub struct Workload {
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    /// A worker reads this during its turn; a pause writes.
    pause: Arc<RwLock<()>>,
    resources: Arc<Resources>,
    workers: JoinSet<()>,
    locks: usize,
}

/// A pause of all workers, which ends when this value is dropped.
#[derive(Debug)]
#[must_use = "the pause ends when this is dropped"]
pub struct Pause {
    _turns: OwnedRwLockWriteGuard<()>,
}

impl Workload {
    /// Starts `per_client` workers on each of the clients. All workers compete for the same `locks` locks.
    /// A turn holds its lock for up to `hold`. On every second lock, the turns have random modes, as far as
    /// the backend offers them.
    #[must_use]
    pub fn start(
        recorder: &Recorder,
        clients: &[Client],
        per_client: usize,
        locks: usize,
        hold: Duration,
    ) -> Self {
        let resources = Resources {
            checks_tokens: true,
            ..Resources::default()
        };
        Self::start_on(resources, recorder, clients, per_client, locks, hold)
    }

    /// As [`start`](Self::start), but with resources that accept every write, whatever its token. This is
    /// the control experiment: with [careless](Self::careless_turn) holders, writes must be lost.
    #[must_use]
    pub fn start_without_tokens(
        recorder: &Recorder,
        clients: &[Client],
        per_client: usize,
        locks: usize,
        hold: Duration,
    ) -> Self {
        let resources = Resources::default();
        Self::start_on(resources, recorder, clients, per_client, locks, hold)
    }

    fn start_on(
        resources: Resources,
        recorder: &Recorder,
        clients: &[Client],
        per_client: usize,
        locks: usize,
        hold: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Arc::new(RwLock::new(()));
        let resources = Arc::new(resources);
        let mut workers = JoinSet::new();
        for client in clients {
            for _ in 0..per_client {
                let worker = Worker {
                    number: u32::try_from(workers.len()).unwrap_or(u32::MAX),
                    client: client.clone(),
                    recorder: recorder.clone(),
                    resources: Arc::clone(&resources),
                    hold,
                };
                let (stop, pause) = (Arc::clone(&stop), Arc::clone(&pause));
                workers.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let _turn = pause.read().await;
                        let number = pick(locks);
                        let mode = worker.pick_mode(number % 2 == 1);
                        worker.turn(&format!("stress-{number}"), mode).await;
                    }
                });
            }
        }
        Self {
            recorder: recorder.clone(),
            stop,
            pause,
            resources,
            workers,
            locks,
        }
    }

    /// Waits until every worker has ended its turn. No worker begins a further turn until the returned value
    /// is dropped, which must happen before [`finish`](Self::finish).
    ///
    /// # Cancel safety
    ///
    /// Cancelling lets the workers continue.
    pub async fn pause(&self) -> Pause {
        let _turns = Arc::clone(&self.pause).write_owned().await;
        Pause { _turns }
    }

    /// Runs one turn of a holder that reads under the lock, is disconnected for longer than its lease, and
    /// then writes without checking the guard. Waits until another worker has written meanwhile; returns
    /// whether this happened within `timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves the last fault of the line set.
    pub async fn careless_turn(&self, client: &Client, line: &dyn Line, timeout: Duration) -> bool {
        let worker = Worker {
            number: u32::MAX,
            client: client.clone(),
            recorder: self.recorder.clone(),
            resources: Arc::clone(&self.resources),
            hold: Duration::ZERO,
        };
        let lock = format!("stress-{}", pick(self.locks));
        worker.careless(&lock, line, timeout).await
    }

    /// Waits until every worker has ended its turn, and returns the history.
    ///
    /// # Errors
    ///
    /// Returns [`TooLittleActivity`] if there were fewer than `turns` grants or fewer than `waited` contended
    /// grants, or if a lock was never granted.
    pub async fn finish(self, turns: usize, waited: usize) -> Result<History, TooLittleActivity> {
        self.finish_with(&Activity::none().grants(turns, waited))
            .await
    }

    /// As [`finish`](Self::finish), with another minimum.
    ///
    /// # Errors
    ///
    /// Returns [`TooLittleActivity`] if there was less, or if a lock was never granted.
    pub async fn finish_with(mut self, least: &Activity) -> Result<History, TooLittleActivity> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                return Err(TooLittleActivity::new(format!("a worker failed: {error}")));
            }
        }
        let history = self.recorder.history();
        let mut granted: BTreeSet<&str> = BTreeSet::new();
        granted.extend(history.grants.iter().map(|grant| grant.lock.as_str()));
        if granted.len() < self.locks {
            return Err(TooLittleActivity::new(format!(
                "too little activity to prove anything: {1} of {0} locks were granted",
                self.locks,
                granted.len(),
            )));
        }
        Activity::of(&history).at_least(least)?;
        Ok(history)
    }
}

fn pick(below: usize) -> usize {
    let mut bytes = [0; 8];
    // Without random numbers the client cannot create attempts either.
    let _ = getrandom::fill(&mut bytes);
    let random = usize::try_from(u64::from_ne_bytes(bytes) >> 1).unwrap_or(0);
    random % below.max(1)
}

fn up_to(span: Duration) -> Duration {
    span.mul_f64(pick(1_000) as f64 / 1_000.0)
}

/// The protected resources: a number for each lock, and the highest presented floor.
#[derive(Debug, Default)]
struct Resources {
    checks_tokens: bool,
    all: Mutex<BTreeMap<String, Resource>>,
}

#[derive(Debug, Default)]
struct Resource {
    number: u64,
    highest: u64,
    writes: u64,
}

impl Resources {
    /// Reads the number. A resource that checks tokens records the floor of the reader: otherwise a previous
    /// holder could write between this read and the write that depends on it.
    fn read(&self, lock: &str, floor: u64) -> u64 {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = all.entry(lock.to_owned()).or_default();
        resource.highest = resource.highest.max(floor);
        resource.number
    }

    /// Reads the number without a token.
    fn value(&self, lock: &str) -> u64 {
        self.read(lock, 0)
    }

    /// Writes the number after `read`, unless a higher token was presented.
    fn write(&self, lock: &str, token: u64, read: u64) -> (u64, bool) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = all.entry(lock.to_owned()).or_default();
        resource.writes += 1;
        let accepted = token >= resource.highest || !self.checks_tokens;
        if accepted {
            resource.highest = resource.highest.max(token);
            resource.number = read + 1;
        }
        (resource.writes, accepted)
    }
}

struct Worker {
    number: u32,
    client: Client,
    recorder: Recorder,
    resources: Arc<Resources>,
    hold: Duration,
}

impl Worker {
    /// Returns the mode of a turn: exclusive, or, on a lock of several modes, a random one.
    fn pick_mode(&self, mixed: bool) -> Mode {
        let modes = self.client.capabilities().modes;
        match pick(5) {
            0 | 1 if mixed && modes.shared => Mode::Shared,
            2 | 3 if mixed && modes.permits => Mode::Permits {
                take: u32::try_from(pick(PERMITS as usize)).unwrap_or(0) + 1,
                of: PERMITS,
            },
            _ => Mode::Exclusive,
        }
    }

    async fn turn(&self, lock: &str, mode: Mode) {
        let Ok(handle) = self.client.lock(lock) else {
            return;
        };
        let handle = handle.mode(mode);
        let asked = self.recorder.now();
        let cut = (pick(TURNS_PER_CANCELLATION as usize) == 0).then(|| up_to(self.hold * 2));
        let answer = tokio::select! {
            answer = handle.acquire_within(ACQUIRE_TIMEOUT) => Some(answer),
            () = sleep(cut.unwrap_or(ACQUIRE_TIMEOUT * 10)) => None,
        };
        let ended = self.recorder.now();
        let (token, error, guard) = match answer {
            None => (None, Some("cancelled".to_owned()), None),
            Some(Ok(Acquisition::Acquired(guard))) => {
                (Some(guard.token().get()), None, Some(guard))
            }
            Some(Ok(_)) => (None, Some("busy until the time limit".to_owned()), None),
            Some(Err(error)) => (None, Some(error.to_string()), None),
        };
        let failed = guard.is_none() && cut.is_none();
        self.recorder.waited(Wait {
            lock: lock.to_owned(),
            worker: self.number,
            asked,
            ended,
            token,
            error,
        });
        if let Some(guard) = guard {
            self.tenancy(lock, guard).await;
        } else if failed {
            sleep(self.hold).await;
        }
    }

    async fn tenancy(&self, lock: &str, guard: Guard) {
        let (token, floor, mode) = (guard.token().get(), guard.floor().get(), guard.mode());
        let mut shared_from = None;
        let record = |held: (u64, u64), shared_from, ending| Tenancy {
            lock: lock.to_owned(),
            worker: self.number,
            token,
            mode,
            shared_from,
            held_from: held.0,
            held_until: held.1,
            ending,
        };
        if guard.check().is_err() {
            // The guard was lost before the first check: a grant that was never observed as held.
            let now = self.recorder.now();
            let ending = self.lost(&guard).await;
            self.recorder.granted(record((now, now), None, ending));
            return;
        }
        let held_from = self.recorder.now();
        let until = held_from + u64::try_from(up_to(self.hold).as_micros()).unwrap_or(0);
        let read = self.resources.read(lock, floor);
        let mut held_until = held_from;
        let mut guard = guard;
        loop {
            let before = self.recorder.now();
            if guard.check().is_err() {
                let ending = self.lost(&guard).await;
                self.recorder
                    .granted(record((held_from, held_until), shared_from, ending));
                return;
            }
            held_until = before;
            if before >= until {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        if mode.is_exclusive() {
            self.write(lock, token, read);
            if self.client.capabilities().modes.shared && pick(3) == 0 {
                let sent = self.recorder.now();
                shared_from = Some(sent);
                let Ok(reading) = guard.downgrade().await else {
                    // The guard is gone, and with it the lock.
                    let ending = Ending::Released {
                        asked: sent,
                        held: None,
                    };
                    let grant = record((held_from, held_until), shared_from, ending);
                    return self.recorder.granted(grant);
                };
                guard = reading;
                let before = self.recorder.now();
                if guard.check().is_ok() {
                    held_until = before;
                }
            }
        }
        let asked = self.recorder.now();
        let held = match guard.release().await {
            Release::Released => Some(true),
            Release::NotHeld(_) => Some(false),
            _ => None,
        };
        let ending = Ending::Released { asked, held };
        self.recorder
            .granted(record((held_from, held_until), shared_from, ending));
    }

    /// Writes the number after `read`, and records the write.
    fn write(&self, lock: &str, token: u64, read: u64) {
        let (at, accepted) = self.resources.write(lock, token, read);
        self.recorder.wrote(Write {
            lock: lock.to_owned(),
            worker: self.number,
            token,
            read,
            at,
            accepted,
        });
    }

    async fn careless(&self, lock: &str, line: &dyn Line, timeout: Duration) -> bool {
        let Ok(handle) = self.client.lock(lock) else {
            return false;
        };
        let Ok(Acquisition::Acquired(guard)) = handle.acquire_within(ACQUIRE_TIMEOUT).await else {
            return false;
        };
        let token = guard.token().get();
        let read = self.resources.read(lock, token);
        let mut fault = self.recorder.fault("black hole for a careless holder");
        line.set(NetworkFault::BlackHole);
        guard.lost().await;
        let until = self.recorder.now() + u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        while self.resources.value(lock) == read && self.recorder.now() < until {
            sleep(POLL_INTERVAL).await;
        }
        let overtaken = self.resources.value(lock) != read;
        self.write(lock, token, read);
        fault.took_effect();
        line.set(NetworkFault::None);
        overtaken
    }

    /// Records the loss of a guard, and which of its operations still succeed.
    async fn lost(&self, guard: &Guard) -> Ending {
        let due = self.recorder.at(guard.valid_until());
        let reason = guard.lost().await;
        let told = self.recorder.now();
        let mut afterwards = Vec::new();
        if guard.check().is_ok() {
            afterwards.push("check()".to_owned());
        }
        if guard.renew().await.is_ok() {
            afterwards.push("renew()".to_owned());
        }
        if matches!(guard.release().await, Release::Released) {
            afterwards.push("release()".to_owned());
        }
        Ending::Lost {
            told,
            due,
            reason: reason.as_str().to_owned(),
            afterwards,
        }
    }
}
