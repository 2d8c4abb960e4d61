//! What goes on over a session's connection by itself: heartbeats, watching the own nodes, and
//! looking at everything after a reconnection.

use std::{pin::pin, sync::Arc, time::Duration};

use tenure_core::{
    backend::BackendEvent, clock::Instant, error::ErrorKind, id::AttemptId, loss::LossReason,
};

use super::{
    Link, Session, Use,
    book::Nodes,
    proof::Chain,
    time::{pace, silence, until},
};
use crate::{
    error::error,
    record,
    wire::{
        conn::Fault,
        proto::{Code, Node, Request, Stat},
    },
};

/// A session without attempts is ended after so long.
const IDLE: Duration = Duration::from_secs(120);

/// How many nodes are looked at together.
const AT_ONCE: usize = 256;

/// Why a connection is not served any longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is broken, or its server is silent.
    Broken,
    /// The servers say that the session is gone.
    Expired,
    /// Nobody needs the session.
    Idle,
}

impl End {
    /// What follows where something has to be looked at and was not.
    const fn of(fault: Fault) -> Self {
        match fault {
            Fault::Refused(Code::SessionExpired) => Self::Expired,
            _ => Self::Broken,
        }
    }
}

impl Session {
    /// Sends heartbeats until one of them fails.
    pub(super) async fn beats(&self, link: &Link) -> End {
        let clock = &*self.settings.context.clock;
        let tick = self.settings.options.tick;
        let mut chain = Chain::new(tick);
        let mut busy = self.settings.now();
        loop {
            self.until_wanted().await;
            let sent = self.settings.now();
            // The same path for all: what is read is of no interest, only that it is.
            let beat = link
                .conn
                .send_all([Request::sync("/"), Request::exists("/", false)]);
            let answered = async {
                for answer in beat? {
                    match answer.get().await {
                        Ok(_) | Err(Fault::Refused(Code::NoNode | Code::NoAuth)) => {}
                        Err(fault) => return Err(fault),
                    }
                }
                Ok(())
            };
            match self.unless_silent(link, sent, answered).await {
                Some(Ok(())) => {}
                Some(Err(Fault::Refused(Code::SessionExpired))) => return End::Expired,
                Some(Err(fault)) => {
                    tracing::debug!(?fault, "a heartbeat failed");
                    return End::Broken;
                }
                None => {
                    tracing::debug!("a server is silent; leaving it for another one");
                    return End::Broken;
                }
            }
            let now = self.settings.now();
            if self.purpose == Use::Locks
                && let Some(from) = chain.answered(sent, now)
            {
                self.prove(from);
            }
            if self.book().len() > 0 {
                busy = now;
            } else if now.since(busy) > IDLE && self.book().close_if_empty() {
                return End::Idle;
            }
            clock.sleep_until(self.next_beat(&chain, sent)).await;
        }
    }

    /// `None`: no answer at all has come for too long. A server that works off what it was asked
    /// before is not silent. One that cannot reach its leader answers nothing after a `sync`.
    async fn unless_silent<T>(
        &self,
        link: &Link,
        sent: Instant,
        answered: impl Future<Output = T>,
    ) -> Option<T> {
        let clock = &*self.settings.context.clock;
        let limit = silence(self.granted());
        let mut answered = pin!(answered);
        let (mut heard, mut answers) = (sent, link.conn.answers());
        loop {
            let now = clock.now();
            if link.conn.answers() != answers {
                (heard, answers) = (now, link.conn.answers());
            } else if now.since(heard) >= limit {
                return None;
            }
            let next = (now + limit / 4).min(heard + limit);
            if let Some(output) = until(clock, next, answered.as_mut()).await {
                return Some(output);
            }
        }
    }

    fn next_beat(&self, chain: &Chain, sent: Instant) -> Instant {
        if self.purpose == Use::Looking {
            return sent + self.granted() / 3;
        }
        let paced = sent + pace(self.ttl, self.settings.options.tick);
        chain
            .earliest()
            .map_or(paced, |earliest| earliest.max(paced))
    }

