//! How fast locks on Redis are: `tenure` beside the store's own requests (the floor) and beside
//! rslock, interleaved in one run on one server, so that drift of the machine hits all alike. Only
//! the ratios mean anything.
//!
//! `cargo run --release -p tenure-bench` takes about a minute.

mod contender;
mod work;

use std::{sync::Arc, time::Duration};

use contender::{Contender, Failure, Floor, Memory, Rslock, Tenure};
use tenure_test_servers::redis::Server;

/// Rounds in which each contender has its turn.
const ROUNDS: usize = 7;

/// One measurement of every contender, a number per round.
struct Table {
    title: &'static str,
    unit: &'static str,
    rows: Vec<(&'static str, Vec<f64>)>,
}

impl Table {
    fn new(title: &'static str, unit: &'static str) -> Self {
        let rows = Vec::new();
        Self { title, unit, rows }
    }

    fn add(&mut self, who: &'static str, value: f64) {
        match self.rows.iter_mut().find(|(name, _)| *name == who) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((who, vec![value])),
        }
    }

    /// Each row's median over the rounds, and its ratio to every other row's, round by round.
    fn show(&self) {
        println!(
            "\n{} ({}; median of {ROUNDS} rounds)",
            self.title, self.unit
        );
        for (who, values) in &self.rows {
            print!("  {who:<8} {:>10.1}", median(values.clone()));
            for (other, theirs) in self.rows.iter().filter(|(other, _)| other != who) {
                let ratios = values
                    .iter()
                    .zip(theirs)
                    .map(|(ours, theirs)| ours / theirs);
                print!("   {:.2} x {other}", median(ratios.collect()));
            }
            println!();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let server = Server::builder().start()?;
    let version = server.info("redis_version")?.unwrap_or_default();
    println!("redis {version} without persistence, on loopback");
    let contenders: Vec<Arc<dyn Contender>> = vec![
        Arc::new(Floor::connect(&server.url()).await?),
        Arc::new(Tenure::connect(&server.url()).await?),
        Arc::new(Rslock::connect(&server.url())?),
        Arc::new(Memory::connect().await?),
    ];
    let mut alone = Table::new("acquire + release, alone", "us");
    let mut many = Table::new("acquire + release, 64 tasks with a lock each", "pairs/s");
    let mut one = Table::new("16 tasks, one lock", "hand-overs/s");
    let mut wait = Table::new("16 tasks, one lock: longest wait", "ms");
    let only = std::env::args().nth(1);
    for round in 0..=ROUNDS {
        for contender in &contenders {
            if only.as_deref().is_some_and(|only| only != contender.name()) {
                continue;
            }
            let name = contender.name();
            let latency = work::alone(&**contender, 1_500).await?;
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
        table.show();
    }
    Ok(())
}
