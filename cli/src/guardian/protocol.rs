//! The messages between the supervisor and the guardian: one JSON object per line.

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tenure::clock::Instant;

/// The hidden first argument that makes the program a guardian.
pub(crate) const ARGUMENT: &str = "__guardian";

/// A message from the supervisor. The first message is `Start`, and it carries the command's
/// standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Run the command. The lease ends at this time of the system clock, in nanoseconds.
    Start(u64),
    /// The deadline has moved.
    Deadline(u64),
    /// Forward a signal to the command.
    Signal(i32),
    /// There is evidence that the lock is lost.
    Lost(OnLost),
    /// Continue a stopped command.
    Resume,
}

/// The treatment of the command on evidence that the lock is already lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnLost {
    /// Kill the command at once.
    Kill,
    /// Send TERM, and KILL after `--kill-after`.
    Term,
    /// Let the command run on.
    Ignore,
}

/// A message from the guardian. The last one is `Finished` or `NotStarted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command runs; this is its process id and its process group.
    Started(i32),
    /// The command could not be started.
    NotStarted {
        /// 126 or 127.
        code: u8,
        /// Why.
        reason: String,
    },
    /// The command was stopped.
    Stopped {
        /// Whether the supervisor should stop too, so that the shell shows its prompt.
        suspend: bool,
        /// Whether it was stopped because it used a terminal that the guardian cannot give to it.
        needs_terminal: bool,
    },
    /// A signal that the supervisor forwarded did not reach every process of the command.
    NotPermitted(i32),
    /// The command ended, or could not be stopped.
    Finished(End),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Its exit code, unless it died of a signal.
    pub(crate) code: Option<u8>,
    /// The signal that killed it.
    pub(crate) signal: Option<i32>,
    /// Whether the guardian had begun to stop it.
    pub(crate) by_guardian: bool,
    /// Whether processes of the command still run because they could not be stopped.
    pub(crate) still_runs: bool,
}

impl End {
    /// Returns the exit code that a shell would report.
    pub(crate) fn as_code(self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, signal) => {
                u8::try_from(128 + signal.unwrap_or(Signal::KILL.as_raw())).unwrap_or(u8::MAX)
            }
        }
    }
}

/// Encodes an instant for a message.
pub(crate) fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}

/// Decodes an instant of a message.
pub(crate) fn instant_from_nanos(nanos: u64) -> Instant {
    Instant::from_origin(std::time::Duration::from_nanos(nanos))
}

/// Encodes a message as a line.
pub(crate) fn line<T: Serialize>(message: &T) -> Vec<u8> {
    // Serialisation of these types cannot fail; the reader skips an empty line.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Splits received bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    /// Adds received bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Returns the next message. Invalid lines are skipped: both ends are the same program.
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
    fn messages_are_decoded_from_bytes_split_anywhere() {
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
    fn exit_codes_match_those_of_a_shell() {
        let end = |code, signal| {
            End {
                code,
                signal,
                by_guardian: false,
                still_runs: false,
            }
            .as_code()
        };
        assert_eq!(end(Some(3), None), 3);
        assert_eq!(end(None, Some(9)), 137);
    }
}
