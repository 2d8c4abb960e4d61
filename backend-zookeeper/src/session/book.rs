//! What one session knows of its attempts. Behind one mutex; no I/O.

mod crowd;
mod unwatched;

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Grant, Holder, Owner, Since},
    token::FencingToken,
};

use self::{crowd::Crowd, unwatched::Unwatched};
use super::Proof;
use crate::{
    paths,
    queue::sequence,
    record::token,
    wire::proto::{Event, Stat},
};

/// One attempt. Kept from before its node is asked for until its removal was answered.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The lock's node.
    pub(crate) lock: Arc<str>,
    /// Its own node, once it is known.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) token: FencingToken,
    /// Who it is for, and when its node was made: what others are shown if it holds the lock.
    owner: Arc<Owner>,
    made: SystemTime,
    czxid: i64,
    pub(crate) place: Place,
    /// The connection that has seen the node last, by its number.
    pub(crate) seen_by: u64,
    /// The newest proof that the core was told for it.
    pub(crate) told: Option<Instant>,
    /// A removal of our own is under way.
    leaving: bool,
    /// The node's data was changed: what is there is not ours, or has not been looked at.
    pub(crate) trouble: Option<Error>,
}

/// Where an attempt stands.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// It is being put into the queue, or what came of that is not known.
    Asked,
    Waiting(Box<Ahead>),
    First,
    Gone(LossReason),
}

/// What a waiter knows of those ahead of it.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    /// The node that it watches.
    pub(crate) next: Arc<str>,
    /// How many they are, if the queue was read.
    pub(crate) count: Option<u64>,
    pub(crate) holder: Option<Holder>,
    /// The latest transaction that was known when this was found.
    pub(crate) as_of: u64,
    /// The queue has changed since, and has to be read again.
    pub(crate) look: bool,
}

/// An attempt, its own node, and the one that it watches.
pub(crate) type Nodes = (AttemptId, Arc<str>, Option<Arc<str>>);

/// The attempts of a session.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: HashMap<AttemptId, Entry>,
    /// Who watches which node ahead.
    watchers: HashMap<Arc<str>, Vec<AttemptId>>,
    /// Those who wait, by the lock's node.
    crowds: HashMap<Arc<str>, Crowd>,
    /// Those whose own node is to be watched.
    pub(crate) unwatched: Unwatched,
    /// Of the last attempt, since they seldom differ.
    owner: Option<Arc<Owner>>,
    /// Set once the session takes no more attempts.
    closed: bool,
}

/// What became of an attempt that was to be entered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    New,
    /// It is known; it may have a node already.
    Known,
    /// The session has ended.
    Closed,
}

