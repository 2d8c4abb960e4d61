//! How fast locks are: `tenure` beside the store's own requests (the floor) and beside other
//! libraries, interleaved in one run on one server, so that drift of the machine hits all alike.
//! Only the ratios mean anything.
//!
//! `cargo run --release -p tenure-bench` takes some minutes; `... -- redis`, `etcd` or `zookeeper`
//! measures on that store alone, and a second word names the only contender; `held` as the second
//! word measures the memory of 10,000 held locks instead.

mod contender;
mod etcd;
mod held;
mod redis;
mod table;
mod work;
mod zookeeper;

use std::{sync::Arc, time::Duration};

use contender::{Failure, Memory, Store};
use table::Table;

/// Rounds in which each contender has its turn.
const ROUNDS: usize = 7;

const STORES: [&str; 3] = ["redis", "etcd", "zookeeper"];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (store, only) = (words.next(), words.next());
    if let Some(unknown) = store.as_deref().filter(|word| !STORES.contains(word)) {
        return Err(format!("no store {unknown}; there are {}", STORES.join(", ")).into());
    }
    for name in STORES {
        if store.as_deref().is_none_or(|store| store == name) {
            let store = match name {
                "redis" => redis::start().await?,
                "etcd" => etcd::start().await?,
                _ => zookeeper::start().await?,
            };
            if only.as_deref() == Some("held") {
                let bytes = held::per_lock(&store.url).await?;
                println!("{}: {bytes:.0} bytes of memory for a held lock", store.what);
            } else {
                measure(store, only.as_deref()).await?;
            }
        }
    }
    Ok(())
}

async fn measure(mut store: Store, only: Option<&str>) -> Result<(), Failure> {
    println!("\n{}, on loopback", store.what);
    store.contenders.push(Arc::new(Memory::connect().await?));
    let mut alone = Table::new("acquire + release, alone", "us");
    let mut many = Table::new("acquire + release, 64 tasks with a lock each", "pairs/s");
    let mut one = Table::new("16 tasks, one lock", "hand-overs/s");
    let mut wait = Table::new("16 tasks, one lock: longest wait", "ms");
    for round in 0..=ROUNDS {
        for contender in &store.contenders {
            if only.is_some_and(|only| only != contender.name()) {
                continue;
            }
            let name = contender.name();
            let latency = work::alone(&**contender, Duration::from_millis(700)).await?;
            let pairs = work::many(contender, 64, Duration::from_millis(700)).await?;
            let fight = if contender.waits() {
                Some(work::one(contender, 16, Duration::from_millis(900)).await?)
            } else {
                None
            };
            // The first round warms up.
            if round == 0 {
                continue;
            }
            alone.add(name, latency.as_secs_f64() * 1e6);
            many.add(name, pairs);
            if let Some((rate, longest)) = fight {
                one.add(name, rate);
                wait.add(name, longest.as_secs_f64() * 1e3);
            }
        }
    }
    for table in [alone, many, one, wait] {
        table.show(ROUNDS);
    }
    Ok(())
}
