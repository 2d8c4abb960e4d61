//! One ZooKeeper server: started, asked, paused, killed, restarted and wiped.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ServerBuilder,
    builder::{self, Membership, Ports},
    locate::{self, JavaLaunch},
};
use crate::{
    Certificates, Error, http,
    managed_process::{ManagedProcess, NotServing},
    ports,
};

/// How long one request may take while the server is polled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a question of the test may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How many ports are tried when others take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;
/// Where the store is, in the server's directory.
pub(super) const DATA_DIRECTORY: &str = "data";

/// A running ZooKeeper server, stopped when dropped.
///
/// Its methods block for as long as the server takes to answer, at most 30 s.
pub struct Server {
    process: ManagedProcess,
    program: JavaLaunch,
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
            let ports = vec![Self::ports(free_port)?];
            server.join(Membership { index: 0, ports })?;
            match server.launch() {
                Err(_) if server.port_was_taken() && attempt < MAX_PORT_ATTEMPTS => {}
                outcome => return outcome.map(|()| server),
            }
        }
        Err(server.process.failed("no port was tried"))
    }

    /// A server that does not run yet, and that is no member of anything.
    pub(super) fn prepare(settings: ServerBuilder) -> Result<Self, Error> {
        let program = locate::locate(settings.archives.as_deref())?;
        Ok(Self {
            process: ManagedProcess::new("tenure-zookeeper-")?,
            program,
            settings,
            member: Membership::default(),
        })
    }

    /// The ports of one server.
    pub(super) fn ports(free_port: &mut dyn FnMut() -> Result<u16, Error>) -> Result<Ports, Error> {
        Ok(Ports {
            client: free_port()?,
            secure: free_port()?,
            peer: free_port()?,
            election: free_port()?,
        })
    }

    /// Makes it a member, with nothing in its store.
    pub(super) fn join(&mut self, member: Membership) -> Result<(), Error> {
        self.member = member;
        self.process
            .set_name(format!("ZooKeeper server on port {}", self.port()));
        self.process.write("server.log", "")?;
        self.process.write("log4j.properties", builder::LOGGING)?;
        let file = self.settings.file(self.directory(), &self.member);
        self.process.write("zoo.cfg", &file)?;
        if let Some(certificates) = self.certificates() {
            let read = |path: PathBuf| {
                fs::read_to_string(&path)
                    .map_err(|error| self.process.failed(format!("{}: {error}", path.display())))
            };
            let key = read(certificates.server_key_file())?;
            let certificate = read(certificates.server_certificate_file())?;
            let both = format!("{key}{certificate}");
            self.process.write(builder::KEY_AND_CERTIFICATE, &both)?;
        }
        self.empty()
    }

    pub(super) fn empty(&self) -> Result<(), Error> {
        self.process.empty(DATA_DIRECTORY)?;
        self.process
            .write("data/myid", &(self.member.index + 1).to_string())
    }

    pub(super) fn port_was_taken(&self) -> bool {
        self.process.port_was_taken()
    }

    /// Starts the process. A server alone is waited for until it serves, a member of a cluster
    /// until it listens: more may need the other members.
    pub(super) fn launch(&self) -> Result<(), Error> {
        let arguments = self.settings.arguments(&self.program.class_path);
        self.process
            .launch(&self.program.java, &arguments, |process| {
                let listens = |port| ports::is_listened_on(port, process);
                if !(listens(self.member.own().client) && listens(self.port())) {
                    return Some(format!("it does not listen on port {}", self.port()));
                }
                if self.member.ports.len() > 1 {
                    return None;
                }
                self.not_serving()
            })
    }

    /// Why the server does not serve; `None` if it does.
    pub(super) fn not_serving(&self) -> NotServing {
        match self.mode() {
            Ok(Some(_)) => None,
            Ok(None) => Some("it does not serve requests".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// `standalone`, `leader` or `follower`; none while the server does not serve.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn mode(&self) -> Result<Option<String>, Error> {
        let answer = self.ask("srvr", PROBE_TIMEOUT)?;
        Ok(field(&answer, "Mode: ").map(str::to_owned))
    }

    /// Whether the server says that it leads its cluster.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 2 s.
    pub fn is_leader(&self) -> Result<bool, Error> {
        Ok(self.mode()?.as_deref() == Some("leader"))
    }

    /// Whether it says so at once: who is asked again and again may be paused.
    pub(super) fn leads_now(&self) -> bool {
        self.ask("srvr", LEADER_PROBE_TIMEOUT)
            .is_ok_and(|answer| field(&answer, "Mode: ") == Some("leader"))
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
            .ok_or_else(|| self.process.failed(format!("it answers {}", answer.trim())))
    }

    /// The last transaction that the server has carried out, and how many requests it has not
    /// answered.
    pub(super) fn progress(&self) -> Result<(String, u64), Error> {
        let answer = self.four_letters("srvr")?;
        let of = |name| field(&answer, name).map(str::to_owned);
        of("Zxid: ")
            .zip(of("Outstanding: ").and_then(|count| count.parse().ok()))
            .ok_or_else(|| self.process.failed(format!("it answers {}", answer.trim())))
    }

    /// The answer to a command of four letters, for example `mntr`, `dump`, `cons` or `wchp`.
    ///
    /// # Errors
    ///
    /// When the server does not answer within 30 s.
    pub fn four_letters(&self, command: &str) -> Result<String, Error> {
        self.ask(command, COMMAND_TIMEOUT)
    }

    /// One of the numbers and words of `mntr`, for example `zk_ephemerals_count` or
    /// `zk_watch_count`; none if there is no such one.
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

    fn ask(&self, command: &str, patience: Duration) -> Result<String, Error> {
        http::exchange(self.member.own().client, command.as_bytes(), patience)
            .map_err(|error| self.process.failed(format!("`{command}`: {error}")))
    }

    /// The port of 127.0.0.1 that the server listens on; it keeps it when it is restarted.
    #[must_use]
    pub fn port(&self) -> u16 {
        let ports = self.member.own();
        if self.settings.tls {
            ports.secure
        } else {
            ports.client
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// `127.0.0.1:PORT` of a port without TLS, which is there beside one with TLS as well.
    #[must_use]
    pub fn plain_address(&self) -> String {
        format!("127.0.0.1:{}", self.member.own().client)
    }

    /// `zookeeper://127.0.0.1:PORT`, or `zookeepers://127.0.0.1:PORT` with TLS; no user, no
    /// password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address())
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.settings.tls {
            "zookeepers"
        } else {
            "zookeeper"
        }
    }

    /// The certificates of a server with TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.settings
            .tls
            .then(|| Certificates::of(self.directory()))
    }

    /// The server's directory: its configuration, its log, its data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.process.directory()
    }

    /// The process id while the server runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.process_id()
    }

    /// Kills the server (SIGKILL) and waits for its end. What it confirmed stays in its directory.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills the server if it runs, and starts it again: on the same port, with its data. Returns
    /// when it serves; a member of a cluster, which may need the others for that, when it listens.
    ///
    /// # Errors
    ///
    /// When the server ends or does not answer within 30 s.
    pub fn restart(&self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// As [`restart`](Self::restart), but without its data: transactions are numbered anew,
    /// sessions are gone. A member of a cluster gets the others' data instead; see
    /// [`Cluster::wipe`](super::Cluster::wipe).
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn wipe(&self) -> Result<(), Error> {
        self.kill();
        self.empty()?;
        self.launch()
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

/// What follows `name` in the line that begins with it.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_was_taken_meanwhile_is_left_to_who_has_it() {
        // Once by somebody who does not speak, once by another ZooKeeper, which would even answer.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let speaking = Server::builder().start().unwrap();
        let mut taken = vec![speaking.port(), silent.local_addr().unwrap().port()];
        let mut port = || taken.pop().map_or_else(ports::free, Ok);
        let server = Server::start_on(Server::builder(), &mut port).unwrap();
        assert_ne!(server.port(), speaking.port());
        assert!(server.is_running());
        assert_eq!(server.mode().unwrap().as_deref(), Some("standalone"));
    }
}
