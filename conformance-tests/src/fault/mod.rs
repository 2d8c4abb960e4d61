//! Faults on the connections between clients and a store.
//!
//! A harness that can route its clients through [`Proxies`] gives the suite a [`Faulty`] connector
//! ([`Env::faulty`](crate::Env::faulty)); the cases of the group `faults` then apply.

mod plan;
mod proxy;
mod relay;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

pub use proxy::Proxies;
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
};

use crate::wrap::{Plan, Tap};

/// A fault of all traffic between clients and the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No fault.
    #[default]
    None,
    /// Open connections are reset, and new connections are reset as soon as they are made.
    Refuse,
    /// No data passes in either direction; connections stay open. Data sent during the fault arrives
    /// when the fault ends.
    BlackHole,
    /// Requests do not arrive; replies do.
    HoldRequests,
    /// Requests arrive and are executed; replies do not reach the clients.
    HoldReplies,
    /// Requests arrive and are executed; the first reply on a connection is lost, and the connection is
    /// reset.
    LoseReplies,
    /// All data arrives later by this duration, in each direction.
    Delay(Duration),
}

/// Injects faults on the connections to a store.
pub trait Line: Send + Sync + 'static {
    /// Sets the fault on all connections; [`Fault::None`] ends it.
    fn set(&self, fault: Fault);

    /// Returns the number of servers on whose connections a fault can be set without the others.
    fn servers(&self) -> usize {
        1
    }

    /// Sets the fault on the connections to one of these servers, which are numbered from 0.
    fn set_on(&self, _server: usize, fault: Fault) {
        self.set(fault);
    }

    /// Resets every open connection. The current fault applies to new connections.
    fn reset(&self);

    /// Returns how often a fault took effect: a connection was reset or refused, or data was held back,
    /// lost or delayed.
    fn effects(&self) -> u64;
}

/// A connector to the store on which faults can be injected.
#[derive(Clone)]
pub struct Faulty {
    connector: Arc<dyn Connect>,
    line: Arc<dyn Line>,
}

impl Faulty {
    /// Wraps a connector whose connections all use the given line.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, line: impl Line) -> Self {
        Self {
            connector,
            line: Arc::new(line),
        }
    }

    /// Starts a proxy in front of each server of an address of the form
    /// `scheme://host:port,host:port/path`; `connect` creates a connector from the proxies' address.
    ///
    /// Call this function inside a Tokio runtime, in which the proxies then run.
    ///
    /// # Errors
    ///
    /// The errors of `connect`, and [`ErrorKind::Unavailable`] if the proxies cannot start.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves nothing behind.
    pub async fn to(
        address: &str,
        connect: impl FnOnce(String) -> Result<Arc<dyn Connect>, Error> + Send,
    ) -> Result<Self, Error> {
        let failed = |detail: String| {
            Error::new(ErrorKind::Unavailable, "starting proxies").with_detail(detail)
        };
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| failed("the address names no server".to_owned()))?;
        let servers = rest.split('/').next().unwrap_or_default();
        let path = &rest[servers.len()..];
        let proxies = Proxies::start(servers.split(',')).await;
        let proxies = proxies.map_err(|error| failed(error.to_string()))?;
        let connector = connect(format!("{scheme}://{}{path}", proxies.list()))?;
        Ok(Self::new(connector, proxies))
    }

    /// Wraps a store without a network: the faults apply between the core and the driver. The suite then
    /// does not test the driver's own behaviour under faults.
    #[must_use]
    pub fn above(connector: Arc<dyn Connect>) -> Self {
        let plan = Plan::unrecorded();
        Self::new(Arc::new(Tap::new(connector, &plan)), plan)
    }

    /// Returns the connector to the store.
    #[must_use]
    pub fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connector)
    }

    /// Returns the line on which faults are set.
    #[must_use]
    pub fn line(&self) -> &dyn Line {
        &*self.line
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}
