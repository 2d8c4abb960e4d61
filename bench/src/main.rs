//! How fast locks are: `tenure` beside the store's own requests (the baseline) and beside other
//! libraries, interleaved in one run on one server, so that drift of the machine hits all alike.
//! Only the ratios mean anything.
//!
//! `cargo run --release -p tenure-bench` takes some minutes. Words choose: stores (`memory`, `file`,
//! `redis`, `etcd`, `zookeeper`), parts (`alone`, `many`, `one`, `each`, `delay`, `takeover`, `held`,
//! `cut`, `run`), and the only implementation, as in `... -- etcd alone many tenure`. `--json FILE`
//! writes all numbers, and `--page DIRECTORY` a page with plots.

mod contender;
mod delay;
mod etcd;
mod held;
mod limits;
mod machine;
mod measure;
mod memory;
mod options;
mod page;
mod plot;
mod program;
mod redis;
mod results;
mod run;
mod takeover;
mod way;
mod zookeeper;

use std::process::ExitCode;

use contender::{Failure, Store};
use options::Options;
use results::Results;

const HELP: &str = "\
How fast locks are: tenure beside the store's own requests and beside other libraries.

Usage: tenure-bench [WORD...] [--json FILE] [--page DIRECTORY]

Words choose what is measured; without any it is everything, for about half an hour:
  stores          memory, file, redis, etcd, zookeeper
  parts           alone   one client takes and releases a free lock
                  many    a lock for each of many tasks
                  one     one lock that many waiters of one client want
                  each    one lock that many waiters want who have a client each
                  delay   the same with 5 ms of delay for each reply
                  takeover, held, cut, run
  implementation  one by its name, such as tenure, baseline, rslock

  --strict          fail if another implementation is not installed
  --json FILE       write all numbers
  --page DIRECTORY  write a page, benchmark.md, with its plots";

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
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, url, lock] = &words[..]
        && first == takeover::HOLD
    {
        return takeover::be_killed(url, lock).await;
    }
    if let [first, url] = &words[..]
        && first == held::MEMORY_OF
    {
        return held::memory_of(url).await;
    }
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(words)?;
    options.make_room()?;
    let mut results = Results::new(machine::describe());
    if options.store("memory") {
        store("memory", memory::start().await?, &options, &mut results).await?;
    }
    if options.store("file") && options.part("run") {
        results
            .stores
            .push(("file".to_owned(), "files of this host".to_owned()));
        run::run(&mut results)?;
        show("file", &results);
    }
    if options.store("redis") {
        store("redis", redis::start().await?, &options, &mut results).await?;
    }
    if options.store("etcd") {
        store("etcd", etcd::start().await?, &options, &mut results).await?;
    }
    if options.store("zookeeper") {
        store(
            "zookeeper",
            zookeeper::start().await?,
            &options,
            &mut results,
        )
        .await?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&results)?)?;
    }
    if let Some(directory) = &options.page {
        page::write(&results, directory)?;
    }
    Ok(())
}

/// All that is wanted of one store.
async fn store(
    name: &str,
    store: Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    println!("\n{}, on loopback", store.what);
    results.stores.push((name.to_owned(), store.what.clone()));
    for missing in &store.missing {
        if options.strict {
            return Err(missing.as_str().into());
        }
        println!("{missing}");
        results.note(name, missing.clone());
    }
    for launch in &store.launches {
        results.note(name, format!("{}: {}", launch.name, launch.version));
    }
    measure::measure(name, &store, options, results).await?;
    if options.part("delay") {
        delay::delay(name, &store, options, results).await?;
    }
    if options.part("takeover") && name != "memory" {
        takeover::takeover(name, &store, results).await?;
    }
    if options.part("held") {
        held::held(name, &store, results).await?;
    }
    if options.part("cut") {
        held::cut(name, &store, results).await?;
    }
    show(name, results);
    Ok(())
}

fn show(name: &str, results: &Results) {
    for work in results.works(name) {
        println!("\n{}", results.table(name, work).trim_end());
    }
    if let Some(table) = limits::table(results, name) {
        println!("\n{}", table.trim_end());
    }
}
