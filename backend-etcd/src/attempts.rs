//! The attempts of this client, as data: each from before its first request until its removal.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenure_core::{id::AttemptId, name::LockName};

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
    /// The contender that this attempt waits for.
    pub(crate) predecessor: Option<Box<Predecessor>>,
    /// The id of the watch on its own key; 0 if there is none.
    pub(crate) own_watch: u64,
    /// The stream in which the server last confirmed that watch.
    pub(crate) confirmed_stream: u64,
    /// The newest revision at which its key was seen unchanged.
    pub(crate) verified_revision: i64,
    /// Its key has changed, or may have.
    pub(crate) needs_check: bool,
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

/// The contender that a waiter waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) key: String,
    pub(crate) revision: i64,
    pub(crate) watch: u64,
    /// Whether this contender is the holder.
    pub(crate) is_holder: bool,
    /// The removal of this contender is in flight and also reads the key of the waiting attempt.
    pub(crate) read_by_removal: bool,
    /// The holder, as last read.
    pub(crate) holder: Option<tenure_core::request::Holder>,
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
    /// For the key of each contender, the waiter of this client that is directly behind it.
    successors: HashMap<String, AttemptId>,
    /// The keys of this client's attempts whose removal has begun.
    removing_keys: HashSet<Arc<str>>,
}

