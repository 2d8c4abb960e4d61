//! The attempts of a session, as data behind one mutex. No I/O.

mod downgrade;
mod mark;

use std::{
    collections::{HashMap, HashSet, hash_map},
    sync::Arc,
    time::Duration,
};

use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Grant, Renewed, Waiting},
    token::FencingToken,
};
use zookeeper_client::Stat;

pub(crate) use self::downgrade::DowngradeStep;
use self::mark::Mark;
use crate::{
    error::unanswered,
    keys::may_be_downgraded_by_curator,
    queue::{Position, Predecessor, Watch},
    record::{child_of, token},
};

/// One attempt. Kept from before the request that creates its node until the answer to its removal.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The lock's node.
    pub(crate) lock: Arc<str>,
    /// The attempt's own node, once it is known.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) token: FencingToken,
    /// The lowest token among the grants that were alive when the attempt was admitted.
    floor: FencingToken,
    /// The zxid of the creation of the node.
    czxid: i64,
    /// The mark by which the waiter behind a holder of permits learns that it is the first one.
    mark: Option<Box<Mark>>,
    /// The node that a downgrade may have put into the place of `node`, and the number of the connection
    /// on which it was sent. `None` once the outcome is known.
    downgrade: Option<(Arc<str>, u64)>,
    pub(crate) position: Position,
    /// The number of the connection on which the node was last seen.
    pub(crate) seen_on: u64,
    /// The number of the connection on which the node is watched.
    pub(crate) watched_on: u64,
    /// The newest proof that the core was given for it.
    reported: Option<Instant>,
    /// Whether this client is removing it: its end is no loss.
    removing: bool,
    /// The connection on which its position is being looked up, and whether to look it up once more
    /// afterwards.
    locating: Option<(u64, bool)>,
    /// The error in the data of its node.
    data_error: Option<Error>,
    /// Why its position could not be looked up, if a retry cannot help.
    locate_error: Option<Error>,
}

/// The outcome of registering an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    New,
    /// It was registered before; it may have a node already.
    Known,
    /// The session takes no more attempts.
    Closed,
}

/// The nodes to watch for an attempt on a new connection.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) attempt: AttemptId,
    pub(crate) node: Arc<str>,
    pub(crate) waits: bool,
}

impl Attempt {
    fn admit(&mut self, floor: Option<FencingToken>, mark: bool) {
        self.position = Position::Admitted;
        self.floor = floor.unwrap_or(self.token).min(self.token);
        if mark && let Some(mark) = &mut self.mark {
            mark.set_due();
        }
    }

    fn grant(&self, attempt: AttemptId, ttl: Duration, from: Instant) -> Grant {
        Grant::proved(attempt, self.token, ttl, from).with_floor(self.floor)
    }
}

/// The attempts of a session.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    entries: HashMap<AttemptId, Attempt>,
    /// The attempts whose nodes were not looked up yet on the connection `checking`.
    unchecked: HashSet<AttemptId>,
    checking: u64,
    /// Set once the session takes no more attempts.
    closed: bool,
}

