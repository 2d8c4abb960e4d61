//! The attempts of this client, as data: each from before its first request until its removal.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenure_core::{clock::Instant, id::AttemptId, mode::Mode, name::LockName, token::FencingToken};

use crate::{
    admission::Until,
    lease::{Lease, LeaseRef},
};

/// How many attempts that were removed before they were sent stay in memory as fenced.
const MAX_FENCED_ATTEMPTS: usize = 4_096;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) name: LockName,
    /// [`Mode::Shared`] from the sending of its downgrade on.
    pub(crate) mode: Mode,
    /// Empty while the attempt has no lease.
    pub(crate) key: Arc<str>,
    pub(crate) lease_ref: Option<LeaseRef>,
    /// The parts of its key.
    slot: Option<KeySlot>,
    /// The create revision of its key; 0 while that is unknown.
    pub(crate) revision: i64,
    /// When its key was last put; `None` while that is unknown, because a put was not answered.
    pub(crate) put_at: Option<i64>,
    /// The value of its key, as it was first put.
    pub(crate) value: Vec<u8>,
    /// The lowest token of the holders when it became one; `None` if that is its own.
    pub(crate) floor: Option<FencingToken>,
    pub(crate) stage: Stage,
    /// The contender that it waits for; `None` unless the attempt waits.
    pub(crate) predecessor: Option<Box<Predecessor>>,
    /// The id of its watch; 0 if there is none.
    pub(crate) watch: u64,
    /// The stream in which the server last confirmed a watch on its own key.
    pub(crate) confirmed_stream: u64,
    /// The newest revision at which its key was seen unchanged.
    pub(crate) verified_revision: i64,
    /// Its key has changed, or may have.
    pub(crate) needs_check: bool,
    /// A read of its position is in flight.
    rechecking: bool,
    /// Whether it was the holder when its removal began.
    pub(crate) was_holder: bool,
}

/// The stage that an attempt has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its enqueue is in flight, or was never answered.
    Enqueueing,
    Waiting,
    Holding,
    /// Its removal has begun.
    Removing,
}

/// The contender that a waiter waits for. For an exclusive waiter, the one directly in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) key: String,
    pub(crate) revision: i64,
    /// The contender in front of the predecessor. `None` if none is known; the predecessor is then
    /// the holder, or is about to be.
    pub(crate) before: Option<EntryId>,
    /// The holder, as last read.
    pub(crate) holder: Option<tenure_core::request::Holder>,
    /// The newest revision at which the waiter's entry was read together with these contenders.
    pub(crate) located: i64,
    /// The watch on the predecessor, once the server has created it.
    pub(crate) created: Option<CreatedWatch>,
    /// When the watch reported the removal of the predecessor, or another awaited change; 0 if it has
    /// not.
    pub(crate) removed_at: i64,
    pub(crate) awaits: Awaits,
    /// The entries in front that keep a shared waiter from the lock, in queue order. No other one in
    /// front ever will. Empty for other waiters.
    pub(crate) blocking: Arc<[EntryId]>,
}

/// The event for which a waiter waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// The removal of every contender in front. The waiter is exclusive.
    Turn,
    /// A change of the predecessor. The waiter is not exclusive, and then reads its position.
    Change {
        until: Until,
        /// When the key of the predecessor was last put.
        put_at: i64,
        /// Whether the predecessor is the first entry of the queue.
        is_first: bool,
    },
    /// The removal of one of these keys. The waiter is the first one behind holders of permits, and
    /// then reads its position.
    AnyRemoval(Arc<[Arc<str>]>),
}

impl Predecessor {
    /// Whether the watch of a waiter stays the same with this predecessor.
    fn is_same(&self, other: &Self) -> bool {
        let is_same_entry =
            (self.revision, &self.key, &self.before) == (other.revision, &other.key, &other.before);
        match (&self.awaits, &other.awaits) {
            (Awaits::AnyRemoval(_), Awaits::AnyRemoval(_)) => true,
            (one, other) => is_same_entry && one == other,
        }
    }

