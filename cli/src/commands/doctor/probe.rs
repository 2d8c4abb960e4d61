//! The probe: performs each operation of a client once, on a lock that no other client uses.

use std::time::Duration;

use tenure::{
    Acquisition, Client, Config, Guard, Release,
    id::AttemptId,
    name::LockName,
    request::{Evicted, List},
};

use super::doctor_report::{DoctorReport, Mark};
use crate::{
    escape::quote,
    exit::{Failure, UNAVAILABLE},
};

/// The longest time that one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

fn failure(text: impl Into<String>) -> Failure {
    Failure::new(UNAVAILABLE, text)
}

/// Performs all steps on a lock of its own, which is free again afterwards, even after a failure.
/// Then deletes what the store keeps of it, and says what remains.
pub(super) async fn run(
    config: &Config,
    client: &Client,
    report: &mut DoctorReport,
) -> Result<(), Failure> {
    let id = AttemptId::random()?;
    let name =
        LockName::new(format!("tenure-doctor-{id}")).map_err(|error| failure(error.to_string()))?;
    let outcome = perform(config, client, &name, report).await;
    let discarded = client.discard(&name).await;
    if outcome.is_err() && !matches!(discarded, Ok(Some(Duration::ZERO))) {
        let text = format!(
            "{} or a record of it may stay in the store",
            quote(name.as_str())
        );
        report.row("leaves", Mark::Warning, &text)?;
    }
    outcome?;
    report.begin("leaves");
    let kept = discarded?;
    let residue = client.capabilities().residue;
    report.row("leaves", Mark::Ok, &left_behind(kept, residue))
}

/// Describes what remains of the lock, if the store keeps it for `kept`, and for `residue` without
/// the deletion.
fn left_behind(kept: Option<Duration>, residue: Option<Duration>) -> String {
    match kept {
        Some(Duration::ZERO) => "nothing".to_owned(),
        Some(span) => {
            let what = if kept == residue {
                "a record of the lock's last token"
            } else {
                "nothing, or a record of requests without an answer"
            };
            format!("{what}, for {}", humantime::format_duration(span))
        }
        None => "a record of the lock's last token, forever".to_owned(),
    }
}

async fn perform(
    config: &Config,
    client: &Client,
    name: &LockName,
    report: &mut DoctorReport,
) -> Result<(), Failure> {
    report.begin("take");
    let guard = take(client, name).await?;
    let text = format!("took {}, token {}", quote(name.as_str()), guard.token());
    let first = report.done(&text)?;

    report.begin("renew");
    if let Err(not_held) = guard.renew().await {
        return Err(failure(format!("the lock was not renewed: {not_held}")));
    }
    report.done("the store renewed the lease")?;
    report.begin("inspect");
    inspect(client, &guard).await?;
    report.done("`status` and `ls` show the lock")?;
    let guard = hand_over(client, name, guard, report).await?;
    report.begin("break");
    evict(client, &guard).await?;
    report.done("evicted the grant, and the holder was notified")?;

    report.begin("release");
    let again = take(client, name).await?;
    if again.token() <= guard.token() {
        let (later, earlier) = (again.token(), guard.token());
        return Err(failure(format!(
            "token {later} was granted after {earlier}"
        )));
    }
    release(&again).await?;
    let warm = report.done("took the lock again with a higher token and released it")?;
    compare_request_time(config, first.min(warm), report)
}

async fn take(client: &Client, name: &LockName) -> Result<Guard, Failure> {
    let lock = client.lock_named(name.clone()).label("tenure doctor");
    match lock.try_acquire().await? {
        Acquisition::Acquired(guard) => Ok(guard),
        _ => Err(failure(format!(
            "{} is taken, although no other client knows its name",
            quote(name.as_str())
        ))),
    }
}

async fn inspect(client: &Client, guard: &Guard) -> Result<(), Failure> {
    let state = client.inspect(guard.name()).await?;
    let holder = state.holder.and_then(|holder| holder.attempt);
    if holder != Some(guard.attempt()) {
        return Err(failure("the store shows a different holder"));
    }
    let mut request = List::new(guard.name().as_str(), 10);
    loop {
        let page = client.list(request.clone()).await?;
        if page.locks.iter().any(|lock| lock.name == *guard.name()) {
            return Ok(());
        }
        if page.next.is_none() {
            return Err(failure("the store does not list a held lock"));
        }
        request = request.at(page.next);
    }
}

/// Queues behind the probe's own grant, releases that grant, and receives the lock.
async fn hand_over(
    client: &Client,
    name: &LockName,
    guard: Guard,
    report: &mut DoctorReport,
) -> Result<Guard, Failure> {
    report.begin("wait");
    let lock = client.lock_named(name.clone()).label("tenure doctor");
    let (queued, mut notified) = tokio::sync::oneshot::channel();
    let mut queued = Some(queued);
    let waiting = lock.acquire_observed(Some(STEP_TIMEOUT), |_| {
        if let Some(queued) = queued.take() {
            let _ = queued.send(());
        }
    });
    tokio::pin!(waiting);
    tokio::select! {
        acquired = &mut waiting => return Err(match acquired {
            Ok(_) => failure("a waiter acquired a lock that another attempt holds"),
            Err(error) => error.into(),
        }),
        _ = &mut notified => {}
    }
    // The duration of this step is that of the hand-over, without the way into the queue.
    report.begin("wait");
    release(&guard).await?;
    let Some(next) = waiting.await?.acquired() else {
        let text = format!("the lock was not handed over within {STEP_TIMEOUT:?}");
        return Err(failure(text));
    };
    report.done("queued behind the holder and received the lock")?;
    Ok(next)
}

async fn evict(client: &Client, guard: &Guard) -> Result<(), Failure> {
    let evicted = client.evict(guard.name(), guard.token()).await?;
    if evicted != Evicted::Evicted {
        return Err(failure(format!(
            "eviction of the probe's own grant returned {evicted:?}"
        )));
    }
    let within = STEP_TIMEOUT.max(guard.ttl());
    if tokio::time::timeout(within, guard.lost()).await.is_err() {
        return Err(failure("the holder was not notified of the eviction"));
    }
    Ok(())
}

async fn release(guard: &Guard) -> Result<(), Failure> {
    match guard.release().await {
        Release::Released => Ok(()),
        Release::NotHeld(reason) => Err(failure(format!(
            "the lock was already lost at release: {reason}"
        ))),
        Release::Unknown(error) => Err(error.into()),
        other => Err(failure(format!("the release returned {other:?}"))),
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
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        humantime::format_duration(Duration::from_micros(micros)).to_string()
    };
    let (limit_text, took_text) = (show(limit), show(took));
    if took * 10 <= limit {
        let text = format!("the request time-out is {limit_text}, and a request takes {took_text}");
        return report.row("pace", Mark::Ok, &text);
    }
    let text = format!(
        "acquiring a lock took {took_text}, and the request time-out is {limit_text}: use a longer \
         `client.request_timeout` and `lock.ttl`, or a closer store"
    );
    report.row("pace", Mark::Warning, &text)
}
