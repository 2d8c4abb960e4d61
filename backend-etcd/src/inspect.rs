//! Inspecting, listing and evicting.

use std::{collections::HashMap, time::Duration};

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};
use tenure_core::{
    error::{Error, ErrorKind},
    mode::Occupancy,
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page},
    token::FencingToken,
};

use crate::{
    error::{RequestError, backend_error, protocol_error},
    keys::{parse_below, range_end},
    position::Entries,
    record::{self, QueueEntry},
    shared::Shared,
    txn,
};

/// How many keys of a queue one request reads.
const INSPECT_PAGE_KEYS: i64 = 1_000;

/// How many keys of a listing one request reads.
const LIST_PAGE_KEYS: i64 = 1_000;

/// Returns a lock and its queue. A queue of more than a thousand entries is read in parts, all at
/// one revision.
pub(crate) async fn inspect(shared: &Shared, name: &LockName) -> Result<LockState, Error> {
    const OPERATION: &str = "inspecting";
    let prefix = shared.keys.prefix(name);
    let (mut holders, mut queue) = (Vec::new(), Vec::new());
    let mut occupancy = Occupancy::Free;
    let mut leases = LeaseTimes::default();
    let (mut from, mut as_of) = (0, 0);
    loop {
        let options = GetOptions::new()
            .with_range(range_end(&prefix))
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_min_create_revision(from)
            .with_revision(as_of)
            .with_limit(INSPECT_PAGE_KEYS);
        let mut found = shared
            .get(prefix.as_str(), options)
            .await
            .map_err(read_error(OPERATION))?;
        as_of = found
            .header()
            .ok_or_else(|| protocol_error(OPERATION))?
            .revision();
        let kvs = found.take_kvs();
        for kv in &kvs {
            let Some(contender) = parse_below(&prefix, kv.key()) else {
                continue;
            };
            let entry = record::read(OPERATION, contender, kv)?;
            let mode = entry.mode();
            if queue.is_empty() && occupancy.admits(mode) {
                occupancy.add(mode);
                holders.push(leases.with_time_left(shared, &entry).await);
            } else {
                queue.push(entry.waiter());
            }
        }
        match kvs.last() {
            Some(last) if found.more() => from = last.create_revision() + 1,
            _ => return Ok(LockState::with_holders(name.clone(), holders, queue)),
        }
    }
}

/// How many leases an inspection asks for the time left.
const MAX_LEASE_QUERIES: usize = 100;

/// The time that leases have left without a renewal.
#[derive(Default)]
struct LeaseTimes(HashMap<i64, Option<Duration>>);

impl LeaseTimes {
    /// The holder, and the time that its lease has left.
    async fn with_time_left(&mut self, shared: &Shared, entry: &QueueEntry) -> Holder {
        let lease = entry.contender.lease();
        let known = self.0.get(&lease).copied();
        let left = match known {
            Some(left) => left,
            None if self.0.len() >= MAX_LEASE_QUERIES => None,
            None => {
                let left = time_left(shared, lease).await;
                self.0.insert(lease, left);
                left
            }
        };
        entry.holder().with_expires_in(left)
    }
}

/// The time that a lease has left. The server answers in whole seconds.
async fn time_left(shared: &Shared, lease: i64) -> Option<Duration> {
    let left = shared
        .endpoints
        .call_any(lease, |connection, id| async move {
            connection
                .client
                .lease_client()
                .time_to_live(id, None)
                .await
        });
    let left = left.await.ok()?;
    let seconds = u64::try_from(left.ttl()).ok()?;
    let granted = u64::try_from(left.granted_ttl()).ok()?;
    Some(Duration::from_secs(seconds.saturating_add(1).min(granted)))
}

