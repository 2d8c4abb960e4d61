//! A deployment of Redis on which the suite runs: its servers, how clients reach it, and what
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
use tenure_redis::RedisFactory;
use tenure_test_servers::redis::Server;

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
    pub(crate) options: Vec<(String, String)>,
}

impl Access {
    fn connector(&self) -> Result<Arc<dyn Connect>, Error> {
        let tls = Tls::new(
            self.ca_file.clone(),
            self.cert_file.clone(),
            self.key_file.clone(),
        );
        let mut options = RawOptions::new();
        for (key, value) in &self.options {
            options = options.with(key, Value::from(value.as_str()), "the test");
        }
        let settings = Settings::new(StoreUrl::parse(&self.url)?)
            .with_credentials(
                self.username.clone(),
                self.password.as_deref().map(Secret::new),
            )
            .with_tls(tls)
            .with_options(options);
        RedisFactory::new().open(&settings)
    }
}

/// Servers that are started when the first case needs them, and stop with this process.
pub(crate) trait Deployment: Send + Sync + 'static {
    fn access(&self) -> Access;

    /// The servers that may hold keys, whoever is the master at the time.
    fn servers(&self) -> Vec<&Server>;

    /// Whether clients find servers by addresses that servers tell them, past any proxy.
    fn tells_addresses(&self) -> bool {
        true
    }

    /// Other servers of the same kind, for one case alone, and how they are reached. Blocks.
    fn another(&self) -> Option<(Access, DedicatedServers)> {
        None
    }
}

pub(crate) struct Redis<D> {
    name: &'static str,
    start: fn() -> D,
    deployment: OnceLock<Arc<D>>,
    ignored: &'static [(&'static str, &'static str)],
}

impl<D: Deployment> Redis<D> {
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
impl<D: Deployment> Harness for Redis<D> {
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
        let deployment = self.deployment.get()?;
        let server = *deployment.servers().first()?;
        server.info("redis_version").ok()?
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        self.ignored
    }
}

impl DeploymentEnv {
    fn stem(&self, name: &LockName) -> String {
        format!(
            "tenure:{{{}:{}}}:",
            self.namespace.encoded(),
            name.encoded()
        )
    }

    /// Asks every server that may be a master, and ignores what the others refuse.
    fn on_masters(&self, arguments: &[&str]) -> Result<Vec<redis::Value>, Error> {
        let deployment = self
            .deployment
            .as_ref()
            .ok_or_else(|| failed("a process that joined has no servers of its own"))?;
        let mut answers = Vec::new();
        for server in deployment.servers() {
            if server.info("role").ok().flatten().as_deref() != Some("master") {
                continue;
            }
            let answer = server.command(arguments);
            answers.push(answer.map_err(|error| failed(error.to_string()))?);
        }
        Ok(answers)
    }

    /// Deletes the keys of a pattern, on the servers that have them.
    fn delete(&self, pattern: &str) -> Result<usize, Error> {
        let script = "local keys = redis.call('KEYS', ARGV[1]) \
                      for _, key in ipairs(keys) do redis.call('DEL', key) end return #keys";
        let counts = self.on_masters(&["EVAL", script, "0", pattern])?;
        let count = |value: redis::Value| redis::from_redis_value::<usize>(value).unwrap_or(0);
        Ok(counts.into_iter().map(count).sum())
    }

    /// Writes over the holder's record, where there is one.
    fn rewrite(&self, name: &LockName, record: &str) -> Result<(), Error> {
        let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do \
                      redis.call('SET', key, ARGV[2], 'KEEPTTL') end return 1";
        let key = format!("{}holder", self.stem(name));
        self.on_masters(&["EVAL", script, "0", &key, record])
            .map(|_| ())
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
        let alone = self
            .deployment
            .as_ref()
            .is_some_and(|deployment| !deployment.tells_addresses());
        if !alone {
            return Ok(None);
        }
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
        match self.delete(&format!("{}*", self.stem(name)))? {
            0 => Err(failed("the lock has no state to delete")),
            _ => Ok(true),
        }
    }

    async fn corrupt(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, "tenure/1 scribbled over")?;
        Ok(true)
    }

    async fn write_newer_format(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, "tenure/2 whatever comes")?;
        Ok(true)
    }

    async fn residue(&self) -> Result<Option<usize>, Error> {
        let pattern = format!("tenure:{{{}:*", self.namespace.encoded());
        let mut tags = std::collections::BTreeSet::new();
        for keys in self.on_masters(&["KEYS", &pattern])? {
            let keys: Vec<String> = redis::from_redis_value(keys).unwrap_or_default();
            tags.extend(
                keys.iter()
                    .filter_map(|key| key.split('}').next().map(str::to_owned)),
            );
        }
        Ok(Some(tags.len()))
    }

    async fn finish(&self) {
        if self.deployment.is_some() {
            let _ = self.delete(&format!("tenure:{{{}*", self.namespace.encoded()));
        }
    }
}
