//! The probe: performs each operation of a client once, on a lock that no other client uses.

use std::time::Duration;

use tenure::{
    Acquisition, Client, Config, Error, Guard, Release,
    id::AttemptId,
    name::LockName,
    request::{Evicted, List},
};

use super::{DoctorReport, Mark, quoted};
use crate::{
    exit::{Failure, UNAVAILABLE},
    time,
};

/// The longest time that one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The failed step and its failure.
#[derive(Debug)]
pub(super) struct FailedStep {
    pub(super) step: &'static str,
    pub(super) failure: Failure,
}

/// Converts an error into the failure of a step.
fn in_step<E: Into<Failure>>(step: &'static str) -> impl FnOnce(E) -> FailedStep {
    move |error| FailedStep {
        step,
        failure: error.into(),
    }
}

fn step_failed(step: &'static str, text: String) -> FailedStep {
    let failure = Failure::new(UNAVAILABLE, text);
    FailedStep { step, failure }
}

/// Performs all steps. The lock is free again afterwards, even after a failure.
pub(super) async fn run(
    config: &Config,
    client: &Client,
    report: &mut DoctorReport,
) -> Result<(), FailedStep> {
    let id = AttemptId::random().map_err(in_step("take"))?;
    let name = LockName::new(format!("tenure-doctor-{id}"))
        .map_err(|error| step_failed("take", error.to_string()))?;
    let begin = time::now();
    let guard = take(client, &name).await?;
    let first = time::now().since(begin);
    report
        .timed(
            "take",
            begin,
            &format!("took {}, token {}", quoted(&name), guard.token()),
        )
        .map_err(in_step("take"))?;

    let begin = time::now();
    if let Err(not_held) = guard.renew().await {
        return Err(step_failed(
            "renew",
            format!("the lock was not renewed: {not_held}"),
        ));
    }
    report
        .timed("renew", begin, "the store renewed the lease")
        .map_err(in_step("renew"))?;
    inspect(client, &guard, report).await?;
    let guard = hand_over(client, &name, guard, report).await?;
    evict(client, &guard, report).await?;
    let begin = time::now();
    let again = take(client, &name).await?;
    let warm = time::now().since(begin);
    if again.token() <= guard.token() {
        return Err(step_failed(
            "token",
            format!(
                "token {} was granted after {}",
                again.token(),
                guard.token()
            ),
        ));
    }
    release(&again, "release").await?;
    report
        .timed(
            "release",
            begin,
            "took the lock again with a higher token and released it",
        )
        .map_err(in_step("release"))?;
    compare_request_time(config, first.min(warm), report).map_err(in_step("pace"))
}

async fn take(client: &Client, name: &LockName) -> Result<Guard, FailedStep> {
    match client
        .lock_named(name.clone())
        .label("tenure doctor")
        .try_acquire()
        .await
    {
        Ok(Acquisition::Acquired(guard)) => Ok(guard),
        Ok(_) => Err(step_failed(
            "take",
            format!(
                "{} is taken, although no other client knows its name",
                quoted(name)
            ),
        )),
        Err(error) => Err(in_step("take")(error)),
    }
}

async fn inspect(
    client: &Client,
    guard: &Guard,
    report: &mut DoctorReport,
) -> Result<(), FailedStep> {
    let begin = time::now();
    let state = client
        .inspect(guard.name())
        .await
        .map_err(in_step("inspect"))?;
    let holder = state.holder.and_then(|holder| holder.attempt);
    if holder != Some(guard.attempt()) {
        return Err(step_failed(
            "inspect",
            "the store shows a different holder".to_owned(),
        ));
    }
    let mut request = List::new(guard.name().as_str(), 10);
    let listed = loop {
        let page = client
            .list(request.clone())
            .await
            .map_err(in_step("list"))?;
        if page.locks.iter().any(|lock| lock.name == *guard.name()) {
            break true;
        }
        if page.next.is_none() {
            break false;
        }
        request = request.at(page.next);
    };
    if !listed {
        return Err(step_failed(
            "list",
            "the store does not list a held lock".to_owned(),
        ));
    }
    report
        .timed("inspect", begin, "`status` and `ls` show the lock")
        .map_err(in_step("inspect"))
}

