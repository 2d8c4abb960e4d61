//! The task that owns the watch stream.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use etcd_client::{
    KeyValue, ResponseHeader, WatchOptions, WatchResponse, WatchResponseStream, WatchStream,
};
use tenure_core::{backend::BackendEvent, driver::Backoff, id::AttemptId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    Command, TaskInput, Watch, WatchTarget, active::ActiveWatches,
    progress_requests::ProgressRequests,
};
use crate::{
    admission::Until,
    attempts::CreatedWatch,
    error::RequestError,
    keys::range_end,
    queue, record,
    shared::{MAX_RESPONSE_BYTES, Shared},
    transport::{Connection, Endpoints},
};

/// The start revision of a watch that reports only events after its creation.
const FROM_NOW: i64 = 0;

const RECONNECT_BACKOFF_INITIAL: Duration = Duration::from_millis(20);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The task that owns the watch stream.
pub(crate) struct WatchTask {
    shared: Weak<Shared>,
    endpoints: Arc<Endpoints>,
    /// A key that never exists.
    absent_key: String,
    input: TaskInput,
    watches: ActiveWatches,
    progress: ProgressRequests,
}

/// A request that is written to the stream.
enum StreamRequest {
    Create(String, WatchOptions),
    Cancel(u64),
}

/// An open stream.
struct OpenStream {
    connection: Connection,
    requests: mpsc::UnboundedSender<StreamRequest>,
    replies: WatchResponseStream,
    /// Writes the requests; the reader must never wait until the server accepts one.
    _writer: JoinSet<()>,
}

/// Why a stream ended.
enum StreamEnd {
    /// The client ended.
    Closed,
    Broken,
    /// The server rejects watches of this user, or of this authentication token.
    Refused(String),
}

impl WatchTask {
    pub(crate) fn new(
        shared: Weak<Shared>,
        endpoints: Arc<Endpoints>,
        absent_key: String,
        input: TaskInput,
    ) -> Self {
        Self {
            shared,
            endpoints,
            absent_key,
            input,
            watches: ActiveWatches::default(),
            progress: ProgressRequests::new(Instant::now()),
        }
    }

