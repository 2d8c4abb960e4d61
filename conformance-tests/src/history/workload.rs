//! Who fights over the locks of a run: workers that acquire, write under the token, and give back.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{Acquisition, Client, Guard, Release};
use tokio::{task::JoinSet, time::sleep};

use super::{Ending, History, Recorder, Tenancy, Wait, Write};

/// How long one acquire waits at most.
const BUDGET: Duration = Duration::from_secs(20);
/// Between two looks at a guard.
const LOOK: Duration = Duration::from_millis(2);
/// Of so many turns one is cut short: the acquire is dropped at a random moment.
const CANCELLED: u32 = 8;

/// Workers on a few locks, until they are told to stop.
#[derive(Debug)]
pub struct Workload {
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    workers: JoinSet<()>,
    locks: usize,
}

/// Why a run proves nothing: too little happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quiet(String);

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Quiet {}

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
        let stop = Arc::new(AtomicBool::new(false));
        let resources = Arc::new(Resources::default());
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
            workers,
            locks,
        }
    }

    /// Lets every worker end its turn, and returns the history.
    ///
    /// # Errors
    ///
    /// [`Quiet`], if fewer than `turns` grants or `waited` waits that others made longer were
    /// seen, or a lock was never granted.
    pub async fn finish(mut self, turns: usize, waited: usize) -> Result<History, Quiet> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                return Err(Quiet(format!("a worker ended by itself: {error}")));
            }
        }
        let history = self.recorder.history();
        let mut granted: BTreeMap<&str, usize> = BTreeMap::new();
        for grant in &history.grants {
            *granted.entry(&grant.lock).or_default() += 1;
        }
        let contended = history
            .waits
            .iter()
            .filter(|wait| {
                let others = |grant: &&Tenancy| {
                    grant.lock == wait.lock
                        && grant.worker != wait.worker
                        && grant.held_from < wait.ended
                        && wait.asked < grant.held_until
                };
                wait.token.is_some() && history.grants.iter().any(|grant| others(&grant))
            })
            .count();
        if history.grants.len() < turns || granted.len() < self.locks || contended < waited {
            return Err(Quiet(format!(
                "too quiet to prove anything: {} grants of {} locks ({} contended); at least {turns} of {} ({waited}) are needed",
                history.grants.len(),
                granted.len(),
                contended,
                self.locks,
            )));
        }
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
struct Resources(Mutex<BTreeMap<String, Resource>>);

#[derive(Debug, Default)]
struct Resource {
    number: u64,
    highest: u64,
    writes: u64,
}

impl Resources {
    fn read(&self, lock: &str) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(lock.to_owned()).or_default().number
    }

    /// Writes the number after the one that was read, unless a higher token was seen.
    fn write(&self, lock: &str, token: u64, read: u64) -> (u64, bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = all.entry(lock.to_owned()).or_default();
        resource.writes += 1;
        let accepted = token >= resource.highest;
        if accepted {
            resource.highest = token;
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
        let cut = (pick(CANCELLED as usize) == 0).then(|| up_to(self.hold * 2));
        let answer = tokio::select! {
            answer = handle.acquire_within(BUDGET) => Some(answer),
            () = sleep(cut.unwrap_or(BUDGET * 10)) => None,
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
        let read = self.resources.read(lock);
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
            sleep(LOOK).await;
        }
        let (at, accepted) = self.resources.write(lock, token, read);
        self.recorder.wrote(Write {
            lock: lock.to_owned(),
            worker: self.number,
            token,
            read,
            at,
            accepted,
        });
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
