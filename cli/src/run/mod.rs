//! `tenure run`: take the lock, have the guardian run the command, give the lock back.

mod doubt;
mod held;
mod link;
mod plan;
mod record;
mod supervise;
mod wait;

use std::{ffi::OsString, path::Path, time::Duration};

pub(crate) use plan::fit;
use tenure::{Client, Guard, NotHeld, Registry, Release, name::LockName, request::Holder};

use self::{
    link::Start,
    plan::Plan,
    record::{Outcome, Record},
    supervise::Finish,
    wait::Waited,
};
use crate::{
    args::{Global, Run},
    commands,
    escape::quote,
    exit::{CONFIG, Failure, UNAVAILABLE, describe, say},
    signals::Listener,
    time, view,
};

/// How long the store is given at the end to take back what is left.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the command under the lock.
pub(crate) fn run(options: Run, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let name = commands::lock_name(&options.name)?;
    let mut sources = commands::sources(global);
    if let Some(ttl) = options.ttl {
        let text = humantime::format_duration(ttl).to_string();
        sources = sources.set("lock.ttl", text, "flag --ttl");
    }
    let config = commands::load(&sources)?;
    let plan = Plan::new(&options, &config)?;
    if config.open(registry)?.info().scheme == "memory" {
        return Err(Failure::new(
            CONFIG,
            "the store memory: lives inside of one process, so that it can keep no other \
             `tenure run` out; choose another one, such as file:DIRECTORY",
        ));
    }
    if let Some(path) = &options.status_file {
        record::check_place(path)?;
    }
    let mut record = Record::new(&name, &config.namespace);
    let command = command(&options);
    let label = options.label.clone().or_else(|| config.label.clone());
    let label = label.unwrap_or_else(|| program_name(&command));

    let code = commands::runtime()?.block_on(async {
        let client = config.connect(registry).await.map_err(|error| {
            record.outcome = Outcome::Error;
            Failure::from(error).about(&name)
        })?;
        let job = Job {
            options: &options,
            plan,
            name,
            command,
            label,
            client,
        };
        let code = job.run(&mut record).await;
        job.client.shutdown(FAREWELL).await;
        code
    });
    // Silent codes, of the command above all, take the same way out as failures.
    let code = code.unwrap_or_else(|failure| {
        let code = failure.code;
        failure.report();
        code
    });
    record.exit_code = code;
    if let Some(path) = &options.status_file
        && let Err(error) = record.write(path)
    {
        say(&format!(
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

/// What is executed.
fn command(options: &Run) -> Vec<OsString> {
    match &options.shell {
        Some(script) => vec!["sh".into(), "-c".into(), script.clone()],
        None => options.command.clone(),
    }
}

/// The command's name alone: its arguments may hold what others must not see.
fn program_name(command: &[OsString]) -> String {
    let program = command
        .first()
        .map_or_else(Default::default, OsString::as_os_str);
    let name = Path::new(program).file_name().unwrap_or(program);
    name.to_string_lossy().into_owned()
}

struct Job<'a> {
    options: &'a Run,
    plan: Plan,
    name: LockName,
    command: Vec<OsString>,
    label: String,
    client: Client,
}

impl Job<'_> {
    async fn run(&self, record: &mut Record) -> Result<u8, Failure> {
        held::refuse_nested(&self.client, &self.name)
            .await
            .inspect_err(|_| {
                record.outcome = Outcome::Error;
            })?;
        let begin = time::now();
        let mut signals = Listener::start()?;
        let lock = self
            .client
            .lock_named(self.name.clone())
            .ttl(self.plan.ttl)
            .label(&*self.label);
        let waited = wait::acquire(&lock, &self.plan, self.options.quiet, &mut signals).await;
        record.waited_ms = view::millis(time::now().since(begin));
        let (guard, queued) = match waited {
            Ok(Waited::Acquired { guard, queued }) => (guard, queued),
            Ok(Waited::Busy(holder)) => return Err(self.busy(&holder, record)),
            Ok(Waited::Interrupted(signal)) => {
                record.outcome = Outcome::Interrupted;
                let code = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
                return Err(Failure::silent(code));
            }
            Err(error) => {
                record.outcome = Outcome::Error;
                return Err(error.into());
            }
        };
        record.token = Some(guard.token().get());
        record.acquired = true;
        let granted = time::now();
        let held = self.hold(&guard, queued, &mut signals, record).await;
        record.held_ms = view::millis(time::now().since(granted));
        if let Ok(Finish::CommandUnknown) = held {
            return Err(self.leave(guard, record));
        }
        let code = held.map(|finish| self.conclude(finish, &guard, record));
        self.release(&guard, record).await;
        code
    }

    fn busy(&self, holder: &Holder, record: &mut Record) -> Failure {
        record.outcome = Outcome::Busy;
        let code = self.options.conflict_exit_code;
        if self.options.quiet || code == 0 {
            return Failure::silent(code);
        }
        let name = quote(self.name.as_str());
        let held = view::held_by(holder);
        Failure::new(
            code,
            match self.plan.budget {
                Some(budget) if !budget.is_zero() => {
                    let budget = humantime::format_duration(budget);
                    format!("gave up waiting for {name} after {budget}: it is {held}")
                }
                _ => format!("{name} is {held}"),
            },
        )
    }

    /// Runs the command. The lock is held, and is given back afterwards whatever happens here.
    async fn hold(
        &self,
        guard: &Guard,
        queued: bool,
        signals: &mut Listener,
        record: &mut Record,
    ) -> Result<Finish, Failure> {
        // A grant that was waited for counts from an old report: the command might start with little
        // time before its deadline. Where there is enough of it, a new proof may take longer than
        // it is worth (on ZooKeeper some ticks).
        let short = guard.remaining() < guard.ttl() * 3 / 5;
        let proved = if queued && short {
            guard.renew().await
        } else {
            guard.check().map(|_| ())
        };
        if let Err(reason) = proved {
            record.outcome = Outcome::Lost;
            return Err(self.lost_before_start(reason));
        }
        let start = Start {
            command: &self.command,
            kill_after: self.plan.kill_after,
            deadline: guard.valid_until(),
            environment: self.environment(guard),
        };
        signals.catch_job_control()?;
        let link = link::start(start).map_err(|error| {
            record.outcome = Outcome::NotStarted;
            Failure::new(
                UNAVAILABLE,
                format!("starting the guardian of the command: {error}"),
            )
        })?;
        Ok(supervise::supervise(guard, link, signals, self.options.on_lost).await)
    }

    fn conclude(&self, finish: Finish, guard: &Guard, record: &mut Record) -> u8 {
        let name = quote(self.name.as_str());
        match finish {
            Finish::Ended(end) => {
                record.outcome = if end.signal.is_some() {
                    Outcome::Signaled
                } else {
                    Outcome::Exited
                };
                record.child_code = end.code;
                record.child_signal = end.signal;
                end.as_code()
            }
            Finish::Lost {
                reason,
                end,
                stopped,
            } => {
                record.outcome = Outcome::Lost;
                record.child_code = end.and_then(|end| end.code);
                record.child_signal = end.and_then(|end| end.signal);
                let reason = format!("{reason}{}", doubt::cause(guard));
                match (stopped, end) {
                    (false, Some(end)) => {
                        say(&format!(
                            "lost {name} while the command ran, as was to be ignored: {reason}"
                        ));
                        end.as_code()
                    }
                    _ => {
                        say(&format!(
                            "lost {name}, so the command was stopped: {reason}"
                        ));
                        self.options.lost_exit_code
                    }
                }
            }
            Finish::NotStarted { code, reason } => {
                record.outcome = Outcome::NotStarted;
                let program = self
                    .command
                    .first()
                    .map_or_else(String::new, |program| quote(&program.to_string_lossy()));
                say(&format!(
                    "the command {program} could not be started: {reason}"
                ));
                code
            }
            Finish::GuardianGone | Finish::CommandUnknown => {
                record.outcome = Outcome::Signaled;
                record.child_signal = Some(rustix::process::Signal::KILL.as_raw());
                say("the guardian of the command is gone, so the command was killed");
                137
            }
        }
    }

    /// Leaves the lock to its TTL: the guardian died before it said whether it had started the
    /// command, and nobody can find a command that it may have started.
    fn leave(&self, guard: Guard, record: &mut Record) -> Failure {
        record.outcome = Outcome::Error;
        let name = quote(self.name.as_str());
        let ttl = humantime::format_duration(guard.ttl());
        guard.abandon();
        Failure::new(
            UNAVAILABLE,
            format!(
                "the guardian of the command is gone, and it is not known whether the command runs; \
                 {name} is not given back, and the store frees it {ttl} after the last renewal"
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

    async fn release(&self, guard: &Guard, record: &mut Record) {
        let name = quote(self.name.as_str());
        match guard.release().await {
            Release::Released => record.release = Some("released"),
            Release::NotHeld(reason) => {
                record.release = Some("not_held");
                if record.outcome != Outcome::Lost {
                    say(&format!(
                        "{name} was gone when it was to be released: {reason}"
                    ));
                }
            }
            Release::Unknown(error) => {
                record.release = Some("unknown");
                let ttl = humantime::format_duration(guard.ttl());
                say(&format!(
                    "it is not known whether {name} was released: {}; the store frees it {ttl} \
                     after the last renewal",
                    describe(&error)
                ));
            }
            _ => record.release = Some("unknown"),
        }
    }

    /// What the command finds in its environment.
    fn environment(&self, guard: &Guard) -> Vec<(&'static str, OsString)> {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let owner = format!("{}@{host}:{}", self.label, std::process::id());
        vec![
            ("TENURE_NAME", self.name.as_str().into()),
            ("TENURE_TOKEN", guard.token().to_string().into()),
            // A label may come from a configuration file, and a NUL cannot be in the environment.
            ("TENURE_OWNER", owner.replace('\0', "").into()),
            (
                "TENURE_BACKEND",
                self.client.info().endpoint.replace('\0', "").into(),
            ),
            ("TENURE_TTL_MS", guard.ttl().as_millis().to_string().into()),
            (held::VARIABLE, held::with(guard)),
        ]
    }
}
