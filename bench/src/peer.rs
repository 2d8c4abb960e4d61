//! Libraries in other languages: a child process holds a client for each waiter, measures itself, and
//! answers one line of JSON for each command line.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;
use tenure_load::{Contention, Percentiles};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    implementation::{Failure, TTL},
    kinds::{Load, PERMITS},
};

/// How long a child process may take to start, to connect all its clients, and to close them.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const CURATOR: &str = "Curator InterProcessMutex";
pub(crate) const KAZOO: &str = "kazoo Lock";
/// The peers' shared and counted locks.
pub(crate) const CURATOR_SHARED: &str = "Curator ReadWriteLock, SemaphoreV2";
pub(crate) const KAZOO_SHARED: &str = "kazoo ReadLock, WriteLock, Semaphore";
pub(crate) const PYTHON_REDIS_LOCK: &str = "python-redis-lock";
pub(crate) const REDLOCK: &str = "redlock (npm)";
/// The Java archives of Debian. Their manifests name the archives that they need.
const ARCHIVES: &str = "/usr/share/java/curator-recipes.jar:/usr/share/java/curator-framework.jar:\
                        /usr/share/java/curator-client.jar:/usr/share/java/slf4j-nop.jar";
/// Stands for the server's address in the arguments.
const ADDRESS: &str = "ADDRESS";

/// The shared and counted locks of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedLocksOfPeer {
    /// The name for the results.
    pub(crate) name: &'static str,
    /// What they can be measured with.
    pub(crate) loads: &'static [Load],
}

/// A library in another language that this machine has.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Its shared and counted locks, if it has any.
    pub(crate) shared_locks: Option<SharedLocksOfPeer>,
    /// The versions of the library and of its language.
    pub(crate) version: String,
    command: Vec<String>,
    /// The variable that names the directory of the library, and this directory.
    search_path: Option<(&'static str, PathBuf)>,
    /// The compiled program.
    _compiled: Option<Arc<TempDir>>,
}

