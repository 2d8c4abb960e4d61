//! A cache entry that many want and one refills.
//!
//! When an entry has run out, whoever gets the lock asks the slow origin; the others wait and get
//! the new value from the cache, or with `--stale` are served the old one at once. A process that
//! is paused while it asks the origin comes back with a value that is no longer the newest. So each
//! entry keeps the fencing token that it was written with, and an older token does not overwrite
//! it.
//!
//! **The line that matters** is the last of the SQL in [`cache::Cache::put`].
//!
//! The origin is standard input: one line, the new value. Start it in two terminals, press Ctrl-Z
//! in the one that asks the origin, and see.

mod cache;

use std::{error::Error, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tenure::{Acquisition, Client, Config, Release, Sources, default_registry};

use crate::cache::{Cache, Entry, Stored};

/// Prints the value of a key, from the cache if it is fresh there, else from the origin: one line
/// of standard input. Exits with 0, with 75 when somebody else refills it for too long, with 79
/// when our refill came late and was refused.
#[derive(Clone, Parser)]
struct Args {
    /// Which entry
    #[arg(default_value = "greeting")]
    key: String,
    /// Where the locks are; file:/DIRECTORY needs no server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
    /// The cache
    #[arg(long, default_value = "cache.sqlite")]
    cache: PathBuf,
    /// Who we are
    #[arg(long, default_value = "node")]
    node: String,
    /// For how many seconds a value that we put there is fresh
    #[arg(long, default_value_t = 60)]
    fresh: u32,
    /// Serves the old value, if there is one, while somebody else refills the entry
    #[arg(long)]
    stale: bool,
    /// How long the store keeps the lock when we fall silent
    #[arg(long, default_value = "5s")]
    ttl: String,
    /// How long to wait for the lock
    #[arg(long, default_value = "1m")]
    wait: String,
    /// Refills without looking at the token, to see what goes wrong then
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
        // Most of the time: neither lock nor store is needed.
        return Ok(code);
    }
    // Variables such as TENURE__BACKEND__PASSWORD count; the flags have the last word.
    let sources = Sources::new()
        .environment()
        .set("backend.url", &args.url, "flag --url")
        .set("lock.label", &args.node, "flag --node")
        .set("lock.ttl", &args.ttl, "flag --ttl")
        .set("lock.wait", &args.wait, "flag --wait");
    let config = Config::load(&sources)?;
    let client = config.connect(&default_registry()).await?;
    let code = refill(&client, config.wait, cache, args).await;
    // What was cancelled or dropped is given back before the program ends.
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
    // Whoever had the lock before us has probably done it.
    if let Some(code) = serve(&cache, &args)? {
        return Ok(code);
    }
    let token = guard.token();
    println!("{node}: asks the origin, token {token}");

    // It does not even ask whether the lock is still held: the token alone makes this safe.
    let refilled = tokio::task::spawn_blocking(move || {
        let value = ask_the_origin()?;
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
        println!("{node}: {error}; the lock is free again when its TTL is over");
    }
    Ok(code)
}

/// Slow, and not to be asked by everybody at once.
fn ask_the_origin() -> Result<String, Failure> {
    let line = io::stdin().lines().next();
    Ok(line.ok_or("the origin gave no value")??)
}
