//! The settings of a server.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Error,
    server::{DATA_DIRECTORY, Membership, Server},
};

/// Logs warnings to the output of the process.
pub(super) const LOGGING: &str = "\
log4j.rootLogger=WARN, CONSOLE
log4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender
log4j.appender.CONSOLE.layout=org.apache.log4j.PatternLayout
log4j.appender.CONSOLE.layout.ConversionPattern=%d{ISO8601} %-5p [%t:%C{1}] %m%n
";

/// The server's key followed by its certificate, in the format of a PEM key store.
pub(super) const KEY_AND_CERTIFICATE: &str = "server-key-store.pem";

/// Settings of a server that has not started yet. The default: no TLS, a tick of 100 ms (sessions
/// last from 200 ms to 2 s), and every write is synced before it is acknowledged.
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
    /// Sets the tick in whole milliseconds. By default a session lasts at least 2 and at most 20 ticks.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Adds a line of `zoo.cfg`, for example `("maxSessionTimeout", "60000")`. The last of several lines
    /// with the same key applies, including the lines of this crate.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a property of the Java process, for example `("jute.maxbuffer", "4096")`.
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets whether a write is synced to its file before it is acknowledged. The default is `true`.
    pub fn force_sync(self, force: bool) -> Self {
        self.property("zookeeper.forceSync", if force { "yes" } else { "no" })
    }

    /// Requires TLS on the port of the server, with new certificates; see [`Server::certificates`]. Members
    /// of a cluster share the certificates; connections between members do not use TLS.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// As [`tls`](Self::tls), and requires client certificates of the same authority.
    pub fn require_client_certificate(mut self) -> Self {
        self.tls = true;
        self.client_certificates = true;
        self
    }

    /// Adds a user with all rights to all nodes, who authenticates with the scheme `digest`: `digest` is
    /// `name:` and the base 64 of the SHA-1 of `name:password`.
    pub fn super_user(self, digest: &str) -> Self {
        self.property("zookeeper.DigestAuthenticationProvider.superDigest", digest)
    }

    /// Sets the directory with the archives of ZooKeeper and its dependencies. The default is the value of
    /// the environment variable `TENURE_ZOOKEEPER`, or the archives of the distribution.
    pub fn archives(mut self, directory: &Path) -> Self {
        self.archives = Some(directory.to_owned());
        self
    }

    /// Starts the server on a free port of 127.0.0.1. Returns when it serves.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or does not serve within 30 s. The
    /// error then contains the last lines of its log.
    pub fn start(self) -> Result<Server<Self>, Error> {
        Server::start(self)
    }

    /// The port without TLS, which a server with TLS has as well.
    pub(super) fn plain_port(&self, member: &Membership) -> u16 {
        let own = member.own();
        if self.tls { own.status } else { own.client }
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
            &directory.join(DATA_DIRECTORY).display().to_string(),
        );
        line("clientPortAddress", "127.0.0.1");
        line("clientPort", &self.plain_port(member).to_string());
        if self.tls {
            let file = |name: &str| directory.join(name).display().to_string();
            line("secureClientPortAddress", "127.0.0.1");
            line("secureClientPort", &member.own().client.to_string());
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
        if !member.is_alone() {
            // On a busy machine the start of a member takes seconds, independent of the tick.
            let ticks = 15_000_u128.div_ceil(self.tick.as_millis().max(1));
            line("initLimit", &ticks.to_string());
            let ticks = 1_500_u128.div_ceil(self.tick.as_millis().max(1));
            line("syncLimit", &ticks.to_string());
            for (index, ports) in member.ports.iter().enumerate() {
                // A member listens on the ports of its own line.
                let (peer, election) = if index == member.index {
                    (ports.peer, ports.election)
                } else {
                    (ports.advertised_peer(), ports.advertised_election())
                };
                line(
                    &format!("server.{}", index + 1),
                    &format!("127.0.0.1:{peer}:{election}"),
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
            // For a fast start; the processes do not run long enough for optimization.
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-XX:-UsePerfData",
            "-Djava.net.preferIPv4Stack=true",
            "-Djava.awt.headless=true",
            "-Dlog4j.configuration=file:log4j.properties",
            // The initial size of a log file in KiB.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Ports, RelayPorts};

    #[test]
    fn file_names_all_members_and_ends_with_the_settings_of_the_test() {
        let ports = |first| Ports {
            client: first,
            peer: first + 1,
            election: first + 2,
            status: first + 3,
            relays: Some(RelayPorts {
                peer: first + 4,
                election: first + 5,
            }),
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
        assert!(file.contains("\nserver.1=127.0.0.1:14:15\n"), "{file}");
        assert!(file.contains("\nserver.2=127.0.0.1:21:22\n"), "{file}");
        assert_eq!(file.matches("initLimit").count(), 1, "{file}");
        assert!(file.ends_with("initLimit=7\n"), "{file}");

        let arguments = ServerBuilder::default()
            .force_sync(false)
            .arguments("a.jar");
        assert!(arguments.contains(&"-Dzookeeper.forceSync=no".to_owned()));
    }
}
