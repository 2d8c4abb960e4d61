//! The driver: each operation runs one script.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    error::Error,
    mode::Modes,
    name::{LockName, Namespace},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal,
    },
    settings::StoreUrl,
    token::FencingToken,
};

use crate::{
    address::Address,
    attempts::Attempts,
    check,
    config::{Durability as ConfiguredDurability, Options},
    downgrade, enqueue, inspect,
    keys::{KeySpace, inbox},
    remove, renew,
    scripts::{LAST_TOKEN_TTL, Scripts},
    shared::Shared,
    transport::{Transport, TransportConfig},
    watch::EventForwarder,
};

/// A store of locks on Redis, not yet connected.
#[derive(Clone, Debug)]
pub struct RedisStore {
    address: Address,
    options: Options,
}

impl RedisStore {
    /// Creates a store for this URL, for example `redis://10.0.0.1`, with the default options. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn new(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::open(&StoreUrl::parse(url.as_ref())?, Options::default())
    }

    /// Creates a store for this URL; [`RedisFactory`](crate::RedisFactory) lists the schemes. Sends
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](tenure_core::error::ErrorKind::Config) if the URL or an option is
    /// invalid; the error names which.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let address = Address::new(url, &options)?;
        if let Some(template) = &options.plain_key {
            KeySpace::with_template(&Namespace::default(), template)?;
        }
        Ok(Self { address, options })
    }
}

#[async_trait]
impl Connect for RedisStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("redis", self.address.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let keys = match &self.options.plain_key {
            Some(template) => KeySpace::with_template(&context.namespace, template)?,
            None => KeySpace::new(&context.namespace),
        };
        let forwarder = Arc::new(EventForwarder::new(context.events.clone()));
        let config = TransportConfig {
            address: self.address.clone(),
            options: self.options.clone(),
            inbox: (!context.read_only).then(|| inbox(context.client)),
            scripts: Scripts::get().all().to_vec(),
            request_timeout: context.request_timeout,
            clock: Arc::clone(&context.clock),
            listener: Arc::<EventForwarder>::clone(&forwarder),
            has_warned: AtomicBool::new(false),
        };
        let transport = Transport::open(config).await?;
        let shared = Arc::new(Shared {
            transport,
            keys,
            options: self.options.clone(),
            context,
            waiting: Attempts::default(),
        });
        forwarder.attach(&shared);
        if let Err(missing_rights) = check::check_rights(&shared).await {
            shared.transport.close();
            return Err(missing_rights);
        }
        Ok(Arc::new(RedisBackend {
            info: self.info(),
            shared,
        }))
    }
}

/// One client's connection to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct RedisBackend {
    info: BackendInfo,
    shared: Arc<Shared>,
}

#[async_trait]
impl Backend for RedisBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(capabilities(&self.shared.options))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        enqueue::enqueue(&self.shared, request).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        renew::renew(Arc::clone(&self.shared), entries, answers).await;
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        remove::remove(&self.shared, &request).await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        downgrade::downgrade(&self.shared, &request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        inspect::inspect(&self.shared, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        inspect::list(&self.shared, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        inspect::evict(&self.shared, name, token).await
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        inspect::discard(&self.shared, name).await
    }

    async fn close(&self) {
        self.shared.transport.close();
    }
}

fn capabilities(options: &Options) -> Capabilities {
    let durability = match (options.min_replicas, options.durability) {
        (1.., _) => Durability::Replicated,
        (0, ConfiguredDurability::Local) => Durability::Local,
        (0, ConfiguredDurability::Volatile) => Durability::Volatile,
    };
    Capabilities::new(
        durability,
        WaitMode::Push,
        LossEvidence::new(Evidence::Push, Evidence::NextRenewal),
        TtlRange::new(
            Duration::from_millis(100),
            // Beyond this TTL, only the server's clock would keep tokens rising.
            LAST_TOKEN_TTL,
            Duration::from_millis(1),
            TtlScope::Lock,
        ),
        // The first waiter reports when the holder's grant expires. Half of the waiter's TTL and
        // the constant allow for a report that has to be repeated.
        TakeoverBound::new(100, 50, Duration::from_millis(500)),
    )
    .with_residue(Some(LAST_TOKEN_TTL))
    .with_modes(Modes::ALL)
}
