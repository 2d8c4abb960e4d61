//! Killed and stopped servers: the clauses during an outage of the store and afterwards.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, Guard, Lock, Release, capability::Durability, clock::Instant,
    lease::Phase, loss::LossReason,
};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle, JoinSet},
};

pub(crate) use super::{
    failover::{failover, partition},
    slow_network::slow_server_is_left,
};
use crate::{
    context::{CaseContext, release},
    outcome::{Failure, Need, Outcome, Stop, broken, ensure},
    servers::{DedicatedStore, ServerAction},
};

const LOCK: &str = "served";
/// The number of waiters. One waiter alone would not show that the queue continues.
const WAITERS: usize = 3;

/// The time limit for the first connection to restarted servers.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);

/// A holder and waiters on dedicated servers.
pub(super) struct Served {
    pub(super) context: Arc<CaseContext>,
    pub(super) store: DedicatedStore,
    pub(super) ttl: Duration,
    client: Client,
    pub(super) guard: Arc<Guard>,
    pub(super) waiting: JoinSet<Result<Turn, Stop>>,
    told: JoinHandle<Instant>,
}

/// The promises of the store for the time after an outage.
#[derive(Clone, Copy)]
pub(super) struct Promise {
    /// The number of first guards that may be held beside a later one, because the store may have forgotten
    /// their grants.
    pub(super) forgotten: usize,
    /// Whether tokens rise.
    pub(super) tokens_rise: bool,
    /// Whether the waiters keep their order.
    pub(super) in_order: bool,
}

impl Promise {
    /// The promise after servers were stopped or restarted; `forgotten` as above.
    const fn after_a_restart(forgotten: usize) -> Self {
        Self {
            forgotten,
            tokens_rise: true,
            in_order: false,
        }
    }
}

/// The grant of a waiter.
pub(super) struct Turn {
    guard: Arc<Guard>,
    /// The place of the waiter in the queue, counted from zero.
    place: usize,
    /// The other guards that were held at that time: 0 is the holder, and the waiters follow.
    beside: Option<usize>,
}

/// All guards so far, in the order of their grants.
type Guards = Arc<Mutex<Vec<Arc<Guard>>>>;

pub(crate) async fn stopped_past_the_ttl(context: Arc<CaseContext>) -> Outcome {
    outlasted(context, ServerAction::Pause, ServerAction::Resume).await
}

pub(crate) async fn killed_past_the_ttl(context: Arc<CaseContext>) -> Outcome {
    outlasted(context, ServerAction::Kill, ServerAction::Start).await
}

pub(crate) async fn killed_for_a_moment(context: Arc<CaseContext>) -> Outcome {
    let ttl = context.steady();
    let actions = [ServerAction::Kill, ServerAction::Start];
    let mut served = Served::new(context, ttl, Need::Servers, &actions).await?;
    let keeps = served.context.capabilities().durability >= Durability::Local;
    served.store.servers().apply(ServerAction::Kill).await?;
    served.fails_in_time().await?;
    served.store.servers().apply(ServerAction::Start).await?;
    // The guard gets a new proof or is lost.
    if served.is_renewed(&served.guard).await? {
        still_waits(served.waiting.try_join_next())?;
        release(&served.guard).await?;
    } else {
        served.is_told(keeps).await?;
    }
    let forgotten = usize::from(!keeps);
    served.goes_on(Promise::after_a_restart(forgotten)).await
}

/// Applies an outage that is longer than the TTL.
async fn outlasted(context: Arc<CaseContext>, end: ServerAction, again: ServerAction) -> Outcome {
    let ttl = context.steady();
    let mut served = Served::new(context, ttl, Need::Servers, &[end, again]).await?;
    let until = served.context.now() + ttl * 2;
    served.store.servers().apply(end).await?;
    served.fails_in_time().await?;
    served.is_told(true).await?;
    served.context.sleep_until(until).await;
    still_waits(served.waiting.try_join_next())?;
    served.store.servers().apply(again).await?;
    ensure!(
        matches!(served.guard.phase(), Phase::Lost(_)),
        "L4",
        "once the servers are back, a lost guard is {:?}",
        served.guard.phase()
    );
    // The previous grants ended before the store could make new ones.
    served.goes_on(Promise::after_a_restart(0)).await
}

