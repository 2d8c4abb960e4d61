//! How the transactions are built, and what their replies contain. No I/O.
//!
//! If none of the operations in a transaction is a write or a linearizable read, a server answers
//! it alone, from its own state. So each transaction has at least one such operation: a write, or a
//! linearizable read in each branch.

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

use crate::{
    attempts::EntryId, error::RequestError, keepalive_validity::RaftTerm, keys::range_end,
};

/// The keys of one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKeys<'a> {
    /// The prefix of all keys of the lock.
    pub(crate) prefix: &'a str,
    pub(crate) key: &'a str,
    pub(crate) fence: &'a str,
}

/// How many keys one transaction may compare. Servers reject more than 128 operations.
pub(crate) const MAX_COMPARES: usize = 100;

fn absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

fn exists(key: &str, revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}

/// Whether the key still has this create revision and was last put at this revision, if that is known.
fn unchanged(key: &str, revision: i64, put_at: Option<i64>) -> Compare {
    match put_at {
        Some(put_at) => Compare::mod_revision(key, CompareOp::Equal, put_at),
        None => exists(key, revision),
    }
}

fn oldest(prefix: &str) -> GetOptions {
    GetOptions::new()
        .with_range(range_end(prefix))
        .with_sort(SortTarget::Create, SortOrder::Ascend)
        .with_limit(1)
}

/// Reads the newest contenders, this number of them; 0 reads all.
fn newest(prefix: &str, count: i64) -> GetOptions {
    GetOptions::new()
        .with_range(range_end(prefix))
        .with_sort(SortTarget::Create, SortOrder::Descend)
        .with_limit(count)
}

