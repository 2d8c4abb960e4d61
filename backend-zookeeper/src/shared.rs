//! What every operation works with: the sessions, the session of each attempt, and the attempts that
//! were fenced off.

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

/// How long an attempt is remembered whose removal was asked for without knowing the outcome of its
/// enqueue. Only this client can repeat its enqueue, and not after this time.
const FENCE_TTL: Duration = Duration::from_secs(600);
/// With how many fenced attempts at least the old ones are forgotten.
const FENCES_BEFORE_CLEANUP: usize = 1024;

/// What all operations of one client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<DriverConfig>,
    pub(crate) keys: Keys,
    pub(crate) pool: Pool,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    /// The session of each attempt, until its removal was answered.
    sessions: HashMap<AttemptId, Arc<Session>>,
    fenced: HashMap<AttemptId, Instant>,
    /// With how many fenced attempts the old ones are forgotten next.
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

    fn registry(&self) -> MutexGuard<'_, Registry> {
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
            // Twice as many, so that a burst of fences does not scan the table for each.
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

    /// A connection to read the state of locks with, and the permit to be held meanwhile.
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
