//! The file store: a directory of locks as a store of the compare-and-swap adapter.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    cas::{BlobStore, Cas, Key, Names, Swap, SwapPermit, Version, Versioned, Wake},
    error::{Error, ErrorKind},
    id::ClientId,
    name::{LockName, Namespace},
    queue::ClockId,
};

use crate::{
    clock,
    config::Options,
    delete, dir,
    dir_handle::DirHandle,
    fifo::{self, ClientFifo},
    paths::{self, EntryKind},
    permit::{self, PermitWaits, ReadToSwap, TryRead},
    root,
};

const LISTING: &str = "listing locks";
/// Maximum number of permit files for which one client waits, each of which may be replaced because
/// a stopped process has its permit.
const MAX_PERMIT_FILES: u32 = 3;

/// A directory of locks. Cheap to clone; pass it to the builder of a client.
#[derive(Clone, Debug)]
pub struct FileStore {
    root: PathBuf,
    pub(crate) options: Options,
    /// Whether this is the copy of a client that only reads.
    pub(crate) read_only: bool,
}

impl FileStore {
    /// Creates a store in a directory. The first connect creates the directory if it is absent. A
    /// relative path is resolved against the current directory.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::open(root, Options::default())
    }

    /// Creates a store in a directory with options. Does no I/O.
    #[must_use]
    pub fn open(root: impl Into<PathBuf>, options: Options) -> Self {
        let root = root.into();
        let root = std::path::absolute(&root).unwrap_or(root);
        Self {
            // Without a slash at the end, which would follow a link.
            root: root.components().collect(),
            options,
            read_only: false,
        }
    }

    /// Returns the default directory: `/var/tmp/tenure-<uid>`. It depends only on the user, so that
    /// a scheduled job and a shell of the same user share it.
    #[must_use]
    pub fn default_root() -> PathBuf {
        let uid = rustix::process::geteuid().as_raw();
        PathBuf::from(format!("/var/tmp/tenure-{uid}"))
    }

    /// Sets [`Options::shared`].
    #[must_use]
    pub fn shared(mut self, yes: bool) -> Self {
        self.options = self.options.shared(yes);
        self
    }

    /// Sets [`Options::allow_network`].
    #[must_use]
    pub fn allow_network(mut self, yes: bool) -> Self {
        self.options = self.options.allow_network(yes);
        self
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn backend_info(&self) -> BackendInfo {
        let info = BackendInfo::new("file", format!("file:{}", self.root.display()));
        if self.options.allow_network {
            return info;
        }
        info.without_network()
    }
}

#[async_trait]
impl Connect for FileStore {
    fn info(&self) -> BackendInfo {
        self.backend_info()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let clock = self
            .options
            .clock
            .or_else(|| clock::identity(&*context.clock));
        let store = Self {
            read_only: context.read_only,
            ..self.clone()
        };
        let mut blobs = FileBlobs {
            store: Arc::new(store),
            clock,
            fifo: None,
            waits: Arc::default(),
        };
        let named = |error: Error| error.with_backend("file");
        let fifo_dir = blobs
            .run(|store| {
                if store.read_only {
                    root::inspect(store)?;
                    return Ok(None);
                }
                let fifo_dir = root::prepare(store)?;
                fifo::remove_stale(&fifo_dir);
                Ok(Some(fifo_dir))
            })
            .await
            .map_err(named)?;
        if let Some(dir) = fifo_dir {
            match ClientFifo::open(dir, context.client, self.options) {
                Ok(fifo) => blobs.fifo = Some(fifo),
                Err(error) => {
                    tracing::debug!(%error, "cannot create a FIFO; waiters poll");
                }
            }
        }
        let backend = Cas::new(blobs, context).map_err(named)?;
        Ok(Arc::new(backend))
    }
}

/// The directory as one connected client uses it.
#[derive(Debug)]
struct FileBlobs {
    store: Arc<FileStore>,
    clock: Option<ClockId>,
    fifo: Option<ClientFifo>,
    waits: Arc<PermitWaits>,
}

impl FileBlobs {
    /// Runs system calls on a blocking thread. They also run if the caller is dropped; the clean-up
    /// after an unknown outcome covers that.
    async fn run<T: Send + 'static>(
        &self,
        calls: impl FnOnce(&FileStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.store.options.inline {
            return calls(&self.store);
        }
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || calls(&store)).await {
            Ok(result) => result,
            Err(source) => Err(Error::new(
                ErrorKind::OutcomeUnknown,
                "using the directory of locks",
            )
            .with_detail("the runtime is shutting down")
            .with_source(source)),
        }
    }

    async fn read_with_permit(&self, key: &Key, mut conflicted: bool) -> Result<ReadToSwap, Error> {
        for _ in 0..MAX_PERMIT_FILES {
            let try_key = key.clone();
            let tried = self.run(move |store| permit::try_read(store, &try_key, conflicted));
            let busy = match tried.await? {
                TryRead::Done(read) => return Ok(read),
                TryRead::Busy(busy) => busy,
            };
            let mut last_grant = busy.last_grant;
            let mut granted = self.waits.wait(busy, &self.store, key);
            loop {
                let stalled_at = self.waits.stalled_at(last_grant);
                match tokio::time::timeout_at(stalled_at, &mut granted).await {
                    Ok(Ok(read)) => return read,
                    // The thread could not wait for the permit.
                    Ok(Err(_)) => return self.read_without_permit(key).await,
                    Err(_) => {}
                }
                let key = key.clone();
                let check = move |store: &_| permit::replace_stalled(store, &key, last_grant);
                match self.run(check).await? {
                    Some(grant) => last_grant = grant,
                    None => break,
                }
            }
            conflicted = true;
        }
        self.read_without_permit(key).await
    }

    async fn read_without_permit(&self, key: &Key) -> Result<ReadToSwap, Error> {
        Ok((self.read(key).await?, None))
    }
}

