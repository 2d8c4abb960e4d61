//! A cache entry that many processes read and one process refills.
//!
//! When an entry has expired, the holder of the lock asks the slow origin. The other processes wait and
//! read the new value from the cache, or with `--stale` serve the old value at once. A process that is
//! paused while it asks the origin may resume with an outdated value. Each entry therefore keeps the
//! fencing token of its write, and an older token does not overwrite it.
//!
//! **The line that matters** is the last line of the SQL in [`cache::Cache::put`].
//!
//! The origin is one line of standard input, the new value. Start the program in two terminals, and
//! press Ctrl-Z in the terminal that asks the origin.

mod cache;

use std::{error::Error, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::cache::{Cache, Entry, Stored};

/// Prints the value of a key: from the cache if it is fresh, or else from the origin, which is one line
/// of standard input. Exit codes: 0 for success, 75 if the refill by another process takes too long,
/// 79 if the refill of this process was late and was refused.
#[derive(Clone, Parser)]
struct Args {
    /// Key of the entry
    #[arg(default_value = "greeting")]
    key: String,
    /// URL of the store; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The file of the cache
    #[arg(long, default_value = "cache.sqlite")]
    cache: PathBuf,
    /// Name of this node
    #[arg(long, default_value = "node")]
    node: String,
    /// How many seconds a stored value is fresh
    #[arg(long, default_value_t = 60)]
    fresh: u32,
    /// Serves the old value, if there is one, while another process refills the entry
    #[arg(long)]
    stale: bool,
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
        eprintln!("example-cache-refill: {failure}");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> Result<ExitCode, Failure> {
    let cache = Cache::open(&args.cache)?;
    if let Some(code) = serve(&cache, &args)? {
        // This is the usual case, which needs neither a lock nor the store.
        return Ok(code);
    }
    // Flags override variables such as TENURE__BACKEND__PASSWORD.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.node, "flag --node")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = refill(&client, config.wait, cache, args).await;
    // Releases locks that were cancelled or dropped, before the program ends.
    client.shutdown(Duration::from_secs(1)).await;
    code
}

/// Prints the value if it is fresh.
fn serve(cache: &Cache, args: &Args) -> Result<Option<ExitCode>, Failure> {
    let Some(Entry { value, fresh: true }) = cache.get(&args.key)? else {
        return Ok(None);
    };
    println!("{}: from the cache: {value}", args.node);
    Ok(Some(ExitCode::SUCCESS))
}

async fn refill(
    client: &Client,
    wait: Option<Duration>,
    mut cache: Cache,
    args: Args,
) -> Result<ExitCode, Failure> {
    let node = args.node.clone();
    let lock = client.lock(format!("cache/{}", args.key))?;
    let mut acquired = lock.try_acquire().await?;
    if let Acquisition::Busy(_) = acquired {
        if args.stale
            && let Some(old) = cache.get(&args.key)?
        {
            println!("{node}: the old value: {}", old.value);
            return Ok(ExitCode::SUCCESS);
        }
        println!("{node}: waits for the refill");
        acquired = lock.acquire_observed(wait, |_| {}).await?;
    }
    let Acquisition::Acquired(guard) = acquired else {
        println!("{node}: the refill takes too long");
        return Ok(ExitCode::from(75));
    };
    // The previous holder has probably refilled the entry.
    if let Some(code) = serve(&cache, &args)? {
        return Ok(code);
    }
    let token = guard.token();
    println!("{node}: asks the origin, token {token}");

    // The refill does not check whether the lock is still held, because the token makes it safe.
    let refilled = tokio::task::spawn_blocking(move || {
        let value = ask_origin()?;
        let stored = cache.put(&args.key, &value, args.fresh, token, !args.no_fencing)?;
        Ok::<_, Failure>((stored, value))
    });
    let code = match refilled.await?? {
        (Stored::Yes, value) => {
            println!("{node}: from the origin: {value}");
            ExitCode::SUCCESS
        }
        (Stored::Refused { newer }, _) => {
            println!(
                "{node}: refused: token {token} is stale, the cache has a newer value: {newer}"
            );
            ExitCode::from(79)
        }
    };
    if let Release::Unknown(error) = guard.release().await {
        println!("{node}: {error}; the store frees the lock at the end of its TTL");
    }
    Ok(code)
}

/// Asks the origin, which is slow: only one process should ask at a time.
fn ask_origin() -> Result<String, Failure> {
    let line = io::stdin().lines().next();
    Ok(line.ok_or("the origin returned no value")??)
}
