//! Inspecting, listing and evicting.

use std::time::Duration;

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};
use tenure_core::{
    error::{Error, ErrorKind},
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page},
    token::FencingToken,
};

use crate::{
    error::{RequestError, backend_error, protocol_error},
    keys::{parse_below, range_end},
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
    let mut state = LockState::new(name.clone(), None, Vec::new());
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
            if state.holder.is_none() {
                state.holder = Some(with_time_left(shared, &entry).await);
            } else {
                state.queue.push(entry.waiter());
            }
        }
        match kvs.last() {
            Some(last) if found.more() => from = last.create_revision() + 1,
            _ => return Ok(state),
        }
    }
}

/// The holder, and the time that its lease has left without a renewal. The server answers in whole
/// seconds.
async fn with_time_left(shared: &Shared, entry: &QueueEntry) -> Holder {
    let holder = entry.holder();
    let left = shared
        .endpoints
        .call_any(entry.contender.lease(), |connection, id| async move {
            connection
                .client
                .lease_client()
                .time_to_live(id, None)
                .await
        });
    let Ok(left) = left.await else { return holder };
    let (Ok(seconds), Ok(granted)) = (u64::try_from(left.ttl()), u64::try_from(left.granted_ttl()))
    else {
        return holder;
    };
    let left = Duration::from_secs(seconds.saturating_add(1).min(granted));
    holder.with_expires_in(Some(left))
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
            let holder = record::read(OPERATION, contender, &kv)
                .map_or_else(|_| Holder::foreign(), |entry| entry.holder());
            locks.push(Listed::new(
                summary.name.clone(),
                Some(holder),
                summary.waiters,
            ));
        }
    }
    Ok(Page::new(locks, cursor))
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
    let Some(first) = found.first() else {
        return Ok(Evicted::NotHeld(None));
    };
    let entry = shared
        .read(OPERATION, first)
        .await
        .map_err(read_error(OPERATION))?;
    let Some(entry) = entry else {
        return Ok(Evicted::NotHeld(None));
    };
    if entry.token() != token {
        return Ok(Evicted::NotHeld(Some(entry.holder())));
    }
    let key = String::from_utf8_lossy(first.key()).into_owned();
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
