//! One task, one lock that nobody else wants.

use std::time::Duration;

use crate::{Contender, Failure, Spread, now};

/// How long each turn (acquire and release) takes, one after the other for `span`; at least one.
///
/// # Errors
///
/// The failure of the first turn that fails.
///
/// # Cancel safety
///
/// Cancelling it leaves the lock to the contender's own way of giving up.
pub async fn alone(
    contender: &dyn Contender,
    lock: &str,
    span: Duration,
) -> Result<Spread, Failure> {
    let begin = now();
    let mut times = Vec::new();
    while times.is_empty() || now().since(begin) < span {
        let start = now();
        contender.turn(lock, &|| ()).await?;
        times.push(now().since(start));
    }
    Ok(Spread::new(times))
}
