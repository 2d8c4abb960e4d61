//! The kinds of locks, each in a few lines: a catalogue that many read and one rebuilds, a pool of
//! licences, a transfer between two accounts, a scheduler that fails over, and a job that three hosts start
//! and that runs once. Run with `cargo run -p tenure --example kinds`.

use std::{
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tenure::{Acquisition, Client, Leader, Observer, memory::MemoryStore, token::FencingToken};
use tokio::task::JoinSet;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

const MOMENT: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> Outcome {
    let store = MemoryStore::new();
    catalogue(&store).await?;
    licences(&store).await?;
    transfer(&store).await?;
    scheduler(&store).await?;
    nightly_job(&store).await
}

async fn connect(store: &MemoryStore, label: &str) -> Result<Client, tenure::Error> {
    let builder = Client::builder(store.clone()).label(label);
    builder.ttl(Duration::from_secs(2)).connect().await
}

/// Readers share the catalogue. The one that rebuilds it has it alone, and reads it afterwards without
/// letting another writer in between.
async fn catalogue(store: &MemoryStore) -> Outcome {
    let client = connect(store, "catalogue").await?;
    let catalogue = client.rw_lock("catalogue")?;
    let edition = Arc::new(AtomicU32::new(1));
    let mut readers = JoinSet::new();
    for _ in 0..10 {
        let (read, edition) = (catalogue.read(), Arc::clone(&edition));
        readers.spawn(async move {
            let guard = read.acquire().await?;
            let before = edition.load(Ordering::SeqCst);
            tokio::time::sleep(MOMENT).await;
            assert_eq!(
                before,
                edition.load(Ordering::SeqCst),
                "it changed under a reader"
            );
            guard.check()?;
            Outcome::Ok(())
        });
    }
    let writing = catalogue.write().acquire().await?;
    edition.fetch_add(1, Ordering::SeqCst);
    let reading = writing.downgrade().await?;
    println!(
        "catalogue: edition {}, token {}, floor {}",
        edition.load(Ordering::SeqCst),
        reading.token(),
        reading.floor()
    );
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(())
}

/// Three licences for eight programs, of which one needs two.
async fn licences(store: &MemoryStore) -> Outcome {
    let licences = connect(store, "licences").await?.semaphore("licences", 3)?;
    let (in_use, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut programs = JoinSet::new();
    for program in 0..8 {
        let take = if program == 0 { 2 } else { 1 };
        let (licences, in_use, most) = (licences.clone(), Arc::clone(&in_use), Arc::clone(&most));
        programs.spawn(async move {
            let guard = licences.acquire_many(take).await?;
            let now = in_use.fetch_add(take, Ordering::SeqCst) + take;
            most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(MOMENT).await;
            in_use.fetch_sub(take, Ordering::SeqCst);
            let _ = guard.release().await;
            Outcome::Ok(())
        });
    }
    while let Some(program) = programs.join_next().await {
        program??;
    }
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 3, "{most} of 3 licences were in use");
    println!("licences: at most {most} of 3 in use");
    Ok(())
}

/// Transfers in both directions at once. Each has both accounts, and none waits for the other for ever.
async fn transfer(store: &MemoryStore) -> Outcome {
    let accounts = Arc::new(Mutex::new([100_i64, 100]));
    let mut transfers = JoinSet::new();
    for (from, to) in [(0, 1), (1, 0)].into_iter().cycle().take(10) {
        let client = connect(store, "bank").await?;
        let accounts = Arc::clone(&accounts);
        transfers.spawn(async move {
            let names = [format!("account-{from}"), format!("account-{to}")];
            let guards = client.lock_all(names)?.acquire().await?;
            guards.check()?;
            if let Ok(mut accounts) = accounts.lock() {
                accounts[from] -= 10;
                accounts[to] += 10;
            }
            guards.release().await?;
            Outcome::Ok(())
        });
    }
    while let Some(transfer) = transfers.join_next().await {
        transfer??;
    }
    let accounts = accounts.lock().map_err(|_| "a transfer panicked")?;
    assert_eq!(accounts.iter().sum::<i64>(), 200);
    println!("transfer: {accounts:?} after ten transfers");
    Ok(())
}

/// The first candidate leads and resigns, and the second one takes over; an observer is told of both.
async fn scheduler(store: &MemoryStore) -> Outcome {
    let observer = connect(store, "observer").await?;
    let mut observer = observer.election("scheduler")?.observe();
    let candidate = |address: &'static str| async move {
        let client = connect(store, address).await?;
        client.election("scheduler")?.campaign(address).await
    };
    let first = candidate("10.0.0.7:80").await?;
    let (resigned, second) = tokio::join!(
        async {
            let told = told(&mut observer).await;
            // Before each task that it hands out, a leader asks its guard, and no observer.
            (first.check(), told, first.resign().await)
        },
        candidate("10.0.0.8:80"),
    );
    let (second, (led, first_told, _)) = (second?, resigned);
    let second_told = told(&mut observer).await;
    assert_eq!((led?, second.term()), (first_told, second_told));
    assert!(first_told < second_told, "a later leader has a higher term");
    Ok(())
}

/// Waits until somebody leads, and returns the term.
async fn told(observer: &mut Observer) -> FencingToken {
    loop {
        if let Leader::Leads {
            value,
            term: Some(term),
            ..
        } = observer.changed().await
        {
            println!("scheduler: {value} leads, term {term}");
            return term;
        }
    }
}

/// Three hosts whose clocks differ start the same short job. It runs once, because the first one keeps the
/// lock for longer than the clocks differ.
async fn nightly_job(store: &MemoryStore) -> Outcome {
    let runs = Arc::new(AtomicU32::new(0));
    let mut hosts = JoinSet::new();
    for skew in [0, 3, 6] {
        let lock = connect(store, "host").await?.lock("nightly")?;
        let lock = lock.min_hold(Duration::from_secs(60));
        let runs = Arc::clone(&runs);
        hosts.spawn(async move {
            tokio::time::sleep(MOMENT * skew).await;
            if let Acquisition::Acquired(guard) = lock.try_acquire().await? {
                runs.fetch_add(1, Ordering::SeqCst);
                // The work is done; the client keeps the lock for the rest of the minute.
                drop(guard);
            }
            Outcome::Ok(())
        });
    }
    while let Some(host) = hosts.join_next().await {
        host??;
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1, "the job ran more than once");
    println!("nightly job: started on three hosts, ran once");
    Ok(())
}
