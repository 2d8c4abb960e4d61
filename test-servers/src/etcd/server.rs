//! One etcd server: started, asked, paused, killed, restarted and wiped.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ServerBuilder,
    builder::{Membership, Ports},
};
use crate::{
    Certificates, Error, http,
    managed_process::{ManagedProcess, NotServing},
    ports, process,
};

/// How long one request may take while the server is polled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// How many ports are tried when others take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;
const DATA_DIRECTORY: &str = "data";

/// A running etcd server, stopped when dropped.
///
/// Its methods block for as long as the server takes to answer, at most 30 s.
pub struct Server {
    process: ManagedProcess,
    program: PathBuf,
    settings: ServerBuilder,
    member: Membership,
}

impl Server {
    /// The settings of a new server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(super) fn start(settings: ServerBuilder) -> Result<Self, Error> {
        Self::start_on(settings, &mut ports::free)
    }

    fn start_on(
        settings: ServerBuilder,
        free_port: &mut dyn FnMut() -> Result<u16, Error>,
    ) -> Result<Self, Error> {
        let mut server = Self::prepare(settings)?;
        if server.settings.tls {
            Certificates::generate(server.directory())?;
        }
        for attempt in 1.. {
            let ports = Self::ports(free_port)?;
            server.join(Membership::of(&[ports]).remove(0))?;
            match server.launch() {
                Err(_) if server.port_was_taken() && attempt < MAX_PORT_ATTEMPTS => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    server.make_users()?;
                    return Ok(server);
                }
            }
        }
        Err(server.process.failed("no port was tried"))
    }

    /// A server that does not run yet, and that is no member of anything.
    pub(super) fn prepare(settings: ServerBuilder) -> Result<Self, Error> {
        let program = process::find(&settings.program).ok_or_else(|| {
            Error::new(format!(
                "cannot start an etcd server: no `{}` found; install etcd 3.4 or later (Debian: \
                 apt-get install etcd-server), or say where it is with TENURE_ETCD",
                settings.program
            ))
        })?;
        Ok(Self {
            process: ManagedProcess::new("tenure-etcd-")?,
            program,
            settings,
            member: Membership::default(),
        })
    }

    /// The ports of one server.
    pub(super) fn ports(free_port: &mut dyn FnMut() -> Result<u16, Error>) -> Result<Ports, Error> {
        Ok(Ports {
            client: free_port()?,
            peer: free_port()?,
            metrics: free_port()?,
        })
    }

    /// Makes it a member, with nothing in its store.
    pub(super) fn join(&mut self, member: Membership) -> Result<(), Error> {
        self.member = member;
        self.process
            .set_name(format!("etcd server on port {}", self.port()));
        self.process.write("server.log", "")?;
        self.empty()
    }

    pub(super) fn empty(&self) -> Result<(), Error> {
        self.process.empty(DATA_DIRECTORY)
    }

    pub(super) fn port_was_taken(&self) -> bool {
        self.process.port_was_taken()
    }

    /// Starts the process. A server alone is waited for until it serves, a member of a cluster
    /// until it listens: more may need the other members.
    pub(super) fn launch(&self) -> Result<(), Error> {
        let arguments = self.settings.arguments(&self.member);
        self.process.launch(&self.program, &arguments, |process| {
            let listens = |port| ports::is_listened_on(port, process);
            let ports = self.member.ports;
            if !(listens(ports.client) && listens(ports.metrics)) {
                return Some(format!("it does not listen on port {}", ports.client));
            }
            if self.member.size > 1 {
                return None;
            }
            self.not_healthy()
        })
    }

    /// Why the server does not serve; `None` if it does.
    pub(super) fn not_healthy(&self) -> NotServing {
        match http::get(self.member.ports.metrics, "/health", PROBE_TIMEOUT) {
            Ok(answer) if answer.contains(r#""health":"true""#) => None,
            Ok(answer) => Some(answer),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The port of 127.0.0.1 that the server listens on; it keeps it when it is restarted.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.member.ports.client
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// `etcd://127.0.0.1:PORT`, or `etcds://127.0.0.1:PORT` with TLS; no user, no password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address())
    }

    pub(super) fn settings(&self) -> &ServerBuilder {
        &self.settings
    }

    /// Where the program is that runs.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.settings.tls { "etcds" } else { "etcd" }
    }

    /// The server's directory: its log, its data, its certificates.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.process.directory()
    }

    /// The certificates of a server with TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.settings
            .tls
            .then(|| Certificates::of(self.directory()))
    }

    /// The process id while the server runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.process_id()
    }

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
            .ok_or_else(|| self.process.failed("it does not tell its version"))
    }

    /// One of the numbers that the server tells about itself, for example
    /// `etcd_debugging_mvcc_keys_total` or `etcd_server_is_leader`; none if it tells no such one.
    /// The name is followed by labels in braces if the number has any.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn metric(&self, name: &str) -> Result<Option<f64>, Error> {
        Ok(metric(&self.metrics()?, name))
    }

    /// Whether the server says that it leads its cluster.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn is_leader(&self) -> Result<bool, Error> {
        Ok(self.metric("etcd_server_is_leader")? == Some(1.0))
    }

    /// Whether it says so at once: who is asked again and again may be paused.
    pub(super) fn leads_now(&self) -> bool {
        let metrics = http::get(self.member.ports.metrics, "/metrics", LEADER_PROBE_TIMEOUT);
        metrics.is_ok_and(|metrics| metric(&metrics, "etcd_server_is_leader") == Some(1.0))
    }

    fn metrics(&self) -> Result<String, Error> {
        http::get(self.member.ports.metrics, "/metrics", PROBE_TIMEOUT)
    }

    /// Kills the server (SIGKILL) and waits for its end. What it confirmed stays in its directory.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills the server if it runs, and starts it again: on the same port, with its data. Returns
    /// when it is healthy; a member of a cluster, which may need the others for that, when it
    /// listens.
    ///
    /// # Errors
    ///
    /// When the server ends or does not answer within 30 s.
    pub fn restart(&self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// As [`restart`](Self::restart), but without its data: revisions begin anew, leases are gone.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart), and for a member of a cluster, whose peers would not let it
    /// in: see [`Cluster::wipe`](super::Cluster::wipe).
    pub fn wipe(&self) -> Result<(), Error> {
        if self.member.size > 1 {
            let why = "a member cannot be wiped alone; wipe the cluster";
            return Err(self.process.failed(why));
        }
        self.kill();
        self.empty()?;
        self.launch()?;
        self.make_users()
    }

    /// Stops the process (SIGSTOP): its port still accepts connections, and nobody answers
    /// from the moment that this returns.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&self) -> Result<(), Error> {
        self.process.pause()
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> Result<(), Error> {
        self.process.resume()
    }

    /// Whether the process runs or is paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        self.process.end_of_log()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .field("directory", &self.directory())
            .field("process_id", &self.process_id())
            .finish_non_exhaustive()
    }
}

/// The number of this name among the lines `name value`.
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
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let metrics = "# HELP a\na 1\na_total{x=\"y\"} 2e+06\n";
        assert_eq!(metric(metrics, "a"), Some(1.0));
        assert_eq!(metric(metrics, "a_total{x=\"y\"}"), Some(2_000_000.0));
        assert_eq!(metric(metrics, "a_tot"), None);
    }

    #[test]
    fn a_port_that_was_taken_meanwhile_is_left_to_who_has_it() {
        // Once by somebody who does not speak, once by another etcd, which would even answer.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let speaking = Server::builder().start().unwrap();
        let mut taken = vec![speaking.port(), silent.local_addr().unwrap().port()];
        let mut port = || taken.pop().map_or_else(ports::free, Ok);
        let server = Server::start_on(Server::builder(), &mut port).unwrap();
        assert_ne!(server.port(), speaking.port());
        assert!(server.is_running());
        assert_eq!(server.not_healthy(), None);
    }
}
