//! How a server is to be: the settings of [`Server`](super::Server) before it is started.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Server;
use crate::Error;

/// Warnings only, to what the process prints.
pub(super) const LOGGING: &str = "\
log4j.rootLogger=WARN, CONSOLE
log4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender
log4j.appender.CONSOLE.layout=org.apache.log4j.PatternLayout
log4j.appender.CONSOLE.layout.ConversionPattern=%d{ISO8601} %-5p [%t:%C{1}] %m%n
";

/// The server's key with its certificate after it: one file, as a PEM key store has to be.
pub(super) const KEY_AND_CERTIFICATE: &str = "server-key-store.pem";

/// Settings of a server that is not started yet. Without any: no TLS, a tick of 100 ms (so that
/// sessions last from 200 ms to 2 s), every write safe in a file before it is confirmed.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ServerBuilder {
    pub(super) archives: Option<PathBuf>,
    tick: Duration,
    config: Vec<(String, String)>,
    properties: Vec<(String, String)>,
    pub(super) tls: bool,
    client_certificates: bool,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            archives: None,
            tick: Duration::from_millis(100),
            config: Vec::new(),
            properties: Vec::new(),
            tls: false,
            client_certificates: false,
        }
    }
}

impl ServerBuilder {
    /// The unit of time of the server, in whole milliseconds. Unless the configuration says
    /// otherwise, a session lasts at least 2 and at most 20 of them.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// One line of `zoo.cfg`, for example `("maxSessionTimeout", "60000")`. Of two lines with the
    /// same key the later one holds, also against those of this crate.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A property of the Java process, for example `("jute.maxbuffer", "4096")`.
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Whether a write is safe in a file before it is confirmed; it is unless told otherwise.
    pub fn force_sync(self, force: bool) -> Self {
        self.property("zookeeper.forceSync", if force { "yes" } else { "no" })
    }

    /// Speaks TLS on the port that the server is known by, with certificates made for it; see
    /// [`Server::certificates`]. Members of a cluster have the same ones; among themselves they do
    /// not use them.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// As [`tls`](Self::tls), and only with clients that have a certificate of the same authority.
    pub fn require_client_certificate(mut self) -> Self {
        self.tls = true;
        self.client_certificates = true;
        self
    }

    /// A user with all rights to all nodes, who names himself with the scheme `digest`: `digest` is
    /// `name:` and the SHA-1 of `name:password` in base 64, as a server prints it.
    pub fn super_user(self, digest: &str) -> Self {
        self.property("zookeeper.DigestAuthenticationProvider.superDigest", digest)
    }

    /// The directory that has the archive of ZooKeeper and all that it needs. Unless told
    /// otherwise, it is what the environment variable `TENURE_ZOOKEEPER` says, and without it the
    /// archives that a distribution has installed.
    pub fn archives(mut self, directory: &Path) -> Self {
        self.archives = Some(directory.to_owned());
        self
    }

    /// Starts the server on a free port of 127.0.0.1, and returns when it serves.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or does not serve within 30 s;
    /// then with the end of its log.
    pub fn start(self) -> Result<Server, Error> {
        Server::start(self)
    }

    /// The text of `zoo.cfg`.
    pub(super) fn file(&self, directory: &Path, member: &Membership) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut line = |key: &str, value: &str| {
            lines.retain(|(other, _)| other != key);
            lines.push((key.to_owned(), value.to_owned()));
        };
        line("tickTime", &self.tick.as_millis().to_string());
        line(
            "dataDir",
            &directory
                .join(super::server::DATA_DIRECTORY)
                .display()
                .to_string(),
        );
        line("clientPortAddress", "127.0.0.1");
        line("clientPort", &member.own().client.to_string());
        if self.tls {
            let file = |name: &str| directory.join(name).display().to_string();
            line("secureClientPortAddress", "127.0.0.1");
            line("secureClientPort", &member.own().secure.to_string());
            line("ssl.keyStore.type", "PEM");
            line("ssl.keyStore.location", &file(KEY_AND_CERTIFICATE));
            line("ssl.trustStore.type", "PEM");
            line("ssl.trustStore.location", &file("ca.pem"));
            let client = if self.client_certificates {
                "need"
            } else {
                "none"
            };
            line("ssl.clientAuth", client);
        }
        line("maxClientCnxns", "0");
        line("4lw.commands.whitelist", "*");
        line("admin.enableServer", "false");
        line("autopurge.purgeInterval", "0");
        if member.ports.len() > 1 {
            // A member that starts on a busy machine takes seconds, whatever the tick is.
            let ticks = 15_000_u128.div_ceil(self.tick.as_millis().max(1));
            line("initLimit", &ticks.to_string());
            let ticks = 1_500_u128.div_ceil(self.tick.as_millis().max(1));
            line("syncLimit", &ticks.to_string());
            for (index, ports) in member.ports.iter().enumerate() {
                line(
                    &format!("server.{}", index + 1),
                    &format!("127.0.0.1:{}:{}", ports.peer, ports.election),
                );
            }
        }
        for (key, value) in &self.config {
            line(key, value);
        }
        lines.iter().fold(String::new(), |mut file, (key, value)| {
            let _ = writeln!(file, "{key}={value}");
            file
        })
    }

    /// The arguments of `java`.
    pub(super) fn arguments(&self, class_path: &str) -> Vec<String> {
        let mut arguments: Vec<String> = [
            // Small and started fast; nothing here runs long enough to be worth optimising.
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-XX:-UsePerfData",
            "-Djava.net.preferIPv4Stack=true",
            "-Djava.awt.headless=true",
            "-Dlog4j.configuration=file:log4j.properties",
            // In KiB; one file of the log is made as large as this at once.
            "-Dzookeeper.preAllocSize=64",
            "-Dzookeeper.jmx.log4j.disable=true",
        ]
        .map(str::to_owned)
        .into();
        if self.tls {
            arguments.push(
                "-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory"
                    .to_owned(),
            );
        }
        for (key, value) in &self.properties {
            arguments.push(format!("-D{key}={value}"));
        }
        arguments.extend([
            "-cp".to_owned(),
            class_path.to_owned(),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned(),
            "./zoo.cfg".to_owned(),
        ]);
        arguments
    }
}

/// The ports of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ports {
    /// Without TLS, always there: for four letters.
    pub(super) client: u16,
    pub(super) secure: u16,
    pub(super) peer: u16,
    pub(super) election: u16,
}

/// Who a server is among its peers.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    /// Counted from zero.
    pub(super) index: usize,
    /// Of all members.
    pub(super) ports: Vec<Ports>,
}

impl Membership {
    pub(super) fn own(&self) -> Ports {
        self.ports.get(self.index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_test_come_last_and_members_know_each_other() {
        let ports = |first| Ports {
            client: first,
            peer: first + 1,
            election: first + 2,
            secure: first + 3,
        };
        let member = Membership {
            index: 1,
            ports: vec![ports(10), ports(20)],
        };
        let file = ServerBuilder::default()
            .config("initLimit", "7")
            .file(Path::new("/d"), &member);
        assert!(file.contains("\ndataDir=/d/data\n"), "{file}");
        assert!(file.contains("\nclientPort=20\n"), "{file}");
        assert!(file.contains("\nserver.1=127.0.0.1:11:12\n"), "{file}");
        assert_eq!(file.matches("initLimit").count(), 1, "{file}");
        assert!(file.ends_with("initLimit=7\n"), "{file}");

        let arguments = ServerBuilder::default()
            .force_sync(false)
            .arguments("a.jar");
        assert!(arguments.contains(&"-Dzookeeper.forceSync=no".to_owned()));
    }
}
