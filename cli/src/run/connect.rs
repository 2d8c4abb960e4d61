//! Connects, and waits for a store that has no connection left or cannot be reached.

use std::time::Duration;

use tenure::{
    Client, Config, ErrorKind, Registry,
    clock::{Instant, SystemClock},
    driver::Backoff,
    name::LockName,
};

use super::wait;
use crate::{
    escape::quote,
    exit::{Failure, describe, print_message},
    time,
};

/// The upper bound of the first pause between two attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The upper bound of every pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Which failures to connect are waited out, and how long.
pub(super) struct StoreWait {
    /// `None` waits forever, and zero does not wait.
    pub(super) limit: Option<Duration>,
    /// Also waits for a store that cannot be reached. A store that has no connection left is always
    /// waited for, because a connection becomes free when another program ends.
    pub(super) unreachable: bool,
    /// Does not announce the wait.
    pub(super) quiet: bool,
}

impl StoreWait {
    fn includes(&self, kind: ErrorKind) -> bool {
        match kind {
            ErrorKind::Exhausted => true,
            ErrorKind::Unavailable | ErrorKind::Timeout => self.unreachable,
            _ => false,
        }
    }
}

/// Connects to the configured store. If this fails, it tries again within the limit, and then
/// fails with the last error.
///
/// The limit does not end the first attempt, which takes at most the request time-out.
pub(super) async fn connect(
    config: &Config,
    registry: &Registry,
    name: &LockName,
    store_wait: StoreWait,
) -> Result<Client, Failure> {
    let limit = store_wait.limit;
    let deadline = limit.map(|limit| time::now() + limit);
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut announced = store_wait.quiet;
    let mut error = match config.connect(registry).await {
        Ok(client) => return Ok(client),
        Err(error) => error,
    };
    while store_wait.includes(error.kind()) && limit != Some(Duration::ZERO) {
        if !announced {
            announced = true;
            print_message(&format!(
                "waiting for the store of lock {}: {}",
                quote(name.as_str()),
                describe(&error)
            ));
        }
        let next = async {
            backoff.pause(&SystemClock).await;
            config.connect(registry).await
        };
        error = tokio::select! {
            biased;
            connected = next => match connected {
                Ok(client) => return Ok(client),
                Err(error) => error,
            },
            () = reached(deadline) => return Err(wait::failed(error, name, limit)),
        };
    }
    Err(Failure::from(error).naming(name))
}

/// Resolves at the deadline; never, if there is none.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
