//! One etcd server.

use std::{path::PathBuf, time::Duration};

use super::ServerBuilder;
use crate::{Error, cluster::ClusterKind, http, process, server::Kind};

/// The time limit of one request while the server is polled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// A running etcd server, stopped when dropped.
pub type Server = crate::server::Server<ServerBuilder>;

impl Kind for ServerBuilder {
    const NAME: &'static str = "etcd";

    fn has_tls(&self) -> bool {
        self.tls
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "etcds" } else { "etcd" }
    }

    fn program(&self) -> Result<PathBuf, Error> {
        process::find(&self.program).ok_or_else(|| {
            Error::new(format!(
                "cannot start an etcd server: no `{}` found; install etcd 3.4 or later (Debian: \
                 apt-get install etcd-server), or set TENURE_ETCD to its path",
                self.program
            ))
        })
    }

    fn listening_ports(server: &Server) -> Vec<u16> {
        vec![server.port(), server.member.own().status]
    }

    fn arguments(server: &Server) -> Result<Vec<String>, Error> {
        Ok(server.settings.arguments(&server.member))
    }

    fn not_serving(server: &Server) -> Option<String> {
        match server.status("/health", PROBE_TIMEOUT) {
            Ok(answer) if answer.contains(r#""health":"true""#) => None,
            Ok(answer) => Some(answer),
            Err(error) => Some(error.to_string()),
        }
    }

    fn initialize(server: &Server) -> Result<(), Error> {
        server.make_users()
    }
}

impl ClusterKind for ServerBuilder {
    fn into_member(self) -> Self {
        self.with_timers_of_a_cluster()
    }

    fn leads(server: &Server) -> bool {
        let metrics = server.status("/metrics", LEADER_PROBE_TIMEOUT);
        metrics.is_ok_and(|metrics| metric(&metrics, IS_LEADER) == Some(1.0))
    }
}

const IS_LEADER: &str = "etcd_server_is_leader";

impl Server {
    /// The server's version, for example `3.4.23`.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn version(&self) -> Result<String, Error> {
        let metrics = self.metrics()?;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix("etcd_server_version{server_version=\""))
            .and_then(|rest| rest.split('"').next())
            .map(str::to_owned)
            .ok_or_else(|| {
                self.process
                    .failed("its metrics do not contain its version")
            })
    }

    /// One of the server's metrics, for example `etcd_debugging_mvcc_keys_total` or
    /// `etcd_server_is_leader`; `None` if there is no such metric. The name includes the labels in braces
    /// if the metric has any.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn metric(&self, name: &str) -> Result<Option<f64>, Error> {
        Ok(metric(&self.metrics()?, name))
    }

    /// Whether the server reports that it leads its cluster.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn is_leader(&self) -> Result<bool, Error> {
        Ok(self.metric(IS_LEADER)? == Some(1.0))
    }

    /// As [`restart`](Self::restart), but without its data: revisions start again, and leases are gone.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart), and for a member of a cluster, which its peers would refuse: see
    /// [`Cluster::wipe`](super::Cluster::wipe).
    pub fn wipe(&self) -> Result<(), Error> {
        if !self.member.is_alone() {
            let why = "a member cannot be wiped alone; wipe the cluster";
            return Err(self.process.failed(why));
        }
        self.restart_empty()
    }

    fn metrics(&self) -> Result<String, Error> {
        self.status("/metrics", PROBE_TIMEOUT)
    }

    fn status(&self, path: &str, timeout: Duration) -> Result<String, Error> {
        http::get(self.member.own().status, path, timeout)
    }
}

/// Finds the metric of this name among lines of the form `name value`.
fn metric(metrics: &str, name: &str) -> Option<f64> {
    let rest = |line: &'_ str| -> Option<f64> {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    metrics.lines().find_map(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_found_by_its_whole_name() {
        let metrics = "# HELP a\na 1\na_total{x=\"y\"} 2e+06\n";
        assert_eq!(metric(metrics, "a"), Some(1.0));
        assert_eq!(metric(metrics, "a_total{x=\"y\"}"), Some(2_000_000.0));
        assert_eq!(metric(metrics, "a_tot"), None);
    }
}
