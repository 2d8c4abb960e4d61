//! The guardian: a small process that runs the command and stops it if the supervisor cannot.
//!
//! The supervisor, which talks to the store, can be stopped, killed, or hang. A second process,
//! with neither network nor runtime, is therefore the command's parent. The guardian receives each
//! new deadline, reads the clock itself, and stops the command before the store can grant the lock
//! to another client. It kills the command at once when the supervisor has ended.

mod group;
pub(crate) mod protocol;
mod terminal;

use std::{
    ffi::OsString,
    io::{self, IoSliceMut, IsTerminal, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::{Pid, Signal},
};
use tenure::clock::Instant;

use self::{
    group::{Change, Group},
    protocol::{End, Lines, OnLost, Order, Report, instant_from_nanos, line},
    terminal::Terminal,
};
use crate::{
    escape::quote,
    journal::Priority,
    process_group::{Liveness, ProcessGroup},
    time,
};

/// The longest sleep in `poll`. The clock of `poll` stops while the machine is suspended, and the
/// deadline's clock does not, so the guardian must read the deadline's clock this often.
const MAX_SLEEP: Duration = Duration::from_millis(500);
/// The guardian kills the command this long before the deadline, so that it is dead by then.
const KILL_LEAD: Duration = Duration::from_millis(10);
/// How often the guardian checks whether a group that it stops has ended.
const GROUP_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often the guardian checks whether processes have ended that it may not signal.
const NOT_PERMITTED_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The received descriptor must not stay open in the command beside its standard input.
#[cfg(target_os = "linux")]
const RECV_FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECV_FLAGS: RecvFlags = RecvFlags::empty();

/// Runs as a guardian if the arguments request it; the first argument is the program's name.
///
/// The standard input is the control channel.
pub(crate) fn run_if_requested(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, first, supervisor, kill_after, _, command @ ..] = arguments else {
        return None;
    };
    if first != protocol::ARGUMENT {
        return None;
    }
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let (Some(supervisor), Some(kill_after)) = (number(supervisor), number(kill_after)) else {
        return Some(ExitCode::from(64));
    };
    let supervisor = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
    let kill_after = Duration::from_nanos(kill_after);
    match supervise(supervisor, kill_after, command) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            print_error(&format!("tenure: the guardian failed: {error}\n"));
            Some(ExitCode::from(70))
        }
    }
}

/// `supervisor` is the process group of the supervisor, if it has a number in this pid namespace.
fn supervise(
    supervisor: Option<Pid>,
    kill_after: Duration,
    command: &[OsString],
) -> io::Result<()> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // A handler that does nothing catches these signals. Ignoring them would not work: the command
    // would inherit that. The supervisor forwards the signals to the command.
    for signal in crate::signals::FORWARDED
        .iter()
        .chain(&crate::signals::JOB_CONTROL)
    {
        if !crate::signals::is_ignored(*signal) {
            signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))?;
        }
    }
    let (children, wake) = UnixStream::pair()?;
    children.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), wake)?;

    let mut lines = Lines::default();
    let Some((deadline, stdin)) = receive_start(&control, &mut lines)? else {
        // The supervisor ended before it sent the start message.
        return Ok(());
    };
    control.set_nonblocking(true)?;

    let wants_terminal =
        stdin.as_ref().is_some_and(IsTerminal::is_terminal) && io::stdout().is_terminal();
    // A group without a number cannot be the target of the terminal. The terminal then stays with
    // the supervisor, which forwards the signals of the terminal.
    let terminal = supervisor.and_then(Terminal::open);
    if time::now() >= deadline.before(KILL_LEAD) {
        // The machine was paused since the grant, so the command must not start.
        let end = End {
            code: None,
            signal: None,
            by_guardian: true,
            still_runs: false,
        };
        return (&control).write_all(&line(&Report::Finished(end)));
    }
    let group = match Group::start(command, stdin) {
        Ok(group) => group,
        Err(refused) => return (&control).write_all(&line(&refused)),
    };
    if let Some(terminal) = terminal.as_ref().filter(|_| wants_terminal)
        && terminal.is_with_supervisor()
    {
        terminal.give_to(group.id());
    }
    let mut guardian = Guardian {
        control,
        children,
        lines,
        terminal,
        kill_after,
        deadline: Some(deadline),
        ending: None,
        leader: None,
        unreached: false,
        stopped: false,
        had_terminal: wants_terminal,
        orphaned: false,
        group,
    };
    guardian.report(&Report::Started(guardian.group.id().as_raw_nonzero().get()));
    guardian.run()
}

/// Receives the first message and the command's standard input; `None` if the supervisor has ended.
fn receive_start(
    control: &UnixStream,
    lines: &mut Lines,
) -> io::Result<Option<(Instant, Option<OwnedFd>)>> {
    let mut stdin = None;
    loop {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            control,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RECV_FLAGS,
        );
        let count = match received {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                stdin = descriptors.last().or(stdin);
            }
        }
        if count == 0 {
            return Ok(None);
        }
        lines.feed(&bytes[..count]);
        if let Some(Order::Start(deadline)) = lines.next() {
            return Ok(Some((instant_from_nanos(deadline), stdin)));
        }
    }
}

