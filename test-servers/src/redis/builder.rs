//! The settings of a server.

use std::{fmt::Write as _, path::Path};

use super::admin;
use crate::{
    Certificates, Error,
    ports::Ports,
    server::{DATA_DIRECTORY, Server},
};

const PROGRAM: &str = "redis-server";
/// The unix socket, in the server's directory.
pub(super) const SOCKET: &str = "socket";

/// Settings of a server that has not started yet. The default: no TLS, no users, nothing kept on
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
    pub(super) steppable_clock: bool,
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
            steppable_clock: false,
        }
    }
}

impl ServerBuilder {
    /// Adds a directive of `redis.conf`, for example `("maxmemory-policy", "allkeys-lru")`. The value is
    /// written unchanged; an empty value is written as `""`. The last of several contradicting directives
    /// applies, including the directives of this crate.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Requires TLS, with new certificates; see [`Server::certificates`].
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

    /// Adds a user with these rights, for example `"~app:* &app:* +@read"`. With any user, the default user
    /// is disabled.
    pub fn acl_user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.users
            .push((name.to_owned(), password.to_owned(), rules.to_owned()));
        self
    }

    /// Makes the server a replica of `master`, which must have the same TLS setting, and users if this server
    /// has users. The replica counts as started when it has the data of its master.
    pub fn replica_of(mut self, master: &Server<Self>) -> Self {
        self.replica_of = Some(master.port());
        self
    }

    /// Gives the server a wall clock of its own, which [`Server::set_clock_offset`] steps. Requires 64-bit
    /// Linux and the compiler `cc`, with which Rust links.
    pub fn steppable_clock(mut self) -> Self {
        self.steppable_clock = true;
        self
    }

    /// Sets the server program: a name on the `PATH` or a path. The default is `redis-server`.
    pub fn program(mut self, program: &str) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts the server on a free port of 127.0.0.1. Returns when it answers.
    ///
    /// # Errors
    ///
    /// When the program is not installed, or when the server ends or does not answer within 30 s. The
    /// error then contains the last lines of its log.
    pub fn start(self) -> Result<Server<Self>, Error> {
        Server::start(self)
    }

    pub(super) fn with_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// The text of `redis.conf`.
    pub(super) fn file(&self, directory: &Path, ports: Ports) -> String {
        let mut file = String::new();
        let mut line = |key: &str, value: &str| {
            let value = if value.is_empty() { "\"\"" } else { value };
            let _ = writeln!(file, "{key} {value}");
        };
        let within = |name: &str| directory.join(name).display().to_string();
        let port = ports.client.to_string();
        line("bind", "127.0.0.1");
        line("unixsocket", &within(SOCKET));
        line("dir", &within(DATA_DIRECTORY));
        line("logfile", &within("server.log"));
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
        if self.cluster {
            line("cluster-enabled", "yes");
            line("cluster-port", &ports.peer.to_string());
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
            // Each server of a group can become a replica of another one.
            line("masteruser", admin);
            line("masterauth", password);
        }
        for (key, value) in &self.config {
            line(key, value);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_ends_with_the_settings_of_the_test_and_quotes_empty_values() {
        let ports = Ports {
            client: 12_345,
            ..Ports::default()
        };
        let file = ServerBuilder::default()
            .config("save", "")
            .config("maxmemory-policy", "allkeys-lru")
            .file(Path::new("/d"), ports);
        assert!(file.contains("\nport 12345\n"), "{file}");
        assert!(
            file.ends_with("save \"\"\nmaxmemory-policy allkeys-lru\n"),
            "{file}"
        );
        assert!(!file.contains("user "), "{file}");
    }
}
