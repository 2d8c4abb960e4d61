//! One server of any kind: started, paused, killed, restarted.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    Certificates, Error,
    managed_process::{ManagedProcess, NotServing},
    ports::{self, Ports},
};

/// The number of ports that are tried while other processes take them first.
pub(crate) const MAX_PORT_ATTEMPTS: u32 = 5;
/// The directory of the store, in the server's directory.
pub(crate) const DATA_DIRECTORY: &str = "data";

/// A kind of server. The settings of a server implement it; only this crate does so.
pub trait Kind: Clone + fmt::Debug + Default + Send + Sync + 'static {
    /// The name of the kind in messages, such as `etcd`.
    const NAME: &'static str;

    /// Returns whether clients must use TLS.
    #[doc(hidden)]
    fn has_tls(&self) -> bool;

    /// Returns the scheme of the server's URL.
    #[doc(hidden)]
    fn scheme(&self) -> &'static str;

    /// Finds the program to start.
    #[doc(hidden)]
    fn program(&self) -> Result<PathBuf, Error>;

    /// Returns the ports on which a started server listens.
    #[doc(hidden)]
    fn listening_ports(server: &Server<Self>) -> Vec<u16>;

    /// Writes the files that the server reads at its start. The store is empty.
    #[doc(hidden)]
    fn write_files(_server: &Server<Self>) -> Result<(), Error> {
        Ok(())
    }

    /// Returns the arguments of the program.
    #[doc(hidden)]
    fn arguments(server: &Server<Self>) -> Result<Vec<String>, Error>;

    /// Returns the variables that are added to the program's environment.
    #[doc(hidden)]
    fn environment(_server: &Server<Self>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Returns why the server does not serve; `None` if it does.
    #[doc(hidden)]
    fn not_serving(server: &Server<Self>) -> Option<String>;

    /// Prepares a store that was empty at the start of the server, once.
    #[doc(hidden)]
    fn initialize(_server: &Server<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// Which member of a cluster a server is. A server outside a cluster is the only member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    /// Counted from zero.
    pub(crate) index: usize,
    /// The ports of all members.
    pub(crate) ports: Vec<Ports>,
}

impl Membership {
    pub(crate) fn own(&self) -> Ports {
        self.ports.get(self.index).copied().unwrap_or_default()
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.ports.len() < 2
    }
}

/// A running server, stopped when dropped.
///
/// Its methods block until the server answers, at most for 30 s.
pub struct Server<K> {
    pub(crate) process: ManagedProcess,
    pub(crate) program: PathBuf,
    pub(crate) settings: K,
    pub(crate) member: Membership,
}

impl<K: Kind> Server<K> {
    /// The settings of a new server.
    pub fn builder() -> K {
        K::default()
    }

    pub(crate) fn start(settings: K) -> Result<Self, Error> {
        Self::prepare(settings)?.start_prepared()
    }

    /// Starts a [prepared](Self::prepare) server.
    pub(crate) fn start_prepared(self) -> Result<Self, Error> {
        self.start_on(&mut Ports::free)
    }

    fn start_on(self, free_ports: &mut dyn FnMut() -> Result<Ports, Error>) -> Result<Self, Error> {
        let mut server = self;
        if server.settings.has_tls() {
            Certificates::generate(server.directory())?;
        }
        let mut attempt = 1;
        loop {
            let ports = vec![free_ports()?];
            server.join(Membership { index: 0, ports })?;
            match server.launch() {
                Ok(()) => break,
                Err(_) if server.port_was_taken() && attempt < MAX_PORT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
        K::initialize(&server)?;
        Ok(server)
    }

    /// Creates a server that does not run yet and is no member of a cluster.
    pub(crate) fn prepare(settings: K) -> Result<Self, Error> {
        let program = settings.program()?;
        let prefix = format!("tenure-{}-", K::NAME.to_ascii_lowercase());
        Ok(Self {
            process: ManagedProcess::new(&prefix)?,
            program,
            settings,
            member: Membership::default(),
        })
    }

    /// Makes the server a member, with an empty store.
    pub(crate) fn join(&mut self, member: Membership) -> Result<(), Error> {
        self.member = member;
        let name = format!("{} server on port {}", K::NAME, self.port());
        self.process.set_name(name);
        self.process.write("server.log", "")?;
        self.empty()
    }

    pub(crate) fn empty(&self) -> Result<(), Error> {
        self.process.empty(DATA_DIRECTORY)?;
        K::write_files(self)
    }

    pub(crate) fn port_was_taken(&self) -> bool {
        self.process.port_was_taken()
    }

    /// Starts the process. A single server serves when this function returns; a member of a cluster
    /// listens, since it may need the other members to serve.
    pub(crate) fn launch(&self) -> Result<(), Error> {
        let arguments = K::arguments(self)?;
        let environment = K::environment(self);
        self.process
            .launch(&self.program, &arguments, environment, |process| {
                let listens = |port: &u16| ports::is_listened_on(*port, process);
                if !K::listening_ports(self).iter().all(listens) {
                    return Some(format!("it does not listen on port {}", self.port()));
                }
                if self.member.is_alone() {
                    self.not_serving()
                } else {
                    None
                }
            })
    }

    /// Returns why the server does not serve; `None` if it does.
    pub(crate) fn not_serving(&self) -> NotServing {
        K::not_serving(self)
    }

    /// The port of 127.0.0.1 on which the server listens. A restart does not change it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.member.own().client
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Such as `etcd://127.0.0.1:PORT`, or `etcds://127.0.0.1:PORT` with TLS, without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.settings.scheme(), self.address())
    }

    /// The server's directory: its configuration, log, data and certificates.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.process.directory()
    }

    /// The certificates of a server with TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.settings
            .has_tls()
            .then(|| Certificates::of(self.directory()))
    }

    /// The process id while the server runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.process_id()
    }

    /// Whether the process runs or is paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Kills the server (SIGKILL) and waits for its end. Its directory keeps the files.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills the server if it runs, and starts it again on the same port with the files of its directory.
    /// Returns when the server serves; for a member of a cluster, which may need the others for that, when
    /// it listens.
    ///
    /// # Errors
    ///
    /// When the server ends or does not answer within 30 s.
    pub fn restart(&self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// As [`restart`](Self::restart), with an empty store.
    pub(crate) fn restart_empty(&self) -> Result<(), Error> {
        self.kill();
        self.empty()?;
        self.launch()?;
        K::initialize(self)
    }

    /// Stops the process (SIGSTOP). When this function returns, its port still accepts connections and no
    /// request gets an answer.
    ///
    /// # Errors
    ///
    /// When the process does not run.
    pub fn pause(&self) -> Result<(), Error> {
        self.process.pause()
    }

    /// Continues a paused process (SIGCONT).
    ///
    /// # Errors
    ///
    /// When the process does not run.
    pub fn resume(&self) -> Result<(), Error> {
        self.process.resume()
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        self.process.end_of_log()
    }
}

