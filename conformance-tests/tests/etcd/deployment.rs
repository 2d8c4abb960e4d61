//! A deployment of etcd on which the suite runs: its servers, how clients reach it, and what somebody
//! with the store's own tools does to the state.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tenure_conformance::{Env, Harness, fault::Faulty, servers::DedicatedStore};
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
    id::ClientId,
    name::{LockName, Namespace},
    registry::Factory,
    secret::Secret,
    settings::{Settings, StoreUrl, Tls},
};
use tenure_etcd::EtcdFactory;
use tenure_test_servers::etcd::Server;

use crate::dedicated_servers::{self, DedicatedServers};

/// What all namespaces of a run begin with.
pub(crate) const NAMESPACES: &str = "case ";

/// How a client is configured for the deployment.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Access {
    pub(crate) url: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) ca_file: Option<std::path::PathBuf>,
    pub(crate) cert_file: Option<std::path::PathBuf>,
    pub(crate) key_file: Option<std::path::PathBuf>,
}

impl Access {
    fn connector(&self) -> Result<Arc<dyn Connect>, Error> {
        let tls = Tls::new(
            self.ca_file.clone(),
            self.cert_file.clone(),
            self.key_file.clone(),
        );
        let settings = Settings::new(StoreUrl::parse(&self.url)?)
            .with_credentials(
                self.username.clone(),
                self.password.as_deref().map(Secret::new),
            )
            .with_tls(tls);
        EtcdFactory::new().open(&settings)
    }
}

/// Servers that are started when the first case needs them, and stop with this process.
pub(crate) trait Deployment: Send + Sync + 'static {
    fn access(&self) -> Access;

    /// The one that `etcdctl` is run against, as somebody who may do everything.
    fn server(&self) -> &Server;

    /// Other servers of the same kind, for one case alone, and how they are reached. Blocks.
    fn another(&self) -> Option<(Access, DedicatedServers)> {
        None
    }
}

pub(crate) struct Etcd<D> {
    name: &'static str,
    start: fn() -> D,
    deployment: OnceLock<Arc<D>>,
    ignored: &'static [(&'static str, &'static str)],
}

impl<D: Deployment> Etcd<D> {
    pub(crate) const fn new(
        name: &'static str,
        start: fn() -> D,
        ignored: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            name,
            start,
            deployment: OnceLock::new(),
            ignored,
        }
    }
}

struct DeploymentEnv {
    access: Access,
    namespace: Namespace,
    /// `None` in a process that joined: it reaches the servers as a client only.
    deployment: Option<Arc<dyn Deployment>>,
    connector: Arc<dyn Connect>,
}

#[derive(Deserialize, Serialize)]
struct Ticket {
    access: Access,
    namespace: String,
}

fn failed(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, "preparing a deployment").with_detail(detail)
}

#[async_trait]
impl<D: Deployment> Harness for Etcd<D> {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let deployment = self.deployment.get_or_init(|| Arc::new((self.start)()));
        let access = deployment.access();
        let connector = access.connector()?;
        let namespace = Namespace::new(format!("{NAMESPACES}{}", ClientId::random()?))?;
        Ok(Arc::new(DeploymentEnv {
            access,
            namespace,
            deployment: Some(Arc::<D>::clone(deployment) as Arc<dyn Deployment>),
            connector,
        }))
    }

    async fn join(&self, ticket: &str) -> Result<Arc<dyn Env>, Error> {
        let ticket: Ticket =
            serde_json::from_str(ticket).map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(DeploymentEnv {
            connector: ticket.access.connector()?,
            access: ticket.access,
            namespace: Namespace::new(ticket.namespace)?,
            deployment: None,
        }))
    }

    fn store_version(&self) -> Option<String> {
        self.deployment.get()?.server().version().ok()
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        self.ignored
    }
}

impl DeploymentEnv {
    fn prefix(&self, name: &LockName) -> String {
        format!("{}/{}/", self.namespace.encoded(), name.encoded())
    }

    async fn etcdctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let deployment = self
            .deployment
            .as_ref()
            .map(Arc::clone)
            .ok_or_else(|| failed("a process that joined has no servers of its own"))?;
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            deployment.server().etcdctl(&arguments)
        };
        let output = tokio::task::spawn_blocking(run).await;
        output
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let listed = self
            .etcdctl(&["get", "--prefix", "--keys-only", prefix])
            .await?;
        let keys = listed.lines().filter(|line| !line.is_empty());
        Ok(keys.map(str::to_owned).collect())
    }

    /// Writes over every record of a lock; what hangs on a lease stays there.
    async fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error> {
        for key in self.keys(&self.prefix(name)).await? {
            self.etcdctl(&["put", "--ignore-lease", &key, record])
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Env for DeploymentEnv {
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
        Faulty::to(&self.access.url, |url| {
            let access = Access {
                url,
                ..self.access.clone()
            };
            access.connector()
        })
        .await
        .map(Some)
    }

    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        let Some(deployment) = self.deployment.as_ref().map(Arc::clone) else {
            return Ok(None);
        };
        dedicated_servers::store(move || deployment.another(), |access| access.connector()).await
    }

    fn secrets(&self) -> Vec<String> {
        self.access.password.iter().cloned().collect()
    }

    async fn delete_state(&self, name: &LockName) -> Result<bool, Error> {
        let deleted = self
            .etcdctl(&["del", "--prefix", &self.prefix(name)])
            .await?;
        match deleted.trim() {
            "0" => Err(failed("the lock has no state to delete")),
            _ => Ok(true),
        }
    }

    async fn corrupt(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, "scribbled over").await?;
        Ok(true)
    }

    async fn write_newer_format(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, "{\"tenure\":2,\"whatever\":\"comes\"}")
            .await?;
        Ok(true)
    }

    async fn residue(&self) -> Result<Option<usize>, Error> {
        let prefix = self.namespace.encoded();
        let keys = self.keys(&prefix).await?;
        let locks: BTreeSet<_> = keys
            .iter()
            .filter_map(|key| key.rsplit_once('/').map(|(lock, _)| lock))
            .collect();
        Ok(Some(locks.len()))
    }

    async fn finish(&self) {
        if self.deployment.is_some() {
            let prefix = self.namespace.encoded();
            let _ = self.etcdctl(&["del", "--prefix", &prefix]).await;
        }
    }
}

/// What does not apply to a store whose locks share leases, and that lacks nothing; and what does not
/// to servers that ask for no password.
pub(crate) const IGNORED: [(&str, &str); 4] = [
    (
        "exclusion::silent_holder_is_succeeded",
        "the locks of a client share a lease",
    ),
    (
        "waiting::dead_waiter_delays_patient_ones_no_more",
        "the locks of a client share a lease",
    ),
    (
        "capabilities::requirements_are_checked",
        "it lacks nothing that could be required",
    ),
    ("secrets::show_nowhere", "these servers ask for no password"),
];