    /// Takes over what a later read has found, for the same watch.
    fn refresh(&mut self, next: Self) {
        if next.awaits != Awaits::Turn {
            (self.key, self.revision, self.awaits) = (next.key, next.revision, next.awaits);
            self.blocking = next.blocking;
        }
        self.holder = next.holder.or_else(|| self.holder.take());
        self.located = self.located.max(next.located);
        if self.removed_at <= self.located {
            // It was an earlier entry with the same key, or the change is known.
            self.removed_at = 0;
        }
    }
}

/// The key and the create revision of a contender. Keys are used again, revisions are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryId {
    pub(crate) key: Arc<str>,
    pub(crate) revision: i64,
}

/// A watch that reports every change after a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CreatedWatch {
    pub(crate) id: u64,
    pub(crate) as_of: i64,
}

/// The next step of a waiter.
#[derive(Debug)]
pub(crate) enum NextStep {
    /// It waits for its watch, or for a read that is in flight.
    Wait,
    /// It reads its position.
    Recheck,
    /// It is the holder: its lease, its revision, and its watch.
    Hold(Arc<Lease>, i64, u64),
}

/// The part of an attempt that a request needs.
#[derive(Clone, Debug)]
pub(crate) struct AttemptSnapshot {
    pub(crate) name: LockName,
    pub(crate) mode: Mode,
    pub(crate) key: Arc<str>,
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) revision: i64,
    pub(crate) put_at: Option<i64>,
    pub(crate) stage: Stage,
    pub(crate) confirmed_stream: u64,
    pub(crate) needs_check: bool,
}

impl Attempt {
    fn snapshot(&self) -> AttemptSnapshot {
        AttemptSnapshot {
            name: self.name.clone(),
            mode: self.mode,
            key: Arc::clone(&self.key),
            lease: self
                .lease_ref
                .as_ref()
                .map(|lease_ref| Arc::clone(lease_ref.lease())),
            revision: self.revision,
            put_at: self.put_at,
            stage: self.stage,
            confirmed_stream: self.confirmed_stream,
            needs_check: self.needs_check,
        }
    }

    /// Records a change that the watch with this id has reported, unless it was known before.
    pub(crate) fn record_change(&mut self, watch: u64, revision: i64) {
        if self.watch == watch
            && let Some(predecessor) = &mut self.predecessor
            && predecessor.located < revision
        {
            predecessor.removed_at = predecessor.removed_at.max(revision);
        }
    }

    /// Whether it is the first waiter behind this key and other holders of permits.
    pub(crate) fn waits_for_removal_of(&self, key: &[u8]) -> bool {
        match self.predecessor.as_ref().map(|one| &one.awaits) {
            Some(Awaits::AnyRemoval(keys)) => keys.iter().any(|ahead| ahead.as_bytes() == key),
            _ => false,
        }
    }

    /// Returns the next step of a waiter. A waiter that is next in line holds the lock once its
    /// predecessor is removed, if its position was read after its watch was created: the watch
    /// reports the removal of either entry, in order, so its own entry still existed.
    fn next_step(&self, now: Instant) -> NextStep {
        let Some(predecessor) = &self.predecessor else {
            return NextStep::Wait;
        };
        let created = predecessor
            .created
            .filter(|created| created.id == self.watch);
        let has_gap = created.is_some_and(|created| created.as_of > predecessor.located);
        if predecessor.awaits != Awaits::Turn {
            let may_have_missed = has_gap && matches!(predecessor.awaits, Awaits::AnyRemoval(_));
            return if may_have_missed || predecessor.removed_at > predecessor.located {
                NextStep::Recheck
            } else {
                NextStep::Wait
            };
        }
        if predecessor.before.is_some() || predecessor.removed_at == 0 && !has_gap {
            return NextStep::Wait;
        }
        let lease = self.lease_ref.as_ref().map(LeaseRef::lease);
        let lease = lease.filter(|lease| !lease.may_have_expired(now));
        match lease {
            Some(lease) if created.is_some() && !has_gap && !self.needs_check => {
                NextStep::Hold(Arc::clone(lease), self.revision, self.watch)
            }
            _ => NextStep::Recheck,
        }
    }
}

