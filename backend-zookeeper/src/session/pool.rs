//! The sessions of one client: one for each TTL in use, begun with the first lock of that TTL. Each
//! has one connection, so a client with one TTL has one connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{DriverConfig, Purpose, ReadPermit, Session};

/// A time-out that is longer than any server grants, so that it grants its longest.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The sessions of one client.
#[derive(Debug)]
pub(crate) struct Pool {
    config: Arc<DriverConfig>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_ttl: HashMap<Duration, Arc<Session>>,
    reader: Option<Arc<Session>>,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(config: Arc<DriverConfig>) -> Self {
        Self {
            config,
            sessions: Mutex::default(),
        }
    }

    /// The session for locks of this TTL; a new one if there is none, or it has ended. `None` after
    /// the pool was closed.
    pub(crate) fn locks(&self, ttl: Duration) -> Option<Arc<Session>> {
        self.with(|sessions, config| {
            sessions.by_ttl.retain(|_, session| !session.is_ended());
            let session = sessions
                .by_ttl
                .entry(ttl)
                .or_insert_with(|| Session::begin(config, ttl, Purpose::Locks));
            // An idle session takes no more attempts from the moment at which it begins to end.
            if session.attempts().is_closed() {
                *session = Session::begin(config, ttl, Purpose::Locks);
            }
            // From now on that session serves reads too.
            if let Some(reader) = sessions.reader.take() {
                reader.close_after_reads();
            }
            Arc::clone(session)
        })
    }

    /// A session for reading the state of locks. A session for locks serves, if one is connected
    /// and in use, since it is kept alive anyway; otherwise a session for reads only. `None` after
    /// the pool was closed.
    pub(crate) fn reader(&self) -> Option<ReadPermit> {
        self.with(|sessions, config| {
            let mut locks = sessions.by_ttl.values();
            let usable =
                |session: &&Arc<Session>| session.is_in_use() && session.connected().is_some();
            if let Some(session) = locks.find(usable) {
                return session.begin_read();
            }
            match &sessions.reader {
                Some(session) if !session.is_ended() => session.begin_read(),
                _ => {
                    let session = Session::begin(config, LONGEST_TIMEOUT, Purpose::Reads);
                    sessions.reader.insert(session).begin_read()
                }
            }
        })
    }

    /// Ends the session that reads, if there is one.
    pub(crate) async fn close_reader(&self) {
        let reader = self.with(|sessions, _| sessions.reader.take()).flatten();
        if let Some(reader) = reader {
            reader.close().await;
        }
    }

    fn with<T>(&self, find: impl FnOnce(&mut Sessions, &Arc<DriverConfig>) -> T) -> Option<T> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        (!sessions.closed).then(|| find(&mut sessions, &self.config))
    }

    fn take(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.closed = true;
        let reader = sessions.reader.take();
        let by_ttl = std::mem::take(&mut sessions.by_ttl);
        by_ttl.into_values().chain(reader).collect()
    }

    /// Ends all sessions, and with them all their locks.
    pub(crate) async fn close(&self) {
        let sessions = self.take();
        for session in &sessions {
            session.begin_close();
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
