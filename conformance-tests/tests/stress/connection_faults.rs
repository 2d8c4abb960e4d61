//! A long run with connection faults: its workers, its faults, its minimum activity, and its resources.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_conformance::{
    fault::{Fault, Faulty, Line},
    history::{Activity, Bounds, Recorder, Workload},
};
use tenure_core::Client;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    faulted_run::random_below,
    growth::{self, Figure, Samples},
    verdict::judge,
};

const LOCKS: usize = 24;
const WORKERS: usize = 6;
const MAX_HOLD: Duration = Duration::from_millis(8);
/// The tolerance for reports of losses and for grants on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// The minimum activity in ten minutes.
const MIN_OPERATIONS: usize = 100_000;
const MIN_FAULTS: usize = 1_000;
/// The usual length of a run.
pub(crate) const FULL_LENGTH: Duration = Duration::from_secs(600);
/// The time in which caches, pools and the allocator fill, at most half of the run.
const WARM_UP: Duration = Duration::from_secs(300);

/// The durations of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    pub(crate) whole: Duration,
    /// A period with faults. A period without faults follows.
    pub(crate) faults: Duration,
    /// The period without faults lasts as long as a takeover, and this time.
    pub(crate) calm: Duration,
}

pub(crate) struct Soak {
    what: &'static str,
    ttl: Duration,
    durations: Durations,
    pub(crate) recorder: Recorder,
}

impl Soak {
    pub(crate) fn new(what: &'static str, ttl: Duration, durations: Durations) -> Self {
        Self {
            what,
            ttl,
            durations,
            recorder: Recorder::new(),
        }
    }

    /// Runs the workers. `inject` injects one further fault with each call; `measure` returns the size of the
    /// store. Both run on threads of their own.
    pub(crate) async fn run(
        self,
        ways: Vec<Faulty>,
        inject: impl Fn() + Send + Sync + 'static,
        measure: impl Fn() -> Vec<Figure> + Send + Sync + 'static,
    ) {
        let length = self.durations.whole;
        let mut clients = Vec::new();
        for way in &ways {
            clients.push(connect(way, self.ttl).await);
        }
        let takeover = clients[0].capabilities().takeover.of(self.ttl, self.ttl);
        let workload = Workload::start(&self.recorder, &clients, WORKERS, LOCKS, MAX_HOLD);
        let begin = Instant::now();
        let ways: Vec<_> = ways.into_iter().map(Arc::new).collect();
        let (inject, measure) = (Arc::new(inject), Arc::new(measure));
        let mut samples = Samples::default();
        while begin.elapsed() < length {
            let over = Arc::new(AtomicBool::new(false));
            let mut breaking = JoinSet::new();
            for way in &ways {
                let breaks = inject_faults(
                    Arc::clone(way),
                    self.recorder.clone(),
                    self.ttl,
                    Arc::clone(&over),
                );
                breaking.spawn(breaks);
            }
            let pause = self.durations.faults / 15;
            let (done, inject) = (Arc::clone(&over), Arc::clone(&inject));
            let injecting = tokio::task::spawn_blocking(move || {
                while !done.load(Ordering::Relaxed) {
                    inject();
                    std::thread::sleep(pause);
                }
            });
            sleep(self.durations.faults).await;
            over.store(true, Ordering::Relaxed);
            breaking.join_all().await;
            injecting.await.unwrap();
            // Without faults, each waiter must be granted.
            sleep(takeover + self.durations.calm).await;
            // Between their turns the workers use nothing; what faults have left in the store ends by itself.
            let pause = workload.pause().await;
            sleep(takeover).await;
            let measure = Arc::clone(&measure);
            let of_store = tokio::task::spawn_blocking(move || measure());
            let of_store = of_store.await.unwrap();
            let mut figures = growth::of_process(self.recorder.allocated());
            figures.extend(of_store);
            samples.add(self.what, begin.elapsed(), figures);
            drop(pause);
        }
        // A shorter run has a proportional minimum.
        let share = |whole: usize| {
            let part = length.as_secs_f64() / FULL_LENGTH.as_secs_f64();
            (whole as f64 * part.min(1.0)) as usize
        };
        let operations = share(MIN_OPERATIONS);
        let least = Activity::none()
            .operations(operations)
            .grants(operations / 4, operations / 50)
            .faults(share(MIN_FAULTS), share(MIN_FAULTS) * 3 / 4);
        let history = workload.finish_with(&least).await;
        let history = history.unwrap_or_else(|quiet| panic!("{}: {quiet}", self.what));
        judge(
            &format!("soak-{}", self.what),
            history,
            Bounds::new(takeover, SLACK),
        );
        samples.judge(self.what, WARM_UP.min(length / 2));
        for client in clients {
            client.shutdown(Duration::from_secs(5)).await;
        }
    }
}

/// Connects a client whose request time-out is so short that a store which has just started may exceed it.
async fn connect(way: &Faulty, ttl: Duration) -> Client {
    let begin = Instant::now();
    loop {
        let client = Client::builder(way.connector()).ttl(ttl);
        match client.request_timeout(ttl / 4).connect().await {
            Ok(client) => return client,
            Err(error) => assert!(begin.elapsed() < CONNECT_TIMEOUT, "{error}"),
        }
    }
}

/// Injects one fault after another.
async fn inject_faults(way: Arc<Faulty>, recorder: Recorder, ttl: Duration, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let short = Duration::from_millis(100 + random_below(300) as u64);
        let (fault, lasts) = match random_below(16) {
            0..4 => (Fault::LoseReplies, short),
            4..6 => (Fault::Refuse, short),
            6..8 => (Fault::BlackHole, short),
            8..10 => (Fault::HoldReplies, short),
            10..12 => (Fault::HoldRequests, short),
            12..14 => (Fault::Delay(short / 4), short * 2),
            14 => (Fault::None, Duration::ZERO),
            _ => (Fault::BlackHole, ttl + short * 2),
        };
        inject(way.line(), &recorder, fault, lasts).await;
        sleep(Duration::from_millis(100 + random_below(400) as u64)).await;
    }
}

async fn inject(line: &dyn Line, recorder: &Recorder, fault: Fault, lasts: Duration) {
    let before = line.effects();
    let mut fault_record = recorder.fault(match fault {
        Fault::None => "all connections reset".to_owned(),
        fault => format!("{fault:?} for {lasts:?}"),
    });
    if fault == Fault::None {
        line.reset();
        // The tasks of the connections reset them.
        sleep(Duration::from_millis(20)).await;
    } else {
        line.set(fault);
        sleep(lasts).await;
        line.set(Fault::None);
    }
    if line.effects() > before {
        fault_record.took_effect();
    }
    fault_record.end();
}