/// The result of registering an attempt.
#[derive(Debug)]
pub(crate) enum Registration {
    /// The attempt was unknown.
    New,
    /// The attempt was enqueued before; the snapshot names its lease.
    Existing(AttemptSnapshot),
    /// The attempt was removed and must not be enqueued.
    Fenced,
}

/// All attempts of one client.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<AttemptTable>);

#[derive(Debug, Default)]
pub(crate) struct AttemptTable {
    /// Boxed, because a hash table reserves room for up to half as many entries again.
    attempts: HashMap<AttemptId, Box<Attempt>>,
    slots: HashMap<Arc<str>, KeySlots>,
    fenced: HashSet<AttemptId>,
    fenced_order: VecDeque<AttemptId>,
}

/// A stem and a number; together they make a key.
pub(crate) type KeySlot = (Arc<str>, u32);

/// The numbers in use below one lock and lease.
#[derive(Debug, Default)]
struct KeySlots {
    free: BTreeSet<u32>,
    /// The lowest number that was never used.
    next: u32,
}

impl AttemptTable {
    fn allocate_slot(&mut self, stem: &Arc<str>) -> u32 {
        let slots = self.slots.entry(Arc::clone(stem)).or_default();
        slots.free.pop_first().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        })
    }

    fn free_slot(&mut self, slot: Option<KeySlot>) {
        let Some((stem, number)) = slot else { return };
        let Some(slots) = self.slots.get_mut(&stem) else {
            return;
        };
        slots.free.insert(number);
        if slots.free.len() == slots.next as usize {
            self.slots.remove(&stem);
        }
    }
}

