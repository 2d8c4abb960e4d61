//! A connected client that uses the driver trait directly.
#![allow(dead_code, reason = "each test target uses its own part of it")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure_core::{
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink, RenewalAnswers},
    clock::{Clock, SystemClock},
    error::Error,
    id::{AttemptId, ClientId},
    name::LockName,
    request::{Enqueue, Enqueued, Grant, Owner, Remove, Removed, Renewal, Renewed, Waiting},
    token::FencingToken,
};
use tenure_file::{FileStore, Options};
use tokio::sync::mpsc;

struct Events(Mutex<mpsc::UnboundedSender<BackendEvent>>);

impl EventHandler for Events {
    fn handle(&self, event: BackendEvent) {
        // The test may have ended.
        let _ = self.0.lock().unwrap().send(event);
    }
}

pub(crate) struct Client {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) events: mpsc::UnboundedReceiver<BackendEvent>,
    pub(crate) id: ClientId,
    _handler: Arc<dyn EventHandler>,
}

pub(crate) fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

pub(crate) async fn connect(root: &Path) -> Client {
    try_connect(root, Options::default()).await.unwrap()
}

pub(crate) async fn try_connect(root: &Path, options: Options) -> Result<Client, Error> {
    connect_with(root, options, |context| context).await
}

pub(crate) async fn connect_with(
    root: &Path,
    options: Options,
    change: impl FnOnce(Context) -> Context,
) -> Result<Client, Error> {
    let (sender, events) = mpsc::unbounded_channel();
    let handler: Arc<dyn EventHandler> = Arc::new(Events(Mutex::new(sender)));
    let id = ClientId::random()?;
    let sink = EventSink::new(Arc::downgrade(&handler));
    let context = change(Context::new(id, sink, Arc::new(SystemClock)));
    let backend = FileStore::open(root, options).connect(context).await?;
    Ok(Client {
        backend,
        events,
        id,
        _handler: handler,
    })
}

impl Client {
    pub(crate) async fn enqueue(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        wait: bool,
    ) -> Result<Enqueued, Error> {
        let owner = Owner::new("test", "host", std::process::id());
        let request = Enqueue::new(name.clone(), attempt, owner, ttl, wait);
        self.backend.enqueue(request).await
    }

    pub(crate) async fn acquire(&self, name: &LockName, ttl: Duration) -> Grant {
        let attempt = AttemptId::random().unwrap();
        match self.enqueue(name, attempt, ttl, true).await.unwrap() {
            Enqueued::Granted(grant) => grant,
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(crate) async fn wait(&self, name: &LockName, attempt: AttemptId, ttl: Duration) -> Waiting {
        match self.enqueue(name, attempt, ttl, true).await.unwrap() {
            Enqueued::Waiting(waiting) => waiting,
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(crate) async fn renew(
        &self,
        name: &LockName,
        attempt: AttemptId,
        token: Option<FencingToken>,
    ) -> Renewed {
        let renewal = Renewal::new(name.clone(), attempt, Duration::from_secs(30), token);
        let renewed =
            RenewalAnswers::collect(1, |answers| self.backend.renew(vec![renewal], answers));
        renewed.await.remove(0)
    }

    pub(crate) async fn remove(&self, name: &LockName, attempt: AttemptId) -> Removed {
        let ttl = Duration::from_secs(30);
        let request = Remove::new(name.clone(), attempt, ttl, true);
        self.backend.remove(request).await.unwrap()
    }

    pub(crate) async fn event(&mut self) -> BackendEvent {
        let event = tokio::time::timeout(Duration::from_secs(30), self.events.recv());
        event.await.expect("an event within 30 s").unwrap()
    }

    /// Waits until the attempt holds the lock, reporting periodically.
    pub(crate) async fn granted(
        &self,
        name: &LockName,
        attempt: AttemptId,
        within: Duration,
    ) -> Option<Grant> {
        let clock = SystemClock;
        let end = clock.now() + within;
        loop {
            match self.renew(name, attempt, None).await {
                Renewed::Granted(grant) => return Some(grant),
                Renewed::Waiting(_) if clock.now() < end => {}
                Renewed::Waiting(_) => return None,
                other => panic!("{name}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Copies a tree with its links, except FIFOs.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the body of a test that another test starts as a process of its own, with the directory that it
/// passes. Without one, nobody has started it, and nothing is run.
pub(crate) fn run_as_child(body: impl AsyncFnOnce(&Path)) {
    let Some(dir) = std::env::var_os("TENURE_TEST_DIR").map(PathBuf::from) else {
        return;
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body(&dir));
}
