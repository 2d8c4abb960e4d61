//! `tenure run`: acquires the lock, lets the guardian run the command, and releases the lock.

mod atomic_file;
mod connect;
mod guardian_handle;
mod held;
mod metrics_file;
mod reaper;
mod reentrancy;
mod renewal_warning;
#[cfg(feature = "otlp")]
mod spans;
#[cfg(not(feature = "otlp"))]
#[path = "no_spans.rs"]
mod spans;
mod status_file;
mod supervise;
mod timing;
mod trace_context;
mod wait;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use tenure::{
    Acquisition, Client, Config, LockAll, NotHeld, Registry, Release,
    clock::{Instant, SystemClock},
    driver::Backoff,
    id::AttemptId,
    mode::Mode,
    name::LockName,
    request::{Holder, Owner},
};
pub(crate) use timing::check_fits;

use self::{
    guardian_handle::Start,
    held::Held,
    metrics_file::MetricsFile,
    spans::Spans,
    status_file::{Outcome, StatusFile},
    supervise::Finish,
    trace_context::TraceParent,
};
use crate::{
    args::{Global, Run},
    escape::quote,
    exit::{
        CONFIG, Failure, NOT_STOPPED, UNAVAILABLE, USAGE, describe, print_error, print_warning,
    },
    setup,
    signals::Listener,
    time, view,
};

/// How long the client may take at the end to release what it still holds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The entry of the status file for a lock that is left to its TTL.
const ABANDONED: &str = "abandoned";

/// Runs the command under the lock.
pub(crate) fn run(options: Run, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let (name, command) = options.name_and_command()?;
    let name = setup::lock_name(name)?;
    let also = options.also.iter().map(|name| setup::lock_name(name));
    let also = also.collect::<Result<Vec<_>, _>>()?;
    let mut sources = setup::sources(global);
    if let Some(ttl) = options.ttl {
        let text = humantime::format_duration(ttl).to_string();
        sources = sources.set("lock.ttl", text, "flag --ttl");
    }
    let config = setup::load(&sources)?;
    check_fits(options.kill_after, &config).map_err(|arithmetic| {
        let by_flag = options.ttl.is_some() || config.origin("lock.ttl") == Some("default");
        Failure::new(if by_flag { USAGE } else { CONFIG }, arithmetic)
    })?;
    let scheme = config.open(registry)?.info().scheme;
    if scheme == "memory" {
        return Err(Failure::new(
            CONFIG,
            "the store memory: exists inside one process and cannot exclude another `tenure run`; \
             choose another store, such as file:DIRECTORY",
        ));
    }
    for (path, what) in [
        (&options.status_file, "status file"),
        (&options.metrics_file, "metrics file"),
    ] {
        if let Some(path) = path {
            atomic_file::check_writable(path, what)?;
        }
    }
    // Fails before the lock is taken, for example where `/proc` does not show this process.
    let executable = guardian_handle::own_executable()
        .map_err(|error| Failure::new(UNAVAILABLE, format!("finding this program: {error}")))?;
    let mut status = StatusFile::new(&name, &config.namespace);
    let label = options.label.clone().or_else(|| config.label.clone());
    let label = label.unwrap_or_else(|| program_name(&command));
    if options.label.is_some() && label.len() > Owner::MAX_BYTES {
        let (length, most) = (label.len(), Owner::MAX_BYTES);
        return Err(Failure::new(
            USAGE,
            format!("--label and --value have at most {most} bytes, and this one has {length}"),
        ));
    }

    let runtime = setup::runtime()?;
    let mut metrics = MetricsFile::start(
        options.metrics_file.as_deref(),
        &name,
        config.namespace.as_str(),
        scheme,
    )?;
    let parent = TraceParent::from_environment();
    let mut spans = Spans::start(&name, config.namespace.as_str(), scheme, parent);
    let code = runtime.block_on(async {
        let begin = time::now();
        let mut signals = Listener::start()?;
        let wait = connect::StoreWait {
            limit: wait_limit(&options, &config),
            unreachable: options.wait_for_store,
            quiet: options.quiet,
        };
        let client = tokio::select! {
            biased;
            signal = signals.ending() => Err(interrupted(signal, &mut status)),
            client = connect::connect(&config, registry, &name, wait) => client,
        };
        status.waited_ms = view::millis(time::now().since(begin));
        let client = client?;
        let job = Job {
            options: &options,
            begin,
            config: &config,
            name,
            also,
            command,
            executable,
            label,
            client,
        };
        let code = job
            .run(&mut signals, &mut status, &mut metrics, &mut spans)
            .await;
        if status.release == Some(ABANDONED) {
            // The end of a session frees the locks of the session at once. Without its end, the
            // store frees the lock after the TTL.
            std::mem::forget(job.client);
        } else {
            job.client.shutdown(SHUTDOWN_TIMEOUT).await;
        }
        code
    });
    // Ends the tasks of a client that was not shut down.
    drop(runtime);
    // Exit codes without a message, such as the command's, use the same path as failures.
    let code = code.unwrap_or_else(|failure| {
        let code = failure.code;
        failure.report();
        code
    });
    status.exit_code = code;
    metrics.end(&status);
    if let Some(path) = &options.status_file
        && let Err(error) = status.write(path)
    {
        print_warning(&format!(
            "the status file {:?} could not be written: {error}",
            path.display().to_string()
        ));
    }
    spans.end(&status);
    if code == 0 {
        Ok(())
    } else {
        Err(Failure::silent(code))
    }
}

