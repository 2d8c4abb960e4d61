//! A long run with connection faults: its workers, its faults, and its minimum activity.

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

use crate::{faulted_run::random_below, verdict::judge};

const LOCKS: usize = 24;
const WORKERS: usize = 6;
const MAX_HOLD: Duration = Duration::from_millis(8);
/// The tolerance for reports of losses and for grants on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// The duration of a period with faults. A period without faults follows.
const FAULT_PERIOD: Duration = Duration::from_secs(45);
/// The minimum activity in ten minutes.
const MIN_OPERATIONS: usize = 100_000;
const MIN_FAULTS: usize = 1_000;
const FULL_LENGTH: Duration = Duration::from_secs(600);

pub(crate) struct Soak {
    what: &'static str,
    ttl: Duration,
    recorder: Recorder,
}

impl Soak {
    pub(crate) fn new(what: &'static str, ttl: Duration) -> Self {
        Self {
            what,
            ttl,
            recorder: Recorder::new(),
        }
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Runs the workers. `inject` injects one further fault with each call; it runs on its own thread.
    pub(crate) async fn run(self, ways: Vec<Faulty>, inject: impl Fn() + Send + Sync + 'static) {
        let length = std::env::var("SOAK_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(FULL_LENGTH, Duration::from_secs);
        let mut clients = Vec::new();
        for way in &ways {
            let client = Client::builder(way.connector()).ttl(self.ttl);
            let client = client.request_timeout(self.ttl / 4).connect().await;
            clients.push(client.unwrap());
        }
        let takeover = clients[0].capabilities().takeover.of(self.ttl, self.ttl);
        let workload = Workload::start(&self.recorder, &clients, WORKERS, LOCKS, MAX_HOLD);
        let begin = Instant::now();
        let ways: Vec<_> = ways.into_iter().map(Arc::new).collect();
        let inject = Arc::new(inject);
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
            let (done, inject) = (Arc::clone(&over), Arc::clone(&inject));
            let injecting = tokio::task::spawn_blocking(move || {
                while !done.load(Ordering::Relaxed) {
                    inject();
                    std::thread::sleep(Duration::from_secs(3));
                }
            });
            sleep(FAULT_PERIOD.min(length)).await;
            over.store(true, Ordering::Relaxed);
            breaking.join_all().await;
            injecting.await.unwrap();
            // Without faults, each waiter must be granted.
            sleep(takeover + SLACK).await;
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
        for client in clients {
            client.shutdown(Duration::from_secs(5)).await;
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
