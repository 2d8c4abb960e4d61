//! Many who want one lock while things go wrong, and what must hold all the time: no two guards say
//! that they are held, and tokens rise.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure_core::{Acquisition, Client, Guard, Release};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    common::{SOON, client, millis},
    ensemble::BOUND,
};

const LOCK: &str = "crowd";

#[derive(Default)]
struct Floor {
    inside: Mutex<(Option<Arc<Guard>>, u64)>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Clients that take turns.
pub(crate) struct Crowd {
    floor: Arc<Floor>,
    turns: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
}

impl Crowd {
    /// Three clients with two tasks each.
    pub(crate) async fn start(url: &str) -> Self {
        let mut crowd = Self {
            floor: Arc::default(),
            turns: Vec::new(),
            tasks: Vec::new(),
            clients: Vec::new(),
        };
        for _ in 0..3 {
            let client = client(url).await;
            let turns = Arc::<AtomicU64>::default();
            for _ in 0..2 {
                let (floor, turns) = (Arc::clone(&crowd.floor), Arc::clone(&turns));
                let client = client.clone();
                crowd.tasks.push(tokio::spawn(work(client, floor, turns)));
            }
            crowd.turns.push(turns);
            crowd.clients.push(client);
        }
        crowd.everybody_moves(BOUND).await;
        crowd
    }

    pub(crate) fn client(&self) -> &Client {
        &self.clients[0]
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns
            .iter()
            .map(|turns| turns.load(Ordering::SeqCst))
            .sum()
    }

    /// Returns once each client has had three more turns.
    pub(crate) async fn everybody_moves(&self, bound: Duration) {
        let before: Vec<u64> = self
            .turns
            .iter()
            .map(|t| t.load(Ordering::SeqCst))
            .collect();
        let begun = Instant::now();
        loop {
            let now: Vec<u64> = self
                .turns
                .iter()
                .map(|t| t.load(Ordering::SeqCst))
                .collect();
            if now
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 3)
            {
                break;
            }
            assert!(
                begun.elapsed() < bound,
                "not everybody has moved on within {bound:?}: {before:?} {now:?}"
            );
            sleep(millis(10)).await;
        }
        assert_eq!(*self.floor.wrong.lock().unwrap(), Vec::<String>::new());
    }

    pub(crate) async fn end(self) {
        self.floor.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        assert_eq!(*self.floor.wrong.lock().unwrap(), Vec::<String>::new());
        for client in self.clients {
            client.shutdown(SOON).await;
        }
    }
}

async fn work(client: Client, floor: Arc<Floor>, turns: Arc<AtomicU64>) {
    let lock = client.lock(LOCK).unwrap();
    while !floor.stop.load(Ordering::SeqCst) {
        let guard = match lock.acquire_within(Duration::from_secs(5)).await {
            Ok(Acquisition::Acquired(guard)) => Arc::new(guard),
            Ok(_) => continue,
            Err(error) if error.is_retryable() => {
                sleep(millis(20)).await;
                continue;
            }
            Err(error) => {
                floor.wrong.lock().unwrap().push(error.to_string());
                return;
            }
        };
        {
            let mut inside = floor.inside.lock().unwrap();
            // Both at one moment, the one before first: it may end between the two looks.
            let other = inside
                .0
                .as_ref()
                .map(|other| (other.check().is_ok(), other.token()));
            if let Ok(token) = guard.check() {
                if let Some((true, other)) = other {
                    let two = format!("{token} and {other} are held at once");
                    floor.wrong.lock().unwrap().push(two);
                }
                if token.get() <= inside.1 {
                    let fell = format!("{token} was granted after {}", inside.1);
                    floor.wrong.lock().unwrap().push(fell);
                }
                *inside = (Some(Arc::clone(&guard)), token.get());
            }
        }
        sleep(millis(5)).await;
        if matches!(guard.release().await, Release::Released) {
            turns.fetch_add(1, Ordering::SeqCst);
        }
    }
}