impl Peer {
    /// Finds Curator and compiles its program. Returns what is missing if that fails.
    pub(crate) async fn curator(address: &str) -> Result<Self, String> {
        let missing = |why: String| {
            format!(
                "{CURATOR} was not measured ({why}): install Curator and a JDK (Debian: apt-get \
                 install libcurator-recipes-java default-jdk-headless)"
            )
        };
        let compiled = tempfile::tempdir().map_err(|error| missing(error.to_string()))?;
        let directory = compiled.path().display().to_string();
        let mut javac = Command::new("javac");
        javac.args(["-cp", ARCHIVES, "-d", &directory]);
        javac.arg(source("CuratorLocks.java")).kill_on_drop(true);
        let output = javac.output().await;
        let output = output.map_err(|error| missing(format!("javac: {error}")))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let first = errors.lines().next().unwrap_or("no error message");
            return Err(missing(format!("javac: {first}")));
        }
        let class_path = format!("{directory}:{ARCHIVES}");
        let timeout = TTL.as_millis().to_string();
        let command = [
            "java",
            "-cp",
            &class_path,
            "CuratorLocks",
            ADDRESS,
            &timeout,
        ];
        Self {
            _compiled: Some(Arc::new(compiled)),
            shared_locks: Some(SharedLocksOfPeer {
                name: CURATOR_SHARED,
                loads: &Load::ALL,
            }),
            ..Self::new(CURATOR, command)
        }
        .check(address)
        .await
        .map_err(|failure| missing(failure.to_string()))
    }

    /// Finds kazoo. Returns what is missing if that fails.
    pub(crate) async fn kazoo(address: &str) -> Result<Self, String> {
        Self {
            shared_locks: Some(SharedLocksOfPeer {
                name: KAZOO_SHARED,
                // With 64 clients in a mixed load, kazoo 2.8.0 stands still for longer than a minute.
                loads: &[Load::Readers, Load::Permits],
            }),
            ..Self::python(KAZOO, "kazoo")
        }
        .check(address)
        .await
        .map_err(|failure| {
            format!(
                "{KAZOO} was not measured ({failure}): install kazoo (Debian: apt-get install \
                 python3-kazoo), or name a Python that has it in TENURE_PYTHON"
            )
        })
    }

    /// Finds python-redis-lock. Returns what is missing if that fails.
    pub(crate) async fn python_redis_lock(address: &str) -> Result<Self, String> {
        let peer = Self::python(PYTHON_REDIS_LOCK, "python-redis-lock");
        peer.check(address).await.map_err(|failure| {
            format!(
                "{PYTHON_REDIS_LOCK} was not measured ({failure}): run `sh bench/peers/install`, or \
                 name a Python that has it in TENURE_PYTHON"
            )
        })
    }

    /// Finds redlock for Node.js. Returns what is missing if that fails.
    pub(crate) async fn redlock(address: &str) -> Result<Self, String> {
        let timeout = TTL.as_millis().to_string();
        let program = source("redlock_locks.js");
        let peer = Self {
            search_path: installed("NODE_PATH", "node/node_modules"),
            ..Self::new(REDLOCK, ["node", &program, ADDRESS, &timeout])
        };
        peer.check(address).await.map_err(|failure| {
            format!(
                "{REDLOCK} was not measured ({failure}): install Node.js and npm, and run \
                 `sh bench/peers/install`"
            )
        })
    }

    /// A library of Python. By default this is the distribution's Python, which has the distribution's
    /// packages.
    fn python(name: &'static str, library: &str) -> Self {
        let python = env::var("TENURE_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
        let program = source("python_locks.py");
        let timeout = TTL.as_secs().to_string();
        Self {
            search_path: installed("PYTHONPATH", "python"),
            ..Self::new(name, [&python, &program, library, ADDRESS, &timeout])
        }
    }

    fn new<const N: usize>(name: &'static str, command: [&str; N]) -> Self {
        Self {
            name,
            shared_locks: None,
            version: String::new(),
            command: command.map(str::to_owned).into(),
            search_path: None,
            _compiled: None,
        }
    }

    /// Starts the process once, to find out the versions.
    async fn check(mut self, address: &str) -> Result<Self, Failure> {
        let (process, version) = self.run(address).await?;
        process.close().await?;
        self.version = version;
        Ok(self)
    }

    /// Starts a process whose clients connect to the server at `address`.
    pub(crate) async fn start(&self, address: &str) -> Result<PeerProcess, Failure> {
        Ok(self.run(address).await?.0)
    }

    /// Starts a process, and returns it with the versions that it reports.
    async fn run(&self, address: &str) -> Result<(PeerProcess, String), Failure> {
        let mut arguments = self.command.iter().map(|argument| match argument.as_str() {
            ADDRESS => address,
            argument => argument,
        });
        let program = arguments.next().unwrap_or_default();
        let mut child = Command::new(program)
            .args(arguments)
            .envs(self.search_path.clone())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let mut process = PeerProcess {
            name: self.name,
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        let line = process.read_line(CLIENTS_TIMEOUT).await?;
        let version = line.strip_prefix("ready ").ok_or(line.as_str())?.to_owned();
        Ok((process, version))
    }
}

fn source(file: &str) -> String {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    peers.join(file).display().to_string()
}

/// Returns the directory in the build directory where `bench/peers/install` installs the libraries of
/// a language, with the variable that names it; `None` if it does not exist.
fn installed(variable: &'static str, directory: &str) -> Option<(&'static str, PathBuf)> {
    let program = env::current_exe().ok()?;
    let build = program.parent()?.parent()?;
    let directory = build.join("bench-peers").join(directory);
    directory.is_dir().then_some((variable, directory))
}

/// A running process of a peer.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    pub(crate) name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// The results of all waiters together.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) acquires: Percentiles,
    pub(crate) releases: Percentiles,
    pub(crate) contention: Contention,
}

/// An answer of the process, in nanoseconds.
#[derive(Debug, Deserialize)]
struct Answer {
    took: u64,
    hand_overs: Vec<u64>,
    acquires: Vec<u64>,
    releases: Vec<u64>,
}