/// Returns the command's name without its arguments, which may contain secrets.
fn program_name(command: &[OsString]) -> String {
    let program = command
        .first()
        .map_or_else(Default::default, OsString::as_os_str);
    let name = Path::new(program).file_name().unwrap_or(program);
    name.to_string_lossy().into_owned()
}

fn interrupted(signal: Signal, status: &mut StatusFile) -> Failure {
    status.outcome = Outcome::Interrupted;
    Failure::silent(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
}

/// Returns how long to wait for the lock; `None` waits forever, and zero does not wait.
fn wait_limit(options: &Run, config: &Config) -> Option<Duration> {
    if options.no_wait {
        return Some(Duration::ZERO);
    }
    options.wait.or(config.wait)
}

struct Job<'a> {
    options: &'a Run,
    /// The moment from which the limit of the wait counts.
    begin: Instant,
    config: &'a Config,
    name: LockName,
    /// The locks that are acquired together with it.
    also: Vec<LockName>,
    command: Vec<OsString>,
    /// The path of this program, which is also the guardian.
    executable: PathBuf,
    label: String,
    client: Client,
}

impl Job<'_> {
    async fn run(
        &self,
        signals: &mut Listener,
        status: &mut StatusFile,
        metrics: &mut MetricsFile,
        spans: &mut Spans,
    ) -> Result<u8, Failure> {
        if !self.options.no_wait {
            for name in self.names() {
                reentrancy::refuse_nested(&self.client, name).await?;
            }
        }
        let locks = self.locks()?;
        let acquisition = tokio::select! {
            biased;
            // The client removes the attempt from the queue.
            signal = signals.ending() => Err(interrupted(signal, status)),
            acquisition = wait::acquire(&locks, self.remaining_wait(), self.options.quiet) =>
                acquisition.map_err(|error| wait::failed(error, &self.name, self.wait_limit())),
        };
        status.waited_ms = view::millis(time::now().since(self.begin));
        let guard = match acquisition? {
            Acquisition::Acquired(guards) => match Held::new(guards, self.name.clone()) {
                Some(held) => held,
                None => return Err(self.busy(&Holder::foreign(), status)),
            },
            Acquisition::Busy(holder) => return Err(self.busy(&holder, status)),
            // No other variant exists yet; in any other case this run does not hold the lock.
            _ => return Err(self.busy(&Holder::foreign(), status)),
        };
        status.token = Some(guard.token());
        status.acquired = true;
        metrics.acquired(&guard, Duration::from_millis(status.waited_ms));
        spans.acquired(&guard);
        let granted = time::now();
        let held = tokio::select! {
            biased;
            held = self.hold(&guard, signals, status, spans) => held,
            never = metrics.follow(&guard) => match never {},
        };
        status.held_ms = view::millis(time::now().since(granted));
        if let Ok(Finish::CommandUnknown) = held {
            return Err(Self::abandon(guard, status));
        }
        let code = held.map(|finish| self.conclude(finish, &guard, status));
        if guard.keep_for_min_hold(signals).await {
            self.release(guard, status).await;
        } else {
            guard.into_guards().abandon();
            status.release = Some(ABANDONED);
        }
        code
    }

    /// Returns the names of all locks of the run.
    fn names(&self) -> impl Iterator<Item = &LockName> {
        std::iter::once(&self.name).chain(&self.also)
    }

    /// Returns the locks of the run, as the options ask for them.
    fn locks(&self) -> Result<LockAll, Failure> {
        let mode = match self.options.permits {
            Some(permits) => permits,
            None if self.options.shared => Mode::Shared,
            None => Mode::Exclusive,
        };
        let locks = self.client.lock_all(self.names().map(LockName::as_str))?;
        let min_hold = self.options.hold_at_least.unwrap_or_default();
        Ok(locks.label(&*self.label).mode(mode).min_hold(min_hold))
    }

    fn wait_limit(&self) -> Option<Duration> {
        wait_limit(self.options, self.config)
    }

    /// Returns what is left of the limit after the wait for the store.
    fn remaining_wait(&self) -> Option<Duration> {
        let waited = time::now().since(self.begin);
        self.wait_limit().map(|limit| limit.saturating_sub(waited))
    }

    fn busy(&self, holder: &Holder, status: &mut StatusFile) -> Failure {
        status.outcome = Outcome::Busy;
        let code = self.options.conflict_exit_code;
        if self.options.quiet || code == 0 {
            return Failure::silent(code);
        }
        let name = held::names(&self.name, self.names());
        let held = view::held_by(holder);
        Failure::notice(
            code,
            match self.wait_limit() {
                Some(limit) if !limit.is_zero() => {
                    let limit = humantime::format_duration(limit);
                    format!("gave up waiting for {name} after {limit}: it is {held}")
                }
                _ => format!("{name} is {held}"),
            },
        )
    }

    /// Runs the command while the lock is held. The caller releases the lock afterwards, whatever
    /// this function returns.
    async fn hold(
        &self,
        guard: &Held,
        signals: &mut Listener,
        status: &mut StatusFile,
        spans: &Spans,
    ) -> Result<Finish, Failure> {
        // The validity of a queued grant counts from an old report, so the command might start
        // shortly before its deadline. If enough time is left, a renewal may cost more time than it
        // gains (some ticks on ZooKeeper).
        let proved = if guard.remaining() < guard.ttl() * 3 / 5 {
            guard.renew().await
        } else {
            guard.check()
        };
        if let Err(reason) = proved {
            status.outcome = Outcome::Lost;
            return Err(self.lost_before_start(guard, reason));
        }
        let mut environment = self.environment(guard);
        environment.extend(spans.environment());
        let start = Start {
            executable: &self.executable,
            command: &self.command,
            kill_after: self.options.kill_after,
            deadline: guard.valid_until(),
            environment,
        };
        signals.catch_job_control()?;
        let guardian = guardian_handle::start(start).map_err(|error| {
            status.outcome = Outcome::NotStarted;
            Failure::new(
                UNAVAILABLE,
                format!("starting the guardian of the command: {error}"),
            )
        })?;
        reaper::start_as_process_one();
        Ok(supervise::supervise(
            guard,
            guardian,
            signals,
            self.options.on_lost,
            self.options.kill_after,
        )
        .await)
    }

    fn conclude(&self, finish: Finish, guard: &Held, status: &mut StatusFile) -> u8 {
        let name = guard.names();
        match finish {
            Finish::Ended(end) => {
                status.outcome = if end.signal.is_some() {
                    Outcome::Signaled
                } else {
                    Outcome::Exited
                };
                status.child_code = end.code;
                status.child_signal = end.signal;
                end.as_code()
            }
            Finish::Lost {
                reason,
                end,
                stopped,
            } => {
                status.outcome = Outcome::Lost;
                status.child_code = end.and_then(|end| end.code);
                status.child_signal = end.and_then(|end| end.signal);
                let reason = format!("{reason}{}", renewal_warning::cause(guard));
                match (stopped, end) {
                    (false, Some(end)) => {
                        print_error(&format!(
                            "lost {name} while the command ran; `--on-lost ignore` let it run on: {reason}"
                        ));
                        end.as_code()
                    }
                    _ => {
                        print_error(&format!(
                            "lost {name}, so the command was stopped: {reason}"
                        ));
                        self.options.lost_exit_code
                    }
                }
            }
            Finish::StoppedInTime { end } => {
                status.outcome = Outcome::Lost;
                status.child_code = end.code;
                status.child_signal = end.signal;
                print_error(&format!(
                    "could not renew {name} in time, so the command was stopped before the lock \
                     expired{}",
                    renewal_warning::cause(guard)
                ));
                self.options.lost_exit_code
            }
            Finish::NotStopped { lost, why } => {
                status.outcome = Outcome::NotStopped;
                match lost {
                    Some(reason) => print_error(&format!(
                        "lost {name}, and the command could not be stopped and still runs: {why}; \
                         {reason}{}",
                        renewal_warning::cause(guard)
                    )),
                    None => print_error(&format!(
                        "the command that could not be stopped has ended; {name} was held until then"
                    )),
                }
                NOT_STOPPED
            }
            Finish::NotStarted { code, reason } => {
                status.outcome = Outcome::NotStarted;
                let program = self
                    .command
                    .first()
                    .map_or_else(String::new, |program| quote(&program.to_string_lossy()));
                print_error(&format!(
                    "the command {program} could not be started: {reason}"
                ));
                code
            }
            Finish::GuardianGone | Finish::CommandUnknown => {
                status.outcome = Outcome::Signaled;
                status.child_signal = Some(Signal::KILL.as_raw());
                print_error("the guardian has ended, so the command was killed");
                137
            }
        }
    }

    /// Leaves the lock to its TTL: the guardian died before it reported whether it had started the
    /// command, and no process can find a command that the guardian may have started.
    fn abandon(guard: Held, status: &mut StatusFile) -> Failure {
        status.outcome = Outcome::Error;
        let name = guard.names();
        let ttl = humantime::format_duration(guard.ttl());
        guard.into_guards().abandon();
        status.release = Some(ABANDONED);
        Failure::new(
            UNAVAILABLE,
            format!(
                "the guardian has ended, and it is unknown whether the command runs; lock {name} is not \
                 released, and the store frees it {ttl} after the last renewal"
            ),
        )
    }

    fn lost_before_start(&self, guard: &Held, reason: NotHeld) -> Failure {
        let name = guard.names();
        let why = match reason {
            NotHeld::Lost(reason) => reason.to_string(),
            other => other.to_string(),
        };
        Failure::new(
            self.options.lost_exit_code,
            format!("lost {name} before the command was started: {why}"),
        )
    }

    async fn release(&self, held: Held, status: &mut StatusFile) {
        let guards = held.into_guards();
        let ttl = humantime::format_duration(guards.ttl());
        let attempts: Vec<_> = guards
            .guards()
            .iter()
            .map(|guard| (guard.name().clone(), guard.attempt()))
            .collect();
        status.release = Some("released");
        let Err(not_released) = guards.release().await else {
            return;
        };
        for (lock, outcome) in not_released.0 {
            let name = quote(lock.as_str());
            let attempt = attempts.iter().find(|(other, _)| *other == lock);
            match outcome {
                Release::Released => {}
                Release::NotHeld(reason) => {
                    status.release = Some("not_held");
                    if !matches!(status.outcome, Outcome::Lost | Outcome::NotStopped) {
                        print_warning(&format!(
                            "lock {name} was already lost at release: {reason}"
                        ));
                    }
                }
                // The client repeats the removal, or a reply was lost after the store had carried it out.
                Release::Unknown(_) if self.is_free_of(attempt).await => {}
                // The message about the loss has named the cause, and the store cannot be reached.
                Release::Unknown(_) if matches!(status.outcome, Outcome::Lost) => {
                    status.release = Some("unknown");
                    print_warning(&format!(
                        "the store did not confirm the release of {name}, and frees it {ttl} after the \
                         last renewal"
                    ));
                }
                Release::Unknown(error) => {
                    status.release = Some("unknown");
                    print_warning(&format!(
                        "it is unknown whether lock {name} was released: {}; the store frees it {ttl} \
                         after the last renewal",
                        describe(&error)
                    ));
                }
                _ => status.release = Some("unknown"),
            }
        }
    }

    /// Returns whether the store reports, within [`SHUTDOWN_TIMEOUT`], that it no longer has the
    /// grant.
    async fn is_free_of(&self, grant: Option<&(LockName, AttemptId)>) -> bool {
        let Some((name, attempt)) = grant else {
            return false;
        };
        let limit = time::now() + SHUTDOWN_TIMEOUT;
        let gone = async {
            let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
            loop {
                if let Ok(state) = self.client.inspect(name).await
                    && !state
                        .holders()
                        .any(|holder| holder.attempt == Some(*attempt))
                {
                    return;
                }
                backoff.pause(&SystemClock).await;
            }
        };
        tokio::select! {
            biased;
            () = gone => true,
            () = time::sleep_until(limit) => false,
        }
    }

    /// Returns the variables that are set in the command's environment.
    fn environment(&self, guard: &Held) -> Vec<(&'static str, OsString)> {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let owner = format!("{}@{host}:{}", self.label, std::process::id());
        vec![
            ("TENURE_NAME", self.name.as_str().into()),
            ("TENURE_TOKEN", guard.token().to_string().into()),
            ("TENURE_FLOOR", guard.floor().to_string().into()),
            // A label may come from a configuration file, and the environment cannot contain a NUL.
            ("TENURE_OWNER", owner.replace('\0', "").into()),
            (
                "TENURE_BACKEND",
                self.client.info().endpoint.replace('\0', "").into(),
            ),
            ("TENURE_TTL_MS", guard.ttl().as_millis().to_string().into()),
            (reentrancy::VARIABLE, reentrancy::held_chain(guard.guards())),
        ]
    }
}
