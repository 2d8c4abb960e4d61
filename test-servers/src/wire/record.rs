//! What a proxy saw: commands, requests, connections; and which fault waits for its moment.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::clock::{Clock, Instant, SystemClock};

/// One command as it came from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// The number of its connection, counted from 1 in the order of their arrival.
    pub connection: u64,
    /// Its name, in capitals.
    pub name: String,
    /// What follows the name.
    pub arguments: Vec<Vec<u8>>,
    /// When its last byte reached the proxy.
    pub at: Instant,
}

impl Command {
    fn new(connection: u64, words: Vec<Vec<u8>>) -> Self {
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        Self {
            connection,
            name: String::from_utf8_lossy(&name).to_ascii_uppercase(),
            arguments: words.collect(),
            at: SystemClock.now(),
        }
    }

    /// Argument `index` after the name as text; empty if there is none.
    #[must_use]
    pub fn argument(&self, index: usize) -> String {
        let argument = self.arguments.get(index).map(Vec::as_slice);
        String::from_utf8_lossy(argument.unwrap_or_default()).into_owned()
    }
}

/// Shared by the test and by the proxy's thread; locked for moments only.
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
    /// Which command's reply is to be lost: that of this name, or of any.
    lose_reply_of: Option<Option<String>>,
    replies_lost: u64,
}

impl Record {
    /// A new connection; its number.
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

    /// Waits until none of these is open; false if that lasts longer than `bound`.
    pub(super) fn wait_until_closed(&self, connections: &BTreeSet<u64>, bound: Duration) -> bool {
        let waited = self.closed.wait_timeout_while(self.lock(), bound, |seen| {
            !seen.open.is_disjoint(connections)
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Commands that arrived together; whether the reply of one of them is to be lost, which is
    /// said once.
    pub(super) fn arrived(&self, connection: u64, commands: Vec<Vec<Vec<u8>>>) -> bool {
        let mut seen = self.lock();
        let mut lose = false;
        for words in commands {
            let command = Command::new(connection, words);
            lose |= match &seen.lose_reply_of {
                None => false,
                Some(None) => true,
                Some(Some(name)) => *name == command.name,
            };
            seen.commands.push(command);
        }
        if lose {
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
        self.lock().lose_reply_of = Some(name.map(str::to_ascii_uppercase));
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
