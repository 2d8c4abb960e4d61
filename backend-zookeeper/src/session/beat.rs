//! What goes on over a session's connection by itself: heartbeats, watching the own nodes, and
//! looking at everything after a reconnection.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    backend::BackendEvent, clock::Instant, error::ErrorKind, id::AttemptId, loss::LossReason,
};

use super::{
    Link, Session, Use,
    book::Place,
    proof::Chain,
    time::{pace, silence, until},
};
use crate::{
    error::error,
    record,
    wire::{
        conn::{Answer, Fault},
        proto::{Code, Node, Request, Stat},
    },
};

/// A session without attempts is ended after so long.
const IDLE: Duration = Duration::from_secs(120);

/// Own nodes are watched a little later, so that a lock that is held for a moment costs no watch,
/// and those that are taken together are watched together.
const WATCH_DELAY: Duration = Duration::from_millis(5);

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

impl Session {
    /// Sends heartbeats until one of them fails.
    pub(super) async fn beats(&self, link: &Link) -> End {
        let clock = &*self.settings.context.clock;
        let tick = self.settings.options.tick;
        let granted = self.granted();
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
            let limit = sent + silence(granted);
            match until(clock, limit, answered).await {
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

    fn next_beat(&self, chain: &Chain, sent: Instant) -> Instant {
        if self.purpose == Use::Looking {
            return sent + self.granted() / 3;
        }
        let paced = sent + pace(self.ttl, self.settings.options.tick);
        chain
            .earliest()
            .map_or(paced, |earliest| earliest.max(paced))
    }

    /// Watches own nodes as they come. Never ends.
    pub(super) async fn watch(&self, link: &Link) -> End {
        loop {
            self.bell.notified().await;
            tokio::time::sleep(WATCH_DELAY).await;
            let unwatched = std::mem::take(&mut self.book().unwatched);
            let asked: Vec<_> = unwatched
                .into_iter()
                .filter_map(|attempt| self.look_at(link, attempt))
                .collect();
            for (attempt, answer) in asked {
                self.looked(link, attempt, answer.get().await.map(|reply| reply.body));
            }
        }
    }

    /// Asks for an attempt's own node, with a watch.
    fn look_at(&self, link: &Link, attempt: AttemptId) -> Option<(AttemptId, Answer)> {
        let node = {
            let book = self.book();
            let entry = book.get(attempt)?;
            if matches!(entry.place, Place::Gone(_)) {
                return None;
            }
            Arc::clone(entry.node.as_ref()?)
        };
        // Of a node that is gone no watch is left behind, since it is the data that is asked for.
        let answer = link.conn.send(&Request::get_data(&node, true)).ok()?;
        Some((attempt, answer))
    }

    fn looked(&self, link: &Link, attempt: AttemptId, body: Result<Vec<u8>, Fault>) {
        let told = match body {
            Ok(body) => match Node::answer(&body) {
                Ok(node) => {
                    self.judge(attempt, &node);
                    self.seen(link, attempt, Some(&node.stat))
                }
                Err(_) => None,
            },
            Err(Fault::Refused(Code::NoNode)) => self.seen(link, attempt, None),
            Err(_) => None,
        };
        self.tell(told);
    }

    fn seen(&self, link: &Link, attempt: AttemptId, stat: Option<&Stat>) -> Option<BackendEvent> {
        self.book().seen(attempt, stat, link.owner, link.number)
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
        let mut asked = Vec::with_capacity(nodes.len());
        for (attempt, node, next) in nodes {
            let own = link.conn.send(&Request::get_data(&node, true))?;
            let ahead = match &next {
                Some(next) => Some(link.conn.send(&Request::get_data(next, true))?),
                None => None,
            };
            asked.push((attempt, own, ahead));
        }
        for (attempt, own, ahead) in asked {
            match own.get().await {
                Ok(reply) => self.looked(link, attempt, Ok(reply.body)),
                Err(fault @ Fault::Refused(Code::NoNode)) => {
                    self.looked(link, attempt, Err(fault));
                }
                Err(fault) => return Err(fault),
            }
            if let Some(ahead) = ahead {
                match ahead.get().await {
                    Ok(_) => {}
                    Err(Fault::Refused(Code::NoNode)) => {
                        let look = self.book().look(attempt);
                        self.tell(look);
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(())
    }

    /// Checks, says so, and never ends.
    pub(super) async fn check_once(&self, link: &Link) -> End {
        if let Err(fault) = self.check(link).await {
            tracing::debug!(?fault, "could not look at the nodes after a reconnection");
            return match fault {
                Fault::Refused(Code::SessionExpired) => End::Expired,
                _ => End::Broken,
            };
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