/// A waiter of this client that becomes the holder when its predecessor is gone, provided that the
/// waiter is still in the queue.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(crate) attempt: AttemptId,
    pub(crate) key: Arc<str>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) revision: i64,
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

    /// Reserves an attempt's key so that no other attempt can use it, until
    /// [`return_key_slot`](Self::return_key_slot). Returns `None` if the key is already reserved or
    /// the attempt is no longer known. Only one caller can hold the reservation, and only that
    /// caller may delete the key without a comparison.
    pub(crate) fn claim_key_slot(&self, attempt: AttemptId) -> Option<KeySlot> {
        let mut table = self.lock();
        table.attempts.get_mut(&attempt)?.slot.take()
    }

    /// Ends the reservation: no unconditional deletion of that key is in flight any more.
    pub(crate) fn return_key_slot(&self, attempt: AttemptId, slot: KeySlot) {
        let mut table = self.lock();
        match table.attempts.get_mut(&attempt) {
            Some(entry) => entry.slot = Some(slot),
            // The reply to another removal arrived first.
            None => table.free_slot(Some(slot)),
        }
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
            own_watch: 0,
            confirmed_stream: 0,
            verified_revision: 0,
            needs_check: false,
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
    /// snapshot of the attempt and the ids of the watches that end.
    pub(crate) fn begin_removal(&self, attempt: AttemptId) -> Option<(AttemptSnapshot, Vec<u64>)> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        let mut watches = Vec::new();
        watches.extend((entry.own_watch != 0).then_some(entry.own_watch));
        let predecessor = entry.predecessor.take();
        watches.extend(predecessor.as_ref().map(|predecessor| predecessor.watch));
        entry.own_watch = 0;
        // A repeated removal must use the same transaction, so the former stage is kept.
        entry.was_holder |= entry.stage == Stage::Holding;
        let mut snapshot = entry.snapshot();
        if entry.was_holder {
            snapshot.stage = Stage::Holding;
        }
        entry.stage = Stage::Removing;
        let key = Arc::clone(&entry.key);
        table.removing_keys.insert(key);
        table.remove_successor(attempt, predecessor.as_deref());
        Some((snapshot, watches))
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

    /// Forgets a finished attempt. Returns the ids of the watches that end.
    pub(crate) fn forget(&self, attempt: AttemptId) -> Vec<u64> {
        let mut table = self.lock();
        let Some(mut entry) = table.attempts.remove(&attempt) else {
            return Vec::new();
        };
        table.free_slot(entry.slot.take());
        table.remove_successor(attempt, entry.predecessor.as_deref());
        if entry.stage == Stage::Removing {
            table.removing_keys.remove(&entry.key);
        }
        drop(table);
        let mut watches = Vec::new();
        watches.extend((entry.own_watch != 0).then_some(entry.own_watch));
        watches.extend(entry.predecessor.map(|predecessor| predecessor.watch));
        watches
    }

    /// Records that an attempt waits, and for which contender. Returns the id of the watch that
    /// this ends, and whether the attempt's own key is watched. Returns `None` if nothing changed,
    /// if the attempt is being removed, or if it already holds the lock: no contender can enter in
    /// front of a key that was first, so the report is out of date.
    pub(crate) fn set_predecessor(
        &self,
        attempt: AttemptId,
        next: Predecessor,
    ) -> Option<(Option<u64>, bool)> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        if matches!(entry.stage, Stage::Holding | Stage::Removing) {
            return None;
        }
        entry.stage = Stage::Waiting;
        let same = |old: &Predecessor| old.revision == next.revision && old.key == next.key;
        if entry.predecessor.as_deref().is_some_and(same) {
            return None;
        }
        let key = next.key.clone();
        let old = entry.predecessor.replace(Box::new(next));
        let watched = entry.own_watch != 0;
        table.remove_successor(attempt, old.as_deref());
        table.successors.insert(key, attempt);
        Some((old.map(|old| old.watch), watched))
    }

    /// Records that an attempt holds the lock. Returns the id of the watch that this ends, and
    /// whether the attempt's own key is watched. Returns `None` if the attempt is being removed.
    pub(crate) fn mark_holding(&self, attempt: AttemptId) -> Option<(Option<u64>, bool)> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        if entry.stage == Stage::Removing {
            return None;
        }
        entry.stage = Stage::Holding;
        let old = entry.predecessor.take();
        let watched = entry.own_watch != 0;
        table.remove_successor(attempt, old.as_deref());
        Some((old.map(|old| old.watch), watched))
    }

    /// Whether an attempt still needs the watch with this id.
    pub(crate) fn needs_watch(&self, attempt: AttemptId, watch_id: u64) -> bool {
        let table = self.lock();
        let of_predecessor = |entry: &Attempt| {
            entry
                .predecessor
                .as_ref()
                .is_some_and(|predecessor| predecessor.watch == watch_id)
        };
        let entry = table.attempts.get(&attempt);
        entry.is_some_and(|entry| entry.own_watch == watch_id || of_predecessor(entry))
    }

    /// The waiter of this client that is directly behind the contender with this key and revision.
    /// Marks the waiter as read by the removal of its predecessor.
    pub(crate) fn successor(&self, key: &str, revision: i64) -> Option<Successor> {
        let mut table = self.lock();
        let attempt = *table.successors.get(key)?;
        let entry = table.attempts.get_mut(&attempt)?;
        let predecessor = entry.predecessor.as_mut()?;
        let matches = entry.stage == Stage::Waiting
            && predecessor.revision == revision
            && predecessor.key == key;
        let lease = entry.lease_ref.as_ref().filter(|_| matches)?.lease();
        predecessor.read_by_removal = true;
        Some(Successor {
            attempt,
            key: Arc::clone(&entry.key),
            lease: Arc::clone(lease),
            revision: entry.revision,
        })
    }

    /// Whether this key belongs to an attempt of this client whose removal has not begun.
    pub(crate) fn has_live_key(&self, key: &str) -> bool {
        let table = self.lock();
        let stem = key.trim_end_matches(|digit: char| digit.is_ascii_digit());
        let number = key[stem.len()..].parse::<u32>().ok();
        let taken = |slots: &KeySlots, number| number < slots.next && !slots.free.contains(&number);
        let slots = table.slots.get(stem).zip(number);
        slots.is_some_and(|(slots, number)| taken(slots, number))
            && !table.removing_keys.contains(key)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AttemptTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AttemptTable {
    /// Records that an attempt no longer waits for this predecessor.
    fn remove_successor(&mut self, attempt: AttemptId, predecessor: Option<&Predecessor>) {
        if let Some(predecessor) = predecessor
            && self.successors.get(&predecessor.key) == Some(&attempt)
        {
            self.successors.remove(&predecessor.key);
        }
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Attempt> {
        self.attempts.get(&attempt).map(|entry| &**entry)
    }
}

#[cfg(test)]
pub(crate) mod tests;
