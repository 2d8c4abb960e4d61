//! Servers that are killed and stopped: what the clauses say while there is no store, and afterwards.

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

use crate::{
    case::{Failure, Need, Outcome, Stop, broken, ensure},
    context::{CaseContext, release},
    servers::{DedicatedStore, ServerAction},
};

const LOCK: &str = "served";
/// More than one: that the first one moves on says nothing of those behind it.
const WAITERS: usize = 3;

/// Within which servers that were started must take a client.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);

/// A holder and waiters on servers of their own.
struct Served {
    context: Arc<CaseContext>,
    store: DedicatedStore,
    ttl: Duration,
    client: Client,
    guard: Arc<Guard>,
    waiting: JoinSet<Result<Turn, Stop>>,
    told: JoinHandle<Instant>,
}

/// A waiter that has its turn.
struct Turn {
    guard: Arc<Guard>,
    /// Who else said then that it held: the holder is the first one, and the waiters follow.
    beside: Option<usize>,
}

/// All guards so far, each of which is there before the next one can be.
type Guards = Arc<Mutex<Vec<Arc<Guard>>>>;

pub(crate) async fn stopped_past_the_ttl(context: Arc<CaseContext>) -> Outcome {
    let served = Served::new(context).await?;
    served
        .outlasted(ServerAction::Pause, ServerAction::Resume)
        .await
}

pub(crate) async fn killed_past_the_ttl(context: Arc<CaseContext>) -> Outcome {
    let served = Served::new(context).await?;
    served
        .outlasted(ServerAction::Kill, ServerAction::Start)
        .await
}

pub(crate) async fn killed_for_a_moment(context: Arc<CaseContext>) -> Outcome {
    let mut served = Served::new(context).await?;
    let keeps = served.context.capabilities().durability >= Durability::Local;
    served.store.servers().apply(ServerAction::Kill).await?;
    served.fails_in_time().await?;
    served.store.servers().apply(ServerAction::Start).await?;
    // It is proved anew, or it is over.
    if served.is_renewed(&served.guard).await? {
        still_waits(served.waiting.try_join_next())?;
        release(&served.guard).await?;
    } else {
        served.is_told(keeps).await?;
    }
    served.goes_on(keeps).await
}

