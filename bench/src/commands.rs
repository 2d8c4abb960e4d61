//! Commands that run under a lock: `tenure run` beside `flock(1)` and `etcdctl lock`.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tenure_core::clock::{Clock, SystemClock};
use tenure_load::Contention;
use tokio::task::JoinSet;

use crate::{
    implementation::{Failure, address},
    options::Options,
    results::{Metric, Results, metric},
};

const RUNS: usize = 101;
const RUN: Metric = metric("a command under a lock: `true`", "ms", "");
/// Processes that run a command at the same time.
const PROCESSES: usize = 16;
const PROCESSES_SPAN: Duration = Duration::from_secs(2);
const PROCESSES_ROUNDS: usize = 3;
const BY_PROCESSES: Metric = metric(
    "one lock, 16 processes that each run `true` under it, again and again",
    "hand-overs/s",
    "",
);

/// A command line that runs `true` under a lock.
#[derive(Clone)]
struct LockCommand {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

impl LockCommand {
    fn new<const N: usize>(
        name: &'static str,
        program: impl Into<PathBuf>,
        arguments: [&str; N],
    ) -> Self {
        Self {
            name,
            program: program.into(),
            arguments: arguments.map(str::to_owned).into(),
        }
    }

    /// Runs it once, and returns the duration.
    fn run(&self) -> Result<Duration, Failure> {
        let begin = SystemClock.now();
        let status = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        if !status.success() {
            return Err(format!("{} ended with {status}", self.name).into());
        }
        Ok(SystemClock.now().since(begin))
    }

    /// Lets several threads run it again and again. Each run is a process of its own, so each grant is
    /// a hand-over.
    async fn contend(&self, span: Duration) -> Result<Contention, Failure> {
        let begin = SystemClock.now();
        let mut all = JoinSet::new();
        for _ in 0..PROCESSES {
            let command = self.clone();
            all.spawn_blocking(move || {
                let mut waits = Vec::new();
                while waits.is_empty() || SystemClock.now().since(begin) < span {
                    waits.push(command.run()?);
                }
                Ok::<_, Failure>(waits)
            });
        }
        let mut waits = Vec::new();
        while let Some(outcome) = all.join_next().await {
            waits.extend(outcome??);
        }
        let took = SystemClock.now().since(begin);
        Ok(Contention::new(waits.clone(), waits, took))
    }
}

/// Measures the commands on the store at `url`, in alternating rounds. Adds a note instead if the
/// command `tenure` was not built.
pub(crate) async fn measure(
    store: &str,
    url: &str,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let tenure = env::current_exe()?.with_file_name("tenure");
    if !tenure.exists() {
        let missing = format!(
            "`tenure run` was not measured: {} does not exist; build the command with the same profile",
            tenure.display()
        );
        println!("{missing}");
        results.note(store, missing);
        return Ok(());
    }
    let arguments = ["run", "-q", "--url", url, "nightly", "--", "true"];
    let mut commands = vec![LockCommand::new("tenure run", tenure, arguments)];
    let directory = tempfile::tempdir()?;
    match store {
        "file" => {
            let file = directory.path().join("flock");
            fs::write(&file, "")?;
            let file = file.display().to_string();
            commands.push(LockCommand::new("flock(1)", "flock", [&file, "true"]));
        }
        "etcd" => {
            let endpoints = format!("--endpoints={}", address(url));
            let arguments = [&endpoints, "lock", "etcdctl", "true"];
            commands.push(LockCommand::new("etcdctl lock", "etcdctl", arguments));
        }
        _ => {}
    }
    commands.retain(|command| options.implementation(command.name));
    if store == "file" && options.part("run") {
        for round in 0..=RUNS {
            for command in &commands {
                let took = command.run()?.as_secs_f64();
                // The first run is a warm-up.
                if round > 0 {
                    results.add(store, RUN, command.name, 1, took * 1e3);
                }
            }
        }
    }
    if options.part("processes") {
        for round in 0..=PROCESSES_ROUNDS {
            for command in &commands {
                let contention = command.contend(PROCESSES_SPAN).await?;
                if round > 0 {
                    let value = (contention.rate, contention.fairness());
                    results.add_contended(store, BY_PROCESSES, command.name, 1, value);
                }
            }
        }
    }
    Ok(())
}
