//! The task of a session: connects, serves the connection, and connects again until the session ends.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    driver::{Backoff, ConnectError, EndpointList},
    error::ErrorKind,
    loss::LossReason,
};
use tokio::sync::watch;
use zookeeper_client::SessionInfo;

use super::{
    Closing, Purpose, Session, State,
    heartbeat::ServeEnd,
    time::{silence_limit, until},
};
use crate::transport::connect::{Failure, Handshake, Opened, connect};

/// How long a session that never had a connection tries to get one.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The bounds of the pause after every server was tried.
const RECONNECT_BACKOFF_INITIAL: Duration = Duration::from_millis(40);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The outcome of trying every server once.
enum Round {
    Connected(Opened, Instant),
    Expired,
    Failed(ConnectError),
}

/// The task's own state.
struct Connector {
    session: Arc<Session>,
    endpoints: EndpointList,
    /// The data that resumes the session, once it has begun.
    resume: Option<SessionInfo>,
    connections: u64,
    began: Instant,
    last_connected: Instant,
}

pub(super) async fn run(session: Arc<Session>) {
    let clock = Arc::clone(&session.config.context.clock);
    let mut closing = session.closing.subscribe();
    let mut connector = Connector::new(&session);
    let mut backoff = Backoff::new(RECONNECT_BACKOFF_INITIAL, RECONNECT_BACKOFF_MAX);
    loop {
        let round = tokio::select! {
            round = connector.round() => round,
            () = asked_to_end(&mut closing) => return session.end(None, LossReason::Closed),
        };
        let (opened, asked) = match round {
            Round::Connected(opened, asked) => (opened, asked),
            Round::Expired => return session.end(None, LossReason::SessionLost),
            Round::Failed(error) => {
                if let Some((reason, loss)) = connector.gives_up(&error) {
                    return session.end(reason, loss);
                }
                tracing::debug!(why = error.detail, "no server could be reached");
                session.state.send_replace(State::Disconnected(error));
                backoff.pause(&*clock).await;
                continue;
            }
        };
        backoff.reset();
        if let Err((reason, loss)) = connector.accept(&opened, asked) {
            session.end(reason, loss);
            let ending = opened.connection.close();
            let _ = until(&*clock, session.config.request_limit(), ending).await;
            return;
        }
        let connection = opened.connection;
        tracing::debug!(number = connection.number, "connected");
        session
            .state
            .send_replace(State::Connected(Arc::clone(&connection)));
        session.watch_all(&connection);
        let end = tokio::select! {
            () = connection.lost() => ServeEnd::Lost,
            end = session.send_heartbeats(&connection, opened.handshake) => end,
            () = asked_to_end(&mut closing) => ServeEnd::Closed,
        };
        connector.last_connected = clock.now();
        if end == ServeEnd::Closed && *session.closing.borrow() != Closing::Abandon {
            let ending = connection.close();
            let _ = until(&*clock, session.config.request_limit(), ending).await;
        }
        connection.abandon();
        match end {
            ServeEnd::Lost | ServeEnd::Unused => {}
            ServeEnd::Expired => return session.end(None, LossReason::SessionLost),
            ServeEnd::Closed => return session.end(None, LossReason::Closed),
        }
        let reason = ConnectError::new(
            ErrorKind::Unavailable,
            "the connection was lost and is being made again",
        );
        session.state.send_replace(State::Disconnected(reason));
        if session.attempts().len() > 0 {
            session.emit([BackendEvent::Suspect]);
        }
    }
}

async fn asked_to_end(closing: &mut watch::Receiver<Closing>) {
    let _ = closing.wait_for(|closing| *closing != Closing::No).await;
}

impl Connector {
    fn new(session: &Arc<Session>) -> Self {
        let now = session.config.now();
        Self {
            session: Arc::clone(session),
            endpoints: session.config.address.endpoints.clone().shuffled(),
            resume: None,
            connections: 0,
            began: now,
            last_connected: now,
        }
    }

