//! What one session knows of its attempts. Behind one mutex; no I/O.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    ops::Bound,
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

use super::Proof;
use crate::{
    paths,
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
    pub(crate) count: u64,
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
    /// Who watches which node ahead, in the order of the nodes' paths.
    watchers: BTreeMap<Arc<str>, Vec<AttemptId>>,
    /// Those whose own node is to be watched.
    pub(crate) unwatched: Vec<AttemptId>,
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
        self.unwatch(attempt, &entry.place);
        self.alert(entry.node.as_ref())
    }

    /// Whether an attempt of this session waits for that lock.
    pub(crate) fn is_waited_for(&self, lock: &str) -> bool {
        let below = format!("{lock}/");
        let from = (Bound::Included(&*below), Bound::Unbounded);
        let mut nodes = self.watchers.range::<str, _>(from);
        nodes
            .next()
            .is_some_and(|(node, _)| node.starts_with(&below))
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
        self.unwatched.push(attempt);
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
        let next = match &entry.place {
            Place::Waiting(ahead) => Some(Arc::clone(&ahead.next)),
            _ => None,
        };
        self.unwatch(attempt, &before);
        if let Some(next) = next {
            self.watchers.entry(next).or_default().push(attempt);
        }
    }

    fn unwatch(&mut self, attempt: AttemptId, place: &Place) {
        let Place::Waiting(ahead) = place else {
            return;
        };
        if let Some(watchers) = self.watchers.get_mut(&ahead.next) {
            watchers.retain(|watcher| *watcher != attempt);
            if watchers.is_empty() {
                self.watchers.remove(&ahead.next);
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
        let node = entry.node.clone();
        let before = std::mem::replace(&mut entry.place, Place::Gone(reason));
        self.unwatch(attempt, &before);
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
                self.unwatched.push(attempt);
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
            let alone = ahead.count == 1 || was_first;
            let first = event.deleted && alone && entry.seen_by == proof.connection;
            if first && let Some(from) = proof.fresh {
                entry.place = Place::First;
                entry.told = Some(from);
                let grant = Grant::proved(attempt, entry.token, proof.ttl, from);
                if !entry.leaving {
                    out.push(BackendEvent::Granted(grant));
                }
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
        let attempts: Vec<AttemptId> = self.entries.keys().copied().collect();
        attempts
            .into_iter()
            .flat_map(|attempt| self.gone(attempt, reason))
            .collect()
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

fn changed(path: &str) -> Error {
    crate::error::error(
        tenure_core::error::ErrorKind::Corrupt,
        "renewing",
        format!("somebody has written over the data of `{path}`"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NODE: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000007-lock-0000000002";
    const AHEAD: &str = "/ns/x/_c_00000000-0000-0000-0000-000000000008-lock-0000000001";

    fn waiter(count: u64) -> (Book, AttemptId) {
        let mut book = Book::default();
        let attempt = AttemptId::from_u128(7);
        assert_eq!(book.enter(attempt, &"/ns/x".into(), &owner()), Entered::New);
        let stat = Stat {
            czxid: 5,
            made: std::time::SystemTime::UNIX_EPOCH,
            owner: 9,
        };
        assert!(book.found(attempt, NODE, &stat, FencingToken::new(0), 1));
        let ahead = Ahead {
            next: AHEAD.into(),
            count,
            holder: None,
            as_of: 5,
            look: false,
        };
        book.wait(attempt, ahead);
        (book, attempt)
    }

    fn owner() -> Owner {
        Owner::new("label", "host", 7)
    }

    fn proof(connection: u64, fresh: bool) -> Proof {
        Proof {
            connection,
            ttl: Duration::from_secs(1),
            fresh: fresh.then_some(Instant::ORIGIN),
        }
    }

    fn deleted(path: &str) -> Event {
        Event {
            path: path.to_owned(),
            deleted: true,
        }
    }

    #[test]
    fn w2_who_had_one_ahead_is_granted_when_that_goes_and_once() {
        let (mut book, attempt) = waiter(1);
        let out = book.happened(&deleted(AHEAD), &proof(1, true));
        assert!(matches!(&out[..], [BackendEvent::Granted(grant)]
            if grant.attempt == attempt && grant.token == FencingToken::new(5)));
        assert!(book.happened(&deleted(AHEAD), &proof(1, true)).is_empty());
    }

    #[test]
    fn w1_who_had_more_ahead_or_knows_less_looks_again() {
        for (count, connection, fresh) in [(2, 1, true), (1, 2, true), (1, 1, false)] {
            let (mut book, attempt) = waiter(count);
            let out = book.happened(&deleted(AHEAD), &proof(connection, fresh));
            assert_eq!(out, [BackendEvent::Look { attempt }]);
        }
    }

    #[test]
    fn w2_who_is_right_behind_the_holder_is_granted_when_that_is_one_of_ours() {
        let ahead = AttemptId::from_u128(8);
        for held in [true, false] {
            let (mut book, attempt) = waiter(3);
            assert_eq!(book.enter(ahead, &"/ns/x".into(), &owner()), Entered::New);
            let stat = Stat {
                czxid: 4,
                made: std::time::SystemTime::UNIX_EPOCH,
                owner: 9,
            };
            assert!(book.found(ahead, AHEAD, &stat, FencingToken::new(0), 1));
            if held {
                book.first(ahead);
            }
            book.leave(ahead);
            let out = book.happened(&deleted(AHEAD), &proof(1, true));
            if held {
                assert!(matches!(&out[..], [BackendEvent::Granted(grant)]
                    if grant.attempt == attempt));
            } else {
                assert_eq!(out, [BackendEvent::Look { attempt }]);
            }
        }
    }

    /// An attempt of this session whose node is that of `AHEAD`.
    fn enter_ahead(book: &mut Book) -> AttemptId {
        let ahead = AttemptId::from_u128(8);
        book.enter(ahead, &"/ns/x".into(), &owner());
        let stat = Stat {
            czxid: 4,
            made: SystemTime::UNIX_EPOCH,
            owner: 9,
        };
        assert!(book.found(ahead, AHEAD, &stat, FencingToken::new(0), 1));
        ahead
    }

    #[test]
    fn w2_who_waits_for_one_of_ours_looks_however_that_goes() {
        let ways: [fn(&mut Book, AttemptId) -> Vec<BackendEvent>; 3] = [
            |book, ahead| book.gone(ahead, LossReason::Evicted),
            |book, ahead| book.seen(ahead, None, 9, 1),
            |book, ahead| book.forget(ahead),
        ];
        for (way, tell) in ways.into_iter().enumerate() {
            let (mut book, attempt) = waiter(2);
            assert!(!book.is_ours(AHEAD));
            let ahead = enter_ahead(&mut book);
            assert!(book.is_ours(AHEAD));
            book.leave(ahead);
            let out = tell(&mut book, ahead);
            assert_eq!(out, [BackendEvent::Look { attempt }], "way {way}");
            assert!(!book.is_ours(AHEAD), "nobody tells of it any more");
        }
    }

    #[test]
    fn a_holder_of_ours_is_shown_unless_its_node_was_written_over() {
        let (mut book, _) = waiter(1);
        let ttl = Duration::from_secs(3);
        assert_eq!(book.holder(AHEAD, ttl), None);
        let ahead = enter_ahead(&mut book);
        let holder = book.holder(AHEAD, ttl).unwrap();
        assert_eq!(holder.attempt, Some(ahead));
        assert_eq!(holder.owner, Some(owner()));
        assert_eq!(holder.token, Some(FencingToken::new(4)));
        assert_eq!(holder.ttl, Some(ttl));
        assert_eq!(holder.since, Some(Since::Enqueued(SystemTime::UNIX_EPOCH)));
        book.get_mut(ahead).unwrap().trouble = Some(changed(AHEAD));
        assert_eq!(book.holder(AHEAD, ttl), None);
    }

    #[test]
    fn it_is_known_which_locks_are_waited_for() {
        let (mut book, attempt) = waiter(1);
        assert!(book.is_waited_for("/ns/x"));
        for other in ["/ns/", "/ns/x-", "/ns/w", "/ns/y", "/ns/x/y"] {
            assert!(!book.is_waited_for(other), "{other}");
        }
        book.first(attempt);
        assert!(!book.is_waited_for("/ns/x"));
    }

    #[test]
    fn l2_the_own_node_s_end_is_a_loss_unless_we_removed_it() {
        let (mut book, attempt) = waiter(1);
        let lost = BackendEvent::Lost {
            attempt,
            reason: LossReason::Evicted,
        };
        assert_eq!(book.happened(&deleted(NODE), &proof(1, true)), [lost]);
        assert!(book.happened(&deleted(AHEAD), &proof(1, true)).is_empty());
        let (mut book, attempt) = waiter(1);
        book.leave(attempt);
        assert!(book.happened(&deleted(NODE), &proof(1, true)).is_empty());
    }

    #[test]
    fn r1_l5_a_list_from_before_its_turn_makes_no_holder_wait_again() {
        let (mut book, attempt) = waiter(1);
        let ahead = match &book.get(attempt).unwrap().place {
            Place::Waiting(ahead) => (**ahead).clone(),
            place => panic!("{place:?}"),
        };
        book.first(attempt);
        book.wait(attempt, ahead);
        assert!(matches!(book.get(attempt).unwrap().place, Place::First));
    }

    #[test]
    fn t3_an_attempt_has_one_node() {
        let (mut book, attempt) = waiter(1);
        let stat = Stat {
            czxid: 6,
            made: std::time::SystemTime::UNIX_EPOCH,
            owner: 9,
        };
        assert!(!book.found(attempt, AHEAD, &stat, FencingToken::new(0), 1));
        assert_eq!(
            book.enter(attempt, &"/ns/x".into(), &owner()),
            Entered::Known
        );
    }

    #[test]
    fn l2_on_a_new_connection_the_node_must_be_the_same_one() {
        let made = std::time::SystemTime::UNIX_EPOCH;
        for (stat, reason) in [
            (None, Some(LossReason::Evicted)),
            (Some((5, 8)), Some(LossReason::SessionLost)),
            (Some((6, 9)), Some(LossReason::Displaced)),
            (Some((5, 9)), None),
        ] {
            let (mut book, attempt) = waiter(1);
            let stat = stat.map(|(czxid, owner)| Stat { czxid, made, owner });
            let out = book.seen(attempt, stat.as_ref(), 9, 2);
            let lost = reason.map(|reason| BackendEvent::Lost { attempt, reason });
            assert_eq!(out, Vec::from_iter(lost));
        }
    }
}
