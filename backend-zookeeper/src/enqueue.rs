//! Putting an attempt into a lock's queue.

use std::sync::Arc;

use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    request::{Enqueue, Enqueued},
};
use tokio::sync::{Notify, oneshot};
use zookeeper_client::{Client, CreateMode, Error as ZkError};

use crate::{
    error::{RequestError, closed, error, of_read, of_write, unanswered},
    keys::{attempt_of, node_prefix},
    locate::{Listing, Located, holder, list, locate, token_at},
    order::{Standing, count_holders, in_order, standing},
    queue::Position,
    record,
    session::{Session, attempts::Registration},
    shared::Shared,
    transport::{Connection, Operation, answer, delete},
};

const OPERATION: &str = "acquiring";

/// How often the parents are created before an enqueue gives up.
const MAX_CREATIONS: usize = 16;

/// The part of a request's time limit within which an enqueue is sent. Otherwise it fails without effect.
/// The rest is left for the answer.
const SEND_WITHIN_PERCENT: u32 = 50;

/// The part of a request's time limit after which an enqueue is answered with what is known by then.
const ANSWER_WITHIN_PERCENT: u32 = 90;

/// Enqueues, within the time limit of a request.
pub(crate) async fn enqueue(shared: &Arc<Shared>, request: Enqueue) -> Result<Enqueued, Error> {
    let clock = &*shared.config.context.clock;
    let (begun, timeout) = (clock.now(), shared.config.context.request_timeout);
    let limit = begun + timeout;
    let send_by = begun + timeout * SEND_WITHIN_PERCENT / 100;
    let answer_by = begun + timeout * ANSWER_WITHIN_PERCENT / 100;
    let (session, connection) = loop {
        // An attempt belongs to the session in which it was first enqueued.
        let session = match shared.session_of(request.attempt) {
            Some(session) if session.is_ended() => {
                shared.forget(request.attempt);
                return Ok(Enqueued::Gone);
            }
            Some(session) => session,
            None => shared
                .pool
                .locks(request.ttl)
                .ok_or_else(|| closed(OPERATION))?,
        };
        session.touch();
        match session.connection(OPERATION, limit).await {
            Ok(connection) => break (session, connection),
            // The session ended before it was used. Another session may succeed.
            Err(_) if session.is_ended() && session.proved().is_some() => {}
            Err(error) => return Err(error),
        }
        if clock.now() >= limit {
            return Err(error(
                ErrorKind::Unavailable,
                OPERATION,
                "no session could be begun in time",
            ));
        }
    };
    let lock: Arc<str> = shared.keys.lock(&request.name).into();
    // The attempt is registered afterwards, so nothing is left of one that waits in vain.
    let operation = connection.operation_by(clock, send_by).await;
    let operation = operation.map_err(|failure| of_write(OPERATION, &lock, failure))?;
    if !shared.assign(request.attempt, &session) {
        return Ok(Enqueued::Gone);
    }
    // Nobody joins a holder of all permits, so nobody waits for its mark.
    let marked = matches!(request.mode, Mode::Permits { take, of } if take < of);
    let data = marked.then(|| record::encode(&request).into());
    let registration = session.attempts().register(request.attempt, &lock, data);
    if registration == Registration::Closed {
        shared.forget(request.attempt);
        return Err(error(
            ErrorKind::Unavailable,
            OPERATION,
            "the session has just ended; the next request begins a new one",
        ));
    }
    let (attempt, waits) = (request.attempt, request.wait);
    let created = Arc::new(Notify::new());
    let enqueuing = Enqueuing {
        created: Arc::clone(&created),
        shared: Arc::clone(shared),
        session: Arc::clone(&session),
        connection: Arc::clone(&connection),
        lock,
        repeated: (registration == Registration::Known).then(|| shared.config.now()),
        request,
    };
    let mut running = connection.start(|answer| enqueuing.run(operation, answer));
    if let Some(answer) = running.until(clock, answer_by).await {
        return answer.unwrap_or_else(|| Err(unanswered(OPERATION)));
    }
    // A waiter whose node was created is in the queue. Its grant or its loss follows as an event, so a
    // network that is slow, or a session that is not proved yet, costs it nothing more than this answer.
    tokio::select! {
        biased;
        answer = running.until(clock, limit) => {
            return answer.flatten().unwrap_or_else(|| Err(unanswered(OPERATION)));
        }
        () = created.notified(), if waits => {}
    }
    if let Some(from) = session.proved()
        && let Some(waiting) = session.attempts().waiting(attempt, from)
    {
        return running
            .stop_waiting()
            .unwrap_or(Ok(Enqueued::Waiting(waiting)));
    }
    let answer = running.until(clock, limit).await.flatten();
    answer.unwrap_or_else(|| Err(unanswered(OPERATION)))
}

