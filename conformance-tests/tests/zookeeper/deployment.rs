//! A deployment of ZooKeeper on which the suite runs: its servers, how clients reach it, and what
//! somebody with the store's own tools does to the state.

use std::sync::{Arc, OnceLock};

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
    settings::{RawOptions, Settings, StoreUrl, Tls, Value},
};
use tenure_test_servers::zookeeper::Server;
use tenure_zookeeper::ZooKeeperFactory;
use tokio::sync::OnceCell;
use zookeeper_client::{Client, Error as ZkError};

use crate::dedicated_servers::{self, DedicatedServers};

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
            .with_tls(tls)
            .with_options(RawOptions::new().with("tick", Value::from("100ms"), "the test"));
        ZooKeeperFactory::new().open(&settings)
    }
}

/// Servers that are started when the first case needs them, and stop with this process.
pub(crate) trait Deployment: Send + Sync + 'static {
    fn access(&self) -> Access;

    /// Where the operator reaches them without TLS: `host:port,host:port`.
    fn plain(&self) -> String;

    /// One of the servers.
    fn server(&self) -> &Server;

    /// The node below which the locks are; empty for none.
    fn root(&self) -> &'static str {
        ""
    }

    /// Who looks at the nodes and scribbles over them: name and password.
    fn operator(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Other servers of the same kind, for one case alone, and how they are reached. Blocks.
    fn another(&self) -> Option<(Access, DedicatedServers)> {
        None
    }
}

pub(crate) struct ZooKeeper<D> {
    name: &'static str,
    start: fn() -> D,
    deployment: OnceLock<Arc<D>>,
    ignored: &'static [(&'static str, &'static str)],
}

impl<D: Deployment> ZooKeeper<D> {
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
    operator: OnceCell<Client>,
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

fn of_client(error: ZkError) -> Error {
    failed(error.to_string())
}

#[async_trait]
impl<D: Deployment> Harness for ZooKeeper<D> {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let deployment = self.deployment.get_or_init(|| Arc::new((self.start)()));
        let access = deployment.access();
        let connector = access.connector()?;
        let namespace = Namespace::new(format!("case {}", ClientId::random()?))?;
        let deployment: Arc<dyn Deployment> = Arc::<D>::clone(deployment);
        Ok(Arc::new(DeploymentEnv {
            access,
            namespace,
            deployment: Some(deployment),
            operator: OnceCell::new(),
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
            operator: OnceCell::new(),
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
    /// The store's own tools: another client than the one under test.
    async fn operator(&self) -> Result<&Client, Error> {
        let deployment = self
            .deployment
            .as_ref()
            .ok_or_else(|| failed("a process that joined has no servers of its own"))?;
        let connect = async {
            let mut connector = Client::connector();
            if let Some((user, password)) = deployment.operator() {
                let secret = format!("{user}:{password}");
                connector = connector.with_auth("digest", secret.as_bytes());
            }
            connector.connect(&deployment.plain()).await
        };
        self.operator
            .get_or_try_init(|| connect)
            .await
            .map_err(of_client)
    }

    fn space(&self) -> String {
        let root = self.deployment.as_ref().map_or("", |known| known.root());
        format!("{root}/{}", self.namespace.encoded())
    }

    fn lock(&self, name: &LockName) -> String {
        format!("{}/{}", self.space(), name.encoded())
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, Error> {
        let operator = self.operator().await?;
        // This server may lag behind what another one has answered.
        operator.sync("/").await.map_err(of_client)?;
        match operator.list_children(path).await {
            Ok(children) => Ok(children),
            Err(ZkError::NoNode) => Ok(Vec::new()),
            Err(error) => Err(of_client(error)),
        }
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.operator().await?.delete(path, None).await {
            Ok(()) | Err(ZkError::NoNode) => Ok(()),
            Err(error) => Err(of_client(error)),
        }
    }

    /// Writes over the data of everybody in the lock's queue.
    async fn rewrite(&self, name: &LockName, data: &[u8]) -> Result<bool, Error> {
        let lock = self.lock(name);
        let children = self.children(&lock).await?;
        let operator = self.operator().await?;
        for child in &children {
            let path = format!("{lock}/{child}");
            operator
                .set_data(&path, data, None)
                .await
                .map_err(of_client)?;
        }
        Ok(!children.is_empty())
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
        let lock = self.lock(name);
        let children = self.children(&lock).await?;
        if children.is_empty() {
            return Err(failed("the lock has no state to delete"));
        }
        for child in children {
            self.delete(&format!("{lock}/{child}")).await?;
        }
        self.delete(&lock).await?;
        Ok(true)
    }

    async fn corrupt(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, b"{\"tenure\":1,scribbled over").await
    }

    async fn write_newer_format(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, b"{\"tenure\":2,\"whatever\":\"comes\"}")
            .await
    }

    /// Empty containers count for nothing: the servers delete them in a while.
    async fn residue(&self) -> Result<Option<usize>, Error> {
        let space = self.space();
        let mut locks = 0;
        for lock in self.children(&space).await? {
            let left = self.children(&format!("{space}/{lock}")).await?;
            locks += usize::from(!left.is_empty());
        }
        Ok(Some(locks))
    }

    async fn finish(&self) {
        if self.deployment.is_none() {
            return;
        }
        let space = self.space();
        for lock in self.children(&space).await.unwrap_or_default() {
            let lock = format!("{space}/{lock}");
            for child in self.children(&lock).await.unwrap_or_default() {
                let _ = self.delete(&format!("{lock}/{child}")).await;
            }
            let _ = self.delete(&lock).await;
        }
        let _ = self.delete(&space).await;
    }
}