/// Queues behind the probe's own grant, releases that grant, and receives the lock.
async fn hand_over(
    client: &Client,
    name: &LockName,
    guard: Guard,
    report: &mut DoctorReport,
) -> Result<Guard, FailedStep> {
    let lock = client.lock_named(name.clone()).label("tenure doctor");
    let (queued, mut notified) = tokio::sync::oneshot::channel();
    let mut queued = Some(queued);
    let waiting = lock.acquire_observed(Some(STEP_TIMEOUT), |_| {
        if let Some(queued) = queued.take() {
            let _ = queued.send(());
        }
    });
    tokio::pin!(waiting);
    let early = tokio::select! {
        answer = &mut waiting => Some(answer),
        _ = &mut notified => None,
    };
    if let Some(answer) = early {
        return Err(match answer {
            Ok(_) => step_failed(
                "wait",
                "a waiter acquired a lock that another attempt holds".to_owned(),
            ),
            Err(error) => in_step::<Error>("wait")(error),
        });
    }
    let begin = time::now();
    release(&guard, "wait").await?;
    let next = waiting.await.map_err(in_step("wait"))?.acquired();
    let Some(next) = next else {
        return Err(step_failed(
            "wait",
            format!("the lock was not handed over within {STEP_TIMEOUT:?}"),
        ));
    };
    report
        .timed(
            "wait",
            begin,
            "queued behind the holder and received the lock",
        )
        .map_err(in_step("wait"))?;
    Ok(next)
}

async fn evict(
    client: &Client,
    guard: &Guard,
    report: &mut DoctorReport,
) -> Result<(), FailedStep> {
    let begin = time::now();
    let evicted = client
        .evict(guard.name(), guard.token())
        .await
        .map_err(in_step("break"))?;
    if evicted != Evicted::Evicted {
        return Err(step_failed(
            "break",
            format!("eviction of the probe's own grant returned {evicted:?}"),
        ));
    }
    let within = STEP_TIMEOUT.max(guard.ttl());
    let notified = tokio::time::timeout(within, guard.lost()).await;
    if notified.is_err() {
        return Err(step_failed(
            "break",
            "the holder was not notified of the eviction".to_owned(),
        ));
    };
    report
        .timed(
            "break",
            begin,
            "evicted the grant, and the holder was notified",
        )
        .map_err(in_step("break"))
}

async fn release(guard: &Guard, step: &'static str) -> Result<(), FailedStep> {
    match guard.release().await {
        Release::Released => Ok(()),
        Release::NotHeld(reason) => Err(step_failed(
            step,
            format!("the lock was already lost at release: {reason}"),
        )),
        Release::Unknown(error) => Err(in_step(step)(error)),
        other => Err(step_failed(step, format!("the release returned {other:?}"))),
    }
}

/// Compares the duration of a request with its time-out. The time-out must be many times longer, or
/// a slow moment loses locks.
fn compare_request_time(
    config: &Config,
    took: Duration,
    report: &mut DoctorReport,
) -> Result<(), Failure> {
    let limit = config.request_timeout;
    let show = |span: Duration| {
        humantime::format_duration(Duration::from_micros(
            u64::try_from(span.as_micros()).unwrap_or(u64::MAX),
        ))
        .to_string()
    };
    if took * 10 <= limit {
        return report.row(
            "pace",
            Mark::Ok,
            &format!(
                "the request time-out is {}, and a request takes {}",
                show(limit),
                show(took)
            ),
        );
    }
    report.row(
        "pace",
        Mark::Warning,
        &format!(
            "acquiring a lock took {}, and the request time-out is {}: use a longer \
             `client.request_timeout` and `lock.ttl`, or a closer store",
            show(took),
            show(limit)
        ),
    )
}
