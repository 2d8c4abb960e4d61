//! The configuration that all connections of one client share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{clock::Clock, driver::ConnectError, error::ErrorKind};

use super::script_call::{Listener, Script};
use crate::{
    address::{Address, Deployment},
    config::Options,
};

pub(crate) struct TransportConfig {
    pub(crate) address: Address,
    pub(crate) options: Options,
    /// The inbox channel; a read-only client has none.
    pub(crate) inbox: Option<String>,
    /// The scripts that are loaded into each server on connecting.
    pub(crate) scripts: Vec<&'static Script>,
    /// The longest time that opening may take, or that a request may go without a reply.
    pub(crate) request_timeout: Duration,
    /// The clock of [`Transport::grants_blocked_until`](super::Transport::grants_blocked_until).
    pub(crate) clock: Arc<dyn Clock>,
    /// Receives messages and connection changes once the transport is open.
    pub(crate) listener: Arc<dyn Listener>,
    /// Whether a warning about the server's configuration has been logged.
    pub(crate) has_warned: AtomicBool,
}

impl TransportConfig {
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.address.deployment, Deployment::Cluster { .. })
    }

    /// The timeout for connecting to one server. If several servers may have to be tried, the
    /// timeout of one that never answers leaves time for the next.
    pub(super) fn connect_timeout(&self) -> Duration {
        let endpoints = match &self.address.deployment {
            Deployment::Single(_) => 0,
            Deployment::Sentinel { sentinels, .. } => sentinels.len(),
            Deployment::Cluster { seeds } => seeds.len(),
        };
        let shares = u32::try_from(endpoints + 1).unwrap_or(u32::MAX);
        let timeout = self
            .options
            .connection
            .connect_timeout
            .min(self.request_timeout / shares);
        timeout.max(Duration::from_millis(1))
    }

    /// The error for the case that the first connection took all the available time.
    pub(super) fn timed_out(&self) -> ConnectError {
        let (address, limit) = (&self.address, self.request_timeout);
        let detail = format!("{address}: no connection within {limit:?}");
        ConnectError::new(ErrorKind::Unavailable, detail)
    }

    /// Logs a warning about the server's configuration once per client, because every reconnection
    /// would find the same.
    pub(super) fn warn_once(&self, warning: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(backend = "redis", "{warning}");
        }
    }
}

impl fmt::Debug for TransportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportConfig")
            .field("address", &self.address)
            .field("options", &self.options)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
