//! The API for programs that are not asynchronous.
//!
//! A [`Client`] has a thread of its own, which renews its locks whatever the program's threads do.
//! Every method blocks its thread. The methods also work inside of an asynchronous program, but block
//! its thread, too; use [`tenure_core::Client`](crate::Client) there, with
//! [`own_thread`](ClientBuilder::own_thread) if tasks may block.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tenure_core::{blocking::Client, memory::MemoryStore};
//!
//! let client = Client::connect(tenure_core::Client::builder(MemoryStore::new()))?;
//! let guard = client.lock("invoice-42")?.acquire()?;
//! println!("held, with fencing token {}", guard.check()?);
//! drop(guard); // releases, and waits for the store's answer
//! # Ok(()) }
//! ```

mod guard;
mod kinds;
mod lock;

use std::{fmt, sync::mpsc, time::Duration};

use tokio::runtime::Handle;

pub use self::{
    guard::Guard,
    kinds::{Election, GuardAll, Leadership, LockAll, RwLock, Semaphore},
    lock::Lock,
};
use crate::{
    capability::Capabilities,
    client::{ClientBuilder, Shutdown, own_thread},
    error::{Error, ErrorKind},
    name::LockName,
    request::{Evicted, List, LockState, Page},
    token::FencingToken,
};

/// One client of a store, for programs that are not asynchronous. Cheap to clone; clones are the
/// same client.
///
/// The client and its connection end when its last clone, lock and guard are gone.
#[derive(Clone)]
pub struct Client {
    client: crate::Client,
    thread: ClientThread,
}

impl Client {
    /// Connects, and checks the TTL and the requirements against the backend's capabilities. Blocks
    /// for up to the request time-out.
    ///
    /// # Errors
    ///
    /// As [`ClientBuilder::connect`], and [`ErrorKind::Exhausted`] if there can be no further thread.
    pub fn connect(builder: ClientBuilder) -> Result<Self, Error> {
        let (answer, connected) = mpsc::channel();
        own_thread::start(builder.own_thread(true), move |client| {
            let _ = answer.send(client);
        })?;
        let client = connected
            .recv()
            .unwrap_or_else(|_| Err(ended("connecting")))?;
        match client.0.own_thread.clone() {
            Some(runtime) => Ok(Self {
                client,
                thread: ClientThread(runtime),
            }),
            None => Err(ended("connecting")),
        }
    }

    /// Returns the same client with the asynchronous API.
    #[must_use]
    pub const fn as_async(&self) -> &crate::Client {
        &self.client
    }

    /// Returns the lock with this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`], with the defect of the name and its position.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, Error> {
        let lock = self.client.lock(name)?;
        Ok(Lock::new(lock, self.clone()))
    }

    /// Returns the backend's capabilities, as last read.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    /// Returns the holder and the waiters of a lock. Changes nothing (clause I1).
    ///
    /// # Errors
    ///
    /// As [`crate::Client::inspect`].
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<LockState, Error> {
        let (client, name) = (self.client.clone(), LockName::new(name)?);
        let inspect = async move { client.inspect(name).await };
        self.thread.run("inspecting", inspect)
    }

    /// Returns one page of the locks in the namespace that have a holder or waiters (clause I1).
    ///
    /// # Errors
    ///
    /// As [`inspect`](Self::inspect).
    pub fn list(&self, request: List) -> Result<Page, Error> {
        let client = self.client.clone();
        let list = async move { client.list(request).await };
        self.thread.run("listing", list)
    }

    /// Revokes the grant with this token, and no other grant (clause I2).
    ///
    /// # Errors
    ///
    /// As [`crate::Client::evict`].
    pub fn evict(&self, name: impl AsRef<str>, token: FencingToken) -> Result<Evicted, Error> {
        let (client, name) = (self.client.clone(), LockName::new(name)?);
        let evict = async move { client.evict(name, token).await };
        self.thread.run("evicting", evict)
    }

    /// Releases all grants of this client, removes its waiters from every queue, and closes the
    /// connection (clause R5), as [`crate::Client::shutdown`]. Blocks for up to `within`.
    pub fn shutdown(&self, within: Duration) -> Shutdown {
        let client = self.client.clone();
        let shutdown = async move { client.shutdown(within).await };
        self.thread.wait(shutdown).unwrap_or_default()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

/// The client's thread, on which all its asynchronous operations run.
#[derive(Clone, Debug)]
struct ClientThread(Handle);

impl ClientThread {
    /// Runs a future there, and blocks until it completes. Returns `None` if it panicked.
    fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.spawn(future).recv().ok()
    }

    /// Runs a request there, and blocks until it is answered.
    fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.wait(request).unwrap_or_else(|| Err(ended(operation)))
    }

    /// Runs a future there, and returns the receiver of its output.
    fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (done, output) = mpsc::channel();
        self.0.spawn(async move {
            let _ = done.send(future.await);
        });
        output
    }
}

fn ended(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation).with_detail("the thread of the client has ended")
}
