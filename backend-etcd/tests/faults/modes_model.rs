//! The driver and the queue machine of the core on the same random events: the same attempts hold the
//! lock after each of them. No waiter reports, so each grant is announced by a watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure_core::{
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    id::{AttemptId, ClientId},
    mode::Mode,
    queue::{ClockId, Event, Now, Queue, Stamp},
    request::{Downgrade, Downgraded, Enqueue, Enqueued, Grant, Owner, Remove, Removed},
    token::FencingToken,
};
use tenure_etcd::Options;
use tenure_test_servers::etcd::Server;

use crate::common::{WAIT_LIMIT, name, seconds, store, wait_until};

const TTL: Duration = seconds(90);

/// The grants that the drivers have announced; `None` for an attempt that was removed.
#[derive(Default)]
struct Grants(Mutex<BTreeMap<AttemptId, Option<Grant>>>);

impl Grants {
    fn add(&self, grant: Grant) {
        let mut grants = self.0.lock().unwrap();
        grants.entry(grant.attempt).or_insert(Some(grant));
    }

    /// Ends a grant. Its announcement may still arrive.
    fn end(&self, attempt: AttemptId) {
        self.0.lock().unwrap().insert(attempt, None);
    }

    fn get(&self, attempt: AttemptId) -> Option<Grant> {
        self.0.lock().unwrap().get(&attempt)?.clone()
    }

    fn holders(&self) -> BTreeSet<AttemptId> {
        let grants = self.0.lock().unwrap();
        let held = grants.iter().filter(|(_, grant)| grant.is_some());
        held.map(|(attempt, _)| *attempt).collect()
    }
}

impl EventHandler for Grants {
    fn handle(&self, event: BackendEvent) {
        match event {
            BackendEvent::Granted(grant) => self.add(grant),
            BackendEvent::Lost { attempt, reason } => panic!("{attempt} is lost: {reason}"),
            _ => {}
        }
    }
}

/// A driver, the core's queue, and the attempts that hold the lock as far as the driver's client knows.
struct Run {
    drivers: Vec<Arc<dyn Backend>>,
    grants: Arc<Grants>,
    queue: Queue,
    now: Now,
    tokens: BTreeMap<AttemptId, FencingToken>,
    owners: BTreeMap<AttemptId, usize>,
}

/// Repeatable random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

