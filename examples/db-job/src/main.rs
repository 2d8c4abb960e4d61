//! A nightly job that only one node may run: it books the day's sales into a ledger.
//!
//! Every node starts it. The lock lets one of them work; the others wait, and find the night
//! booked. A node that is paused for longer than its TTL is succeeded by another one, and when it
//! goes on it does not know that. So the write carries the fencing token, and the database refuses
//! one that is lower than it has seen.
//!
//! **The line that matters** is the `WHERE` in [`ledger::show_token`], and that it is part of the
//! transaction that writes.
//!
//! The sales come from standard input, one amount in cents per line, until it ends. Start it in two
//! terminals, press Ctrl-Z in the one that has the lock, and see.

mod ledger;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::ledger::Booking;

/// Books the night's sales, read from standard input: one amount in cents per line. Exits with 0
/// when the night is booked, 75 when the lock was not to be had, 79 when the booking was refused.
#[derive(Clone, Parser)]
struct Args {
    /// Where the locks are; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The database
    #[arg(long, default_value = "ledger.sqlite")]
    db: PathBuf,
    /// Who we are
    #[arg(long, default_value = "node")]
    node: String,
    /// Which night's sales these are
    #[arg(long, default_value = "tonight")]
    night: String,
    /// How long the store keeps the lock when we fall silent
    #[arg(long, default_value = "5s")]
    ttl: String,
    /// How long to wait for the lock
    #[arg(long, default_value = "5m")]
    wait: String,
    /// Writes without showing the token, to see what goes wrong then
    #[arg(long, hide = true)]
    no_fencing: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    run(Args::parse()).await.unwrap_or_else(|failure| {
        eprintln!("example-db-job: {failure}");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> Result<ExitCode, Failure> {
    // Variables such as TENURE__BACKEND__PASSWORD count; the flags have the last word.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.node, "flag --node")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = run_job(&client, config.wait, args).await;
    // What was cancelled or dropped is given back before the program ends.
    client.shutdown(Duration::from_secs(1)).await;
    code
}

async fn run_job(client: &Client, wait: Option<Duration>, args: Args) -> Result<ExitCode, Failure> {
    let node = args.node.clone();
    let lock = client.lock("nightly-booking")?;
    let mut told = false;
    let acquired = lock.acquire_observed(wait, |_| {
        if !std::mem::replace(&mut told, true) {
            println!("{node}: waits for the lock");
        }
    });
    let Acquisition::Acquired(guard) = acquired.await? else {
        println!("{node}: another node still has the lock");
        return Ok(ExitCode::from(75));
    };
    let token = guard.token();
    println!("{node}: has the lock, token {token}");

    // Work that blocks gets a thread of its own: the lock is renewed meanwhile.
    let mut job = tokio::task::spawn_blocking(move || {
        ledger::book_sales(&args.db, &args.node, &args.night, token, !args.no_fencing)
    });
    let booking = tokio::select! {
        booking = &mut job => booking,
        reason = guard.lost() => {
            // A thread cannot be stopped from outside. It need not be: its token is stale.
            println!("{node}: lost the lock ({reason}); the work under way goes on");
            job.await
        }
    };
    let code = match booking?? {
        Booking::Booked(sales) => {
            println!("{node}: booked {sales} sales");
            ExitCode::SUCCESS
        }
        Booking::BookedBefore => {
            println!("{node}: the night is booked already");
            ExitCode::SUCCESS
        }
        Booking::Refused { seen } => {
            println!("{node}: refused: token {token} is stale, the ledger has seen {seen}");
            ExitCode::from(79)
        }
    };
    if let Release::Unknown(error) = guard.release().await {
        println!("{node}: {error}; the lock is free again when its TTL is over");
    }
    Ok(code)
}
