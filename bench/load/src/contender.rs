//! Who is measured: each takes and gives back a lock in its own way, with one client for all tasks or
//! with a client for each.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_core::{Client, Release};

/// Whatever a contender fails with.
pub type Failure = Box<dyn Error + Send + Sync>;

/// One way to lock.
#[async_trait]
pub trait Contender: Send + Sync {
    /// What it is called where results are shown.
    fn name(&self) -> &'static str;

    /// Whether it can wait for a lock that is taken.
    fn waits(&self) -> bool;

    /// Takes the lock, calls `held` once it is held, and gives it back.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; the measurement ends with it.
    ///
    /// # Cancel safety
    ///
    /// None is needed: a turn that was begun is awaited.
    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure>;

    /// The same implementation with a new client, which has a connection and a session of its own, on
    /// the store at `url`; none if it has no clients that could be made by URL.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// What was connected is dropped.
    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Contender>>, Failure> {
        let _ = url;
        Ok(None)
    }

    /// Ends the client, where dropping it would leave something behind for a while.
    ///
    /// # Cancel safety
    ///
    /// The client may not be ended then.
    async fn close(&self) {}
}

/// How long the requests may take that end a client.
const END: Duration = Duration::from_secs(10);

/// `tenure`, by the public way: queue, token, deadline, renewal and notice of loss included.
#[derive(Clone, Debug)]
pub struct Locks {
    name: &'static str,
    client: Client,
}

impl Locks {
    /// Locks of this client; `name` is what it is called where results are shown.
    pub const fn new(name: &'static str, client: Client) -> Self {
        Self { name, client }
    }

    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }
}

#[async_trait]
impl Contender for Locks {
    fn name(&self) -> &'static str {
        self.name
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let guard = self.client.lock(lock)?.acquire().await?;
        held();
        match guard.release().await {
            Release::Released => Ok(()),
            other => Err(format!("the release gave {other:?}").into()),
        }
    }

    async fn close(&self) {
        self.client.shutdown(END).await;
    }
}
