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
            .with_ttl(self.ttl)
            .with_mode(self.mode);
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
        .with_mode(self.mode)
    }
}

impl Queue {
    fn live<'a>(&'a self, now: &'a Now) -> impl Iterator<Item = &'a Entry> {
        self.entries().filter(|entry| !entry.has_lapsed(now))
    }

    /// Returns the time after which an attempt should report again, because an entry that keeps it
    /// from the lock expires then unless it is renewed. The store sends no message when that happens.
    ///
    /// That entry is the nearest live one ahead. If each waiter reports when its predecessor would
    /// expire, a dead entry delays the queue by at most its own TTL (W1), whatever the TTLs of the
    /// entries behind it. The predecessor of the first waiter is a holder, and then every holder counts.
    #[must_use]
    pub fn recheck(&self, attempt: AttemptId, now: &Now) -> Option<Duration> {
        self.recheck_by(attempt, |entry| entry.expires_in(now))
    }

    /// As [`recheck`](Self::recheck), with another source of the time until an entry expires.
    pub(crate) fn recheck_by(
        &self,
        attempt: AttemptId,
        expires_in: impl Fn(&Entry) -> Option<Duration>,
    ) -> Option<Duration> {
        let at = self.index(attempt)?;
        let is_live = |entry: &&Entry| expires_in(entry).is_none_or(|left| !left.is_zero());
        let predecessor = self.entries().take(at).rev().find(is_live)?;
        if predecessor.grant.is_none() {
            return expires_in(predecessor);
        }
        let holders = self.holders().filter(is_live);
        holders.filter_map(&expires_in).min()
    }

    /// Returns the current holder. If several hold the lock, the one that was granted it first.
    #[must_use]
    pub fn holder_view(&self, now: &Now) -> Option<Holder> {
        self.holder_views(now).next()
    }

    fn holder_views(&self, now: &Now) -> impl Iterator<Item = Holder> {
        self.holders()
            .filter(|entry| !entry.has_lapsed(now))
            .map(|entry| entry.to_holder(now))
    }

    /// Returns the lock with its holders and all waiters.
    #[must_use]
    pub fn lock_state(&self, name: LockName, now: &Now) -> LockState {
        let queue = self
            .live(now)
            .filter(|entry| entry.grant.is_none())
            .map(Entry::to_waiter);
        LockState::with_holders(name, self.holder_views(now), queue.collect())
    }

    /// Returns the lock as an item of a listing; `None` if it has neither a holder nor waiters.
    #[must_use]
    pub fn listed(&self, name: LockName, now: &Now) -> Option<Listed> {
        let waiters = self.live(now).filter(|entry| entry.grant.is_none()).count();
        let mut holders = self.holder_views(now);
        let holder = holders.next();
        let count = u64::from(holder.is_some()) + holders.count() as u64;
        (holder.is_some() || waiters > 0)
            .then(|| Listed::new(name, holder, waiters as u64).with_holders(count))
    }
}
