//! Who is measured: each takes and gives back a lock in its own way, with one client for all tasks.

use std::error::Error;

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
}

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
}
