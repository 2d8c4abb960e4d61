//! The transactions: how they are built, and what their answers hold. No I/O.
//!
//! A transaction of which no operation reads or writes in full agreement is answered by the server
//! alone, from what it happens to know. So each has an operation that is not: one that writes, or in each
//! branch a read that is linearizable.

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

use crate::{error::RequestError, keepalive_validity::RaftTerm, keys::range_end};

/// The keys of one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKeys<'a> {
    /// What all keys of the lock begin with.
    pub(crate) prefix: &'a str,
    pub(crate) key: &'a str,
    pub(crate) fence: &'a str,
}

/// How many keys one transaction may compare: servers refuse more than 128 operations.
pub(crate) const MAX_COMPARES: usize = 100;

fn absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

fn unchanged(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

fn oldest(prefix: &str) -> GetOptions {
    GetOptions::new()
        .with_range(range_end(prefix))
        .with_sort(SortTarget::Create, SortOrder::Ascend)
        .with_limit(1)
}

fn newest(prefix: &str) -> GetOptions {
    GetOptions::new()
        .with_range(range_end(prefix))
        .with_sort(SortTarget::Create, SortOrder::Descend)
        .with_limit(1)
}

fn put_entry(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> TxnOp {
    let options = etcd_client::PutOptions::new().with_lease(lease);
    TxnOp::put(keys.key, value, Some(options))
}

fn get_key(key: &str) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// Enters the queue. If it did: first, last before. Otherwise: me, fence.
pub(crate) fn enqueue(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> Txn {
    Txn::new()
        .when([absent(keys.key), absent(keys.fence)])
        .and_then([
            TxnOp::get(keys.prefix, Some(oldest(keys.prefix))),
            TxnOp::get(keys.prefix, Some(newest(keys.prefix))),
            put_entry(keys, value, lease),
        ])
        .or_else([get_key(keys.key), get_key(keys.fence)])
}

/// Enters the queue if nobody is in it, the attempt itself included, and it is not fenced off. Tells
/// nothing else.
pub(crate) fn enqueue_uncontended(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> Txn {
    let nobody = absent(keys.prefix).with_range(range_end(keys.prefix));
    Txn::new()
        .when([nobody, absent(keys.fence)])
        .and_then([put_entry(keys, value, lease)])
}

/// Enters the queue if nobody is in it. Otherwise: me, fence, first.
pub(crate) fn try_enqueue(keys: AttemptKeys<'_>, value: Vec<u8>, lease: i64) -> Txn {
    try_enqueue_if(keys, value, lease, absent(keys.prefix))
}

/// Enters the queue if nothing was put into it after that revision. Otherwise: me, fence, first.
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

/// Asks whose turn it is. If the entry is as it was made: last before it, first. Otherwise: me.
pub(crate) fn locate(prefix: &str, key: &str, revision: i64) -> Txn {
    let before = newest(prefix).with_max_create_revision(revision - 1);
    Txn::new()
        .when([unchanged(key, revision)])
        .and_then([
            TxnOp::get(prefix, Some(before.with_keys_only())),
            TxnOp::get(prefix, Some(oldest(prefix))),
        ])
        .or_else([get_key(key)])
}

/// One entry of a batch, and the one that it waits for.
#[derive(Clone, Debug)]
pub(crate) struct EntryCheck {
    pub(crate) key: String,
    pub(crate) revision: i64,
    pub(crate) predecessor: Option<(String, i64)>,
}

impl EntryCheck {
    pub(crate) fn compare_count(&self) -> usize {
        1 + usize::from(self.predecessor.is_some())
    }
}

/// Asks whether all these entries are as they were made, and those that they wait for still there. If
/// not: each of them, in order, and of each that one as well.
pub(crate) fn check_entries(all: &[EntryCheck], absent_key: &str) -> Txn {
    let mut compares = Vec::with_capacity(2 * all.len());
    let mut reads = Vec::with_capacity(2 * all.len() + 1);
    for check in all {
        compares.push(unchanged(&check.key, check.revision));
        reads.push(get_key(&check.key));
        if let Some((key, revision)) = &check.predecessor {
            let there = Compare::create_revision(key.as_str(), CompareOp::Equal, *revision);
            compares.push(there);
            reads.push(get_key(key));
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

/// Leaves the lock of which nobody but this attempt can be the holder.
pub(crate) fn remove_holder(key: &str, revision: i64) -> Txn {
    Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::delete(key, None)])
        .or_else([get_key(key)])
}

/// The same, and asks for the key of the next one. If it was there: that one.
pub(crate) fn hand_over(key: &str, revision: i64, next: &str) -> Txn {
    Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::delete(key, None), get_key(next)])
        .or_else([get_key(key)])
}

/// Leaves the queue. If it was there: first before it.
pub(crate) fn remove_waiter(prefix: &str, key: &str, revision: i64) -> Txn {
    let before = oldest(prefix)
        .with_max_create_revision(revision - 1)
        .with_keys_only();
    Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::get(prefix, Some(before)), TxnOp::delete(key, None)])
        .or_else([get_key(key)])
}

/// Leaves the queue, if it is there, and keeps the attempt out of it for as long as the lease lives.
/// If it was there: first.
///
/// Once the fence stands nothing is taken out any more: the key may have been given to another attempt
/// when a request like this one, whose answer was lost, arrives after its repetition.
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

/// Changes nothing, and is refused to whoever may not read and write below this prefix.
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

/// An answer.
#[derive(Debug)]
pub(crate) struct TxnReply {
    pub(crate) succeeded: bool,
    /// The store's revision at which it was carried out.
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

    /// What the next read has found: at most one key.
    pub(crate) fn next_kv(&mut self) -> Result<Option<KeyValue>, RequestError> {
        let found = self
            .reads
            .next()
            .ok_or_else(RequestError::malformed_reply)?;
        Ok(found.into_iter().next())
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
    async fn x1_k2_a_removal_that_arrives_again_takes_nobody_else_out() {
        let server = Server::builder().start().unwrap();
        let mut store = Client::connect([server.address()], None).await.unwrap();
        let lease = store.lease_grant(60, None).await.unwrap().id();
        let (mine, next) = (keys("fence/1"), keys("fence/2"));
        assert!(succeeds(&mut store, enqueue(mine, vec![1], lease)).await);
        // Its answer is lost; this is its repetition.
        assert!(succeeds(&mut store, remove_and_fence(mine, lease)).await);
        assert!(succeeds(&mut store, enqueue(next, vec![2], lease)).await);
        // And this the first one.
        assert!(!succeeds(&mut store, remove_and_fence(mine, lease)).await);
        let found = store.get(KEY, None).await.unwrap();
        assert_eq!(
            found.kvs().len(),
            1,
            "the entry of the next attempt is gone"
        );
        assert_eq!(found.kvs()[0].value(), [2]);
        // What comes late of the enqueue is still kept out.
        assert!(
            succeeds(
                &mut store,
                remove_holder(KEY, found.kvs()[0].create_revision())
            )
            .await
        );
        assert!(!succeeds(&mut store, enqueue(mine, vec![1], lease)).await);
        assert!(!succeeds(&mut store, enqueue_uncontended(mine, vec![1], lease)).await);
    }

    #[tokio::test]
    async fn x1_nobody_enters_a_quiet_lock_whoever_is_in_it() {
        let server = Server::builder().start().unwrap();
        let mut store = Client::connect([server.address()], None).await.unwrap();
        let lease = store.lease_grant(60, None).await.unwrap().id();
        let mine = keys("fence/1");
        // The attempt itself, another one, and one of `etcdctl lock`.
        for key in [KEY, "queue/2", "queue/3a9f"] {
            store.put(key, "", None).await.unwrap();
            assert!(!succeeds(&mut store, enqueue_uncontended(mine, vec![1], lease)).await);
            store.delete(key, None).await.unwrap();
            assert!(succeeds(&mut store, enqueue_uncontended(mine, vec![1], lease)).await);
            assert!(!succeeds(&mut store, enqueue_uncontended(mine, vec![1], lease)).await);
            store.delete(KEY, None).await.unwrap();
        }
    }
}
