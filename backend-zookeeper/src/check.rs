//! Start-up checks: discovers the limits of the servers before anything is locked.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    error::{Error, ErrorKind},
    mode::Modes,
};
use zookeeper_client::{CreateMode, Error as ZkError};

use crate::{
    error::{error, of_read},
    session::{
        DriverConfig, Purpose, Session,
        time::{heartbeat_interval, shortest},
    },
    shared::Shared,
};

const OPERATION: &str = "connecting";

/// The session time-outs that the servers grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    /// The time-out that they grant to a session that asks for two ticks. It is longer than two
    /// ticks if their shortest session is.
    min: Duration,
    max: Duration,
}

impl ServerLimits {
    /// Asks the servers, and compares the answer with the option `tick`. Creates the node of the
    /// address. It begins one session after the other, so that a client has one connection at a
    /// time.
    pub(crate) async fn discover(shared: &Shared) -> Result<Self, Error> {
        let config = &shared.config;
        // A session that reads has the longest time-out.
        let (_, permit) = shared.reader(OPERATION).await?;
        let max = permit.session().granted();
        drop(permit);
        if config.context.read_only {
            let min = Duration::ZERO;
            return Ok(Self { min, max });
        }
        create_root(shared).await?;
        shared.pool.close_reader().await;
        let min = granted_for(config, 2 * config.options.tick).await?;
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
        // One TTL after its newest proof a client no longer resumes a session, and the servers
        // count one TTL from the last time it was resumed, to the end of a tick. They may have
        // counted a heartbeat that proves nothing yet: the last of three.
        let late = 3 * heartbeat_interval(min, tick) + tick;
        Capabilities::new(
            Durability::Consensus,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::Push),
            TtlRange::new(min, self.max, Duration::from_millis(1), TtlScope::Pooled),
            TakeoverBound::new(200, 0, late + Duration::from_millis(500)),
        )
        .with_residue(Some(Duration::ZERO))
        .with_modes(Modes::ALL)
    }
}

/// A session that ends with the call that began it, even if that call is cancelled.
struct Probe(Arc<Session>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The time-out that the servers grant to a session that asks for `asked`. Repeats the request
/// within the time limit, because the servers could be reached a moment before. A time-out far
/// below what any server grants would show the same limit, but the client crate gives up connecting
/// after the time-out that it asks for.
async fn granted_for(config: &Arc<DriverConfig>, asked: Duration) -> Result<Duration, Error> {
    let limit = config.request_limit();
    loop {
        let probe = Probe(Session::begin(config, asked, Purpose::Reads));
        let connected = probe.0.connection(OPERATION, limit).await;
        let granted = probe.0.granted();
        probe.0.close().await;
        // The session needs only to have begun. One that is so short may expire at once on a busy
        // machine.
        match connected {
            _ if !granted.is_zero() => return Ok(granted),
            Err(error) if !error.is_retryable() || config.now() >= limit => return Err(error),
            _ => {}
        }
    }
}

/// Creates the node that the address names, if it is missing.
async fn create_root(shared: &Shared) -> Result<(), Error> {
    let root = shared.keys.root();
    if root.is_empty() {
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
            // The node may exist although this user may not create it.
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
