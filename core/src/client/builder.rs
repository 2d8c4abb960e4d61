//! Configuration and connection of a client.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    Client, Inner, dispatcher::Dispatcher, releaser::Releaser, renewer, timeout::timeout_at,
};
use crate::{
    backend::{Connect, Context, EventHandler, EventSink},
    capability::{Requirements, TtlScope},
    clock::{Clock, SystemClock},
    error::{Error, ErrorKind},
    id::ClientId,
    lease::DriftBounds,
    name::Namespace,
    request::Owner,
    token::FencingToken,
};

/// Configures a [`Client`]. Every option has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    connect: Arc<dyn Connect>,
    namespace: Namespace,
    label: String,
    ttl: Duration,
    clamp_ttl: bool,
    drift_bounds: DriftBounds,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
    token_floor: FencingToken,
    requirements: Requirements,
    read_only: bool,
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
            namespace: Namespace::default(),
            label: program(),
            ttl: Duration::from_secs(30),
            clamp_ttl: false,
            drift_bounds: DriftBounds::DEFAULT,
            request_timeout: Duration::from_secs(5),
            clock: Arc::new(SystemClock),
            token_floor: FencingToken::new(0),
            requirements: Requirements::default(),
            read_only: false,
        }
    }

    /// Sets the namespace, which separates the client's locks from those of other applications.
    /// Default: `default`.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
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

    /// Connects, and checks the TTL and the requirements against the backend's capabilities.
    ///
    /// The client's tasks run on the runtime on which this method is called.
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
        .with_namespace(self.namespace.clone())
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
            backend.close().await;
            return Err(error.with_backend(info.scheme));
        }
        runtime.spawn(renewer::run(weak, Arc::clone(&backend)));
        runtime.spawn(releaser.clone().run(command_rx));
        let defaults = Defaults::new(self.label, self.ttl, self.clamp_ttl, self.read_only);
        let namespace = self.namespace;
        Ok(Client(Arc::new(Inner {
            backend,
            dispatcher,
            releaser,
            info,
            namespace,
            defaults,
        })))
    }
}

fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}