/// Returns a page of the locks of the namespace, in the order of their keys.
pub(crate) async fn list(shared: &Shared, request: &List) -> Result<Page, Error> {
    const OPERATION: &str = "listing";
    let start = shared.keys.listing_start(&request.prefix);
    let mut key = match &request.cursor {
        Some(cursor) if cursor.starts_with(&shared.keys.namespace_prefix()) => {
            cursor.clone().into_bytes()
        }
        Some(_) => {
            return Err(backend_error(
                ErrorKind::Config,
                OPERATION,
                "invalid cursor; use one returned by a previous page",
            ));
        }
        None => start.clone().into_bytes(),
    };
    let end = range_end(&start);
    let mut found: Vec<LockSummary> = Vec::new();
    let next = loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_keys_only()
            .with_limit(LIST_PAGE_KEYS);
        let mut page = shared
            .get(key.clone(), options)
            .await
            .map_err(read_error(OPERATION))?;
        let kvs = page.take_kvs();
        for kv in &kvs {
            let Some((name, _)) = shared.keys.parse(kv.key()) else {
                continue;
            };
            if !name.as_str().starts_with(&request.prefix) {
                continue;
            }
            match found.last_mut().filter(|summary| summary.name == name) {
                Some(summary) => summary.add(kv),
                None => found.push(LockSummary::new(name, kv)),
            }
        }
        let Some(last) = kvs.last().filter(|_| page.more()) else {
            break None;
        };
        key = last.key().to_vec();
        key.push(0);
        // The last lock may continue on the next page; it is shown on the page on which it ends.
        if found.len() > request.limit {
            break Some(());
        }
    };
    let more = found.len() > request.limit || next.is_some();
    found.truncate(request.limit);
    let cursor = found.last().filter(|_| more).map(|last| {
        let end = range_end(&shared.keys.prefix(&last.name));
        String::from_utf8_lossy(&end).into_owned()
    });
    let mut locks = Vec::with_capacity(found.len());
    for part in found.chunks(txn::MAX_COMPARES) {
        let keys: Vec<&[u8]> = part.iter().map(|summary| summary.first.key()).collect();
        let read = shared.txn_read_only(txn::read_keys(&keys));
        let mut reply = read.await.map_err(read_error(OPERATION))?;
        for summary in part {
            let kv = reply.next_kv().map_err(read_error(OPERATION))?;
            // A lock that was released in the meantime is left out.
            let Some(kv) = kv else { continue };
            let Some((_, contender)) = shared.keys.parse(kv.key()) else {
                continue;
            };
            // A lock that cannot be read does not hide the others; `status` shows what is wrong
            // with it.
            let entry = record::read(OPERATION, contender, &kv);
            let may_be_joint = |entry: &QueueEntry| !entry.mode().is_exclusive();
            let listed = if summary.waiters > 0 && entry.as_ref().is_ok_and(may_be_joint) {
                list_joint(shared, &summary.name)
                    .await
                    .map_err(read_error(OPERATION))?
            } else {
                let holder = entry.map_or_else(|_| Holder::foreign(), |entry| entry.holder());
                let name = summary.name.clone();
                Some(Listed::new(name, Some(holder), summary.waiters))
            };
            locks.extend(listed);
        }
    }
    Ok(Page::new(locks, cursor))
}

/// Reads the queue of a lock that several attempts may hold; `None` if it is free now.
async fn list_joint(shared: &Shared, name: &LockName) -> Result<Option<Listed>, RequestError> {
    let prefix = shared.keys.prefix(name);
    let (kvs, _) = shared.contenders(&prefix, None).await?;
    let entries = Entries::new("listing", &prefix, kvs);
    let holders = entries.holder_count();
    let Some(first) = entries.first("listing", &prefix) else {
        return Ok(None);
    };
    let waiters = entries.len().saturating_sub(holders) as u64;
    let listed = Listed::new(name.clone(), Some(first.holder()), waiters);
    Ok(Some(listed.with_holders(holders as u64)))
}

/// The first contender and the number of waiters of one lock.
struct LockSummary {
    name: LockName,
    first: KeyValue,
    waiters: u64,
}

impl LockSummary {
    fn new(name: LockName, kv: &KeyValue) -> Self {
        Self {
            name,
            first: kv.clone(),
            waiters: 0,
        }
    }

    fn add(&mut self, kv: &KeyValue) {
        self.waiters += 1;
        if kv.create_revision() < self.first.create_revision() {
            self.first = kv.clone();
        }
    }
}

/// Removes the grant with this token.
pub(crate) async fn evict(
    shared: &Shared,
    name: &LockName,
    token: FencingToken,
) -> Result<Evicted, Error> {
    const OPERATION: &str = "evicting";
    let prefix = shared.keys.prefix(name);
    let found = shared.contenders(&prefix, None).await;
    let (found, _) = found.map_err(read_error(OPERATION))?;
    let entries = Entries::new(OPERATION, &prefix, found);
    let mut first = None;
    let mut named = None;
    for kv in entries.holders() {
        let Some(contender) = parse_below(&prefix, kv.key()) else {
            continue;
        };
        let entry = record::read(OPERATION, contender, kv)?;
        if entry.token() == token {
            named = Some((String::from_utf8_lossy(kv.key()).into_owned(), entry));
            break;
        }
        first.get_or_insert_with(|| entry.holder());
    }
    let Some((key, entry)) = named else {
        return Ok(Evicted::NotHeld(first));
    };
    let evicted = shared.txn(txn::remove_holder(&key, entry.revision)).await;
    let evicted = evicted.map_err(|error| error.into_error(OPERATION))?;
    Ok(if evicted.succeeded {
        Evicted::Evicted
    } else {
        Evicted::NotHeld(None)
    })
}

fn read_error(operation: &'static str) -> impl Fn(RequestError) -> Error {
    move |error| error.into_read_error(operation)
}
