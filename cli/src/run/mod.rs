//! `tenure run`: acquires the lock, lets the guardian run the command, and releases the lock.

mod guardian_handle;
mod reentrancy;
mod renewal_warning;
mod status_file;
mod supervise;
mod timing;
mod wait;

use std::{ffi::OsString, path::Path, time::Duration};

use tenure::{Client, Guard, NotHeld, Registry, Release, name::LockName, request::Holder};
pub(crate) use timing::check_fits;

use self::{
    guardian_handle::Start,
    status_file::{Outcome, StatusFile},
    supervise::Finish,
    timing::Timing,
    wait::Waited,
};
use crate::{
    args::{Global, Run},
    commands,
    escape::quote,
    exit::{CONFIG, Failure, UNAVAILABLE, describe, print_message},
    signals::Listener,
    time, view,
};

/// How long the client may take at the end to release what it still holds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command under the lock.
pub(crate) fn run(options: Run, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let name = commands::lock_name(&options.name)?;
    let mut sources = commands::sources(global);
    if let Some(ttl) = options.ttl {
        let text = humantime::format_duration(ttl).to_string();
        sources = sources.set("lock.ttl", text, "flag --ttl");
    }
    let config = commands::load(&sources)?;
    let timing = Timing::new(&options, &config)?;
    if config.open(registry)?.info().scheme == "memory" {
        return Err(Failure::new(
            CONFIG,
            "the store memory: exists inside one process and cannot exclude another `tenure run`; \
             choose another store, such as file:DIRECTORY",
        ));
    }
    if let Some(path) = &options.status_file {
        status_file::check_writable(path)?;
    }
    let mut status = StatusFile::new(&name, &config.namespace);
    let command = command(&options);
    let label = options.label.clone().or_else(|| config.label.clone());
    let label = label.unwrap_or_else(|| program_name(&command));

    let code = commands::runtime()?.block_on(async {
        let client = config.connect(registry).await.map_err(|error| {
            status.outcome = Outcome::Error;
            Failure::from(error).about(&name)
        })?;
        let job = Job {
            options: &options,
            timing,
            name,
            command,
            label,
            client,
        };
        let code = job.run(&mut status).await;
        job.client.shutdown(SHUTDOWN_TIMEOUT).await;
        code
    });
    // Exit codes without a message, such as the command's, use the same path as failures.
    let code = code.unwrap_or_else(|failure| {
        let code = failure.code;
        failure.report();
        code
    });
    status.exit_code = code;
    if let Some(path) = &options.status_file
        && let Err(error) = status.write(path)
    {
        print_message(&format!(
            "the status file {:?} could not be written: {error}",
            path.display().to_string()
        ));
    }
    if code == 0 {
        Ok(())
    } else {
        Err(Failure::silent(code))
    }
}

