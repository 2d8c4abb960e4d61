//! Inspection and eviction: clauses I1 and I2.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tenure_core::{
    request::{Evicted, List, Listed},
    token::FencingToken,
};

use crate::{
    context::{CaseContext, release},
    driver::Driver,
    outcome::{Failure, Outcome, Stop, broken, ensure},
};

/// Returns the locks of all pages of a listing.
pub(super) async fn list_all(driver: &Driver, mut request: List) -> Result<Vec<Listed>, Stop> {
    let mut all = Vec::new();
    // Every page except the last has an entry or a new cursor.
    for _ in 0..10_000 {
        let page = driver.backend().list(request.clone()).await?;
        all.extend(page.locks);
        match page.next {
            None => return Ok(all),
            next if next == request.cursor => break,
            next => request.cursor = next,
        }
    }
    Err(Failure::new(Some("I1"), "the pages of a listing have no end").into())
}

pub(crate) async fn shows_holder_and_queue(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let holder = context
        .client_with(|builder| builder.label("first"))
        .await?;
    let guard = holder.lock("shown")?.acquire().await?;
    let mut tasks = tokio::task::JoinSet::new();
    let labels = ["second", "third", "fourth"];
    for (place, label) in labels.into_iter().enumerate() {
        let client = context.client_with(|builder| builder.label(label)).await?;
        let lock = client.lock("shown")?;
        tasks.spawn(async move { lock.acquire().await });
        context
            .until_waiting(&driver, guard.name(), place + 1)
            .await?;
    }
    let state = holder.inspect(guard.name()).await?;
    ensure!(
        &state.name == guard.name(),
        "I1",
        "another lock is shown: {state:?}"
    );
    let Some(shown) = state.holder else {
        broken!("I1", "no holder is shown");
    };
    ensure!(
        shown.attempt == Some(guard.attempt()) && shown.token == Some(guard.token()),
        "I1",
        "attempt {} holds under token {}, and is shown as {shown:?}",
        guard.attempt(),
        guard.token()
    );
    let owner = shown.owner.unwrap_or_default();
    ensure!(
        owner.label == "first" && owner.pid == std::process::id() && !owner.host.is_empty(),
        "I1",
        "the holder is shown as {owner:?}"
    );
    ensure!(
        shown.since.is_some(),
        "I1",
        "the time of the grant is not shown"
    );
    let seen: Vec<_> = state
        .queue
        .iter()
        .filter_map(|waiter| waiter.owner.as_ref())
        .map(|owner| owner.label.as_str())
        .collect();
    ensure!(
        seen == labels,
        "I1",
        "the queue should be {labels:?}, it is shown as {seen:?}"
    );
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    release(&guard).await?;
    let free = driver.inspect(&context.name("never-used")?).await?;
    ensure!(
        free.holder.is_none() && free.queue.is_empty(),
        "I1",
        "a lock that was never used is shown as {free:?}"
    );
    Ok(())
}

pub(crate) async fn changes_nothing(context: Arc<CaseContext>) -> Outcome {
    let (driver, other) = (context.driver().await?, context.driver().await?);
    let ttl = context.short();
    let name = context.name("inspected")?;
    let grant = driver.hold(&name, ttl).await?;
    let proved = grant.proved_from.unwrap_or_else(|| driver.now());
    // Under continuous inspection, the grant neither ends early nor late.
    let bound = context.takeover(grant.ttl, ttl);
    let free = context
        .eventually(bound, || async {
            let before = other.now();
            let listed = list_all(&other, List::new("", 10)).await?;
            let state = other.inspect(&name).await?;
            if before.since(proved) < ttl / 2 && other.now().since(proved) < ttl / 2 {
                let seen = state.holder.as_ref().and_then(|holder| holder.attempt);
                ensure!(
                    seen == Some(grant.attempt) && listed.len() == 1,
                    "I1",
                    "a new grant is shown as {state:?}, {listed:?}"
                );
            }
            Ok(state.holder.is_none().then_some(()))
        })
        .await?;
    ensure!(
        free.is_some(),
        "I1",
        "a grant under inspection does not expire"
    );
    let passed = other.now().since(proved);
    ensure!(
        passed >= ttl * 99 / 100,
        "I1",
        "a grant under inspection ended after {passed:?}"
    );
    let Some(next) = other.try_hold(&name, context.long()).await? else {
        broken!("I1", "a lock that is shown as free is taken");
    };
    let waiter = driver.wait_for(&name, context.long()).await?;
    for _ in 0..20 {
        let state = other.inspect(&name).await?;
        let queue: Vec<_> = state.queue.iter().filter_map(|one| one.attempt).collect();
        let holder = state.holder.as_ref().and_then(|holder| holder.attempt);
        ensure!(
            holder == Some(next.attempt) && queue == [waiter],
            "I1",
            "inspections have changed the lock: {state:?}"
        );
    }
    Ok(())
}

