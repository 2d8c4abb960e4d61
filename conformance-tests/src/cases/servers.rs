//! Servers that are killed and stopped: what the clauses say while there is no store, and afterwards.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, Guard, Release, capability::Durability, clock::Instant, lease::Phase,
    token::FencingToken,
};
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    case::{Failure, Need, Outcome, Stop, broken, ensure},
    ctx::{Ctx, release},
    driver::Driver,
    servers::{OwnStore, Strike},
};

const LOCK: &str = "served";
/// More than one: that the first one moves on says nothing of those behind it.
const WAITERS: usize = 3;

/// A holder and waiters on servers of their own.
struct Served {
    ctx: Arc<Ctx>,
    store: OwnStore,
    ttl: Duration,
    client: Client,
    guard: Arc<Guard>,
    /// Each of the waiters, and whether the holder said that it held when the waiter did.
    waiting: JoinSet<Result<(Guard, bool), Stop>>,
    told: JoinHandle<Instant>,
}

pub(crate) async fn stopped_past_the_ttl(ctx: Arc<Ctx>) -> Outcome {
    let served = Served::new(ctx).await?;
    served.outlasted(Strike::Pause, Strike::Resume).await
}

pub(crate) async fn killed_past_the_ttl(ctx: Arc<Ctx>) -> Outcome {
    let served = Served::new(ctx).await?;
    served.outlasted(Strike::Kill, Strike::Start).await
}

pub(crate) async fn killed_for_a_moment(ctx: Arc<Ctx>) -> Outcome {
    let mut served = Served::new(ctx).await?;
    let keeps = served.ctx.capabilities().durability >= Durability::Local;
    served.store.servers().strike(Strike::Kill).await?;
    served.fails_in_time().await?;
    served.store.servers().strike(Strike::Start).await?;
    // It is proved anew, or it is over.
    let guard = Arc::clone(&served.guard);
    let deadline = guard.valid_until();
    let within = served.ttl + served.ctx.slack();
    let settled = served.ctx.eventually(within, || async {
        let held = guard.check().is_ok();
        Ok((!held || guard.valid_until() > deadline).then_some(held))
    });
    match settled.await? {
        Some(true) => {
            served.wait_still()?;
            release(&guard).await?;
        }
        Some(false) => {
            served.is_told(keeps).await?;
        }
        None => broken!(
            "L1",
            "{within:?} after the servers were started a guard is neither renewed nor lost"
        ),
    }
    served.goes_on(keeps).await
}

impl Served {
    async fn new(ctx: Arc<Ctx>) -> Result<Self, Stop> {
        let store = ctx.env().own_store().await?;
        let store = store.ok_or(Stop::Ignored(Need::Servers))?;
        let (ttl, limit) = (ctx.steady(), ctx.over_limit());
        let client = || {
            let connector = store.connector();
            ctx.client_on(connector, |b| b.ttl(ttl).request_timeout(limit))
        };
        let (client, other) = (client().await?, client().await?);
        let floor = FencingToken::new(0);
        let driver = Driver::connect(&*store.connector(), ctx.namespace(), floor).await?;
        let guard = Arc::new(client.lock(LOCK)?.acquire().await?);
        let mut waiting = JoinSet::new();
        for _ in 0..WAITERS {
            let (lock, holder) = (other.lock(LOCK)?, Arc::clone(&guard));
            waiting.spawn(async move {
                let next = lock.acquire().await?;
                // Asked at the moment at which the next one says that it is held.
                let both = next.check().is_ok() && holder.check().is_ok();
                Ok((next, both))
            });
        }
        ctx.until_waiting(&driver, guard.name(), WAITERS).await?;
        let told = {
            let (ctx, guard) = (Arc::clone(&ctx), Arc::clone(&guard));
            tokio::spawn(async move {
                guard.lost().await;
                ctx.now()
            })
        };
        Ok(Self {
            ctx,
            store,
            ttl,
            client,
            guard,
            waiting,
            told,
        })
    }

    /// There are no servers for longer than the TTL.
    async fn outlasted(mut self, end: Strike, again: Strike) -> Outcome {
        let until = self.ctx.now() + self.ttl * 2;
        self.store.servers().strike(end).await?;
        self.fails_in_time().await?;
        self.is_told(true).await?;
        self.ctx.sleep_until(until).await;
        self.wait_still()?;
        self.store.servers().strike(again).await?;
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
        let begin = self.ctx.now();
        match self.client.lock("other")?.try_acquire().await {
            Err(error) => ensure!(
                error.is_retryable(),
                "A3",
                "without servers a try failed as if for good: {error}"
            ),
            Ok(outcome) => broken!("A3", "without servers a try gave {outcome:?}"),
        }
        let (took, limit) = (self.ctx.now().since(begin), self.ctx.over_limit());
        ensure!(
            took <= limit + self.ctx.slack(),
            "A1",
            "without servers a try took {took:?}, with a time-out of {limit:?}"
        );
        Ok(())
    }

    /// The holder is told of its loss at its deadline. `not_before`: nobody can have taken its lock
    /// before that.
    async fn is_told(&mut self, not_before: bool) -> Outcome {
        let within = self.ttl * 2 + self.ctx.slack();
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

    fn wait_still(&mut self) -> Outcome {
        ensure!(
            self.waiting.try_join_next().is_none(),
            "X1",
            "a waiter is done while there are no servers, or while another one holds the lock"
        );
        Ok(())
    }

    /// Each waiter has its turn, alone unless the store keeps nothing, and the holder's client locks
    /// again by itself.
    async fn goes_on(mut self, alone: bool) -> Outcome {
        let ctx = Arc::clone(&self.ctx);
        // A store may give what it finds at its start the full TTL once more.
        let bound = ctx.takeover(self.ttl, self.ttl) + self.ttl + ctx.slack() * 3;
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
            let (next, both) = next??;
            ensure!(
                !(both && alone),
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
            // While it is held, nobody else is done.
            self.wait_still()?;
            release(&next).await?;
        }
        let lock = self.client.lock(LOCK)?;
        let again = ctx.eventually(bound, || async {
            let tried = lock.acquire_within(ctx.slack()).await;
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
        match self.guard.release().await {
            Release::NotHeld(_) => {}
            released => broken!("R1", "releasing a lost guard came to {released:?}"),
        }
        // Only a proof from the store says that it keeps the grant still.
        let deadline = present.valid_until();
        let within = self.ttl + self.ctx.slack();
        let kept = self.ctx.eventually(within, || async {
            let held = present.check().is_ok();
            Ok((!held || present.valid_until() > deadline).then_some(held))
        });
        match kept.await? {
            Some(true) => Ok(()),
            Some(false) => broken!(
                "R1",
                "after a guard from before the outage was released, the present one is {:?}",
                present.phase()
            ),
            None => broken!(
                "K1",
                "{within:?} after it was granted, a lock is not renewed"
            ),
        }
    }
}
