//! What the supervisor and the guardian say to each other: one JSON object per line.

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tenure::clock::Instant;

/// The hidden first argument that makes the program a guardian.
pub(crate) const ARGUMENT: &str = "__guardian";

/// From the supervisor. The first message is `Start`, and the command's standard input comes with
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Run the command. The lock is held until this moment of the system clock, in nanoseconds.
    Start(u64),
    /// The deadline has moved.
    Deadline(u64),
    /// Pass a signal on.
    Signal(i32),
    /// There is evidence that the lock is gone.
    Lost(OnLost),
    /// Let a stopped command go on.
    Resume,
}

/// What becomes of the command when there is evidence that the lock is gone already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnLost {
    /// It is killed at once.
    Kill,
    /// It gets TERM, and is killed after `--kill-after`.
    Term,
    /// It runs on.
    Ignore,
}

/// From the guardian. It ends with `Finished` or `NotStarted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command runs; this is its process and its process group.
    Started(i32),
    /// It could not be started.
    NotStarted {
        /// 126 or 127.
        code: u8,
        /// Why.
        reason: String,
    },
    /// It was stopped, and whether the supervisor should stop too, so that the shell gets its
    /// prompt.
    Stopped {
        /// Whether it should.
        suspend: bool,
    },
    /// It ended.
    Finished(End),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Its exit code, unless it died of a signal.
    pub(crate) code: Option<u8>,
    /// The signal that it died of.
    pub(crate) signal: Option<i32>,
    /// Whether the guardian had begun to end it.
    pub(crate) ended: bool,
}

impl End {
    /// The exit code as a shell would give it.
    pub(crate) fn as_code(self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, signal) => {
                u8::try_from(128 + signal.unwrap_or(Signal::KILL.as_raw())).unwrap_or(u8::MAX)
            }
        }
    }
}

/// A moment as it travels.
pub(crate) fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}

/// The moment that travelled.
pub(crate) fn instant_from_nanos(nanos: u64) -> Instant {
    Instant::from_origin(std::time::Duration::from_nanos(nanos))
}

/// A message as a line.
pub(crate) fn line<T: Serialize>(message: &T) -> Vec<u8> {
    // None of these types can fail to be written; an empty line is skipped by the reader.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Takes whole lines out of what has arrived.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    /// Adds what has arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message. What is none is skipped: both ends are the same program.
    pub(crate) fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            if let Ok(message) = serde_json::from_slice(&line) {
                return Some(message);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_being_cut_anywhere() {
        let orders = [
            Order::Start(u64::MAX),
            Order::Signal(15),
            Order::Lost(OnLost::Term),
            Order::Resume,
        ];
        let bytes: Vec<u8> = orders.iter().flat_map(line).collect();
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for byte in bytes {
            lines.feed(&[byte]);
            while let Some(order) = lines.next::<Order>() {
                seen.push(order);
            }
        }
        assert_eq!(seen, orders);
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let end = |code, signal| {
            End {
                code,
                signal,
                ended: false,
            }
            .as_code()
        };
        assert_eq!(end(Some(3), None), 3);
        assert_eq!(end(None, Some(9)), 137);
    }
}
