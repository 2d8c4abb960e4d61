//! Holders of several modes together, and who is woken when they leave: clauses M1 to M3.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Guard,
    mode::{Mode, Occupancy},
    request::Removed,
};

use super::modes::{admitted, hold, permits, still_waits, wait};
use crate::{
    context::{CaseContext, release},
    outcome::{Failure, Outcome, Stop, ensure},
};

pub(crate) async fn one_release_admits_all_whose_turn_it_is(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let drivers = [context.driver().await?, context.driver().await?];
    let name = context.name("one-release")?;
    let ttl = context.long();
    let writer = hold(&context, &drivers[0], &name, Mode::Exclusive).await?;
    let mut readers = Vec::new();
    for place in 0..5 {
        let driver = &drivers[place % 2];
        readers.push((driver, wait(&context, driver, &name, Mode::Shared).await?));
    }
    let next = wait(&context, &drivers[0], &name, Mode::Exclusive).await?;
    drivers[0].remove(&name, writer.attempt, ttl).await?;
    for (driver, reader) in &readers {
        if context.need_push().is_ok() {
            // The first one may be told later than the others, and each without a request of its own.
            let notice = driver
                .await_notice(&name, *reader, ttl, context.slack())
                .await?;
            ensure!(
                notice.is_some(),
                "W2",
                "a reader that one release admitted with others is not told"
            );
        } else {
            admitted(&context, driver, &name, *reader, "M2", "a reader").await?;
        }
    }
    still_waits(
        &context,
        &drivers[0],
        &name,
        next,
        "M1",
        "the writer behind the readers",
    )
    .await?;
    for (driver, reader) in &readers {
        still_waits(
            &context,
            &drivers[0],
            &name,
            next,
            "M1",
            "the writer behind the readers",
        )
        .await?;
        driver.remove(&name, *reader, ttl).await?;
    }
    admitted(
        &context,
        &drivers[0],
        &name,
        next,
        "M2",
        "the writer behind the readers",
    )
    .await?;
    Ok(())
}

pub(crate) async fn last_of_several_wakes_the_next(context: Arc<CaseContext>) -> Outcome {
    context.need_permits()?;
    let (one, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("last-of-several")?;
    let ttl = context.long();
    // Whichever holder leaves last is the one whose end must be noticed.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(hold(&context, &one, &name, permits(1, 3)).await?.attempt);
        }
        let waiter = wait(&context, &other, &name, permits(3, 3)).await?;
        for (left, index) in order.into_iter().enumerate() {
            still_waits(
                &context,
                &other,
                &name,
                waiter,
                "M1",
                "a request for all permits",
            )
            .await?;
            let removed = one.remove(&name, held[index], ttl).await?;
            ensure!(
                removed == Removed::AsHolder,
                "R1",
                "the removal of holder {left} reports {removed:?}"
            );
        }
        let granted = if context.need_push().is_ok() {
            other
                .await_notice(&name, waiter, ttl, context.slack())
                .await?
        } else {
            other
                .await_grant(&name, waiter, ttl, context.slack())
                .await?
        };
        ensure!(
            granted.is_some(),
            "W2",
            "the holders left in the order {order:?}, and the waiter is not told"
        );
        other.remove(&name, waiter, ttl).await?;
    }
    Ok(())
}

pub(crate) async fn leaving_writer_lets_readers_join(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (one, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("leaving-writer")?;
    let first = hold(&context, &one, &name, Mode::Shared).await?;
    let writer = wait(&context, &other, &name, Mode::Exclusive).await?;
    let behind = wait(&context, &one, &name, Mode::Shared).await?;
    other.remove(&name, writer, context.long()).await?;
    let grant = admitted(
        &context,
        &one,
        &name,
        behind,
        "M2",
        "a reader behind a writer that left",
    )
    .await?;
    ensure!(
        grant.floor == first.token && grant.token > first.token,
        "M3",
        "the token is {} above {}, beside a grant with {}",
        grant.token,
        grant.floor,
        first.token
    );
    Ok(())
}

/// What the tasks of [`mixed_tasks_never_overlap`] hold, by the number of the attempt.
#[derive(Default)]
struct Together(std::sync::Mutex<Vec<(u32, Mode)>>);

impl Together {
    fn enter(&self, task: u32, mode: Mode) -> Outcome {
        let mut held = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut occupancy = Occupancy::Free;
        held.iter().for_each(|(_, mode)| occupancy.add(*mode));
        ensure!(
            occupancy.admits(mode),
            "M1",
            "{mode} is held beside {:?}",
            held.iter()
                .map(|(_, mode)| mode.to_string())
                .collect::<Vec<_>>()
        );
        held.push((task, mode));
        Ok(())
    }

    fn leave(&self, task: u32) {
        let mut held = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        held.retain(|(other, _)| *other != task);
    }
}

pub(crate) async fn mixed_tasks_never_overlap(context: Arc<CaseContext>) -> Outcome {
    const ROUNDS: u32 = 6;
    context.need_permits()?;
    let clients = [
        context.client().await?,
        context.client().await?,
        context.client().await?,
    ];
    let together: Arc<Together> = Arc::default();
    // A backend with permits alone is tried with these.
    let shared = context.capabilities().modes.shared;
    let modes = [
        Mode::Shared,
        Mode::Exclusive,
        Mode::Shared,
        permits(1, 3),
        permits(2, 3),
        Mode::Shared,
        permits(1, 2),
        permits(1, 3),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    let offered = modes
        .into_iter()
        .filter(|mode| shared || *mode != Mode::Shared);
    for (task, mode) in (0..).zip(offered) {
        let lock = clients[task as usize % clients.len()]
            .lock("mixed")?
            .mode(mode);
        let together = Arc::clone(&together);
        tasks.spawn(async move {
            let mut last = 0;
            for round in 0..ROUNDS {
                let guard: Guard = lock.acquire().await?;
                together.enter(task, mode)?;
                ensure!(
                    guard.token().get() > last && guard.floor() <= guard.token(),
                    "M3",
                    "the token {} with floor {} comes after {last}",
                    guard.token(),
                    guard.floor()
                );
                last = guard.token().get();
                tokio::time::sleep(Duration::from_millis(u64::from((task + round) % 4))).await;
                let guard = if shared && mode.is_exclusive() && round % 2 == 0 {
                    // From now on, readers may join.
                    together.leave(task);
                    together.enter(task, Mode::Shared)?;
                    guard.downgrade().await?
                } else {
                    guard
                };
                guard
                    .check()
                    .map_err(|ended| Failure::new(Some("K1"), ended.to_string()))?;
                together.leave(task);
                release(&guard).await?;
            }
            Ok::<_, Stop>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
