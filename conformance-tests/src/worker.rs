//! Cases with several processes: the test binary starts itself again as a worker.
//!
//! A worker writes lines with a marker at their start to its standard output, so that other output of
//! a test binary does not interfere.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tenure_core::{
    Client,
    clock::{Clock, SystemClock},
    error::Error,
    lease::Phase,
    name::{LockName, Namespace},
    token::FencingToken,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    context::CaseContext,
    harness::Harness,
    outcome::{Failure, Need, Stop},
};

const VARIABLE: &str = "TENURE_CONFORMANCE_WORKER";
const MARK: &str = "@tenure ";
/// The interval between two checks of a worker on its guard.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The time limit for a process to start and to inspect a lock on a busy machine.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The task of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Acquire the lock `rounds` times; each time, check that no other process is in the critical
    /// section, and increment the counter.
    Count { rounds: u32 },
    /// Acquire the lock and hold it until the process is killed.
    Hold,
    /// Acquire the lock, and report continuously whether it is held, until it is lost.
    Believe,
    /// Inspect the lock: report `Held` if it has a holder, else `Done`.
    Inspect,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    job: Job,
    ticket: String,
    namespace: String,
    name: String,
    ttl_ms: u64,
    directory: PathBuf,
}

/// A report of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker held the lock with this token; `count` is the counter before the increment.
    Held { token: u64, count: u64 },
    /// Whether the guard reported at `at_us` that it was held, in microseconds of the clock that all
    /// processes of a machine share.
    Believed { held: bool, at_us: u64 },
    /// The worker completed its task.
    Done,
    /// The worker observed a violation.
    Broken(String),
}

/// A running worker. Dropping this value kills it.
pub(crate) struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker on the case's environment.
    pub(crate) fn start(
        context: &CaseContext,
        job: Job,
        name: &str,
        ttl: Duration,
        directory: &std::path::Path,
    ) -> Result<Self, Stop> {
        let (Some(launcher), Some(ticket)) = (context.launcher(), context.env().ticket()) else {
            return Err(Stop::Ignored(Need::Processes));
        };
        context.env().note_lock_of_worker(&context.name(name)?);
        let order = Order {
            job,
            ticket,
            namespace: context.namespace().as_str().to_owned(),
            name: name.to_owned(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            directory: directory.to_owned(),
        };
        let order = serde_json::to_string(&order).map_err(std::io::Error::from)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(&launcher.arguments)
            .env(VARIABLE, order)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| std::io::Error::other("the worker has no output"))?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Returns the next report; fails if the worker ended without one.
    pub(crate) async fn report(&mut self) -> Result<Report, Stop> {
        while let Some(line) = self.lines.next_line().await? {
            // Rust's own test harness may have begun the line.
            let Some((_, text)) = line.split_once(MARK) else {
                continue;
            };
            return Ok(serde_json::from_str(text).map_err(std::io::Error::from)?);
        }
        Err(Failure::new(None, "a worker ended early; see its standard error").into())
    }

    /// Stops the worker's process, as `kill -STOP` does.
    pub(crate) fn stop(&self) -> Result<(), Stop> {
        self.signal(Signal::STOP)
    }

    /// Continues the worker's process.
    pub(crate) fn go_on(&self) -> Result<(), Stop> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Stop> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw);
        let id = id.ok_or_else(|| std::io::Error::other("the worker has ended"))?;
        kill_process(id, signal).map_err(std::io::Error::from)?;
        Ok(())
    }

    /// Kills the worker, as `kill -9` does, and waits for its end.
    pub(crate) async fn kill(mut self) -> Result<(), Stop> {
        self.child.kill().await?;
        Ok(())
    }
}

