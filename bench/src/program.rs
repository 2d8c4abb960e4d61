//! Implementations in other languages: a process that holds a client for each waiter and measures
//! itself, as it is told line by line.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use serde::Deserialize;
use tempfile::TempDir;
use tenure_load::{Fight, Spread};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::contender::{Failure, TTL};

/// How long a program may take to start, to connect all its clients, and to close them.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const CURATOR: &str = "Curator InterProcessMutex";
pub(crate) const KAZOO: &str = "kazoo Lock";
/// Where a distribution puts Java archives. They name the rest of what they need themselves.
const ARCHIVES: &str = "/usr/share/java/curator-recipes.jar:/usr/share/java/curator-framework.jar:\
                        /usr/share/java/curator-client.jar:/usr/share/java/slf4j-nop.jar";

/// How such a program is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    /// The versions of the library and of its language.
    pub(crate) version: String,
    words: Vec<String>,
    /// What was compiled for it.
    _compiled: Option<Arc<TempDir>>,
}

impl Launch {
    /// Curator's `InterProcessMutex`, compiled now; what is missing if it cannot be.
    pub(crate) async fn curator(address: &str) -> Result<Self, String> {
        let missing = |why: String| {
            format!(
                "{CURATOR} was not measured ({why}): install Curator and a JDK (Debian: apt-get \
                 install libcurator-recipes-java default-jdk-headless)"
            )
        };
        let compiled = tempfile::tempdir().map_err(|error| missing(error.to_string()))?;
        let directory = compiled.path().display().to_string();
        let words = ["javac", "-cp", ARCHIVES, "-d", &directory];
        let source = source("CuratorLocks.java");
        let mut javac = Command::new(words[0]);
        javac.args(&words[1..]).arg(&source).kill_on_drop(true);
        let output = javac.output().await;
        let output = output.map_err(|error| missing(format!("javac: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("no reason given");
            return Err(missing(format!("javac: {said}")));
        }
        let class_path = format!("{directory}:{ARCHIVES}");
        let timeout = TTL.as_millis().to_string();
        let words = ["java", "-cp", &class_path, "CuratorLocks"].map(str::to_owned);
        Self::tried(CURATOR, words.into(), Some(compiled), address, &timeout)
            .await
            .map_err(|failure| missing(failure.to_string()))
    }

    /// kazoo's `Lock`; what is missing if there is none.
    pub(crate) async fn kazoo(address: &str) -> Result<Self, String> {
        // The distribution's own Python is the one that has the distribution's packages.
        let python =
            std::env::var("TENURE_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
        let words = vec![python, source("kazoo_locks.py")];
        let timeout = TTL.as_secs().to_string();
        Self::tried(KAZOO, words, None, address, &timeout)
            .await
            .map_err(|failure| {
                format!(
                    "{KAZOO} was not measured ({failure}): install kazoo (Debian: apt-get install \
                     python3-kazoo), or name a Python that has it in TENURE_PYTHON"
                )
            })
    }

    /// One that was started and ended once. `session` is the timeout as the program wants it.
    async fn tried(
        name: &'static str,
        mut words: Vec<String>,
        compiled: Option<TempDir>,
        address: &str,
        session: &str,
    ) -> Result<Self, Failure> {
        words.extend([ADDRESS.to_owned(), session.to_owned()]);
        let mut launch = Self {
            name,
            version: String::new(),
            words,
            _compiled: compiled.map(Arc::new),
        };
        let (program, version) = launch.run(address).await?;
        launch.version = version;
        program.end().await?;
        Ok(launch)
    }

    /// Starts it; its clients are to connect to the server at this address.
    pub(crate) async fn start(&self, address: &str) -> Result<Program, Failure> {
        Ok(self.run(address).await?.0)
    }

    /// The process, and the versions that it tells.
    async fn run(&self, address: &str) -> Result<(Program, String), Failure> {
        let mut words = self.words.iter().map(|word| match word.as_str() {
            ADDRESS => address,
            word => word,
        });
        let program = words.next().unwrap_or_default();
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let orders = child.stdin.take().ok_or("it has no standard input")?;
        let answers = child.stdout.take().ok_or("it has no standard output")?;
        let mut program = Program {
            name: self.name,
            child,
            orders,
            answers: BufReader::new(answers).lines(),
        };
        let line = program.answer(PATIENCE).await?;
        let version = line.strip_prefix("ready ").ok_or(line.as_str())?.to_owned();
        Ok((program, version))
    }
}

/// Stands for the server's address among the words of a command.
const ADDRESS: &str = "ADDRESS";

fn source(file: &str) -> String {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    programs.join(file).display().to_string()
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// What it measured, of all its waiters together.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) acquires: Spread,
    pub(crate) releases: Spread,
    pub(crate) fight: Fight,
}

/// Its answer, in nanoseconds.
#[derive(Debug, Deserialize)]
struct Answer {
    took: u64,
    hand_overs: Vec<u64>,
    acquires: Vec<u64>,
    releases: Vec<u64>,
}

impl Program {
    /// Lets so many waiters, each with a client of its own, take the lock again and again. As with the
    /// implementations in this process, clients are connected and have had a turn each before.
    pub(crate) async fn measure(
        &mut self,
        waiters: usize,
        lock: &str,
        span: Duration,
    ) -> Result<Measured, Failure> {
        let order = format!("start {} {waiters} {lock}\n", span.as_secs_f64());
        self.orders.write_all(order.as_bytes()).await?;
        self.orders.flush().await?;
        let line = self.answer(PATIENCE + span).await?;
        let answer = serde_json::from_str::<Answer>(&line)
            .map_err(|error| format!("{}: {error} in its answer {line}", self.name))?;
        Ok(answer.into())
    }

    async fn answer(&mut self, within: Duration) -> Result<String, Failure> {
        match timeout(within, self.answers.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(format!("{} ended", self.name).into()),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name).into()),
            Err(_) => Err(format!("{} gave no answer within {within:?}", self.name).into()),
        }
    }

    /// Closes its clients and ends it.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        let Self {
            name,
            mut child,
            orders,
            ..
        } = self;
        // The end of its input ends it.
        drop(orders);
        match timeout(PATIENCE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(outcome) => Err(format!("{name} ended with {outcome:?}").into()),
            Err(_) => Err(format!("{name} did not end within {PATIENCE:?}").into()),
        }
    }
}

