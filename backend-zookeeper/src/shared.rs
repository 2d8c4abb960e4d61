//! The state that all operations of one client share: the sessions, the session of each attempt,
//! and the attempts that were fenced off.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::{
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
};

use crate::{
    error::{closed, error},
    keys::Keys,
    session::{DriverConfig, ReadPermit, Session, pool::Pool},
    transport::Connection,
};

/// How long a fence is kept: the note that an attempt was removed while the outcome of its enqueue
/// was unknown. Only this client can repeat that enqueue, and it does not do so after this time.
const FENCE_TTL: Duration = Duration::from_secs(600);
/// The number of fences below which old ones are not cleaned up.
const FENCES_BEFORE_CLEANUP: usize = 1024;

/// The data that all operations of one client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<DriverConfig>,
    pub(crate) keys: Keys,
    pub(crate) pool: Pool,
    registry: Mutex<AttemptSessions>,
}

#[derive(Debug, Default)]
struct AttemptSessions {
    /// The session of each attempt, until its removal was answered.
    sessions: HashMap<AttemptId, Arc<Session>>,
    fenced: HashMap<AttemptId, Instant>,
    /// The number of fences at which old ones are cleaned up next.
    cleanup_at: usize,
}

impl Shared {
    pub(crate) fn new(config: Arc<DriverConfig>) -> Self {
        let keys = Keys::new(&config.address.root, &config.context.namespace);
        Self {
            pool: Pool::new(Arc::clone(&config)),
            keys,
            config,
            registry: Mutex::default(),
        }
    }

    fn registry(&self) -> MutexGuard<'_, AttemptSessions> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the session of an attempt. `false`: the attempt was fenced off.
    pub(crate) fn assign(&self, attempt: AttemptId, session: &Arc<Session>) -> bool {
        let mut registry = self.registry();
        if registry.fenced.contains_key(&attempt) {
            return false;
        }
        registry.sessions.insert(attempt, Arc::clone(session));
        true
    }

    pub(crate) fn session_of(&self, attempt: AttemptId) -> Option<Arc<Session>> {
        self.registry().sessions.get(&attempt).map(Arc::clone)
    }

    pub(crate) fn is_fenced(&self, attempt: AttemptId) -> bool {
        self.registry().fenced.contains_key(&attempt)
    }

    /// From now on no enqueue of this attempt has an effect.
    pub(crate) fn fence(&self, attempt: AttemptId) {
        let now = self.config.now();
        let mut registry = self.registry();
        if registry.fenced.len() >= registry.cleanup_at.max(FENCES_BEFORE_CLEANUP) {
            let fenced = &mut registry.fenced;
            fenced.retain(|_, since| now.since(*since) < FENCE_TTL);
            // Doubled, so that a burst of fences does not scan the table once for each fence.
            registry.cleanup_at = registry.fenced.len() * 2;
        }
        registry.fenced.insert(attempt, now);
    }

    /// Forgets an attempt of which nothing is left in the store.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        let session = self.registry().sessions.remove(&attempt);
        if let Some(session) = session {
            session.forget(attempt);
        }
    }

    /// A connection for reading the state of locks, and the permit that must be held while it is
    /// used.
    pub(crate) async fn reader(
        &self,
        operation: &'static str,
    ) -> Result<(Arc<Connection>, ReadPermit), Error> {
        let permit = self.pool.reader().ok_or_else(|| closed(operation))?;
        let limit = self.config.request_limit();
        let connection = permit.session().connection(operation, limit).await?;
        Ok((connection, permit))
    }

    /// The node that the address names is gone.
    pub(crate) fn root_is_gone(&self, operation: &'static str) -> Error {
        let root = self.keys.root();
        error(
            ErrorKind::Config,
            operation,
            format!("the node `{root}` of the address is gone; create it again"),
        )
    }
}
