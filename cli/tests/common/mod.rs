//! What the tests of the command share: a store of their own, real processes, patience.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "each test target uses a part of it"
)]

use std::{
    io::Read,
    os::unix::process::ExitStatusExt,
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

/// How long a condition may take to come about on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn now() -> Instant {
    SystemClock.now()
}

/// Returns once the condition holds.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(PATIENCE, what, condition);
}

#[track_caller]
pub fn until_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let limit = now() + patience;
    while !condition() {
        assert!(now() < limit, "never came about: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The kind of store that the tests of this run use: `file`, or what `TENURE_TEST_STORE` names.
/// One server for all tests of a process; each of them has a part of it to itself.
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
            // There are no parts but the namespaces, which the tests use themselves.
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
        Ok(other) => panic!("TENURE_TEST_STORE is file, redis, etcd or zookeeper, not {other}"),
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

/// A directory, and a store of its own.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        Self { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        self.store.url.clone()
    }

    /// The variables that name the store.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.store.variables.clone();
        variables.push(("TENURE__BACKEND__URL", self.url()));
        variables
    }

    /// The command with this store.
    pub fn tenure(&self, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.envs(self.environment()).args(arguments);
        command.current_dir(self.dir.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        done(self.tenure(arguments).output().unwrap())
    }

    /// `tenure run` in the background; `script` runs under `sh`, with the place as its directory.
    pub fn hold(&self, options: &[&str], name: &str, script: &str) -> Running {
        let mut command = self.tenure(&["run"]);
        command
            .args(options)
            .arg(name)
            .args(["--", "sh", "-c", script]);
        Running::start(command)
    }

    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// The text of a file, once it has a whole line.
    #[track_caller]
    pub fn line(&self, name: &str) -> String {
        let mut text = String::new();
        until(&format!("a line in {name}"), || {
            text = self.read(name).unwrap_or_default();
            text.ends_with('\n')
        });
        text.trim().to_owned()
    }

    /// A process id that a script wrote.
    #[track_caller]
    pub fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.line(name).parse().unwrap())
    }

    pub fn status(&self, name: &str) -> serde_json::Value {
        let shown = self.run(&["--output", "json", "status", name]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        serde_json::from_str(&shown.stdout).unwrap()
    }

    /// How many wait for a lock.
    pub fn waiting(&self, name: &str) -> usize {
        self.status(name)["queue"].as_array().unwrap().len()
    }

    /// The token of the holder.
    pub fn token(&self, name: &str) -> Option<u64> {
        self.status(name)["holder"]["token"].as_u64()
    }
}

/// The command without any configuration.
pub fn bare() -> Command {
    // Tests that are started by `nohup`, or in the background, ignore signals, and what they start
    // would inherit that.
    let mut command = Command::new("env");
    command.args([
        "--default-signal=HUP,INT,QUIT",
        env!("CARGO_BIN_EXE_tenure"),
    ]);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"TENURE") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a process has left.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn done(output: Output) -> Done {
    Done {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Done {
    /// Asserts an exit code, and one line on stderr that begins as it should and has these words.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {self:?}");
        assert!(self.stderr.starts_with("tenure: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self:?}");
        }
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// A process in the background. Killed at the end of the test, if it is still there.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// What it writes, read as it comes; a pipe that stays open must not hang the test.
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdout: collect(child.stdout.take().unwrap()),
            stderr: collect(child.stderr.take().unwrap()),
            child,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it leaves, once it has ended.
    #[track_caller]
    pub fn finish(self) -> Done {
        self.finish_within(PATIENCE)
    }

    #[track_caller]
    pub fn finish_within(mut self, patience: Duration) -> Done {
        until_within(patience, "the end of a process", || self.is_over());
        let status = self.child.wait().unwrap();
        let whole = |pipe: &Receiver<Vec<u8>>| {
            pipe.recv_timeout(PATIENCE)
                .expect("something that it has started still runs and keeps its pipes open")
        };
        done(Output {
            status,
            stdout: whole(&self.stdout),
            stderr: whole(&self.stderr),
        })
    }

    /// The guardian: its one child process.
    #[track_caller]
    pub fn guardian(&self) -> Pid {
        let mut found = None;
        until("the guardian", || {
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

/// The processes whose parent this is.
pub fn children(parent: Pid) -> Vec<Pid> {
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
        if stat(pid).is_some_and(|(_, above)| above == parent) {
            found.push(pid);
        }
    }
    found
}

/// State and parent of a process.
pub fn stat(pid: Pid) -> Option<(char, Pid)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((state, Pid::from_raw(parent)))
}

/// Whether a process still runs or could run; a zombie does not.
pub fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Whether a process is stopped. A shell that was stopped between the two halves of a `vfork` does not
/// count as stopped itself (`D`): it waits for its child, which is.
pub fn is_stopped(pid: Pid) -> bool {
    match stat(pid) {
        Some(('T', _)) => true,
        Some(('D', _)) => children(pid)
            .into_iter()
            .any(|child| stat(child).is_some_and(|(state, _)| state == 'T')),
        _ => false,
    }
}

/// Writes a file.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// The command as a program that every user may execute: the build directory may be closed to
/// them.
pub fn copied(place: &Place, arguments: &[&str]) -> Command {
    use std::os::unix::fs::PermissionsExt;
    let program = place.path("tenure-copy");
    // By a process of its own: a file that this one has open for writing would be inherited by
    // what other tests start at the same moment, and could not be executed.
    let copy = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_tenure"))
        .arg(&program)
        .status();
    assert!(copy.unwrap().success());
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.envs(place.environment()).args(arguments);
    command.current_dir(place.path(".")).stdin(Stdio::null());
    command
}
