//! The settings of a server.

use std::{fmt, time::Duration};

use crate::{
    Error,
    server::{Membership, Server},
};

/// The environment variable that names the program of another version.
const PROGRAM_VARIABLE: &str = "TENURE_ETCD";
const PROGRAM: &str = "etcd";

/// Settings of a server that has not started yet. The default: no TLS, no users, a heartbeat of
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
    /// Adds a flag of the server, for example `"--quota-backend-bytes=1048576"`. The last of several
    /// contradicting flags applies, including the flags of this crate.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Sets the heartbeat interval of a leader, in whole milliseconds.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Sets the election timeout in whole milliseconds, at least five heartbeats.
    pub fn election_timeout(mut self, silence: Duration) -> Self {
        self.election = Some(silence);
        self
    }

    /// Requires TLS, with new certificates; see [`Server::certificates`].
    /// Members of a cluster share the certificates; connections between members do not use TLS.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Requires TLS and client certificates of the same authority.
    pub fn require_client_certificate(mut self) -> Self {
        self.tls = true;
        self.client_certificates = true;
        self
    }

    /// Adds a user with read and write rights to the keys with this prefix only. With any user, the server
    /// requires a name and a password, or a client certificate whose common name is that of a user.
    pub fn user(mut self, name: &str, password: &str, prefix: &str) -> Self {
        self.users.push(User {
            name: name.to_owned(),
            password: password.to_owned(),
            prefix: prefix.to_owned(),
        });
        self
    }

    /// Sets the server program: a name on the `PATH` or a path. The default is the value of the environment
    /// variable `TENURE_ETCD`, or `etcd`.
    pub fn program(mut self, program: &str) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts the server on a free port of 127.0.0.1. Returns when it is healthy.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or is not healthy within 30 s. The error
    /// then contains the last lines of its log.
    pub fn start(self) -> Result<Server<Self>, Error> {
        Server::start(self)
    }

    /// Sets the default timers of a member of a cluster. With the short timers of a single server, a busy
    /// machine would cause elections.
    pub(super) fn with_timers_of_a_cluster(mut self) -> Self {
        self.heartbeat.get_or_insert(Duration::from_millis(50));
        self.election.get_or_insert(Duration::from_millis(500));
        self
    }

    /// Returns the arguments of the program, for files in the server's directory.
    pub(super) fn arguments(&self, member: &Membership) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        let own = member.own();
        let client = format!("{scheme}://127.0.0.1:{}", own.client);
        let members: Vec<String> = (0..)
            .zip(&member.ports)
            .map(|(index, ports)| format!("member{index}={}", peer_url(ports.advertised_peer())))
            .collect();
        // The token keeps members of different clusters apart.
        let token = member.ports.first().map_or(0, |first| first.peer);
        let heartbeat = self.heartbeat.unwrap_or(Duration::from_millis(10));
        let election = self.election.unwrap_or(Duration::from_millis(100));
        let mut arguments = vec![
            format!("--name=member{}", member.index),
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            // Health and leadership, always without TLS.
            format!("--listen-metrics-urls=http://127.0.0.1:{}", own.status),
            format!("--listen-peer-urls={}", peer_url(own.peer)),
            format!(
                "--initial-advertise-peer-urls={}",
                peer_url(own.advertised_peer())
            ),
            format!("--initial-cluster={}", members.join(",")),
            "--initial-cluster-state=new".to_owned(),
            format!("--initial-cluster-token=test-{token}"),
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
            // A cheap hash, so that checks of passwords are fast.
            arguments.push("--bcrypt-cost=4".to_owned());
        }
        if self.client_certificates {
            arguments.push("--client-cert-auth".to_owned());
            // This flag alone would also require certificates.
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

/// Returns the URL of a port for members.
fn peer_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Ports, RelayPorts};

    #[test]
    fn arguments_name_all_members_and_end_with_the_flags_of_the_test() {
        let ports = |first| Ports {
            client: first,
            peer: first + 1,
            ..Ports::default()
        };
        let member = Membership {
            index: 1,
            ports: vec![ports(10), ports(20)],
        };
        let arguments = ServerBuilder::default()
            .flag("--election-timeout=700")
            .with_timers_of_a_cluster()
            .arguments(&member);
        let line = arguments.join(" ");
        let cluster = "--initial-cluster=member0=http://127.0.0.1:11,member1=http://127.0.0.1:21 ";
        assert!(line.contains(cluster), "{line}");
        assert!(line.starts_with("--name=member1 "), "{line}");
        assert!(line.contains("--heartbeat-interval=50 "), "{line}");
        assert!(line.ends_with(" --election-timeout=700"), "{line}");
    }

    #[test]
    fn member_listens_on_its_own_port_and_advertises_its_relay() {
        let ports = Ports {
            peer: 21,
            relays: Some(RelayPorts {
                peer: 31,
                election: 32,
            }),
            ..Ports::default()
        };
        let member = Membership {
            index: 0,
            ports: vec![ports],
        };
        let line = ServerBuilder::default().arguments(&member).join(" ");
        assert!(line.contains("--listen-peer-urls=http://127.0.0.1:21 "));
        assert!(line.contains("--initial-advertise-peer-urls=http://127.0.0.1:31 "));
        assert!(line.contains("--initial-cluster=member0=http://127.0.0.1:31 "));
    }
}
