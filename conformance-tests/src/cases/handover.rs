//! The token over a thousand hand-overs (clause T1).

use std::{sync::Arc, time::Duration};

use tenure_core::{
    name::LockName,
    request::{Evicted, Grant, Removed},
    token::FencingToken,
};

use crate::{
    context::CaseContext,
    driver::Driver,
    outcome::{Need, Outcome, Stop, broken, ensure},
};

const HAND_OVERS: u32 = 1_000;
/// The time limit of all rounds. A slow store has fewer rounds, but at least [`MIN_ROUNDS`].
const TIME_BUDGET: Duration = Duration::from_secs(60);
const MIN_ROUNDS: u32 = 200;
/// The number of expiries; each takes a TTL.
const EXPIRIES: u32 = 5;

/// How a grant ends.
#[derive(Clone, Copy, Debug)]
enum Way {
    Release,
    ReleaseToWaiter,
    Evict,
    EvictToWaiter,
    Delete,
    Expire,
}

const WAYS: [Way; 5] = [
    Way::Release,
    Way::ReleaseToWaiter,
    Way::Evict,
    Way::EvictToWaiter,
    Way::Delete,
];

pub(crate) async fn rises_over_a_thousand_hand_overs(context: Arc<CaseContext>) -> Outcome {
    let clients = [
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    ];
    let name = context.name("thousand")?;
    let mut series = Series {
        context: &context,
        name,
        last: FencingToken::new(0),
        deletes: true,
    };
    let start = context.now();
    let mut ways = WAYS.iter().cycle();
    for round in 0..HAND_OVERS {
        if round >= MIN_ROUNDS && context.now().since(start) > TIME_BUDGET {
            break;
        }
        let index = round as usize;
        let (holder, next) = (&clients[index % 3], &clients[(index + 1) % 3]);
        let way = match ways.next() {
            _ if round % (MIN_ROUNDS / EXPIRIES) == 0 && round < MIN_ROUNDS => Way::Expire,
            Some(way) => *way,
            None => Way::Release,
        };
        series.hand_over(way, holder, next).await?;
    }
    Ok(())
}

struct Series<'a> {
    context: &'a CaseContext,
    name: LockName,
    last: FencingToken,
    deletes: bool,
}

impl Series<'_> {
    async fn hand_over(&mut self, way: Way, holder: &Driver, next: &Driver) -> Outcome {
        let context = self.context;
        let ttl = match way {
            Way::Expire => context.short(),
            _ => context.long(),
        };
        let grant = holder.hold(&self.name, ttl).await?;
        self.see(way, &grant)?;
        let waiter = match way {
            Way::ReleaseToWaiter | Way::EvictToWaiter | Way::Expire => {
                Some(next.wait_for(&self.name, ttl).await?)
            }
            _ => None,
        };
        match way {
            Way::Release | Way::ReleaseToWaiter => {
                let removed = holder.remove(&self.name, grant.attempt, ttl).await?;
                ensure!(
                    removed == Removed::AsHolder,
                    "R1",
                    "the release of a held lock returned {removed:?}"
                );
            }
            Way::Evict | Way::EvictToWaiter => {
                let evicted = next.backend().evict(&self.name, grant.token).await?;
                ensure!(
                    evicted == Evicted::Evicted,
                    "I2",
                    "the eviction of the holder returned {evicted:?}"
                );
            }
            Way::Delete if self.deletes => match context.delete_state(&self.name).await {
                Ok(()) => {}
                // The case does not require deletion; where it is supported, it is a further way to end.
                Err(Stop::Ignored(Need::DeleteState)) => {
                    self.deletes = false;
                    holder.remove(&self.name, grant.attempt, ttl).await?;
                }
                Err(stop) => return Err(stop),
            },
            Way::Delete => {
                holder.remove(&self.name, grant.attempt, ttl).await?;
            }
            Way::Expire => {}
        }
        if let Some(waiter) = waiter {
            let within = context.takeover(grant.ttl, ttl);
            let turn = next.await_grant(&self.name, waiter, ttl, within);
            let Some(grant) = turn.await? else {
                broken!(
                    "W1",
                    "after {way:?} the first waiter does not hold the lock"
                );
            };
            self.see(way, &grant)?;
            next.remove(&self.name, waiter, ttl).await?;
        }
        Ok(())
    }

    fn see(&mut self, way: Way, grant: &Grant) -> Outcome {
        ensure!(
            grant.token > self.last,
            "T1",
            "token {} was granted after {} ({way:?})",
            grant.token,
            self.last
        );
        self.last = grant.token;
        Ok(())
    }
}
