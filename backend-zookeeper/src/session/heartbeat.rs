//! Heartbeats: they keep a session alive and prove its life.

use std::time::Duration;

use tenure_core::clock::Instant;
use zookeeper_client::Error as ZkError;

use super::{
    Purpose, Session,
    proof::HeartbeatProof,
    time::{heartbeat_interval, silence_limit, until},
};
use crate::{
    error::RequestError,
    transport::{Connection, answer},
};

/// How long a session without attempts is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a session leaves a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServeEnd {
    /// It is lost, or its server is silent.
    Lost,
    /// The servers say that the session has expired.
    Expired,
    /// The core does not use the session: the connection is dropped, and made again on demand.
    Unused,
    /// The session has no attempts, or is to be closed.
    Closed,
}

impl Session {
    /// Sends heartbeats until the connection should be left. `first`: when the handshake, which
    /// counts as the first heartbeat, was sent and answered.
    pub(super) async fn send_heartbeats(
        &self,
        connection: &Connection,
        first: Option<(Instant, Instant)>,
    ) -> ServeEnd {
        let clock = &*self.config.context.clock;
        let mut proof = HeartbeatProof::new(self.config.options.tick);
        let mut last_busy = self.config.now();
        if let Some((sent, answered)) = first {
            proof.answered(sent, answered);
            clock.sleep_until(self.next_heartbeat(&proof, sent)).await;
        }
        loop {
            if !self.is_in_use() {
                return ServeEnd::Unused;
            }
            let sent = self.config.now();
            // Answers arrive in the order of the requests, so a heartbeat that stays unanswered shows that
            // every request before it does. A server that lost its leader answers nothing after a `sync`.
            let limit = sent + silence_limit(self.granted());
            match until(clock, limit, heartbeat(connection)).await {
                Some(Ok(())) => {}
                Some(Err(RequestError::Refused(ZkError::SessionExpired))) => {
                    return ServeEnd::Expired;
                }
                Some(Err(error)) => {
                    tracing::debug!(?error, "a heartbeat failed");
                    return ServeEnd::Lost;
                }
                None => {
                    tracing::debug!("the server is silent; trying another one");
                    return ServeEnd::Lost;
                }
            }
            let now = self.config.now();
            if self.purpose == Purpose::Locks
                && let Some(from) = proof.answered(sent, now)
            {
                self.prove(from);
            }
            if self.attempts().len() > 0 {
                last_busy = now;
            } else if now.since(last_busy) > IDLE_TIMEOUT && self.attempts().close_if_empty() {
                return ServeEnd::Closed;
            }
            clock.sleep_until(self.next_heartbeat(&proof, sent)).await;
        }
    }

    fn next_heartbeat(&self, proof: &HeartbeatProof, sent: Instant) -> Instant {
        if self.purpose == Purpose::Reads {
            return sent + self.granted() / 3;
        }
        let next = sent + heartbeat_interval(self.ttl, self.config.options.tick);
        proof.earliest().map_or(next, |earliest| earliest.max(next))
    }
}

/// A `sync`, which goes through the leader, and a read after it. Both are sent before the first answer.
/// The path and what is read do not matter.
async fn heartbeat(connection: &Connection) -> Result<(), RequestError> {
    let client = connection.client()?;
    let (synced, stat) = (client.sync("/"), client.check_stat("/"));
    let synced = answer(synced).await;
    let stat = answer(stat).await;
    for answer in [synced, stat.map(|_| ())] {
        match answer {
            Ok(()) | Err(RequestError::Refused(ZkError::NoNode | ZkError::NoAuth)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