impl Served {
    /// Starts servers that support the actions. Otherwise the case does not apply, for lack of `need`.
    pub(super) async fn new(
        context: Arc<CaseContext>,
        ttl: Duration,
        need: Need,
        actions: &[ServerAction],
    ) -> Result<Self, Stop> {
        let store = context.env().dedicated_store().await?;
        let supported = |store: &DedicatedStore| {
            let servers = store.servers();
            actions.iter().all(|action| servers.supports(*action))
        };
        let store = store.filter(supported).ok_or(Stop::Ignored(need))?;
        let limit = context.over_limit();
        // The first request to restarted servers may take longer.
        let connect = || {
            let connector = store.connector();
            context.client_on(connector, |b| b.ttl(ttl).request_timeout(limit))
        };
        let client = async || {
            let made = context.eventually(RESTART_TIMEOUT, || async { Ok(connect().await.ok()) });
            match made.await? {
                Some(client) => Ok(client),
                // The reason of the failure.
                None => connect().await,
            }
        };
        let (client, other) = (client().await?, client().await?);
        let guard = Arc::new(client.lock(LOCK)?.acquire().await?);
        let guards: Guards = Arc::new(Mutex::new(vec![Arc::clone(&guard)]));
        let mut waiting = JoinSet::new();
        for place in 0..WAITERS {
            // The store may show the entry before the client has the reply, and an acquire without a first
            // reply fails.
            let (tell, queued) = oneshot::channel();
            let guards = Arc::clone(&guards);
            waiting.spawn(take_turn(other.lock(LOCK)?, place, tell, guards));
            match tokio::time::timeout(context.slack(), queued).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => still_waits(waiting.join_next().await)?,
                Err(_) => broken!("A1", "the waiter is not in the queue in time"),
            }
        }
        let told = {
            let (context, guard) = (Arc::clone(&context), Arc::clone(&guard));
            tokio::spawn(async move {
                guard.lost().await;
                context.now()
            })
        };
        Ok(Self {
            context,
            store,
            ttl,
            client,
            guard,
            waiting,
            told,
        })
    }

    /// Checks that a request without servers fails in time, and reports the lock neither as held nor as busy.
    async fn fails_in_time(&self) -> Outcome {
        let begin = self.context.now();
        match self.client.lock("other")?.try_acquire().await {
            Err(error) => ensure!(
                error.is_retryable(),
                "A3",
                "without servers a try failed as if for good: {error}"
            ),
            Ok(outcome) => broken!("A3", "a try without servers returned {outcome:?}"),
        }
        let (took, limit) = (self.context.now().since(begin), self.context.over_limit());
        ensure!(
            took <= limit + self.context.slack(),
            "A1",
            "without servers a try took {took:?}, with a time-out of {limit:?}"
        );
        Ok(())
    }

    /// Checks that the holder is lost at its deadline, but not before `not_before`: until then no other client
    /// can have the lock.
    pub(super) async fn is_told(&mut self, not_before: bool) -> Outcome {
        let within = self.ttl * 2 + self.context.slack();
        let Ok(at) = tokio::time::timeout(within, &mut self.told).await else {
            broken!("L1", "a holder without servers is not lost at all");
        };
        let (at, due) = (at?, self.guard.valid_until());
        ensure!(
            at >= due || !not_before,
            "L5",
            "a guard was lost {:?} before its deadline, and the store keeps grants",
            due.since(at)
        );
        ensure!(
            at.since(due) < Duration::from_secs(1),
            "L1",
            "a guard was lost {:?} after its deadline",
            at.since(due)
        );
        ensure!(self.guard.check().is_err(), "L4", "a lost guard is held");
        Ok(())
    }

    /// Checks that each waiter is granted as promised, and that the holder's client can acquire again.
    pub(super) async fn goes_on(&mut self, promise: Promise) -> Outcome {
        let bound = self.bound();
        let mut token = self.guard.token();
        for turn in 0..WAITERS {
            let Ok(next) = tokio::time::timeout(bound, self.waiting.join_next()).await else {
                broken!(
                    "W2",
                    "{bound:?} after the servers were back, or after the one before was done, \
                     {} of {WAITERS} waiters still wait",
                    WAITERS - turn
                );
            };
            let Some(next) = next else {
                return Err(Failure::new(None, "some waiters did not start").into());
            };
            let Turn {
                guard: next,
                place,
                beside,
            } = next??;
            ensure!(
                !promise.in_order || place == turn,
                "W1",
                "waiter {place} is granted the lock as number {turn}"
            );
            ensure!(
                beside.is_none_or(|other| other < promise.forgotten),
                "X1",
                "two guards are held at the same time"
            );
            ensure!(
                next.token() > token || !promise.tokens_rise,
                "T1",
                "the token did not rise over an outage: {} after {token}",
                next.token()
            );
            token = next.token();
            if turn == 0 {
                self.frees_nobody(&next).await?;
            }
            release(&next).await?;
        }
        let again = self.acquires_again().await?;
        ensure!(
            again.token() > token || !promise.tokens_rise,
            "T1",
            "the token fell after an outage"
        );
        release(&again).await
    }

    /// Checks that the holder's client can acquire the lock again, and returns its guard.
    pub(super) async fn acquires_again(&self) -> Result<Guard, Stop> {
        let (context, bound) = (&self.context, self.bound());
        let lock = self.client.lock(LOCK)?;
        let again = context.eventually(bound, || async {
            let tried = lock.acquire_within(context.slack()).await;
            Ok(tried.ok().and_then(Acquisition::acquired))
        });
        let Some(again) = again.await? else {
            broken!(
                "W2",
                "{bound:?} after the servers were back their client cannot lock"
            );
        };
        Ok(again)
    }

    /// Returns the time limit for the next grant after an outage. A store may renew its grants for a full TTL
    /// at its start.
    fn bound(&self) -> Duration {
        let context = &self.context;
        context.takeover(self.ttl, self.ttl) + self.ttl + context.slack() * 3
    }

    /// Releases the guard from before the outage if it was lost: this must not affect the current holder.
    async fn frees_nobody(&self, present: &Guard) -> Outcome {
        if !matches!(self.guard.phase(), Phase::Lost(_)) {
            return Ok(());
        }
        // Only a proof of the store shows that it keeps the grant. The client also removes the lost attempt
        // itself.
        if !self.is_renewed(present).await? {
            let phase = present.phase();
            ensure!(
                phase != Phase::Lost(LossReason::Evicted),
                "R1",
                "when an attempt from before the outage was removed, the present holder was"
            );
            broken!(
                "K1",
                "the first one after the outage does not keep the lock: it is {phase:?}"
            );
        }
        match self.guard.release().await {
            Release::NotHeld(_) => {}
            released => broken!("R1", "the release of a lost guard returned {released:?}"),
        }
        ensure!(
            self.is_renewed(present).await?,
            "R1",
            "after a guard from before the outage was released, the present one is {:?}",
            present.phase()
        );
        Ok(())
    }

    /// Returns whether the guard gets a new proof; otherwise it must be lost.
    pub(super) async fn is_renewed(&self, guard: &Guard) -> Result<bool, Stop> {
        let deadline = guard.valid_until();
        let within = self.ttl + self.context.slack();
        let renewed = self.context.eventually(within, || async {
            let held = guard.check().is_ok();
            Ok((!held || guard.valid_until() > deadline).then_some(held))
        });
        match renewed.await? {
            Some(renewed) => Ok(renewed),
            None => broken!("L1", "{within:?} later a guard is neither renewed nor lost"),
        }
    }
}