/// Whether the caller of an enqueue still waits for its answer.
type WaitedFor<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// An enqueue under way.
struct Enqueuing {
    shared: Arc<Shared>,
    session: Arc<Session>,
    connection: Arc<Connection>,
    request: Enqueue,
    /// The lock's node.
    lock: Arc<str>,
    /// Notified when the node is known.
    created: Arc<Notify>,
    /// When the repeated enqueue began: its grant needs a proof that is newer (T3).
    repeated: Option<Instant>,
}

impl Enqueuing {
    async fn run(self, operation: Operation, answer: oneshot::Sender<Result<Enqueued, Error>>) {
        let waited_for = || !answer.is_closed();
        let outcome = if self.repeated.is_some() {
            self.repeat(operation, &waited_for).await
        } else {
            self.create(operation, &waited_for).await
        };
        // The core does not remove an attempt that was refused, or whose enqueue failed without effect.
        // It does remove it if a repeated enqueue failed, because the earlier one may have put it into
        // the queue.
        let over = match &outcome {
            Ok(outcome) => matches!(outcome, Enqueued::Gone),
            Err(error) => self.repeated.is_none() && error.is_without_effect(),
        };
        if over {
            self.shared.forget(self.attempt());
        }
        match answer.send(outcome) {
            // The caller was answered before, or no longer waits.
            Err(Ok(Enqueued::Granted(grant))) => {
                self.session.emit([BackendEvent::Granted(grant)]);
            }
            Err(Ok(Enqueued::Gone)) => self.session.emit([BackendEvent::Lost {
                attempt: self.attempt(),
                reason: LossReason::Evicted,
            }]),
            // An attempt that is in the queue gets the error with its next report.
            _ => {}
        }
    }

    const fn attempt(&self) -> AttemptId {
        self.request.attempt
    }

    /// Creates the node and looks up its position.
    async fn create(
        &self,
        operation: Operation,
        waited_for: WaitedFor<'_>,
    ) -> Result<Enqueued, Error> {
        let Enqueue {
            mode,
            beside_readers,
            ..
        } = self.request;
        let prefix = node_prefix(self.attempt(), mode, beside_readers);
        let prefix = format!("{}/{prefix}", self.lock);
        let data = record::encode(&self.request);
        let options = CreateMode::EphemeralSequential.with_acls(self.shared.config.options.acls());
        for _ in 0..MAX_CREATIONS {
            let (created, listed) = {
                let attempts = self.session.attempts();
                if !attempts.is_wanted(self.attempt()) {
                    return Ok(Enqueued::Gone);
                }
                (
                    operation.client.create(&prefix, &data, &options),
                    operation.client.get_children(&self.lock),
                )
            };
            match answer(created).await {
                Ok((stat, sequence)) => {
                    let path = format!("{prefix}{sequence}");
                    let listed = async move {
                        let listed = answer(listed).await.ok();
                        drop(operation);
                        listed
                    };
                    return self.created(&path, &stat, listed, waited_for).await;
                }
                Err(RequestError::Refused(ZkError::NoNode)) => {
                    self.create_parents(&operation.client).await?
                }
                Err(failure) => return Err(of_write(OPERATION, &self.lock, failure)),
            }
        }
        Err(error(
            ErrorKind::Unavailable,
            OPERATION,
            format!(
                "another program deletes `{}` whenever it is created",
                self.lock
            ),
        ))
    }

    /// Answers a repeated enqueue: the node of the attempt may exist, or its creation may be under
    /// way.
    async fn repeat(
        &self,
        operation: Operation,
        waited_for: WaitedFor<'_>,
    ) -> Result<Enqueued, Error> {
        let known = {
            let attempts = self.session.attempts();
            let entry = attempts.get(self.attempt());
            entry.map(|entry| {
                (
                    matches!(entry.position, Position::Gone(_)),
                    entry.node.clone(),
                )
            })
        };
        match known {
            None | Some((true, _)) => return Ok(Enqueued::Gone),
            Some((false, Some(_))) => {
                drop(operation);
                return self.answer(None, waited_for).await;
            }
            Some((false, None)) => {}
        }
        let unknown = |_: RequestError| unanswered(OPERATION);
        let found = find(&operation.client, &self.lock, self.attempt())
            .await
            .map_err(unknown)?;
        let Some((path, _)) = found.into_iter().next() else {
            return self.create(operation, waited_for).await;
        };
        let stat = answer(operation.client.check_stat(&path)).await;
        drop(operation);
        match stat {
            Ok(Some(stat)) => {
                let unlisted = std::future::ready(None);
                self.created(&path, &stat, unlisted, waited_for).await
            }
            Ok(None) => Ok(Enqueued::Gone),
            Err(failure) => Err(unknown(failure)),
        }
    }

