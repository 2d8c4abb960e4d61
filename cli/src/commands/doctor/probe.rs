//! The probe: each thing that a client does with a lock, done once on a lock that nobody uses.

use std::time::Duration;

use tenure::{
    Acquisition, Client, Config, Error, Guard, Release,
    id::AttemptId,
    name::LockName,
    request::{Evicted, List},
};

use super::{Mark, Sheet, shown};
use crate::{
    exit::{Failure, UNAVAILABLE},
    time,
};

/// How long what takes a moment may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which step failed, and how.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) step: &'static str,
    pub(super) failure: Failure,
}

/// What failed, or what could not be shown.
fn at<E: Into<Failure>>(step: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| Failed {
        step,
        failure: error.into(),
    }
}

fn wrong(step: &'static str, text: String) -> Failed {
    let failure = Failure::new(UNAVAILABLE, text);
    Failed { step, failure }
}

/// Tries everything; the lock is free again afterwards, whatever failed.
pub(super) async fn run(config: &Config, client: &Client, sheet: &mut Sheet) -> Result<(), Failed> {
    let id = AttemptId::random().map_err(at("take"))?;
    let name = LockName::new(format!("tenure-doctor-{id}"))
        .map_err(|error| wrong("take", error.to_string()))?;
    let begin = time::now();
    let guard = take(client, &name).await?;
    let first = time::now().since(begin);
    sheet
        .timed(
            "take",
            begin,
            &format!("took {}, token {}", shown(&name), guard.token()),
        )
        .map_err(at("take"))?;

    let begin = time::now();
    if let Err(not_held) = guard.renew().await {
        return Err(wrong(
            "renew",
            format!("the lock was not renewed: {not_held}"),
        ));
    }
    sheet
        .timed("renew", begin, "the store keeps it")
        .map_err(at("renew"))?;
    look(client, &guard, sheet).await?;
    let guard = hand_over(client, &name, guard, sheet).await?;
    evict(client, &guard, sheet).await?;
    let begin = time::now();
    let again = take(client, &name).await?;
    let warm = time::now().since(begin);
    if again.token() <= guard.token() {
        return Err(wrong(
            "token",
            format!(
                "token {} was granted after {}",
                again.token(),
                guard.token()
            ),
        ));
    }
    give_back(&again, "release").await?;
    sheet
        .timed(
            "release",
            begin,
            "took it once more with a higher token, and gave it back",
        )
        .map_err(at("release"))?;
    pace(config, first.min(warm), sheet).map_err(at("pace"))
}

async fn take(client: &Client, name: &LockName) -> Result<Guard, Failed> {
    match client
        .lock_named(name.clone())
        .label("tenure doctor")
        .try_acquire()
        .await
    {
        Ok(Acquisition::Acquired(guard)) => Ok(guard),
        Ok(_) => Err(wrong(
            "take",
            format!("{} is taken, though nobody else knows it", shown(name)),
        )),
        Err(error) => Err(at("take")(error)),
    }
}

async fn look(client: &Client, guard: &Guard, sheet: &mut Sheet) -> Result<(), Failed> {
    let begin = time::now();
    let state = client.inspect(guard.name()).await.map_err(at("look"))?;
    let holder = state.holder.and_then(|holder| holder.attempt);
    if holder != Some(guard.attempt()) {
        return Err(wrong(
            "look",
            "the store shows another holder than this one".to_owned(),
        ));
    }
    let mut request = List::new(guard.name().as_str(), 10);
    let listed = loop {
        let page = client.list(request.clone()).await.map_err(at("list"))?;
        if page.locks.iter().any(|lock| lock.name == *guard.name()) {
            break true;
        }
        if page.next.is_none() {
            break false;
        }
        request = request.at(page.next);
    };
    if !listed {
        return Err(wrong(
            "list",
            "the store does not list a lock that is held".to_owned(),
        ));
    }
    sheet
        .timed("look", begin, "`status` and `ls` show it")
        .map_err(at("look"))
}

/// Queues behind the own grant, gives that back, and is handed the lock.
async fn hand_over(
    client: &Client,
    name: &LockName,
    guard: Guard,
    sheet: &mut Sheet,
) -> Result<Guard, Failed> {
    let lock = client.lock_named(name.clone()).label("tenure doctor");
    let (queued, mut told) = tokio::sync::oneshot::channel();
    let mut queued = Some(queued);
    let waiting = lock.acquire_observed(Some(PATIENCE), |_| {
        if let Some(queued) = queued.take() {
            let _ = queued.send(());
        }
    });
    tokio::pin!(waiting);
    let early = tokio::select! {
        answer = &mut waiting => Some(answer),
        _ = &mut told => None,
    };
    if let Some(answer) = early {
        return Err(match answer {
            Ok(_) => wrong(
                "wait",
                "the queue of a lock that is held let somebody pass".to_owned(),
            ),
            Err(error) => at::<Error>("wait")(error),
        });
    }
    let begin = time::now();
    give_back(&guard, "wait").await?;
    let next = waiting.await.map_err(at("wait"))?.acquired();
    let Some(next) = next else {
        return Err(wrong(
            "wait",
            format!("the lock was not handed over within {PATIENCE:?}"),
        ));
    };
    sheet
        .timed("wait", begin, "queued behind it, and was handed the lock")
        .map_err(at("wait"))?;
    Ok(next)
}

async fn evict(client: &Client, guard: &Guard, sheet: &mut Sheet) -> Result<(), Failed> {
    let begin = time::now();
    let evicted = client
        .evict(guard.name(), guard.token())
        .await
        .map_err(at("break"))?;
    if evicted != Evicted::Evicted {
        return Err(wrong(
            "break",
            format!("breaking the own grant gave {evicted:?}"),
        ));
    }
    let within = PATIENCE.max(guard.ttl());
    let told = tokio::time::timeout(within, guard.lost()).await;
    if told.is_err() {
        return Err(wrong(
            "break",
            "the holder was not told that its grant was taken away".to_owned(),
        ));
    };
    sheet
        .timed(
            "break",
            begin,
            "took the grant away, and the holder heard of it",
        )
        .map_err(at("break"))
}

async fn give_back(guard: &Guard, step: &'static str) -> Result<(), Failed> {
    match guard.release().await {
        Release::Released => Ok(()),
        Release::NotHeld(reason) => Err(wrong(
            step,
            format!("the lock was gone when it was given back: {reason}"),
        )),
        Release::Unknown(error) => Err(at(step)(error)),
        other => Err(wrong(step, format!("giving the lock back gave {other:?}"))),
    }
}

/// A request must fit into its time-out many times over, or a slow moment loses locks.
fn pace(config: &Config, took: Duration, sheet: &mut Sheet) -> Result<(), Failure> {
    let limit = config.request_timeout;
    let show = |span: Duration| {
        humantime::format_duration(Duration::from_micros(
            u64::try_from(span.as_micros()).unwrap_or(u64::MAX),
        ))
        .to_string()
    };
    if took * 10 <= limit {
        return sheet.row(
            "pace",
            Mark::Ok,
            &format!("a request has {}, and takes {}", show(limit), show(took)),
        );
    }
    sheet.row(
        "pace",
        Mark::Warning,
        &format!(
            "taking a lock took {}, and a request is given up after {}: use a longer \
             `client.request_timeout` and `lock.ttl`, or a store that is nearer",
            show(took),
            show(limit)
        ),
    )
}
