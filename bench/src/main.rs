//! The speed of locks: `tenure` beside the store's own requests (the baseline) and beside other
//! libraries. All of them take turns in one run on one server, so that drift of the machine affects
//! all equally. Only the ratios are meaningful.
//!
//! `cargo run --release -p tenure-bench -- --help` lists the arguments.

mod commands;
mod delay;
mod delay_proxy;
mod etcd;
mod held_locks;
mod implementation;
mod kinds;
mod limits;
mod machine;
mod measure;
mod memory;
mod options;
mod page;
mod peer;
mod plot;
mod redis;
mod results;
mod store;
mod takeover;
mod zookeeper;

use std::process::ExitCode;

use implementation::Failure;
use options::Options;
use results::Results;
use store::Store;

const HELP: &str = "\
Measures the speed of locks: tenure beside the store's own requests and beside other libraries.

Usage: tenure-bench [STORE...] [PART...] [IMPLEMENTATION] [OPTIONS]

Without arguments everything is measured, which takes about half an hour.

Stores: memory, file, redis, etcd, zookeeper

Parts:
  uncontended  one client acquires and releases a free lock
  independent  many tasks, each with a lock of its own
  contended    one lock, with a client for each waiter
  kinds        one lock that 64 clients share: readers, permits, readers with writers
  one-client   one lock, with all waiters in one client
  processes    one lock, with 16 processes of `tenure run`
  delay        the same operations with 5 ms of delay for each reply
  takeover     the time from the death of a holder to the next grant
  held         requests, processor time and memory of held locks
  reconnect    the time until held locks are renewed after the connections break
  run          one `tenure run` after the other, beside flock(1)

Implementation: the only one to measure, such as tenure, baseline or rslock

Options:
  --strict          fail if an implementation is missing or a required ratio is not reached
  --json FILE       write all results as JSON
  --page DIRECTORY  write a page, benchmark.md, and its plots";

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tenure-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, url, lock] = &arguments[..]
        && first == takeover::HOLD_ARGUMENT
    {
        return takeover::hold_until_killed(url, lock).await;
    }
    if let [first, url] = &arguments[..]
        && first == held_locks::MEMORY_ARGUMENT
    {
        return held_locks::print_memory(url).await;
    }
    if arguments.iter().any(|one| one == "--help" || one == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    options.create_directories()?;
    let mut results = Results::new(machine::describe());
    if options.store("memory") {
        measure_store("memory", memory::start().await?, &options, &mut results).await?;
    }
    if options.store("file") {
        measure_file(&options, &mut results).await?;
    }
    if options.store("redis") {
        measure_store("redis", redis::start().await?, &options, &mut results).await?;
    }
    if options.store("etcd") {
        measure_store("etcd", etcd::start().await?, &options, &mut results).await?;
    }
    if options.store("zookeeper") {
        let store = zookeeper::start().await?;
        measure_store("zookeeper", store, &options, &mut results).await?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&results)?)?;
    }
    if let Some(directory) = &options.page {
        page::write(&results, directory)?;
    }
    let missed = limits::missed(&results);
    if options.strict && !missed.is_empty() {
        return Err(missed.join("; ").into());
    }
    Ok(())
}

/// Measures all wanted parts of one store.
async fn measure_store(
    name: &str,
    store: Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    println!("\n{}, on loopback", store.description);
    let description = store.description.clone();
    results.stores.push((name.to_owned(), description));
    for missing in &store.missing {
        if options.strict {
            return Err(missing.as_str().into());
        }
        println!("{missing}");
        results.note(name, missing.clone());
    }
    for peer in &store.peers {
        results.note(name, format!("{}: {}", peer.name, peer.version));
    }
    measure::measure(name, &store, options, results).await?;
    if options.part("kinds") {
        kinds::measure(name, &store, options, results).await?;
    }
    if name != "memory" {
        commands::measure(name, &store.url, options, results).await?;
    }
    if options.part("delay") {
        delay::delay(name, &store, options, results).await?;
    }
    if options.part("takeover") && name != "memory" {
        takeover::takeover(name, &store, results).await?;
    }
    if options.part("held") {
        held_locks::held(name, &store, results).await?;
    }
    if options.part("reconnect") {
        held_locks::reconnect(name, &store, results).await?;
    }
    show(name, results);
    Ok(())
}

/// Measures the commands on files of this host.
async fn measure_file(options: &Options, results: &mut Results) -> Result<(), Failure> {
    let description = "files of this host".to_owned();
    results.stores.push(("file".to_owned(), description));
    let directory = tempfile::tempdir()?;
    let url = format!("file:{}", directory.path().join("locks").display());
    commands::measure("file", &url, options, results).await?;
    show("file", results);
    Ok(())
}

fn show(name: &str, results: &Results) {
    for metric in results.metrics(name) {
        println!("\n{}", results.table(name, metric).trim_end());
    }
    if let Some(table) = limits::table(results, name) {
        println!("\n{}", table.trim_end());
    }
}