impl PeerProcess {
    /// Lets `waiters` waiters, each with its own client, acquire and release the lock again and again.
    /// As with the implementations in this process, the first pair of each waiter is not counted.
    pub(crate) async fn measure(
        &mut self,
        waiters: usize,
        lock: &str,
        span: Duration,
    ) -> Result<Measured, Failure> {
        let line = format!("start {} {waiters} {lock}\n", span.as_secs_f64());
        self.ask(&line, span).await
    }

    /// Like [`measure`](Self::measure), with a lock that the waiters share.
    pub(crate) async fn measure_load(
        &mut self,
        waiters: usize,
        lock: &str,
        span: Duration,
        load: Load,
    ) -> Result<Measured, Failure> {
        let (span_text, load) = (span.as_secs_f64(), load.name());
        let line = format!("start {span_text} {waiters} {lock} {load} {PERMITS}\n");
        self.ask(&line, span).await
    }

    async fn ask(&mut self, line: &str, span: Duration) -> Result<Measured, Failure> {
        self.input.write_all(line.as_bytes()).await?;
        self.input.flush().await?;
        let line = self.read_line(CLIENTS_TIMEOUT + span).await?;
        let answer = serde_json::from_str::<Answer>(&line)
            .map_err(|error| format!("{}: {error} in its answer {line:.200}", self.name))?;
        Ok(answer.into())
    }

    async fn read_line(&mut self, limit: Duration) -> Result<String, Failure> {
        match timeout(limit, self.output.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(format!("{} ended without an answer", self.name).into()),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name).into()),
            Err(_) => Err(format!("{} did not answer within {limit:?}", self.name).into()),
        }
    }

    /// Closes the clients and waits for the end of the process.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        let Self {
            name,
            mut child,
            input,
            ..
        } = self;
        // The process ends at the end of its input.
        drop(input);
        match timeout(CLIENTS_TIMEOUT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(outcome) => Err(format!("{name} ended with {outcome:?}").into()),
            Err(_) => Err(format!("{name} did not end within {CLIENTS_TIMEOUT:?}").into()),
        }
    }
}

impl From<Answer> for Measured {
    fn from(answer: Answer) -> Self {
        let durations = |all: Vec<u64>| all.into_iter().map(Duration::from_nanos).collect();
        let (acquires, releases): (Vec<_>, Vec<_>) =
            (durations(answer.acquires), durations(answer.releases));
        // Both lists have the same order, so their elements form pairs.
        let pairs = acquires.iter().zip(&releases);
        let waits = pairs.map(|(acquire, release)| *acquire + *release);
        let contention = Contention::new(
            durations(answer.hand_overs),
            waits.collect(),
            Duration::from_nanos(answer.took),
        );
        Self {
            acquires: Percentiles::new(acquires),
            releases: Percentiles::new(releases),
            contention,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_a_peer_has_the_measurements_of_an_implementation() {
        let line = r#"{"took":2000000000,"hand_overs":[3,1],"acquires":[10,30],"releases":[1,2]}"#;
        let measured = Measured::from(serde_json::from_str::<Answer>(line).unwrap());
        let contention = &measured.contention;
        assert!((contention.rate - 1.0).abs() < 1e-9);
        assert_eq!(contention.waits.longest(), Duration::from_nanos(32));
        assert_eq!(contention.hand_over.longest(), Duration::from_nanos(3));
        assert_eq!(measured.acquires.longest(), Duration::from_nanos(30));
        assert_eq!(measured.releases.longest(), Duration::from_nanos(2));
    }

    #[tokio::test]
    async fn peer_that_does_not_report_its_version_is_missing() {
        for wrong in [
            Peer::new("any", ["/nowhere/program"]),
            Peer::new("any", ["true"]),
            Peer::new("any", ["echo", "hello"]),
        ] {
            assert!(wrong.clone().check("a").await.is_err(), "{wrong:?}");
        }
        let peer = Peer::new("any", ["echo", "ready 1.0", ADDRESS]);
        assert_eq!(peer.check("a:1").await.unwrap().version, "1.0 a:1");
    }
}
