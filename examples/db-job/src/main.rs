//! A nightly job that only one node may run: it books the day's sales into a ledger.
//!
//! Every node starts the job. The lock lets one of them work; the others wait, and then find the night
//! booked. If a node is paused for longer than its TTL, another node takes over, and the first node does
//! not know this when it resumes. Each write therefore presents the fencing token, and the database
//! refuses a token that is lower than an earlier one.
//!
//! **The line that matters** is the `WHERE` in [`ledger::present_token`]. It must be part of the
//! transaction that writes.
//!
//! The sales come from standard input, one amount in cents per line. Start the program in two terminals,
//! and press Ctrl-Z in the terminal that has the lock.

mod ledger;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::ledger::Booking;

/// Books the night's sales from standard input, one amount in cents per line. Exit codes: 0 if the night
/// is booked, 75 if the wait for the lock timed out, 79 if the booking was refused.
#[derive(Clone, Parser)]
struct Args {
    /// URL of the store; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The database
    #[arg(long, default_value = "ledger.sqlite")]
    db: PathBuf,
    /// Name of this node
    #[arg(long, default_value = "node")]
    node: String,
    /// The night of the sales
    #[arg(long, default_value = "tonight")]
    night: String,
    /// How long the store keeps the lock after the last renewal
    #[arg(long, default_value = "5s")]
    ttl: String,
    /// How long to wait for the lock
    #[arg(long, default_value = "5m")]
    wait: String,
    /// Writes without the token, to show the resulting error
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
    // Flags override variables such as TENURE__BACKEND__PASSWORD.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.node, "flag --node")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = run_job(&client, config.wait, args).await;
    // Releases locks that were cancelled or dropped, before the program ends.
    client.shutdown(Duration::from_secs(1)).await;
    code
}

async fn run_job(client: &Client, wait: Option<Duration>, args: Args) -> Result<ExitCode, Failure> {
    let node = args.node.clone();
    let lock = client.lock("nightly-booking")?;
    let mut announced = false;
    let acquired = lock.acquire_observed(wait, |_| {
        if !std::mem::replace(&mut announced, true) {
            println!("{node}: waits for the lock");
        }
    });
    let Acquisition::Acquired(guard) = acquired.await? else {
        println!("{node}: another node still has the lock");
        return Ok(ExitCode::from(75));
    };
    let token = guard.token();
    println!("{node}: has the lock, token {token}");

    // Blocking work runs in a separate thread, so that the runtime can renew the lock.
    let mut job = tokio::task::spawn_blocking(move || {
        ledger::book_sales(&args.db, &args.node, &args.night, token, !args.no_fencing)
    });
    let booking = tokio::select! {
        booking = &mut job => booking,
        reason = guard.lost() => {
            // A thread cannot be stopped from outside. This is safe, because its token is stale.
            println!("{node}: lost the lock ({reason}); the current work continues");
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
        println!("{node}: {error}; the store frees the lock at the end of its TTL");
    }
    Ok(code)
}