    /// Continues an enqueue whose node is known.
    async fn created(
        &self,
        path: &str,
        stat: &zookeeper_client::Stat,
        listed: impl Future<Output = Option<Listing>>,
        waited_for: WaitedFor<'_>,
    ) -> Result<Enqueued, Error> {
        let floor = self.shared.config.context.token_floor;
        let number = self.connection.number;
        // The node is noted before the list arrives, so that it can be deleted even if the queue
        // cannot be listed.
        let noted = self
            .session
            .attempts()
            .created(self.attempt(), path, stat, floor, number);
        if !noted {
            // Two enqueues of the attempt ran at once: the later node is deleted.
            drop(listed);
            self.delete(path).await?;
            return self.answer(None, waited_for).await;
        }
        self.created.notify_one();
        self.answer(listed.await, waited_for).await
    }

    async fn delete(&self, node: &str) -> Result<(), Error> {
        let deleted = async {
            let operation = self.connection.operation().await?;
            delete(&operation.client, node).await
        };
        deleted.await.map(|_| ()).map_err(|_| unanswered(OPERATION))
    }

    /// Creates the lock's node, and the namespace's if it is missing.
    async fn create_parents(&self, client: &Client) -> Result<(), Error> {
        let acls = self.shared.config.options.acls();
        let namespace = self.shared.keys.namespace();
        let failed = |failure: RequestError| of_read(OPERATION, &self.lock, failure);
        let (persistent, container) = (
            CreateMode::Persistent.with_acls(acls),
            CreateMode::Container.with_acls(acls),
        );
        // Both requests are sent at once. If the namespace's node exists, its creation fails, and
        // so does the creation by a user without that right; the answer about the lock's node
        // counts first.
        let above = client.create(namespace, b"", &persistent);
        let own = client.create(&self.lock, b"", &container);
        let above = answer(above).await;
        match answer(own).await {
            Ok(_) | Err(RequestError::Refused(ZkError::NodeExists)) => return Ok(()),
            Err(RequestError::Refused(ZkError::NoNode)) => {}
            Err(failure) => return Err(failed(failure)),
        }
        match above {
            Err(RequestError::Refused(ZkError::NoNode)) => Err(self.shared.root_is_gone(OPERATION)),
            Ok(_) | Err(RequestError::Refused(ZkError::NodeExists)) => Ok(()),
            Err(failure) => Err(of_read(OPERATION, namespace, failure)),
        }
    }

    /// The answer for an attempt whose node is known.
    async fn answer(
        &self,
        listing: Option<Listing>,
        waited_for: WaitedFor<'_>,
    ) -> Result<Enqueued, Error> {
        if !self.request.wait {
            return self.grant_or_leave(listing).await;
        }
        let attempt = self.attempt();
        match locate(&self.session, &self.connection, attempt, listing, true).await {
            Ok(Located::Admitted) => self.grant().await,
            Ok(Located::Gone) => Ok(Enqueued::Gone),
            Ok(Located::Waiting) => {
                let from = self.session.proved();
                let waiting = from.and_then(|from| self.session.attempts().waiting(attempt, from));
                match waiting {
                    Some(waiting) => Ok(Enqueued::Waiting(waiting)),
                    // Gone in between.
                    None => Ok(Enqueued::Gone),
                }
            }
            // The node is in the queue: looking up its position again may help.
            Err(error) if error.is_retryable() => {
                self.session.locate_later(&self.connection, attempt);
                let from = self.session.proved();
                let waiting = from.and_then(|from| self.session.attempts().waiting(attempt, from));
                let waiting = waiting.ok_or_else(|| unanswered(OPERATION))?;
                Ok(Enqueued::Waiting(waiting))
            }
            // A right is missing, or the state of another contender cannot be read. A caller that
            // was answered before gets the error with its next report, and then removes the
            // attempt.
            Err(error) => {
                self.session
                    .attempts()
                    .set_locate_error(attempt, Some(error.clone()));
                if waited_for() {
                    Err(self.leave_with(error).await)
                } else {
                    Err(error.with_kind(ErrorKind::OutcomeUnknown))
                }
            }
        }
    }

