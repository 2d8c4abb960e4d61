//! The metrics file: gauges about a run, for the textfile collector of Prometheus' node exporter.
//!
//! A separate thread does the writing, so that a slow disk delays neither renewals nor the release.

use std::{
    convert::Infallible,
    fmt::{Display, Write as _},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tenure::name::LockName;

use super::{
    atomic_file,
    held::Held,
    status_file::{Outcome, StatusFile},
};
use crate::exit::{Failure, UNAVAILABLE, print_warning};

/// How often the file is written while the lock is held.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the program waits at its end for the last write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many bytes of the previous file are read; the files of this module are shorter.
const MAX_PREVIOUS_BYTES: u64 = 64 * 1024;

const PREFIX: &str = "tenure_run_";
const LAST_SUCCESS: &str = "last_success_timestamp_seconds";

/// The metrics file of a run; does nothing if the run has none.
pub(super) struct MetricsFile {
    writer: Option<Sender<Message>>,
    sample: Sample,
}

struct Message {
    sample: Sample,
    /// Receives a message after the sample was written, or could not be.
    done: Option<Sender<()>>,
}

/// The values of the file.
#[derive(Clone)]
struct Sample {
    /// The labels of each series, escaped.
    labels: String,
    start: SystemTime,
    waiting: bool,
    wait: Option<Duration>,
    grant: Option<Grant>,
    held: bool,
    lost: bool,
    end: Option<End>,
}

#[derive(Clone, Copy)]
struct Grant {
    token: u64,
    at: SystemTime,
    /// The end of the lease unless it is renewed.
    expiry: SystemTime,
}

#[derive(Clone, Copy)]
struct End {
    at: SystemTime,
    hold: Duration,
    outcome: Outcome,
    exit_code: u8,
}

impl End {
    /// Returns whether the command ran under the lock and succeeded. A run with `-E 0` that found
    /// the lock taken has the exit code 0 and is no success.
    fn is_success(self) -> bool {
        self.outcome == Outcome::Exited && self.exit_code == 0
    }
}

impl MetricsFile {
    /// Starts the writer and writes a run that waits. Without a path nothing is written.
    pub(super) fn start(
        path: Option<&Path>,
        name: &LockName,
        namespace: &str,
        backend: &str,
    ) -> Result<Self, Failure> {
        let mut labels = String::new();
        for (label, value) in [
            ("lock", name.as_str()),
            ("namespace", namespace),
            ("backend", backend),
        ] {
            let separator = if labels.is_empty() { "" } else { "," };
            let _ = write!(labels, "{separator}{label}=\"{}\"", escape_label(value));
        }
        let sample = Sample {
            labels,
            start: SystemTime::now(),
            waiting: true,
            wait: None,
            grant: None,
            held: false,
            lost: false,
            end: None,
        };
        let writer = path
            .map(|path| start_writer(path.to_owned()))
            .transpose()
            .map_err(|error| {
                Failure::new(
                    UNAVAILABLE,
                    format!("starting the writer of the metrics file: {error}"),
                )
            })?;
        let metrics = Self { writer, sample };
        metrics.send(None);
        Ok(metrics)
    }

    /// Records the grant.
    pub(super) fn acquired(&mut self, guard: &Held, waited: Duration) {
        let at = SystemTime::now();
        self.sample.waiting = false;
        self.sample.wait = Some(waited);
        self.sample.held = true;
        self.sample.grant = Some(Grant {
            token: guard.token(),
            at,
            expiry: at + guard.remaining(),
        });
        self.send(None);
    }

    /// Records renewals and a loss of the lock until the caller drops the future.
    pub(super) async fn follow(&mut self, guard: &Held) -> Infallible {
        if self.writer.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                biased;
                _ = guard.lost() => {
                    self.sample.held = false;
                    self.sample.lost = true;
                    self.send(None);
                    return std::future::pending().await;
                }
                () = tokio::time::sleep(WRITE_INTERVAL) => {
                    if let Some(grant) = &mut self.sample.grant {
                        grant.expiry = SystemTime::now() + guard.remaining();
                    }
                    self.send(None);
                }
            }
        }
    }

    /// Records the end of the run. Waits until the file is written, for at most [`WRITE_TIMEOUT`].
    pub(super) fn end(mut self, status: &StatusFile) {
        let waited = Duration::from_millis(status.waited_ms);
        self.sample.waiting = false;
        self.sample.wait.get_or_insert(waited);
        self.sample.held = false;
        self.sample.lost |= status.outcome == Outcome::Lost;
        self.sample.end = Some(End {
            at: SystemTime::now(),
            hold: Duration::from_millis(status.held_ms),
            outcome: status.outcome,
            exit_code: status.exit_code,
        });
        let (done, written) = channel();
        if self.send(Some(done)) && written.recv_timeout(WRITE_TIMEOUT).is_err() {
            print_warning("the metrics file was not written in time");
        }
    }

    fn send(&self, done: Option<Sender<()>>) -> bool {
        let sample = self.sample.clone();
        self.writer
            .as_ref()
            .is_some_and(|writer| writer.send(Message { sample, done }).is_ok())
    }
}

