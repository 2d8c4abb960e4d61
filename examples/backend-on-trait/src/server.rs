//! The store of the example: a server that keeps the queues of locks, with a line protocol. It is not
//! part of the backend; it represents the store of a real backend.

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
    mode::Mode,
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

use crate::wire::{ClientRequest, Operation, Outcome, ServerMessage};

/// The state of the server, in memory only.
#[derive(Default)]
struct Store {
    locks: BTreeMap<(String, String), Queue>,
    clients: HashMap<ClientId, UnboundedSender<ServerMessage>>,
    count: u64,
    /// The highest token of any lock, so that the queues of free locks can be forgotten.
    last_token: u64,
}

/// Listens on the address and serves until the runtime ends. Returns the bound address.
///
/// # Errors
///
/// Fails if the server cannot listen on the address.
pub async fn serve(address: &str, password: String) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let store: Arc<Mutex<Store>> = Arc::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(
                stream,
                Arc::clone(&store),
                password.clone(),
            ));
        }
    });
    Ok(bound)
}

async fn serve_connection(
    stream: TcpStream,
    store: Arc<Mutex<Store>>,
    password: String,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let (out, mut messages) = unbounded_channel::<ServerMessage>();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            to.write_all(&line).await?;
        }
        io::Result::Ok(())
    });
    let mut lines = BufReader::new(from).lines();
    while let Some(line) = lines.next_line().await? {
        let request: ClientRequest = serde_json::from_str(&line)?;
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = request.session.password != password;
        let message = if refused {
            store.respond(request.id, Outcome::Refused, Vec::new())
        } else {
            store.clients.insert(request.session.client, out.clone());
            store.handle(request)
        };
        let _ = out.send(message);
    }
    Ok(())
}

impl Store {
    fn respond(&self, id: u64, outcome: Outcome, locks: Vec<(String, Queue)>) -> ServerMessage {
        ServerMessage::Response {
            id,
            outcome,
            locks,
            now: SystemClock.now().since_origin(),
            as_of: self.count,
        }
    }

    fn handle(&mut self, request: ClientRequest) -> ServerMessage {
        let ClientRequest {
            id,
            session,
            name,
            operation,
        } = request;
        let (client, namespace) = (session.client, session.namespace);
        let event = match operation {
            Operation::Enqueue {
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
                // This plugin offers exclusive locks alone.
                mode: Mode::Exclusive,
            },
            Operation::Renew { attempt } => Event::Renew { attempt },
            Operation::Remove { attempt, fence } => Event::Remove { attempt, fence },
            Operation::Evict { token } => Event::Evict { token },
            Operation::Inspect => {
                let key = (namespace, name);
                let queue = self.locks.get(&key).cloned().unwrap_or_default();
                return self.respond(id, Outcome::Nothing, vec![(key.1, queue)]);
            }
            Operation::List { prefix, limit } => {
                let start = (namespace.clone(), name);
                let after = self
                    .locks
                    .range(start.clone()..)
                    .filter(|(key, _)| **key > start);
                let in_namespace = after.take_while(|(key, _)| key.0 == namespace);
                let matching = in_namespace.filter(|(key, _)| key.1.starts_with(&prefix));
                let page = matching.map(|(key, queue)| (key.1.clone(), queue.clone()));
                return self.respond(id, Outcome::Nothing, page.take(limit).collect());
            }
        };
        self.count += 1;
        let now = self.now(session.token_floor);
        let key = (namespace, name);
        let mut queue = self.locks.remove(&key).unwrap_or_default();
        let step = queue.on(event, &now);
        let outcome = match step.answer {
            Answer::Busy => Outcome::Busy,
            Answer::Evicted => Outcome::Evicted,
            Answer::Gone(reason) => Outcome::Gone(reason),
            Answer::Granted { token, .. } => Outcome::Granted(token),
            Answer::RemovedHolder => Outcome::RemovedHolder,
            Answer::RemovedWaiter => Outcome::RemovedWaiter,
            Answer::Waiting { ahead } => Outcome::Waiting(u64::try_from(ahead).unwrap_or(u64::MAX)),
            _ => Outcome::Nothing,
        };
        self.last_token = self.last_token.max(queue.last_token().get());
        let message = self.respond(id, outcome, vec![(key.1.clone(), queue.clone())]);
        if !queue.is_blank(&now) {
            self.locks.insert(key, queue);
        }
        for notice in step.notices {
            self.send_notice(&notice);
        }
        message
    }

    fn send_notice(&self, notice: &Notice) {
        let attempt = notice.attempt;
        let message = match notice.kind {
            NoticeKind::Granted { token, ttl, .. } => ServerMessage::Granted {
                attempt,
                token,
                ttl,
                as_of: self.count,
            },
            NoticeKind::Lost(reason) => ServerMessage::Lost { attempt, reason },
            _ => return,
        };
        if let Some(client) = self.clients.get(&notice.client) {
            let _ = client.send(message);
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
