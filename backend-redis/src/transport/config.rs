//! The configuration that all connections of one client share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::clock::Clock;

use super::script_call::{Listener, Script};
use crate::address::{Address, Deployment};
use crate::config::Options;

pub(super) struct TransportConfig {
    pub(super) address: Address,
    pub(super) options: Options,
    /// The inbox channel; a read-only client has none.
    pub(super) inbox: Option<String>,
    pub(super) scripts: Vec<&'static Script>,
    /// The longest time that a request may go without a reply.
    pub(super) request_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) has_warned: AtomicBool,
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
            .connect_timeout
            .min(self.request_timeout / shares);
        timeout.max(Duration::from_millis(1))
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
        f.debug_struct("Settings")
            .field("target", &self.address)
            .field("options", &self.options)
            .field("limit", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
