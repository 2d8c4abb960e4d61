//! One ZooKeeper server.

use std::{fs, path::PathBuf, time::Duration};

use super::{ServerBuilder, builder, locate};
use crate::{Error, cluster::ClusterKind, http, server::Kind};

/// The time limit of one request while the server is polled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// The time limit of a question of the test.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A running ZooKeeper server, stopped when dropped.
pub type Server = crate::server::Server<ServerBuilder>;

impl Kind for ServerBuilder {
    const NAME: &'static str = "ZooKeeper";

    fn has_tls(&self) -> bool {
        self.tls
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "zookeepers" } else { "zookeeper" }
    }

    fn program(&self) -> Result<PathBuf, Error> {
        locate::class_path(self.archives.as_deref())?;
        locate::java()
    }

    fn listening_ports(server: &Server) -> Vec<u16> {
        vec![server.port(), server.plain_port()]
    }

    fn write_files(server: &Server) -> Result<(), Error> {
        let process = &server.process;
        let settings = &server.settings;
        process.write("log4j.properties", builder::LOGGING)?;
        process.write(
            "zoo.cfg",
            &settings.file(server.directory(), &server.member),
        )?;
        process.write("data/myid", &(server.member.index + 1).to_string())?;
        let Some(certificates) = server.certificates() else {
            return Ok(());
        };
        let read = |path: PathBuf| {
            fs::read_to_string(&path)
                .map_err(|error| process.failed(format!("{}: {error}", path.display())))
        };
        let key = read(certificates.server_key_file())?;
        let certificate = read(certificates.server_certificate_file())?;
        process.write(builder::KEY_AND_CERTIFICATE, &format!("{key}{certificate}"))
    }

    fn arguments(server: &Server) -> Result<Vec<String>, Error> {
        let class_path = locate::class_path(server.settings.archives.as_deref())?;
        Ok(server.settings.arguments(&class_path))
    }

    fn not_serving(server: &Server) -> Option<String> {
        match server.mode() {
            Ok(Some(_)) => None,
            Ok(None) => Some("it does not serve requests".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl ClusterKind for ServerBuilder {
    fn leads(server: &Server) -> bool {
        let answer = server.ask("srvr", LEADER_PROBE_TIMEOUT);
        answer.is_ok_and(|answer| field(&answer, "Mode: ") == Some("leader"))
    }
}

impl Server {
    /// `standalone`, `leader` or `follower`; `None` while the server does not serve.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn mode(&self) -> Result<Option<String>, Error> {
        let answer = self.ask("srvr", PROBE_TIMEOUT)?;
        Ok(field(&answer, "Mode: ").map(str::to_owned))
    }

    /// Whether the server reports that it leads its cluster.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn is_leader(&self) -> Result<bool, Error> {
        Ok(self.mode()?.as_deref() == Some("leader"))
    }

    /// The server's version, for example `3.8.0`.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 30 s, or does not serve.
    pub fn version(&self) -> Result<String, Error> {
        let answer = self.four_letters("srvr")?;
        field(&answer, "Zookeeper version: ")
            .and_then(|version| version.split(['-', ',', ' ']).next())
            .map(str::to_owned)
            .ok_or_else(|| {
                self.process
                    .failed(format!("unexpected reply {}", answer.trim()))
            })
    }

    /// Returns the last executed transaction, and the number of outstanding requests.
    pub(super) fn progress(&self) -> Result<(String, u64), Error> {
        let answer = self.four_letters("srvr")?;
        let of = |name| field(&answer, name).map(str::to_owned);
        of("Zxid: ")
            .zip(of("Outstanding: ").and_then(|count| count.parse().ok()))
            .ok_or_else(|| {
                self.process
                    .failed(format!("unexpected reply {}", answer.trim()))
            })
    }

    /// Returns the reply to a four-letter command, for example `mntr`, `dump`, `cons` or `wchp`.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 30 s.
    pub fn four_letters(&self, command: &str) -> Result<String, Error> {
        self.ask(command, COMMAND_TIMEOUT)
    }

    /// One of the values of `mntr`, for example `zk_ephemerals_count` or `zk_watch_count`; `None` if there is
    /// no such value.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 30 s.
    pub fn metric(&self, name: &str) -> Result<Option<String>, Error> {
        let answer = self.four_letters("mntr")?;
        let mut pairs = answer.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned()))
    }

    fn ask(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        http::exchange(self.plain_port(), command.as_bytes(), timeout)
            .map_err(|error| self.process.failed(format!("`{command}`: {error}")))
    }

    fn plain_port(&self) -> u16 {
        self.settings.plain_port(&self.member)
    }

    /// `127.0.0.1:PORT` of a port without TLS, which a server with TLS has as well.
    #[must_use]
    pub fn plain_address(&self) -> String {
        format!("127.0.0.1:{}", self.plain_port())
    }

    /// As [`restart`](Self::restart), but without its data: transactions are numbered from the beginning,
    /// and sessions are gone. A member of a cluster gets the data of the others instead; see
    /// [`Cluster::wipe`](super::Cluster::wipe).
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn wipe(&self) -> Result<(), Error> {
        self.restart_empty()
    }
}

/// Finds the rest of the line that begins with `name`.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name))
}
