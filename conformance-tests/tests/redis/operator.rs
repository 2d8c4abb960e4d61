//! An operator of Redis servers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_conformance::servers::ServerAction;
use tenure_core::{
    error::Error,
    name::{LockName, Namespace},
    registry::Factory,
};
use tenure_redis::RedisFactory;
use tenure_test_servers::{
    Error as ServerError,
    redis::{Cluster, Sentinel, Server, ServerBuilder},
};

use crate::deployment::{Group, Operator, Running, failed};

impl Group<ServerBuilder> for Cluster {
    fn servers(&self) -> Vec<&Server> {
        self.nodes().iter().collect()
    }
}

/// Longer than a stall of a busy machine.
const LONG_DOWN_AFTER: Duration = Duration::from_secs(60);

impl Group<ServerBuilder> for Sentinel {
    fn servers(&self) -> Vec<&Server> {
        Self::servers(self).iter().collect()
    }

    fn supports(&self, action: ServerAction) -> bool {
        use ServerAction::{FailOver, Heal, Partition, Start};
        matches!(action, FailOver | Start | Partition | Heal)
    }

    fn apply(&self, action: ServerAction) -> Result<(), ServerError> {
        match action {
            ServerAction::FailOver => {
                self.kill_master()?;
            }
            ServerAction::Start => {
                // A killed master starts empty, and must not be elected again.
                self.set_down_after(LONG_DOWN_AFTER)?;
                for server in Self::servers(self).iter().filter(|one| !one.is_running()) {
                    server.restart()?;
                }
            }
            ServerAction::Partition => {
                self.isolate_master()?;
                // The isolated server still counts as a replica that should be in step.
                return Ok(());
            }
            ServerAction::Heal => self.links()?.heal(),
            other => unreachable!("a group with a sentinel does not support {other:?}"),
        }
        self.wait_until_settled()
    }
}

pub(crate) struct Redis {
    running: Arc<Running<ServerBuilder>>,
    namespace: Namespace,
}

impl Redis {
    fn stem(&self, name: &LockName) -> String {
        let namespace = self.namespace.encoded();
        format!("tenure:{{{namespace}:{}}}:", name.encoded())
    }

    /// Sends a command to every master.
    fn on_masters(&self, arguments: &[&str]) -> Result<Vec<redis::Value>, Error> {
        let mut answers = Vec::new();
        for server in self.running.servers() {
            if server.info("role").ok().flatten().as_deref() == Some("master") {
                answers.push(server.command(arguments).map_err(failed)?);
            }
        }
        Ok(answers)
    }

    fn delete_keys(&self, pattern: &str) -> Result<usize, Error> {
        let script = "local keys = redis.call('KEYS', ARGV[1]) \
                      for _, key in ipairs(keys) do redis.call('DEL', key) end return #keys";
        let counts = self.on_masters(&["EVAL", script, "0", pattern])?;
        let count = |value: redis::Value| redis::from_redis_value::<usize>(value).unwrap_or(0);
        Ok(counts.into_iter().map(count).sum())
    }
}

#[async_trait]
impl Operator for Redis {
    type Kind = ServerBuilder;
    const CORRUPT: &str = "tenure/1 corrupt";
    const NEWER: &str = "tenure/3 newer";

    fn factory() -> Box<dyn Factory> {
        Box::new(RedisFactory::new())
    }

    fn version(server: &Server) -> Option<String> {
        server.info("redis_version").ok()?
    }

    fn uses_configured_addresses(running: &Running<ServerBuilder>) -> bool {
        running.servers().len() == 1
    }

    fn new(running: Arc<Running<ServerBuilder>>, namespace: Namespace) -> Self {
        Self { running, namespace }
    }

    async fn delete(&self, name: &LockName) -> Result<bool, Error> {
        Ok(self.delete_keys(&format!("{}*", self.stem(name)))? > 0)
    }

    /// Replaces the record of the holder, if there is one.
    async fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error> {
        let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do \
                      redis.call('SET', key, ARGV[2], 'KEEPTTL') end return 1";
        let key = format!("{}holder", self.stem(name));
        self.on_masters(&["EVAL", script, "0", &key, record])?;
        Ok(())
    }

    async fn locks(&self) -> Result<usize, Error> {
        let pattern = format!("tenure:{{{}:*", self.namespace.encoded());
        let mut tags = BTreeSet::new();
        for keys in self.on_masters(&["KEYS", &pattern])? {
            let keys: Vec<String> = redis::from_redis_value(keys).unwrap_or_default();
            let tag = |key: &String| key.split('}').next().map(str::to_owned);
            tags.extend(keys.iter().filter_map(tag));
        }
        Ok(tags.len())
    }

    async fn clear(&self) -> Result<(), Error> {
        self.delete_keys(&format!("tenure:{{{}*", self.namespace.encoded()))?;
        Ok(())
    }
}