impl Attempts {
    /// Gives an attempt its lease and a key of its own, which is the stem and a number. The attempt
    /// keeps that key until it is forgotten; by then nothing of the attempt is in the store or can
    /// still arrive there. Returns `None` if the attempt is being removed.
    pub(crate) fn assign_lease(
        &self,
        attempt: AttemptId,
        lease_ref: LeaseRef,
        stem: String,
    ) -> Option<Arc<str>> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        if entry.stage == Stage::Removing {
            return None;
        }
        let old = entry.slot.take();
        table.free_slot(old);
        let stem = Arc::from(stem);
        let number = table.allocate_slot(&stem);
        let key: Arc<str> = Arc::from(format!("{stem}{number}"));
        let entry = table.attempts.get_mut(&attempt)?;
        entry.key = Arc::clone(&key);
        entry.lease_ref = Some(lease_ref);
        entry.slot = Some((stem, number));
        Some(key)
    }

    pub(crate) fn register(&self, attempt: AttemptId, name: &LockName, mode: Mode) -> Registration {
        let mut table = self.lock();
        if table.fenced.contains(&attempt) {
            return Registration::Fenced;
        }
        if let Some(entry) = table.attempts.get(&attempt) {
            return match entry.stage {
                Stage::Removing => Registration::Fenced,
                _ => Registration::Existing(entry.snapshot()),
            };
        }
        let entry = Attempt {
            name: name.clone(),
            mode,
            key: Arc::from(""),
            lease_ref: None,
            slot: None,
            revision: 0,
            put_at: None,
            value: Vec::new(),
            floor: None,
            stage: Stage::Enqueueing,
            predecessor: None,
            watch: 0,
            confirmed_stream: 0,
            verified_revision: 0,
            needs_check: false,
            rechecking: false,
            was_holder: false,
        };
        table.attempts.insert(attempt, Box::new(entry));
        Registration::New
    }

    pub(crate) fn snapshot(&self, attempt: AttemptId) -> Option<AttemptSnapshot> {
        self.lock()
            .attempts
            .get(&attempt)
            .map(|entry| entry.snapshot())
    }

    /// Changes an attempt that is not being removed. Returns `None` if there is no such attempt.
    pub(crate) fn update<T>(
        &self,
        attempt: AttemptId,
        change: impl FnOnce(&mut Attempt) -> T,
    ) -> Option<T> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        (entry.stage != Stage::Removing).then(|| change(entry))
    }

    /// Begins the removal of an attempt; from here on, nothing else affects it. Returns the
    /// snapshot of the attempt and the id of the watch that ends.
    pub(crate) fn begin_removal(&self, attempt: AttemptId) -> Option<(AttemptSnapshot, u64)> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        entry.predecessor = None;
        // A repeated removal must use the same transaction, so the former stage is kept.
        entry.was_holder |= entry.stage == Stage::Holding;
        let mut snapshot = entry.snapshot();
        if entry.was_holder {
            snapshot.stage = Stage::Holding;
        }
        entry.stage = Stage::Removing;
        Some((snapshot, std::mem::take(&mut entry.watch)))
    }

    /// Whether an attempt was removed permanently.
    pub(crate) fn is_fenced(&self, attempt: AttemptId) -> bool {
        self.lock().fenced.contains(&attempt)
    }

    /// Rejects every later enqueue of this attempt.
    pub(crate) fn fence(&self, attempt: AttemptId) {
        let mut table = self.lock();
        if table.fenced.insert(attempt) {
            table.fenced_order.push_back(attempt);
        }
        if table.fenced_order.len() > MAX_FENCED_ATTEMPTS
            && let Some(oldest) = table.fenced_order.pop_front()
        {
            table.fenced.remove(&oldest);
        }
    }

    /// Forgets a finished attempt. Returns the id of the watch that ends.
    pub(crate) fn forget(&self, attempt: AttemptId) -> u64 {
        let mut table = self.lock();
        let Some(mut entry) = table.attempts.remove(&attempt) else {
            return 0;
        };
        table.free_slot(entry.slot.take());
        entry.watch
    }

    /// Records which contenders an attempt waits for, and the watch that will report them. Returns
    /// the id of the watch that this replaces. Returns `None` if nothing changed, if the attempt is
    /// being removed, or if it already holds the lock: no contender can enter in front of a key
    /// that was first, so the report is out of date.
    pub(crate) fn set_predecessor(
        &self,
        attempt: AttemptId,
        next: Predecessor,
        watch: u64,
    ) -> Option<u64> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        if matches!(entry.stage, Stage::Holding | Stage::Removing) {
            return None;
        }
        entry.stage = Stage::Waiting;
        let is_older = |old: &Predecessor| next.located < old.located;
        if next.awaits != Awaits::Turn && entry.predecessor.as_deref().is_some_and(is_older) {
            return None;
        }
        if let Some(old) = entry
            .predecessor
            .as_deref_mut()
            .filter(|old| old.is_same(&next))
        {
            old.refresh(next);
            return None;
        }
        entry.predecessor = Some(Box::new(next));
        Some(std::mem::replace(&mut entry.watch, watch))
    }

    /// Records that the contender before the predecessor is gone, and the watch that will report the
    /// predecessor. Returns the key of the predecessor, or `None` if this watch was replaced.
    pub(crate) fn set_next_in_line(
        &self,
        attempt: AttemptId,
        old_watch: u64,
        watch: u64,
    ) -> Option<String> {
        self.update(attempt, |entry| {
            let predecessor = entry.predecessor.as_mut()?;
            if entry.watch != old_watch {
                return None;
            }
            // The holder that was read is this contender, or one before it.
            (predecessor.before, predecessor.holder) = (None, None);
            predecessor.located = 0;
            entry.watch = watch;
            Some(predecessor.key.clone())
        })?
    }

    /// The entries that keep a shared waiter from the lock; none if they are not known.
    pub(crate) fn blocking(&self, attempt: AttemptId) -> Arc<[EntryId]> {
        let table = self.lock();
        let predecessor = table
            .get(attempt)
            .and_then(|entry| entry.predecessor.as_ref());
        predecessor.map_or_else(Arc::default, |one| Arc::clone(&one.blocking))
    }

    /// Whether a put of an attempt's own key at this revision may come from this client.
    pub(crate) fn may_have_put(&self, attempt: AttemptId, revision: i64) -> bool {
        let table = self.lock();
        let entry = table.get(attempt);
        entry.is_none_or(|entry| entry.put_at.is_none_or(|put_at| put_at == revision))
    }

    /// Records that a put of an attempt's own key was answered. `is_only` is whether every earlier put
    /// was answered: otherwise, one of them may still arrive.
    pub(crate) fn end_put(&self, attempt: AttemptId, revision: i64, is_only: bool) {
        self.update(attempt, |entry| {
            entry.put_at = is_only.then_some(revision);
        });
    }

    /// Begins a read of an attempt's position, unless one is in flight.
    pub(crate) fn begin_recheck(&self, attempt: AttemptId) -> bool {
        let begun = self.update(attempt, |entry| {
            !std::mem::replace(&mut entry.rechecking, true)
        });
        begun == Some(true)
    }

    /// Records that the read of an attempt's position has ended.
    pub(crate) fn end_recheck(&self, attempt: AttemptId, now: Instant) -> NextStep {
        self.advance(attempt, now, |entry| entry.rechecking = false)
    }

    /// Records that the read of an attempt's position has failed. The position is as unknown as before,
    /// so a later event begins another read.
    pub(crate) fn abandon_recheck(&self, attempt: AttemptId) {
        self.update(attempt, |entry| entry.rechecking = false);
    }

    /// Changes a waiter and decides what it does next. Of two reads of its position, the second one
    /// begins when the first has ended.
    pub(crate) fn advance(
        &self,
        attempt: AttemptId,
        now: Instant,
        change: impl FnOnce(&mut Attempt),
    ) -> NextStep {
        let next = self.update(attempt, |entry| {
            change(entry);
            let next = entry.next_step(now);
            match &next {
                NextStep::Wait => {}
                NextStep::Recheck if std::mem::replace(&mut entry.rechecking, true) => {
                    return NextStep::Wait;
                }
                NextStep::Recheck => {}
                NextStep::Hold(..) => {
                    let removed_at = entry.predecessor.take().map_or(0, |gone| gone.removed_at);
                    entry.verified_revision = entry.verified_revision.max(removed_at);
                    entry.stage = Stage::Holding;
                }
            }
            next
        });
        next.unwrap_or(NextStep::Wait)
    }

    /// Records that an attempt holds the lock. Returns the id of the watch that ends. Returns `None`
    /// if the attempt holds the lock already or is being removed.
    pub(crate) fn mark_holding(
        &self,
        attempt: AttemptId,
        floor: Option<FencingToken>,
    ) -> Option<u64> {
        self.update(attempt, |entry| {
            if entry.stage == Stage::Holding {
                return None;
            }
            entry.stage = Stage::Holding;
            entry.floor = floor;
            entry.predecessor = None;
            // That watch ends, and no other one exists yet.
            entry.confirmed_stream = 0;
            Some(std::mem::take(&mut entry.watch))
        })?
    }

    /// Whether an attempt still needs the watch with this id.
    pub(crate) fn needs_watch(&self, attempt: AttemptId, watch_id: u64) -> bool {
        let table = self.lock();
        let entry = table.attempts.get(&attempt);
        entry.is_some_and(|entry| entry.watch == watch_id)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AttemptTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AttemptTable {
    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Attempt> {
        self.attempts.get(&attempt).map(|entry| &**entry)
    }
}

#[cfg(test)]
pub(crate) mod tests;