#[async_trait]
impl BlobStore for FileBlobs {
    fn info(&self) -> BackendInfo {
        self.store.backend_info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let (wait, evicted) = match self.fifo {
            Some(_) => (WaitMode::Push, Evidence::Push),
            None => {
                let every = Duration::from_millis(50);
                (WaitMode::Poll { every }, Evidence::NextRenewal)
            }
        };
        Ok(Capabilities::new(
            Durability::Local,
            wait,
            LossEvidence::new(evicted, Evidence::NextRenewal),
            TtlRange::new(
                Duration::from_millis(100),
                Duration::from_secs(24 * 60 * 60),
                Duration::from_millis(1),
                TtlScope::Lock,
            ),
            TakeoverBound::new(100, 50, Duration::from_secs(1)),
        ))
    }

    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error> {
        let key = key.clone();
        self.run(move |store| dir::read(store, &key)).await
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error> {
        let (key, expected) = (key.clone(), expected.cloned());
        self.run(move |store| match expected {
            Some(expected) => dir::replace(store, &key, &expected, &bytes),
            None => dir::create(store, &key, &bytes),
        })
        .await
    }

    async fn read_to_swap(
        &self,
        key: &Key,
        limit: Duration,
        conflicted: bool,
    ) -> Result<(Option<Versioned>, Option<SwapPermit>), Error> {
        let read = self.read_with_permit(key, conflicted);
        let (current, permit) = match tokio::time::timeout(limit, read).await {
            Ok(read) => read?,
            Err(_) => self.read_without_permit(key).await?,
        };
        Ok((current, permit.map(SwapPermit::new)))
    }

    async fn list(
        &self,
        namespace: &Namespace,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Names, Error> {
        let namespace = namespace.clone();
        let (prefix, cursor) = (prefix.to_owned(), cursor.map(str::to_owned));
        self.run(move |store| {
            let mut names = Vec::new();
            let dirs = paths::namespace_names(&namespace);
            if let Some(dir) = root::open_below(store, &dirs, LISTING)? {
                collect_names(&dir, "", &mut names)?;
            }
            names.retain(|name| {
                let after = cursor
                    .as_deref()
                    .is_none_or(|cursor| name.as_str() > cursor);
                after && name.as_str().starts_with(&prefix)
            });
            names.sort_unstable();
            let more = names.len() > limit;
            names.truncate(limit);
            let next = names.last().filter(|_| more).map(ToString::to_string);
            Ok(Names::new(names, next))
        })
        .await
    }

    async fn delete(&self, key: &Key, expected: &Version) -> Result<bool, Error> {
        let (key, expected) = (key.clone(), expected.clone());
        self.run(move |store| delete::delete(store, &key, &expected))
            .await
    }

    fn location(&self, key: &Key) -> String {
        dir::data_file(&self.store, key)
            .unwrap_or_else(|| paths::lock_dir(&self.store.root, key))
            .display()
            .to_string()
    }

    fn to_delete(&self, key: &Key) -> String {
        let dir = paths::lock_dir(&self.store.root, key);
        format!("the directory {}", dir.display())
    }

    fn clock_id(&self) -> Option<ClockId> {
        self.clock
    }

    fn has_one_clock(&self) -> bool {
        let options = &self.store.options;
        self.clock.is_some() && options.clock.is_none() && !options.allow_network
    }

    async fn wake(&self, client: ClientId, key: &Key) {
        // A dozen system calls that do not block.
        fifo::send(&self.store, client, &key.name);
    }

    async fn next_wake(&self) -> Wake {
        match &self.fifo {
            Some(fifo) => fifo.next().await,
            None => std::future::pending().await,
        }
    }
}

/// Collects the names below the directory of a namespace or of a name piece.
fn collect_names(dir: &DirHandle, prefix: &str, names: &mut Vec<LockName>) -> Result<(), Error> {
    for entry in dir.names()? {
        let entry = entry.to_string_lossy();
        match paths::classify(prefix, &entry) {
            // A longer text is not a name but a foreign directory tree.
            EntryKind::Piece(text) if text.len() <= 3 * tenure_core::name::MAX_NAME_BYTES => {
                if let Some(piece) = dir.open(&entry)? {
                    collect_names(&piece, &text, names)?;
                }
            }
            EntryKind::Lock(name) => names.push(name),
            EntryKind::Piece(_) | EntryKind::Other => {}
        }
    }
    Ok(())
}