impl From<Answer> for Measured {
    fn from(answer: Answer) -> Self {
        let durations = |all: Vec<u64>| all.into_iter().map(Duration::from_nanos).collect();
        let (acquires, releases): (Vec<_>, Vec<_>) =
            (durations(answer.acquires), durations(answer.releases));
        // Both are in the same order: a turn is an acquire and the release after it.
        let turns = acquires.iter().zip(&releases);
        let waits = turns.map(|(acquire, release)| *acquire + *release);
        let fight = Fight::new(
            durations(answer.hand_overs),
            waits.collect(),
            Duration::from_nanos(answer.took),
        );
        Self {
            acquires: Spread::new(acquires),
            releases: Spread::new(releases),
            fight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_becomes_what_is_measured_in_this_process() {
        let line = r#"{"took":2000000000,"hand_overs":[3,1],"acquires":[10,30],"releases":[1,2]}"#;
        let measured = Measured::from(serde_json::from_str::<Answer>(line).unwrap());
        assert!((measured.fight.rate - 1.0).abs() < 1e-9);
        assert_eq!(measured.fight.waits.longest(), Duration::from_nanos(32));
        assert_eq!(measured.fight.hand_over.longest(), Duration::from_nanos(3));
        assert_eq!(measured.acquires.longest(), Duration::from_nanos(30));
        assert_eq!(measured.releases.longest(), Duration::from_nanos(2));
    }

    #[tokio::test]
    async fn a_program_that_does_not_begin_is_missing() {
        let words = |words: &[&str]| words.iter().copied().map(str::to_owned).collect();
        for wrong in [&["/nowhere/program"][..], &["true"], &["echo", "hello"]] {
            let tried = Launch::tried("any", words(wrong), None, "127.0.0.1:1", "1").await;
            assert!(tried.is_err(), "{wrong:?}");
        }
        let tried = Launch::tried("any", words(&["echo", "ready 1.0"]), None, "a", "1").await;
        assert_eq!(tried.unwrap().version, "1.0 a 1");
    }
}
