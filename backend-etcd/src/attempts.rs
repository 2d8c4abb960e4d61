//! What is kept of each attempt, from before anything of it is sent until it is removed.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenure_core::{id::AttemptId, name::LockName};

use crate::lease::{Lease, LeaseRef};

/// So many attempts are remembered that were removed before they could be sent.
const MAX_FENCED_ATTEMPTS: usize = 4_096;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) name: LockName,
    /// Empty as long as it has no lease.
    pub(crate) key: Arc<str>,
    pub(crate) lease_ref: Option<LeaseRef>,
    /// What its key consists of.
    slot: Option<KeySlot>,
    /// Its key's create revision; 0 as long as that is not known.
    pub(crate) revision: i64,
    pub(crate) stage: Stage,
    /// The contender that it waits for.
    pub(crate) predecessor: Option<Box<Predecessor>>,
    /// The number of the watch on its own key; 0 if there is none.
    pub(crate) own_watch: u64,
    /// In which stream that watch was confirmed last.
    pub(crate) confirmed_stream: u64,
    /// Its key was as it should be at this revision.
    pub(crate) verified_revision: i64,
    /// Something has happened to its key, or may have.
    pub(crate) needs_check: bool,
    /// Whether it was the holder when its removal began.
    pub(crate) was_holder: bool,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is being enqueued, or was without an answer.
    Enqueueing,
    Waiting,
    Holding,
    /// Its removal has begun.
    Removing,
}

/// A contender that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) key: String,
    pub(crate) revision: i64,
    pub(crate) watch: u64,
    /// Whether it is the holder.
    pub(crate) is_holder: bool,
    /// The removal of that one, under way, asks for this attempt as well.
    pub(crate) read_by_removal: bool,
    /// Who was the holder, as last read.
    pub(crate) holder: Option<tenure_core::request::Holder>,
}

/// What a request needs of an attempt.
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

/// How an enqueue begins.
#[derive(Debug)]
pub(crate) enum Registration {
    /// With an attempt that nothing was known of.
    New,
    /// With one that was enqueued before, under this lease.
    Existing(AttemptSnapshot),
    /// Not at all: it was removed.
    Fenced,
}

/// All attempts of one client.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<AttemptTable>);

#[derive(Debug, Default)]
pub(crate) struct AttemptTable {
    /// Boxed: a table keeps room for half as many again.
    attempts: HashMap<AttemptId, Box<Attempt>>,
    slots: HashMap<Arc<str>, KeySlots>,
    fenced: HashSet<AttemptId>,
    fenced_order: VecDeque<AttemptId>,
    /// Which waiter of ours is right behind a contender, by that one's key.
    successors: HashMap<String, AttemptId>,
    /// The keys of attempts of ours whose removal has begun.
    removing_keys: HashSet<Arc<str>>,
}

/// A waiter of ours whose turn it is as soon as the one in front of it has gone, if it is still there.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(crate) attempt: AttemptId,
    pub(crate) key: Arc<str>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) revision: i64,
}

/// A stem and a number, which make a key.
pub(crate) type KeySlot = (Arc<str>, u32);

/// Which numbers are in use below one lock and lease.
#[derive(Debug, Default)]
struct KeySlots {
    free: BTreeSet<u32>,
    /// The lowest that was never used.
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
    /// Gives an attempt its lease, and a key of its own: the stem and a number. It has that until it is
    /// forgotten, when nothing of it is in the store or can come there. `None` if it is being removed.
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

    /// Keeps an attempt's key from being used again, until it is [given back](Self::give_back). `None`: it is
    /// kept from that already, or the attempt is not known any more. Only one can have it at a time, and
    /// nobody else may delete whatever has that key.
    pub(crate) fn claim_key_slot(&self, attempt: AttemptId) -> Option<KeySlot> {
        let mut table = self.lock();
        table.attempts.get_mut(&attempt)?.slot.take()
    }

    /// No request is under way any more that would delete whatever has that key.
    pub(crate) fn return_key_slot(&self, attempt: AttemptId, slot: KeySlot) {
        let mut table = self.lock();
        match table.attempts.get_mut(&attempt) {
            Some(entry) => entry.slot = Some(slot),
            // Another removal was answered sooner.
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

    /// Changes an attempt that is not being removed. `None` if there is none.
    pub(crate) fn update<T>(
        &self,
        attempt: AttemptId,
        change: impl FnOnce(&mut Attempt) -> T,
    ) -> Option<T> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        (entry.stage != Stage::Removing).then(|| change(entry))
    }

    /// Begins the removal of an attempt: from now on nothing else concerns it. Returns what was known,
    /// and the watches that end.
    pub(crate) fn begin_removal(&self, attempt: AttemptId) -> Option<(AttemptSnapshot, Vec<u64>)> {
        let mut table = self.lock();
        let entry = table.attempts.get_mut(&attempt)?;
        let mut watches = Vec::new();
        watches.extend((entry.own_watch != 0).then_some(entry.own_watch));
        let predecessor = entry.predecessor.take();
        watches.extend(predecessor.as_ref().map(|predecessor| predecessor.watch));
        entry.own_watch = 0;
        // What it was tells how it may be removed, also when that has to be repeated.
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

    /// Whether an attempt was removed for good.
    pub(crate) fn is_fenced(&self, attempt: AttemptId) -> bool {
        self.lock().fenced.contains(&attempt)
    }

    /// Never lets this attempt in again.
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

    /// It is over. Returns the watches that end.
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

    /// Notes whom an attempt waits for, and that it does. Returns the number of the watch that this
    /// ends, and whether its own key is watched; `None` if nothing has changed, or it is being removed,
    /// or is the holder by now: nobody comes in front of a key that was the first one, so that this is
    /// of before.
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

    /// An attempt holds the lock. Returns the number of the watch that this ends, and whether its own
    /// key is watched; `None` if it is being removed.
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

    /// Whether an attempt has any use for the watch of that number.
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

    /// The waiter of ours that is right behind the contender of that key and revision.
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

    /// Whether that key is an attempt's of ours whose removal has not begun.
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
    /// An attempt does not wait for that one any more.
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
