//! Many clients contend for one lock under faults. At all times at most one guard is held, and tokens
//! rise.

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
    time::{Instant, sleep, timeout},
};

use crate::common::{BOUND, SOON, client, millis, name};

const LOCK: &str = "contenders";

/// The state of a task, and since when.
type Doing = Arc<Mutex<Option<(&'static str, Instant)>>>;

#[derive(Default)]
struct Floor {
    inside: Mutex<(Option<Arc<Guard>>, u64)>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Clients that take turns.
pub(crate) struct Contenders {
    floor: Arc<Floor>,
    turns: Vec<Arc<AtomicU64>>,
    /// The state of each task.
    doing: Vec<Doing>,
    tasks: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
}

impl Contenders {
    /// Three clients with two tasks each.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_each([url; 3]).await
    }

    /// The same, with one client of each address.
    pub(crate) async fn start_each(urls: [&str; 3]) -> Self {
        let mut contenders = Self {
            floor: Arc::default(),
            turns: Vec::new(),
            doing: Vec::new(),
            tasks: Vec::new(),
            clients: Vec::new(),
        };
        for url in urls {
            let client = client(url).await;
            let turns = Arc::<AtomicU64>::default();
            for _ in 0..2 {
                let (floor, turns) = (Arc::clone(&contenders.floor), Arc::clone(&turns));
                let (client, doing) = (client.clone(), Doing::default());
                contenders.doing.push(Arc::clone(&doing));
                let work = work(client, floor, turns, doing);
                contenders.tasks.push(tokio::spawn(work));
            }
            contenders.turns.push(turns);
            contenders.clients.push(client);
        }
        contenders.wait_for_progress(BOUND).await;
        contenders
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
    pub(crate) async fn wait_for_progress(&self, bound: Duration) {
        if let Err(standing) = self.moves(bound).await {
            panic!("some client made no progress within {bound:?}: {standing}");
        }
    }

    /// The same; on failure, a description of the situation.
    pub(crate) async fn moves(&self, bound: Duration) -> Result<(), String> {
        let count = || {
            let counts = self.turns.iter().map(|turns| turns.load(Ordering::SeqCst));
            counts.collect::<Vec<_>>()
        };
        let (before, begun) = (count(), Instant::now());
        while count()
            .iter()
            .zip(&before)
            .any(|(now, then)| *now < then + 3)
        {
            if begun.elapsed() >= bound {
                return Err(format!("{before:?} {:?}\n{}", count(), self.state().await));
            }
            sleep(millis(10)).await;
        }
        assert_eq!(*self.floor.wrong.lock().unwrap(), Vec::<String>::new());
        Ok(())
    }

    /// A description of the situation, for the message of a failure.
    async fn state(&self) -> String {
        let wrong = self.floor.wrong.lock().unwrap().clone();
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        let mut state = format!("wrong: {wrong:?}; ended: {ended}");
        for doing in &self.doing {
            let (what, since) = doing.lock().unwrap().unwrap();
            state += &format!("\n{what} for {:?}", since.elapsed());
        }
        for client in &self.clients {
            let seen = timeout(SOON, client.inspect(&name(LOCK))).await;
            state += &format!("\nseen by {client:?}: {seen:?}");
        }
        state
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

async fn work(client: Client, floor: Arc<Floor>, turns: Arc<AtomicU64>, doing: Doing) {
    let lock = client.lock(LOCK).unwrap();
    let does = |what| *doing.lock().unwrap() = Some((what, Instant::now()));
    while !floor.stop.load(Ordering::SeqCst) {
        does("acquires");
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
            // Both are read at one moment, the earlier guard first: it may end between the two reads.
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
        does("holds");
        sleep(millis(5)).await;
        does("releases");
        if matches!(guard.release().await, Release::Released) {
            turns.fetch_add(1, Ordering::SeqCst);
        }
    }
}