fn put_entry(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> TxnOp {
    let options = etcd_client::PutOptions::new().with_lease(lease);
    TxnOp::put(keys.key, value, Some(options))
}

fn get_key(key: &str) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// How many entries ahead of an exclusive entry decide what it waits for.
pub(crate) const EXCLUSIVE_WINDOW: i64 = 2;

/// Enters the queue. On success, reads the first entry that was there before, and this number of the
/// last ones. Otherwise reads the attempt's own key and its fence.
pub(crate) fn enqueue(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64, window: i64) -> Txn {
    Txn::new()
        .when([absent(keys.key), absent(keys.fence)])
        .and_then([
            TxnOp::get(keys.prefix, Some(oldest(keys.prefix))),
            TxnOp::get(keys.prefix, Some(newest(keys.prefix, window))),
            put_entry(keys, value, lease),
        ])
        .or_else([get_key(keys.key), get_key(keys.fence)])
}

/// Enters the queue if it is empty. Otherwise reads the attempt's own key, its fence and the first
/// entry.
pub(crate) fn try_enqueue(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> Txn {
    try_enqueue_if(keys, value, lease, absent(keys.prefix))
}

/// Enters the queue if nothing was added to it after this revision. Otherwise reads the attempt's
/// own key, its fence and the first entry.
pub(crate) fn try_enqueue_unchanged(
    keys: AttemptKeys<'_>,
    value: Vec<u8>,
    lease: i64,
    revision: i64,
) -> Txn {
    let older = Compare::create_revision(keys.prefix, CompareOp::Less, revision + 1);
    try_enqueue_if(keys, value, lease, older)
}

fn try_enqueue_if(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64, condition: Compare) -> Txn {
    let all = condition.with_range(range_end(keys.prefix));
    Txn::new()
        .when([all, absent(keys.key), absent(keys.fence)])
        .and_then([put_entry(keys, value, lease)])
        .or_else([
            get_key(keys.key),
            get_key(keys.fence),
            TxnOp::get(keys.prefix, Some(oldest(keys.prefix))),
        ])
}

/// Enters the queue if it is empty. Otherwise reads the attempt's own key, its fence and all entries.
pub(crate) fn enqueue_if_empty(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> Txn {
    let all = absent(keys.prefix).with_range(range_end(keys.prefix));
    Txn::new()
        .when([all, absent(keys.key), absent(keys.fence)])
        .and_then([put_entry(keys, value, lease)])
        .or_else([
            get_key(keys.key),
            get_key(keys.fence),
            TxnOp::get(keys.prefix, Some(newest(keys.prefix, 0))),
        ])
}

/// The entry whose position is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryRef<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) key: &'a str,
    pub(crate) revision: i64,
    /// When its key was last put, if that is known.
    pub(crate) put_at: Option<i64>,
}

/// Finds the position of an entry. If the entry is unchanged, reads the two entries in front of it.
/// Otherwise reads its own key.
pub(crate) fn locate(entry: EntryRef<'_>) -> Txn {
    let EntryRef { prefix, key, .. } = entry;
    let before = newest(prefix, EXCLUSIVE_WINDOW).with_max_create_revision(entry.revision - 1);
    Txn::new()
        .when([unchanged(key, entry.revision, entry.put_at)])
        .and_then([TxnOp::get(prefix, Some(before))])
        .or_else([get_key(key)])
}

/// Finds the position of an entry that is not exclusive. If the entry is unchanged, reads the first
/// entry before it, this number of the last ones before it, and the first one behind it. Otherwise reads
/// its own key.
pub(crate) fn locate_among(entry: EntryRef<'_>, window: i64) -> Txn {
    let EntryRef { prefix, key, .. } = entry;
    let ahead = |options: GetOptions| options.with_max_create_revision(entry.revision - 1);
    let behind = oldest(prefix).with_min_create_revision(entry.revision + 1);
    Txn::new()
        .when([unchanged(key, entry.revision, entry.put_at)])
        .and_then([
            TxnOp::get(prefix, Some(ahead(oldest(prefix)))),
            TxnOp::get(prefix, Some(ahead(newest(prefix, window)))),
            TxnOp::get(prefix, Some(behind)),
        ])
        .or_else([get_key(key)])
}

/// Finds the position of a shared entry, of which these entries ahead are known to block it. If the entry
/// is unchanged, reads the first entry before it and each of them. Otherwise reads its own key.
pub(crate) fn locate_behind(entry: EntryRef<'_>, blocking: &[EntryId]) -> Txn {
    let first = oldest(entry.prefix).with_max_create_revision(entry.revision - 1);
    let mut reads = vec![TxnOp::get(entry.prefix, Some(first))];
    reads.extend(blocking.iter().map(|ahead| TxnOp::get(&*ahead.key, None)));
    Txn::new()
        .when([unchanged(entry.key, entry.revision, entry.put_at)])
        .and_then(reads)
        .or_else([get_key(entry.key)])
}

/// Puts the key of an entry again with the value and the lease that it has.
pub(crate) fn put_again(key: &str, revision: i64) -> Txn {
    let same = etcd_client::PutOptions::new()
        .with_ignore_value()
        .with_ignore_lease();
    Txn::new()
        .when([exists(key, revision)])
        .and_then([TxnOp::put(key, "", Some(same))])
}

/// Replaces the value of an entry that exists under this lease. Otherwise reads its key.
pub(crate) fn replace_value(key: &str, revision: i64, value: Vec<u8>, lease: i64) -> Txn {
    let options = etcd_client::PutOptions::new().with_lease(lease);
    Txn::new()
        .when([
            exists(key, revision),
            Compare::lease(key, CompareOp::Equal, lease),
        ])
        .and_then([TxnOp::put(key, value, Some(options))])
        .or_else([get_key(key)])
}

/// One entry of a batch, with the entry for which it waits.
#[derive(Clone, Debug)]
pub(crate) struct EntryCheck {
    pub(crate) key: String,
    pub(crate) revision: i64,
    /// When its key was last put, if that is known.
    pub(crate) put_at: Option<i64>,
    pub(crate) predecessor: Option<PredecessorCheck>,
}

/// The entry for which an entry of a batch waits.
#[derive(Clone, Debug)]
pub(crate) struct PredecessorCheck {
    pub(crate) key: String,
    pub(crate) revision: i64,
    /// When its key was last put, if a later put matters.
    pub(crate) put_at: Option<i64>,
}

impl PredecessorCheck {
    /// Whether the entry is still as it was.
    pub(crate) fn is_met_by(&self, found: &KeyValue) -> bool {
        let same_put = self.put_at.is_none_or(|at| at == found.mod_revision());
        found.create_revision() == self.revision && same_put
    }
}

impl EntryCheck {
    pub(crate) fn compare_count(&self) -> usize {
        1 + usize::from(self.predecessor.is_some())
    }
}

/// Checks that all these entries are unchanged and that their predecessors still exist. Otherwise
/// reads each of them, in order, each followed by its predecessor.
pub(crate) fn check_entries(all: &[EntryCheck], absent_key: &str) -> Txn {
    let mut compares = Vec::with_capacity(2 * all.len());
    let mut reads = Vec::with_capacity(2 * all.len() + 1);
    for check in all {
        compares.push(unchanged(&check.key, check.revision, check.put_at));
        reads.push(get_key(&check.key));
        if let Some(ahead) = &check.predecessor {
            compares.push(unchanged(&ahead.key, ahead.revision, ahead.put_at));
            reads.push(get_key(&ahead.key));
        }
    }
    if reads.is_empty() {
        reads.push(get_key(absent_key));
    }
    Txn::new()
        .when(compares)
        .and_then([get_key(absent_key)])
        .or_else(reads)
}

/// Removes the holder's entry if its key still has this create revision.
pub(crate) fn remove_holder(key: &str, revision: i64) -> Txn {
    Txn::new()
        .when([exists(key, revision)])
        .and_then([TxnOp::delete(key, None)])
}

/// Removes a waiter. If its entry existed, reads the first entry before it.
pub(crate) fn remove_waiter(prefix: &str, key: &str, revision: i64) -> Txn {
    let before = oldest(prefix)
        .with_max_create_revision(revision - 1)
        .with_keys_only();
    Txn::new()
        .when([exists(key, revision)])
        .and_then([TxnOp::get(prefix, Some(before)), TxnOp::delete(key, None)])
        .or_else([get_key(key)])
}

/// Removes the entry if it exists, and keeps the attempt out of the queue while the lease is alive.
/// If the entry existed, reads the first entry.
///
/// Once the fence exists, this removes nothing any more: the key may belong to another attempt when
/// an earlier request like this one, whose reply was lost, arrives after its repetition.
pub(crate) fn remove_and_fence(keys: AttemptKeys<'_>, lease: i64) -> Txn {
    let options = || Some(etcd_client::PutOptions::new().with_lease(lease));
    let fence = || TxnOp::put(keys.fence, "", options());
    Txn::new()
        .when([
            Compare::create_revision(keys.key, CompareOp::Greater, 0),
            absent(keys.fence),
        ])
        .and_then([
            TxnOp::get(keys.prefix, Some(oldest(keys.prefix).with_keys_only())),
            TxnOp::delete(keys.key, None),
            fence(),
        ])
        .or_else([fence()])
}

/// Reads these keys.
pub(crate) fn read_keys(keys: &[&[u8]]) -> Txn {
    let reads: Vec<_> = keys.iter().map(|key| TxnOp::get(*key, None)).collect();
    Txn::new().and_then(reads)
}

/// Changes nothing; the server rejects it for a user without read and write permission below this
/// prefix.
pub(crate) fn probe_rights(all: &str, absent_key: &str) -> Txn {
    let read = GetOptions::new()
        .with_range(range_end(all))
        .with_count_only()
        .with_limit(1);
    Txn::new()
        .when([Compare::create_revision(absent_key, CompareOp::Less, 0)])
        .and_then([
            TxnOp::put(absent_key, "", None),
            TxnOp::get(all, Some(read.clone())),
        ])
        .or_else([TxnOp::get(all, Some(read))])
}

/// The reply to a transaction.
#[derive(Debug)]
pub(crate) struct TxnReply {
    pub(crate) succeeded: bool,
    /// The revision of the store at which the transaction was applied.
    pub(crate) revision: i64,
    pub(crate) term: RaftTerm,
    reads: std::vec::IntoIter<Vec<KeyValue>>,
}

impl TxnReply {
    pub(crate) fn new(response: &TxnResponse) -> Result<Self, RequestError> {
        let header = response
            .header()
            .ok_or_else(RequestError::malformed_reply)?;
        let reads: Vec<_> = response
            .op_responses()
            .into_iter()
            .filter_map(|operation| match operation {
                TxnOpResponse::Get(mut read) => Some(read.take_kvs()),
                _ => None,
            })
            .collect();
        Ok(Self {
            succeeded: response.succeeded(),
            revision: header.revision(),
            term: RaftTerm::of(header),
            reads: reads.into_iter(),
        })
    }

    /// The result of the next read.
    pub(crate) fn next_kvs(&mut self) -> Result<Vec<KeyValue>, RequestError> {
        self.reads.next().ok_or_else(RequestError::malformed_reply)
    }

    /// The result of the next read: one key at most.
    pub(crate) fn next_kv(&mut self) -> Result<Option<KeyValue>, RequestError> {
        Ok(self.next_kvs()?.into_iter().next())
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::Client;
    use tenure_test_servers::etcd::Server;

    use super::*;

    const KEY: &str = "queue/1";

    fn keys(fence: &str) -> AttemptKeys<'_> {
        AttemptKeys {
            prefix: "queue/",
            key: KEY,
            fence,
        }
    }

    async fn succeeds(store: &mut Client, txn: Txn) -> bool {
        store.txn(txn).await.unwrap().succeeded()
    }

    #[tokio::test]
    async fn x1_k2_repeated_removal_removes_no_other_attempt() {
        let server = Server::builder().start().unwrap();
        let mut store = Client::connect([server.address()], None).await.unwrap();
        let lease = store.lease_grant(60, None).await.unwrap().id();
        let (mine, next) = (keys("fence/1"), keys("fence/2"));
        assert!(succeeds(&mut store, enqueue(mine, vec![1], lease, 2)).await);
        // The reply to the first removal is lost; this is the repeated removal.
        assert!(succeeds(&mut store, remove_and_fence(mine, lease)).await);
        assert!(succeeds(&mut store, enqueue(next, vec![2], lease, 2)).await);
        // The first removal arrives late.
        assert!(!succeeds(&mut store, remove_and_fence(mine, lease)).await);
        let found = store.get(KEY, None).await.unwrap();
        assert_eq!(
            found.kvs().len(),
            1,
            "the entry of the next attempt is gone"
        );
        assert_eq!(found.kvs()[0].value(), [2]);
        // The fence still rejects a late enqueue.
        assert!(
            succeeds(
                &mut store,
                remove_holder(KEY, found.kvs()[0].create_revision())
            )
            .await
        );
        assert!(!succeeds(&mut store, enqueue(mine, vec![1], lease, 2)).await);
    }
}
