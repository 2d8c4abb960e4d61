//! The queue of one lock: its holders and its waiters in order.
//!
//! A pure state machine: it takes an [`Event`] and the time, changes the state, and returns the
//! outcome ([`Step`]). It has no I/O, no task and no clock. It is the specification of every
//! backend: the memory backend and the compare-and-swap adapter run it, the scripts of the Redis
//! backend are tested against it, and the model checker drives it.
//!
//! An entry is granted the lock when it is compatible with everything ahead of it (clause M2), so the
//! granted entries are always a prefix of the queue. [`Occupancy::admits`] alone decides what is
//! compatible.
//!
//! Expiry is detected in two equivalent ways. If the clock that reads the current time also stamped
//! an entry's last renewal, the state machine itself detects that the TTL has passed. If another
//! clock stamped it (another boot of the machine, another host), the times are not comparable. Then
//! an observer that saw the entry unchanged for its whole TTL on its own clock reports
//! [`Event::Lapsed`].

mod state;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

pub(crate) use state::QueueSummary;
pub use state::{ClockId, Ended, Ending, Entry, Fenced, GrantRecord, Malformed, Now, Queue, Stamp};

use crate::{
    id::{AttemptId, ClientId},
    loss::LossReason,
    mode::{Mode, Occupancy},
    request::Owner,
    token::FencingToken,
};

/// An event in a lock's queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An attempt joins the queue. A repeated enqueue of a present attempt renews its entry (T3).
    Enqueue {
        /// The attempt.
        attempt: AttemptId,
        /// The client that receives notices about it.
        client: ClientId,
        /// The owner that is shown to other clients.
        owner: Owner,
        /// The lifetime of its entry without a renewal.
        ttl: Duration,
        /// Whether the attempt stays in the queue if the lock is taken.
        wait: bool,
        /// What the attempt shares the lock with.
        mode: Mode,
    },
    /// An exclusive holder lets others share the lock with it (M4). Keeps its entry, place and token.
    /// Can be repeated.
    Downgrade {
        /// The attempt of the entry.
        attempt: AttemptId,
        /// The token of its grant.
        token: FencingToken,
    },
    /// A holder renews, or a waiter reports. This never creates or revives an entry (K2, W5).
    Renew {
        /// The attempt of the entry.
        attempt: AttemptId,
    },
    /// An attempt leaves the queue, whether it holds or waits.
    Remove {
        /// The attempt of the entry.
        attempt: AttemptId,
        /// For how long this attempt's requests are rejected, because one may still be in flight
        /// (A4).
        fence: Option<Duration>,
    },
    /// The grant with this token is revoked, and no other grant (I2).
    Evict {
        /// The token of the grant.
        token: FencingToken,
    },
    /// Another clock stamped this entry. From now on it lives for one TTL on the current clock,
    /// unless its owner renews it. Any client that reads the current clock can then tell when it ends.
    Adopt {
        /// The attempt of the entry.
        attempt: AttemptId,
        /// The entry's number of renewals when it was observed.
        beat: u64,
    },
    /// An observer saw this entry unchanged for its whole TTL.
    Lapsed {
        /// The attempt of the entry.
        attempt: AttemptId,
        /// The entry's number of renewals when it was observed. A different number means that the
        /// entry is alive.
        beat: u64,
    },
}

/// The answer to the sender of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answer {
    /// The lock is taken, and the attempt did not ask to wait; it left nothing behind.
    Busy,
    /// The grant was evicted.
    Evicted,
    /// The attempt has no entry.
    Gone(LossReason),
    /// The attempt holds the lock, and its TTL starts again.
    Granted {
        /// The token of the grant.
        token: FencingToken,
        /// The lowest token among the grants that are alive (M3).
        floor: FencingToken,
    },
    /// No grant has this token, or the observed entry was renewed or is gone.
    Nothing,
    /// The removed entry held the lock.
    RemovedHolder,
    /// The removed entry was waiting.
    RemovedWaiter,
    /// The attempt is waiting.
    Waiting {
        /// Number of entries ahead of it, including the holders.
        ahead: usize,
    },
}

/// A notice to a client other than the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// The attempt that it concerns.
    pub attempt: AttemptId,
    /// The client to which it must be sent.
    pub client: ClientId,
    /// The change of the attempt's state.
    pub kind: NoticeKind,
}

/// The kind of a [`Notice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoticeKind {
    /// The attempt became a holder. The grant lasts until its entry would have expired as a
    /// waiter (D4).
    Granted {
        /// The token of the grant.
        token: FencingToken,
        /// The lowest token among the grants that are alive (M3).
        floor: FencingToken,
        /// The TTL of the grant.
        ttl: Duration,
    },
    /// The attempt is no longer a holder.
    Lost(LossReason),
}

/// The outcome of one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Step {
    /// The answer to the sender.
    pub answer: Answer,
    /// The notices to other clients, in order.
    pub notices: Vec<Notice>,
    /// Whether the state has changed.
    pub changed: bool,
}

