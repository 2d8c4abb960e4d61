//! A harness over any connector: runs the suite in a temporary namespace of a user's store.
//!
//! This harness has no access to the store's own tools, such as the deletion or the corruption of a
//! lock's state. Cases that need them are shown as ignored.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    Client,
    backend::Connect,
    error::{Error, ErrorKind},
    name::{LockName, Namespace},
    request::{Evicted, List},
};

use crate::{
    Env, Harness, Need, cases,
    context::CaseContext,
    launcher::Launcher,
    outcome::Stop,
    worker,
    wrap::{Plan, Tap},
};

/// The bytes that the suffixes of the run and of the cases add to the user's namespace.
const NAMESPACE_SUFFIX_BYTES: usize = 64;
/// The number of locks in one page of the listing.
const PAGE_SIZE: usize = 200;
/// The maximum number of evictions of one lock, whose waiters may all be dead.
const MAX_EVICTIONS: usize = 64;
/// The time limit of the clean-up of one namespace.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(20);

/// A user's store.
pub struct Store {
    name: String,
    connector: Tap,
    /// Records the locks that the cases use.
    plan: Plan,
    base: String,
    secrets: Vec<String>,
    ignored: Vec<(&'static str, &'static str)>,
    made: AtomicU64,
    /// Whether other processes reach the store.
    shared: AtomicBool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Creates a harness for the store of a connector. Every case has a separate namespace, which begins
    /// with `namespace`, a dot, `conformance-` and a random text. This function sends no request.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Config`] if the namespace is too long for the suffix.
    pub fn new(connector: Arc<dyn Connect>, namespace: &Namespace) -> Result<Self, Error> {
        let operation = "preparing the conformance suite";
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(ErrorKind::Unavailable, operation).with_detail(error.to_string())
        })?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let base = format!("{}.conformance-{random}", namespace.as_str());
        if base.len() + NAMESPACE_SUFFIX_BYTES > tenure_core::name::MAX_NAME_BYTES {
            return Err(Error::new(ErrorKind::Config, operation)
                .with_detail("the namespace is too long for the suffix of the suite; shorten it"));
        }
        let ignored = cases().into_iter().filter_map(|case| match case.needs? {
            Need::Processes => None,
            Need::DeleteState | Need::Corrupt | Need::NewerFormat => Some((
                case.id,
                "it needs the store's own tools, which a client does not have",
            )),
            need => Some((case.id, need.missing())),
        });
        let plan = Plan::of_names();
        Ok(Self {
            name: connector.info().scheme.to_owned(),
            connector: Tap::new(connector, &plan),
            plan,
            base,
            secrets: Vec::new(),
            ignored: ignored.collect(),
            made: AtomicU64::new(0),
            shared: AtomicBool::new(true),
        })
    }

    /// Sets the configured secrets of the connector, which must not appear anywhere (S1).
    #[must_use]
    pub fn with_secrets(mut self, secrets: Vec<String>) -> Self {
        self.secrets = secrets;
        self
    }

    /// Returns the common prefix of all namespaces of the run.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Determines whether another process reaches the store: starts this program again with the given
    /// arguments, as for [`Suite::workers`](crate::report::Suite::workers), and lets it inspect a lock
    /// that this process holds. If it does not see the lock, cases with several processes do not apply.
    ///
    /// # Errors
    ///
    /// Returns the reason if this cannot be determined; the cases then show it.
    ///
    /// # Cancel safety
    ///
    /// Cancelling may leave a lock held for its TTL.
    pub async fn reach(&self, arguments: &[OsString]) -> Result<bool, String> {
        let env = self.start().await.map_err(|error| error.to_string())?;
        let launcher = Launcher::with(arguments.to_vec());
        let seen = async {
            let context = CaseContext::new(env, Some(launcher)).await?;
            let seen = worker::is_seen(&context).await;
            context.finish().await;
            seen
        };
        let seen = seen.await.map_err(|stop| match stop {
            Stop::Failed(failure) => failure.to_string(),
            Stop::Ignored(need) => need.missing().to_owned(),
        })?;
        self.shared.store(seen, Ordering::Relaxed);
        Ok(seen)
    }

    /// Evicts all grants that the cases left, deletes the states of all their locks, and returns one
    /// line for each remaining item. Call this function after all cases have ended.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves the remaining grants unchanged.
    pub async fn clean_up(&self) -> Vec<String> {
        let used = self.plan.take_names();
        let mut left = BTreeSet::new();
        let mut kept = Duration::ZERO;
        for (namespace, names) in used {
            let cleaning = self.clean(&namespace, &names, &mut left);
            match tokio::time::timeout(CLEANUP_TIMEOUT, cleaning).await {
                Ok(Ok(residue)) => kept = kept.max(residue),
                Ok(Err(error)) => {
                    left.insert(format!(
                        "possibly locks in namespace {:?}: {error}",
                        namespace.as_str()
                    ));
                }
                Err(_) => {
                    let late = format!(
                        "possibly locks in namespace {:?}: the store is slow",
                        namespace.as_str()
                    );
                    left.insert(late);
                }
            }
        }
        let mut left: Vec<String> = left.into_iter().collect();
        let below = format!("below the namespaces that begin with {:?}", self.base);
        match kept {
            Duration::ZERO => {}
            Duration::MAX => left.push(format!(
                "the fencing state of free locks {below}: this store keeps it forever; remove it manually"
            )),
            span => left.push(format!(
                "the fencing state of free locks {below}, which the store deletes within {}",
                crate::report::format_span(span)
            )),
        }
        left
    }

    /// Evicts all holders of a namespace and deletes the states of its locks; returns for how long the
    /// store keeps what remains of them.
    async fn clean(
        &self,
        namespace: &Namespace,
        names: &BTreeSet<LockName>,
        left: &mut BTreeSet<String>,
    ) -> Result<Duration, Error> {
        let builder =
            Client::builder(Arc::new(self.connector.clone())).namespace(namespace.clone());
        let client = builder.read_only(true).connect().await?;
        let cleaned = async {
            sweep(&client, namespace, left).await?;
            let mut residue = Duration::ZERO;
            for name in names {
                let kept = client.discard(name).await?;
                residue = residue.max(kept.unwrap_or(Duration::MAX));
            }
            Ok(residue)
        };
        let residue = cleaned.await;
        client.shutdown(Duration::from_secs(1)).await;
        residue
    }
}

