//! A deployment of servers on which the suite runs. The servers start when the first case needs them, and
//! end with this process.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tenure_conformance::{
    Env, Harness,
    fault::Faulty,
    servers::{DedicatedStore, ServerAction, Servers},
};
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
    id::ClientId,
    name::{LockName, Namespace},
    registry::Factory,
    secret::Secret,
    settings::{RawOptions, Settings, StoreUrl, Tls, Value},
};
use tenure_test_servers::{
    Certificates, Error as ServerError, Kind, Server,
    cluster::{Cluster, ClusterKind},
};
use tokio::task::spawn_blocking;

/// The time limit for all members of a cluster to serve again.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// The common prefix of the namespaces of all cases.
pub(crate) const NAMESPACE_PREFIX: &str = "case ";

/// The configuration of a client of the deployment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Access {
    pub(crate) url: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    options: Vec<(String, String)>,
}

impl Access {
    /// `user` is a name, a password, and the certificates of the servers and of the user.
    pub(crate) fn new(
        url: impl Into<String>,
        user: Option<(&str, &str, Certificates)>,
        options: &[(&str, &str)],
    ) -> Self {
        let file = |path: fn(&Certificates) -> PathBuf| user.as_ref().map(|(.., all)| path(all));
        Self {
            url: url.into(),
            username: user.as_ref().map(|(name, ..)| (*name).to_owned()),
            password: user.as_ref().map(|(_, password, _)| (*password).to_owned()),
            ca_file: file(Certificates::ca_file),
            cert_file: file(Certificates::client_certificate_file),
            key_file: file(Certificates::client_key_file),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn connector<O: Operator>(&self) -> Result<Arc<dyn Connect>, Error> {
        let tls = Tls::new(
            self.ca_file.clone(),
            self.cert_file.clone(),
            self.key_file.clone(),
        );
        let options = self
            .options
            .iter()
            .fold(RawOptions::new(), |options, (key, value)| {
                options.with(key, Value::from(value.as_str()), "the test")
            });
        let settings = Settings::new(StoreUrl::parse(&self.url)?)
            .with_credentials(
                self.username.clone(),
                self.password.as_deref().map(Secret::new),
            )
            .with_tls(tls)
            .with_options(options);
        O::factory().open(&settings)
    }
}

/// Servers that belong together.
pub(crate) trait Group<K: Kind>: Send + Sync + 'static {
    fn servers(&self) -> Vec<&Server<K>>;

    /// Whether [`apply`](Self::apply) knows the action.
    fn supports(&self, action: ServerAction) -> bool {
        use ServerAction::{Kill, Pause, Resume, Start};
        matches!(action, Kill | Start | Pause | Resume)
    }

    fn apply(&self, action: ServerAction) -> Result<(), ServerError> {
        apply_to_all(&self.servers(), action)
    }
}

/// Applies an action to all servers at the same time: the members of a cluster need each other to serve.
fn apply_to_all<K: Kind>(servers: &[&Server<K>], action: ServerAction) -> Result<(), ServerError> {
    let act = |server: &Server<K>| match action {
        ServerAction::Kill => {
            server.kill();
            Ok(())
        }
        ServerAction::Start if server.is_running() => Ok(()),
        ServerAction::Start => server.restart(),
        ServerAction::Pause => server.pause(),
        ServerAction::Resume => server.resume(),
        other => unreachable!("a group without a leader does not support {other:?}"),
    };
    thread::scope(|scope| {
        let acts: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| act(server)))
            .collect();
        acts.into_iter()
            .try_for_each(|act| act.join().expect("an action does not panic"))
    })
}

impl<K: Kind> Group<K> for Server<K> {
    fn servers(&self) -> Vec<&Self> {
        vec![self]
    }
}

impl<K: ClusterKind> Group<K> for Cluster<K> {
    fn servers(&self) -> Vec<&Server<K>> {
        Self::servers(self).iter().collect()
    }

