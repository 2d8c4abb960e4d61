//! The sessions of one client: one for each TTL in use, made when it is first asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Session, Settings, Use};

/// The sessions of one client.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: Arc<Settings>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_ttl: HashMap<Duration, Arc<Session>>,
    looking: Option<Arc<Session>>,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            sessions: Mutex::default(),
        }
    }

    /// The session for locks of this TTL; a new one if there is none, or it has ended. `None` after
    /// the pool was closed.
    pub(crate) fn locks(&self, ttl: Duration) -> Option<Arc<Session>> {
        self.with(|sessions, settings| {
            let session = sessions
                .by_ttl
                .entry(ttl)
                .or_insert_with(|| Session::begin(settings, ttl, Use::Locks));
            // One that has been idle for long takes nobody any more from when it begins to end.
            if session.is_over() || session.book().is_closed() {
                *session = Session::begin(settings, ttl, Use::Locks);
            }
            Arc::clone(session)
        })
    }

    /// A session to look at locks with. It asks for the longest life that there is. Not one with
    /// locks: to look would keep it alive.
    pub(crate) fn looking(&self) -> Option<Arc<Session>> {
        self.with(|sessions, settings| match &sessions.looking {
            Some(session) if !session.is_over() => Arc::clone(session),
            _ => {
                let longest = Duration::from_millis(i32::MAX as u64);
                let session = Session::begin(settings, longest, Use::Looking);
                Arc::clone(sessions.looking.insert(session))
            }
        })
    }

    fn with<T>(&self, find: impl FnOnce(&mut Sessions, &Arc<Settings>) -> T) -> Option<T> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        (!sessions.closed).then(|| find(&mut sessions, &self.settings))
    }

    fn take(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.closed = true;
        let looking = sessions.looking.take();
        let by_ttl = std::mem::take(&mut sessions.by_ttl);
        by_ttl.into_values().chain(looking).collect()
    }

    /// Ends all sessions, and with them whatever they have.
    pub(crate) async fn close(&self) {
        let sessions = self.take();
        for session in &sessions {
            session.leave();
        }
        for session in sessions {
            session.close().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for session in self.take() {
            session.abandon();
        }
    }
}
