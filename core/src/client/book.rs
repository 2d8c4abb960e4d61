//! The client's list of its attempts, and when each has to be looked at next.
//!
//! One list serves all locks and waiters of a client, so that N of them cost neither N timers nor
//! N requests (clause K1).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::slot::Slot;
use crate::{clock::Instant, id::AttemptId};

#[derive(Debug, Default)]
pub(super) struct Book {
    slots: HashMap<AttemptId, Listed>,
    due: BTreeSet<(Instant, u64, AttemptId)>,
    /// How many were ever inserted. What is due at one moment is taken in the order of insertion:
    /// ids are random, and would make a simulated run another one each time.
    inserted: u64,
    /// Until when the keeper sleeps; an earlier date must wake it.
    alarm: Option<Instant>,
}

#[derive(Debug)]
struct Listed {
    slot: Arc<Slot>,
    number: u64,
    due: Instant,
}

impl Book {
    pub(super) fn insert(&mut self, slot: Arc<Slot>) {
        let (number, due) = (self.inserted, Instant::FAR_FUTURE);
        self.inserted += 1;
        self.slots
            .insert(slot.attempt, Listed { slot, number, due });
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Arc<Slot>> {
        self.slots.get(&attempt).map(|listed| &listed.slot)
    }

    pub(super) fn remove(&mut self, attempt: AttemptId) {
        if let Some(listed) = self.slots.remove(&attempt) {
            self.due.remove(&(listed.due, listed.number, attempt));
        }
    }

    /// All, in the order of insertion.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        let mut all: Vec<_> = self.slots.values().collect();
        all.sort_unstable_by_key(|listed| listed.number);
        all.into_iter()
            .map(|listed| Arc::clone(&listed.slot))
            .collect()
    }

    /// Notes when an attempt has to be looked at. Returns whether the keeper sleeps too long.
    pub(super) fn schedule(&mut self, attempt: AttemptId, at: Instant) -> bool {
        let Some(listed) = self.slots.get_mut(&attempt) else {
            return false;
        };
        if listed.due != at {
            self.due.remove(&(listed.due, listed.number, attempt));
            listed.due = at;
            if at != Instant::FAR_FUTURE {
                self.due.insert((at, listed.number, attempt));
            }
        }
        if self.alarm.is_none_or(|alarm| at < alarm) && at != Instant::FAR_FUTURE {
            self.alarm = Some(at);
            return true;
        }
        false
    }

    /// Takes out what is due by `horizon`, provided that anything is due now.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        horizon: impl Fn(&Slot) -> Instant,
    ) -> Vec<Arc<Slot>> {
        let mut taken = Vec::new();
        let mut limit = now;
        for &(at, _, attempt) in &self.due {
            if at > limit {
                break;
            }
            if let Some(listed) = self.slots.get(&attempt) {
                limit = limit.max(horizon(&listed.slot));
                taken.push(Arc::clone(&listed.slot));
            }
        }
        for slot in &taken {
            if let Some(listed) = self.slots.get_mut(&slot.attempt) {
                self.due.remove(&(listed.due, listed.number, slot.attempt));
                listed.due = Instant::FAR_FUTURE;
            }
        }
        taken
    }

    /// Sets the keeper's alarm to the next date, and returns it.
    ///
    /// The alarm is never set back to "none": a client that takes and gives back one lock again
    /// and again then has its keeper woken once per third of a TTL, and not with each lock.
    pub(super) fn set_alarm(&mut self, now: Instant) -> Option<Instant> {
        let next = self.due.first().map(|&(at, ..)| at);
        self.alarm = next.or_else(|| self.alarm.filter(|&alarm| alarm > now));
        self.alarm
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