    /// A cluster without links has no partitions.
    fn supports(&self, action: ServerAction) -> bool {
        use ServerAction::{Heal, Partition};
        !matches!(action, Partition | Heal) || self.links().is_ok()
    }

    fn apply(&self, action: ServerAction) -> Result<(), ServerError> {
        match action {
            ServerAction::FailOver => {
                self.server(self.leader()?).kill();
                self.leader().map(|_| ())
            }
            ServerAction::Partition => {
                let old = self.leader()?;
                self.links()?.isolate(old);
                // The old leader reports for a while that it leads.
                self.leader_other_than(old).map(|_| ())
            }
            ServerAction::Heal => {
                self.links()?.heal();
                self.wait_healthy(HEALTHY_TIMEOUT)
            }
            ServerAction::Start => {
                apply_to_all(&Group::servers(self), action)?;
                self.wait_healthy(HEALTHY_TIMEOUT)
            }
            _ => apply_to_all(&Group::servers(self), action),
        }
    }
}

/// Running servers, and how clients reach them.
pub(crate) struct Running<K: Kind> {
    pub(crate) access: Access,
    group: Box<dyn Group<K>>,
}

impl<K: Kind> Running<K> {
    pub(crate) fn new(access: Access, group: impl Group<K>) -> Self {
        Self {
            access,
            group: Box::new(group),
        }
    }

    pub(crate) fn servers(&self) -> Vec<&Server<K>> {
        self.group.servers()
    }
}

/// An operator of one case, who reads and changes the state of locks with the store's own tools.
#[async_trait]
pub(crate) trait Operator: Send + Sync + Sized + 'static {
    type Kind: Kind;
    /// A record that no version of `tenure` writes.
    const CORRUPT: &str;
    /// A record of a later version.
    const NEWER: &str;

    fn factory() -> Box<dyn Factory>;

    fn version(server: &Server<Self::Kind>) -> Option<String>;

    /// Whether all connections of a client pass through proxies in front of the configured addresses.
    fn uses_configured_addresses(_running: &Running<Self::Kind>) -> bool {
        true
    }

    fn new(running: Arc<Running<Self::Kind>>, namespace: Namespace) -> Self;

    /// Deletes the state of a lock; returns whether there was any.
    async fn delete(&self, name: &LockName) -> Result<bool, Error>;

    /// Replaces the record of each entry of a lock.
    async fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error>;

    /// The number of locks in the namespace that have any state.
    async fn locks(&self) -> Result<usize, Error>;

    /// Deletes all state of the namespace.
    async fn clear(&self) -> Result<(), Error>;
}

pub(crate) fn failed(detail: impl ToString) -> Error {
    Error::new(ErrorKind::Unavailable, "operating a deployment").with_detail(detail.to_string())
}

pub(crate) type Start<O> = fn() -> Running<<O as Operator>::Kind>;

pub(crate) struct Deployment<O: Operator> {
    name: &'static str,
    start: Start<O>,
    /// Starts servers for one case only.
    start_dedicated: Option<Start<O>>,
    ignored: &'static [(&'static str, &'static str)],
    running: OnceLock<Arc<Running<O::Kind>>>,
}

impl<O: Operator> Deployment<O> {
    pub(crate) const fn new(
        name: &'static str,
        start: Start<O>,
        start_dedicated: Option<Start<O>>,
        ignored: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            name,
            start,
            start_dedicated,
            ignored,
            running: OnceLock::new(),
        }
    }
}

struct DeploymentEnv<O: Operator> {
    access: Access,
    namespace: Namespace,
    connector: Arc<dyn Connect>,
    /// `None` in a process that joined: it is a client of the servers only.
    operated: Option<Operated<O>>,
}

struct Operated<O: Operator> {
    operator: O,
    has_proxies: bool,
    start_dedicated: Option<Start<O>>,
}

#[derive(Deserialize, Serialize)]
struct Ticket {
    access: Access,
    namespace: String,
}

