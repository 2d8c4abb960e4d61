//! An operator of etcd servers, who uses `etcdctl`.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use tenure_core::{
    error::Error,
    name::{LockName, Namespace},
    registry::Factory,
};
use tenure_etcd::EtcdFactory;
use tenure_test_servers::etcd::{Server, ServerBuilder};
use tokio::task::spawn_blocking;

use crate::deployment::{Operator, Running, failed};

pub(crate) struct Etcd {
    running: Arc<Running<ServerBuilder>>,
    namespace: Namespace,
}

impl Etcd {
    fn prefix(&self, name: &LockName) -> String {
        format!("{}/{}/", self.namespace.encoded(), name.encoded())
    }

    async fn etcdctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let running = Arc::clone(&self.running);
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            running.servers()[0].etcdctl(&arguments)
        };
        spawn_blocking(run).await.map_err(failed)?.map_err(failed)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let arguments = ["get", "--prefix", "--keys-only", prefix];
        let listed = self.etcdctl(&arguments).await?;
        let keys = listed.lines().filter(|line| !line.is_empty());
        Ok(keys.map(str::to_owned).collect())
    }
}

#[async_trait]
impl Operator for Etcd {
    type Kind = ServerBuilder;
    const CORRUPT: &str = "corrupt";
    const NEWER: &str = r#"{"tenure":3,"newer":"yes"}"#;

    fn factory() -> Box<dyn Factory> {
        Box::new(EtcdFactory::new())
    }

    fn version(server: &Server) -> Option<String> {
        server.version().ok()
    }

    fn new(running: Arc<Running<ServerBuilder>>, namespace: Namespace) -> Self {
        Self { running, namespace }
    }

    async fn delete(&self, name: &LockName) -> Result<bool, Error> {
        let arguments = ["del", "--prefix", &self.prefix(name)];
        Ok(self.etcdctl(&arguments).await?.trim() != "0")
    }

    /// Replaces all records of a lock; their leases do not change.
    async fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error> {
        for key in self.keys(&self.prefix(name)).await? {
            let arguments = ["put", "--ignore-lease", &key, record];
            self.etcdctl(&arguments).await?;
        }
        Ok(())
    }

    async fn locks(&self) -> Result<usize, Error> {
        let keys = self.keys(&self.namespace.encoded()).await?;
        let locks: BTreeSet<_> = keys
            .iter()
            .filter_map(|key| key.rsplit_once('/').map(|(lock, _)| lock))
            .collect();
        Ok(locks.len())
    }

    async fn clear(&self) -> Result<(), Error> {
        let arguments = ["del", "--prefix", &self.namespace.encoded()];
        self.etcdctl(&arguments).await?;
        Ok(())
    }
}
