//! The driver of the simulated store, and the network. The seed decides the fault of every message.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    mode::Modes,
    name::LockName,
    queue::{Answer, Event, Notice, NoticeKind},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, Grant, List, LockState, Page, Remove,
        Removed, Renewal, Renewed, StoreTime, Waiting,
    },
    token::FencingToken,
};
use tokio::sync::oneshot;

use crate::{
    plan::{Wake, ns},
    store::{Flaw, Taken},
    world::{State, World},
};

/// Connects one process.
pub(crate) struct SimConnect {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

impl fmt::Debug for SimConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimConnect({})", self.process)
    }
}

struct SimBackend {
    world: Arc<World>,
    process: usize,
    context: Context,
}

impl fmt::Debug for SimBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimBackend({})", self.process)
    }
}

fn info() -> BackendInfo {
    BackendInfo::new("simulated", "simulated:")
}

/// The name of the lock of that number, and back.
pub(crate) fn lock_name(lock: usize) -> LockName {
    LockName::new(lock.to_string()).expect("a name")
}

fn lock_number(name: &LockName) -> usize {
    name.as_str().parse().expect("a number")
}

/// The capabilities that the store declares and the oracle checks.
pub(crate) const TAKEOVER: TakeoverBound = TakeoverBound::new(100, 50, Duration::from_millis(500));

#[async_trait]
impl Connect for SimConnect {
    fn info(&self) -> BackendInfo {
        info()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let mut state = self.world.state();
        let place = (self.process, context.events.clone());
        state.store.clients.insert(context.client, place);
        drop(state);
        Ok(Arc::new(SimBackend {
            world: Arc::clone(&self.world),
            process: self.process,
            context,
        }))
    }
}

/// Which of the two ways.
#[derive(Clone, Copy)]
enum Way {
    There,
    Back,
}

impl State {
    /// The delay of each copy of a message; empty if it is lost.
    fn fates(&mut self, process: usize, way: Way, may_repeat: bool) -> Vec<u64> {
        let quick = self.rng.u64(100_000..6_000_000);
        let draws = [0; 3].map(|_: u64| self.rng.u64(..1000));
        let slow = self.rng.u64(..=self.plan.slowest() - 6_000_000);
        let again = self.rng.u64(..=self.plan.slowest() / 2);
        if !self.is_faulty() {
            return vec![quick];
        }
        let cut = self.processes[process].cut_until[way as usize] > self.now;
        if draws[0] < self.plan.lost || cut || self.store.down_until > self.now {
            self.seen.insert(match way {
                Way::There => "a request was lost",
                Way::Back => "a reply or a push was lost",
            });
            return Vec::new();
        }
        let mut delays = vec![quick];
        if draws[1] < self.plan.slow {
            self.seen.insert("a message was slow");
            delays[0] += slow;
        }
        if may_repeat && draws[2] < self.plan.twice {
            delays.push(quick + again);
        }
        delays
    }

    /// Whether a message from before the given number of restarts still has a connection.
    fn is_connected(&self, restarts: u64) -> bool {
        self.store.restarts == restarts && self.store.down_until <= self.now
    }
}

type Answers<R> = Arc<Mutex<Option<oneshot::Sender<R>>>>;

impl SimBackend {
    fn now(&self) -> Instant {
        self.context.clock.now()
    }

    /// Sends one request and waits for its reply.
    async fn call<R: Clone + Send + 'static>(
        &self,
        operation: &'static str,
        may_repeat: bool,
        apply: impl Fn(&mut State) -> (R, Vec<Notice>, StoreTime) + Send + Sync + 'static,
    ) -> Result<R, Error> {
        let (answers, answer) = oneshot::channel();
        let answers: Answers<R> = Arc::new(Mutex::new(Some(answers)));
        let apply = Arc::new(apply);
        let process = self.process;
        {
            let mut state = self.world.state();
            let restarts = state.store.restarts;
            let delays = state.fates(process, Way::There, may_repeat);
            let copies = u64::try_from(delays.len()).unwrap_or(0);
            state.log(operation, [process as u64, copies, 0]);
            for (copy, delay) in delays.into_iter().enumerate() {
                let (apply, answers) = (Arc::clone(&apply), Arc::clone(&answers));
                let time = state.now + delay;
                state.at(
                    time,
                    Box::new(move |world| {
                        arrive(world, process, restarts, operation, copy, &*apply, &answers);
                    }),
                );
            }
        }
        drop(answers);
        if let Ok(answer) = answer.await {
            return Ok(answer);
        }
        let (hangs, later) = {
            let mut state = self.world.state();
            (state.plan.hangs, state.rng.u64(1_000_000..200_000_000))
        };
        if hangs {
            return std::future::pending().await;
        }
        let date = self.now() + Duration::from_nanos(later);
        self.context.clock.sleep_until(date).await;
        Err(Error::new(ErrorKind::OutcomeUnknown, operation).with_detail("the connection broke"))
    }
}