/// Returns whether another process sees a held lock of the case's environment.
pub(crate) async fn is_seen(context: &CaseContext) -> Result<bool, Stop> {
    let client = context.client().await?;
    let guard = client.lock("seen")?.acquire().await?;
    let directory = std::env::temp_dir();
    let mut worker = Worker::start(context, Job::Inspect, "seen", context.long(), &directory)?;
    let seen = tokio::time::timeout(INSPECT_TIMEOUT, worker.report()).await;
    let _ = guard.release().await;
    match seen {
        Ok(report) => Ok(matches!(report?, Report::Held { .. })),
        Err(_) => {
            Err(Failure::new(None, "a second process did not inspect the store in time").into())
        }
    }
}

/// Runs as a worker if a [`Suite`](crate::report::Suite) started this process as one, and returns the
/// exit code. The harness must use the same store. Call this function outside of any runtime.
#[must_use]
pub fn serve_if_asked(harness: &Arc<dyn Harness>) -> Option<ExitCode> {
    let order = std::env::var(VARIABLE).ok()?;
    let outcome = serde_json::from_str(&order)
        .map_err(std::io::Error::from)
        .and_then(|order: Order| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime
                .block_on(work(order, &**harness))
                .map_err(std::io::Error::other)
        });
    match outcome {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("conformance worker: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn send_report(report: &Report) {
    if let Ok(text) = serde_json::to_string(report) {
        println!("{MARK}{text}");
    }
}

async fn work(order: Order, harness: &dyn Harness) -> Result<(), Error> {
    let env = harness.join(&order.ticket).await?;
    let client = Client::builder(env.connector())
        .namespace(Namespace::new(&order.namespace)?)
        .ttl(Duration::from_millis(order.ttl_ms))
        .connect()
        .await?;
    let lock = client.lock(&order.name)?;
    let rounds = match order.job {
        Job::Count { rounds } => rounds,
        Job::Believe => {
            let guard = lock.acquire().await?;
            let token = guard.token().get();
            send_report(&Report::Held { token, count: 0 });
            loop {
                // The time before the check: the check proves that the guard was held at this time.
                let at = SystemClock.now().since_origin().as_micros();
                let at_us = u64::try_from(at).unwrap_or(u64::MAX);
                let held = guard.check().is_ok();
                send_report(&Report::Believed { held, at_us });
                if !held {
                    // The case observes the effect of this release.
                    let _ = guard.release().await;
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Job::Inspect => {
            let state = client.inspect(&LockName::new(&order.name)?).await?;
            send_report(&state.holder.map_or(Report::Done, |holder| Report::Held {
                token: holder.token.map_or(0, FencingToken::get),
                count: 0,
            }));
            return Ok(());
        }
        Job::Hold => {
            let guard = lock.acquire().await?;
            let token = guard.token().get();
            send_report(&Report::Held { token, count: 0 });
            guard.lost().await;
            send_report(&Report::Broken(
                "the holder lost the lock while it was running".to_owned(),
            ));
            return Ok(());
        }
    };
    for _ in 0..rounds {
        let guard = lock.acquire().await?;
        match count(&order.directory) {
            Ok(count) => send_report(&Report::Held {
                token: guard.token().get(),
                count,
            }),
            // After a loss an overlap is no violation.
            Err(text) if matches!(guard.phase(), Phase::Held | Phase::Suspect) => {
                send_report(&Report::Broken(text));
            }
            Err(text) => eprintln!("conformance worker: {text}, after the lock was lost"),
        }
        let _ = guard.release().await;
    }
    client.shutdown(Duration::from_secs(1)).await;
    send_report(&Report::Done);
    Ok(())
}

/// Increments the counter in the directory, in steps that detect another process in the critical
/// section.
fn count(directory: &std::path::Path) -> Result<u64, String> {
    let inside = directory.join("inside");
    std::fs::File::create_new(&inside)
        .map_err(|error| format!("another process is in the critical section: {error}"))?;
    let counter = directory.join("counter");
    let count = std::fs::read_to_string(&counter)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0_u64);
    let written = std::fs::write(&counter, (count + 1).to_string());
    let left = std::fs::remove_file(&inside);
    written
        .and(left)
        .map_err(|error| format!("the directory failed: {error}"))?;
    Ok(count)
}
