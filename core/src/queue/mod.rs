//! The queue of one lock: its holder and its waiters in order.
//!
//! A pure state machine: it takes an [`Event`] and the time, changes the state, and returns the
//! outcome ([`Step`]). It has no I/O, no task and no clock. It is the specification of every
//! backend: the memory backend and the compare-and-swap adapter run it, the scripts of the Redis
//! backend are tested against it, and the model checker drives it.
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
    /// The attempt holds the lock with this token, and its TTL starts again.
    Granted(FencingToken),
    /// No grant has this token, or the observed entry was renewed or is gone.
    Nothing,
    /// The removed entry held the lock.
    RemovedHolder,
    /// The removed entry was waiting.
    RemovedWaiter,
    /// The attempt is waiting.
    Waiting {
        /// Number of entries ahead of it, including the holder.
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
    /// The attempt became the holder. The grant lasts until its entry would have expired as a
    /// waiter (D4).
    Granted {
        /// The token of the grant.
        token: FencingToken,
        /// The TTL of the grant.
        ttl: Duration,
    },
    /// The attempt is no longer the holder.
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
    /// Lapsed entries at the front are removed first, so that no event can revive them. The first
    /// live waiter then holds the lock.
    pub fn on(&mut self, event: Event, now: &Now) -> Step {
        let mut notices = Vec::new();
        let mut changed = self.expire_lapsed(now, &mut notices);
        if let Some(entry) = self.entries.front_mut()
            && entry.refreshed.clock == now.stamp.clock
            && entry.refreshed.at > now.stamp.at
        {
            // The clock was set back. The grant counts from now, so that a dead holder is succeeded in time.
            entry.refreshed = now.stamp;
            changed = true;
        }
        let answer = match event {
            Event::Enqueue {
                attempt,
                client,
                owner,
                ttl,
                wait,
            } => {
                let new_entry = NewEntry {
                    attempt,
                    client,
                    owner,
                    ttl,
                    wait,
                };
                self.enqueue(new_entry, now, &mut changed, &mut notices)
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
        new_entry: NewEntry,
        now: &Now,
        changed: &mut bool,
        notices: &mut Vec<Notice>,
    ) -> Answer {
        let NewEntry {
            attempt,
            client,
            owner,
            ttl,
            wait,
        } = new_entry;
        if self.fenced.iter().any(|fenced| fenced.attempt == attempt) {
            return Answer::Gone(LossReason::Evicted);
        }
        if self.entry(attempt).is_some() {
            return self.renew(attempt, now, changed, notices);
        }
        self.entries.push_back(Entry {
            attempt,
            client,
            owner,
            ttl,
            refreshed: now.stamp,
            beat: 0,
            enqueued_at_us: now.wall_us,
            grant: None,
        });
        self.promote(now, Some(attempt), notices);
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
        self.expire_lapsed(now, notices);
        self.promote(now, None, notices);
        Answer::RemovedHolder
    }

    /// Removes lapsed entries from the front until the first entry is live, and removes expired
    /// fences. Lapsed entries further back are removed when they reach the front, or when they
    /// report.
    fn expire_lapsed(&mut self, now: &Now, notices: &mut Vec<Notice>) -> bool {
        let fences = self.fenced.len();
        self.fenced.retain(|fenced| !fenced.has_served(now));
        let mut changed = fences != self.fenced.len();
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.has_lapsed(now))
        {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            changed = true;
            if entry.grant.is_some() {
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
        }
        if changed {
            self.promote(now, None, notices);
        }
        changed
    }

    /// Grants the lock, in order, to every waiter that no entry ahead of it blocks. `sender` learns
    /// of its grant from the answer and needs no notice.
    fn promote(&mut self, now: &Now, sender: Option<AttemptId>, notices: &mut Vec<Notice>) {
        for index in 0..self.entries.len() {
            if self.entries[index].grant.is_some() {
                continue;
            }
            if (0..index).any(|ahead| blocks(&self.entries[ahead], &self.entries[index])) {
                break;
            }
            let token = self.next_token(now);
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
                        ttl: entry.ttl,
                    },
                });
            }
        }
    }

    fn answer_at(&self, index: usize) -> Answer {
        match self.entries[index].grant {
            Some(grant) => Answer::Granted(grant.token),
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
            _ if self.holder().is_some() => LossReason::Displaced,
            _ => LossReason::Evicted,
        }
    }
}

struct NewEntry {
    attempt: AttemptId,
    client: ClientId,
    owner: Owner,
    ttl: Duration,
    wait: bool,
}

/// Returns whether an entry blocks one behind it from the lock.
///
/// Only this function decides that. Shared and counted grants will depend on what the two entries
/// request (ADR 0002). As long as all grants are exclusive, every entry ahead blocks.
fn blocks(_ahead: &Entry, _behind: &Entry) -> bool {
    true
}
