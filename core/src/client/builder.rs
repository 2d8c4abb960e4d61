//! Configuration and connection of a client.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Client, Inner,
    dispatcher::Dispatcher,
    own_thread::{self, OnThread},
    releaser::{Releaser, Work},
    renewer,
    timeout::timeout_at,
};
use crate::{
    backend::{Backend, Connect, Context, EventHandler, EventSink},
    capability::{Requirements, TtlScope},
    clock::{Clock, SystemClock},
    error::{Error, ErrorKind},
    id::ClientId,
    lease::DriftBounds,
    name::{InvalidName, Namespace},
    request::Owner,
    token::FencingToken,
};

/// Configures a [`Client`]. Every option has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    connect: Arc<dyn Connect>,
    namespace: Result<Namespace, InvalidName>,
    label: String,
    ttl: Duration,
    clamp_ttl: bool,
    drift_bounds: DriftBounds,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
    token_floor: FencingToken,
    requirements: Requirements,
    read_only: bool,
    own_thread: bool,
}

/// The values with which a client's locks are acquired unless a lock sets its own.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub(crate) owner: Owner,
    pub(crate) ttl: Duration,
    pub(crate) clamp_ttl: bool,
    pub(crate) read_only: bool,
}

impl Defaults {
    fn new(label: String, ttl: Duration, clamp_ttl: bool, read_only: bool) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            owner: Owner::new(label, host, std::process::id()),
            ttl,
            clamp_ttl,
            read_only,
        }
    }
}

