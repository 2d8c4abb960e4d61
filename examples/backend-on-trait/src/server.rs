//! The store of the example: a server that keeps the queues of locks and speaks lines. It is no
//! part of the backend; it stands for whatever store a backend is written for.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tenure::{
    clock::{Clock, SystemClock},
    id::ClientId,
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

use crate::wire::{Ask, Done, Say, Verb};

/// What the server keeps. All of it is gone when it ends.
#[derive(Default)]
struct Store {
    locks: BTreeMap<(String, String), Queue>,
    clients: HashMap<ClientId, UnboundedSender<Say>>,
    count: u64,
    /// The highest token of any lock, so that the queues of free locks can be forgotten.
    last_token: u64,
}

/// Listens on that address and serves until the runtime ends. Returns the address.
///
/// # Errors
///
/// If nothing can listen there.
pub async fn serve(address: &str, password: String) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let store: Arc<Mutex<Store>> = Arc::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(attend(stream, Arc::clone(&store), password.clone()));
        }
    });
    Ok(bound)
}

async fn attend(stream: TcpStream, store: Arc<Mutex<Store>>, password: String) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let (out, mut says) = unbounded_channel::<Say>();
    tokio::spawn(async move {
        while let Some(say) = says.recv().await {
            let mut line = serde_json::to_vec(&say)?;
            line.push(b'\n');
            to.write_all(&line).await?;
        }
        io::Result::Ok(())
    });
    let mut lines = BufReader::new(from).lines();
    while let Some(line) = lines.next_line().await? {
        let ask: Ask = serde_json::from_str(&line)?;
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = ask.asker.password != password;
        let say = if refused {
            store.answer(ask.id, Done::Refused, Vec::new())
        } else {
            store.clients.insert(ask.asker.client, out.clone());
            store.take(ask)
        };
        let _ = out.send(say);
    }
    Ok(())
}

impl Store {
    fn answer(&self, id: u64, done: Done, locks: Vec<(String, Queue)>) -> Say {
        Say::Answer {
            id,
            done,
            locks,
            now: SystemClock.now().since_origin(),
            as_of: self.count,
        }
    }

    fn take(&mut self, ask: Ask) -> Say {
        let Ask {
            id,
            asker,
            name,
            verb,
        } = ask;
        let (client, namespace) = (asker.client, asker.namespace);
        let event = match verb {
            Verb::Enqueue {
                attempt,
                owner,
                ttl,
                wait,
            } => Event::Enqueue {
                attempt,
                client,
                owner,
                ttl,
                wait,
            },
            Verb::Renew { attempt } => Event::Renew { attempt },
            Verb::Remove { attempt, fence } => Event::Remove { attempt, fence },
            Verb::Evict { token } => Event::Evict { token },
            Verb::Look => {
                let key = (namespace, name);
                let queue = self.locks.get(&key).cloned().unwrap_or_default();
                return self.answer(id, Done::Nothing, vec![(key.1, queue)]);
            }
            Verb::List { prefix, limit } => {
                let begun = (namespace.clone(), name);
                let after = self
                    .locks
                    .range(begun.clone()..)
                    .filter(|(key, _)| **key > begun);
                let ours = after.take_while(|(key, _)| key.0 == namespace);
                let named = ours.filter(|(key, _)| key.1.starts_with(&prefix));
                let page = named.map(|(key, queue)| (key.1.clone(), queue.clone()));
                return self.answer(id, Done::Nothing, page.take(limit).collect());
            }
        };
        self.count += 1;
        let now = self.now(asker.token_floor);
        let key = (namespace, name);
        let mut queue = self.locks.remove(&key).unwrap_or_default();
        let step = queue.on(event, &now);
        let done = match step.answer {
            Answer::Busy => Done::Busy,
            Answer::Evicted => Done::Evicted,
            Answer::Gone(reason) => Done::Gone(reason),
            Answer::Granted(token) => Done::Granted(token),
            Answer::RemovedHolder => Done::RemovedHolder,
            Answer::RemovedWaiter => Done::RemovedWaiter,
            Answer::Waiting { ahead } => Done::Waiting(u64::try_from(ahead).unwrap_or(u64::MAX)),
            _ => Done::Nothing,
        };
        self.last_token = self.last_token.max(queue.last_token().get());
        let say = self.answer(id, done, vec![(key.1.clone(), queue.clone())]);
        if !queue.is_blank(&now) {
            self.locks.insert(key, queue);
        }
        for notice in step.notices {
            self.tell(&notice);
        }
        say
    }

    fn tell(&self, notice: &Notice) {
        let attempt = notice.attempt;
        let say = match notice.kind {
            NoticeKind::Granted { token, ttl } => Say::Granted {
                attempt,
                token,
                ttl,
                as_of: self.count,
            },
            NoticeKind::Lost(reason) => Say::Lost { attempt, reason },
            _ => return,
        };
        if let Some(client) = self.clients.get(&notice.client) {
            let _ = client.send(say);
        }
    }

    fn now(&self, token_floor: u64) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Now::new(
            Stamp::new(ClockId::new(0), SystemClock.now().since_origin()),
            wall.map_or(0, |wall| {
                u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)
            }),
            (self.last_token + 1).max(token_floor),
        )
    }
}