#[derive(Debug)]
struct Guardian {
    control: UnixStream,
    children: UnixStream,
    lines: Lines,
    terminal: Option<Terminal>,
    kill_after: Duration,
    /// The end of the lease; `None` if the command may outlive the lock.
    deadline: Option<Instant>,
    ending: Option<Ending>,
    leader: Option<Change>,
    /// Whether a request to end did not reach every process of the command.
    unreached: bool,
    stopped: bool,
    /// Whether the command has had the terminal, which it receives again when it continues.
    had_terminal: bool,
    /// Whether the supervisor has ended.
    orphaned: bool,
    group: Group,
}

/// The command is being stopped.
#[derive(Clone, Copy, Debug)]
struct Ending {
    kill_at: Instant,
    killed: bool,
}

/// Returns the last message of a guardian whose supervisor has ended. It names the lock, because
/// several guardians may write to one log.
fn orphaned_message(end: End, group: ProcessGroup) -> String {
    let name = quote(&std::env::var("TENURE_NAME").unwrap_or_default());
    if end.still_runs {
        let why = group.why_not_stopped();
        return format!(
            "tenure: {name}: the process that renewed the lock has ended, and the command could not be \
             stopped ({why}); it still runs, and another client can acquire the lock after its TTL\n"
        );
    }
    format!(
        "tenure: {name}: stopped the command because the process that renewed the lock has ended; no \
         other client can acquire the lock before its TTL expires\n"
    )
}

impl Guardian {
    fn run(&mut self) -> io::Result<()> {
        loop {
            // Read the orders first: after a pause, the channel may contain a newer deadline.
            self.take_orders();
            let now = time::now();
            self.enforce(now);
            self.poll_leader();
            if let Some(end) = self.finished(now) {
                if let Some(terminal) = &self.terminal {
                    terminal.take_from(self.group.id());
                }
                if self.orphaned {
                    print_error(&orphaned_message(end, self.group.processes()));
                } else {
                    self.report(&Report::Finished(end));
                }
                return Ok(());
            }
            self.sleep(now)?;
        }
    }