/// Handles a copy of a request that arrives at the store.
fn arrive<R: Clone + Send + 'static>(
    world: &Arc<World>,
    process: usize,
    restarts: u64,
    operation: &'static str,
    copy: usize,
    apply: &(impl Fn(&mut State) -> (R, Vec<Notice>, StoreTime) + Send + Sync),
    answers: &Answers<R>,
) {
    let mut state = world.state();
    if !state.is_connected(restarts) {
        state.seen.insert("a restart cut off a request");
        return;
    }
    if copy > 0 {
        state.seen.insert("a request came twice");
    }
    let (answer, notices, as_of) = apply(&mut state);
    let mut pushes = Vec::new();
    for notice in notices {
        let Some((to, sink)) = state.store.clients.get(&notice.client).cloned() else {
            continue;
        };
        let event = match (notice.kind, state.plan.wake) {
            (NoticeKind::Granted { token, floor, ttl }, Wake::Grant) => {
                let grant = Grant::pushed(notice.attempt, token, ttl, as_of);
                BackendEvent::Granted(grant.with_floor(floor))
            }
            (NoticeKind::Granted { .. }, Wake::Look) => BackendEvent::Recheck {
                attempt: notice.attempt,
            },
            (NoticeKind::Lost(reason), Wake::Grant | Wake::Look) => BackendEvent::Lost {
                attempt: notice.attempt,
                reason,
            },
            _ => continue,
        };
        for delay in state.fates(to, Way::Back, true) {
            pushes.push((to, sink.clone(), event.clone(), delay));
        }
    }
    let delays = state.fates(process, Way::Back, false);
    if delays.is_empty() {
        state.seen.insert(match operation {
            "acquiring" => "the answer to an enqueue was lost",
            "renewing" => "the answer to a renewal was lost",
            "downgrading" => "the answer to a downgrade was lost",
            _ => "the answer to a removal was lost",
        });
    }
    let now = state.now;
    drop(state);
    for (to, sink, event, delay) in pushes {
        world.within(
            to,
            now + delay,
            Box::new(move |world| {
                let mut state = world.state();
                if !state.is_connected(restarts) {
                    return;
                }
                if let BackendEvent::Granted(grant) = &event {
                    state.oracle.pushed(grant.attempt);
                }
                state.log("a push arrives", [to as u64, 0, 0]);
                let by_arrival = state.store.has(Flaw::PushFromArrival);
                let reading = state.reading(to);
                drop(state);
                let mut event = event;
                if let BackendEvent::Granted(grant) = &mut event
                    && by_arrival
                {
                    grant.proved_from = Some(Instant::from_origin(Duration::from_nanos(reading)));
                }
                sink.send(event);
            }),
        );
    }
    for delay in delays {
        let (answer, answers) = (answer.clone(), Arc::clone(answers));
        world.within(
            process,
            now + delay,
            Box::new(move |world| {
                let mut state = world.state();
                if !state.is_connected(restarts) {
                    return;
                }
                state.log("a reply arrives", [process as u64, 0, 0]);
                drop(state);
                let waits = answers.lock().expect("no poison").take();
                if let Some(waits) = waits {
                    let _: Result<(), R> = waits.send(answer);
                }
            }),
        );
    }
}

