//! An operator of ZooKeeper servers, who has a client of another library.

use std::sync::Arc;

use async_trait::async_trait;
use tenure_core::{
    error::Error,
    name::{LockName, Namespace},
    registry::Factory,
};
use tenure_test_servers::zookeeper::{Server, ServerBuilder};
use tenure_zookeeper::ZooKeeperFactory;
use tokio::sync::OnceCell;
use zookeeper_client::{Client, Error as ZkError};

use crate::deployment::{Operator, Running, failed};

/// The administrator of servers with users. No ACL applies to this user.
pub(crate) const SUPER_USER: (&str, &str) = ("super", "canary-super-11");

/// The options of a client: the tick of the servers.
pub(crate) const OPTIONS: &[(&str, &str)] = &[("tick", "100ms")];

/// The settings of a server of the suite. Sessions may last as long as the longest TTL of a case, and
/// writes do not wait for the disk.
pub(crate) fn settings() -> ServerBuilder {
    Server::builder()
        .config("maxSessionTimeout", "60000")
        .force_sync(false)
}

pub(crate) struct ZooKeeper {
    running: Arc<Running<ServerBuilder>>,
    namespace: Namespace,
    client: OnceCell<Client>,
}

impl ZooKeeper {
    async fn client(&self) -> Result<&Client, Error> {
        let connect = async {
            let mut connector = Client::connector();
            if self.running.access.username.is_some() {
                let (user, password) = SUPER_USER;
                let secret = format!("{user}:{password}");
                connector = connector.with_auth("digest", secret.as_bytes());
            }
            let servers = self.running.servers().into_iter();
            let addresses: Vec<String> = servers.map(Server::plain_address).collect();
            connector.connect(&addresses.join(",")).await
        };
        let client = self.client.get_or_try_init(|| connect).await;
        client.map_err(failed)
    }

    /// The node of the namespace, below the root in the URL.
    fn namespace(&self) -> String {
        let url = &self.running.access.url;
        let servers = url.split_once("://").map_or("", |(_, servers)| servers);
        let root = servers.trim_end_matches('/').split_once('/');
        let root = root.map_or(String::new(), |(_, root)| format!("/{root}"));
        format!("{root}/{}", self.namespace.encoded())
    }

    fn lock(&self, name: &LockName) -> String {
        format!("{}/{}", self.namespace(), name.encoded())
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, Error> {
        let client = self.client().await?;
        // This server may be behind the server of the client under test.
        client.sync("/").await.map_err(failed)?;
        match client.list_children(path).await {
            Ok(children) => Ok(children),
            Err(ZkError::NoNode) => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn delete_node(&self, path: &str) -> Result<(), Error> {
        match self.client().await?.delete(path, None).await {
            Ok(()) | Err(ZkError::NoNode) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Deletes a node and its children; returns the number of children.
    async fn delete_lock(&self, path: &str) -> Result<usize, Error> {
        let children = self.children(path).await?;
        for child in &children {
            self.delete_node(&format!("{path}/{child}")).await?;
        }
        self.delete_node(path).await?;
        Ok(children.len())
    }
}

#[async_trait]
impl Operator for ZooKeeper {
    type Kind = ServerBuilder;
    const CORRUPT: &str = r#"{"tenure":1,corrupt"#;
    const NEWER: &str = r#"{"tenure":3,"newer":"yes"}"#;

    fn factory() -> Box<dyn Factory> {
        Box::new(ZooKeeperFactory::new())
    }

    fn version(server: &Server) -> Option<String> {
        server.version().ok()
    }

    fn new(running: Arc<Running<ServerBuilder>>, namespace: Namespace) -> Self {
        Self {
            running,
            namespace,
            client: OnceCell::new(),
        }
    }

    async fn delete(&self, name: &LockName) -> Result<bool, Error> {
        Ok(self.delete_lock(&self.lock(name)).await? > 0)
    }

    async fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error> {
        let lock = self.lock(name);
        let client = self.client().await?;
        for child in self.children(&lock).await? {
            let path = format!("{lock}/{child}");
            let written = client.set_data(&path, record.as_bytes(), None).await;
            written.map_err(failed)?;
        }
        Ok(())
    }

    /// Empty containers do not count: the servers delete them after a while.
    async fn locks(&self) -> Result<usize, Error> {
        let namespace = self.namespace();
        let mut locks = 0;
        for lock in self.children(&namespace).await? {
            let entries = self.children(&format!("{namespace}/{lock}")).await?;
            locks += usize::from(!entries.is_empty());
        }
        Ok(locks)
    }

    async fn clear(&self) -> Result<(), Error> {
        let namespace = self.namespace();
        for lock in self.children(&namespace).await? {
            let _ = self.delete_lock(&format!("{namespace}/{lock}")).await;
        }
        self.delete_node(&namespace).await
    }
}