    fn take_orders(&mut self) {
        let mut bytes = [0; 4096];
        while !self.orphaned {
            match (&self.control).read(&mut bytes) {
                Ok(0) => self.orphan(),
                Ok(count) => self.lines.feed(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.orphan(),
            }
        }
        while let Some(order) = self.lines.next() {
            self.handle(order);
        }
    }

    fn orphan(&mut self) {
        self.orphaned = true;
        self.kill(time::now());
    }

    fn handle(&mut self, order: Order) {
        match order {
            Order::Start(at) | Order::Deadline(at) => {
                // The end of the command is final, and no deadline counts after evidence of a loss.
                if self.ending.is_none() {
                    self.deadline = self.deadline.map(|_| instant_from_nanos(at));
                }
            }
            Order::Signal(number) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    self.forward(signal);
                }
            }
            Order::Lost(OnLost::Kill) => self.kill(time::now()),
            Order::Lost(OnLost::Term) => {
                let kill_at = time::now() + self.kill_after;
                self.terminate(kill_at);
            }
            Order::Lost(OnLost::Ignore) => self.deadline = None,
            Order::Resume => self.resume(),
        }
    }

    /// Sends a signal of the supervisor to the command.
    fn forward(&mut self, signal: Signal) {
        if self.has_ended() {
            return;
        }
        let group = self.group.processes();
        let mut reached = group.signal(signal);
        if crate::signals::ENDING.contains(&signal) {
            reached &= group.liveness() != Liveness::NotPermitted;
            self.unreached |= !reached;
        }
        if !reached {
            self.report(&Report::NotPermitted(signal.as_raw()));
        }
    }

    /// Returns whether the command has ended by itself. Processes that the command leaves behind do
    /// not belong to it, unless they could not receive a request to end.
    fn has_ended(&self) -> bool {
        self.leader.is_some() && !(self.unreached && self.is_not_permitted())
    }

    fn is_not_permitted(&self) -> bool {
        self.group.processes().liveness() == Liveness::NotPermitted
    }

    /// Stops the command when the deadline is near.
    fn enforce(&mut self, now: Instant) {
        if let (Some(deadline), None) = (self.deadline, self.ending) {
            let kill_at = deadline.before(KILL_LEAD);
            if now >= kill_at {
                self.kill(now);
            } else if now >= deadline.before(self.kill_after) {
                self.terminate(kill_at);
            }
        }
        if self
            .ending
            .is_some_and(|ending| !ending.killed && now >= ending.kill_at)
        {
            self.kill(now);
        }
    }

    fn terminate(&mut self, kill_at: Instant) {
        if self.ending.is_some() || self.has_ended() {
            return;
        }
        self.ending = Some(Ending {
            kill_at,
            killed: false,
        });
        self.group.processes().signal(Signal::TERM);
        // A stopped process handles TERM only after CONT.
        self.group.processes().signal(Signal::CONT);
    }

    fn kill(&mut self, now: Instant) {
        if self.ending.is_none() && !self.orphaned && self.has_ended() {
            return;
        }
        self.ending = Some(Ending {
            kill_at: now,
            killed: true,
        });
        self.group.processes().signal(Signal::KILL);
    }

    fn poll_leader(&mut self) {
        while self.leader.is_none() {
            match self.group.poll() {
                None => return,
                Some(Change::Stopped(signal)) => self.on_stop(signal),
                Some(end) => self.leader = Some(end),
            }
        }
    }

    fn on_stop(&mut self, signal: i32) {
        let is = |wanted: Signal| signal == wanted.as_raw();
        let wants_terminal = is(Signal::TTIN) || is(Signal::TTOU);
        if let Some(terminal) = self.terminal.as_ref().filter(|_| wants_terminal) {
            // The command used the terminal before it was the foreground group, or for the first
            // time.
            let ours = terminal.is_with(self.group.id());
            if ours || terminal.is_with_supervisor() {
                if !ours {
                    terminal.give_to(self.group.id());
                }
                self.had_terminal = true;
                self.group.processes().signal(Signal::CONT);
                return;
            }
        }
        self.stopped = true;
        let mut had_it = false;
        if let Some(terminal) = &self.terminal {
            had_it = terminal.is_with(self.group.id());
            self.had_terminal |= had_it;
            terminal.take_from(self.group.id());
        }
        let job_control = wants_terminal || is(Signal::TSTP);
        let suspend = self.terminal.is_some() && (had_it || job_control);
        let needs_terminal = wants_terminal && self.terminal.is_none();
        self.report(&Report::Stopped {
            suspend,
            needs_terminal,
        });
    }

    fn resume(&mut self) {
        if !self.stopped || self.leader.is_some() {
            return;
        }
        self.stopped = false;
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.had_terminal)
            && terminal.is_with_supervisor()
        {
            terminal.give_to(self.group.id());
        }
        self.group.processes().signal(Signal::CONT);
    }

    /// Returns how the command ended, once the guardian has nothing left to do.
    fn finished(&self, now: Instant) -> Option<End> {
        let group = self.group.processes();
        let ended = match self.ending {
            None => self.has_ended(),
            Some(ending) if ending.killed => {
                group.has_ended_after_kill(now.since(ending.kill_at))?
            }
            // The children of the command get the same time to end as the command.
            Some(_) => self.leader.is_some() && group.liveness() == Liveness::Ended,
        };
        let still_runs = !ended;
        if still_runs && self.ending.is_none_or(|ending| !ending.killed) {
            return None;
        }
        let (code, signal) = match self.leader {
            Some(Change::Exited(code)) => (Some(code), None),
            Some(Change::Died(signal) | Change::Stopped(signal)) => (None, Some(signal)),
            None if still_runs => (None, None),
            // The leader is a zombie of which `poll` has not yet reported the end.
            None => return None,
        };
        Some(End {
            code,
            signal,
            by_guardian: self.ending.is_some(),
            still_runs,
        })
    }

    fn report(&self, report: &Report) {
        // If the supervisor has ended, the next read fails.
        let _ = (&self.control).write_all(&line(report));
    }

    fn sleep(&self, now: Instant) -> io::Result<()> {
        let mut wait = MAX_SLEEP;
        match (self.ending, self.deadline) {
            (Some(ending), _) if !ending.killed => wait = wait.min(ending.kill_at.since(now)),
            (None, Some(deadline)) => {
                wait = wait.min(deadline.before(self.kill_after.max(KILL_LEAD)).since(now));
            }
            _ => {}
        }
        match self.ending {
            None if self.leader.is_some() => wait = wait.min(NOT_PERMITTED_POLL_INTERVAL),
            Some(ending) if ending.killed || self.leader.is_some() => {
                wait = wait.min(GROUP_POLL_INTERVAL);
            }
            _ => {}
        }
        // Round up to avoid a busy loop just before the deadline.
        let wait = wait.max(Duration::from_millis(1));
        let timeout = Timespec::try_from(wait).ok();
        let mut sources = [
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.control, PollFlags::IN),
        ];
        // A closed channel is always readable, so it is polled only while it is open.
        let count = if self.orphaned { 1 } else { 2 };
        match poll(&mut sources[..count], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut drain = [0; 64];
        while matches!((&self.children).read(&mut drain), Ok(count) if count > 0) {}
        Ok(())
    }
}

/// Writes an error to stderr if that is possible, even from the background of a terminal.
fn print_error(text: &str) {
    let line = format!("{}{text}", Priority::Error.prefix());
    terminal::in_background(|| {
        let _ = io::stderr().write_all(line.as_bytes());
    });
}
