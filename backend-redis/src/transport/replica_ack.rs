//! Requests that wait until replicas have acknowledged them.
//!
//! `WAIT` is answered late, and holds up what comes behind it on the same connection. So these
//! requests have a connection of their own, and those that come while one `WAIT` is out share the
//! next one.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};

use super::{
    config::TransportConfig,
    connection::{Connection, Purpose},
    node::unsent,
    script_call::CallError,
};
use crate::address::Endpoint;

/// So many commands share one `WAIT` at most: few enough that a small one that comes meanwhile does
/// not wait for long, and so many that ten thousand locks wait five times for a replica that is
/// down.
const MAX_COMMANDS_PER_WAIT: usize = 2000;

/// Commands, a reply for each, and how many replicas have acknowledged them all.
type Outcome = Result<(RedisResult<Vec<Value>>, u32), CallError>;

struct AckRequest {
    commands: Vec<Cmd>,
    replicas: u32,
    patience: Duration,
    place: Endpoint,
    done: oneshot::Sender<Outcome>,
}

/// Sends them, one bundle after the other.
#[derive(Clone, Debug)]
pub(super) struct ReplicaAckQueue(mpsc::UnboundedSender<AckRequest>);

impl ReplicaAckQueue {
    /// Its task ends with the last clone.
    pub(super) fn start(settings: Arc<TransportConfig>) -> Self {
        let (jobs, incoming) = mpsc::unbounded_channel();
        tokio::spawn(work(settings, incoming));
        Self(jobs)
    }

    /// Sends the commands to the server at that place, and then waits there for so many replicas,
    /// or for so long.
    pub(super) async fn send(
        &self,
        place: Endpoint,
        commands: Vec<Cmd>,
        replicas: u32,
        patience: Duration,
    ) -> Outcome {
        let (done, outcome) = oneshot::channel();
        let job = AckRequest {
            commands,
            replicas,
            patience,
            place,
            done,
        };
        let closed = || unsent("the client is closed");
        self.0.send(job).map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

async fn work(settings: Arc<TransportConfig>, mut incoming: mpsc::UnboundedReceiver<AckRequest>) {
    let mut conn: Option<Connection> = None;
    let mut next: Option<AckRequest> = None;
    loop {
        let first = match next.take() {
            Some(job) => job,
            None => match incoming.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let place = first.place.clone();
        let mut count = first.commands.len();
        let mut jobs = vec![first];
        while let Ok(job) = incoming.try_recv() {
            count += job.commands.len();
            if job.place != place || count > MAX_COMMANDS_PER_WAIT {
                next = Some(job);
                break;
            }
            jobs.push(job);
        }
        // Whoever no longer waits has not been sent.
        jobs.retain(|job| !job.done.is_closed());
        if jobs.is_empty() {
            continue;
        }
        if conn
            .as_ref()
            .is_none_or(|conn| conn.has_ended() || conn.place != place)
        {
            match Connection::open(&place, Purpose::Replicas, &settings).await {
                Ok(made) => conn = Some(made),
                Err(trouble) => {
                    conn = None;
                    for job in jobs {
                        let _ = job.done.send(Err(unsent(trouble.detail.clone())));
                    }
                    continue;
                }
            }
        }
        if let Some(open) = &conn
            && !bundle(open, jobs).await
        {
            conn = None;
        }
    }
}

/// Sends what the jobs want and one `WAIT` for all. Says whether the connection is still good.
async fn bundle(conn: &Connection, jobs: Vec<AckRequest>) -> bool {
    let mut pipe = Pipeline::new();
    for command in jobs.iter().flat_map(|job| &job.commands) {
        pipe.add_command(command.clone());
    }
    let replicas = jobs.iter().map(|job| job.replicas).max().unwrap_or(0);
    let patience = jobs.iter().map(|job| job.patience).max();
    let patience = patience.unwrap_or_default().max(Duration::from_millis(1));
    pipe.cmd("WAIT")
        .arg(replicas)
        .arg(patience.as_millis() as u64);
    match conn.pipeline(&pipe).await {
        Ok(mut replies) => {
            let acknowledged = match replies.pop() {
                Some(Value::Int(count)) => u32::try_from(count).unwrap_or(0),
                other => {
                    tracing::warn!(
                        backend = "redis",
                        ?other,
                        "WAIT was not answered by a number"
                    );
                    0
                }
            };
            let mut replies = replies.into_iter();
            for job in jobs {
                let own = replies.by_ref().take(job.commands.len()).collect();
                let _ = job.done.send(Ok((Ok(own), acknowledged)));
            }
            true
        }
        Err(error) => {
            for job in jobs {
                let _ = job.done.send(Ok((Err(error.clone()), 0)));
            }
            false
        }
    }
}
