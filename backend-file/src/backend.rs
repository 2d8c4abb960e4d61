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
    cas::{BlobStore, Cas, Key, Names, Swap, Version, Versioned, Wake},
    error::{Error, ErrorKind},
    id::ClientId,
    name::{LockName, Namespace},
    queue::ClockId,
};

use crate::{
    clock,
    config::Options,
    dir,
    error::{errno, io_error},
    fifo::{self, ClientFifo},
    paths::{self, EntryKind},
    root,
};

const LISTING: &str = "listing locks";

/// A directory of locks. Cheap to clone; pass it to the builder of a client.
#[derive(Clone, Debug)]
pub struct FileStore {
    root: PathBuf,
    options: Options,
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
        Self {
            root: std::path::absolute(&root).unwrap_or(root),
            options,
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
        BackendInfo::new("file", format!("file:{}", self.root.display()))
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
        let mut blobs = FileBlobs {
            store: Arc::new(self.clone()),
            clock,
            fifo: None,
        };
        let read_only = context.read_only;
        let named = |error: Error| error.with_backend("file");
        blobs
            .run(move |store| {
                if read_only {
                    return root::inspect(&store.root, store.options);
                }
                root::prepare(&store.root, store.options)?;
                fifo::remove_stale(&store.root);
                Ok(())
            })
            .await
            .map_err(named)?;
        if read_only {
            return Ok(Arc::new(Cas::new(blobs, context).map_err(named)?));
        }
        match ClientFifo::open(&self.root, context.client, self.options) {
            Ok(fifo) => blobs.fifo = Some(fifo),
            Err(error) => {
                tracing::debug!(%error, "cannot create a FIFO; waiters poll");
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
        self.run(move |store| dir::read(&paths::lock_dir(&store.root, &key)))
            .await
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error> {
        let (key, expected) = (key.clone(), expected.cloned());
        self.run(move |store| {
            let dir = paths::lock_dir(&store.root, &key);
            match expected {
                Some(expected) => dir::replace(&dir, &expected, &bytes, store.options),
                None => dir::create(&store.root, &dir, &bytes, store.options),
            }
        })
        .await
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
            collect_names(
                &paths::namespace_dir(&store.root, &namespace),
                "",
                &mut names,
            )?;
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

    fn location(&self, key: &Key) -> String {
        let dir = paths::lock_dir(&self.store.root, key);
        dir::data_file(&dir).unwrap_or(dir).display().to_string()
    }

    fn to_delete(&self, key: &Key) -> String {
        let dir = paths::lock_dir(&self.store.root, key);
        format!("the directory {}", dir.display())
    }

    fn clock_id(&self) -> Option<ClockId> {
        self.clock
    }

    async fn wake(&self, client: ClientId, key: &Key) {
        // Two or three system calls that do not block.
        fifo::send(&self.store.root, client, &key.name);
    }

    async fn next_wake(&self) -> Wake {
        match &self.fifo {
            Some(fifo) => fifo.next().await,
            None => std::future::pending().await,
        }
    }
}

/// Collects the names below the directory of a namespace or of a name piece.
fn collect_names(dir: &Path, prefix: &str, names: &mut Vec<LockName>) -> Result<(), Error> {
    let failed = |error: std::io::Error| io_error(LISTING, dir, errno(&error));
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file_name = entry.file_name();
        match paths::classify(prefix, &file_name.to_string_lossy()) {
            // A longer text is not a name but a foreign directory tree.
            EntryKind::Piece(text) if text.len() <= 3 * tenure_core::name::MAX_NAME_BYTES => {
                collect_names(&entry.path(), &text, names)?;
            }
            EntryKind::Lock(name) => names.push(name),
            EntryKind::Piece(_) | EntryKind::Other => {}
        }
    }
    Ok(())
}