    /// Runs until the watcher is dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_BACKOFF_INITIAL, RECONNECT_BACKOFF_MAX);
        loop {
            let opened = self.open_stream().await;
            let ended = match opened {
                Ok(open) => {
                    let began = Instant::now();
                    let connection = open.connection.clone();
                    let ended = self.serve(open).await;
                    backoff.record_uptime(began.elapsed());
                    if let StreamEnd::Refused(reason) = &ended {
                        tracing::warn!(reason, "the server cancelled a watch");
                        // The server rejects watches while the stream itself stays open, so the
                        // client library does not notice that it has to authenticate again.
                        let _ =
                            time::timeout(RECONNECT_BACKOFF_MAX, connection.client.refresh_token())
                                .await;
                    }
                    ended
                }
                Err(error) => {
                    tracing::debug!(?error, "no watch stream");
                    StreamEnd::Broken
                }
            };
            if matches!(ended, StreamEnd::Closed) || self.input.commands.is_closed() {
                return;
            }
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let clock = Arc::clone(&shared.context.clock);
            drop(shared);
            backoff.pause(&*clock).await;
        }
    }

    async fn open_stream(&self) -> Result<OpenStream, RequestError> {
        let connection = self.endpoints.connection().await?;
        let id = self.next_id();
        let options = options(id, FROM_NOW);
        let client = connection.client.watch_client();
        let mut client = client.max_decoding_message_size(MAX_RESPONSE_BYTES);
        let exchange = Box::pin(client.watch(self.absent_key.as_str(), Some(options)));
        let stream: WatchStream = self
            .endpoints
            .await_reply(&connection, self.endpoints.failover_timeout(), exchange)
            .await?;
        let (mut writer, replies) = stream.split();
        let (requests, mut queued) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(request) = queued.recv().await {
                let sent = match request {
                    StreamRequest::Create(key, options) => writer.watch(key, Some(options)).await,
                    StreamRequest::Cancel(id) => writer.cancel(watch_id(id)).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        let _ = requests.send(StreamRequest::Cancel(id));
        Ok(OpenStream {
            connection,
            requests,
            replies,
            _writer: task,
        })
    }

    async fn serve(&mut self, mut open: OpenStream) -> StreamEnd {
        let stream = self.input.stream_id.fetch_add(1, Ordering::SeqCst) + 1;
        let mut changes = self.endpoints.connection_changes();
        self.progress = ProgressRequests::new(Instant::now());
        self.restart_all(&open);
        loop {
            let progress_due = self.progress.deadline(
                self.watches.waiters_since(),
                self.endpoints.failover_timeout(),
            );
            tokio::select! {
                reply = open.replies.message() => match reply {
                    Ok(Some(reply)) => {
                        self.progress.on_reply(Instant::now());
                        self.endpoints.mark_alive(open.connection.generation);
                        if let Some(end) = self.handle_reply(&open, &reply, stream) {
                            return end;
                        }
                    }
                    Ok(None) => return StreamEnd::Broken,
                    Err(error) => {
                        let error = RequestError::from(error);
                        tracing::debug!(?error, "watch stream ended");
                        if error.is_server_failure() {
                            self.endpoints.mark_suspect(open.connection.generation);
                        }
                        return StreamEnd::Broken;
                    }
                },
                command = self.input.commands.recv() => match command {
                    Some(command) => self.handle_command(&open, command),
                    None => return StreamEnd::Closed,
                },
                () = sleep_until(progress_due) => {
                    if self.progress.is_empty() {
                        self.request_progress(&open, Vec::new());
                    } else {
                        self.endpoints.mark_suspect(open.connection.generation);
                        return StreamEnd::Broken;
                    }
                }
                changed = changes.changed() => {
                    if changed.is_err() || *changes.borrow_and_update() == u64::MAX {
                        return StreamEnd::Closed;
                    }
                    self.request_progress(&open, Vec::new());
                }
            }
        }
    }

    fn handle_command(&mut self, open: &OpenStream, command: Command) {
        match command {
            Command::Start(id, watch) => self.start(open, id, watch),
            Command::Stop(id) => self.stop(open, id),
            Command::KeepForHolder(id) => self.watches.keep_for_holder(id),
            Command::RequestProgress(waiter) => {
                if let Some(waiter) = self.progress.join_last(waiter) {
                    self.request_progress(open, vec![waiter]);
                }
            }
        }
    }

    fn request_progress(&mut self, open: &OpenStream, waiters: Vec<oneshot::Sender<()>>) {
        let id = self.next_id();
        let watch = StreamRequest::Create(self.absent_key.clone(), options(id, FROM_NOW));
        let _ = open.requests.send(watch);
        self.progress.send(id, Instant::now(), waiters);
    }

    fn stop(&mut self, open: &OpenStream, id: u64) {
        if self.watches.stop(id) {
            let _ = open.requests.send(StreamRequest::Cancel(id));
        }
    }

    fn start(&mut self, open: &OpenStream, id: u64, watch: Watch) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if let Some(watch) = self.watches.start(&shared.attempts, id, watch) {
            send_watch(open, id, watch);
        }
    }

    fn restart_all(&mut self, open: &OpenStream) {
        let shared = self.shared.upgrade();
        let table = shared.as_ref().map(|shared| shared.attempts.lock());
        for (id, watch) in self.watches.all() {
            let entry = table.as_ref().and_then(|table| table.get(watch.attempt));
            if let Some(entry) = entry {
                watch.prepare_restart(entry);
            }
            send_watch(open, id, watch);
        }
    }

    /// Handles one reply. Returns the reason if it ends the stream.
    fn handle_reply(
        &mut self,
        open: &OpenStream,
        reply: &WatchResponse,
        stream: u64,
    ) -> Option<StreamEnd> {
        let id = u64::try_from(reply.watch_id()).unwrap_or(0);
        if reply.canceled() {
            return self.on_canceled(open, id, reply);
        }
        if reply.created() {
            let as_of = reply.header().map_or(i64::MAX, ResponseHeader::revision);
            self.on_created(open, id, stream, as_of);
        }
        // The server sends all events of one revision together, in no particular order. A program
        // may delete several keys at one revision, so the events of the own key come first.
        for of_own_key in [true, false] {
            for kv in reply.events().iter().filter_map(etcd_client::Event::kv) {
                let Some(watch) = self.watches.get_for_event(id, kv.mod_revision()) else {
                    continue;
                };
                match (of_own_key, kv.key() == watch.own.as_bytes()) {
                    (true, true) => self.on_own_event(open, id, kv),
                    (false, false) => self.on_event(open, id, kv),
                    _ => {}
                }
            }
        }
        None
    }

    /// Handles the creation of a watch: the server reports all events after this revision, and
    /// possibly earlier ones.
    fn on_created(&mut self, open: &OpenStream, id: u64, stream: u64, as_of: i64) {
        if self.progress.complete(id) {
            let _ = open.requests.send(StreamRequest::Cancel(id));
            return;
        }
        let (Some(watch), Some(shared)) = (self.watches.get(id), self.shared.upgrade()) else {
            return;
        };
        let attempt = watch.attempt;
        match &watch.target {
            // Something may have changed between the read of the position and this watch.
            WatchTarget::Before { .. } if as_of >= watch.from => {
                let weak = Weak::clone(&self.shared);
                tokio::spawn(queue::check_before(weak, attempt, id, as_of));
            }
            WatchTarget::Entry { .. } if as_of >= watch.from => {
                let weak = Weak::clone(&self.shared);
                tokio::spawn(queue::check_awaited(weak, attempt, id, as_of));
            }
            WatchTarget::Before { .. } | WatchTarget::Entry { .. } => {}
            WatchTarget::Own | WatchTarget::Next { .. } | WatchTarget::Queue { .. } => {
                let step = shared.attempts.advance(attempt, shared.now(), |entry| {
                    entry.confirmed_stream = stream;
                    if let Some(predecessor) = &mut entry.predecessor {
                        predecessor.created = Some(CreatedWatch { id, as_of });
                    }
                });
                queue::take_step(&shared, attempt, step);
            }
        }
    }

    fn on_canceled(
        &mut self,
        open: &OpenStream,
        id: u64,
        reply: &WatchResponse,
    ) -> Option<StreamEnd> {
        let compacted = reply.compact_revision();
        if let Some(watch) = self.watches.get_mut(id)
            && compacted > 0
        {
            // No event reports what happened before this revision any more.
            if watch.target != WatchTarget::Own {
                return Some(StreamEnd::Broken);
            }
            watch.from = compacted;
            send_watch(open, id, watch);
            let attempt = watch.attempt;
            self.request_recheck(attempt);
            return None;
        }
        let known = self.watches.get(id).is_some() || reply.watch_id() < 0;
        known.then(|| StreamEnd::Refused(reply.cancel_reason().to_owned()))
    }

    /// Handles a change of an attempt's own key.
    fn on_own_event(&mut self, open: &OpenStream, id: u64, kv: &KeyValue) {
        let Some(attempt) = self.watches.get(id).map(|watch| watch.attempt) else {
            return;
        };
        if !is_deletion(kv) {
            let shared = self.shared.upgrade();
            let is_own_put = shared
                .is_some_and(|shared| shared.attempts.may_have_put(attempt, kv.mod_revision()));
            if !is_own_put {
                self.request_recheck(attempt);
            }
            return;
        }
        self.stop(open, id);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let event = shared
            .attempts
            .update(attempt, |_| ())
            .map(|()| queue::loss_event(&shared, attempt));
        if let Some(event) = event {
            shared.context.events.send(event);
        }
    }

    /// Handles a change of a key that a waiter watches.
    fn on_event(&mut self, open: &OpenStream, id: u64, kv: &KeyValue) {
        let (Some(watch), Some(shared)) = (self.watches.get(id), self.shared.upgrade()) else {
            return;
        };
        let attempt = watch.attempt;
        match &watch.target {
            WatchTarget::Entry { key, until }
                if kv.key() == key.as_bytes() && has_happened(*until, kv) =>
            {
                let step = shared.attempts.advance(attempt, shared.now(), |entry| {
                    entry.record_change(id, kv.mod_revision());
                });
                queue::take_step(&shared, attempt, step);
            }
            WatchTarget::Queue { .. } if is_deletion(kv) => {
                let step = shared.attempts.advance(attempt, shared.now(), |entry| {
                    if entry.waits_for_removal_of(kv.key()) {
                        entry.record_change(id, kv.mod_revision());
                    }
                });
                queue::take_step(&shared, attempt, step);
            }
            _ if !is_deletion(kv) => {}
            WatchTarget::Before { .. } => {
                self.stop(open, id);
                queue::prepare_turn(&shared, attempt, id);
            }
            WatchTarget::Next { predecessor } if kv.key() == predecessor.as_bytes() => {
                let step = shared.attempts.advance(attempt, shared.now(), |entry| {
                    entry.record_change(id, kv.mod_revision());
                });
                queue::take_step(&shared, attempt, step);
            }
            // Another key in the range of the watch.
            _ => {}
        }
    }

    /// Asks the core to recheck an attempt.
    fn request_recheck(&self, attempt: AttemptId) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if shared
            .attempts
            .update(attempt, |entry| entry.needs_check = true)
            .is_some()
        {
            shared
                .context
                .events
                .send(BackendEvent::Recheck { attempt });
        }
    }

    fn next_id(&self) -> u64 {
        self.input.ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether an event of an entry's key is the change that a waiter waits for.
fn has_happened(until: Until, kv: &KeyValue) -> bool {
    match until {
        Until::Removed => is_deletion(kv),
        Until::RemovedOrPut => true,
        // Any other put leaves the waiter blocked.
        Until::RemovedOrShared => is_deletion(kv) || record::is_shared(kv.value()),
    }
}

/// A deletion has version 0. The library's own method panics on event types that it does not know.
fn is_deletion(kv: &KeyValue) -> bool {
    kv.version() == 0
}

fn send_watch(open: &OpenStream, id: u64, watch: &Watch) {
    let own = watch.own.to_string();
    let (key, options) = match &watch.target {
        WatchTarget::Own => (own, options(id, watch.from)),
        WatchTarget::Before { key } | WatchTarget::Entry { key, .. } => {
            (key.to_string(), options(id, FROM_NOW))
        }
        WatchTarget::Queue { prefix } => {
            let all = options(id, FROM_NOW).with_range(range_end(prefix));
            (prefix.to_string(), all)
        }
        WatchTarget::Next { predecessor } => {
            let predecessor = predecessor.to_string();
            let (first, last) = (own.clone().min(predecessor.clone()), own.max(predecessor));
            (first, options(id, FROM_NOW).with_range(last + "\0"))
        }
    };
    let _ = open.requests.send(StreamRequest::Create(key, options));
}

fn options(id: u64, from: i64) -> WatchOptions {
    WatchOptions::new()
        .with_watch_id(watch_id(id))
        .with_start_revision(from)
}

fn watch_id(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
