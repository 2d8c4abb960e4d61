//! State that all operations share.

use std::{sync::Arc, time::Duration};

use etcd_client::{GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, Txn};
use tenure_core::{backend::Context, clock::Instant};

use crate::{
    attempts::Attempts,
    error::RequestError,
    keys::{KeySpace, parse_below, range_end},
    lease::pool::LeasePool,
    record::{self, QueueEntry},
    transport::Endpoints,
    txn::TxnReply,
    watch::Watcher,
};

/// The largest reply that a client decodes.
pub(crate) const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// State that all operations share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) leases: Arc<LeasePool>,
    pub(crate) keys: KeySpace,
    /// A key that never exists.
    pub(crate) absent_key: String,
    pub(crate) attempts: Attempts,
    pub(crate) watcher: Watcher,
    /// The shortest TTL that the servers grant.
    pub(crate) min_ttl: Duration,
    pub(crate) context: Context,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    /// Runs a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnReply, RequestError> {
        let limit = self.endpoints.request_timeout;
        let response = self
            .endpoints
            .call(limit, txn, |connection, txn| async move {
                let client = connection.client.kv_client();
                client
                    .max_decoding_message_size(MAX_RESPONSE_BYTES)
                    .txn(txn)
                    .await
            });
        TxnReply::new(&response.await?)
    }

    /// Runs a transaction that writes nothing.
    pub(crate) async fn txn_read_only(&self, txn: Txn) -> Result<TxnReply, RequestError> {
        let response = self.endpoints.call_any(txn, |connection, txn| async move {
            let client = connection.client.kv_client();
            client
                .max_decoding_message_size(MAX_RESPONSE_BYTES)
                .txn(txn)
                .await
        });
        TxnReply::new(&response.await?)
    }

    pub(crate) async fn get(
        &self,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, RequestError> {
        let request = (key.into(), options);
        self.endpoints
            .call_any(request, |connection, (key, options)| async move {
                let client = connection.client.kv_client();
                let mut client = client.max_decoding_message_size(MAX_RESPONSE_BYTES);
                client.get(key, Some(options)).await
            })
            .await
    }

    /// The keys of all contenders of a lock, starting with the holder's, and the revision at which
    /// they were read. With `before`, only contenders that entered before that revision.
    pub(crate) async fn contenders(
        &self,
        prefix: &str,
        before: Option<i64>,
    ) -> Result<(Vec<KeyValue>, i64), RequestError> {
        let options = GetOptions::new()
            .with_range(range_end(prefix))
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_max_create_revision(before.map_or(0, |before| before - 1));
        let mut found = self.get(prefix, options).await?;
        let revision = found
            .header()
            .ok_or_else(RequestError::malformed_reply)?
            .revision();
        let mut keys = found.take_kvs();
        keys.retain(|kv| parse_below(prefix, kv.key()).is_some());
        Ok((keys, revision))
    }

    /// Reads one contender by its key. Returns `None` if it is gone.
    pub(crate) async fn read(
        &self,
        operation: &'static str,
        key: &KeyValue,
    ) -> Result<Option<QueueEntry>, RequestError> {
        let mut found = self.get(key.key(), GetOptions::new()).await?;
        let Some(kv) = found.take_kvs().into_iter().next() else {
            return Ok(None);
        };
        let Some((_, contender)) = self.keys.parse(kv.key()) else {
            return Ok(None);
        };
        Ok(Some(record::read(operation, contender, &kv)?))
    }
}