pub(crate) async fn lists_by_pages(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let ttl = context.long();
    let mut given = BTreeMap::new();
    for number in 0..23 {
        let text = match number % 3 {
            0 => format!("page-{number}"),
            1 => format!("page/{number}"),
            _ => format!("other {number}"),
        };
        let name = context.name(&text)?;
        let grant = driver.hold(&name, ttl).await?;
        given.insert(text, grant);
    }
    let waiting = context.name("page-0")?;
    driver.wait_for(&waiting, ttl).await?;
    let freed = context.name("page-freed")?;
    let grant = driver.hold(&freed, ttl).await?;
    driver.remove(&freed, grant.attempt, ttl).await?;

    for (prefix, limit) in [
        ("", 1),
        ("", 5),
        ("", 1000),
        ("page", 4),
        ("page/", 3),
        ("q", 3),
    ] {
        let listed = list_all(&driver, List::new(prefix, limit)).await?;
        let mut names: Vec<_> = listed.iter().map(|lock| lock.name.as_str()).collect();
        names.sort_unstable();
        let expected: Vec<_> = given
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with(prefix))
            .collect();
        ensure!(
            names == expected,
            "I1",
            "with prefix {prefix:?} and pages of {limit} the listing returned {names:?}, not \
              {expected:?}"
        );
        for lock in &listed {
            let held = given.get(lock.name.as_str()).map(|grant| grant.attempt);
            let shown = lock.holder.as_ref().and_then(|holder| holder.attempt);
            let waiters = u64::from(lock.name == waiting);
            ensure!(
                held == shown && lock.waiters == waiters,
                "I1",
                "the listing shows {lock:?}; its holder is {held:?}, and {waiters} wait"
            );
        }
    }
    let page = driver.backend().list(List::new("", 5)).await?;
    ensure!(
        page.locks.len() <= 10 && page.next.is_some(),
        "I1",
        "a page of about 5 of 23 locks has {}, and leads on to {:?}",
        page.locks.len(),
        page.next
    );
    Ok(())
}

pub(crate) async fn eviction_needs_the_token(context: Arc<CaseContext>) -> Outcome {
    let (holder, operator) = (context.driver().await?, context.driver().await?);
    let ttl = context.long();
    let name = context.name("evicted")?;
    let grant = holder.hold(&name, ttl).await?;
    let waiter = operator.wait_for(&name, ttl).await?;
    let token = grant.token.get();
    for wrong in [0, 1, token.saturating_sub(1), token + 1, u64::MAX] {
        if wrong == token {
            continue;
        }
        match operator
            .backend()
            .evict(&name, FencingToken::new(wrong))
            .await?
        {
            Evicted::NotHeld(Some(shown)) => {
                ensure!(
                    shown.token == Some(grant.token),
                    "I2",
                    "the present holder has token {token}, it is shown as {shown:?}"
                );
            }
            answer => broken!(
                "I2",
                "evicting token {wrong} of a lock held as {token}: {answer:?}"
            ),
        }
        let seen = operator.inspect(&name).await?;
        ensure!(
            seen.holder.as_ref().and_then(|holder| holder.token) == Some(grant.token)
                && seen.queue.len() == 1,
            "I2",
            "evicting another token has changed the lock: {seen:?}"
        );
    }
    let evicted = operator.backend().evict(&name, grant.token).await?;
    ensure!(
        evicted == Evicted::Evicted,
        "I2",
        "the eviction of the holder returned {evicted:?}"
    );
    let turn = operator.await_grant(&name, waiter, ttl, context.slack());
    let Some(next) = turn.await? else {
        broken!(
            "I2",
            "after the eviction the first waiter does not hold the lock"
        );
    };
    ensure!(
        next.token > grant.token,
        "T1",
        "the token did not rise over an eviction"
    );
    // The inspected token is stale now.
    let again = operator.backend().evict(&name, grant.token).await?;
    ensure!(
        matches!(again, Evicted::NotHeld(_)),
        "I2",
        "a second eviction of the same token returned {again:?}"
    );
    let free = operator
        .backend()
        .evict(&context.name("free")?, FencingToken::new(1))
        .await?;
    ensure!(
        free == Evicted::NotHeld(None),
        "I2",
        "an eviction from a free lock returned {free:?}"
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    let seen = operator.inspect(&name).await?.holder;
    ensure!(
        seen.as_ref().and_then(|holder| holder.token) == Some(next.token),
        "I2",
        "evicting a stale token has ended the next grant: {seen:?}"
    );
    Ok(())
}
