//! A store for each test, and real processes.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tenure::clock::{Clock, Instant, SystemClock};
use tenure_test_servers::{etcd, redis, zookeeper};

/// How long a condition may take to become true on a busy machine.
pub(crate) const CONDITION_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Instant {
    SystemClock.now()
}

/// Waits until the condition is true.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_within(CONDITION_TIMEOUT, what, condition);
}

#[track_caller]
pub(crate) fn wait_until_within(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) {
    let limit = now() + timeout;
    while !condition() {
        assert!(now() < limit, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a store of the kind that `TENURE_TEST_STORE` names. All tests share one server, and each test
/// has a separate part of it; on etcd, each test has a server.
fn store(dir: &Path) -> Store {
    static NUMBERS: AtomicU32 = AtomicU32::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let mut variables = Vec::new();
    let url = match std::env::var("TENURE_TEST_STORE").as_deref() {
        Err(_) | Ok("file") => format!("file:{}", dir.join("locks").display()),
        Ok("redis") => {
            static SERVER: OnceLock<redis::Server> = OnceLock::new();
            let server = SERVER.get_or_init(|| {
                let server = redis::Server::builder().config("databases", "10000");
                server.start().unwrap()
            });
            format!("{}/{number}", server.url())
        }
        Ok("etcd") => {
            // etcd has no parts, and the tests themselves use the namespaces.
            let server = etcd::Server::builder().start().unwrap();
            let url = server.url();
            return Store {
                url,
                variables,
                _server: Some(server),
            };
        }
        Ok("zookeeper") => {
            static SERVER: OnceLock<zookeeper::Server> = OnceLock::new();
            let tick = Duration::from_millis(300);
            let server = SERVER.get_or_init(|| {
                let server = zookeeper::Server::builder().tick(tick);
                let server = server.config("maxSessionTimeout", "3600000");
                server.config("maxClientCnxns", "0").start().unwrap()
            });
            variables.push(("TENURE__BACKEND__OPTIONS__TICK", "300ms".to_owned()));
            format!("{}/{number}", server.url())
        }
        Ok(other) => {
            panic!("TENURE_TEST_STORE must be file, redis, etcd or zookeeper, not {other}")
        }
    };
    Store {
        url,
        variables,
        _server: None,
    }
}

#[derive(Debug)]
struct Store {
    url: String,
    variables: Vec<(&'static str, String)>,
    _server: Option<etcd::Server>,
}

/// A directory and a store for one test.
#[derive(Debug)]
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    store: Store,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        self.store.url.clone()
    }

    /// Returns the directories of all locks, if the store is a directory.
    pub(crate) fn lock_dirs(&self) -> Vec<PathBuf> {
        let entries = |dir: &Path| -> Vec<PathBuf> {
            let listing = std::fs::read_dir(dir).into_iter().flatten();
            listing.map(|entry| entry.unwrap().path()).collect()
        };
        let is_namespace = |dir: &PathBuf| {
            let name = dir.file_name().unwrap().to_str().unwrap();
            !name.starts_with('.')
        };
        let namespaces = entries(&self.path("locks"))
            .into_iter()
            .filter(is_namespace);
        let mut dirs: Vec<_> = namespaces
            .flat_map(|dir| entries(&dir).into_iter().chain([dir]))
            .collect();
        dirs.sort();
        dirs
    }

    /// Returns the variables that name the store.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.store.variables.clone();
        variables.push(("TENURE__BACKEND__URL", self.url()));
        variables
    }

    /// Returns the command with this store as its configuration.
    pub(crate) fn tenure(&self, arguments: &[&str]) -> Command {
        let mut command = unconfigured();
        command.envs(self.environment()).args(arguments);
        command.current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        finished(self.tenure(arguments).output().unwrap())
    }

    /// Starts `tenure run` in the background. `script` runs under `sh` in the directory of the sandbox.
    pub(crate) fn spawn_run(&self, options: &[&str], name: &str, script: &str) -> Running {
        let mut command = self.tenure(&["run"]);
        command
            .args(options)
            .arg(name)
            .args(["--", "sh", "-c", script]);
        Running::start(command)
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// Waits for a whole line in a file and returns it.
    #[track_caller]
    pub(crate) fn line(&self, name: &str) -> String {
        let mut text = String::new();
        wait_until(&format!("a line in {name}"), || {
            text = self.read(name).unwrap_or_default();
            text.ends_with('\n')
        });
        text.trim().to_owned()
    }

    /// Waits for the process id that a script writes to a file.
    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.line(name).parse().unwrap())
    }

    pub(crate) fn status(&self, name: &str) -> serde_json::Value {
        let shown = self.run(&["--output", "json", "status", name]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        serde_json::from_str(&shown.stdout).unwrap()
    }

    /// Returns the number of waiters of a lock.
    pub(crate) fn waiting(&self, name: &str) -> usize {
        self.status(name)["queue"].as_array().unwrap().len()
    }

    /// Returns the holder's token.
    pub(crate) fn token(&self, name: &str) -> Option<u64> {
        self.status(name)["holder"]["token"].as_u64()
    }
}

/// Returns the command without any configuration.
pub(crate) fn unconfigured() -> Command {
    // Under `nohup` or in the background the tests ignore signals, and their children would inherit
    // this.
    let mut command = Command::new("env");
    command.args([
        "--default-signal=HUP,INT,QUIT",
        env!("CARGO_BIN_EXE_tenure"),
    ]);
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"TENURE") || bytes.starts_with(b"OTEL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The exit status and the output of a process.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn finished(output: Output) -> Finished {
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Finished {
    /// Asserts the exit code, and one message on stderr that contains all the words.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {self:?}");
        assert!(self.stderr.starts_with("tenure: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self:?}");
        }
    }

    #[track_caller]
    pub(crate) fn assert_succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// A process in the background, which is killed at the end of the test.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Threads read the output, so that a pipe which stays open cannot block the test.
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdout: read_in_background(child.stdout.take().unwrap()),
            stderr: read_in_background(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        self.finish_within(CONDITION_TIMEOUT)
    }

    #[track_caller]
    pub(crate) fn finish_within(mut self, timeout: Duration) -> Finished {
        wait_until_within(timeout, "the end of a process", || self.has_ended());
        let status = self.child.wait().unwrap();
        let read = |pipe: &Receiver<Vec<u8>>| {
            pipe.recv_timeout(CONDITION_TIMEOUT)
                .expect("a child of the process still runs and keeps its pipes open")
        };
        finished(Output {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        })
    }

    /// Returns the guardian, which is the only child of the process.
    #[track_caller]
    pub(crate) fn guardian(&self) -> Pid {
        let mut found = None;
        wait_until("the guardian", || {
            found = children(self.pid()).first().copied();
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the child processes.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let pid = Pid::from_raw(pid);
        if state_and_parent(pid).is_some_and(|(_, above)| above == parent) {
            found.push(pid);
        }
    }
    found
}

/// Returns the state and the parent of a process.
pub(crate) fn state_and_parent(pid: Pid) -> Option<(char, Pid)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((state, Pid::from_raw(parent)))
}

/// Returns whether a process exists and is no zombie.
pub(crate) fn is_alive(pid: Pid) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Returns whether a process is stopped. A shell that is stopped during a `vfork` has the state `D`,
/// because it waits for its child; in this case the child is stopped.
pub(crate) fn is_stopped(pid: Pid) -> bool {
    match state_and_parent(pid) {
        Some(('T', _)) => true,
        Some(('D', _)) => children(pid)
            .into_iter()
            .any(|child| state_and_parent(child).is_some_and(|(state, _)| state == 'T')),
        _ => false,
    }
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Returns whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Returns the command as a copy that every user may execute; other users may have no access to the
/// build directory.
pub(crate) fn copied_command(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    use std::os::unix::fs::PermissionsExt;
    let program = sandbox.path("tenure-copy");
    // A separate process copies the file. If this process had the copy open for writing, children of
    // other tests could inherit the descriptor, and the copy could not be executed.
    let copy = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_tenure"))
        .arg(&program)
        .status();
    assert!(copy.unwrap().success());
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.envs(sandbox.environment()).args(arguments);
    command.current_dir(sandbox.path(".")).stdin(Stdio::null());
    command
}
