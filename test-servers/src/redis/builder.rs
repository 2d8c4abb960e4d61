//! How a server is to be: the settings of [`Server`](super::Server) before it is started.

use std::{fmt::Write as _, path::Path};

use super::{Certificates, Server, admin, server};
use crate::Error;

const PROGRAM: &str = "redis-server";

/// Settings of a server that is not started yet. Without any: no TLS, no users, nothing kept on
/// disk, `DEBUG` commands allowed.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ServerBuilder {
    pub(super) program: String,
    pub(super) arguments: Vec<&'static str>,
    config: Vec<(String, String)>,
    users: Vec<(String, String, String)>,
    pub(super) tls: bool,
    client_certificates: bool,
    pub(super) replica_of: Option<u16>,
    pub(super) cluster: bool,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            program: PROGRAM.to_owned(),
            arguments: Vec::new(),
            config: Vec::new(),
            users: Vec::new(),
            tls: false,
            client_certificates: false,
            replica_of: None,
            cluster: false,
        }
    }
}

impl ServerBuilder {
    /// One directive of `redis.conf`, for example `("maxmemory-policy", "allkeys-lru")`. The value
    /// stands in the file as it is here; an empty one is written as `""`. Of two directives that
    /// contradict each other the later one holds, also against those of this crate.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Speaks TLS only, with certificates made for this server; see [`Server::certificates`].
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

    /// A user with these rights, for example `"~app:* &app:* +@read"`. As soon as there is one,
    /// the default user is switched off.
    pub fn acl_user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.users
            .push((name.to_owned(), password.to_owned(), rules.to_owned()));
        self
    }

    /// A replica of `master`, which has to have the same setting of TLS and of users or none; the
    /// server counts as started once it is in step with its master.
    pub fn replica_of(mut self, master: &Server) -> Self {
        self.replica_of = Some(master.port());
        self
    }

    /// The server program, a name on the `PATH` or a path; `redis-server` unless told otherwise.
    pub fn program(mut self, program: &str) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts the server on a free port of 127.0.0.1, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or does not answer within 30 s;
    /// then with the end of its log.
    pub fn start(self) -> Result<Server, Error> {
        Server::start(self)
    }

    pub(super) fn with_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// The text of `redis.conf`.
    pub(super) fn file(&self, directory: &Path, socket: &Path, ports: Ports) -> String {
        let mut file = String::new();
        let mut line = |key: &str, value: &str| {
            let value = if value.is_empty() { "\"\"" } else { value };
            let _ = writeln!(file, "{key} {value}");
        };
        let port = ports.service.to_string();
        line("bind", "127.0.0.1");
        line("unixsocket", &socket.display().to_string());
        line("dir", &directory.display().to_string());
        line("logfile", &server::log_of(directory).display().to_string());
        line("save", "");
        line("appendonly", "no");
        line("enable-debug-command", "yes");
        line("repl-diskless-sync-delay", "0");
        if self.tls {
            let certificates = Certificates::of(directory);
            let path = |path: std::path::PathBuf| path.display().to_string();
            line("port", "0");
            line("tls-port", &port);
            line(
                "tls-cert-file",
                &path(certificates.server_certificate_file()),
            );
            line("tls-key-file", &path(certificates.server_key_file()));
            line("tls-ca-cert-file", &path(certificates.ca_file()));
            line(
                "tls-auth-clients",
                if self.client_certificates {
                    "yes"
                } else {
                    "no"
                },
            );
        } else {
            line("port", &port);
        }
        if let Some(bus) = ports.bus {
            line("cluster-enabled", "yes");
            line("cluster-port", &bus.to_string());
            line("cluster-config-file", "nodes.conf");
        }
        if let Some(master) = self.replica_of {
            line("replicaof", &format!("127.0.0.1 {master}"));
        }
        if self.with_users() {
            let (admin, password) = (admin::USER, admin::PASSWORD);
            line("user", "default off");
            line(
                "user",
                &format!("{admin} on >{password} allkeys allchannels allcommands"),
            );
            for (name, password, rules) in &self.users {
                line("user", &format!("{name} on >{password} {rules}"));
            }
            // So that each of a group can become the replica of each other.
            line("masteruser", admin);
            line("masterauth", password);
        }
        for (key, value) in &self.config {
            line(key, value);
        }
        file
    }
}

/// The ports of one attempt to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) service: u16,
    /// Where members of a cluster talk to each other.
    pub(super) bus: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_test_come_last_and_empty_values_are_quoted() {
        let ports = Ports {
            service: 12_345,
            bus: None,
        };
        let file = ServerBuilder::default()
            .config("save", "")
            .config("maxmemory-policy", "allkeys-lru")
            .file(Path::new("/d"), Path::new("/d/s"), ports);
        assert!(file.contains("\nport 12345\n"), "{file}");
        assert!(
            file.ends_with("save \"\"\nmaxmemory-policy allkeys-lru\n"),
            "{file}"
        );
        assert!(!file.contains("user "), "{file}");
    }
}
