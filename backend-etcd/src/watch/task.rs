//! The task that holds the stream.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use etcd_client::{
    KeyValue, ResponseHeader, WatchOptions, WatchResponse, WatchResponseStream, WatchStream,
};
use tenure_core::{backend::BackendEvent, id::AttemptId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    Command, Inbox, Watch, What, active::Table, deferred::SETTLED, progress_requests::Pulses,
};
use crate::{
    error::RequestError,
    queue,
    shared::{Core, LARGEST_ANSWER},
    transport::{Connection, Endpoints},
};

/// A watch tells of what happens after it was made.
const NOW: i64 = 0;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The task.
pub(crate) struct Watching {
    core: Weak<Core>,
    endpoints: Arc<Endpoints>,
    /// A key that never exists.
    nowhere: String,
    inbox: Inbox,
    watches: Table,
    pulses: Pulses,
}

/// What is written to the stream.
enum Line {
    Watch(Arc<str>, WatchOptions),
    Cancel(u64),
}

/// An open stream.
struct Open {
    connection: Connection,
    lines: mpsc::UnboundedSender<Line>,
    answers: WatchResponseStream,
    /// Writes the lines: whoever reads must never wait for the server to take something.
    _writer: JoinSet<()>,
}

/// How a stream has ended.
enum Ended {
    /// With the client.
    Over,
    Broken,
    /// The server takes no watches of this user, or of this log-in.
    Refused(String),
}

impl Watching {
    pub(crate) fn new(
        core: Weak<Core>,
        endpoints: Arc<Endpoints>,
        nowhere: String,
        inbox: Inbox,
    ) -> Self {
        Self {
            core,
            endpoints,
            nowhere,
            inbox,
            watches: Table::default(),
            pulses: Pulses::new(Instant::now()),
        }
    }

    /// Runs until the watcher is gone.
    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let opened = self.open().await;
            let ended = match opened {
                Ok(open) => {
                    let began = Instant::now();
                    let connection = open.connection.clone();
                    let ended = self.follow(open).await;
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    if let Ended::Refused(reason) = &ended {
                        tracing::warn!(reason, "the server ended a watch");
                        // Watches are refused in a stream that itself goes on, so that the client
                        // library does not see that it has to log in again.
                        let _ =
                            time::timeout(LONGEST_PAUSE, connection.client.refresh_token()).await;
                    }
                    ended
                }
                Err(error) => {
                    tracing::debug!(?error, "no stream for watches");
                    Ended::Broken
                }
            };
            if matches!(ended, Ended::Over) || self.inbox.commands.is_closed() {
                return;
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self) -> Result<Open, RequestError> {
        let connection = self.endpoints.connection().await?;
        let number = self.number();
        let options = options(number, 0);
        let client = connection.client.watch_client();
        let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
        let opening = Box::pin(client.watch(self.nowhere.as_str(), Some(options)));
        let stream: WatchStream = self
            .endpoints
            .await_reply(&connection, self.endpoints.failover_timeout(), opening)
            .await?;
        let (mut writer, answers) = stream.split();
        let (lines, mut written) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(line) = written.recv().await {
                let sent = match line {
                    Line::Watch(key, options) => writer.watch(&*key, Some(options)).await,
                    Line::Cancel(number) => writer.cancel(signed(number)).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        let _ = lines.send(Line::Cancel(number));
        Ok(Open {
            connection,
            lines,
            answers,
            _writer: task,
        })
    }

    async fn follow(&mut self, mut open: Open) -> Ended {
        let stream = self.inbox.stream.fetch_add(1, Ordering::SeqCst) + 1;
        let mut moves = self.endpoints.connection_changes();
        self.pulses = Pulses::new(Instant::now());
        self.begin_again(&open);
        loop {
            let alarm = self.inbox.later.alarm();
            let waited_for = self.watches.waited_for_since();
            let ring = self
                .pulses
                .ring(waited_for, self.endpoints.failover_timeout());
            tokio::select! {
                answer = open.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        self.pulses.heard(Instant::now());
                        self.endpoints.mark_alive(open.connection.generation);
                        if let Some(reason) = self.read(&open, &answer, stream) {
                            return Ended::Refused(reason);
                        }
                    }
                    Ok(None) => return Ended::Broken,
                    Err(error) => {
                        let error = RequestError::from(error);
                        tracing::debug!(?error, "the stream of watches has ended");
                        if error.is_server_failure() {
                            self.endpoints.mark_suspect(open.connection.generation);
                        }
                        return Ended::Broken;
                    }
                },
                command = self.inbox.commands.recv() => match command {
                    Some(command) => self.obey(&open, command),
                    None => return Ended::Over,
                },
                () = sleep_until(alarm) => self.begin_later(&open),
                () = sleep_until(ring) => {
                    if self.pulses.is_empty() {
                        self.beat(&open, Vec::new());
                    } else {
                        self.endpoints.mark_suspect(open.connection.generation);
                        return Ended::Broken;
                    }
                }
                moved = moves.changed() => {
                    if moved.is_err() || *moves.borrow_and_update() == u64::MAX {
                        return Ended::Over;
                    }
                    self.beat(&open, Vec::new());
                }
            }
        }
    }

    fn obey(&mut self, open: &Open, command: Command) {
        match command {
            Command::Begin(number, watch) => self.begin(open, number, watch, Instant::now()),
            Command::End(number) => self.end(open, number),
            // It is looked for before each wait.
            Command::Later => {}
            Command::Pulse(tell) => {
                if let Some(tell) = self.pulses.join(tell) {
                    self.beat(open, vec![tell]);
                }
            }
        }
    }

