//! A backend on the compare-and-swap adapter: locks in a table of versioned rows, as many stores have.
//! This table is in memory; a real table has the same three operations.

mod factory;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
pub use factory::TableFactory;
use tenure::{
    Error,
    backend::{Backend, BackendInfo, Connect, Context},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    cas::{BlobStore, Cas, Key, Names, Swap, Version, Versioned},
    name::{LockName, Namespace},
};

/// How often a waiter reads the table, which cannot notify it of a change.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A table. Clones share the rows.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    rows: BTreeMap<Key, Versioned>,
    /// Counts the writes, so that each content has a different version.
    writes: u64,
}

#[async_trait]
impl BlobStore for Table {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("table", format!("table:{:p}", Arc::as_ptr(&self.0)))
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let (millisecond, year) = (Duration::from_millis(1), Duration::from_secs(31_536_000));
        Ok(Capabilities::new(
            Durability::Volatile,
            WaitMode::Poll {
                every: POLL_INTERVAL,
            },
            LossEvidence::new(Evidence::NextRenewal, Evidence::NextRenewal),
            TtlRange::new(millisecond * 100, year, millisecond, TtlScope::Lock),
            TakeoverBound::new(200, 100, POLL_INTERVAL * 4),
        ))
    }

    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(table.rows.get(key).cloned())
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.rows.get(key).map(|row| &row.version) != expected {
            return Ok(Swap::Conflict);
        }
        table.writes += 1;
        let version = Version::new(table.writes.to_string());
        let row = Versioned::new(version.clone(), bytes);
        table.rows.insert(key.clone(), row);
        Ok(Swap::Swapped(version))
    }

    async fn list(
        &self,
        namespace: &Namespace,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Names, Error> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |name: &LockName| {
            name.as_str().starts_with(prefix) && cursor.is_none_or(|last| name.as_str() > last)
        };
        let keys = table.rows.keys().filter(|key| &key.namespace == namespace);
        let names = keys.map(|key| key.name.clone()).filter(wanted);
        let page: Vec<_> = names.take(limit).collect();
        let last = page.last().filter(|_| page.len() == limit);
        let next = last.map(|name| name.as_str().to_owned());
        Ok(Names::new(page, next))
    }
}

#[async_trait]
impl Connect for Table {
    fn info(&self) -> BackendInfo {
        BlobStore::info(self)
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Cas::new(self.clone(), context)?))
    }
}
