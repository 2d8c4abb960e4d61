//! A leading server that is killed or cut off from the others, and the server that takes over.

use std::{sync::Arc, time::Duration};

use tenure_core::{capability::Durability, lease::Phase};

use super::servers::{Promise, Served, still_waits};
use crate::{
    context::{CaseContext, release},
    outcome::{Need, Outcome, Stop, ensure},
    servers::ServerAction,
};

/// Long enough for a holder to outlast an election.
const TTL: Duration = Duration::from_secs(5);

pub(crate) async fn failover(context: Arc<CaseContext>) -> Outcome {
    let (begin, end) = (ServerAction::FailOver, ServerAction::Start);
    replaced(context, Need::FailOver, begin, end).await
}

pub(crate) async fn partition(context: Arc<CaseContext>) -> Outcome {
    let (begin, end) = (ServerAction::Partition, ServerAction::Heal);
    replaced(context, Need::Partition, begin, end).await
}

async fn replaced(
    context: Arc<CaseContext>,
    need: Need,
    begin: ServerAction,
    end: ServerAction,
) -> Outcome {
    let ttl = context.possible_ttl(TTL);
    let mut served = Served::new(Arc::clone(&context), ttl, need, &[begin, end]).await?;
    // A failover of any other store may forget grants, tokens and waiters.
    let keeps = context.capabilities().durability == Durability::Consensus;
    let begun = context.now();
    served.store.servers().apply(begin).await?;
    let was_brief = context.now().since(begun) < ttl / 2;

    let held = holds_on(&mut served, keeps).await?;
    if !held {
        served.is_told(keeps).await?;
    } else if keeps {
        release(&served.guard).await?;
    } else {
        let _ = served.guard.release().await;
    }
    // The clients continue while the old leader is absent.
    served
        .goes_on(Promise {
            forgotten: if keeps { 0 } else { usize::MAX },
            tokens_rise: keeps,
            in_order: keeps && held && was_brief,
        })
        .await?;

    let before = served.acquires_again().await?;
    served.store.servers().apply(end).await?;
    if served.is_renewed(&before).await? && keeps {
        release(&before).await?;
    } else {
        let _ = before.release().await;
    }
    let after = served.acquires_again().await?;
    ensure!(
        after.token() > before.token() || !keeps,
        "T1",
        "the token is {} after {}",
        after.token(),
        before.token()
    );
    release(&after).await
}

/// Returns whether the holder keeps its lock for longer than its TTL. Until then nobody else may have it: an
/// answer of a server that no longer leads proves nothing.
async fn holds_on(served: &mut Served, keeps: bool) -> Result<bool, Stop> {
    if !served.is_renewed(&served.guard).await? {
        return Ok(false);
    }
    let (context, guard) = (&served.context, &served.guard);
    let within = served.ttl + served.ttl / 4;
    let lost = context.eventually(within, || async {
        Ok(matches!(guard.phase(), Phase::Lost(_)).then_some(()))
    });
    if lost.await?.is_some() {
        return Ok(false);
    }
    if keeps {
        still_waits(served.waiting.try_join_next())?;
    }
    Ok(true)
}
