//! A message that is handled once although two workers got it.
//!
//! A queue that delivers at least once gives the same message to two workers now and then. The lock
//! of that message lets one of them work; the other waits, and finds it handled. Two things make
//! that safe, and neither replaces the other:
//!
//! - the message's id is the key of what handling it came to: who comes after that finds it there;
//! - the fencing token of the worker that is at it stands beside the id: a worker that was paused
//!   past its TTL is refused even while its successor has not come to an end.
//!
//! **The line that matters** is the `WHERE` in [`ledger::settle`].
//!
//! The message orders a payment. What the bank answers comes from standard input: one line, the
//! receipt. Start it in two terminals, press Ctrl-Z in the one that talks to the bank, and see.

mod ledger;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::ledger::Handled;

/// Handles a message, a payment. Exits with 0 when it is handled, so that it can be acknowledged;
/// with 75 when another worker is at it for too long, with 79 when our handling was refused.
#[derive(Clone, Parser)]
struct Args {
    /// The message's id, the same for each delivery
    #[arg(default_value = "message-1")]
    message: String,
    /// What is to be paid, in cents
    #[arg(long, default_value_t = 100)]
    cents: i64,
    /// Where the locks are; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The database
    #[arg(long, default_value = "payments.sqlite")]
    db: PathBuf,
    /// Who we are
    #[arg(long, default_value = "worker")]
    worker: String,
    /// How long the store keeps the lock when we fall silent
    #[arg(long, default_value = "5s")]
    ttl: String,
    /// How long to wait for the lock
    #[arg(long, default_value = "1m")]
    wait: String,
    /// Writes without looking at the token, to see what goes wrong then
    #[arg(long, hide = true)]
    no_fencing: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    run(Args::parse()).await.unwrap_or_else(|failure| {
        eprintln!("example-message-once: {failure}");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> Result<ExitCode, Failure> {
    // Variables such as TENURE__BACKEND__PASSWORD count; the flags have the last word.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.worker, "flag --worker")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = handle(&client, config.wait, args).await;
    // What was cancelled or dropped is given back before the program ends.
    client.shutdown(Duration::from_secs(1)).await;
    code
}

async fn handle(client: &Client, wait: Option<Duration>, args: Args) -> Result<ExitCode, Failure> {
    let worker = args.worker.clone();
    let lock = client.lock(format!("message/{}", args.message))?;
    let mut told = false;
    let acquired = lock.acquire_observed(wait, |_| {
        if !std::mem::replace(&mut told, true) {
            println!("{worker}: waits, another worker has this message");
        }
    });
    let Acquisition::Acquired(guard) = acquired.await? else {
        println!("{worker}: another worker still has this message; deliver it again later");
        return Ok(ExitCode::from(75));
    };
    let token = guard.token();
    println!("{worker}: has the message, token {token}");

    // Work that blocks gets a thread of its own: the lock is renewed meanwhile.
    let mut work = tokio::task::spawn_blocking(move || {
        let fencing = !args.no_fencing;
        ledger::pay(
            &args.db,
            &args.worker,
            &args.message,
            args.cents,
            token,
            fencing,
        )
    });
    let handled = tokio::select! {
        handled = &mut work => handled,
        reason = guard.lost() => {
            // A thread cannot be stopped from outside. It need not be: its token is stale.
            println!("{worker}: lost the message ({reason}); the work under way goes on");
            work.await
        }
    };
    let code = match handled?? {
        Handled::Now => {
            println!("{worker}: handled it");
            ExitCode::SUCCESS
        }
        Handled::Before { by } => {
            println!("{worker}: handled before, by {by}");
            ExitCode::SUCCESS
        }
        Handled::Refused { seen } => {
            println!("{worker}: refused: token {token} is stale, the message has seen {seen}");
            ExitCode::from(79)
        }
    };
    if let Release::Unknown(error) = guard.release().await {
        println!("{worker}: {error}; the lock is free again when its TTL is over");
    }
    Ok(code)
}
