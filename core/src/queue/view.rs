//! The queue as it is shown to users (clauses A5 and I1): without lapsed entries, and without
//! changing anything.

use std::time::{Duration, SystemTime};

use super::{Entry, Now, Queue};
use crate::{
    id::AttemptId,
    name::LockName,
    request::{Holder, Listed, LockState, Since, Waiter},
};

fn wall(us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(us)
}

impl Entry {
    /// Returns this entry as the holder that is shown to other clients.
    #[must_use]
    pub fn to_holder(&self, now: &Now) -> Holder {
        let holder = Holder::new(self.attempt, self.owner.clone())
            .with_expires_in(self.expires_in(now))
            .with_ttl(self.ttl);
        match self.grant {
            Some(grant) => holder
                .with_token(grant.token)
                .with_since(Since::Granted(wall(grant.granted_at_us))),
            None => holder.with_since(Since::Enqueued(wall(self.enqueued_at_us))),
        }
    }

    fn to_waiter(&self) -> Waiter {
        Waiter::new(
            Some(self.attempt),
            Some(self.owner.clone()),
            Some(wall(self.enqueued_at_us)),
        )
    }
}

impl Queue {
    fn live<'a>(&'a self, now: &'a Now) -> impl Iterator<Item = &'a Entry> {
        self.entries().filter(|entry| !entry.has_lapsed(now))
    }

    /// Returns the nearest entry ahead of an attempt for which `is_live` holds. The store sends
    /// no message when that entry expires. If each waiter reports again when its
    /// predecessor would expire, a dead entry delays the queue by at most its own TTL (W1),
    /// whatever the TTLs of the entries behind it.
    pub fn predecessor(
        &self,
        attempt: AttemptId,
        is_live: impl Fn(&Entry) -> bool,
    ) -> Option<&Entry> {
        let at = self.index(attempt)?;
        self.entries().take(at).rev().find(|entry| is_live(entry))
    }

    /// Returns the time after which an attempt should report again, because [its
    /// predecessor](Self::predecessor) expires then unless it is renewed.
    #[must_use]
    pub fn recheck(&self, attempt: AttemptId, now: &Now) -> Option<Duration> {
        self.predecessor(attempt, |entry| !entry.has_lapsed(now))?
            .expires_in(now)
    }

    /// Returns the current holder.
    #[must_use]
    pub fn holder_view(&self, now: &Now) -> Option<Holder> {
        self.holder()
            .filter(|entry| !entry.has_lapsed(now))
            .map(|entry| entry.to_holder(now))
    }

    /// Returns the lock with its holder and all waiters.
    #[must_use]
    pub fn lock_state(&self, name: LockName, now: &Now) -> LockState {
        let queue = self
            .live(now)
            .filter(|entry| entry.grant.is_none())
            .map(Entry::to_waiter);
        LockState::new(name, self.holder_view(now), queue.collect())
    }

    /// Returns the lock as an item of a listing; `None` if it has neither a holder nor waiters.
    #[must_use]
    pub fn listed(&self, name: LockName, now: &Now) -> Option<Listed> {
        let waiters = self.live(now).filter(|entry| entry.grant.is_none()).count();
        let holder = self.holder_view(now);
        (holder.is_some() || waiters > 0)
            .then(|| Listed::new(name, holder, u64::try_from(waiters).unwrap_or(u64::MAX)))
    }
}
