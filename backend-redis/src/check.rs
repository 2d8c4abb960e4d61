//! The checks at start-up.

use tenure_core::{
    error::{Error, ErrorKind},
    name::LockName,
};

use crate::{
    error::{error, from_call_error},
    keys::inbox,
    scripts::Scripts,
    shared::Shared,
    transport::ScriptCall,
};

/// Tries every command and key pattern that the scripts need, on keys that nobody uses. Without
/// this check, a missing right would first show when two clients contend for a lock, or in the
/// middle of a hand-over.
pub(crate) async fn check_rights(shared: &Shared) -> Result<(), Error> {
    const OPERATION: &str = "connecting";
    let client = shared.context.client;
    let keys = shared.lock_keys(&LockName::new(format!("rights of {client}"))?)?;
    let mut call = ScriptCall::new(&Scripts::get().rights);
    keys.push_for_inspect(&mut call);
    call.arg(inbox(client));
    call.arg(u8::from(shared.context.read_only));
    let value = match shared.transport.call(call).await {
        Ok(value) => value,
        Err(error) => {
            let error = from_call_error(OPERATION, error);
            // Only missing rights are reported here. If the server is busy or unreachable, the next
            // operation reports that.
            return match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Err(error),
                _ => Ok(()),
            };
        }
    };
    let missing_rights: Vec<String> = redis::from_redis_value(value).unwrap_or_default();
    if missing_rights.is_empty() {
        return Ok(());
    }
    Err(error(
        ErrorKind::PermissionDenied,
        OPERATION,
        format!(
            "the user lacks rights that locks need: {}; compare its rights with the ACL line in \
             docs/backends/redis.md",
            missing_rights.join(" ")
        ),
    ))
}
