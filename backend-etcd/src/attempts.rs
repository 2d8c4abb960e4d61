//! The attempts of this client, as data: each from before its first request until its removal.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenure_core::{clock::Instant, id::AttemptId, name::LockName};

use crate::lease::{Lease, LeaseRef};

/// How many attempts that were removed before they were sent stay in memory as fenced.
const MAX_FENCED_ATTEMPTS: usize = 4_096;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) name: LockName,
    /// Empty while the attempt has no lease.
    pub(crate) key: Arc<str>,
    pub(crate) lease_ref: Option<LeaseRef>,
    /// The parts of its key.
    slot: Option<KeySlot>,
    /// The create revision of its key; 0 while that is unknown.
    pub(crate) revision: i64,
    pub(crate) stage: Stage,
    /// The contender directly in front; `None` unless the attempt waits.
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

/// The contender directly in front of a waiter.
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
    /// When the watch reported the removal of the predecessor; 0 if it has not.
    pub(crate) removed_at: i64,
}

impl Predecessor {
    /// Whether the waiter has the same contenders directly in front.
    fn is_same(&self, other: &Self) -> bool {
        (self.revision, &self.key, &self.before) == (other.revision, &other.key, &other.before)
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
    pub(crate) key: Arc<str>,
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) revision: i64,
    pub(crate) stage: Stage,
    pub(crate) confirmed_stream: u64,
    pub(crate) needs_check: bool,
}

impl Attempt {
    fn snapshot(&self) -> AttemptSnapshot {
        AttemptSnapshot {
            name: self.name.clone(),
            key: Arc::clone(&self.key),
            lease: self
                .lease_ref
                .as_ref()
                .map(|lease_ref| Arc::clone(lease_ref.lease())),
            revision: self.revision,
            stage: self.stage,
            confirmed_stream: self.confirmed_stream,
            needs_check: self.needs_check,
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

    pub(crate) fn register(&self, attempt: AttemptId, name: &LockName) -> Registration {
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
            key: Arc::from(""),
            lease_ref: None,
            slot: None,
            revision: 0,
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
        if let Some(old) = entry
            .predecessor
            .as_deref_mut()
            .filter(|old| old.is_same(&next))
        {
            old.holder = next.holder.or_else(|| old.holder.take());
            old.located = old.located.max(next.located);
            if old.removed_at <= old.located {
                // It was an earlier entry with the same key.
                old.removed_at = 0;
            }
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
    pub(crate) fn mark_holding(&self, attempt: AttemptId) -> Option<u64> {
        self.update(attempt, |entry| {
            if entry.stage == Stage::Holding {
                return None;
            }
            entry.stage = Stage::Holding;
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
