//! What every operation works with: the sessions, which attempt belongs to which, and who was
//! fenced off.

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
    error::error,
    paths::Paths,
    session::{Link, Session, Settings, pool::Pool},
    wire::proto::Access,
};

/// For how long an attempt that was removed without its enqueue's outcome is remembered. Its
/// requests could come late only from this client, and not after so long.
const FENCED_LIFE: Duration = Duration::from_secs(600);

/// One client's way to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Arc<Settings>,
    pub(crate) paths: Paths,
    pub(crate) access: Access,
    pub(crate) pool: Pool,
    attempts: Mutex<Attempts>,
}

#[derive(Debug, Default)]
struct Attempts {
    /// The session of each attempt, until its removal was answered.
    sessions: HashMap<AttemptId, Arc<Session>>,
    fenced: HashMap<AttemptId, Instant>,
}

impl Core {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let paths = Paths::new(&settings.target.root, &settings.context.namespace);
        Self {
            access: settings.options.access(),
            pool: Pool::new(Arc::clone(&settings)),
            paths,
            settings,
            attempts: Mutex::default(),
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the session of an attempt. `false`: the attempt was fenced off.
    pub(crate) fn keep(&self, attempt: AttemptId, session: &Arc<Session>) -> bool {
        let mut attempts = self.attempts();
        if attempts.fenced.contains_key(&attempt) {
            return false;
        }
        attempts.sessions.insert(attempt, Arc::clone(session));
        true
    }

    pub(crate) fn session_of(&self, attempt: AttemptId) -> Option<Arc<Session>> {
        self.attempts().sessions.get(&attempt).map(Arc::clone)
    }

    pub(crate) fn is_fenced(&self, attempt: AttemptId) -> bool {
        self.attempts().fenced.contains_key(&attempt)
    }

    /// From now on no request of this attempt has an effect.
    pub(crate) fn fence(&self, attempt: AttemptId) {
        let now = self.settings.now();
        let mut attempts = self.attempts();
        if attempts.fenced.len() >= 1024 {
            let fenced = &mut attempts.fenced;
            fenced.retain(|_, since| now.since(*since) < FENCED_LIFE);
        }
        attempts.fenced.insert(attempt, now);
    }

    /// Forgets an attempt of which nothing is left.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        let session = self.attempts().sessions.remove(&attempt);
        if let Some(session) = session {
            let told = session.book().forget(attempt);
            session.tell(told);
        }
    }

    /// A connection to look at locks with.
    pub(crate) async fn looking(&self, operation: &'static str) -> Result<Link, Error> {
        let session = self.pool.looking().ok_or_else(|| closed(operation))?;
        session.link(operation, self.settings.limit()).await
    }
}

pub(crate) fn closed(operation: &'static str) -> Error {
    error(ErrorKind::Closed, operation, "the client was closed")
}