    /// Answers with the grant, or leaves the queue.
    async fn grant_or_leave(&self, mut listing: Option<Listing>) -> Result<Enqueued, Error> {
        let Some(node) = self.session.attempts().node(self.attempt()) else {
            return Ok(Enqueued::Gone);
        };
        let (session, connection) = (&self.session, &self.connection);
        let first = loop {
            let listing = match listing.take() {
                Some(listing) => listing,
                None => match list(connection, &self.lock).await {
                    Ok(listing) => listing,
                    Err(failure) => return self.leave_after(failure).await,
                },
            };
            let path = |name: &str| format!("{}/{name}", self.lock);
            let (floor, mark) = match standing(&listing.0, record::child_of(&node)) {
                Standing::Missing => return Ok(Enqueued::Gone),
                Standing::Admitted { first: None, mark } => (None, mark),
                Standing::Admitted {
                    first: Some(first),
                    mark,
                } => match token_at(session, connection, &path(first)).await {
                    Ok(Some(token)) => (Some(token), mark),
                    // It has just left.
                    Ok(None) => continue,
                    Err(failure) => return self.leave_after(failure).await,
                },
                Standing::Behind(behind) => break path(behind.first),
            };
            session.attempts().set_admitted(self.attempt(), floor, mark);
            return self.grant().await;
        };
        self.session.begin_removal(self.attempt(), |_| ());
        let unknown = |_: RequestError| unanswered(OPERATION);
        let operation = self.connection.operation().await.map_err(unknown)?;
        let (shown, deleted) = futures_util::join!(
            self.connection.read_one(&first),
            delete(&operation.client, &node)
        );
        deleted.map_err(unknown)?;
        self.shared.forget(self.attempt());
        let holder = holder(&self.session, &first, shown)?;
        Ok(Enqueued::Busy(holder.unwrap_or_default()))
    }

    /// Leaves the queue if the server has refused to show it.
    async fn leave_after(&self, failure: RequestError) -> Result<Enqueued, Error> {
        match failure {
            RequestError::Refused(_) => {
                let error = of_read(OPERATION, &self.lock, failure);
                Err(self.leave_with(error).await)
            }
            _ => Err(unanswered(OPERATION)),
        }
    }

    /// Leaves the queue and then fails with this error.
    async fn leave_with(&self, error: Error) -> Error {
        let Some(node) = self.session.attempts().node(self.attempt()) else {
            return error;
        };
        self.session.begin_removal(self.attempt(), |_| ());
        match self.delete(&node).await {
            Ok(()) => error,
            Err(_) => error.with_kind(ErrorKind::OutcomeUnknown),
        }
    }

    /// The attempt is admitted: waits for a proof that is new enough, and grants.
    async fn grant(&self) -> Result<Enqueued, Error> {
        let attempt = self.attempt();
        let admitted = {
            let attempts = self.session.attempts();
            let entry = attempts.get(attempt);
            entry.is_some_and(|entry| matches!(entry.position, Position::Admitted))
        };
        if !admitted {
            return Ok(Enqueued::Gone);
        }
        // The answers of a lost connection may be out of date, because the node was not looked up on
        // the next connection.
        if self.connection.is_lost() {
            return Err(unanswered(OPERATION));
        }
        let from = match self.repeated {
            None => self.session.wait_fresh(&self.connection).await,
            after => self.session.wait_proof(after, &self.connection).await,
        };
        let from = from.ok_or_else(|| unanswered(OPERATION))?;
        let grant = self
            .session
            .attempts()
            .grant(attempt, self.session.ttl, from);
        let Some(grant) = grant else {
            return Ok(Enqueued::Gone);
        };
        self.session.write_mark(&self.connection, attempt);
        let node = self.session.attempts().node(attempt);
        if let Some(node) = node {
            self.session
                .watch_own_node(&self.connection, attempt, node, None);
        }
        Ok(Enqueued::Granted(grant))
    }
}

/// Lists the nodes of an attempt in queue order, after the server has caught up with the leader.
/// The flag of each says whether it holds the lock. There is at most one node, unless two
/// enqueues of the attempt ran at once.
pub(crate) async fn find(
    client: &Client,
    lock: &str,
    attempt: AttemptId,
) -> Result<Vec<(String, bool)>, RequestError> {
    let (synced, listed) = (client.sync(lock), client.get_children(lock));
    answer(synced).await?;
    let children = match answer(listed).await {
        Ok((children, _)) => children,
        Err(RequestError::Refused(ZkError::NoNode)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    let ordered = in_order(&children);
    let holders = count_holders(ordered.iter().copied());
    // The id belongs to this attempt alone, and so does every node with its name.
    Ok(ordered
        .into_iter()
        .enumerate()
        .filter(|(_, name)| attempt_of(name) == Some(attempt))
        .map(|(at, name)| (format!("{lock}/{name}"), at < holders))
        .collect())
}