/// Checks that no waiter is granted while another holder or an outage excludes it, and that none fails.
pub(super) fn still_waits(done: Option<Result<Result<Turn, Stop>, JoinError>>) -> Outcome {
    match done.transpose()? {
        None => Ok(()),
        Some(Ok(turn)) => broken!(
            "X1",
            "a waiter has the lock ({:?}) while it is held, or while there are no servers",
            turn.guard.phase()
        ),
        Some(Err(Stop::Failed(failure))) => {
            broken!("W2", "a wait without an end ended early: {failure}")
        }
        Some(Err(ignored)) => Err(ignored),
    }
}

/// Acquires the lock, without a time limit.
async fn take_turn(
    lock: Lock,
    place: usize,
    queued: oneshot::Sender<()>,
    guards: Guards,
) -> Result<Turn, Stop> {
    let mut queued = Some(queued);
    let on_queued = |_: &_| {
        if let Some(queued) = queued.take() {
            let _ = queued.send(());
        }
    };
    let guard = match lock.acquire_observed(None, on_queued).await? {
        Acquisition::Acquired(guard) => Arc::new(guard),
        other => broken!("W2", "an acquire without a time limit returned {other:?}"),
    };
    // Checked while the next guard is held.
    let mut guards = guards.lock().unwrap_or_else(PoisonError::into_inner);
    let held = |other: &Arc<Guard>| guard.check().is_ok() && other.check().is_ok();
    let beside = guards.iter().position(held);
    guards.push(Arc::clone(&guard));
    Ok(Turn {
        guard,
        place,
        beside,
    })
}
