//! How a server is to be: the settings of [`Server`](super::Server) before it is started.

use std::{fmt, time::Duration};

use super::Server;
use crate::Error;

/// The environment variable that names the program of another version.
const PROGRAM_VARIABLE: &str = "TENURE_ETCD";
const PROGRAM: &str = "etcd";

/// Settings of a server that is not started yet. Without any: no TLS, no users, a heartbeat of
/// 10 ms and elections after 100 ms.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ServerBuilder {
    pub(super) program: String,
    flags: Vec<String>,
    heartbeat: Option<Duration>,
    election: Option<Duration>,
    pub(super) tls: bool,
    client_certificates: bool,
    pub(super) users: Vec<User>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            program: std::env::var(PROGRAM_VARIABLE).unwrap_or_else(|_| PROGRAM.to_owned()),
            flags: Vec::new(),
            heartbeat: None,
            election: None,
            tls: false,
            client_certificates: false,
            users: Vec::new(),
        }
    }
}

impl ServerBuilder {
    /// One more flag of the server, for example `"--quota-backend-bytes=1048576"`. Of two flags
    /// that contradict each other the later one holds, also against those of this crate.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// How often a leader shows that it is there, in whole milliseconds.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// How long a follower waits for its leader before it stands for election, in whole
    /// milliseconds; at least five heartbeats.
    pub fn election_timeout(mut self, silence: Duration) -> Self {
        self.election = Some(silence);
        self
    }

    /// Speaks TLS only, with certificates made for this server; see [`Server::certificates`].
    /// Members of a cluster have the same ones; among themselves they do not use them.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Speaks TLS only, and only with clients that have a certificate of the same authority.
    pub fn require_client_certificate(mut self) -> Self {
        self.tls = true;
        self.client_certificates = true;
        self
    }

    /// A user who may read and write the keys that begin with `prefix`, and nothing else. As soon
    /// as there is one, nobody gets in without a name and a password, or a client certificate
    /// whose common name is that of a user.
    pub fn user(mut self, name: &str, password: &str, prefix: &str) -> Self {
        self.users.push(User {
            name: name.to_owned(),
            password: password.to_owned(),
            prefix: prefix.to_owned(),
        });
        self
    }

    /// The server program, a name on the `PATH` or a path. Unless told otherwise, it is what the
    /// environment variable `TENURE_ETCD` says, and `etcd` without it.
    pub fn program(mut self, program: &str) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts the server on a free port of 127.0.0.1, and returns when it is healthy.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or is not healthy within 30 s;
    /// then with the end of its log.
    pub fn start(self) -> Result<Server, Error> {
        Server::start(self)
    }

    /// The timers of a member of a cluster, where no others were set: on a busy machine the short
    /// ones would elect a new leader now and then.
    pub(super) fn with_timers_of_a_cluster(mut self) -> Self {
        self.heartbeat.get_or_insert(Duration::from_millis(50));
        self.election.get_or_insert(Duration::from_millis(500));
        self
    }

    /// The server's command line, for files in its own directory.
    pub(super) fn arguments(&self, member: &Membership) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", member.ports.client);
        let heartbeat = self.heartbeat.unwrap_or(Duration::from_millis(10));
        let election = self.election.unwrap_or(Duration::from_millis(100));
        let mut arguments = vec![
            format!("--name={}", member.name),
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            // Health and leadership, without TLS whatever the clients use.
            format!(
                "--listen-metrics-urls=http://127.0.0.1:{}",
                member.ports.metrics
            ),
            format!("--listen-peer-urls={}", member.ports.peer_url()),
            format!("--initial-advertise-peer-urls={}", member.ports.peer_url()),
            format!("--initial-cluster={}", member.cluster),
            "--initial-cluster-state=new".to_owned(),
            format!("--initial-cluster-token={}", member.token),
            format!("--heartbeat-interval={}", heartbeat.as_millis()),
            format!("--election-timeout={}", election.as_millis()),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        if self.tls {
            arguments.push("--cert-file=server.pem".to_owned());
            arguments.push("--key-file=server.key".to_owned());
        }
        if !self.users.is_empty() {
            // Passwords of tests need not be hard to guess, but fast to check.
            arguments.push("--bcrypt-cost=4".to_owned());
        }
        if self.client_certificates {
            arguments.push("--client-cert-auth".to_owned());
            // Alone, this asks for certificates as well.
            arguments.push("--trusted-ca-file=ca.pem".to_owned());
        }
        arguments.extend(self.flags.iter().cloned());
        arguments
    }
}

/// A user with rights to one prefix.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    pub(super) prefix: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The ports of one attempt to start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) peer: u16,
    pub(super) metrics: u16,
}

impl Ports {
    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }
}

/// Who a server is among its peers.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    pub(super) name: String,
    pub(super) ports: Ports,
    /// All members, as the server's flag wants them.
    pub(super) cluster: String,
    /// What keeps members of different clusters apart.
    pub(super) token: String,
    /// How many members there are.
    pub(super) size: usize,
}

impl Membership {
    /// A cluster of the servers at these ports.
    pub(super) fn of(ports: &[Ports]) -> Vec<Self> {
        let name = |index: usize| format!("member{index}");
        let cluster: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, ports)| format!("{}={}", name(index), ports.peer_url()))
            .collect();
        let cluster = cluster.join(",");
        ports
            .iter()
            .enumerate()
            .map(|(index, own)| Self {
                name: name(index),
                ports: *own,
                cluster: cluster.clone(),
                token: format!("test-{}", ports[0].peer),
                size: ports.len(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_know_each_other_and_flags_of_the_test_come_last() {
        let ports = |first| Ports {
            client: first,
            peer: first + 1,
            metrics: first + 2,
        };
        let members = Membership::of(&[ports(10), ports(20)]);
        let arguments = ServerBuilder::default()
            .flag("--election-timeout=700")
            .with_timers_of_a_cluster()
            .arguments(&members[1]);
        let line = arguments.join(" ");
        let cluster = "--initial-cluster=member0=http://127.0.0.1:11,member1=http://127.0.0.1:21 ";
        assert!(line.contains(cluster), "{line}");
        assert!(line.starts_with("--name=member1 "), "{line}");
        assert!(line.contains("--heartbeat-interval=50 "), "{line}");
        assert!(line.ends_with(" --election-timeout=700"), "{line}");
    }
}
