//! What is found out about the servers before anything is locked.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    error::{Error, ErrorKind},
};
use zookeeper_client::{CreateMode, Error as ZkError};

use crate::{
    error::{error, of_read},
    session::{
        DriverConfig, Purpose, Session,
        pool::LONGEST_TIMEOUT,
        time::{heartbeat_interval, shortest},
    },
    shared::Shared,
};

const OPERATION: &str = "connecting";

/// A time-out that is shorter than any server grants, so that it grants its shortest.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// The session time-outs that the servers grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    min: Duration,
    max: Duration,
}

impl ServerLimits {
    /// Asks the servers, and compares the answer with the option `tick`. The sessions that show it are
    /// ended again, one after the other, so that a client never has two connections.
    pub(crate) async fn discover(shared: &Shared) -> Result<Self, Error> {
        let config = &shared.config;
        if config.context.read_only {
            let (_, permit) = shared.reader(OPERATION).await?;
            return Ok(Self {
                min: Duration::ZERO,
                max: permit.session().granted(),
            });
        }
        let max = granted(config, LONGEST_TIMEOUT).await?;
        let limit = config.request_limit();
        let min = loop {
            match granted(config, SHORTEST_TIMEOUT).await {
                Ok(min) => break min,
                // So short a session may expire while it is being begun on a busy machine.
                Err(error) if error.is_retryable() && config.now() < limit => {}
                Err(error) => return Err(error),
            }
        };
        let limits = Self { min, max };
        limits.check(config)?;
        Ok(limits)
    }

    fn check(&self, config: &DriverConfig) -> Result<(), Error> {
        let tick = config.options.tick;
        let show = |span: Duration| format!("{span:?}");
        // The shortest session is two ticks, unless the servers are configured otherwise.
        if self.min > 2 * tick {
            return Err(error(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "the servers' shortest session is {}, so their `tickTime` may be {}; set the \
                     option `tick`, which is {}, to that value (a longer tick than theirs is safe, \
                     a shorter one is not)",
                    show(self.min),
                    show(self.min / 2),
                    show(tick)
                ),
            ));
        }
        if self.max < shortest(tick) {
            return Err(error(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "the servers' longest session is {}, and with ticks of {} the shortest TTL is \
                     {}; set the option `tick` to their `tickTime`",
                    show(self.max),
                    show(tick),
                    show(shortest(tick))
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn capabilities(&self, config: &DriverConfig) -> Capabilities {
        let tick = config.options.tick;
        let min = shortest(tick).max(self.min).min(self.max);
        // One TTL after its newest proof a client does not resume a session any more, and the servers
        // count one TTL from the last time it was resumed, to the end of a tick. They may have counted
        // a heartbeat that proves nothing yet: the last of three.
        let late = 3 * heartbeat_interval(min, tick) + tick;
        Capabilities::new(
            Durability::Consensus,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::Push),
            TtlRange::new(min, self.max, Duration::from_millis(1), TtlScope::Pooled),
            TakeoverBound::new(200, 0, late + Duration::from_millis(500)),
        )
        .with_residue(Some(Duration::ZERO))
    }
}

/// A session that ends with the call that began it, also if the call is given up.
struct Probe(Arc<Session>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The time-out that the servers grant to a session that asks for this one.
async fn granted(config: &Arc<DriverConfig>, timeout: Duration) -> Result<Duration, Error> {
    let probe = Probe(Session::begin(config, timeout, Purpose::Reads));
    let connected = probe.0.connection(OPERATION, config.request_limit()).await;
    let granted = probe.0.granted();
    probe.0.close().await;
    // The session may be over by now. It is enough that it began.
    if granted.is_zero() {
        connected?;
    }
    Ok(granted)
}

/// Creates the node that the address names, if it is missing. A read-only client creates nothing.
pub(crate) async fn prepare(shared: &Shared) -> Result<(), Error> {
    let root = shared.keys.root();
    if root.is_empty() || shared.config.context.read_only {
        return Ok(());
    }
    let (connection, _permit) = shared.reader(OPERATION).await?;
    let failed = |path: &str, failure| of_read(OPERATION, path, failure);
    let client = connection
        .client()
        .map_err(|failure| failed(root, failure))?;
    match client.check_stat(root).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        Err(error) => return Err(failed(root, error.into())),
    }
    let options = CreateMode::Persistent.with_acls(shared.config.options.acls());
    for (at, _) in root.match_indices('/').skip(1).chain([(root.len(), "")]) {
        let path = root.get(..at).unwrap_or(root);
        match client.create(path, b"", &options).await {
            Ok(_) | Err(ZkError::NodeExists) => {}
            // The right to create it may be missing although it exists.
            Err(ZkError::NoAuth) if path != root => {}
            Err(ZkError::NoAuth) => {
                return Err(error(
                    ErrorKind::PermissionDenied,
                    OPERATION,
                    format!(
                        "the node `{root}` of the address does not exist, and this user may not \
                         create it; create it, or give the user the right to"
                    ),
                ));
            }
            Err(error) => return Err(failed(path, error.into())),
        }
    }
    Ok(())
}