    /// Watches own nodes as they come, until that fails.
    pub(super) async fn watch(&self, link: &Link) -> End {
        loop {
            let next = self.book().unwatched.next();
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => self.bell.notified().await,
            }
            let nodes = self.book().due_for_watch(tokio::time::Instant::now());
            // Others rely on these watches: what fails is looked at again on the next connection.
            if let Err(fault) = self.look_at(link, &nodes).await {
                tracing::debug!(?fault, "could not watch own nodes");
                return End::of(fault);
            }
        }
    }

    /// Looks at own nodes, and at those that are waited for, with watches. Not at all of them at
    /// once: a heartbeat that had to wait for ten thousand answers would make the server seem
    /// silent.
    async fn look_at(&self, link: &Link, nodes: &[Nodes]) -> Result<(), Fault> {
        for some in nodes.chunks(AT_ONCE) {
            self.look_at_some(link, some).await?;
        }
        Ok(())
    }

    async fn look_at_some(&self, link: &Link, nodes: &[Nodes]) -> Result<(), Fault> {
        let mut asked = Vec::with_capacity(nodes.len());
        for (attempt, node, next) in nodes {
            // Of a node that is gone no watch is left behind, since it is the data that is asked
            // for.
            let own = link.conn.send(&Request::get_data(node, true))?;
            let ahead = match next {
                Some(next) => Some(link.conn.send(&Request::get_data(next, true))?),
                None => None,
            };
            asked.push((*attempt, own, node, ahead));
        }
        // An own node that may not be read any more is looked at from outside, for which no right is
        // needed: it must not cost what the others have.
        let mut closed = Vec::new();
        for (attempt, own, node, ahead) in asked {
            match own.get().await {
                Ok(reply) => self.looked(link, attempt, Ok(reply.body)),
                Err(fault @ Fault::Refused(Code::NoNode)) => {
                    self.looked(link, attempt, Err(fault));
                }
                Err(Fault::Refused(Code::NoAuth)) => {
                    closed.push((attempt, link.conn.send(&Request::exists(node, true))?));
                }
                Err(fault) => return Err(fault),
            }
            let Some(ahead) = ahead else {
                continue;
            };
            match ahead.get().await {
                Ok(_) => {}
                Err(Fault::Refused(Code::NoNode)) => {
                    let look = self.book().look(attempt);
                    self.tell(look);
                }
                Err(Fault::Refused(Code::NoAuth)) => {
                    // The servers do not tell of what happens to it: each report looks.
                    let _ = self.book().look(attempt);
                }
                Err(fault) => return Err(fault),
            }
        }
        for (attempt, answer) in closed {
            let stat = match answer.get().await {
                Ok(reply) => Some(Stat::answer(&reply.body)?),
                Err(Fault::Refused(Code::NoNode)) => None,
                Err(fault) => return Err(fault),
            };
            self.seen(link, attempt, stat.as_ref());
        }
        Ok(())
    }

    fn looked(&self, link: &Link, attempt: AttemptId, body: Result<Vec<u8>, Fault>) {
        match body {
            Ok(body) => {
                if let Ok(node) = Node::answer(&body) {
                    self.judge(attempt, &node);
                    self.seen(link, attempt, Some(&node.stat));
                }
            }
            Err(Fault::Refused(Code::NoNode)) => self.seen(link, attempt, None),
            Err(_) => {}
        }
    }

    fn seen(&self, link: &Link, attempt: AttemptId, stat: Option<&Stat>) {
        let told = self.book().seen(attempt, stat, link.owner, link.number);
        self.tell(told);
    }

    /// Whether the data of an own node is still ours.
    fn judge(&self, attempt: AttemptId, node: &Node) {
        let mut book = self.book();
        let Some(entry) = book.get_mut(attempt) else {
            return;
        };
        let path = entry.node.clone().unwrap_or_else(|| Arc::from(""));
        let floor = self.settings.context.token_floor;
        let holder = record::holder("renewing", &path, node, floor);
        entry.trouble = match holder {
            Ok(holder) if holder.attempt == Some(attempt) => None,
            Ok(_) => Some(error(
                ErrorKind::Corrupt,
                "renewing",
                format!("somebody has written over the data of `{path}`"),
            )),
            Err(trouble) => Some(trouble),
        };
    }

    /// Looks at everything on a new connection.
    pub(super) async fn check(&self, link: &Link) -> Result<(), Fault> {
        let nodes = self.book().nodes();
        self.look_at(link, &nodes).await
    }

    /// Checks, says so, and never ends.
    pub(super) async fn check_once(&self, link: &Link) -> End {
        if let Err(fault) = self.check(link).await {
            tracing::debug!(?fault, "could not look at the nodes after a reconnection");
            return End::of(fault);
        }
        self.checked.send_replace(link.number);
        if link.number > 1 {
            self.tell([BackendEvent::Reconnected]);
        }
        std::future::pending().await
    }

    pub(super) fn lost(&self, reason: LossReason) {
        self.end(None, reason);
    }
}
