//! What the servers of every kind are: a process that may be gone for a while, and its directory.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::sys::{signal::Signal, statvfs::statvfs};
use tempfile::TempDir;

use crate::{
    Error,
    poll::{self, Condition},
    process::{self, Process},
};

/// How long a server may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Where files are kept in memory: a server that makes its log safe with every write is bound by
/// the disk, and its tests would be.
const MEMORY_DIRECTORY: &str = "/dev/shm";
/// What has to be free there: a server of etcd takes 130 MB at once.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// A server process that can be killed and started again, killed for good when dropped.
#[derive(Debug)]
pub(crate) struct ManagedProcess {
    /// Before the directory, so that the server ends before its files go.
    process: Mutex<Option<Process>>,
    directory: TempDir,
    /// What it is, for errors: `etcd server on port 1234`.
    name: String,
}

/// Whether a process that was started serves already: `None`, or why it does not.
pub(crate) type NotServing = Option<String>;

impl ManagedProcess {
    /// Nothing runs yet; the directory is in memory if there is room.
    pub(crate) fn new(prefix: &str) -> Result<Self, Error> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        let made = match memory_directory() {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let directory = made
            .map_err(|error| Error::new(format!("cannot make a temporary directory: {error}")))?;
        Ok(Self {
            process: Mutex::new(None),
            directory,
            name: "server".to_owned(),
        })
    }

    /// What it is called in errors.
    pub(crate) fn set_name(&mut self, name: String) {
        self.name = name;
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory().join("server.log")
    }

    pub(crate) fn end_of_log(&self) -> String {
        process::end_of_log(&self.log())
    }

    /// The error of an action on this server.
    pub(crate) fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::new(format!("the {}: {why}", self.name))
    }

    /// Writes a file of its directory.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.directory().join(file);
        fs::write(&path, text)
            .map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))
    }

    /// Removes a directory of its directory with all in it, and makes it anew.
    pub(crate) fn empty(&self, directory: &str) -> Result<(), Error> {
        let path = self.directory().join(directory);
        let removed = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        removed
            // etcd insists that nobody else can read it.
            .and_then(|()| DirBuilder::new().mode(0o700).create(&path))
            .map_err(|error| Error::new(format!("cannot empty {}: {error}", path.display())))
    }

    /// Starts the process, and waits until `not_serving` (asked with its process id) has nothing
    /// to say any more.
    pub(crate) fn launch(
        &self,
        program: &Path,
        arguments: &[String],
        not_serving: impl Fn(u32) -> NotServing,
    ) -> Result<(), Error> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let started = Process::start(program, &arguments, self.directory(), &self.log())?;
        let what = format!("the {} starts", self.name);
        poll::until(&what, START_TIMEOUT, || match started.ended() {
            Some(status) => {
                Condition::Failed(self.failed(format!("ended at its start ({status})")))
            }
            None => match not_serving(started.id()) {
                None => Condition::Ready(()),
                Some(reason) => Condition::NotYet(reason),
            },
        })
        .map_err(|error| error.with_log(self.end_of_log()))?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    }

    pub(crate) fn kill(&self) {
        // Dropping a process kills it.
        let _ended = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    pub(crate) fn pause(&self) -> Result<(), Error> {
        self.with_process(|process| process.signal(Signal::SIGSTOP))
            .unwrap_or_else(|| Err(self.failed("cannot be paused, as it does not run")))
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.with_process(|process| process.signal(Signal::SIGCONT))
            .unwrap_or_else(|| Err(self.failed("cannot be resumed, as it does not run")))
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.with_process(Process::id)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.with_process(|process| process.ended().is_none())
            .unwrap_or(false)
    }

    /// Whether the last start failed because a port was not free.
    pub(crate) fn port_was_taken(&self) -> bool {
        // All of it: ZooKeeper says more lines about it than an error shows.
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).to_ascii_lowercase();
        log.contains("address already in use")
    }

    fn with_process<T>(&self, act: impl FnOnce(&Process) -> T) -> Option<T> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(act)
    }
}

fn memory_directory() -> Option<&'static Path> {
    let path = Path::new(MEMORY_DIRECTORY);
    let space = statvfs(path).ok()?;
    let free = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    (free >= MIN_FREE_BYTES).then_some(path)
}