    /// The moment until which it is worth resuming the session.
    ///
    /// For locks: every handshake prolongs the session, also one whose answer is lost. One TTL
    /// after the newest proof that the core was given, no lease on this session is valid any more,
    /// so from then on the session is left to expire (X3).
    fn resumable_until(&self) -> Instant {
        let session = &self.session;
        let reported = session.attempts().newest_report_of_all();
        let proved = reported.or_else(|| session.proved());
        match session.purpose {
            Purpose::Locks => proved.unwrap_or(self.last_connected) + session.ttl,
            Purpose::Reads => self.last_connected + session.granted(),
        }
    }

    /// Tries each server once, beginning after the one that was tried last, whether that has served
    /// for a while or not at all: a server that fell silent is not tried again before all others.
    async fn round(&mut self) -> Round {
        let session = Arc::clone(&self.session);
        let clock = &*session.config.context.clock;
        if self.resume.is_some() {
            // A handshake prolongs the session, so the task waits until the session is in use.
            let in_use = until(clock, self.resumable_until(), session.until_in_use()).await;
            if in_use.is_none() || clock.now() >= self.resumable_until() {
                return Round::Expired;
            }
        }
        let mut errors = Vec::new();
        for _ in 0..self.endpoints.as_slice().len() {
            let endpoint = self.endpoints.current().clone();
            self.endpoints.advance();
            let asked = clock.now();
            if self.resume.is_some() && asked >= self.resumable_until() {
                return Round::Expired;
            }
            let handshake = Handshake {
                resume: self.resume.clone(),
                timeout: session.ttl,
                // Other servers have to be tried within the session's time-out.
                silence: if self.resume.is_some() {
                    silence_limit(session.granted())
                } else {
                    silence_limit(session.ttl)
                },
                number: self.connections + 1,
            };
            let error = match connect(&endpoint, &session.config, handshake).await {
                Ok(opened) => return Round::Connected(opened, asked),
                Err(Failure::Expired) if self.resume.is_some() => return Round::Expired,
                Err(Failure::Expired) => ConnectError::new(
                    ErrorKind::Unavailable,
                    format!("{endpoint}: the server gave no session"),
                ),
                Err(Failure::Error(error)) => error,
            };
            // Another configuration on one server does not end the round: the others may differ.
            errors.push(error);
        }
        Round::Failed(
            ConnectError::of_all(errors).unwrap_or_else(|| {
                ConnectError::new(ErrorKind::Unavailable, "no server was tried")
            }),
        )
    }

    /// Whether a failed round ends the session, and how.
    fn gives_up(&self, error: &ConnectError) -> Option<(Option<ConnectError>, LossReason)> {
        if self.resume.is_some() {
            return None;
        }
        let waited = self.session.config.now().since(self.began);
        let over = waited > FIRST_CONNECT_TIMEOUT || error.kind != ErrorKind::Unavailable;
        over.then(|| (Some(error.clone()), LossReason::SessionLost))
    }

    /// Checks what a server granted. An error ends the session.
    fn accept(
        &mut self,
        opened: &Opened,
        asked: Instant,
    ) -> Result<(), (Option<ConnectError>, LossReason)> {
        let session = &self.session;
        let locks = session.purpose == Purpose::Locks;
        if self.resume.is_none() {
            if locks && opened.timeout != session.ttl {
                let reason = wrong_ttl(session.ttl, opened.timeout);
                return Err((Some(reason), LossReason::SessionLost));
            }
            if locks {
                // A majority has agreed to the session after it was asked for.
                session.prove(asked);
            }
            session.granted.send_replace(opened.timeout);
        } else if locks && opened.timeout < session.ttl {
            // This server has another configuration. By resuming the session with a shorter time-out
            // it has cut short what was proved before, too, and no other server undoes that.
            tracing::warn!(
                granted = ?opened.timeout,
                wanted = ?session.ttl,
                "a server shortens the session; compare the servers' `maxSessionTimeout` and \
                 `tickTime`",
            );
            return Err((None, LossReason::SessionLost));
        }
        self.resume = Some(opened.session.clone());
        self.connections = opened.connection.number;
        Ok(())
    }
}

fn wrong_ttl(wanted: Duration, granted: Duration) -> ConnectError {
    ConnectError::new(
        ErrorKind::Config,
        format!(
            "the servers grant a session of {granted:?} where {wanted:?} was asked for; choose a \
             TTL between their `minSessionTimeout` and `maxSessionTimeout`, and compare the option \
             `tick` with their `tickTime`"
        ),
    )
}
