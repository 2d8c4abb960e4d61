//! One lease: its users, its last proof, and its keep-alives.

pub(crate) mod pool;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tenure_core::clock::{Clock, Instant};

use crate::{
    error::RequestError,
    keepalive_validity::RaftTerm,
    transport::{Connection, Endpoints},
};

/// After this many fenced attempts, later attempts use another lease, so that this lease can end
/// and its fences with it.
const MAX_FENCES_PER_LEASE: usize = 1_000;

/// A lease of this client.
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// The TTL that the server granted.
    pub(crate) ttl: Duration,
    state: Mutex<LeaseState>,
    keep_alives: tokio::sync::Mutex<KeepAliveState>,
}

#[derive(Debug)]
struct LeaseState {
    /// The store keeps the lease for its TTL from this time on.
    proved_from: Instant,
    expired: bool,
    /// How many attempts use it.
    users: usize,
    fences: usize,
    /// When an attempt last joined or left.
    last_used: Instant,
}

#[derive(Default)]
struct KeepAliveState {
    stream: Option<KeepAliveStream>,
    last: Option<KeepAliveReply>,
}

struct KeepAliveStream {
    connection: Connection,
    requests: LeaseKeeper,
    replies: LeaseKeepAliveStream,
}

/// The reply to a keep-alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAliveReply {
    /// Read before the keep-alive was handed to the client library.
    pub(crate) sent_at: Instant,
    term: Option<RaftTerm>,
    trusted: bool,
}

impl KeepAliveReply {
    /// Whether the reply proves that the lease is alive, given a transaction that was sent after
    /// the reply arrived.
    pub(crate) fn is_valid(&self, later: Option<RaftTerm>) -> bool {
        self.trusted || (self.term.is_some() && self.term == later)
    }

    /// Whether the reply alone proves that the lease is alive.
    pub(crate) const fn is_trusted(&self) -> bool {
        self.trusted
    }
}

impl Lease {
    pub(crate) fn new(id: i64, ttl: Duration, proved_from: Instant) -> Self {
        Self {
            id,
            ttl,
            state: Mutex::new(LeaseState {
                proved_from,
                expired: false,
                users: 0,
                fences: 0,
                last_used: proved_from,
            }),
            keep_alives: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn proved_from(&self) -> Instant {
        self.lock().proved_from
    }

    pub(crate) fn prove(&self, from: Instant) {
        let mut state = self.lock();
        state.proved_from = state.proved_from.max(from);
    }

    /// Records that the lease no longer exists in the store.
    pub(crate) fn mark_expired(&self) {
        self.lock().expired = true;
    }

    /// Whether the store may have let it expire, as far as this client knows.
    pub(crate) fn may_have_expired(&self, now: Instant) -> bool {
        let state = self.lock();
        state.expired || now >= state.proved_from + self.ttl
    }

    pub(crate) fn add_fence(&self) {
        self.lock().fences += 1;
    }

    /// Whether new attempts should use another lease.
    pub(crate) fn is_retired(&self) -> bool {
        let state = self.lock();
        state.expired || state.fences >= MAX_FENCES_PER_LEASE
    }

    /// Whether the last proof is recent enough for a new grant.
    pub(crate) fn is_recently_proved(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.expired && now.since(state.proved_from) < self.ttl / 2
    }

    /// Whether only the pool keeps this lease alive. Holders and waiters renew it; but if attempts
    /// come and go so fast that none lives until its first renewal, no attempt does.
    pub(crate) fn needs_pool_keep_alive(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.expired
            && now.since(state.proved_from) >= self.ttl / 3
            && (state.users == 0 || now.since(state.last_used) < self.ttl / 3)
    }

    /// The time since which no attempt uses it; `None` if one does.
    pub(crate) fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.users == 0).then_some(state.last_used)
    }

