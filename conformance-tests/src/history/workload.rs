//! Who fights over the locks of a run: workers that acquire, write under the token, and give back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{Acquisition, Client, Guard, Release};
use tokio::{task::JoinSet, time::sleep};

use super::{Ending, History, Power, Quiet, Recorder, Tenancy, Wait, Write};
use crate::fault::{Fault as NetworkFault, Line};

/// How long one acquire waits at most.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at a guard.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Of so many turns one is cut short: the acquire is dropped at a random moment.
const TURNS_PER_CANCELLATION: u32 = 8;

/// Workers on a few locks, until they are told to stop.
#[derive(Debug)]
pub struct Workload {
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    resources: Arc<Resources>,
    workers: JoinSet<()>,
    locks: usize,
}

impl Workload {
    /// Starts `per_client` workers on each of the clients; all fight over the same `locks` locks.
    /// A turn holds its lock for up to `hold`.
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

    /// As [`start`](Self::start), but with resources that take every write, whatever its token: the
    /// control that shows what tokens are for. Once holders are
    /// [careless](Self::careless_turn), writes must be lost.
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
                let stop = Arc::clone(&stop);
                workers.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let lock = format!("stress-{}", pick(locks));
                        worker.turn(&lock).await;
                    }
                });
            }
        }
        Self {
            recorder: recorder.clone(),
            stop,
            resources,
            workers,
            locks,
        }
    }

    /// One turn of a holder that reads under the lock, is cut off for longer than its lease, and then
    /// writes without asking whether the lock is still held. Waits until somebody else has written
    /// meanwhile. Returns whether that came about within `timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves the line as it was set last.
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

    /// Lets every worker end its turn, and returns the history.
    ///
    /// # Errors
    ///
    /// [`Quiet`], if fewer than `turns` grants or `waited` waits that others made longer were
    /// seen, or a lock was never granted.
    pub async fn finish(self, turns: usize, waited: usize) -> Result<History, Quiet> {
        self.finish_with(&Power::none().grants(turns, waited)).await
    }

    /// As [`finish`](Self::finish), for a run in which so much must have happened.
    ///
    /// # Errors
    ///
    /// [`Quiet`], if less did, or a lock was never granted.
    pub async fn finish_with(mut self, least: &Power) -> Result<History, Quiet> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                return Err(Quiet::new(format!("a worker ended by itself: {error}")));
            }
        }
        let history = self.recorder.history();
        let mut granted: BTreeSet<&str> = BTreeSet::new();
        granted.extend(history.grants.iter().map(|grant| grant.lock.as_str()));
        if granted.len() < self.locks {
            return Err(Quiet::new(format!(
                "too quiet to prove anything: of {} locks {} were granted",
                self.locks,
                granted.len(),
            )));
        }
        Power::of(&history).at_least(least)?;
        Ok(history)
    }
}

fn pick(below: usize) -> usize {
    let mut bytes = [0; 8];
    // A process that cannot have random numbers cannot make attempts either.
    let _ = getrandom::fill(&mut bytes);
    let random = usize::try_from(u64::from_ne_bytes(bytes) >> 1).unwrap_or(0);
    random % below.max(1)
}

fn up_to(span: Duration) -> Duration {
    span.mul_f64(pick(1_000) as f64 / 1_000.0)
}

/// What the locks guard: a number each, and the highest token that was seen.
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
    /// The number that is there. A resource that checks tokens takes note of this one's: else one who
    /// was overtaken could still write between this look and the write that follows from it.
    fn read(&self, lock: &str, token: u64) -> u64 {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = all.entry(lock.to_owned()).or_default();
        resource.highest = resource.highest.max(token);
        resource.number
    }

    /// The number that is there, for one who only looks on.
    fn value(&self, lock: &str) -> u64 {
        self.read(lock, 0)
    }

    /// Writes the number after the one that was read, unless a higher token was seen.
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
    async fn turn(&self, lock: &str) {
        let Ok(handle) = self.client.lock(lock) else {
            return;
        };
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
            Some(Ok(_)) => (None, Some("busy until the end".to_owned()), None),
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
        let token = guard.token().get();
        let record = |held: (u64, u64), ending| Tenancy {
            lock: lock.to_owned(),
            worker: self.number,
            token,
            held_from: held.0,
            held_until: held.1,
            ending,
        };
        if guard.check().is_err() {
            // It was lost before anybody could look: a grant, but no time in which it was held.
            let now = self.recorder.now();
            let ending = self.lost(&guard).await;
            self.recorder.granted(record((now, now), ending));
            return;
        }
        let held_from = self.recorder.now();
        let until = held_from + u64::try_from(up_to(self.hold).as_micros()).unwrap_or(0);
        let read = self.resources.read(lock, token);
        let mut held_until = held_from;
        loop {
            let before = self.recorder.now();
            if guard.check().is_err() {
                let ending = self.lost(&guard).await;
                self.recorder
                    .granted(record((held_from, held_until), ending));
                return;
            }
            held_until = before;
            if before >= until {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        self.write(lock, token, read);
        let asked = self.recorder.now();
        let held = match guard.release().await {
            Release::Released => Some(true),
            Release::NotHeld(_) => Some(false),
            _ => None,
        };
        let ending = Ending::Released { asked, held };
        self.recorder
            .granted(record((held_from, held_until), ending));
    }

    /// Writes on the ground of what was read, and records it.
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
        let mut fault = self.recorder.fault("a careless holder in a black hole");
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

    /// The guard has said that it is lost.
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
