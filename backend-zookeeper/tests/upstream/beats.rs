//! Heartbeats over a client of the crate, as the driver sends them, and what they prove.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use crate::common::{TICK, millis};

/// The session time-out of all tests about heartbeats: the smallest TTL for servers with [`TICK`].
pub(crate) const TTL: Duration = millis(1250);

/// The proofs of a session's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    /// When the first heartbeat of three in a row was sent.
    pub(crate) from: Instant,
    /// When the third was answered.
    pub(crate) at: Instant,
}

impl Proof {
    /// When a holder's guard ends, with the usual drift of 1 %.
    pub(crate) fn valid_until(&self) -> Instant {
        self.from + TTL * 99 / 100
    }
}

/// A task that sends heartbeats until the session ends.
pub(crate) struct Beats {
    pub(crate) proved: watch::Receiver<Option<Proof>>,
    /// When the latest heartbeat was answered.
    pub(crate) answered: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Beats {
    pub(crate) fn begin(client: &Client) -> Self {
        let (proofs, proved) = watch::channel(None);
        let (answers, answered) = watch::channel(None);
        let client = client.clone();
        let task = tokio::spawn(async move {
            let mut state = client.state_watcher();
            loop {
                match state.state() {
                    SessionState::SyncConnected => {}
                    SessionState::Expired | SessionState::Closed | SessionState::AuthFailed => {
                        return;
                    }
                    _ => {
                        state.changed().await;
                        continue;
                    }
                }
                row(&client, &mut state, &proofs, &answers).await;
            }
        });
        Self {
            proved,
            answered,
            task,
        }
    }

    pub(crate) fn last(&self) -> Option<Proof> {
        *self.proved.borrow()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends heartbeats on one connection. Returns when the client's state has changed, even briefly.
async fn row(
    client: &Client,
    state: &mut StateWatcher,
    proofs: &watch::Sender<Option<Proof>>,
    answers: &watch::Sender<Option<Instant>>,
) {
    let gap = TICK * 6 / 10;
    let mut row = Vec::new();
    loop {
        let sent = Instant::now();
        let (sync, look) = (client.sync("/"), client.check_stat("/"));
        let answer = async {
            sync.await?;
            look.await?;
            Ok::<(), Error>(())
        };
        tokio::select! {
            biased;
            _ = state.changed() => return,
            answer = answer => if answer.is_err() {
                // The change of state follows, or came just before.
                state.changed().await;
                return;
            }
        }
        // The answer may come from another connection than the previous request.
        tokio::select! {
            biased;
            _ = state.changed() => return,
            () = std::future::ready(()) => {}
        }
        let at = Instant::now();
        answers.send_replace(Some(at));
        row.push(sent);
        if row.len() == 3 {
            let from = row.remove(0);
            proofs.send_replace(Some(Proof { from, at }));
        }
        let next = (at + gap).max(sent + TTL / 20);
        tokio::select! {
            biased;
            _ = state.changed() => return,
            () = sleep_until(next) => {}
        }
    }
}
