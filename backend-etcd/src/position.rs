//! The position of an attempt that is not exclusive: it depends on the modes of the entries ahead of it.
//!
//! One transaction verifies the attempt's own entry and reads the values of the entries ahead. Entries
//! leave the queue and become less exclusive, but never the reverse, so what the attempt may do at the
//! revision of that transaction it may do from then on.

use std::sync::Arc;

use etcd_client::KeyValue;
use tenure_core::{error::Error, id::AttemptId, mode::Mode, request::Waiting, token::FencingToken};

use crate::{
    admission::{self, Awaited, Until},
    attempts::{Awaits, EntryId, Predecessor},
    error::RequestError,
    keys::parse_below,
    lease::Lease,
    queue::{self, Position},
    record, rewrite,
    shared::Shared,
};

/// Entries in queue order, and their modes.
#[derive(Debug)]
pub(crate) struct Entries {
    kvs: Vec<KeyValue>,
    modes: Vec<Mode>,
    /// The first entry of the queue, if it is ahead of these.
    first: Option<KeyValue>,
    /// The error of the first entry that cannot be read. Such an entry counts as exclusive.
    unreadable: Option<Error>,
}

impl Entries {
    /// All contenders among these keys, which are in queue order.
    pub(crate) fn new(operation: &'static str, prefix: &str, kvs: Vec<KeyValue>) -> Self {
        let mut entries = Self {
            kvs: Vec::with_capacity(kvs.len()),
            modes: Vec::with_capacity(kvs.len()),
            first: None,
            unreadable: None,
        };
        for kv in kvs {
            let Some(contender) = parse_below(prefix, kv.key()) else {
                continue;
            };
            let mode = record::read_mode(operation, contender, &kv).unwrap_or_else(|error| {
                entries.unreadable.get_or_insert(error);
                Mode::Exclusive
            });
            entries.modes.push(mode);
            entries.kvs.push(kv);
        }
        entries
    }

    /// The entries ahead of the one that was created at this revision, from the first key and the last
    /// keys ahead of it, the last one first. `window` is how many last keys were requested; 0 is all.
    pub(crate) async fn ahead(
        shared: &Shared,
        operation: &'static str,
        prefix: &str,
        revision: i64,
        (first, mut last): (Option<KeyValue>, Vec<KeyValue>),
        window: i64,
    ) -> Result<Self, RequestError> {
        last.reverse();
        let is_partial =
            window > 0 && usize::try_from(window).is_ok_and(|limit| last.len() >= limit);
        if !is_partial {
            return Ok(Self::new(operation, prefix, last));
        }
        let is_contender = |kv: &KeyValue| parse_below(prefix, kv.key()).is_some();
        if first.as_ref().is_some_and(is_contender) && last.iter().all(is_contender) {
            let mut entries = Self::new(operation, prefix, last);
            entries.first = first;
            return Ok(entries);
        }
        // Fewer contenders were read than decide.
        let (all, _) = shared.contenders(prefix, Some(revision)).await?;
        Ok(Self::new(operation, prefix, all))
    }

    /// The entries ahead of a shared entry that still block it, from the first key ahead of it and the
    /// entries that blocked it before.
    pub(crate) async fn blocking(
        shared: &Shared,
        operation: &'static str,
        prefix: &str,
        revision: i64,
        mut first: Option<KeyValue>,
        found: Vec<KeyValue>,
    ) -> Result<Self, RequestError> {
        let is_contender = |kv: &KeyValue| parse_below(prefix, kv.key()).is_some();
        if first.as_ref().is_some_and(|kv| !is_contender(kv)) {
            let (all, _) = shared.contenders(prefix, Some(revision)).await?;
            first = all.into_iter().next();
        }
        let mut entries = Self::new(operation, prefix, found);
        entries.first = first;
        Ok(entries)
    }

    /// The error of the first entry that cannot be read.
    pub(crate) fn unreadable(&mut self) -> Option<Error> {
        self.unreadable.take()
    }

    /// The index of the entry with this key and create revision.
    pub(crate) fn index(&self, key: &str, revision: i64) -> Option<usize> {
        let at = self
            .kvs
            .partition_point(|kv| kv.create_revision() < revision);
        let mut same =
            (at..self.kvs.len()).take_while(|index| self.kvs[*index].create_revision() == revision);
        same.find(|index| self.kvs[*index].key() == key.as_bytes())
    }

    pub(crate) fn len(&self) -> usize {
        self.kvs.len()
    }

