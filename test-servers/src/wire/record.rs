//! The record of a proxy: commands, requests and connections; and the armed loss of a reply.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::clock::{Clock, Instant, SystemClock};

use super::found::Found;

/// A recorded command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// The number of the connection, from 1 in the order of arrival.
    pub connection: u64,
    /// The name; [`Proxy`](super::Proxy) describes the names of each protocol.
    pub name: String,
    /// The arguments; see [`Proxy`](super::Proxy).
    pub arguments: Vec<Vec<u8>>,
    /// The time at which its last byte arrived.
    pub at: Instant,
}

impl Command {
    fn new(connection: u64, found: Found) -> Self {
        Self {
            connection,
            name: found.name,
            arguments: found.arguments,
            at: SystemClock.now(),
        }
    }

    /// Argument `index` as text; empty if there is no such argument.
    #[must_use]
    pub fn argument(&self, index: usize) -> String {
        let argument = self.arguments.get(index).map(Vec::as_slice);
        String::from_utf8_lossy(argument.unwrap_or_default()).into_owned()
    }
}

/// The record, shared by the test and the proxy's thread.
#[derive(Debug, Default)]
pub(super) struct Record {
    seen: Mutex<Seen>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    commands: Vec<Command>,
    requests: u64,
    made: u64,
    unreadable: u64,
    open: BTreeSet<u64>,
    /// The command whose reply must be lost: with this name, or any command.
    lose_reply_of: Option<Option<String>>,
    replies_lost: u64,
}

impl Record {
    /// Records a new connection and returns its number.
    pub(super) fn opened(&self) -> u64 {
        let mut seen = self.lock();
        seen.made += 1;
        let number = seen.made;
        seen.open.insert(number);
        number
    }

    pub(super) fn closed(&self, connection: u64) {
        self.lock().open.remove(&connection);
        self.closed.notify_all();
    }

    /// The connections that are open now.
    pub(super) fn open(&self) -> BTreeSet<u64> {
        self.lock().open.clone()
    }

    /// Waits until all of these connections are closed; returns `false` after `bound`.
    pub(super) fn wait_until_closed(&self, connections: &BTreeSet<u64>, bound: Duration) -> bool {
        let waited = self.closed.wait_timeout_while(self.lock(), bound, |seen| {
            !seen.open.is_disjoint(connections)
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Records commands that arrived together. If a reply of them must be lost, returns the number of the
    /// last such reply, once.
    pub(super) fn arrived(&self, connection: u64, commands: Vec<Found>) -> Option<i64> {
        let mut seen = self.lock();
        let mut lose = None;
        for found in commands {
            let matches = match &seen.lose_reply_of {
                None => false,
                Some(None) => !found.idle,
                Some(Some(name)) => name.eq_ignore_ascii_case(&found.name),
            };
            if matches {
                lose = Some(found.answer);
            }
            seen.commands.push(Command::new(connection, found));
        }
        if lose.is_some() {
            seen.lose_reply_of = None;
        }
        lose
    }

    pub(super) fn request_began(&self) {
        self.lock().requests += 1;
    }

    pub(super) fn unreadable(&self) {
        self.lock().unreadable += 1;
    }

    pub(super) fn lose_reply_of(&self, name: Option<&str>) {
        self.lock().lose_reply_of = Some(name.map(str::to_owned));
    }

    pub(super) fn reply_lost(&self) {
        self.lock().replies_lost += 1;
    }

    pub(super) fn replies_lost(&self) -> u64 {
        self.lock().replies_lost
    }

    pub(super) fn commands(&self) -> Vec<Command> {
        self.lock().commands.clone()
    }

    pub(super) fn count(&self, name: &str) -> usize {
        let seen = self.lock();
        let named = |command: &&Command| command.name.eq_ignore_ascii_case(name);
        seen.commands.iter().filter(named).count()
    }

    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub(super) fn connections_made(&self) -> u64 {
        self.lock().made
    }

    pub(super) fn connections_unreadable(&self) -> u64 {
        self.lock().unreadable
    }

    pub(super) fn reset(&self) {
        let mut seen = self.lock();
        seen.commands.clear();
        seen.requests = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