fn start_writer(path: PathBuf) -> io::Result<Sender<Message>> {
    let (sender, messages) = channel();
    let writer = thread::Builder::new().name("metrics".to_owned());
    writer.spawn(move || write_messages(&path, &messages))?;
    Ok(sender)
}

fn write_messages(path: &Path, messages: &Receiver<Message>) {
    let mut reported = false;
    for mut message in messages {
        // After a slow write only the newest sample counts.
        while let Ok(newer) = messages.try_recv() {
            message = newer;
        }
        let Message { sample, done } = message;
        let last_success = match sample.end {
            Some(end) if end.is_success() => Some(unix_seconds(end.at)),
            _ => previous_success(path, &sample.labels),
        };
        let written = atomic_file::write(path, sample.render(last_success).as_bytes());
        // A disk that stays full is reported once.
        if let (Err(error), false) = (&written, reported) {
            print_warning(&format!(
                "the metrics file {:?} could not be written: {error}",
                path.display().to_string()
            ));
        }
        reported = written.is_err();
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// Returns the time of the last success that the present file contains for the same lock.
fn previous_success(path: &Path, labels: &str) -> Option<f64> {
    if !path.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(path).ok()?.take(MAX_PREVIOUS_BYTES);
    io::BufReader::new(file).read_to_string(&mut text).ok()?;
    let series = format!("{PREFIX}{LAST_SUCCESS}{{{labels}}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&*series))?;
    value.parse().ok().filter(|time: &f64| time.is_finite())
}

impl Sample {
    /// Returns the text of the file, in Prometheus' text format.
    fn render(&self, last_success: Option<f64>) -> String {
        let mut text = Text {
            labels: &self.labels,
            text: String::new(),
        };
        text.gauge(
            "start_timestamp_seconds",
            "Unix time at which the run started.",
            Some(unix_seconds(self.start)),
        );
        text.gauge(
            "waiting",
            "Whether the run waits for the store or the lock (1) or not (0).",
            Some(u8::from(self.waiting)),
        );
        text.gauge(
            "held",
            "Whether the run holds the lock (1) or not (0).",
            Some(u8::from(self.held)),
        );
        text.gauge(
            "lost",
            "Whether the run has lost the lock (1) or not (0).",
            Some(u8::from(self.lost)),
        );
        text.gauge(
            "wait_seconds",
            "How long the run waited for the store and the lock.",
            self.wait.map(|wait| wait.as_secs_f64()),
        );
        text.gauge(
            "acquired_timestamp_seconds",
            "Unix time at which the lock was granted.",
            self.grant.map(|grant| unix_seconds(grant.at)),
        );
        text.gauge(
            "fencing_token",
            "Fencing token of the grant.",
            self.grant.map(|grant| grant.token),
        );
        text.gauge(
            "lease_expiry_timestamp_seconds",
            "Unix time at which the lock expires unless it is renewed.",
            self.grant
                .filter(|_| self.held)
                .map(|grant| unix_seconds(grant.expiry)),
        );
        text.gauge(
            "hold_seconds",
            "How long the run held the lock.",
            self.end
                .filter(|_| self.grant.is_some())
                .map(|end| end.hold.as_secs_f64()),
        );
        text.gauge(
            "end_timestamp_seconds",
            "Unix time at which the run ended.",
            self.end.map(|end| unix_seconds(end.at)),
        );
        text.gauge(
            "exit_code",
            "Exit code of the run.",
            self.end.map(|end| end.exit_code),
        );
        if let Some(end) = self.end {
            text.header(
                "outcome",
                "How the run ended: 1 for one outcome, 0 for the others.",
            );
            for outcome in Outcome::ALL {
                let label = format!(",outcome=\"{}\"", outcome.as_str());
                text.series("outcome", &label, u8::from(outcome == end.outcome));
            }
        }
        text.gauge(
            LAST_SUCCESS,
            "Unix time at which a run last ended with a command that succeeded.",
            last_success,
        );
        text.text
    }
}

/// A text in which each series has the same labels.
struct Text<'a> {
    labels: &'a str,
    text: String,
}

impl Text<'_> {
    /// Adds a gauge with one series; nothing without a value.
    fn gauge(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.header(name, help);
            self.series(name, "", value);
        }
    }

    fn header(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.text, "# TYPE {PREFIX}{name} gauge");
    }

    fn series(&mut self, name: &str, more_labels: &str, value: impl Display) {
        let labels = self.labels;
        let _ = writeln!(self.text, "{PREFIX}{name}{{{labels}{more_labels}}} {value}");
    }
}

/// Escapes the value of a label.
fn escape_label(value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    value.replace('"', "\\\"").replace('\n', "\\n")
}

/// Returns a time in seconds, rounded to milliseconds; zero for a time before 1970.
fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape_label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }

    #[test]
    fn time_is_a_decimal_number_of_milliseconds() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_748_561_200_123_999_999);
        assert_eq!(unix_seconds(time).to_string(), "1748561200.123");
    }
}
