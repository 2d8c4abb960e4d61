//! Which signals are passed on, and which of them were ignored from the start.

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::exit::{Failure, UNAVAILABLE};

/// What the command gets when the supervisor gets it.
pub(crate) const FORWARDED: [Signal; 6] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// What stops a process from the terminal.
pub(crate) const JOB_CONTROL: [Signal; 3] = [Signal::TSTP, Signal::TTIN, Signal::TTOU];

/// What ends the wait for the lock.
const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// The signals that this process has got, one after the other.
#[derive(Debug)]
pub(crate) struct Listener {
    received: mpsc::UnboundedReceiver<Signal>,
    sender: mpsc::UnboundedSender<Signal>,
}

impl Listener {
    /// Catches what is passed on.
    pub(crate) fn start() -> Result<Self, Failure> {
        let (sender, received) = mpsc::unbounded_channel();
        let listener = Self { received, sender };
        for caught in FORWARDED {
            listener.catch(caught)?;
        }
        Ok(listener)
    }

    /// Catches the signals of job control too: from now on there is a command that they are for.
    pub(crate) fn catch_job_control(&self) -> Result<(), Failure> {
        self.catch(Signal::TSTP)?;
        self.catch(Signal::CONT)
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(received) => received,
            // It cannot end while a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks to end.
    pub(crate) async fn ending(&mut self) -> Signal {
        loop {
            let received = self.next().await;
            if ENDING.contains(&received) {
                return received;
            }
        }
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

/// Whether this process was started with the signal ignored, as `nohup` does with HUP. It stays
/// ignored then, and the command inherits that.
///
/// To be asked before a handler is set. Known on Linux alone.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}
