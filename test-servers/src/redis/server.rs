//! One Redis server: started, asked, paused, killed and restarted.

use std::{
    fmt, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use redis::Value;
use tempfile::TempDir;

use super::{
    Certificates, ServerBuilder,
    admin::{self, Admin},
    builder::Ports,
};
use crate::{
    Error,
    poll::{self, Condition},
    ports,
    process::{self, Process},
};

/// How long a server may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one request may take while a server starts.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a command of the test may take: longer than the longest block that a test makes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How many ports are tried when others take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;

/// A running Redis server, stopped when dropped.
///
/// Its methods block for as long as the server takes to answer, at most 30 s.
pub struct Server {
    /// Before the directory, so that the server ends before its files go.
    process: Mutex<Option<Process>>,
    directory: TempDir,
    program: PathBuf,
    settings: ServerBuilder,
    ports: Ports,
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
        let program = process::find(&settings.program).ok_or_else(|| {
            Error::new(format!(
                "cannot start a Redis server: no `{}` found; install Redis 7.0 or later (Debian: \
                 apt-get install redis-server)",
                settings.program
            ))
        })?;
        let directory = tempfile::Builder::new()
            .prefix("tenure-redis-")
            .tempdir()
            .map_err(|error| Error::new(format!("cannot make a temporary directory: {error}")))?;
        if settings.tls {
            Certificates::generate(directory.path())?;
        }
        let mut server = Self {
            process: Mutex::new(None),
            directory,
            program,
            ports: Ports {
                service: 0,
                bus: None,
            },
            settings,
        };
        for _ in 1..MAX_PORT_ATTEMPTS {
            match server.start_on_new_ports(free_port) {
                Err(_) if server.port_was_taken() => {}
                outcome => return outcome.map(|()| server),
            }
        }
        server.start_on_new_ports(free_port).map(|()| server)
    }

    fn start_on_new_ports(
        &mut self,
        free_port: &mut dyn FnMut() -> Result<u16, Error>,
    ) -> Result<(), Error> {
        let bus = if self.settings.cluster {
            Some(free_port()?)
        } else {
            None
        };
        self.ports = Ports {
            service: free_port()?,
            bus,
        };
        let file = self
            .settings
            .file(self.directory(), &self.unix_socket(), self.ports);
        let written = fs::write(self.config_file(), file).and_then(|()| fs::write(self.log(), ""));
        written.map_err(|error| {
            Error::new(format!(
                "cannot write to {}: {error}",
                self.directory().display()
            ))
        })?;
        self.launch()
    }

    fn port_was_taken(&self) -> bool {
        process::end_of_log(&self.log()).contains("Address already in use")
    }

    /// Starts the process on the present configuration, and waits until it serves.
    fn launch(&self) -> Result<(), Error> {
        let config = self.config_file();
        let config = config.display().to_string();
        let mut arguments = vec![config.as_str()];
        arguments.extend(&self.settings.arguments);
        let started = Process::start(&self.program, &arguments, self.directory(), &self.log())?;

        let what = format!("the server on port {} starts", self.port());
        poll::until(&what, START_TIMEOUT, || match started.ended() {
            Some(status) => Condition::Failed(Error::new(format!(
                "the server on port {} ended at its start ({status})",
                self.port()
            ))),
            None => match self.not_serving(started.id()) {
                None => Condition::Ready(()),
                Some(reason) => Condition::NotYet(reason),
            },
        })
        .map_err(|error| error.with_log(process::end_of_log(&self.log())))?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    }

    /// Why the process does not serve yet; `None` if it does.
    fn not_serving(&self, process: u32) -> Option<String> {
        if let Err(error) = TcpStream::connect(("127.0.0.1", self.port())) {
            return Some(format!("port {}: {error}", self.port()));
        }
        let ask = |arguments: &[&[u8]]| self.admin().command(arguments, PROBE_TIMEOUT);
        let looked = ask(&[b"PING"]).and_then(|_| ask(&[b"INFO"]));
        let info = match looked {
            Ok(answer) => admin::text(&answer),
            Err(error) => return Some(error.to_string()),
        };
        // Somebody else's server may have been faster to take the port.
        if admin::field(&info, "process_id") != Some(process.to_string().as_str()) {
            return Some("another process answers".to_owned());
        }
        // A replica that was restarted without its master is what it can be.
        (self.settings.replica_of.is_some()
            && admin::field(&info, "role") == Some("slave")
            && admin::field(&info, "master_link_status") != Some("up"))
        .then(|| "the replica is not yet in step with its master".to_owned())
    }

    /// The port of 127.0.0.1 that the server listens on; it keeps it when it is restarted.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.service
    }

    /// Where members of a cluster reach this one.
    pub(super) fn bus_port(&self) -> u16 {
        self.ports.bus.unwrap_or(0)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// `redis://127.0.0.1:PORT`, or `rediss://127.0.0.1:PORT` with TLS; no user, no password.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.settings.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address())
    }

    /// The path of the unix socket that the server listens on as well.
    #[must_use]
    pub fn unix_socket(&self) -> PathBuf {
        self.directory().join("socket")
    }

    /// The server's directory: its configuration, its log, its data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
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
        self.with_process(Process::id)
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

    /// As [`command`](Self::command), with the answer as text: the items of a list one a line, no
    /// value as an empty text.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn text(&self, arguments: &[&str]) -> Result<String, Error> {
        self.command(arguments).map(|answer| admin::text(&answer))
    }

    /// One field of `INFO everything`, for example `connected_clients`; none if it has no such
    /// field.
    ///
    /// # Errors
    ///
    /// When the server answers with an error, or not within 30 s.
    pub fn info(&self, field: &str) -> Result<Option<String>, Error> {
        let info = self.text(&["INFO", "everything"])?;
        Ok(admin::field(&info, field).map(str::to_owned))
    }

    /// Kills the server (SIGKILL) and waits for its end. What was not on disk is lost.
    pub fn kill(&self) {
        // Dropping a process kills it.
        let _ended = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Kills the server if it runs, and starts it again: on the same port, in the same directory,
    /// with the configuration that it left there. It is empty unless persistence was configured.
    ///
    /// # Errors
    ///
    /// When the server ends or does not answer within 30 s.
    pub fn restart(&self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// Stops the process (SIGSTOP): its port still accepts connections, and nobody answers.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&self) -> Result<(), Error> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::SIGCONT)
    }

    /// Whether the process runs or is paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.with_process(|process| process.ended().is_none())
            .unwrap_or(false)
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        process::end_of_log(&self.log())
    }

    /// As [`command`](Self::command), but with little patience: for looking again and again.
    pub(super) fn probe(&self, arguments: &[&str]) -> Result<Value, Error> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        self.admin().command(&arguments, PROBE_TIMEOUT)
    }

    /// Whether users are configured, so that even this crate has to say who it is.
    pub(super) fn with_users(&self) -> bool {
        self.settings.with_users()
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.with_process(|process| process.signal(signal))
            .unwrap_or_else(|| {
                Err(Error::new(format!(
                    "cannot send {signal} to the server on port {}: it does not run",
                    self.port()
                )))
            })
    }

    fn with_process<T>(&self, act: impl FnOnce(&Process) -> T) -> Option<T> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(act)
    }

    fn admin(&self) -> Admin {
        Admin {
            socket: self.unix_socket(),
            with_user: self.settings.with_users(),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.directory().join("redis.conf")
    }

    fn log(&self) -> PathBuf {
        log_of(self.directory())
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

pub(super) fn log_of(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_was_taken_meanwhile_is_left_to_who_has_it() {
        // Once by somebody who does not speak, once by another Redis, which would even answer.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let speaking = Server::builder().start().unwrap();
        let mut taken = vec![speaking.port(), silent.local_addr().unwrap().port()];
        let mut port = || taken.pop().map_or_else(ports::free, Ok);
        let server = Server::start_on(Server::builder(), &mut port).unwrap();
        assert_ne!(server.port(), speaking.port());
        assert!(server.is_running());
        assert_eq!(server.text(&["PING"]).unwrap(), "PONG");
    }

    #[test]
    fn a_server_that_never_finds_a_free_port_says_so() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let server = Server::start_on(Server::builder(), &mut || Ok(port));
        let error = server.unwrap_err().to_string();
        assert!(error.contains("Address already in use"), "{error}");
    }
}
