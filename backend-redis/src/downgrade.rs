//! Turning an exclusive grant into a shared one.

use tenure_core::{
    error::Error,
    request::{Downgrade, Downgraded},
};

use crate::{
    error::from_call_error,
    error::unexpected_reply,
    record::loss_reason,
    scripts::{Reply, Scripts},
    shared::Shared,
    transport::{CallError, ScriptCall},
};

pub(crate) async fn downgrade(shared: &Shared, request: &Downgrade) -> Result<Downgraded, Error> {
    const OPERATION: &str = "downgrading";
    let keys = shared.lock_keys(&request.name)?;
    let mut call = ScriptCall::new(&Scripts::get().downgrade);
    keys.push_all(&mut call);
    call.arg(request.attempt);
    call.arg(request.token);
    call.arg(shared.token_floor());
    let grants_blocked = shared.restart_delay_error(OPERATION, &keys).is_some();
    call.arg(u8::from(grants_blocked));
    let mut outcome = (Err(CallError::no_reply()), 0);
    shared
        .call_granting(vec![call], &mut |_, answer, missing_acks| {
            outcome = (answer, missing_acks);
        })
        .await;
    let (answer, missing_acks) = outcome;
    let value = answer.map_err(|error| from_call_error(OPERATION, error))?;
    let mut reply = Reply::new(OPERATION, value)?;
    match reply.text()?.as_str() {
        // After a failover the grant could be exclusive again, while others share the lock. The core
        // repeats the request.
        "shared" if missing_acks > 0 => Err(shared.too_few_replicas(OPERATION, missing_acks)),
        "shared" => Ok(Downgraded::Shared),
        "gone" => Ok(Downgraded::Gone(loss_reason(&reply.text()?))),
        _ => Err(unexpected_reply(OPERATION, &redis::Value::Nil)),
    }
}