impl Queue {
    /// Applies one event at one moment.
    ///
    /// Lapsed entries that keep others from the lock are removed first, so that no event can revive
    /// them. The live waiters whose turn it is then hold the lock.
    pub fn on(&mut self, event: Event, now: &Now) -> Step {
        let mut notices = Vec::new();
        let mut changed = self.expire_fences(now);
        changed |= self.advance(now, None, &mut notices);
        changed |= self.refresh_future(now);
        let answer = match event {
            Event::Enqueue {
                attempt,
                client,
                owner,
                ttl,
                wait,
                mode,
            } => {
                let entry = Entry {
                    attempt,
                    client,
                    owner,
                    ttl,
                    refreshed: now.stamp,
                    beat: 0,
                    enqueued_at_us: now.wall_us,
                    grant: None,
                    mode,
                };
                self.enqueue(entry, wait, now, &mut changed, &mut notices)
            }
            Event::Downgrade { attempt, token } => {
                self.downgrade(attempt, token, now, &mut changed, &mut notices)
            }
            Event::Renew { attempt } => self.renew(attempt, now, &mut changed, &mut notices),
            Event::Remove { attempt, fence } => {
                if let Some(ttl) = fence {
                    // A removal can be repeated (A2): one fence is enough.
                    self.fenced.retain(|fenced| fenced.attempt != attempt);
                    self.fenced.push(Fenced {
                        attempt,
                        since: now.stamp,
                        wall_us: now.wall_us,
                        ttl,
                    });
                    changed = true;
                }
                self.remove_entry(attempt, Ending::Released, now, &mut changed, &mut notices)
            }
            Event::Evict { token } => match self.granted(token) {
                Some(attempt) => {
                    self.remove_entry(attempt, Ending::Evicted, now, &mut changed, &mut notices);
                    Answer::Evicted
                }
                None => Answer::Nothing,
            },
            Event::Adopt { attempt, beat } => {
                changed |= self.adopt(attempt, beat, now);
                Answer::Nothing
            }
            Event::Lapsed { attempt, beat } => match self.entry(attempt) {
                Some(entry) if entry.beat == beat => {
                    self.remove_entry(attempt, Ending::Expired, now, &mut changed, &mut notices)
                }
                _ => Answer::Nothing,
            },
        };
        Step {
            answer,
            notices,
            changed,
        }
    }

    fn enqueue(
        &mut self,
        entry: Entry,
        wait: bool,
        now: &Now,
        changed: &mut bool,
        notices: &mut Vec<Notice>,
    ) -> Answer {
        let attempt = entry.attempt;
        if self.fenced.iter().any(|fenced| fenced.attempt == attempt) {
            return Answer::Gone(LossReason::Evicted);
        }
        if self.entry(attempt).is_some() {
            return self.renew(attempt, now, changed, notices);
        }
        self.entries.push_back(entry);
        self.advance(now, Some(attempt), notices);
        let answer = self.answer_at(self.entries.len() - 1);
        if matches!(answer, Answer::Waiting { .. }) && !wait {
            self.entries.pop_back();
            return Answer::Busy;
        }
        *changed = true;
        answer
    }

    fn renew(
        &mut self,
        attempt: AttemptId,
        now: &Now,
        changed: &mut bool,
        notices: &mut Vec<Notice>,
    ) -> Answer {
        let Some(index) = self.index(attempt) else {
            return Answer::Gone(self.gone_reason(attempt));
        };
        if self.entries[index].has_lapsed(now) {
            self.remove_entry(attempt, Ending::Expired, now, changed, notices);
            return Answer::Gone(LossReason::Expired);
        }
        *changed = true;
        let entry = &mut self.entries[index];
        entry.refreshed = now.stamp;
        // The number may come from a store and is untrusted.
        entry.beat = entry.beat.wrapping_add(1);
        self.answer_at(index)
    }

    fn downgrade(
        &mut self,
        attempt: AttemptId,
        token: FencingToken,
        now: &Now,
        changed: &mut bool,
        notices: &mut Vec<Notice>,
    ) -> Answer {
        let index = self.index(attempt);
        let Some((index, entry)) =
            index.and_then(|index| Some((index, self.entries.get_mut(index)?)))
        else {
            return Answer::Gone(self.gone_reason(attempt));
        };
        if entry.grant.is_none_or(|grant| grant.token != token) {
            return Answer::Nothing;
        }
        if entry.mode.is_exclusive() {
            entry.mode = Mode::Shared;
            *changed = true;
            self.advance(now, None, notices);
        }
        self.answer_at(index)
    }

    fn adopt(&mut self, attempt: AttemptId, beat: u64, now: &Now) -> bool {
        let Some(index) = self.index(attempt) else {
            return false;
        };
        let entry = &mut self.entries[index];
        let foreign = entry.refreshed.clock != now.stamp.clock && entry.beat == beat;
        if foreign {
            entry.refreshed = now.stamp;
        }
        foreign
    }

