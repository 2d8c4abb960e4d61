//! A server process that can be stopped and started again, and its directory.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nix::sys::{signal::Signal, statvfs::statvfs};
use tempfile::TempDir;

use crate::{
    Error,
    poll::{self, Condition},
    process::{self, Process},
};

/// The time limit for the start of a server on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A directory in memory. A server that syncs its log with every write would be limited by the disk.
const MEMORY_DIRECTORY: &str = "/dev/shm";
/// The required free space there: an etcd server takes 130 MB at its start.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// A server process that can be killed and started again. Dropping this value kills it.
#[derive(Debug)]
pub(crate) struct ManagedProcess {
    /// Declared before the directory, so that the server ends before its files are deleted.
    process: Mutex<Option<Process>>,
    /// The id of the last started process, also while it starts; zero at first.
    last_id: Arc<AtomicU32>,
    directory: TempDir,
    /// The name in errors, such as `etcd server on port 1234`.
    name: String,
}

/// Why a started process does not serve yet; `None` if it serves.
pub(crate) type NotServing = Option<String>;

impl ManagedProcess {
    /// Creates the directory, in memory if there is space. No process runs yet.
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
            last_id: Arc::default(),
            directory,
            name: "server".to_owned(),
        })
    }

    /// Sets the name in errors.
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

    /// Creates the error of an action on this server.
    pub(crate) fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::new(format!("the {}: {why}", self.name))
    }

    /// Writes a file in the directory.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.directory().join(file);
        fs::write(&path, text)
            .map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))
    }

    /// Deletes a subdirectory and creates it again.
    pub(crate) fn empty(&self, directory: &str) -> Result<(), Error> {
        let path = self.directory().join(directory);
        let removed = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        removed
            // etcd requires a directory that other users cannot read.
            .and_then(|()| DirBuilder::new().mode(0o700).create(&path))
            .map_err(|error| Error::new(format!("cannot empty {}: {error}", path.display())))
    }

    /// Starts the process, and waits until `not_serving`, called with the process id, returns `None`.
    pub(crate) fn launch(
        &self,
        program: &Path,
        arguments: &[String],
        environment: Vec<(&'static str, String)>,
        not_serving: impl Fn(u32) -> NotServing,
    ) -> Result<(), Error> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let started = Process::start(
            program,
            &arguments,
            environment,
            self.directory(),
            &self.log(),
        )?;
        self.last_id.store(started.id(), Ordering::SeqCst);
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
            .unwrap_or_else(|| Err(self.failed("cannot pause it: it does not run")))
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.with_process(|process| process.signal(Signal::SIGCONT))
            .unwrap_or_else(|| Err(self.failed("cannot resume it: it does not run")))
    }

    /// The id of the last started process, which changes with each start.
    pub(crate) fn last_id(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.last_id)
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.with_process(Process::id)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.with_process(|process| process.ended().is_none())
            .unwrap_or(false)
    }

    /// Returns whether the last start failed because a port was taken.
    pub(crate) fn port_was_taken(&self) -> bool {
        // The whole log: the last lines, which errors show, are not enough for ZooKeeper.
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
