//! The locks that the parent processes hold, so that a run does not wait for itself.

use std::ffi::OsString;

use tenure::{Client, Guard, id::AttemptId, name::LockName};

use crate::{
    escape::quote,
    exit::{Failure, USAGE},
};

/// The environment variable with the grants under which this process runs, the outermost first:
/// `name=attempt` in the encoding of lock names, separated by commas.
pub(super) const VARIABLE: &str = "TENURE_HELD";

/// Returns the value of the variable for the command that runs under these grants.
pub(super) fn held_chain(guards: &[Guard]) -> OsString {
    let own = guards
        .iter()
        .map(|guard| format!("{}={}", guard.name().encoded(), guard.attempt()));
    let above = std::env::var(VARIABLE).unwrap_or_default();
    let mut chain: Vec<_> = parse(&above)
        .map(|(name, attempt)| format!("{}={attempt}", name.encoded()))
        .collect();
    chain.extend(own);
    chain.join(",").into()
}

/// Refuses a lock that a parent run of this process holds, also if both would share it: a writer that
/// waits for the parent would stand in front of the inner run.
///
/// The attempt's id is random and unique. A variable that outlived its run, or a copy of it in
/// another process, therefore refuses nothing.
pub(super) async fn refuse_nested(client: &Client, name: &LockName) -> Result<(), Failure> {
    let above = std::env::var(VARIABLE).unwrap_or_default();
    let attempts: Vec<_> = parse(&above)
        .filter(|(held, _)| held == name)
        .map(|(_, attempt)| attempt)
        .collect();
    if attempts.is_empty() {
        return Ok(());
    }
    let state = client.inspect(name).await?;
    let mut holders = state.holders().filter_map(|holder| holder.attempt);
    if holders.any(|holder| attempts.contains(&holder)) {
        return Err(Failure::new(
            USAGE,
            format!(
                "this command already runs under lock {} and would wait for itself forever; \
                 use another lock name for the inner run",
                quote(name.as_str())
            ),
        ));
    }
    Ok(())
}

fn parse(chain: &str) -> impl Iterator<Item = (LockName, AttemptId)> {
    chain.split(',').filter_map(|entry| {
        let (name, attempt) = entry.split_once('=')?;
        Some((LockName::from_encoded(name)?, AttemptId::parse(attempt)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_accepts_only_valid_entries() {
        let attempt = AttemptId::from_u128(7);
        let chain = format!("a%2Fb={attempt},,nonsense,=,x=1,c={attempt}");
        let names: Vec<_> = parse(&chain).map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["a/b", "c"]);
    }
}
