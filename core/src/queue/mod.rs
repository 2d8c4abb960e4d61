//! What the store holds for one lock: who has it, and who waits in which order.
//!
//! A pure machine: it takes an [`Event`] and the time, changes the state, and says what came of
//! it ([`Step`]). It knows no I/O, no task and no clock. It is the specification of every backend:
//! the memory backend and the compare-and-swap adapter run it, the script of another store is
//! tested against it, and the model checker drives it.
//!
//! Expiry comes in two ways that mean the same. Where an entry's last renewal was stamped by the
//! clock that reads now, the machine sees for itself that the TTL has run out. Where it was
//! stamped by another clock (another boot of the machine, another host), nobody can compare; then
//! an observer that saw the entry unchanged for its whole TTL on its own clock says so with
//! [`Event::Lapsed`].

mod state;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

pub use state::{ClockId, Ended, Ending, Entry, Fenced, GrantRecord, Malformed, Now, Queue, Stamp};

use crate::{
    id::{AttemptId, ClientId},
    loss::LossReason,
    request::Owner,
    token::FencingToken,
};

/// What happens to a lock's queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An attempt joins the queue. Repeating it for a present attempt renews that entry (T3).
    Enqueue {
        /// Who it is.
        attempt: AttemptId,
        /// Where word about it is sent.
        client: ClientId,
        /// Who is shown to others.
        owner: Owner,
        /// How long its entry lives without a renewal.
        ttl: Duration,
        /// Whether to stay in the queue when the lock is taken.
        wait: bool,
    },
    /// A holder renews, or a waiter reports. It never creates or revives an entry (K2, W5).
    Renew {
        /// Whose entry.
        attempt: AttemptId,
    },
    /// An attempt leaves, whether it holds or waits.
    Remove {
        /// Whose entry.
        attempt: AttemptId,
        /// Refuse this attempt's requests for that long, because one may still be under way
        /// (A4).
        fence: Option<Duration>,
    },
    /// The grant with this token is taken away, and no other (I2).
    Evict {
        /// The token that was seen.
        token: FencingToken,
    },
    /// Another clock stamped this entry: from now on it lives for one TTL on ours, unless its owner
    /// renews it. For clocks that others share, so that observers who do not stay for a whole TTL
    /// can finish what another one has begun.
    Adopt {
        /// Whose entry.
        attempt: AttemptId,
        /// How often the entry had been renewed when it was seen.
        beat: u64,
    },
    /// An observer saw this entry unchanged for its whole TTL.
    Lapsed {
        /// Whose entry.
        attempt: AttemptId,
        /// How often the entry had been renewed when it was seen; one more and it is alive.
        beat: u64,
    },
}

/// What the sender of an event is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answer {
    /// The lock is taken, and the attempt did not want to wait; it left nothing behind.
    Busy,
    /// The grant was evicted.
    Evicted,
    /// The attempt has no entry.
    Gone(LossReason),
    /// The attempt holds the lock under this token, and its TTL starts anew.
    Granted(FencingToken),
    /// No grant has that token, or the observed entry was renewed or is gone.
    Nothing,
    /// An entry was removed that held the lock.
    RemovedHolder,
    /// An entry was removed that waited.
    RemovedWaiter,
    /// The attempt waits behind so many others that are ahead of it, the holder included.
    Waiting {
        /// Entries ahead of it.
        ahead: usize,
    },
}

/// What somebody other than the sender has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// Whom it concerns.
    pub attempt: AttemptId,
    /// Where to send it.
    pub client: ClientId,
    /// What happened to it.
    pub kind: NoticeKind,
}

/// What happened to the attempt of a [`Notice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoticeKind {
    /// It became the holder. The grant lasts until its entry would have lapsed as a waiter (D4).
    Granted {
        /// Its token.
        token: FencingToken,
        /// Its TTL.
        ttl: Duration,
    },
    /// It was the holder and is no longer.
    Lost(LossReason),
}

/// The outcome of one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Step {
    /// For the sender.
    pub answer: Answer,
    /// For the others, in the order in which it happened.
    pub notices: Vec<Notice>,
    /// Whether the state is another than before.
    pub changed: bool,
}

impl Queue {
    /// Takes one event at one moment.
    ///
    /// Entries that have lapsed by then and stand in the way are removed first, so that no event
    /// can revive them; whoever is next then holds the lock.
    pub fn on(&mut self, event: Event, now: &Now) -> Step {
        let mut notices = Vec::new();
        let mut changed = self.expire_lapsed(now, &mut notices);
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
                    // A removal may be repeated (A2): one fence is enough.
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
        // It may come from a store, and so be any number.
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

    /// Removes lapsed entries from the front, until a live one stands there, and forgets fences
    /// that have served. Lapsed entries further back are removed when they get there, or when
    /// they report.
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

    /// Grants the lock to every waiter that nobody ahead of it blocks, in order. `sender` learns
    /// of its grant by the answer and needs no notice.
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

/// Whether an entry ahead keeps the one behind it from the lock.
///
/// This is the only place that decides it. Shared and counted grants will be a matter of what the
/// two entries ask for (ADR 0002); with exclusive ones only, whoever is ahead blocks.
fn blocks(_ahead: &Entry, _behind: &Entry) -> bool {
    true
}
