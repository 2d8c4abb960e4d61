//! The driver: each request of the core is a transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{GetOptions, GetResponse, Txn};
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    clock::Instant,
    error::{Error, ErrorKind},
    name::LockName,
    request::{
        Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal, Renewed,
    },
    settings::StoreUrl,
    token::FencingToken,
};
use tokio::task::AbortHandle;

use crate::{
    attempts::Book,
    config::{Options, Target},
    enqueue,
    error::Fault,
    inspect,
    keys::KeySpace,
    lease::Pool,
    remove, renew,
    transport::Link,
    txn::{self, Answer},
    uncontended::Quiet,
    watch::{Watcher, Watching},
};

/// The longest TTL: whoever takes a lock for longer means it to outlive its holder.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// How large an answer may be.
pub(crate) const LARGEST_ANSWER: usize = 64 << 20;

/// A store of locks on etcd, not yet connected.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    target: Target,
    options: Options,
}

impl EtcdStore {
    /// The store at this address, by the schemes that [`EtcdFactory`](crate::EtcdFactory) lists.
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](tenure_core::error::ErrorKind::Config) says what is wrong with the
    /// address, or with an option for it.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let target = Target::new(url, &options)?;
        Ok(Self { target, options })
    }
}

#[async_trait]
impl Connect for EtcdStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("etcd", self.target.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        const OPERATION: &str = "connecting";
        let link = Arc::new(Link::new(
            self.target.clone(),
            self.options.clone(),
            context.events.clone(),
            context.request_timeout,
        ));
        let keys = KeySpace::new(&context.namespace);
        let user = self.options.username.clone();
        let nowhere = keys.nowhere();
        let clock = Arc::clone(&context.clock);
        let pool = Arc::new(Pool::new(Arc::clone(&link), clock, nowhere.clone()));
        let (watcher, inbox) = Watcher::new();
        let mut core = Core {
            link: Arc::clone(&link),
            pool: Arc::clone(&pool),
            keys,
            nowhere: nowhere.clone(),
            book: Book::default(),
            quiet: Quiet::default(),
            watcher,
            shortest: Duration::from_secs(1),
            context,
        };
        core.check_rights().await.map_err(|fault| {
            let error = fault.into_read_error(OPERATION);
            if error.kind() != ErrorKind::PermissionDenied {
                return error;
            }
            let who = match &user {
                Some(user) => format!("the user {user:?}"),
                None => "who names no user".to_owned(),
            };
            let prefix = core.keys.all();
            error.with_detail(format!(
                "{who} may not read and write the keys that begin with {prefix:?}; grant `readwrite` \
                 on that prefix, or see whether `namespace` is right"
            ))
        })?;
        let mut tasks = Vec::new();
        if !core.context.observer {
            // Servers grant no less than one and a half times their election time. Nothing but a grant
            // tells; this one is left to expire.
            let granted = pool.ask_for(1).await;
            core.shortest = granted.map_err(|fault| fault.into_read_error(OPERATION))?.1;
        }
        let observer = core.context.observer;
        let core = Arc::new(core);
        if !observer {
            let watching = Watching::new(Arc::downgrade(&core), link, nowhere, inbox);
            tasks.push(tokio::spawn(watching.run()).abort_handle());
            tasks.push(tokio::spawn(Pool::keep(Arc::downgrade(&pool))).abort_handle());
        }
        Ok(Arc::new(EtcdBackend {
            info: self.info(),
            core,
            tasks,
        }))
    }
}

/// One client's way to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct EtcdBackend {
    info: BackendInfo,
    core: Arc<Core>,
    tasks: Vec<AbortHandle>,
}

/// What every operation works with.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) link: Arc<Link>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) keys: KeySpace,
    /// A key that never exists.
    pub(crate) nowhere: String,
    pub(crate) book: Book,
    pub(crate) quiet: Quiet,
    pub(crate) watcher: Watcher,
    /// The shortest TTL that the servers grant.
    shortest: Duration,
    pub(crate) context: Context,
}

impl Core {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    /// Carries out a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Answer, Fault> {
        self.txn_within(self.link.limit, txn).await
    }

    /// Carries out a transaction that will be asked for again if it is not answered: then it is better
    /// not to wait for a server that has stopped.
    pub(crate) async fn txn_soon(&self, txn: Txn) -> Result<Answer, Fault> {
        self.txn_within(self.link.patience(), txn).await
    }

    /// Deletes one key, in the time of [`txn_soon`](Self::txn_soon). Tells whether it was there.
    pub(crate) async fn delete_soon(&self, key: &str) -> Result<bool, Fault> {
        let limit = self.link.patience();
        let response = self.link.call(limit, key, |member, key| async move {
            member.client.kv_client().delete(key, None).await
        });
        Ok(response.await?.deleted() > 0)
    }

    async fn txn_within(&self, limit: Duration, txn: Txn) -> Result<Answer, Fault> {
        let response = self.link.call(limit, txn, |member, txn| async move {
            let client = member.client.kv_client();
            client
                .max_decoding_message_size(LARGEST_ANSWER)
                .txn(txn)
                .await
        });
        Answer::new(&response.await?)
    }

    /// Carries out a transaction that writes nothing.
    pub(crate) async fn look(&self, txn: Txn) -> Result<Answer, Fault> {
        let response = self.link.ask_around(txn, |member, txn| async move {
            let client = member.client.kv_client();
            client
                .max_decoding_message_size(LARGEST_ANSWER)
                .txn(txn)
                .await
        });
        Answer::new(&response.await?)
    }

    pub(crate) async fn get(
        &self,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, Fault> {
        let request = (key.into(), options);
        self.link
            .ask_around(request, |member, (key, options)| async move {
                let client = member.client.kv_client();
                let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
                client.get(key, Some(options)).await
            })
            .await
    }

    /// Tries every right that locks need, without changing anything: one that is missing would else be
    /// noticed in the middle of a hand-over. Also shows that there is a majority.
    async fn check_rights(&self) -> Result<(), Fault> {
        let all = self.keys.all();
        if self.context.observer {
            let options = GetOptions::new()
                .with_range(crate::keys::range_end(&all))
                .with_count_only();
            self.get(all, options).await?;
        } else {
            self.txn(txn::rights(&all, &self.nowhere)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(Capabilities::new(
            Durability::Consensus,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::Push),
            TtlRange::new(
                self.core.shortest,
                LONGEST_TTL,
                Duration::from_secs(1),
                TtlScope::Pooled,
            ),
            // The server looks for expired leases every half a second, and revokes them through its
            // log. Half of the waiter's TTL is for a message that was lost with its server.
            TakeoverBound::new(100, 50, Duration::from_secs(2)),
        )
        .with_residue(Some(Duration::ZERO)))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        enqueue::enqueue(&self.core, &request).await
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        renew::renew(&self.core, entries).await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        remove::remove(&self.core, &request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        inspect::inspect(&self.core, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        inspect::list(&self.core, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        inspect::evict(&self.core, name, token).await
    }

    async fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
        let patience = self
            .core
            .context
            .request_timeout
            .min(Duration::from_secs(2));
        self.core.pool.close(patience).await;
        self.core.link.close();
    }
}

impl Drop for EtcdBackend {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