impl<K: Kind> fmt::Debug for Server<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .field("directory", &self.directory())
            .field("process_id", &self.process_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::{etcd, redis, zookeeper};

    /// One port belongs to a process that does not answer, one to a server of the same kind.
    fn leaves_taken_ports<K: Kind>() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let speaking = Server::start(K::default()).unwrap();
        let mut taken = vec![speaking.port(), silent.local_addr().unwrap().port()];
        let mut ports = || {
            let free = Ports::free()?;
            let client = taken.pop().unwrap_or(free.client);
            Ok(Ports { client, ..free })
        };
        let server = Server::prepare(K::default()).unwrap();
        let server = server.start_on(&mut ports).unwrap();
        assert_ne!(server.port(), speaking.port());
        assert!(server.is_running());
        assert_eq!(server.not_serving(), None);
        assert!(taken.is_empty());
    }

    #[test]
    fn redis_server_leaves_taken_ports_alone() {
        leaves_taken_ports::<redis::ServerBuilder>();
    }

    #[test]
    fn etcd_server_leaves_taken_ports_alone() {
        leaves_taken_ports::<etcd::ServerBuilder>();
    }

    #[test]
    fn zookeeper_server_leaves_taken_ports_alone() {
        leaves_taken_ports::<zookeeper::ServerBuilder>();
    }

    #[test]
    fn server_without_a_free_port_is_an_error_that_names_the_cause() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = taken.local_addr().unwrap().port();
        let mut ports = || {
            Ok(Ports {
                client,
                ..Ports::default()
            })
        };
        let server = Server::prepare(redis::Server::builder()).unwrap();
        let error = server.start_on(&mut ports).unwrap_err().to_string();
        assert!(error.contains("Address already in use"), "{error}");
    }
}
