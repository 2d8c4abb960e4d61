//! What is kept of each attempt, from before anything of it is sent until it is removed.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenure_core::{id::AttemptId, name::LockName};

use crate::lease::{Lease, Seat};

/// So many attempts are remembered that were removed before they could be sent.
const REMEMBERED: usize = 4_096;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: LockName,
    /// Empty as long as it has no lease.
    pub(crate) key: Arc<str>,
    pub(crate) seat: Option<Seat>,
    /// What its key consists of.
    slot: Option<Slot>,
    /// Its key's create revision; 0 as long as that is not known.
    pub(crate) revision: i64,
    pub(crate) stage: Stage,
    /// The contender that it waits for.
    pub(crate) ahead: Option<Box<Ahead>>,
    /// The number of the watch on its own key; 0 if there is none.
    pub(crate) watch: u64,
    /// In which stream that watch was confirmed last.
    pub(crate) watched_in: u64,
    /// Its key was as it should be at this revision.
    pub(crate) verified: i64,
    /// Something has happened to its key, or may have.
    pub(crate) doubtful: bool,
    /// Whether it was the holder when its removal began.
    pub(crate) held: bool,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is being enqueued, or was without an answer.
    Entering,
    Waiting,
    Holding,
    /// Its removal has begun.
    Leaving,
}

/// A contender that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) key: String,
    pub(crate) revision: i64,
    pub(crate) watch: u64,
    /// Whether it is the holder.
    pub(crate) is_holder: bool,
    /// The removal of that one, under way, asks for this attempt as well.
    pub(crate) is_told: bool,
    /// Who was the holder, as last read.
    pub(crate) holder: Option<tenure_core::request::Holder>,
}

/// What a request needs of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) name: LockName,
    pub(crate) key: Arc<str>,
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) revision: i64,
    pub(crate) stage: Stage,
    pub(crate) watched_in: u64,
    pub(crate) doubtful: bool,
}

impl Entry {
    fn sight(&self) -> Sight {
        Sight {
            name: self.name.clone(),
            key: Arc::clone(&self.key),
            lease: self.seat.as_ref().map(|seat| Arc::clone(seat.lease())),
            revision: self.revision,
            stage: self.stage,
            watched_in: self.watched_in,
            doubtful: self.doubtful,
        }
    }
}

/// How an enqueue begins.
#[derive(Debug)]
pub(crate) enum Begun {
    /// With an attempt that nothing was known of.
    Anew,
    /// With one that was enqueued before, under this lease.
    Again(Sight),
    /// Not at all: it was removed.
    Fenced,
}

/// All attempts of one client.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Boxed: a table keeps room for half as many again.
    entries: HashMap<AttemptId, Box<Entry>>,
    slots: HashMap<Arc<str>, Slots>,
    fenced: HashSet<AttemptId>,
    order: VecDeque<AttemptId>,
    /// Which waiter of ours is right behind a contender, by that one's key.
    behind: HashMap<String, AttemptId>,
    /// The keys of attempts of ours whose removal has begun.
    leaving: HashSet<Arc<str>>,
}

/// A waiter of ours whose turn it is as soon as the one in front of it has gone, if it is still there.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) attempt: AttemptId,
    pub(crate) key: Arc<str>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) revision: i64,
}

/// A stem and a number, which make a key.
pub(crate) type Slot = (Arc<str>, u32);

/// Which numbers are in use below one lock and lease.
#[derive(Debug, Default)]
struct Slots {
    free: BTreeSet<u32>,
    /// The lowest that was never used.
    next: u32,
}