    fn beat(&mut self, open: &Open, tell: Vec<oneshot::Sender<()>>) {
        let number = self.number();
        let watch = Line::Watch(Arc::from(self.nowhere.as_str()), options(number, 0));
        let _ = open.lines.send(watch);
        self.pulses.send(number, Instant::now(), tell);
    }

    fn end(&mut self, open: &Open, number: u64) {
        if self.watches.end(number) {
            let _ = open.lines.send(Line::Cancel(number));
        }
    }

    fn begin(&mut self, open: &Open, number: u64, watch: Watch, since: Instant) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if let Some(watch) = self.watches.begin(&core.attempts, number, watch, since) {
            begin(open, number, watch);
        }
    }

    fn begin_later(&mut self, open: &Open) {
        let now = Instant::now();
        for (number, watch) in self.inbox.later.due(now) {
            self.begin(open, number, watch, now - SETTLED);
        }
    }

    fn begin_again(&mut self, open: &Open) {
        let core = self.core.upgrade();
        let pages = core.as_ref().map(|core| core.attempts.lock());
        for (number, watch) in self.watches.all() {
            let entry = pages.as_ref().and_then(|pages| pages.get(watch.attempt));
            if let (What::Own, Some(entry)) = (watch.what, entry) {
                watch.from = watch.from.max(entry.verified_revision + 1);
            }
            watch.gap = false;
            begin(open, number, watch);
        }
    }

    /// Reads one answer; returns the reason if the server takes no watches.
    fn read(&mut self, open: &Open, answer: &WatchResponse, stream: u64) -> Option<String> {
        let number = u64::try_from(answer.watch_id()).unwrap_or(0);
        if answer.canceled() {
            return self.canceled(open, number, answer);
        }
        if answer.created() {
            let as_of = answer.header().map_or(i64::MAX, ResponseHeader::revision);
            self.created(open, number, stream, as_of);
        }
        for event in answer.events() {
            // A deletion has no version. The library's own way to tell panics on what it does not know.
            let deleted = event.kv().is_some_and(|kv| kv.version() == 0);
            let revision = event.kv().map_or(i64::MAX, KeyValue::mod_revision);
            self.happened(open, number, deleted, revision);
        }
        None
    }

    /// The server watches, and tells of what comes after that revision, if not of more.
    fn created(&mut self, open: &Open, number: u64, stream: u64, as_of: i64) {
        if self.pulses.answered(number) {
            let _ = open.lines.send(Line::Cancel(number));
            return;
        }
        let Some(watch) = self.watches.get(number) else {
            return;
        };
        match watch.what {
            What::Own => {
                if let Some(core) = self.core.upgrade() {
                    core.attempts
                        .update(watch.attempt, |entry| entry.confirmed_stream = stream);
                }
            }
            // Between the answer that named the predecessor and this watch, it may have gone.
            What::Ahead { .. } if watch.gap && as_of >= watch.from => {
                tokio::spawn(queue::recheck(Weak::clone(&self.core), watch.attempt));
            }
            What::Ahead { .. } => {}
        }
    }

    fn canceled(&mut self, open: &Open, number: u64, answer: &WatchResponse) -> Option<String> {
        let compacted = answer.compact_revision();
        if let Some(watch) = self.watches.get_mut(number)
            && compacted > 0
        {
            // What happened before that nobody tells any more.
            watch.from = compacted;
            watch.gap = false;
            begin(open, number, watch);
            let attempt = watch.attempt;
            self.doubt(attempt);
            return None;
        }
        let known = self.watches.get(number).is_some() || answer.watch_id() < 0;
        known.then(|| answer.cancel_reason().to_owned())
    }

    fn happened(&mut self, open: &Open, number: u64, deleted: bool, revision: i64) {
        let Some(watch) = self.watches.concerned(number, revision) else {
            return;
        };
        let (what, attempt) = (watch.what, watch.attempt);
        match (what, deleted) {
            (What::Own, false) => self.doubt(attempt),
            (What::Ahead { .. }, false) => {}
            (What::Own, true) => {
                self.end(open, number);
                let Some(core) = self.core.upgrade() else {
                    return;
                };
                let event = core
                    .attempts
                    .update(attempt, |_| ())
                    .map(|()| queue::loss_event(&core, attempt));
                if let Some(event) = event {
                    core.context.events.send(event);
                }
            }
            (What::Ahead { .. }, true) => {
                self.end(open, number);
                tokio::spawn(queue::recheck(Weak::clone(&self.core), attempt));
            }
        }
    }

    /// Has the store asked what has become of an attempt.
    fn doubt(&self, attempt: AttemptId) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if core
            .attempts
            .update(attempt, |entry| entry.needs_check = true)
            .is_some()
        {
            core.context.events.send(BackendEvent::Look { attempt });
        }
    }

    fn number(&self) -> u64 {
        self.inbox.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

fn begin(open: &Open, number: u64, watch: &Watch) {
    let from = if watch.gap { NOW } else { watch.from };
    let line = Line::Watch(Arc::clone(&watch.key), options(number, from));
    let _ = open.lines.send(line);
}

fn options(number: u64, from: i64) -> WatchOptions {
    WatchOptions::new()
        .with_watch_id(signed(number))
        .with_start_revision(from)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
