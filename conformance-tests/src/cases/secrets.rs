//! Secrets, untrusted state and formats: clauses S1 to S3.

use std::sync::Arc;

use tenure_core::{
    error::{Error, ErrorKind},
    id::AttemptId,
    name::LockName,
    request::{Enqueued, List, Renewed},
    token::FencingToken,
};

use crate::{
    context::CaseContext,
    driver::Driver,
    outcome::{Need, Outcome, Stop, ensure},
    wrap::{Fate, Op, Plan},
};

fn show(texts: &mut Vec<String>, error: &Error) {
    texts.push(format!("{error} {error:?} {error:#?}"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        texts.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }
}

pub(crate) async fn show_nowhere(context: Arc<CaseContext>) -> Outcome {
    let secrets = context.env().secrets();
    if secrets.is_empty() {
        return Err(Stop::Ignored(Need::Secrets));
    }
    let plan = Plan::new();
    let connector = context.env().connector();
    let client = context.client_through(&plan, |builder| builder).await?;
    let lock = client.lock("canary")?;
    let guard = lock.acquire().await?;
    let state = client.inspect(guard.name()).await?;
    let page = client.list(List::new("", 10)).await?;
    let mut texts = vec![
        format!("{connector:?} {connector:#?} {:?}", connector.info()),
        format!("{:?} {:#?}", client.backend(), client.backend()),
        format!("{:?} {client:?} {client:#?}", client.info()),
        format!("{lock:?} {lock:#?} {guard:?} {guard:#?}"),
        format!("{:?} {state:?} {page:?}", client.capabilities()),
        serde_json::to_string(&client.capabilities()).map_err(std::io::Error::from)?,
    ];
    plan.set_times(Op::Enqueue, Fate::LoseReply, 1);
    let errors = [
        client.lock("a\0").err(),
        client.lock("other")?.try_acquire().await.err(),
        client
            .evict(&context.name("free")?, FencingToken::new(1))
            .await
            .err(),
    ];
    for error in errors.iter().flatten() {
        show(&mut texts, error);
    }
    if context.env().corrupt(guard.name()).await? {
        let inspected = client.inspect(guard.name()).await;
        if let Err(error) = &inspected {
            show(&mut texts, error);
        }
    }
    drop(guard);
    client.shutdown(context.slack()).await;
    if let Err(error) = client.lock("closed")?.try_acquire().await {
        show(&mut texts, &error);
    }
    for secret in &secrets {
        let found = texts.iter().find(|text| text.contains(secret.as_str()));
        ensure!(
            found.is_none(),
            "S1",
            "a secret shows in a text of {} bytes that begins: {}",
            found.map_or(0, String::len),
            found
                .map(|text| text.replace(secret.as_str(), "[the secret]"))
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect::<String>()
        );
    }
    Ok(())
}

/// Checks that every operation on a lock with wrong state fails with an error of this kind.
async fn refuses(
    driver: &Driver,
    name: &LockName,
    context: &CaseContext,
    kind: ErrorKind,
    clause: &'static str,
) -> Outcome {
    let ttl = context.long();
    let wrong = |what: &str, seen: String| -> Stop {
        let text = format!("{what} returned {seen}, not an error of kind {kind:?}");
        crate::outcome::Failure::new(Some(clause), text).into()
    };
    for wait in [false, true] {
        match driver.enqueue(name, AttemptId::random()?, ttl, wait).await {
            Err(error) if error.kind() == kind => {}
            Ok(Enqueued::Granted(_)) => {
                return Err(wrong("acquiring", "a grant, the worst of all".to_owned()));
            }
            other => return Err(wrong("acquiring", format!("{other:?}"))),
        }
    }
    match driver.inspect(name).await {
        Err(error) if error.kind() == kind => {}
        other => return Err(wrong("inspecting", format!("{other:?}"))),
    }
    match driver.backend().evict(name, FencingToken::new(1)).await {
        Err(error) if error.kind() == kind => {}
        other => return Err(wrong("evicting", format!("{other:?}"))),
    }
    Ok(())
}

pub(crate) async fn malformed_state_is_an_error(context: Arc<CaseContext>) -> Outcome {
    let (driver, holder) = (context.driver().await?, context.driver().await?);
    let name = context.name("scribbled")?;
    let sound = context.name("sound")?;
    let grant = holder.hold(&name, context.long()).await?;
    if !context.env().corrupt(&name).await? {
        return Err(Stop::Ignored(Need::Corrupt));
    }
    refuses(&driver, &name, &context, ErrorKind::Corrupt, "S2").await?;
    // The reply to the holder is no proof, even if its driver remembers its own record.
    let renewed = holder
        .renew(&name, grant.attempt, context.long(), Some(grant.token))
        .await;
    ensure!(
        !matches!(renewed, Ok(Renewed::Proved { .. } | Renewed::Granted(_))),
        "S2",
        "a renewal of scribbled state counts as proved: {renewed:?}"
    );
    refuses(&driver, &name, &context, ErrorKind::Corrupt, "S2").await?;
    let other = driver.try_hold(&sound, context.long()).await?;
    ensure!(
        other.is_some(),
        "S2",
        "scribbled state of one lock keeps another from being taken"
    );
    Ok(())
}

pub(crate) async fn newer_state_is_refused(context: Arc<CaseContext>) -> Outcome {
    let (driver, holder) = (context.driver().await?, context.driver().await?);
    let name = context.name("newer")?;
    holder.hold(&name, context.long()).await?;
    if !context.env().write_newer_format(&name).await? {
        return Err(Stop::Ignored(Need::NewerFormat));
    }
    refuses(&driver, &name, &context, ErrorKind::NewerFormat, "S3").await
}