async fn sweep(
    client: &Client,
    namespace: &Namespace,
    left: &mut BTreeSet<String>,
) -> Result<(), Error> {
    let mut request = List::new("", PAGE_SIZE);
    loop {
        let page = client.list(request.clone()).await?;
        for lock in &page.locks {
            let mut state = client.inspect(&lock.name).await?;
            for _ in 0..MAX_EVICTIONS {
                let Some(token) = state.holder.as_ref().and_then(|holder| holder.token) else {
                    break;
                };
                if !matches!(client.evict(&lock.name, token).await?, Evicted::Evicted) {
                    break;
                }
                state = client.inspect(&lock.name).await?;
            }
            if state.holder.is_some() || !state.queue.is_empty() {
                left.insert(format!(
                    "the lock {:?} in namespace {:?}, until its TTL ends",
                    lock.name.as_str(),
                    namespace.as_str()
                ));
            }
        }
        if page.next.is_none() {
            return Ok(());
        }
        request = request.at(page.next);
    }
}

struct Part {
    connector: Tap,
    plan: Plan,
    namespace: Namespace,
    secrets: Vec<String>,
    shared: bool,
}

#[async_trait]
impl Harness for Store {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(format!("{}.{number}", self.base))?;
        Ok(Arc::new(Part {
            connector: self.connector.clone(),
            plan: self.plan.clone(),
            namespace,
            secrets: self.secrets.clone(),
            shared: self.shared.load(Ordering::Relaxed),
        }))
    }

    /// Returns the namespace of the case. The other process reads the address and the credentials of the
    /// store from the same configuration.
    async fn join(&self, ticket: &str) -> Result<Arc<dyn Env>, Error> {
        Ok(Arc::new(Part {
            connector: self.connector.clone(),
            plan: self.plan.clone(),
            namespace: Namespace::new(ticket)?,
            secrets: self.secrets.clone(),
            shared: true,
        }))
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &self.ignored
    }
}

impl Env for Part {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(self.connector.clone())
    }

    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    fn ticket(&self) -> Option<String> {
        self.shared.then(|| self.namespace.as_str().to_owned())
    }

    fn note_lock_of_worker(&self, name: &LockName) {
        self.plan.use_name(&self.namespace, name);
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}
