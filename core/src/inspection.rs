//! What an inspection or a listing shows of a lock.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{id::AttemptId, mode::Mode, name::LockName, owner::Owner, token::FencingToken};

/// The time since when a holder has the lock (clause A5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Since {
    /// The time of the enqueue. The store does not record the time of the grant.
    Enqueued(std::time::SystemTime),
    /// The time of the grant.
    Granted(std::time::SystemTime),
}

/// The holder of a lock, as far as the store can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The attempt; `None` for a foreign holder.
    pub attempt: Option<AttemptId>,
    /// The owner as recorded; `None` for a foreign holder.
    pub owner: Option<Owner>,
    /// The fencing token, if the store reports it.
    pub token: Option<FencingToken>,
    /// Since when it holds the lock, by a wall clock that may differ from the client's.
    pub since: Option<Since>,
    /// An upper bound on the time until its grant expires unless it renews.
    pub expires_in: Option<Duration>,
    /// The TTL, if the store reports it.
    pub ttl: Option<Duration>,
    /// The mode of its grant.
    pub mode: Mode,
}

/// Shows the owner and the token, for example `"invoices" (pid 4711 on "db1"), token 42`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => owner.fmt(f)?,
            None => f.write_str("a program that does not use tenure")?,
        }
        match self.token {
            Some(token) => write!(f, ", token {token}"),
            None => Ok(()),
        }
    }
}

impl Holder {
    /// Creates a holder that uses this framework. Set the fields that the store reports.
    #[must_use]
    pub fn new(attempt: AttemptId, owner: Owner) -> Self {
        Self {
            attempt: Some(attempt),
            owner: Some(owner),
            ..Self::default()
        }
    }

    /// Creates a foreign holder: a program that uses the store without this framework. Set the
    /// fields that the store reports.
    #[must_use]
    pub fn foreign() -> Self {
        Self::default()
    }

    /// Sets the token.
    #[must_use]
    pub const fn with_token(mut self, token: FencingToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets since when it holds the lock.
    #[must_use]
    pub const fn with_since(mut self, since: Since) -> Self {
        self.since = Some(since);
        self
    }

    /// Sets the upper bound on the remaining time.
    #[must_use]
    pub const fn with_expires_in(mut self, left: Option<Duration>) -> Self {
        self.expires_in = left;
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the mode.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// A waiter in a [`LockState`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The attempt; `None` for a foreign waiter.
    pub attempt: Option<AttemptId>,
    /// The owner as recorded; `None` for a foreign waiter.
    pub owner: Option<Owner>,
    /// Since when it waits, by a wall clock that may differ from the client's.
    pub since: Option<std::time::SystemTime>,
    /// The requested mode.
    pub mode: Mode,
}

impl Waiter {
    /// Creates a waiter for an exclusive lock.
    #[must_use]
    pub const fn new(
        attempt: Option<AttemptId>,
        owner: Option<Owner>,
        since: Option<std::time::SystemTime>,
    ) -> Self {
        Self {
            attempt,
            owner,
            since,
            mode: Mode::Exclusive,
        }
    }

    /// Sets the mode.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// The current state of a lock (clause I1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockState {
    /// The lock.
    pub name: LockName,
    /// The holder. If several hold the lock, the one that was granted it first.
    pub holder: Option<Holder>,
    /// The other holders of a shared or counted lock, in the order of their grants.
    pub more_holders: Vec<Holder>,
    /// The waiters, in queue order.
    pub queue: Vec<Waiter>,
}

impl LockState {
    /// Creates the state.
    #[must_use]
    pub const fn new(name: LockName, holder: Option<Holder>, queue: Vec<Waiter>) -> Self {
        Self {
            name,
            holder,
            more_holders: Vec::new(),
            queue,
        }
    }

    /// Creates the state of a lock that several may hold.
    #[must_use]
    pub fn with_holders(
        name: LockName,
        holders: impl IntoIterator<Item = Holder>,
        queue: Vec<Waiter>,
    ) -> Self {
        let mut holders = holders.into_iter();
        Self {
            name,
            holder: holders.next(),
            more_holders: holders.collect(),
            queue,
        }
    }

    /// Returns all holders, in the order of their grants.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holder.iter().chain(&self.more_holders)
    }
}

/// A request for one page of the locks that have a holder or waiters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct List {
    /// The prefix of the listed names; empty for all names.
    pub prefix: String,
    /// The cursor from the previous page; `None` for the first page.
    pub cursor: Option<String>,
    /// The approximate number of entries in a page, at least 1.
    pub limit: usize,
}

impl List {
    /// Creates a request for the first page.
    #[must_use]
    pub fn new(prefix: impl Into<String>, limit: usize) -> Self {
        Self {
            prefix: prefix.into(),
            cursor: None,
            limit: limit.max(1),
        }
    }

    /// Sets the cursor at which the page begins.
    #[must_use]
    pub fn at(mut self, cursor: Option<String>) -> Self {
        self.cursor = cursor;
        self
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The locks. No order is promised.
    pub locks: Vec<Listed>,
    /// The cursor of the next page; `None` after the last page. A page before the last one can be
    /// empty.
    pub next: Option<String>,
}

impl Page {
    /// Creates a page.
    #[must_use]
    pub const fn new(locks: Vec<Listed>, next: Option<String>) -> Self {
        Self { locks, next }
    }
}

/// One lock of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The name, as it was given.
    pub name: LockName,
    /// The holder. If several hold the lock, the one that was granted it first.
    pub holder: Option<Holder>,
    /// Number of holders.
    pub holders: u64,
    /// Number of waiters.
    pub waiters: u64,
    /// The error with which reading the lock's state failed, as one line; `None` if the state was
    /// read. No client can acquire such a lock. Its holder and its waiters are not known: the other
    /// fields show a foreign holder, so that the lock does not look free.
    pub unreadable: Option<String>,
}

impl Listed {
    /// Creates the item.
    #[must_use]
    pub const fn new(name: LockName, holder: Option<Holder>, waiters: u64) -> Self {
        let holders = holder.is_some() as u64;
        Self {
            name,
            holder,
            holders,
            waiters,
            unreadable: None,
        }
    }

    /// Sets the number of holders.
    #[must_use]
    pub const fn with_holders(mut self, holders: u64) -> Self {
        self.holders = holders;
        self
    }

    /// Creates the item of a lock whose state cannot be read.
    #[must_use]
    pub fn unreadable(name: LockName, error: &crate::error::Error) -> Self {
        Self {
            unreadable: Some(error.to_string()),
            ..Self::new(name, Some(Holder::foreign()), 0)
        }
    }
}

/// The answer to an eviction (clause I2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evicted {
    /// The grant was revoked. Its holder continues to work until it learns of this.
    Evicted,
    /// No grant has this token. Contains the current holder.
    NotHeld(Option<Holder>),
}