    pub(crate) fn mode(&self, index: usize) -> Option<Mode> {
        self.modes.get(index).copied()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&KeyValue> {
        self.kvs.get(index)
    }

    /// The first entry of the queue; `None` if it cannot be read.
    pub(crate) fn first(
        &self,
        operation: &'static str,
        prefix: &str,
    ) -> Option<record::QueueEntry> {
        let first = self.first.as_ref().or_else(|| self.kvs.first())?;
        let contender = parse_below(prefix, first.key())?;
        record::read(operation, contender, first).ok()
    }

    /// Whether an attempt of this mode holds the lock behind all of these entries.
    pub(crate) fn admits(&self, mode: Mode) -> bool {
        admission::awaited(mode, &self.modes).is_none()
    }

    /// The holders among these entries.
    pub(crate) fn holders(&self) -> &[KeyValue] {
        &self.kvs[..self.holder_count()]
    }

    /// The number of holders among these entries.
    pub(crate) fn holder_count(&self) -> usize {
        admission::holder_count(self.modes.iter().copied())
    }
}

/// The mode of the entry with this key; `None` if the key is not an entry. An entry that cannot be read
/// counts as exclusive.
pub(crate) fn mode_of(operation: &'static str, prefix: &str, kv: &KeyValue) -> Option<Mode> {
    let contender = parse_below(prefix, kv.key())?;
    Some(record::read_mode(operation, contender, kv).unwrap_or(Mode::Exclusive))
}

/// An attempt, and the revision of the store at which its queue was read.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) attempt: AttemptId,
    pub(crate) mode: Mode,
    pub(crate) revision: i64,
    pub(crate) lease: &'a Lease,
    /// The prefix of all keys of the lock.
    pub(crate) prefix: &'a str,
    /// The revision at which the entries were read.
    pub(crate) as_of: i64,
    /// Number of entries ahead among those that were read.
    pub(crate) ahead: usize,
    /// The mode of the entry behind it.
    pub(crate) successor: Option<Mode>,
}

/// Records the position of an attempt behind these entries.
pub(crate) fn place(
    shared: &Arc<Shared>,
    placed: &Placed<'_>,
    entries: &Entries,
    operation: &'static str,
) -> Position {
    let modes = &entries.modes[..placed.ahead];
    match admission::awaited(placed.mode, modes) {
        None => hold(shared, placed, entries, operation),
        Some(awaited) => Position::Waiting(wait(shared, placed, entries, awaited, operation)),
    }
}

fn hold(
    shared: &Arc<Shared>,
    placed: &Placed<'_>,
    entries: &Entries,
    operation: &'static str,
) -> Position {
    let attempt = placed.attempt;
    // Tokens rise in the order of the queue (M3).
    let floor: Option<FencingToken> = entries
        .first(operation, placed.prefix)
        .map(|first| first.token());
    let is_new = queue::mark_holding(shared, attempt, floor);
    let is_awaited = |mode: Mode| admission::may_await_put(mode, placed.mode);
    if is_new && placed.successor.is_some_and(is_awaited) {
        rewrite::announce_holder(shared, attempt);
    }
    let revision = placed.revision;
    Position::Granted(queue::grant(shared, attempt, placed.lease, revision, floor))
}

fn wait(
    shared: &Arc<Shared>,
    placed: &Placed<'_>,
    entries: &Entries,
    awaited: Awaited,
    operation: &'static str,
) -> Waiting {
    let kvs = &entries.kvs[..placed.ahead];
    let index = match awaited {
        Awaited::Entry(index, _) => index,
        Awaited::AnyRemoval => placed.ahead.saturating_sub(1),
    };
    let key = |kv: &KeyValue| String::from_utf8_lossy(kv.key()).into_owned();
    let first = entries.first(operation, placed.prefix);
    let awaits = match awaited {
        Awaited::Entry(index, until) => Awaits::Change {
            until,
            put_at: kvs[index].mod_revision(),
            is_first: first
                .as_ref()
                .is_some_and(|first| first.revision == kvs[index].create_revision()),
        },
        Awaited::AnyRemoval => Awaits::AnyRemoval(kvs.iter().map(|kv| key(kv).into()).collect()),
    };
    let predecessor = Predecessor {
        key: key(&kvs[index]),
        revision: kvs[index].create_revision(),
        before: None,
        holder: first.map(|first| first.holder()),
        located: 0,
        created: None,
        removed_at: 0,
        awaits,
        blocking: match placed.mode {
            Mode::Shared => blocking_entries(kvs, &entries.modes),
            _ => Arc::default(),
        },
    };
    let is_complete = entries.first.is_none();
    let waiting = queue::mark_waiting(
        shared,
        placed.attempt,
        placed.lease,
        placed.as_of,
        predecessor,
    );
    match u64::try_from(placed.ahead) {
        Ok(ahead) if is_complete => waiting.with_ahead(ahead),
        _ => waiting,
    }
}

/// The entries that keep a shared entry behind them from the lock.
fn blocking_entries(kvs: &[KeyValue], modes: &[Mode]) -> Arc<[EntryId]> {
    let blocking = kvs
        .iter()
        .zip(modes)
        .filter(|(_, mode)| **mode != Mode::Shared);
    blocking
        .map(|(kv, _)| EntryId {
            key: Arc::from(String::from_utf8_lossy(kv.key())),
            revision: kv.create_revision(),
        })
        .collect()
}

/// Whether a put of the awaited key matters to its waiter.
pub(crate) const fn awaits_put(until: Until) -> bool {
    !matches!(until, Until::Removed)
}