/// The reply "still waiting".
fn waiting(
    state: &State,
    lock: usize,
    attempt: AttemptId,
    from: Instant,
    taken: &Taken,
) -> Waiting {
    let queue = &state.store.queues[lock];
    let now = state.store.now(state.now);
    let waiting = Waiting::new(from, taken.as_of)
        .with_holder(queue.holder_view(&now))
        .with_recheck(queue.recheck(attempt, &now));
    match taken.step.answer {
        Answer::Waiting { ahead } => waiting.with_ahead(ahead as u64),
        _ => waiting,
    }
}

#[async_trait]
impl Backend for SimBackend {
    fn info(&self) -> BackendInfo {
        info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let (wake, ttl) = {
            let state = self.world.state();
            (state.plan.wake, state.plan.ttl)
        };
        Ok(Capabilities::new(
            Durability::Local,
            match wake {
                Wake::Poll => WaitMode::Poll { every: ttl / 10 },
                _ => WaitMode::Push,
            },
            LossEvidence::new(Evidence::NextRenewal, Evidence::NextRenewal),
            TtlRange::new(
                Duration::from_millis(10),
                Duration::from_secs(3600),
                Duration::from_nanos(1),
                TtlScope::Lock,
            ),
            TAKEOVER,
        )
        .with_modes(Modes::ALL))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let from = self.now();
        let (client, process) = (self.context.client, self.process);
        let late = {
            let mut state = self.world.state();
            let (now, heal, label) = (state.now, state.plan.heal, &request.owner.label);
            state
                .oracle
                .names(request.attempt, process, request.mode, label, now, heal);
            state.store.has(Flaw::ProofFromReply)
        };
        let may_repeat = self.world.state().plan.resends;
        let Enqueue {
            name,
            attempt,
            owner,
            ttl,
            wait,
            mode,
            ..
        } = request;
        let answer = self
            .call("acquiring", may_repeat, move |state| {
                let lock = lock_number(&name);
                let event = Event::Enqueue {
                    attempt,
                    client,
                    owner: owner.clone(),
                    ttl,
                    wait,
                    mode,
                };
                let before = state.watch(lock);
                let taken = state.store.enqueue(lock, event, state.now);
                state.judge(lock, attempt, "enqueue", before, &taken.step, Some(from));
                let answer = match taken.step.answer {
                    Answer::Granted { token, floor } => {
                        let grant = Grant::proved(attempt, token, ttl, from);
                        Enqueued::Granted(grant.with_floor(floor))
                    }
                    Answer::Waiting { .. } => {
                        Enqueued::Waiting(waiting(state, lock, attempt, from, &taken))
                    }
                    Answer::Busy => {
                        let now = state.store.now(state.now);
                        let holder = state.store.queues[lock].holder_view(&now);
                        Enqueued::Busy(holder.unwrap_or_default())
                    }
                    _ => Enqueued::Gone,
                };
                (answer, taken.step.notices, taken.as_of)
            })
            .await?;
        if matches!(answer, Enqueued::Waiting(_)) {
            self.world.state().oracle.queued(attempt);
        }
        Ok(match answer {
            Enqueued::Granted(mut grant) if late => {
                grant.proved_from = Some(self.now());
                Enqueued::Granted(grant)
            }
            answer => answer,
        })
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        let from = self.now();
        let client = self.context.client;
        let count = entries.len();
        let renewed = self
            .call("renewing", true, move |state| {
                let mut answers = Vec::with_capacity(entries.len());
                let mut notices = Vec::new();
                let mut as_of = StoreTime::new(0);
                for entry in &entries {
                    let lock = lock_number(&entry.name);
                    let before = state.watch(lock);
                    let taken =
                        state
                            .store
                            .renew(lock, entry.attempt, state.now, entry.ttl, client);
                    state.judge(
                        lock,
                        entry.attempt,
                        "renew",
                        before,
                        &taken.step,
                        Some(from),
                    );
                    answers.push(match taken.step.answer {
                        Answer::Granted { token, floor } => {
                            let grant = Grant::proved(entry.attempt, token, entry.ttl, from);
                            Renewed::Granted(grant.with_floor(floor))
                        }
                        Answer::Waiting { .. } => {
                            Renewed::Waiting(waiting(state, lock, entry.attempt, from, &taken))
                        }
                        Answer::Gone(reason) => Renewed::Gone(reason),
                        _ => Renewed::Gone(LossReason::Evicted),
                    });
                    as_of = taken.as_of;
                    notices.extend(taken.step.notices);
                }
                (answers, notices, as_of)
            })
            .await;
        let renewed = match renewed {
            Ok(mut renewed) => {
                if self.world.state().store.has(Flaw::ProofFromReply) {
                    let now = self.now();
                    for answer in &mut renewed {
                        if let Renewed::Granted(grant) = answer {
                            grant.proved_from = Some(now);
                        }
                    }
                }
                renewed
            }
            Err(error) => vec![Renewed::Unknown(error); count],
        };
        for (index, answer) in renewed.into_iter().enumerate() {
            answers.send(index, answer);
        }
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        self.call("downgrading", true, move |state| {
            let lock = lock_number(&request.name);
            let (attempt, token) = (request.attempt, request.token);
            let before = state.watch(lock);
            let event = Event::Downgrade { attempt, token };
            let taken = state.store.downgrade(lock, event, state.now);
            state.judge(lock, attempt, "downgrade", before, &taken.step, None);
            let answer = match taken.step.answer {
                Answer::Granted { .. } => Downgraded::Shared,
                Answer::Gone(reason) => Downgraded::Gone(reason),
                _ => Downgraded::Gone(LossReason::Evicted),
            };
            (answer, taken.step.notices, taken.as_of)
        })
        .await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let resends = self.world.state().plan.resends;
        let fence = (resends || !request.outcome_known).then_some(request.ttl);
        self.call("releasing", true, move |state| {
            let lock = lock_number(&request.name);
            let attempt = request.attempt;
            let before = state.watch(lock);
            let event = Event::Remove { attempt, fence };
            let taken = state.store.take(lock, event, state.now);
            if let Some(ttl) = fence {
                let until = state.now + ns(ttl);
                state.oracle.fence(attempt, until);
            }
            state.judge(lock, attempt, "remove", before, &taken.step, None);
            let answer = match taken.step.answer {
                Answer::RemovedHolder => Removed::AsHolder,
                Answer::RemovedWaiter => Removed::AsWaiter,
                _ => Removed::Absent,
            };
            (answer, taken.step.notices, taken.as_of)
        })
        .await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let state = self.world.state();
        let now = state.store.now(state.now);
        Ok(state.store.queues[lock_number(name)].lock_state(name.clone(), &now))
    }

