//! Handles a message once although a queue delivers it twice.
//!
//! A queue with at-least-once delivery sometimes gives the same message to two workers. The lock of the
//! message lets one of them work; the other waits, and then finds the message handled. Two mechanisms
//! make this safe, and neither replaces the other:
//!
//! - The message's id is the key of the result, so a later worker finds the result.
//! - The fencing token of the current worker is stored beside the id. A worker that was paused past its
//!   TTL is refused, even while its successor still works.
//!
//! **The line that matters** is the `WHERE` in [`ledger::settle`].
//!
//! The message orders a payment. The answer of the bank is one line of standard input, the receipt.
//! Start the program in two terminals, and press Ctrl-Z in the terminal that asks the bank.

mod ledger;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::ledger::Handled;

/// Handles a message that orders a payment. Exit codes: 0 if the message is handled and can be
/// acknowledged, 75 if another worker needs too long, 79 if the payment of this worker was refused.
#[derive(Clone, Parser)]
struct Args {
    /// The message's id, the same for each delivery
    #[arg(default_value = "message-1")]
    message: String,
    /// The amount to pay, in cents
    #[arg(long, default_value_t = 100)]
    cents: i64,
    /// URL of the store; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The database
    #[arg(long, default_value = "payments.sqlite")]
    db: PathBuf,
    /// Name of this worker
    #[arg(long, default_value = "worker")]
    worker: String,
    /// How long the store keeps the lock after the last renewal
    #[arg(long, default_value = "5s")]
    ttl: String,
    /// How long to wait for the lock
    #[arg(long, default_value = "1m")]
    wait: String,
    /// Ignores the token, to show the resulting error
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
    // Flags override variables such as TENURE__BACKEND__PASSWORD.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.worker, "flag --worker")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = handle(&client, config.wait, args).await;
    // Releases locks that were cancelled or dropped, before the program ends.
    client.shutdown(Duration::from_secs(1)).await;
    code
}

async fn handle(client: &Client, wait: Option<Duration>, args: Args) -> Result<ExitCode, Failure> {
    let worker = args.worker.clone();
    let lock = client.lock(format!("message/{}", args.message))?;
    let mut announced = false;
    let acquired = lock.acquire_observed(wait, |_| {
        if !std::mem::replace(&mut announced, true) {
            println!("{worker}: waits, another worker has this message");
        }
    });
    let Acquisition::Acquired(guard) = acquired.await? else {
        println!("{worker}: another worker still has this message; deliver it again later");
        return Ok(ExitCode::from(75));
    };
    let token = guard.token();
    println!("{worker}: has the message, token {token}");

    // Blocking work runs in a separate thread, so that the runtime can renew the lock.
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
            // A thread cannot be stopped from outside. This is safe, because its token is stale.
            println!("{worker}: lost the message ({reason}); the current work continues");
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
        println!("{worker}: {error}; the store frees the lock at the end of its TTL");
    }
    Ok(code)
}