impl Run {
    async fn new(server: &Server, clients: usize) -> Self {
        let grants = Arc::new(Grants::default());
        let handler: Arc<dyn EventHandler> = Arc::<Grants>::clone(&grants);
        let mut drivers = Vec::new();
        for _ in 0..clients {
            let sink = EventSink::new(Arc::downgrade(&handler));
            let context = Context::new(ClientId::random().unwrap(), sink, Arc::new(SystemClock));
            let store = store(&server.url(), Options::default());
            drivers.push(store.connect(context).await.unwrap());
        }
        Self {
            drivers,
            grants,
            queue: Queue::new(),
            now: Now::new(Stamp::new(ClockId::new(1), seconds(1)), 1, 1),
            tokens: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    fn driver(&self, attempt: AttemptId) -> &dyn Backend {
        &*self.drivers[self.owners[&attempt]]
    }

    async fn enqueue(&mut self, attempt: AttemptId, client: usize, mode: Mode) {
        self.owners.insert(attempt, client);
        let request = Enqueue::new(name("a"), attempt, Owner::default(), TTL, true);
        let answer = self.driver(attempt).enqueue(request.with_mode(mode)).await;
        match answer.unwrap() {
            Enqueued::Granted(grant) => self.grants.add(grant),
            Enqueued::Waiting(_) => {}
            other => panic!("{other:?}"),
        }
        self.queue.on(
            Event::Enqueue {
                attempt,
                client: ClientId::from_u128(1),
                owner: Owner::default(),
                ttl: TTL,
                wait: true,
                mode,
            },
            &self.now,
        );
    }

    async fn remove(&mut self, attempt: AttemptId) {
        let request = Remove::new(name("a"), attempt, TTL, true);
        let removed = self.driver(attempt).remove(request).await.unwrap();
        let is_holder = self.queue.entry(attempt).unwrap().grant.is_some();
        match removed {
            Removed::AsHolder => assert!(is_holder),
            // A holder that was not told yet.
            Removed::AsWaiter => assert!(!is_holder || self.grants.get(attempt).is_none()),
            other => panic!("{attempt}: {other:?}"),
        }
        self.queue.on(
            Event::Remove {
                attempt,
                fence: None,
            },
            &self.now,
        );
        self.grants.end(attempt);
    }

    async fn downgrade(&mut self) {
        let holder = self.queue.holder().unwrap();
        let (attempt, grant) = (holder.attempt, holder.grant.unwrap());
        if matches!(holder.mode, Mode::Permits { .. }) {
            return;
        }
        let Some(Grant { token, .. }) = self.grants.get(attempt) else {
            // It was not told yet.
            return;
        };
        let request = Downgrade::new(name("a"), attempt, TTL, token);
        let answer = self.driver(attempt).downgrade(request).await.unwrap();
        assert_eq!(answer, Downgraded::Shared);
        let token = grant.token;
        self.queue
            .on(Event::Downgrade { attempt, token }, &self.now);
    }

    /// Waits until each holder was told, and checks what else the store shows.
    async fn compare(&mut self, step: &str) {
        let expected: BTreeSet<_> = self.queue.holders().map(|entry| entry.attempt).collect();
        let told = || self.grants.holders().is_superset(&expected);
        wait_until(step, WAIT_LIMIT, told).await;
        assert_eq!(self.grants.holders(), expected, "M1, M2: {step}");
        let state = self.drivers[0].inspect(&name("a")).await.unwrap();
        let shown: Vec<_> = state.holders().map(|one| (one.attempt, one.mode)).collect();
        let holders = self.queue.holders();
        let holders: Vec<_> = holders.map(|one| (Some(one.attempt), one.mode)).collect();
        assert_eq!(shown, holders, "I1: {step}");
        let waiting: Vec<_> = state
            .queue
            .iter()
            .map(|one| (one.attempt, one.mode))
            .collect();
        let waiters = self.queue.entries().filter(|one| one.grant.is_none());
        let waiters: Vec<_> = waiters.map(|one| (Some(one.attempt), one.mode)).collect();
        assert_eq!(waiting, waiters, "I1: {step}");
        let grants: Vec<_> = self
            .queue
            .holders()
            .filter_map(|one| self.grants.get(one.attempt))
            .collect();
        let tokens: Vec<_> = grants.iter().map(|grant| grant.token).collect();
        assert!(
            tokens.windows(2).all(|pair| pair[0] < pair[1]),
            "M3: {step}: {tokens:?}"
        );
        for grant in &grants {
            let known = *self.tokens.entry(grant.attempt).or_insert(grant.token);
            assert_eq!(grant.token, known, "M4: {step}");
            // The first holder may have left since the grant.
            assert!(grant.floor <= tokens[0], "M3: {step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_m2_holders_agree_with_the_queue_machine() {
    let server = Server::builder().start().unwrap();
    let permits = |take, of| Mode::permits(take, of).unwrap();
    let modes = [
        Mode::Exclusive,
        Mode::Shared,
        Mode::Shared,
        permits(1, 3),
        permits(1, 3),
        permits(2, 3),
        permits(3, 3),
        permits(1, 2),
    ];
    let mut attempt = 0;
    for seed in 1..=10_u64 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut run = Run::new(&server, 3).await;
        for step in 0..60 {
            let attempts: Vec<_> = run.queue.entries().map(|entry| entry.attempt).collect();
            let event = match (random.below(5), attempts.len()) {
                (0 | 1, 1..) | (_, 10..) => {
                    run.remove(attempts[random.below(attempts.len())]).await;
                    "a removal"
                }
                (2, 1..) => {
                    run.downgrade().await;
                    "a downgrade"
                }
                _ => {
                    attempt += 1;
                    let mode = modes[random.below(modes.len())];
                    let client = random.below(3);
                    run.enqueue(AttemptId::from_u128(attempt), client, mode)
                        .await;
                    "an enqueue"
                }
            };
            // Several events at once meet reads and watches that are in flight.
            if seed % 2 == 0 || random.below(4) == 0 || step == 59 {
                let step = format!("after {event}, seed {seed}, step {step}");
                run.compare(&step).await;
            }
        }
        while let Some(entry) = run.queue.entries().last() {
            let last = entry.attempt;
            run.remove(last).await;
        }
    }
}
