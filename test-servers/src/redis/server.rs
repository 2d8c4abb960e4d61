//! One Redis server.

use std::{path::PathBuf, time::Duration};

use redis::Value;

use super::{
    ServerBuilder,
    admin::{self, Admin},
    builder::SOCKET,
    clock,
};
use crate::{Error, process, server::Kind};

/// The time limit of one request while the server is polled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit of a command of the test: longer than the longest block that a test makes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const CONFIG_FILE: &str = "redis.conf";

/// A running Redis server, stopped when dropped.
///
/// A restart uses the configuration that the server left in its directory; the server is then empty unless
/// persistence is configured.
pub type Server = crate::server::Server<ServerBuilder>;

impl Kind for ServerBuilder {
    const NAME: &'static str = "Redis";

    fn has_tls(&self) -> bool {
        self.tls
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }

    fn program(&self) -> Result<PathBuf, Error> {
        process::find(&self.program).ok_or_else(|| {
            Error::new(format!(
                "cannot start a Redis server: no `{}` found; install Redis 7.0 or later (Debian: \
                 apt-get install redis-server)",
                self.program
            ))
        })
    }

    fn listening_ports(server: &Server) -> Vec<u16> {
        vec![server.port()]
    }

    fn write_files(server: &Server) -> Result<(), Error> {
        let file = server
            .settings
            .file(server.directory(), server.member.own());
        server.process.write(CONFIG_FILE, &file)?;
        if server.settings.steppable_clock {
            clock::write_files(&server.process)?;
        }
        Ok(())
    }

    fn environment(server: &Server) -> Vec<(&'static str, String)> {
        if server.settings.steppable_clock {
            clock::environment(server.directory())
        } else {
            Vec::new()
        }
    }

    fn arguments(server: &Server) -> Result<Vec<String>, Error> {
        let file = server.directory().join(CONFIG_FILE).display().to_string();
        let flags = server.settings.arguments.iter().map(ToString::to_string);
        Ok(std::iter::once(file).chain(flags).collect())
    }

    fn not_serving(server: &Server) -> Option<String> {
        let answers = server
            .probe(&["PING"])
            .and_then(|_| server.probe(&["INFO"]));
        let info = match answers {
            Ok(answer) => admin::text(&answer),
            Err(error) => return Some(error.to_string()),
        };
        // A replica that was restarted without its master serves as far as it can.
        (server.settings.replica_of.is_some()
            && admin::field(&info, "role") == Some("slave")
            && admin::field(&info, "master_link_status") != Some("up"))
        .then(|| "the replica is not yet in step with its master".to_owned())
    }
}

impl Server {
    /// The path of the unix socket on which the server listens as well.
    #[must_use]
    pub fn unix_socket(&self) -> PathBuf {
        self.directory().join(SOCKET)
    }

    /// Sends a command as a user with all rights, on a connection of its own to the unix socket.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn command(&self, arguments: &[&str]) -> Result<Value, Error> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        self.command_of_bytes(&arguments)
    }

    /// As [`command`](Self::command), for arguments that need not be text.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn command_of_bytes(&self, arguments: &[&[u8]]) -> Result<Value, Error> {
        self.admin().command(arguments, COMMAND_TIMEOUT)
    }

    /// As [`command`](Self::command), with the reply as text: one line for each item of a list, and an empty
    /// text for nil.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn text(&self, arguments: &[&str]) -> Result<String, Error> {
        self.command(arguments).map(|answer| admin::text(&answer))
    }

    /// One field of `INFO everything`, for example `connected_clients`; `None` if there is no such field.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn info(&self, field: &str) -> Result<Option<String>, Error> {
        let info = self.text(&["INFO", "everything"])?;
        Ok(admin::field(&info, field).map(str::to_owned))
    }

    /// As [`command`](Self::command), with a short time limit, for polling.
    pub(super) fn probe(&self, arguments: &[&str]) -> Result<Value, Error> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        self.admin().command(&arguments, PROBE_TIMEOUT)
    }

    /// Whether users are configured, so that this crate must authenticate as well.
    pub(super) fn with_users(&self) -> bool {
        self.settings.with_users()
    }

    fn admin(&self) -> Admin {
        Admin {
            socket: self.unix_socket(),
            with_user: self.settings.with_users(),
        }
    }
}