#[async_trait]
impl<O: Operator> Harness for Deployment<O> {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let running = self.running.get_or_init(|| Arc::new((self.start)()));
        let namespace = Namespace::new(format!("{NAMESPACE_PREFIX}{}", ClientId::random()?))?;
        Ok(Arc::new(DeploymentEnv {
            access: running.access.clone(),
            namespace: namespace.clone(),
            connector: running.access.connector::<O>()?,
            operated: Some(Operated {
                operator: O::new(Arc::clone(running), namespace),
                has_proxies: O::uses_configured_addresses(running),
                start_dedicated: self.start_dedicated,
            }),
        }))
    }

    async fn join(&self, ticket: &str) -> Result<Arc<dyn Env>, Error> {
        let ticket: Ticket = serde_json::from_str(ticket).map_err(failed)?;
        Ok(Arc::new(DeploymentEnv::<O> {
            connector: ticket.access.connector::<O>()?,
            access: ticket.access,
            namespace: Namespace::new(ticket.namespace)?,
            operated: None,
        }))
    }

    fn store_version(&self) -> Option<String> {
        O::version(*self.running.get()?.servers().first()?)
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        self.ignored
    }
}

impl<O: Operator> DeploymentEnv<O> {
    fn operator(&self) -> Result<&O, Error> {
        let operated = self.operated.as_ref();
        operated
            .map(|operated| &operated.operator)
            .ok_or_else(|| failed("a process that joined has no servers of its own"))
    }
}

#[async_trait]
impl<O: Operator> Env for DeploymentEnv<O> {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connector)
    }

    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    fn ticket(&self) -> Option<String> {
        let ticket = Ticket {
            access: self.access.clone(),
            namespace: self.namespace.as_str().to_owned(),
        };
        serde_json::to_string(&ticket).ok()
    }

    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        if !self.operated.as_ref().is_some_and(|own| own.has_proxies) {
            return Ok(None);
        }
        let connect = |url| {
            let access = self.access.clone();
            Access { url, ..access }.connector::<O>()
        };
        Faulty::to(&self.access.url, connect).await.map(Some)
    }

    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        let operated = self.operated.as_ref();
        let Some(start) = operated.and_then(|operated| operated.start_dedicated) else {
            return Ok(None);
        };
        let running = spawn_blocking(start).await.map_err(failed)?;
        let connector = running.access.connector::<O>()?;
        let servers = DedicatedServers(Arc::new(running));
        Ok(Some(DedicatedStore::new(connector, servers)))
    }

    fn secrets(&self) -> Vec<String> {
        self.access.password.iter().cloned().collect()
    }

    async fn delete_state(&self, name: &LockName) -> Result<bool, Error> {
        if self.operator()?.delete(name).await? {
            Ok(true)
        } else {
            Err(failed("the lock has no state to delete"))
        }
    }

    async fn corrupt(&self, name: &LockName) -> Result<bool, Error> {
        self.operator()?.rewrite(name, O::CORRUPT).await?;
        Ok(true)
    }

    async fn write_newer_format(&self, name: &LockName) -> Result<bool, Error> {
        self.operator()?.rewrite(name, O::NEWER).await?;
        Ok(true)
    }

    async fn residue(&self) -> Result<Option<usize>, Error> {
        self.operator()?.locks().await.map(Some)
    }

    async fn finish(&self) {
        if let Ok(operator) = self.operator() {
            let _ = operator.clear().await;
        }
    }
}

/// Servers for one case only.
struct DedicatedServers<K: Kind>(Arc<Running<K>>);

#[async_trait]
impl<K: Kind> Servers for DedicatedServers<K> {
    async fn apply(&self, action: ServerAction) -> Result<(), Error> {
        let running = Arc::clone(&self.0);
        spawn_blocking(move || running.group.apply(action))
            .await
            .map_err(failed)?
            .map_err(failed)
    }

    fn supports(&self, action: ServerAction) -> bool {
        self.0.group.supports(action)
    }
}
