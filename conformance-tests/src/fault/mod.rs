//! Faults on the way between clients and a store.
//!
//! A harness that can lead its clients through a [`Proxies`] gives the suite a [`Faulty`] way to
//! its store ([`Env::faulty`](crate::Env::faulty)); the cases of the group `faults` then apply.

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

/// What happens to all that passes between clients and the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Connections that are open are reset, and new ones are reset as soon as they are made.
    Refuse,
    /// Nothing passes, in neither direction; connections stay open. What was sent meanwhile arrives
    /// when the fault is over.
    BlackHole,
    /// What clients send does not arrive; what the store sends does.
    HoldRequests,
    /// What clients send arrives and is carried out; nothing that the store sends reaches them.
    HoldReplies,
    /// What clients send arrives and is carried out; the first that the store sends on a connection
    /// is lost, and the connection is reset.
    LoseReplies,
    /// Everything arrives that much later, in each direction.
    Delay(Duration),
}

/// What can break the way to a store.
pub trait Line: Send + Sync + 'static {
    /// Breaks it, or with [`Fault::None`] mends it.
    fn set(&self, fault: Fault);

    /// Resets every connection that is open. New ones are made as the fault allows.
    fn reset(&self);

    /// How often a fault was seen to take effect: a connection was reset or refused, something was
    /// held back, lost or delayed.
    fn effects(&self) -> u64;
}

/// A way to the store that can be broken.
#[derive(Clone)]
pub struct Faulty {
    connector: Arc<dyn Connect>,
    line: Arc<dyn Line>,
}

impl Faulty {
    /// A connector all of whose connections go over that line.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, line: impl Line) -> Self {
        Self {
            connector,
            line: Arc::new(line),
        }
    }

    /// The store at an address of the form `scheme://host:port,host:port/path`, with a proxy in front of
    /// each of its servers; `connect` makes a connector of the address of the proxies.
    ///
    /// To be called inside of a Tokio runtime, in which the proxies then run.
    ///
    /// # Errors
    ///
    /// Those of `connect`, and [`ErrorKind::Unavailable`] when no proxies can be had.
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

    /// A store without a network: the faults are set between the core and the driver. What the driver
    /// itself does under faults is not seen then.
    #[must_use]
    pub fn above(connector: Arc<dyn Connect>) -> Self {
        let plan = Plan::new();
        Self::new(Arc::new(Tap::new(connector, &plan)), plan)
    }

    /// The way to the store.
    #[must_use]
    pub fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connector)
    }

    /// What breaks it.
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