    /// Sends one keep-alive, or returns one that another caller has sent since this call began.
    pub(crate) async fn keep_alive(
        &self,
        endpoints: &Endpoints,
        clock: &dyn Clock,
    ) -> Result<KeepAliveReply, RequestError> {
        let requested_at = clock.now();
        let mut keep_alives = self.keep_alives.lock().await;
        if let Some(reply) = keep_alives
            .last
            .filter(|reply| reply.sent_at >= requested_at)
        {
            return Ok(reply);
        }
        // Taken out while in use: if this future is dropped, the stream is dropped with it, because
        // replies are matched to requests by their order.
        let current = keep_alives
            .stream
            .take()
            .filter(|stream| endpoints.is_current(&stream.connection));
        if let Some(stream) = current {
            match self
                .send_keep_alive(stream, endpoints, clock, endpoints.failover_timeout())
                .await
            {
                Ok((stream, reply)) => {
                    keep_alives.stream = Some(stream);
                    keep_alives.last = Some(reply);
                    return Ok(reply);
                }
                Err(RequestError::LeaseGone) => return Err(RequestError::LeaseGone),
                // Callers that wait behind this one must not wait for a stopped server.
                Err(error) => tracing::debug!(?error, "keep-alive not answered"),
            }
        }
        // Boxed, because this is rare and the future is large.
        let stream = Box::pin(self.open_stream(endpoints)).await?;
        let (stream, reply) = self
            .send_keep_alive(stream, endpoints, clock, endpoints.request_timeout)
            .await?;
        keep_alives.stream = Some(stream);
        keep_alives.last = Some(reply);
        Ok(reply)
    }

    async fn send_keep_alive(
        &self,
        mut stream: KeepAliveStream,
        endpoints: &Endpoints,
        clock: &dyn Clock,
        limit: Duration,
    ) -> Result<(KeepAliveStream, KeepAliveReply), RequestError> {
        let sent_at = clock.now();
        let connection = stream.connection.clone();
        let exchange = Box::pin(async {
            stream.requests.keep_alive().await?;
            stream.replies.message().await
        });
        let Some(response) = endpoints.await_reply(&connection, limit, exchange).await? else {
            endpoints.mark_suspect(connection.generation);
            return Err(RequestError::no_reply());
        };
        if response.ttl() <= 0 {
            return Err(RequestError::LeaseGone);
        }
        let reply = KeepAliveReply {
            sent_at,
            term: response.header().map(RaftTerm::of),
            trusted: connection.trusted,
        };
        Ok((stream, reply))
    }

    /// The client library consumes the first reply of a stream, including the server that sent it;
    /// so the first keep-alive of a stream proves nothing here.
    async fn open_stream(&self, endpoints: &Endpoints) -> Result<KeepAliveStream, RequestError> {
        endpoints
            .call_any(self.id, |connection, id| async move {
                let (requests, replies) = connection.client.lease_client().keep_alive(id).await?;
                Ok(KeepAliveStream {
                    connection,
                    requests,
                    replies,
                })
            })
            .await
    }

    fn lock(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &format_args!("{:x}", self.id))
            .field("ttl", &self.ttl)
            .field("state", &*self.lock())
            .finish_non_exhaustive()
    }
}

/// The reference by which an attempt uses a lease.
#[derive(Debug)]
pub(crate) struct LeaseRef {
    lease: Arc<Lease>,
    clock: Arc<dyn Clock>,
}

impl LeaseRef {
    pub(crate) fn new(lease: Arc<Lease>, clock: Arc<dyn Clock>) -> Self {
        let mut state = lease.lock();
        state.users += 1;
        state.last_used = state.last_used.max(clock.now());
        drop(state);
        Self { lease, clock }
    }

    pub(crate) const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

impl Drop for LeaseRef {
    fn drop(&mut self) {
        let mut state = self.lease.lock();
        state.users = state.users.saturating_sub(1);
        state.last_used = state.last_used.max(self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_keepalive_reply_of_an_ended_term_proves_nothing() {
        let reply = |trusted| KeepAliveReply {
            sent_at: Instant::ORIGIN,
            term: Some(RaftTerm::new(1, 7)),
            trusted,
        };
        assert!(reply(false).is_valid(Some(RaftTerm::new(1, 7))));
        // Another leader in between, or another server that answered.
        assert!(!reply(false).is_valid(Some(RaftTerm::new(1, 8))));
        assert!(!reply(false).is_valid(Some(RaftTerm::new(2, 7))));
        assert!(!reply(false).is_valid(None));
        assert!(reply(true).is_valid(None));
    }
}