impl Served {
    async fn new(context: Arc<CaseContext>) -> Result<Self, Stop> {
        let store = context.env().dedicated_store().await?;
        let store = store.ok_or(Stop::Ignored(Need::Servers))?;
        let (ttl, limit) = (context.steady(), context.over_limit());
        // Servers that have just been started may take longer for the first request than for others.
        let connect = || {
            let connector = store.connector();
            context.client_on(connector, |b| b.ttl(ttl).request_timeout(limit))
        };
        let client = async || {
            let made = context.eventually(RESTART_TIMEOUT, || async { Ok(connect().await.ok()) });
            match made.await? {
                Some(client) => Ok(client),
                // Why not.
                None => connect().await,
            }
        };
        let (client, other) = (client().await?, client().await?);
        let guard = Arc::new(client.lock(LOCK)?.acquire().await?);
        let guards: Guards = Arc::new(Mutex::new(vec![Arc::clone(&guard)]));
        let mut waiting = JoinSet::new();
        for _ in 0..WAITERS {
            // The store may show the entry before its client has the answer, and an acquire whose first
            // answer does not come has failed.
            let (tell, queued) = oneshot::channel();
            waiting.spawn(take_turn(other.lock(LOCK)?, tell, Arc::clone(&guards)));
            match tokio::time::timeout(context.slack(), queued).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => still_waits(waiting.join_next().await)?,
                Err(_) => broken!("A1", "a waiter is not told of its place"),
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

    /// There are no servers for longer than the TTL.
    async fn outlasted(mut self, end: ServerAction, again: ServerAction) -> Outcome {
        let until = self.context.now() + self.ttl * 2;
        self.store.servers().apply(end).await?;
        self.fails_in_time().await?;
        self.is_told(true).await?;
        self.context.sleep_until(until).await;
        still_waits(self.waiting.try_join_next())?;
        self.store.servers().apply(again).await?;
        ensure!(
            matches!(self.guard.phase(), Phase::Lost(_)),
            "L4",
            "once the servers are back, a lost guard is {:?}",
            self.guard.phase()
        );
        // What the store had granted had run out before it could grant anything else.
        self.goes_on(true).await
    }

    /// Without servers a request ends in its time, and says neither that the lock is held nor that it
    /// is busy.
    async fn fails_in_time(&self) -> Outcome {
        let begin = self.context.now();
        match self.client.lock("other")?.try_acquire().await {
            Err(error) => ensure!(
                error.is_retryable(),
                "A3",
                "without servers a try failed as if for good: {error}"
            ),
            Ok(outcome) => broken!("A3", "without servers a try gave {outcome:?}"),
        }
        let (took, limit) = (self.context.now().since(begin), self.context.over_limit());
        ensure!(
            took <= limit + self.context.slack(),
            "A1",
            "without servers a try took {took:?}, with a time-out of {limit:?}"
        );
        Ok(())
    }

    /// The holder is told of its loss at its deadline. `not_before`: nobody can have taken its lock
    /// before that.
    async fn is_told(&mut self, not_before: bool) -> Outcome {
        let within = self.ttl * 2 + self.context.slack();
        let Ok(at) = tokio::time::timeout(within, &mut self.told).await else {
            broken!("L1", "a holder whose servers are gone is not told at all");
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
            "a guard was told of its loss {:?} after its deadline",
            at.since(due)
        );
        ensure!(
            self.guard.check().is_err(),
            "L4",
            "a guard that was told of its loss says that it is held"
        );
        Ok(())
    }

    /// Each waiter has its turn, alone unless the store keeps nothing, and the holder's client locks
    /// again by itself.
    async fn goes_on(mut self, alone: bool) -> Outcome {
        let context = Arc::clone(&self.context);
        // A store may give what it finds at its start the full TTL once more.
        let bound = context.takeover(self.ttl, self.ttl) + self.ttl + context.slack() * 3;
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
                return Err(Failure::new(None, "there are fewer waiters than were begun").into());
            };
            let Turn {
                guard: next,
                beside,
            } = next??;
            ensure!(
                beside.is_none() || (beside == Some(0) && !alone),
                "X1",
                "two guards say at one moment that they are held"
            );
            ensure!(
                next.token() > token,
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
        let lock = self.client.lock(LOCK)?;
        let again = context.eventually(bound, || async {
            let tried = lock.acquire_within(context.slack()).await;
            Ok(tried.ok().and_then(Acquisition::acquired))
        });
        let Some(again) = again.await? else {
            return Err(Failure::new(
                Some("W2"),
                format!("{bound:?} after the servers were back their client cannot lock"),
            )
            .into());
        };
        ensure!(
            again.token() > token,
            "T1",
            "the token fell after an outage"
        );
        release(&again).await
    }

    /// The one from before the outage is released, if it was lost: the present holder does not notice.
    async fn frees_nobody(&self, present: &Guard) -> Outcome {
        if !matches!(self.guard.phase(), Phase::Lost(_)) {
            return Ok(());
        }
        // Only a proof from the store says that it keeps the grant. The client has the lost attempt
        // removed by itself, too.
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
            released => broken!("R1", "releasing a lost guard came to {released:?}"),
        }
        ensure!(
            self.is_renewed(present).await?,
            "R1",
            "after a guard from before the outage was released, the present one is {:?}",
            present.phase()
        );
        Ok(())
    }

    /// Whether a guard is proved anew before it is lost. It must be one or the other.
    async fn is_renewed(&self, guard: &Guard) -> Result<bool, Stop> {
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

/// Nobody has a turn while another one holds the lock or there are no servers, and nobody gives up.
fn still_waits(done: Option<Result<Result<Turn, Stop>, JoinError>>) -> Outcome {
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

/// Waits for the lock as long as it takes.
async fn take_turn(lock: Lock, queued: oneshot::Sender<()>, guards: Guards) -> Result<Turn, Stop> {
    let mut queued = Some(queued);
    let on_queued = |_: &_| {
        if let Some(queued) = queued.take() {
            let _ = queued.send(());
        }
    };
    let guard = match lock.acquire_observed(None, on_queued).await? {
        Acquisition::Acquired(guard) => Arc::new(guard),
        other => broken!("W2", "a wait without an end came to {other:?}"),
    };
    // Asked at the moment at which the next one says that it is held.
    let mut guards = guards.lock().unwrap_or_else(PoisonError::into_inner);
    let held = |other: &Arc<Guard>| guard.check().is_ok() && other.check().is_ok();
    let beside = guards.iter().position(held);
    guards.push(Arc::clone(&guard));
    Ok(Turn { guard, beside })
}