    fn remove_entry(
        &mut self,
        attempt: AttemptId,
        ending: Ending,
        now: &Now,
        changed: &mut bool,
        notices: &mut Vec<Notice>,
    ) -> Answer {
        let Some(entry) = self
            .index(attempt)
            .and_then(|index| self.entries.remove(index))
        else {
            return Answer::Gone(self.gone_reason(attempt));
        };
        *changed = true;
        if entry.grant.is_none() {
            // It may have kept those behind it from joining the holders.
            self.advance(now, None, notices);
            return Answer::RemovedWaiter;
        }
        self.ended = Some(Ended { attempt, ending });
        let reason = match ending {
            Ending::Released => None,
            Ending::Evicted => Some(LossReason::Evicted),
            Ending::Expired => Some(LossReason::Expired),
        };
        if let Some(reason) = reason {
            notices.push(Notice {
                attempt,
                client: entry.client,
                kind: NoticeKind::Lost(reason),
            });
        }
        self.expire_fences(now);
        self.advance(now, None, notices);
        Answer::RemovedHolder
    }

    fn expire_fences(&mut self, now: &Now) -> bool {
        let fences = self.fenced.len();
        self.fenced.retain(|fenced| !fenced.has_served(now));
        fences != self.fenced.len()
    }

    /// Goes through the queue in order: removes the entries that have lapsed, and grants the lock to the
    /// waiters. Stops after an exclusive holder, or at the first live waiter that is not admitted. Returns
    /// whether anything changed. `sender` learns of its grant from the answer and needs no notice.
    ///
    /// Lapsed entries further back are removed when it is their turn, or when they report.
    fn advance(&mut self, now: &Now, sender: Option<AttemptId>, notices: &mut Vec<Notice>) -> bool {
        let mut changed = false;
        let mut occupancy = Occupancy::Free;
        let mut index = 0;
        while occupancy != Occupancy::Exclusive
            && let Some(entry) = self.entries.get(index)
        {
            if entry.has_lapsed(now) {
                self.expire_at(index, notices);
                changed = true;
                continue;
            }
            let mode = entry.mode;
            if entry.grant.is_none() {
                if !occupancy.admits(mode) {
                    break;
                }
                self.grant_at(index, now, sender, notices);
                changed = true;
            }
            occupancy.add(mode);
            index += 1;
        }
        changed
    }

    fn expire_at(&mut self, index: usize, notices: &mut Vec<Notice>) {
        let Some(entry) = self.entries.remove(index) else {
            return;
        };
        if entry.grant.is_none() {
            return;
        }
        self.ended = Some(Ended {
            attempt: entry.attempt,
            ending: Ending::Expired,
        });
        notices.push(Notice {
            attempt: entry.attempt,
            client: entry.client,
            kind: NoticeKind::Lost(LossReason::Expired),
        });
    }

    fn grant_at(
        &mut self,
        index: usize,
        now: &Now,
        sender: Option<AttemptId>,
        notices: &mut Vec<Notice>,
    ) {
        let token = self.next_token(now);
        let floor = self.floor().unwrap_or(token);
        let entry = &mut self.entries[index];
        entry.grant = Some(GrantRecord {
            token,
            granted_at_us: now.wall_us,
        });
        if sender != Some(entry.attempt) {
            notices.push(Notice {
                attempt: entry.attempt,
                client: entry.client,
                kind: NoticeKind::Granted {
                    token,
                    floor,
                    ttl: entry.ttl,
                },
            });
        }
    }

    /// If the clock was set back, restarts the TTL of each holder, and of the first waiter if it blocks others,
    /// whose stamp is in the future, so that a dead entry ends within one TTL. Returns whether a stamp changed.
    fn refresh_future(&mut self, now: &Now) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let stamp = entry.refreshed;
            if stamp.clock == now.stamp.clock && stamp.at > now.stamp.at {
                entry.refreshed = now.stamp;
                changed = true;
            }
            // An exclusive holder blocks all waiters. Otherwise only the first waiter blocks others.
            if entry.grant.is_none() || entry.mode.is_exclusive() {
                break;
            }
        }
        changed
    }

    fn answer_at(&self, index: usize) -> Answer {
        match self.entries[index].grant {
            Some(GrantRecord { token, .. }) => Answer::Granted {
                token,
                floor: self.floor().unwrap_or(token),
            },
            None => Answer::Waiting { ahead: index },
        }
    }

    fn gone_reason(&self, attempt: AttemptId) -> LossReason {
        match self.ended {
            Some(Ended {
                attempt: ended,
                ending: Ending::Expired,
            }) if ended == attempt => LossReason::Expired,
            Some(Ended { attempt: ended, .. }) if ended == attempt => LossReason::Evicted,
            _ => match self.holder() {
                Some(holder) if holder.mode.is_exclusive() => LossReason::Displaced,
                // No exclusive holder displaced it, and expiry is likelier than eviction.
                Some(_) => LossReason::Expired,
                None => LossReason::Evicted,
            },
        }
    }
}