impl ClientBuilder {
    pub(super) fn new(connect: Arc<dyn Connect>) -> Self {
        Self {
            connect,
            namespace: Ok(Namespace::default()),
            label: program(),
            ttl: Duration::from_secs(30),
            clamp_ttl: false,
            drift_bounds: DriftBounds::DEFAULT,
            request_timeout: Duration::from_secs(5),
            clock: Arc::new(SystemClock),
            token_floor: FencingToken::new(0),
            requirements: Requirements::default(),
            read_only: false,
            own_thread: false,
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.connect.info().scheme
    }

    /// Sets the namespace, which separates the client's locks from those of other applications.
    /// Its text has 1 to 512 bytes without NUL; [`connect`](Self::connect) reports another text.
    /// Default: `default`.
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> Self {
        self.namespace = Namespace::new(namespace);
        self
    }

    /// Sets the label that other clients see as the owner of this client's locks, beside host and
    /// process id. Default: the program's name.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the TTL of locks that do not set their own. Default: 30 s.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets whether a TTL that the backend does not support is replaced by the next longer one, or by
    /// the longest if it is above the range, instead of rejected (clause C2). The guard reports the granted TTL. Default:
    /// rejected.
    pub const fn clamp_ttl(mut self, clamp: bool) -> Self {
        self.clamp_ttl = clamp;
        self
    }

    /// Sets by how much clocks may differ. Default: [`DriftBounds::DEFAULT`].
    pub const fn drift_bounds(mut self, drift_bounds: DriftBounds) -> Self {
        self.drift_bounds = drift_bounds;
        self
    }

    /// Sets how long the client waits for the answer to one request. Default: 5 s.
    pub const fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Sets the clock, for tests. Default: the [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the token floor: every token is greater than it. Use it when a lock moves here from
    /// another store (clause T1). All clients of a name must use the same floor.
    pub const fn token_floor(mut self, floor: FencingToken) -> Self {
        self.token_floor = floor;
        self
    }

    /// Sets the capabilities that the backend must have (clause C3).
    pub const fn require(mut self, requirements: Requirements) -> Self {
        self.requirements = requirements;
        self
    }

    /// Sets whether the client is read-only. A read-only client inspects, lists and evicts; an
    /// acquire fails with [`ErrorKind::Unsupported`]. Connecting it creates nothing in the store,
    /// and its TTL is ignored. Default: no.
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether the client gets a thread of its own, which sends all its requests. Take it if
    /// the program's tasks may block their threads for a third of a TTL or longer: otherwise a
    /// blocked runtime renews nothing, and the locks are lost. It costs one thread, and two changes
    /// of thread for each request. The thread ends after the client. Default: no.
    pub const fn own_thread(mut self, own_thread: bool) -> Self {
        self.own_thread = own_thread;
        self
    }

    /// Connects, and checks the TTL and the requirements against the backend's capabilities.
    ///
    /// The client's tasks run on the runtime on which this method is called, unless the client has a
    /// [thread of its own](Self::own_thread).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the TTL or a requirement cannot be met, or no runtime is entered;
    /// otherwise the backend's error, or [`ErrorKind::Unavailable`] after the request time-out.
    ///
    /// # Cancel safety
    ///
    /// Only a connection is left behind, and it closes itself.
    pub async fn connect(self) -> Result<Client, Error> {
        if !self.own_thread {
            return self.connect_here().await.map(|(client, _)| client);
        }
        let (answer, connected) = oneshot::channel();
        let failed = Error::new(ErrorKind::Unavailable, "connecting")
            .with_backend(self.scheme())
            .with_detail("the thread of the client has ended");
        own_thread::start(self, |client| {
            // A client that nobody waits for ends here.
            let _: Result<(), _> = answer.send(client);
        })?;
        connected.await.unwrap_or(Err(failed))
    }

    /// Connects, runs `body` with the client, and shuts the client down whatever happens: `body`
    /// returns, returns early with `?`, or panics. So every lock is released when this function
    /// returns, also those of guards that were only dropped; a program that ends then leaves no lock
    /// taken. The shutdown takes two request time-outs at most.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tenure_core::{Client, memory::MemoryStore};
    ///
    /// let builder = Client::builder(MemoryStore::new());
    /// builder
    ///     .scope(async |client| {
    ///         let guard = client.lock("invoice-42")?.acquire().await?;
    ///         println!("held, with fencing token {}", guard.check()?);
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and the error of `body`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body and the client without a shutdown; the locks are released
    /// in the background.
    pub async fn scope<T, E: From<Error>>(
        self,
        body: impl AsyncFnOnce(&Client) -> Result<T, E>,
    ) -> Result<T, E> {
        let within = self.request_timeout.saturating_mul(2);
        let client = self.connect().await?;
        // A body may panic before it returns its future.
        let body = async { body(&client).await };
        let output = AssertUnwindSafe(body).catch_unwind().await;
        let left = client.shutdown(within).await.unreleased;
        if !left.is_empty() {
            tracing::warn!(?left, "could not release all locks at the end of the scope");
        }
        output.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Connects on the present runtime. Returns the client and the task that ends after it.
    pub(super) async fn connect_here(self) -> Result<(Client, JoinHandle<()>), Error> {
        let info = self.connect.info();
        let fail = |kind, detail: String| {
            Error::new(kind, "connecting")
                .with_backend(info.scheme)
                .with_detail(detail)
        };
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| fail(ErrorKind::Config, error.to_string()))?;
        if self.token_floor >= FencingToken::MAX {
            return Err(fail(
                ErrorKind::Config,
                format!("the token floor must be less than {}", FencingToken::MAX),
            ));
        }
        if self.request_timeout.is_zero() {
            return Err(fail(
                ErrorKind::Config,
                "the request time-out is zero".to_owned(),
            ));
        }
        let namespace = self
            .namespace
            .map_err(|invalid| fail(ErrorKind::Config, format!("the namespace: {invalid}")))?;
        let (commands, command_rx) = mpsc::unbounded_channel();
        let dispatcher = Arc::new(Dispatcher::new(
            info.scheme,
            Arc::clone(&self.clock),
            self.drift_bounds,
            self.request_timeout,
            commands,
        ));
        let weak: Weak<Dispatcher> = Arc::downgrade(&dispatcher);
        let handler = Arc::clone(&dispatcher) as Arc<dyn EventHandler>;
        let handler = Arc::downgrade(&handler);
        let context = Context::new(
            ClientId::random()?,
            EventSink::new(handler),
            Arc::clone(&self.clock),
        )
        .with_namespace(namespace.clone())
        .with_token_floor(self.token_floor)
        .with_request_timeout(self.request_timeout)
        .with_read_only(self.read_only);
        let limit = dispatcher.now() + self.request_timeout;
        let reached = timeout_at(&*self.clock, limit, async {
            let backend = self.connect.connect(context).await?;
            let capabilities = backend.capabilities().await?;
            Ok::<_, Error>((backend, capabilities))
        });
        let (backend, capabilities) = reached.await.unwrap_or_else(|| {
            let waited = humantime::format_duration(self.request_timeout);
            Err(fail(
                ErrorKind::Unavailable,
                format!("the store gave no answer within {waited}"),
            ))
        })?;
        dispatcher.set_capabilities(capabilities);
        let backend: Arc<dyn Backend> = match self.own_thread {
            true => Arc::new(OnThread::new(backend)),
            false => backend,
        };
        let releaser = Releaser::new(
            Arc::clone(&backend),
            self.clock,
            self.request_timeout,
            capabilities.ttl.scope == TtlScope::Pooled,
        );
        let checked = self
            .requirements
            .check(info.scheme, &capabilities)
            .and_then(|()| match self.read_only {
                true => Ok(()),
                false => {
                    let ttl = capabilities.ttl.resolve(self.ttl, self.clamp_ttl)?;
                    self.drift_bounds.check(ttl)
                }
            });
        if let Err(error) = checked {
            let _ = timeout_at(&*dispatcher.clock, limit, backend.close()).await;
            return Err(error.with_backend(info.scheme));
        }
        runtime.spawn(renewer::run(weak, Arc::clone(&backend)));
        let releases = runtime.spawn(releaser.clone().run(Work::new(command_rx)));
        let defaults = Defaults::new(self.label, self.ttl, self.clamp_ttl, self.read_only);
        let own_thread = self.own_thread.then_some(runtime);
        let client = Client(Arc::new(Inner {
            backend,
            dispatcher,
            releaser,
            info,
            namespace,
            defaults,
            own_thread,
        }));
        Ok((client, releases))
    }
}

fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}