impl Pages {
    fn take_slot(&mut self, stem: &Arc<str>) -> u32 {
        let slots = self.slots.entry(Arc::clone(stem)).or_default();
        slots.free.pop_first().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        })
    }

    fn free_slot(&mut self, slot: Option<Slot>) {
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

impl Book {
    /// Gives an attempt its lease, and a key of its own: the stem and a number. It has that until it is
    /// forgotten, when nothing of it is in the store or can come there. `None` if it is being removed.
    pub(crate) fn seat(&self, attempt: AttemptId, seat: Seat, stem: String) -> Option<Arc<str>> {
        let mut pages = self.lock();
        let entry = pages.entries.get_mut(&attempt)?;
        if entry.stage == Stage::Leaving {
            return None;
        }
        let old = entry.slot.take();
        pages.free_slot(old);
        let stem = Arc::from(stem);
        let number = pages.take_slot(&stem);
        let key: Arc<str> = Arc::from(format!("{stem}{number}"));
        let entry = pages.entries.get_mut(&attempt)?;
        entry.key = Arc::clone(&key);
        entry.seat = Some(seat);
        entry.slot = Some((stem, number));
        Some(key)
    }

    /// Keeps an attempt's key from being used again, until it is [given back](Self::give_back). `None`: it is
    /// kept from that already, or the attempt is not known any more. Only one can have it at a time, and
    /// nobody else may delete whatever has that key.
    pub(crate) fn withhold(&self, attempt: AttemptId) -> Option<Slot> {
        let mut pages = self.lock();
        pages.entries.get_mut(&attempt)?.slot.take()
    }

    /// No request is under way any more that would delete whatever has that key.
    pub(crate) fn give_back(&self, attempt: AttemptId, slot: Slot) {
        let mut pages = self.lock();
        match pages.entries.get_mut(&attempt) {
            Some(entry) => entry.slot = Some(slot),
            // Another removal was answered sooner.
            None => pages.free_slot(Some(slot)),
        }
    }

    pub(crate) fn begin(&self, attempt: AttemptId, name: &LockName) -> Begun {
        let mut pages = self.lock();
        if pages.fenced.contains(&attempt) {
            return Begun::Fenced;
        }
        if let Some(entry) = pages.entries.get(&attempt) {
            return match entry.stage {
                Stage::Leaving => Begun::Fenced,
                _ => Begun::Again(entry.sight()),
            };
        }
        let entry = Entry {
            name: name.clone(),
            key: Arc::from(""),
            seat: None,
            slot: None,
            revision: 0,
            stage: Stage::Entering,
            ahead: None,
            watch: 0,
            watched_in: 0,
            verified: 0,
            doubtful: false,
            held: false,
        };
        pages.entries.insert(attempt, Box::new(entry));
        Begun::Anew
    }

    pub(crate) fn sight(&self, attempt: AttemptId) -> Option<Sight> {
        self.lock().entries.get(&attempt).map(|entry| entry.sight())
    }

    /// Changes an attempt that is not being removed. `None` if there is none.
    pub(crate) fn edit<T>(
        &self,
        attempt: AttemptId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut pages = self.lock();
        let entry = pages.entries.get_mut(&attempt)?;
        (entry.stage != Stage::Leaving).then(|| change(entry))
    }

    /// Begins the removal of an attempt: from now on nothing else concerns it. Returns what was known,
    /// and the watches that end.
    pub(crate) fn leave(&self, attempt: AttemptId) -> Option<(Sight, Vec<u64>)> {
        let mut pages = self.lock();
        let entry = pages.entries.get_mut(&attempt)?;
        let mut watches = Vec::new();
        watches.extend((entry.watch != 0).then_some(entry.watch));
        let ahead = entry.ahead.take();
        watches.extend(ahead.as_ref().map(|ahead| ahead.watch));
        entry.watch = 0;
        // What it was tells how it may be removed, also when that has to be repeated.
        entry.held |= entry.stage == Stage::Holding;
        let mut sight = entry.sight();
        if entry.held {
            sight.stage = Stage::Holding;
        }
        entry.stage = Stage::Leaving;
        let key = Arc::clone(&entry.key);
        pages.leaving.insert(key);
        pages.unfollow(attempt, ahead.as_deref());
        Some((sight, watches))
    }

    /// Whether an attempt was removed for good.
    pub(crate) fn is_fenced(&self, attempt: AttemptId) -> bool {
        self.lock().fenced.contains(&attempt)
    }

    /// Never lets this attempt in again.
    pub(crate) fn fence(&self, attempt: AttemptId) {
        let mut pages = self.lock();
        if pages.fenced.insert(attempt) {
            pages.order.push_back(attempt);
        }
        if pages.order.len() > REMEMBERED
            && let Some(oldest) = pages.order.pop_front()
        {
            pages.fenced.remove(&oldest);
        }
    }

    /// It is over. Returns the watches that end.
    pub(crate) fn forget(&self, attempt: AttemptId) -> Vec<u64> {
        let mut pages = self.lock();
        let Some(mut entry) = pages.entries.remove(&attempt) else {
            return Vec::new();
        };
        pages.free_slot(entry.slot.take());
        pages.unfollow(attempt, entry.ahead.as_deref());
        if entry.stage == Stage::Leaving {
            pages.leaving.remove(&entry.key);
        }
        drop(pages);
        let mut watches = Vec::new();
        watches.extend((entry.watch != 0).then_some(entry.watch));
        watches.extend(entry.ahead.map(|ahead| ahead.watch));
        watches
    }

    /// Notes whom an attempt waits for, and that it does. Returns the number of the watch that this
    /// ends, and whether its own key is watched; `None` if nothing has changed, or it is being removed,
    /// or is the holder by now: nobody comes in front of a key that was the first one, so that this is
    /// of before.
    pub(crate) fn follow(&self, attempt: AttemptId, next: Ahead) -> Option<(Option<u64>, bool)> {
        let mut pages = self.lock();
        let entry = pages.entries.get_mut(&attempt)?;
        if matches!(entry.stage, Stage::Holding | Stage::Leaving) {
            return None;
        }
        entry.stage = Stage::Waiting;
        let same = |old: &Ahead| old.revision == next.revision && old.key == next.key;
        if entry.ahead.as_deref().is_some_and(same) {
            return None;
        }
        let key = next.key.clone();
        let old = entry.ahead.replace(Box::new(next));
        let watched = entry.watch != 0;
        pages.unfollow(attempt, old.as_deref());
        pages.behind.insert(key, attempt);
        Some((old.map(|old| old.watch), watched))
    }

    /// An attempt holds the lock. Returns the number of the watch that this ends, and whether its own
    /// key is watched; `None` if it is being removed.
    pub(crate) fn hold(&self, attempt: AttemptId) -> Option<(Option<u64>, bool)> {
        let mut pages = self.lock();
        let entry = pages.entries.get_mut(&attempt)?;
        if entry.stage == Stage::Leaving {
            return None;
        }
        entry.stage = Stage::Holding;
        let old = entry.ahead.take();
        let watched = entry.watch != 0;
        pages.unfollow(attempt, old.as_deref());
        Some((old.map(|old| old.watch), watched))
    }

    /// Whether an attempt has any use for the watch of that number.
    pub(crate) fn awaits(&self, attempt: AttemptId, number: u64) -> bool {
        let pages = self.lock();
        let of_ahead = |entry: &Entry| {
            entry
                .ahead
                .as_ref()
                .is_some_and(|ahead| ahead.watch == number)
        };
        let entry = pages.entries.get(&attempt);
        entry.is_some_and(|entry| entry.watch == number || of_ahead(entry))
    }

    /// The waiter of ours that is right behind the contender of that key and revision.
    pub(crate) fn heir(&self, key: &str, revision: i64) -> Option<Heir> {
        let mut pages = self.lock();
        let attempt = *pages.behind.get(key)?;
        let entry = pages.entries.get_mut(&attempt)?;
        let ahead = entry.ahead.as_mut()?;
        let is_it = entry.stage == Stage::Waiting && ahead.revision == revision && ahead.key == key;
        let lease = entry.seat.as_ref().filter(|_| is_it)?.lease();
        ahead.is_told = true;
        Some(Heir {
            attempt,
            key: Arc::clone(&entry.key),
            lease: Arc::clone(lease),
            revision: entry.revision,
        })
    }

    /// Whether that key is an attempt's of ours whose removal has not begun.
    pub(crate) fn is_ours(&self, key: &str) -> bool {
        let pages = self.lock();
        let stem = key.trim_end_matches(|digit: char| digit.is_ascii_digit());
        let number = key[stem.len()..].parse::<u32>().ok();
        let taken = |slots: &Slots, number| number < slots.next && !slots.free.contains(&number);
        let slots = pages.slots.get(stem).zip(number);
        slots.is_some_and(|(slots, number)| taken(slots, number)) && !pages.leaving.contains(key)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// An attempt does not wait for that one any more.
    fn unfollow(&mut self, attempt: AttemptId, ahead: Option<&Ahead>) {
        if let Some(ahead) = ahead
            && self.behind.get(&ahead.key) == Some(&attempt)
        {
            self.behind.remove(&ahead.key);
        }
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Entry> {
        self.entries.get(&attempt).map(|entry| &**entry)
    }
}

#[cfg(test)]
pub(crate) mod tests;
