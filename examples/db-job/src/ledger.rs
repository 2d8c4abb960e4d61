//! The job and its database. This module knows only the token of the lock.

use std::{io, path::Path, time::Duration};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tenure::token::FencingToken;

use crate::Failure;

/// The outcome of the job.
pub(crate) enum Booking {
    Booked(usize),
    BookedBefore,
    /// The database has seen the token of a later holder.
    Refused {
        seen: i64,
    },
}

/// Reads and books the sales, unless the night is already booked.
pub(crate) fn book_sales(
    path: &Path,
    node: &str,
    night: &str,
    token: FencingToken,
    fencing: bool,
) -> Result<Booking, Failure> {
    let mut db = open(path)?;

    // The token is presented before the work and not only with the result. From now on no earlier holder
    // can write, so the values that this job reads remain valid.
    let start = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(seen) = present_token(&start, token)? {
        return Ok(Booking::Refused { seen });
    }
    let booked = "SELECT EXISTS (SELECT 1 FROM ledger WHERE night = ?1)";
    if start.query_row(booked, [night], |row| row.get(0))? {
        return Ok(Booking::BookedBefore);
    }
    start.commit()?;

    println!("{node}: reads the sales");
    let mut sales: Vec<i64> = Vec::new();
    for line in io::stdin().lines() {
        let line = line?;
        let cents = line.trim().parse();
        sales.push(cents.map_err(|_| format!("{line:?} is no amount in cents"))?);
    }

    // The lock may have been lost in the meantime, so the transaction that writes presents the token
    // again.
    let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if fencing && let Some(seen) = present_token(&write, token)? {
        return Ok(Booking::Refused { seen });
    }
    for cents in &sales {
        let insert = "INSERT INTO ledger (night, node, cents) VALUES (?1, ?2, ?3)";
        write.execute(insert, (night, node, cents))?;
    }
    write.commit()?;
    Ok(Booking::Booked(sales.len()))
}

/// Presents the token to the database. A stale token changes nothing; in this case the function returns
/// the highest token that the database has seen.
pub(crate) fn present_token(
    transaction: &Transaction<'_>,
    token: FencingToken,
) -> Result<Option<i64>, Failure> {
    let accepted = transaction.execute(
        "INSERT INTO fence (job, token) VALUES ('nightly-booking', ?1)
         ON CONFLICT (job) DO UPDATE SET token = excluded.token
         WHERE excluded.token >= fence.token",
        [i64::try_from(token.get())?],
    )?;
    if accepted == 1 {
        return Ok(None);
    }
    let seen = "SELECT token FROM fence WHERE job = 'nightly-booking'";
    Ok(Some(transaction.query_row(seen, [], |row| row.get(0))?))
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS fence (job TEXT PRIMARY KEY, token INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS ledger (night TEXT, node TEXT, cents INTEGER);",
    )?;
    Ok(db)
}
