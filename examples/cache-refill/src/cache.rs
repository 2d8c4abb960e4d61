//! The cache: a table in which an older token does not overwrite an entry.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tenure::token::FencingToken;

use crate::Failure;

/// The cache, shared by all processes that open its file.
pub(crate) struct Cache(Connection);

/// The entry of a key.
pub(crate) struct Entry {
    pub(crate) value: String,
    /// Whether the value has not expired.
    pub(crate) fresh: bool,
}

/// The outcome of a write.
pub(crate) enum Stored {
    Yes,
    /// A later holder of the lock has written this value.
    Refused {
        newer: String,
    },
}

impl Cache {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(10))?;
        // The token must be kept as long as a late write is possible. A deleted entry therefore keeps its
        // row, with an empty value.
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS cache (
                 key TEXT PRIMARY KEY,
                 value TEXT NOT NULL,
                 fresh_until INTEGER NOT NULL,
                 token INTEGER NOT NULL
             )",
        )?;
        Ok(Self(db))
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>, Failure> {
        let entry = "SELECT value, fresh_until > unixepoch() FROM cache WHERE key = ?1";
        let entry = self.0.query_row(entry, [key], |row| {
            let (value, fresh) = (row.get(0)?, row.get(1)?);
            Ok(Entry { value, fresh })
        });
        Ok(entry.optional()?)
    }

    /// Stores a value that is fresh for `fresh` seconds, unless a later holder of the lock has written
    /// the entry.
    pub(crate) fn put(
        &mut self,
        key: &str,
        value: &str,
        fresh: u32,
        token: FencingToken,
        fencing: bool,
    ) -> Result<Stored, Failure> {
        // Without fencing the token is never stale, which shows the resulting error.
        let token = if fencing { token } else { FencingToken::MAX };
        let write = self
            .0
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = write.execute(
            "INSERT INTO cache (key, value, fresh_until, token)
             VALUES (?1, ?2, unixepoch() + ?3, ?4)
             ON CONFLICT (key) DO UPDATE
             SET value = excluded.value, fresh_until = excluded.fresh_until, token = excluded.token
             WHERE excluded.token >= cache.token",
            (key, value, fresh, i64::try_from(token.get())?),
        )?;
        let stored = if stored == 1 {
            Stored::Yes
        } else {
            let newer = "SELECT value FROM cache WHERE key = ?1";
            let newer = write.query_row(newer, [key], |row| row.get(0))?;
            Stored::Refused { newer }
        };
        write.commit()?;
        Ok(stored)
    }
}
