//! Where an attempt stands in its queue, as this client knows it. No I/O.

use std::sync::Arc;

use tenure_core::{
    clock::Instant,
    loss::LossReason,
    request::{Holder, StoreTime, Waiting},
};
use tokio::sync::oneshot;

/// Where an attempt stands.
#[derive(Debug)]
pub(crate) enum Position {
    /// Its node is being created, or exists and was not looked up in the queue yet.
    Unknown,
    Waiting(Box<Predecessor>),
    /// It holds the lock, once its session is proved: nothing ahead of it excludes it.
    Admitted,
    Gone(LossReason),
}

/// The contenders ahead of a waiter, as far as the waiter knows them.
#[derive(Debug)]
pub(crate) struct Predecessor {
    /// The watches of nodes ahead, the nearest first. As long as these nodes exist it is not the waiter's
    /// turn.
    ///
    /// An exclusive waiter watches the second nearest node, too. When that goes, the waiter reads the
    /// queue while the nearest one still holds the lock, and so needs no read when its own turn comes.
    pub(crate) watches: Vec<Arc<Watch>>,
    /// How many contenders are ahead.
    pub(crate) ahead: u64,
    pub(crate) holder: Option<Holder>,
    /// The zxid of the last change of the queue when it was read.
    pub(crate) as_of: i64,
}

/// A node that a waiter watches. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) node: Arc<str>,
    /// The number of the connection that it was set on.
    pub(crate) connection: u64,
    /// Closed once the watch has fired.
    running: oneshot::Sender<()>,
}

impl Watch {
    /// A watch, and what its follower waits for beside the watch's event.
    pub(crate) fn new(node: Arc<str>, connection: u64) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (running, dropped) = oneshot::channel();
        let watch = Self {
            node,
            connection,
            running,
        };
        (Arc::new(watch), dropped)
    }

    /// Whether the watch has fired: its event was handled, or is about to be.
    pub(crate) fn has_fired(&self) -> bool {
        self.running.is_closed()
    }
}

impl Predecessor {
    /// Whether a watch has fired.
    pub(crate) fn has_fired(&self) -> bool {
        self.watches.iter().any(|watch| watch.has_fired())
    }
}

impl Position {
    /// The answer to a waiter; `None` if its node is not known, or gone. An attempt that is
    /// admitted is a waiter until its grant is proved. `czxid` is that of its node.
    pub(crate) fn waiting(&self, czxid: i64, from: Instant) -> Option<Waiting> {
        let time = |zxid: i64| StoreTime::new(u64::try_from(zxid).unwrap_or(0));
        match self {
            Self::Waiting(predecessor) => Some(
                Waiting::new(from, time(predecessor.as_of))
                    .with_holder(predecessor.holder.clone())
                    .with_ahead(predecessor.ahead),
            ),
            Self::Admitted => Some(Waiting::new(from, time(czxid)).with_ahead(0)),
            Self::Unknown if czxid > 0 => Some(Waiting::new(from, time(czxid))),
            Self::Unknown | Self::Gone(_) => None,
        }
    }
}
