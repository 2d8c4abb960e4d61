//! The signals that are forwarded, and the check whether one was ignored from the start.

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::exit::{Failure, UNAVAILABLE};

/// The signals that the supervisor forwards to the command.
pub(crate) const FORWARDED: [Signal; 6] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// The signals that stop a process from the terminal.
pub(crate) const JOB_CONTROL: [Signal; 3] = [Signal::TSTP, Signal::TTIN, Signal::TTOU];

/// The signals that request the end: they end the wait for the lock.
pub(crate) const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// The queue of signals that this process has received.
#[derive(Debug)]
pub(crate) struct Listener {
    received: mpsc::UnboundedReceiver<Signal>,
    sender: mpsc::UnboundedSender<Signal>,
    ended: bool,
}

impl Listener {
    /// Catches the forwarded signals.
    pub(crate) fn start() -> Result<Self, Failure> {
        let (sender, received) = mpsc::unbounded_channel();
        let listener = Self {
            received,
            sender,
            ended: false,
        };
        for caught in FORWARDED {
            listener.catch(caught)?;
        }
        Ok(listener)
    }

    /// Also catches the signals of job control, once a command exists that should receive them.
    pub(crate) fn catch_job_control(&self) -> Result<(), Failure> {
        self.catch(Signal::TSTP)?;
        self.catch(Signal::CONT)
    }

    /// Returns the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(received) => {
                self.ended |= ENDING.contains(&received);
                received
            }
            // The channel cannot close while this struct keeps a sender.
            None => std::future::pending().await,
        }
    }

    /// Returns the next signal that requests the end.
    pub(crate) async fn ending(&mut self) -> Signal {
        loop {
            let received = self.next().await;
            if ENDING.contains(&received) {
                return received;
            }
        }
    }

    /// Returns whether a signal that requests the end was received.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    fn catch(&self, caught: Signal) -> Result<(), Failure> {
        if is_ignored(caught) {
            return Ok(());
        }
        let mut stream = signal(SignalKind::from_raw(caught.as_raw()))
            .map_err(|error| Failure::new(UNAVAILABLE, format!("catching signals: {error}")))?;
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(caught).is_ok() {}
        });
        Ok(())
    }
}

/// Returns the name of a signal, such as `SIGTERM`.
pub(crate) fn name_of_signal(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

/// Returns whether this process was started with the signal ignored, as `nohup` does with HUP. Such
/// a signal stays ignored, and the command inherits that.
///
/// Call this function before setting a handler. It works on Linux only.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}
