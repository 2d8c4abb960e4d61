//! The result of a message, and its database. This module knows only the token of the lock.

use std::{io, path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tenure::token::FencingToken;

use crate::Failure;

/// The outcome of handling a message.
pub(crate) enum Handled {
    Now,
    Before {
        by: String,
    },
    /// A later holder of the lock handles the message.
    Refused {
        seen: i64,
    },
}

/// Pays, unless the message has been handled.
pub(crate) fn pay(
    path: &Path,
    worker: &str,
    message: &str,
    cents: i64,
    token: FencingToken,
    fencing: bool,
) -> Result<Handled, Failure> {
    let mut db = open(path)?;
    let token = i64::try_from(token.get())?;

    // The token is stored before the work and not only with the result. From now on no earlier holder
    // can settle the message.
    let start = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken = start.execute(
        "INSERT INTO message (id, token) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET token = excluded.token
         WHERE excluded.token > message.token AND message.receipt IS NULL",
        (message, token),
    )?;
    if taken == 0 {
        return refusal(&start, message);
    }
    start.commit()?;

    // The bank does not check tokens. It receives the message's id, recognises a second order for the
    // same payment, and returns the same receipt.
    println!("{worker}: asks the bank to pay {cents} for {message}");
    let receipt = io::stdin().lines().next();
    let receipt = receipt.ok_or("the bank gave no receipt")??;

    let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Without fencing the token is never stale, which shows the resulting error.
    let token = if fencing { token } else { i64::MAX };
    if !settle(&write, message, worker, &receipt, token)? {
        return refusal(&write, message);
    }
    let payment = "INSERT INTO payment (message, cents) VALUES (?1, ?2)";
    write.execute(payment, (message, cents))?;
    write.commit()?;
    Ok(Handled::Now)
}

/// Marks the message as handled, in the transaction that writes the result. Returns false if the message
/// is already handled or the token is stale.
pub(crate) fn settle(
    write: &Transaction<'_>,
    message: &str,
    worker: &str,
    receipt: &str,
    token: i64,
) -> Result<bool, Failure> {
    let settled = write.execute(
        "UPDATE message SET worker = ?2, receipt = ?3
         WHERE id = ?1 AND receipt IS NULL AND token <= ?4",
        (message, worker, receipt, token),
    )?;
    Ok(settled == 1)
}

/// Returns why this worker must not handle the message.
fn refusal(transaction: &Transaction<'_>, message: &str) -> Result<Handled, Failure> {
    let by = "SELECT worker FROM message WHERE id = ?1 AND receipt IS NOT NULL";
    let by = transaction.query_row(by, [message], |row| row.get(0));
    if let Some(by) = by.optional()? {
        return Ok(Handled::Before { by });
    }
    let seen = "SELECT token FROM message WHERE id = ?1";
    let seen = transaction.query_row(seen, [message], |row| row.get(0))?;
    Ok(Handled::Refused { seen })
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS message (
             id TEXT PRIMARY KEY,
             token INTEGER NOT NULL,
             worker TEXT,
             receipt TEXT
         );
         CREATE TABLE IF NOT EXISTS payment (message TEXT NOT NULL, cents INTEGER NOT NULL);",
    )?;
    Ok(db)
}
