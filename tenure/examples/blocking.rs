//! A program that is not asynchronous does its work in steps under a lock, and stops when the lock is lost. The client's
//! thread renews the lock while a step blocks, here for longer than the TTL.
//!
//! ```console
//! $ cargo run -p tenure --example blocking
//! ```

use std::{thread, time::Duration};

use tenure::{Client, NotHeld, RunError, blocking, memory::MemoryStore};

const TTL: Duration = Duration::from_secs(2);

/// A step that blocks its thread, as a copy of a large file does.
fn step(number: u32) {
    println!("step {number}");
    thread::sleep(TTL * 5 / 4);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Another store: `tenure::builder("redis://10.0.0.1")?`.
    let builder = Client::builder(MemoryStore::new()).ttl(TTL);
    let client = blocking::Client::connect(builder)?;
    let lock = client.lock("nightly-report")?;

    let work = lock.try_run(|guard| {
        guard.on_lost(|reason| eprintln!("the lock is lost: {reason}"));
        for number in 1..=2 {
            // Before each step, and with the token in each write, because a step cannot be stopped.
            guard.check()?;
            step(number);
        }
        Ok::<_, NotHeld>(guard.token())
    });
    match work {
        Ok(done) => println!("done, with fencing token {}", done?),
        Err(RunError::Busy(holder)) => println!("not now: the lock is held by {holder}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