impl Attempts {
    /// Registers an attempt, before anything of it is sent. `data` is that of its node if it may have to be
    /// marked.
    pub(crate) fn register(
        &mut self,
        attempt: AttemptId,
        lock: &Arc<str>,
        data: Option<Box<[u8]>>,
    ) -> Registration {
        if self.closed {
            return Registration::Closed;
        }
        match self.entries.entry(attempt) {
            hash_map::Entry::Occupied(_) => Registration::Known,
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Attempt {
                    lock: Arc::clone(lock),
                    node: None,
                    token: FencingToken::new(0),
                    floor: FencingToken::new(0),
                    czxid: 0,
                    mark: data.map(|data| Box::new(Mark::new(data))),
                    downgrade: None,
                    position: Position::Unknown,
                    seen_on: 0,
                    watched_on: 0,
                    reported: None,
                    removing: false,
                    locating: None,
                    data_error: None,
                    locate_error: None,
                });
                Registration::New
            }
        }
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Attempt> {
        self.entries.get(&attempt)
    }

    /// The attempt's own node, once it is known.
    pub(crate) fn node(&self, attempt: AttemptId) -> Option<Arc<str>> {
        self.entries.get(&attempt)?.node.clone()
    }

    /// Forgets an attempt.
    pub(crate) fn forget(&mut self, attempt: AttemptId) {
        self.entries.remove(&attempt);
        self.unchecked.remove(&attempt);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes no more attempts, if there are none. Returns whether there are none.
    pub(crate) fn close_if_empty(&mut self) -> bool {
        self.closed |= self.entries.is_empty();
        self.closed
    }

    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether an attempt is still wanted: registered, not gone, and not being removed. The request
    /// that creates its node is sent under the same mutex, so that none is sent after its removal
    /// has begun.
    pub(crate) fn is_wanted(&self, attempt: AttemptId) -> bool {
        let entry = self.entries.get(&attempt);
        entry.is_some_and(|entry| !entry.removing && !matches!(entry.position, Position::Gone(_)))
    }

    /// Notes an attempt's own node. `false`: it has another one already.
    pub(crate) fn created(
        &mut self,
        attempt: AttemptId,
        path: &str,
        stat: &Stat,
        floor: FencingToken,
        connection: u64,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            // The attempt was removed. The removal itself looks for the node.
            return true;
        };
        match &entry.node {
            Some(node) if **node != *path => return false,
            Some(_) => {}
            None => entry.node = Some(path.into()),
        }
        entry.token = token(stat.czxid, floor);
        entry.czxid = stat.czxid;
        entry.seen_on = connection;
        true
    }

    /// Nothing ahead of the attempt excludes it. `floor` is the token of the first contender, if that is
    /// another one; `mark` says whether the waiter behind waits for a mark.
    pub(crate) fn set_admitted(
        &mut self,
        attempt: AttemptId,
        floor: Option<FencingToken>,
        mark: bool,
    ) {
        if let Some(entry) = self.entries.get_mut(&attempt)
            && !matches!(entry.position, Position::Admitted | Position::Gone(_))
        {
            entry.admit(floor, mark);
        }
    }

    /// The attempt waits behind other nodes. `false`: one of their watches has fired, so the queue
    /// has to be read again.
    pub(crate) fn set_waiting(&mut self, attempt: AttemptId, predecessor: Predecessor) -> bool {
        if predecessor.has_fired() {
            return false;
        }
        // Nothing that excludes it enters ahead of an admitted attempt, so this position comes from an
        // older list.
        if let Some(entry) = self.entries.get_mut(&attempt)
            && !matches!(entry.position, Position::Admitted | Position::Gone(_))
        {
            entry.position = Position::Waiting(Box::new(predecessor));
        }
        true
    }

    /// The running watches of a waiter on this connection.
    pub(crate) fn running_watches(&self, attempt: AttemptId, connection: u64) -> Vec<Arc<Watch>> {
        let position = self.entries.get(&attempt).map(|entry| &entry.position);
        let Some(Position::Waiting(predecessor)) = position else {
            return Vec::new();
        };
        let watches = predecessor.watches.iter();
        watches
            .filter(|watch| watch.connection == connection && !watch.has_fired())
            .map(Arc::clone)
            .collect()
    }

    /// There is definite evidence that an attempt's node is gone. Returns the event for the core.
    pub(crate) fn gone(&mut self, attempt: AttemptId, reason: LossReason) -> Option<BackendEvent> {
        self.unchecked.remove(&attempt);
        let entry = self.entries.get_mut(&attempt)?;
        if matches!(entry.position, Position::Gone(_)) {
            return None;
        }
        entry.position = Position::Gone(reason);
        (!entry.removing).then_some(BackendEvent::Lost { attempt, reason })
    }

    /// This client begins to remove an attempt: from now on nothing about it is a loss.
    pub(crate) fn begin_removal(&mut self, attempt: AttemptId) {
        self.unchecked.remove(&attempt);
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.removing = true;
        }
    }

    /// Notes what is wrong with the data of an attempt's node, or that nothing is.
    pub(crate) fn set_data_error(&mut self, attempt: AttemptId, error: Option<Error>) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.data_error = error;
        }
    }

    /// Notes why an attempt's position could not be looked up, or that it was.
    pub(crate) fn set_locate_error(&mut self, attempt: AttemptId, error: Option<Error>) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.locate_error = error;
        }
    }

    /// The session is gone, and all its nodes with it.
    pub(crate) fn end(&mut self, reason: LossReason) -> Vec<BackendEvent> {
        self.closed = true;
        let attempts: Vec<AttemptId> = self.entries.keys().copied().collect();
        let events = attempts.into_iter();
        events
            .filter_map(|attempt| self.gone(attempt, reason))
            .collect()
    }

    /// Begins to look up every node on a new connection, and returns what to watch there.
    pub(crate) fn begin_check(&mut self, connection: u64) -> Vec<Watched> {
        self.checking = connection;
        self.unchecked.clear();
        let mut watched = Vec::new();
        for (attempt, entry) in &self.entries {
            // The end of a node that is being removed is no loss, so it needs no watch.
            if let Some(node) = &entry.node
                && !entry.removing
                && !matches!(entry.position, Position::Gone(_))
            {
                self.unchecked.insert(*attempt);
                watched.push(Watched {
                    attempt: *attempt,
                    node: Arc::clone(node),
                    waits: !matches!(entry.position, Position::Admitted),
                });
            }
        }
        watched
    }

    /// The connection on which every node was looked up.
    pub(crate) fn checked_on(&self) -> u64 {
        if self.unchecked.is_empty() {
            self.checking
        } else {
            self.checking.saturating_sub(1)
        }
    }

    /// An attempt's own node was looked up, with a watch. Returns the event for the core.
    pub(crate) fn seen(
        &mut self,
        attempt: AttemptId,
        stat: Option<&Stat>,
        session_id: i64,
        connection: u64,
    ) -> Option<BackendEvent> {
        let entry = self.entries.get_mut(&attempt)?;
        let reason = match stat {
            None => LossReason::Evicted,
            Some(stat) if stat.ephemeral_owner != session_id => LossReason::SessionLost,
            Some(stat) if stat.czxid != entry.czxid => LossReason::Displaced,
            Some(_) => {
                entry.seen_on = connection;
                entry.watched_on = connection;
                if self.checking == connection {
                    self.unchecked.remove(&attempt);
                }
                return None;
            }
        };
        self.gone(attempt, reason)
    }

    /// The attempts of a batch whose nodes are not being looked up on this connection and were not
    /// seen on it: an answer of the previous connection came late.
    pub(crate) fn overlooked(
        &mut self,
        batch: impl Iterator<Item = AttemptId>,
        connection: u64,
    ) -> Vec<Watched> {
        let mut overlooked = Vec::new();
        for attempt in batch {
            if let Some(entry) = self.entries.get(&attempt)
                && let Some(node) = &entry.node
                && entry.seen_on != connection
                && self.is_wanted(attempt)
                && !self.unchecked.contains(&attempt)
            {
                overlooked.push(Watched {
                    attempt,
                    node: Arc::clone(node),
                    waits: !matches!(entry.position, Position::Admitted),
                });
            }
        }
        self.unchecked
            .extend(overlooked.iter().map(|watched| watched.attempt));
        overlooked
    }

    /// The watch of an attempt's own node has fired.
    pub(crate) fn unwatched(&mut self, attempt: AttemptId) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.watched_on = 0;
        }
    }

    /// Begins to look up an attempt's position, and returns whether the caller has to do it. It does not
    /// if a look-up is under way, which is then followed by another one, or if the attempt is gone or
    /// being removed.
    pub(crate) fn begin_locating(&mut self, attempt: AttemptId, connection: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return false;
        };
        if entry.removing || matches!(entry.position, Position::Gone(_)) {
            return false;
        }
        match &mut entry.locating {
            Some((number, again)) if *number == connection => {
                *again = true;
                false
            }
            locating => {
                *locating = Some((connection, false));
                true
            }
        }
    }

    /// Ends a look-up that `begin_locating` began. `true`: the position has to be looked up once
    /// more. An admitted attempt stays admitted, whatever has changed meanwhile.
    pub(crate) fn end_locating(&mut self, attempt: AttemptId) -> bool {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return false;
        };
        match &mut entry.locating {
            Some((_, again)) if *again && !matches!(entry.position, Position::Admitted) => {
                *again = false;
                true
            }
            locating => {
                *locating = None;
                false
            }
        }
    }

    /// A node ahead of a waiter is gone. Returns what follows for the waiter.
    ///
    /// It is certain that the waiter is first if that node was the only one ahead, because no
    /// contender enters in front of the attempt, and if the attempt's own node is watched on this
    /// connection. Otherwise the queue has to be read. A downgrade by `tenure` is not reported as a
    /// deletion, but one by Curator is.
    pub(crate) fn predecessor_deleted(
        &mut self,
        attempt: AttemptId,
        node: &str,
        connection: u64,
    ) -> AfterDeletion {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return AfterDeletion::None;
        };
        match &entry.position {
            Position::Waiting(predecessor)
                if predecessor.watches.iter().any(|watch| *watch.node == *node) =>
            {
                let only = predecessor.ahead == 1 && !may_be_downgraded_by_curator(child_of(node));
                if only && entry.watched_on == connection && !entry.removing {
                    entry.admit(None, true);
                    AfterDeletion::Admitted
                } else {
                    AfterDeletion::Locate
                }
            }
            _ => AfterDeletion::None,
        }
    }

    /// The grant of an attempt that is admitted; `None` if it is not, or no longer.
    pub(crate) fn grant(
        &mut self,
        attempt: AttemptId,
        ttl: Duration,
        from: Instant,
    ) -> Option<Grant> {
        let entry = self.entries.get_mut(&attempt)?;
        if entry.removing || !matches!(entry.position, Position::Admitted) {
            return None;
        }
        entry.reported = entry.reported.max(Some(from));
        Some(entry.grant(attempt, ttl, from))
    }

    /// The answer to a waiter; `None` if its node is not known, or gone.
    pub(crate) fn waiting(&mut self, attempt: AttemptId, from: Instant) -> Option<Waiting> {
        let entry = self.entries.get_mut(&attempt)?;
        let waiting = entry.position.waiting(entry.czxid, from)?;
        entry.reported = entry.reported.max(Some(from));
        Some(waiting)
    }

    /// The newest proof that the core was given for any attempt of the session.
    pub(crate) fn newest_report_of_all(&self) -> Option<Instant> {
        let entries = self.entries.values();
        entries.filter_map(|entry| entry.reported).max()
    }

    /// The newest proof that the core was given for any of these attempts.
    pub(crate) fn newest_report(
        &self,
        attempts: impl Iterator<Item = AttemptId>,
    ) -> Option<Instant> {
        let entries = attempts.filter_map(|attempt| self.entries.get(&attempt));
        entries.filter_map(|entry| entry.reported).max()
    }

    /// The answer to a renewal or report if the session is proved from `from` on. `holder` is the
    /// token of a holder, and `None` for a waiter.
    pub(crate) fn answer(
        &mut self,
        attempt: AttemptId,
        holder: Option<FencingToken>,
        ttl: Duration,
        from: Instant,
        connection: u64,
    ) -> Renewed {
        const OPERATION: &str = "renewing";
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return Renewed::Gone(LossReason::Evicted);
        };
        if let Position::Gone(reason) = entry.position {
            return Renewed::Gone(reason);
        }
        if let Some(error) = entry.data_error.as_ref().or(entry.locate_error.as_ref()) {
            return Renewed::Unknown(error.clone());
        }
        if entry.seen_on != connection {
            return Renewed::Unknown(unanswered(OPERATION));
        }
        let answer = match (&entry.position, holder) {
            (Position::Admitted, Some(token)) if token != entry.token => {
                return Renewed::Gone(LossReason::Displaced);
            }
            (Position::Admitted, Some(_)) => Renewed::Proved { from },
            (Position::Admitted, None) => Renewed::Granted(entry.grant(attempt, ttl, from)),
            (position, _) => match position.waiting(entry.czxid, from) {
                Some(waiting) => Renewed::Waiting(waiting),
                None => return Renewed::Unknown(unanswered(OPERATION)),
            },
        };
        entry.reported = entry.reported.max(Some(from));
        answer
    }

    /// The answer to a renewal or report if nothing was proved.
    pub(crate) fn answer_unproved(&self, attempt: AttemptId, error: &Error) -> Renewed {
        match self.entries.get(&attempt).map(|entry| &entry.position) {
            None => Renewed::Gone(LossReason::Evicted),
            Some(Position::Gone(reason)) => Renewed::Gone(*reason),
            Some(_) => Renewed::Unknown(error.clone()),
        }
    }
}

/// The consequence for a waiter when a node ahead of it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterDeletion {
    /// Nothing: the attempt does not watch that node.
    None,
    /// The attempt is first now.
    Admitted,
    /// The queue has to be read.
    Locate,
}

#[cfg(test)]
mod tests;