    async fn list(&self, _request: List) -> Result<Page, Error> {
        Ok(Page::default())
    }

    async fn evict(&self, _name: &LockName, _token: FencingToken) -> Result<Evicted, Error> {
        Err(Error::new(ErrorKind::Unsupported, "evicting"))
    }

    async fn close(&self) {
        let client = self.context.client;
        self.world.state().store.clients.remove(&client);
    }
}

/// Evicts a holder on the store.
pub(crate) fn evict(world: &Arc<World>, lock: usize) {
    let mut state = world.state();
    if state.store.down_until > state.now {
        return;
    }
    let holders = state.store.queues[lock].holders();
    let holders: Vec<_> = holders
        .filter_map(|entry| Some((entry.attempt, entry.grant?)))
        .collect();
    let Some((attempt, grant)) = state.rng.choice(holders) else {
        return;
    };
    state.seen.insert("an operator took a lock away");
    let number = state.oracle.number(attempt);
    state.oracle.evicted(number, grant.token.get());
    let restarts = state.store.restarts;
    state.log("evict", [lock as u64, number, grant.token.get()]);
    drop(state);
    let answers: Answers<()> = Arc::new(Mutex::new(None));
    let apply = move |state: &mut State| {
        let before = state.watch(lock);
        let event = Event::Evict { token: grant.token };
        let taken = state.store.take(lock, event, state.now);
        state.judge(lock, attempt, "evict", before, &taken.step, None);
        ((), taken.step.notices, taken.as_of)
    };
    arrive(world, 0, restarts, "evicting", 0, &apply, &answers);
}