impl Book {
    /// Enters an attempt, before anything of it is sent.
    pub(crate) fn enter(&mut self, attempt: AttemptId, lock: &Arc<str>, owner: &Owner) -> Entered {
        if self.closed {
            return Entered::Closed;
        }
        let owner = match &self.owner {
            Some(last) if **last == *owner => Arc::clone(last),
            _ => Arc::new(owner.clone()),
        };
        self.owner = Some(Arc::clone(&owner));
        match self.entries.entry(attempt) {
            hash_map::Entry::Occupied(_) => Entered::Known,
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry {
                    lock: Arc::clone(lock),
                    node: None,
                    token: FencingToken::new(0),
                    owner,
                    made: SystemTime::UNIX_EPOCH,
                    czxid: 0,
                    place: Place::Asked,
                    seen_by: 0,
                    told: None,
                    leaving: false,
                    trouble: None,
                });
                Entered::New
            }
        }
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Entry> {
        self.entries.get(&attempt)
    }

    pub(crate) fn get_mut(&mut self, attempt: AttemptId) -> Option<&mut Entry> {
        self.entries.get_mut(&attempt)
    }

    /// Returns what the core is to be told.
    pub(crate) fn forget(&mut self, attempt: AttemptId) -> Vec<BackendEvent> {
        let Some(entry) = self.entries.remove(&attempt) else {
            return Vec::new();
        };
        self.unwatch(attempt, &entry.lock, &entry.place);
        self.alert(entry.node.as_ref())
    }

    /// How many attempts of this session wait for that lock.
    pub(crate) fn waiting(&self, lock: &str) -> usize {
        self.crowds.get(lock).map_or(0, |crowd| crowd.waiting)
    }

    /// Has an attempt wait for another one of this session, where its number tells that it stands right
    /// behind that one. Returns whether it does.
    ///
    /// Only while one of ours is first: when another holder goes nothing of it is heard here, and who comes
    /// then would be told of one that is no more.
    pub(crate) fn line_up(&mut self, attempt: AttemptId, ttl: Duration) -> bool {
        let asked = |entry: &&Entry| matches!(entry.place, Place::Asked);
        let ahead = self.entries.get(&attempt).filter(asked).and_then(|entry| {
            let crowd = self.crowds.get(&entry.lock)?;
            let before = self.entries.get(&crowd.before(number(entry)?)?)?;
            let first = self.entries.get(&crowd.first?)?;
            let known =
                matches!(before.place, Place::Waiting(_)) && matches!(first.place, Place::First);
            known.then_some(())?;
            Some(Ahead {
                next: Arc::clone(before.node.as_ref()?),
                count: None,
                holder: Some(self.holder(first.node.as_ref()?, ttl)?),
                as_of: u64::try_from(entry.czxid).unwrap_or(0),
                look: false,
            })
        });
        let lined_up = ahead.is_some();
        if let Some(ahead) = ahead {
            self.wait(attempt, ahead);
        }
        lined_up
    }

    /// Of that node it is heard here when it goes, without a watch for one who waits for it: it is of
    /// an attempt of this session, and those are watched and removed by ourselves.
    pub(crate) fn is_ours(&self, node: &str) -> bool {
        self.of(node)
            .is_some_and(|(_, entry)| !matches!(entry.place, Place::Gone(_)))
    }

    /// Who holds the lock, if that node is first and of an attempt of this session.
    pub(crate) fn holder(&self, node: &str, ttl: Duration) -> Option<Holder> {
        let (attempt, entry) = self.of(node)?;
        // What is in the node is not known to be ours.
        if entry.trouble.is_some() {
            return None;
        }
        let holder = Holder::new(attempt, (*entry.owner).clone())
            .with_ttl(ttl)
            .with_token(entry.token)
            .with_since(Since::Enqueued(entry.made));
        Some(holder)
    }

    fn of(&self, node: &str) -> Option<(AttemptId, &Entry)> {
        let attempt = paths::attempt(node.rsplit('/').next()?)?;
        let entry = self.entries.get(&attempt)?;
        (entry.node.as_deref() == Some(node)).then_some((attempt, entry))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes no more attempts, if it has none. Returns whether it has none.
    pub(crate) fn close_if_empty(&mut self) -> bool {
        self.closed |= self.entries.is_empty();
        self.closed
    }

    /// Whether the session takes no more attempts.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Notes an attempt's own node. `false`: it has another one already.
    pub(crate) fn found(
        &mut self,
        attempt: AttemptId,
        path: &str,
        stat: &Stat,
        floor: FencingToken,
        connection: u64,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            // Removed meanwhile; its removal looks for the node by itself.
            return true;
        };
        match &entry.node {
            Some(node) if **node != *path => return false,
            Some(_) => {}
            None => entry.node = Some(path.into()),
        }
        entry.token = token(stat, floor);
        entry.made = stat.made;
        entry.czxid = stat.czxid;
        entry.seen_by = connection;
        self.unwatched.later(tokio::time::Instant::now(), attempt);
        true
    }

    /// An attempt is first.
    pub(crate) fn first(&mut self, attempt: AttemptId) {
        self.stand(attempt, Place::First);
    }

    /// An attempt waits for that node to go. From now on events of it count, so this is said before
    /// the watch is asked for.
    pub(crate) fn wait(&mut self, attempt: AttemptId, ahead: Ahead) {
        // Nobody comes in front of the first one: this is of a list from before.
        let is_first = |entry: &Entry| matches!(entry.place, Place::First);
        if self.entries.get(&attempt).is_some_and(is_first) {
            return;
        }
        self.stand(attempt, Place::Waiting(Box::new(ahead)));
    }

    fn stand(&mut self, attempt: AttemptId, place: Place) {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return;
        };
        if matches!(entry.place, Place::Gone(_)) {
            return;
        }
        let before = std::mem::replace(&mut entry.place, place);
        let (next, holder) = match &entry.place {
            Place::Waiting(ahead) => (Some(Arc::clone(&ahead.next)), ahead.holder.as_ref()),
            _ => (None, None),
        };
        let first = holder.and_then(|holder| holder.attempt);
        let (lock, number) = (Arc::clone(&entry.lock), number(entry));
        self.unwatch(attempt, &lock, &before);
        if let Some(next) = next {
            self.watchers.entry(next).or_default().push(attempt);
            let crowd = self.crowds.entry(lock).or_default();
            crowd.join(number, attempt);
            crowd.first = crowd.first.or(first);
        } else if let Some(crowd) = self.crowds.get_mut(&lock) {
            crowd.first = Some(attempt);
        }
    }

    /// An attempt waits no more.
    fn unwatch(&mut self, attempt: AttemptId, lock: &str, place: &Place) {
        let Place::Waiting(ahead) = place else {
            return;
        };
        self.waits_no_more(attempt, lock);
        if let Some(watchers) = self.watchers.get_mut(&ahead.next) {
            watchers.retain(|watcher| *watcher != attempt);
            if watchers.is_empty() {
                self.watchers.remove(&ahead.next);
            }
        }
    }

    fn waits_no_more(&mut self, attempt: AttemptId, lock: &str) {
        if let Some(crowd) = self.crowds.get_mut(lock) {
            crowd.leave(attempt);
            if crowd.waiting == 0 {
                self.crowds.remove(lock);
            }
        }
    }

    /// There is definite evidence that an attempt's node is gone. Returns what the core is to be told.
    pub(crate) fn gone(&mut self, attempt: AttemptId, reason: LossReason) -> Vec<BackendEvent> {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return Vec::new();
        };
        if matches!(entry.place, Place::Gone(_)) {
            return Vec::new();
        }
        let ours = entry.leaving;
        let (lock, node) = (Arc::clone(&entry.lock), entry.node.clone());
        let before = std::mem::replace(&mut entry.place, Place::Gone(reason));
        self.unwatch(attempt, &lock, &before);
        let mut out = self.alert(node.as_ref());
        if !ours {
            out.push(BackendEvent::Lost { attempt, reason });
        }
        out
    }

    /// Whoever waits for that node has to look.
    fn alert(&mut self, node: Option<&Arc<str>>) -> Vec<BackendEvent> {
        let watchers = node.and_then(|node| self.watchers.remove(node));
        let watchers = watchers.unwrap_or_default().into_iter();
        watchers.filter_map(|attempt| self.look(attempt)).collect()
    }

    /// Our own removal of an attempt begins: from now on nothing about it is a loss.
    pub(crate) fn leave(&mut self, attempt: AttemptId) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.leaving = true;
        }
    }

    /// Something happened to a node. Returns what the core is to be told.
    pub(crate) fn happened(&mut self, event: &Event, proof: &Proof) -> Vec<BackendEvent> {
        let mut out = Vec::new();
        let watchers = self.watchers.remove(&*event.path).unwrap_or_default();
        let own = event.path.rsplit('/').next().and_then(paths::attempt);
        // Of one of ours it is known whether it was first, and then nobody was in front of it.
        let mut was_first = false;
        if let Some(attempt) = own
            && let Some(entry) = self.entries.get_mut(&attempt)
            && entry.node.as_deref() == Some(event.path.as_str())
        {
            if event.deleted {
                was_first = matches!(entry.place, Place::First);
                out.extend(self.gone(attempt, LossReason::Evicted));
            } else {
                entry.trouble = Some(changed(&event.path));
                self.unwatched.soon(tokio::time::Instant::now(), attempt);
            }
        }
        for attempt in watchers {
            let Some(entry) = self.entries.get_mut(&attempt) else {
                continue;
            };
            let Place::Waiting(ahead) = &mut entry.place else {
                continue;
            };
            // Whoever had one ahead has none now: those behind it cannot get before it.
            let alone = ahead.count == Some(1) || was_first;
            let first = event.deleted && alone && entry.seen_by == proof.connection;
            if first && let Some(from) = proof.fresh {
                entry.told = Some(from);
                let grant = Grant::proved(attempt, entry.token, proof.ttl, from);
                if !entry.leaving {
                    out.push(BackendEvent::Granted(grant));
                }
                self.first(attempt);
            } else {
                ahead.look = true;
                out.push(BackendEvent::Look { attempt });
            }
        }
        out
    }

    /// The session is gone, and all that it had.
    pub(crate) fn end(&mut self, reason: LossReason) -> Vec<BackendEvent> {
        self.closed = true;
        // All of them are gone: nobody has to look.
        self.watchers.clear();
        self.crowds.clear();
        let attempts: Vec<AttemptId> = self.entries.keys().copied().collect();
        attempts
            .into_iter()
            .flat_map(|attempt| self.gone(attempt, reason))
            .collect()
    }

    /// The own nodes that are to be watched now.
    pub(crate) fn due_for_watch(&mut self, now: tokio::time::Instant) -> Vec<Nodes> {
        let entries = &self.entries;
        let attempts = self.unwatched.take(now, |attempt| {
            let entry = entries.get(&attempt);
            entry.is_some_and(|entry| !matches!(entry.place, Place::Gone(_)))
        });
        let nodes = attempts.into_iter().filter_map(|attempt| {
            let node = self.entries.get(&attempt)?.node.as_ref()?;
            Some((attempt, Arc::clone(node), None))
        });
        nodes.collect()
    }

    /// All nodes that there should be, to be looked at on a new connection.
    pub(crate) fn nodes(&self) -> Vec<Nodes> {
        let nodes = self.entries.iter().filter_map(|(attempt, entry)| {
            let node = Arc::clone(entry.node.as_ref()?);
            match &entry.place {
                Place::Gone(_) => None,
                Place::Waiting(ahead) => Some((*attempt, node, Some(Arc::clone(&ahead.next)))),
                Place::Asked | Place::First => Some((*attempt, node, None)),
            }
        });
        nodes.collect()
    }

    /// A node of an attempt was looked at. Returns what the core is to be told.
    pub(crate) fn seen(
        &mut self,
        attempt: AttemptId,
        stat: Option<&Stat>,
        owner: i64,
        connection: u64,
    ) -> Vec<BackendEvent> {
        let Some(entry) = self.entries.get_mut(&attempt) else {
            return Vec::new();
        };
        let reason = match stat {
            None => LossReason::Evicted,
            Some(stat) if stat.owner != owner => LossReason::SessionLost,
            Some(stat) if stat.czxid != entry.czxid => LossReason::Displaced,
            Some(_) => {
                entry.seen_by = connection;
                return Vec::new();
            }
        };
        self.gone(attempt, reason)
    }

    /// The node that a waiter watches was gone already.
    pub(crate) fn look(&mut self, attempt: AttemptId) -> Option<BackendEvent> {
        let entry = self.entries.get_mut(&attempt)?;
        let Place::Waiting(ahead) = &mut entry.place else {
            return None;
        };
        ahead.look = true;
        Some(BackendEvent::Look { attempt })
    }

    /// The node that a waiter watched is gone, and nobody has told. Its queue is read again, unless
    /// it watches another one by now.
    pub(crate) fn missed(&mut self, attempt: AttemptId, next: &str) {
        if let Some(entry) = self.entries.get_mut(&attempt)
            && let Place::Waiting(ahead) = &mut entry.place
            && *ahead.next == *next
        {
            ahead.look = true;
        }
    }
}

/// The number at the end of an attempt's node.
fn number(entry: &Entry) -> Option<i32> {
    sequence(entry.node.as_ref()?.rsplit('/').next()?)
}

fn changed(path: &str) -> Error {
    crate::error::error(
        tenure_core::error::ErrorKind::Corrupt,
        "renewing",
        format!("somebody has written over the data of `{path}`"),
    )
}

#[cfg(test)]
mod tests;