/// Returns the program and its arguments.
fn command(options: &Run) -> Vec<OsString> {
    match &options.shell {
        Some(script) => vec!["sh".into(), "-c".into(), script.clone()],
        None => options.command.clone(),
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

struct Job<'a> {
    options: &'a Run,
    timing: Timing,
    name: LockName,
    command: Vec<OsString>,
    label: String,
    client: Client,
}

impl Job<'_> {
    async fn run(&self, status: &mut StatusFile) -> Result<u8, Failure> {
        reentrancy::refuse_nested(&self.client, &self.name)
            .await
            .inspect_err(|_| {
                status.outcome = Outcome::Error;
            })?;
        let begin = time::now();
        let mut signals = Listener::start()?;
        let lock = self
            .client
            .lock_named(self.name.clone())
            .ttl(self.timing.ttl)
            .label(&*self.label);
        let waited = wait::acquire(&lock, &self.timing, self.options.quiet, &mut signals).await;
        status.waited_ms = view::millis(time::now().since(begin));
        let (guard, queued) = match waited {
            Ok(Waited::Acquired { guard, queued }) => (guard, queued),
            Ok(Waited::Busy(holder)) => return Err(self.busy(&holder, status)),
            Ok(Waited::Interrupted(signal)) => {
                status.outcome = Outcome::Interrupted;
                let code = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
                return Err(Failure::silent(code));
            }
            Err(error) => {
                status.outcome = Outcome::Error;
                return Err(error.into());
            }
        };
        status.token = Some(guard.token().get());
        status.acquired = true;
        let granted = time::now();
        let held = self.hold(&guard, queued, &mut signals, status).await;
        status.held_ms = view::millis(time::now().since(granted));
        if let Ok(Finish::CommandUnknown) = held {
            return Err(self.leave(guard, status));
        }
        let code = held.map(|finish| self.conclude(finish, &guard, status));
        self.release(&guard, status).await;
        code
    }

    fn busy(&self, holder: &Holder, status: &mut StatusFile) -> Failure {
        status.outcome = Outcome::Busy;
        let code = self.options.conflict_exit_code;
        if self.options.quiet || code == 0 {
            return Failure::silent(code);
        }
        let name = quote(self.name.as_str());
        let held = view::held_by(holder);
        Failure::new(
            code,
            match self.timing.budget {
                Some(budget) if !budget.is_zero() => {
                    let budget = humantime::format_duration(budget);
                    format!("gave up waiting for {name} after {budget}: it is {held}")
                }
                _ => format!("{name} is {held}"),
            },
        )
    }

    /// Runs the command while the lock is held. The caller releases the lock afterwards, whatever
    /// this function returns.
    async fn hold(
        &self,
        guard: &Guard,
        queued: bool,
        signals: &mut Listener,
        status: &mut StatusFile,
    ) -> Result<Finish, Failure> {
        // The validity of a queued grant counts from an old report, so the command might start
        // shortly before its deadline. If enough time is left, a renewal may cost more time than it
        // gains (some ticks on ZooKeeper).
        let short = guard.remaining() < guard.ttl() * 3 / 5;
        let proved = if queued && short {
            guard.renew().await
        } else {
            guard.check().map(|_| ())
        };
        if let Err(reason) = proved {
            status.outcome = Outcome::Lost;
            return Err(self.lost_before_start(reason));
        }
        let start = Start {
            command: &self.command,
            kill_after: self.timing.kill_after,
            deadline: guard.valid_until(),
            environment: self.environment(guard),
        };
        signals.catch_job_control()?;
        let guardian = guardian_handle::start(start).map_err(|error| {
            status.outcome = Outcome::NotStarted;
            Failure::new(
                UNAVAILABLE,
                format!("starting the guardian of the command: {error}"),
            )
        })?;
        Ok(supervise::supervise(guard, guardian, signals, self.options.on_lost).await)
    }

    fn conclude(&self, finish: Finish, guard: &Guard, status: &mut StatusFile) -> u8 {
        let name = quote(self.name.as_str());
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
                        print_message(&format!(
                            "lost {name} while the command ran; `--on-lost ignore` let it run on: {reason}"
                        ));
                        end.as_code()
                    }
                    _ => {
                        print_message(&format!(
                            "lost {name}, so the command was stopped: {reason}"
                        ));
                        self.options.lost_exit_code
                    }
                }
            }
            Finish::NotStarted { code, reason } => {
                status.outcome = Outcome::NotStarted;
                let program = self
                    .command
                    .first()
                    .map_or_else(String::new, |program| quote(&program.to_string_lossy()));
                print_message(&format!(
                    "the command {program} could not be started: {reason}"
                ));
                code
            }
            Finish::GuardianGone | Finish::CommandUnknown => {
                status.outcome = Outcome::Signaled;
                status.child_signal = Some(rustix::process::Signal::KILL.as_raw());
                print_message("the guardian has ended, so the command was killed");
                137
            }
        }
    }

    /// Leaves the lock to its TTL: the guardian died before it reported whether it had started the
    /// command, and no process can find a command that the guardian may have started.
    fn leave(&self, guard: Guard, status: &mut StatusFile) -> Failure {
        status.outcome = Outcome::Error;
        let name = quote(self.name.as_str());
        let ttl = humantime::format_duration(guard.ttl());
        guard.abandon();
        Failure::new(
            UNAVAILABLE,
            format!(
                "the guardian has ended, and it is unknown whether the command runs; lock {name} is not \
                 released, and the store frees it {ttl} after the last renewal"
            ),
        )
    }

    fn lost_before_start(&self, reason: NotHeld) -> Failure {
        let name = quote(self.name.as_str());
        let why = match reason {
            NotHeld::Lost(reason) => reason.to_string(),
            other => other.to_string(),
        };
        Failure::new(
            self.options.lost_exit_code,
            format!("lost {name} before the command was started: {why}"),
        )
    }

    async fn release(&self, guard: &Guard, status: &mut StatusFile) {
        let name = quote(self.name.as_str());
        match guard.release().await {
            Release::Released => status.release = Some("released"),
            Release::NotHeld(reason) => {
                status.release = Some("not_held");
                if status.outcome != Outcome::Lost {
                    print_message(&format!(
                        "lock {name} was already lost at release: {reason}"
                    ));
                }
            }
            Release::Unknown(error) => {
                status.release = Some("unknown");
                let ttl = humantime::format_duration(guard.ttl());
                print_message(&format!(
                    "it is unknown whether lock {name} was released: {}; the store frees it {ttl} \
                     after the last renewal",
                    describe(&error)
                ));
            }
            _ => status.release = Some("unknown"),
        }
    }

    /// Returns the variables that are set in the command's environment.
    fn environment(&self, guard: &Guard) -> Vec<(&'static str, OsString)> {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let owner = format!("{}@{host}:{}", self.label, std::process::id());
        vec![
            ("TENURE_NAME", self.name.as_str().into()),
            ("TENURE_TOKEN", guard.token().to_string().into()),
            // A label may come from a configuration file, and the environment cannot contain a NUL.
            ("TENURE_OWNER", owner.replace('\0', "").into()),
            (
                "TENURE_BACKEND",
                self.client.info().endpoint.replace('\0', "").into(),
            ),
            ("TENURE_TTL_MS", guard.ttl().as_millis().to_string().into()),
            (reentrancy::VARIABLE, reentrancy::held_chain(guard)),
        ]
    }
}
