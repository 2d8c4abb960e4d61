//! Requests that wait until replicas have acknowledged them.
//!
//! The reply to `WAIT` is late and holds up everything behind it on the same connection. Therefore
//! these requests have their own connection, and requests that arrive while one `WAIT` is pending
//! share the next one.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::{mpsc, oneshot};

use super::{
    config::TransportConfig,
    connection::{Connection, Purpose},
    script_call::CallError,
};
use crate::address::Endpoint;

/// The most commands that share one `WAIT`: few enough that a small request does not wait long
/// behind them, and enough that ten thousand locks wait only five times for a replica that is down.
const MAX_COMMANDS_PER_WAIT: usize = 2000;

/// How many replicas have to acknowledge, and how long to wait for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaAck {
    pub(crate) count: u32,
    pub(crate) timeout: Duration,
}

/// One reply for each command, and the number of replicas that have acknowledged all of them.
type AckedReplies = Result<(Vec<Value>, u32), CallError>;

struct AckRequest {
    commands: Vec<Cmd>,
    wanted: ReplicaAck,
    endpoint: Endpoint,
    reply_to: oneshot::Sender<AckedReplies>,
}

/// Sends the requests, one combined write after the other.
#[derive(Clone, Debug)]
pub(super) struct ReplicaAckQueue(mpsc::UnboundedSender<AckRequest>);

impl ReplicaAckQueue {
    /// Starts the task. It ends with the last clone of the queue.
    pub(super) fn start(config: Arc<TransportConfig>) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        tokio::spawn(run_task(config, incoming));
        Self(requests)
    }

    /// Sends the commands to the server at this endpoint and waits for the replicas.
    pub(super) async fn send(
        &self,
        endpoint: Endpoint,
        commands: Vec<Cmd>,
        wanted: ReplicaAck,
    ) -> AckedReplies {
        let (reply_to, outcome) = oneshot::channel();
        let request = AckRequest {
            commands,
            wanted,
            endpoint,
            reply_to,
        };
        let closed = || CallError::not_sent("the client is closed");
        self.0.send(request).map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

async fn run_task(config: Arc<TransportConfig>, mut incoming: mpsc::UnboundedReceiver<AckRequest>) {
    let mut conn: Option<Connection> = None;
    let mut next: Option<AckRequest> = None;
    loop {
        let first = match next.take() {
            Some(request) => request,
            None => match incoming.recv().await {
                Some(request) => request,
                None => return,
            },
        };
        let endpoint = first.endpoint.clone();
        let mut count = first.commands.len();
        let mut requests = vec![first];
        while let Ok(request) = incoming.try_recv() {
            count += request.commands.len();
            if request.endpoint != endpoint || count > MAX_COMMANDS_PER_WAIT {
                next = Some(request);
                break;
            }
            requests.push(request);
        }
        // The requests of cancelled callers are not sent.
        requests.retain(|request| !request.reply_to.is_closed());
        if requests.is_empty() {
            continue;
        }
        if conn
            .as_ref()
            .is_none_or(|conn| conn.is_closed() || conn.endpoint != endpoint)
        {
            match Connection::open(&endpoint, Purpose::Replicas, &config).await {
                Ok(opened) => conn = Some(opened),
                Err(error) => {
                    conn = None;
                    for request in requests {
                        let _ = request
                            .reply_to
                            .send(Err(CallError::not_sent(error.detail.clone())));
                    }
                    continue;
                }
            }
        }
        if let Some(open) = &conn
            && !send_with_wait(open, requests).await
        {
            conn = None;
        }
    }
}

/// Sends the commands of all requests and one `WAIT`. Returns whether the connection is still
/// usable.
async fn send_with_wait(conn: &Connection, requests: Vec<AckRequest>) -> bool {
    let mut pipe = Pipeline::new();
    for command in requests.iter().flat_map(|request| &request.commands) {
        pipe.add_command(command.clone());
    }
    let wanted = || requests.iter().map(|request| request.wanted);
    let replicas = wanted().map(|wanted| wanted.count).max().unwrap_or(0);
    let timeout = wanted().map(|wanted| wanted.timeout).max();
    let timeout = timeout.unwrap_or_default().max(Duration::from_millis(1));
    pipe.cmd("WAIT")
        .arg(replicas)
        .arg(timeout.as_millis() as u64);
    match conn.pipeline(&pipe).await {
        Ok(mut replies) => {
            let acks = match replies.pop() {
                Some(Value::Int(count)) => u32::try_from(count).unwrap_or(0),
                other => {
                    tracing::warn!(
                        backend = "redis",
                        ?other,
                        "the reply to WAIT is not a number"
                    );
                    0
                }
            };
            let mut replies = replies.into_iter();
            for request in requests {
                let own_replies = replies.by_ref().take(request.commands.len()).collect();
                let _ = request.reply_to.send(Ok((own_replies, acks)));
            }
            true
        }
        Err(error) => {
            for request in requests {
                let _ = request.reply_to.send(Err(error.clone().into()));
            }
            false
        }
    }
}
