//! The configuration: its sources, their precedence, and the check of the values.
//!
//! A later source overrides an earlier one: defaults, the file, the environment, flags. Each value keeps
//! its origin.
//!
//! | key | value | default |
//! |---|---|---|
//! | `backend.url` | the store | `file:` |
//! | `backend.namespace` | separates applications in one store | `default` |
//! | `backend.username`, `.password`, `.password_file` | the credentials for the store; a relative path begins in the directory of the configuration file | |
//! | `backend.tls.ca_file`, `.cert_file`, `.key_file` | certificates, PEM; paths as above | |
//! | `backend.options.*` | options of this kind of store | |
//! | `lock.ttl` | how long the store keeps a lock after the last renewal | `30s` |
//! | `lock.wait` | how long to wait for a lock | forever |
//! | `lock.label` | the label of the holder and its waiters | |
//! | `require.durability`, `.push`, `.push_evidence` | required capabilities of the store | none |
//! | `client.request_timeout` | how long one request may take | 15 % of `lock.ttl`, at most `5s` |
//! | `client.margin` | the safety margin before the deadline | `25ms` |
//!
//! The name of a variable is `TENURE__` and the key in capitals, with `__` for each dot:
//! `TENURE__BACKEND__URL`. An unknown key in the file and an unknown variable are errors.

mod read;
mod sources;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tenure_core::{
    Client, ClientBuilder,
    backend::Connect,
    capability::Requirements,
    error::{Error, ErrorKind},
    lease::DriftBounds,
    name::Namespace,
    registry::Registry,
    settings::Settings,
};

pub use self::sources::Sources;

/// All keys except those of `backend.options`.
pub const KEYS: &[&str] = &[
    "backend.url",
    "backend.namespace",
    "backend.username",
    "backend.password",
    "backend.password_file",
    "backend.tls.ca_file",
    "backend.tls.cert_file",
    "backend.tls.key_file",
    "lock.ttl",
    "lock.wait",
    "lock.label",
    "require.durability",
    "require.push",
    "require.push_evidence",
    "client.request_timeout",
    "client.margin",
];

/// The prefix of the keys that only one kind of store has.
pub const OPTIONS_PREFIX: &str = "backend.options.";

/// A valid configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The URL of the store, its credentials and its options.
    pub settings: Settings,
    /// The file from which the password was read, if it was.
    pub password_file: Option<PathBuf>,
    /// The namespace, which separates applications in one store.
    pub namespace: Namespace,
    /// How long the store keeps a lock after the last renewal.
    pub ttl: Duration,
    /// How long to wait for a lock; `None` waits forever.
    pub wait: Option<Duration>,
    /// The label of the holder and its waiters.
    pub label: Option<String>,
    /// The required capabilities of the store.
    pub require: Requirements,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// The bounds of clock drift that deadlines allow for.
    pub drift_bounds: DriftBounds,
    entries: Entries,
    warnings: Vec<String>,
}

/// The values, unmasked. An option may be a secret that only the backend knows as one.
#[derive(Clone)]
struct Entries(Vec<Entry>);

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|entry| &entry.key))
            .finish()
    }
}

/// One value for display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key, such as `lock.ttl`.
    pub key: String,
    /// The value as TOML; `[redacted]` for a secret.
    pub value: String,
    /// The source that set the value.
    pub origin: String,
    /// Whether the value is a default.
    pub is_default: bool,
}

impl Config {
    /// Reads and checks all sources. The store is not contacted.
    ///
    /// # Errors
    ///
    /// Returns an error of the kind [`ErrorKind::Config`]: one line that names the key, its origin, and
    /// the remedy.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        read::load(sources)
    }

    /// Returns warnings about unknown variables; empty unless
    /// [`Sources::warn_of_unknown_variables`] was called.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns every value with its origin. Secrets are masked, including those that only the factory
    /// in the registry knows as secrets.
    #[must_use]
    pub fn entries(&self, registry: &Registry) -> Vec<Entry> {
        let secrets = registry
            .factory(self.settings.url.scheme())
            .map_or(&[][..], |factory| factory.secret_option_keys());
        let mut entries = self.entries.0.clone();
        for entry in &mut entries {
            if entry
                .key
                .strip_prefix(OPTIONS_PREFIX)
                .is_some_and(|option| secrets.contains(&option) || looks_secret(option))
            {
                entry.value = REDACTED.to_owned();
            }
        }
        entries
    }

    /// Returns the origin of a key's value; `None` if it has no value.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        let entry = self.entries.0.iter().find(|entry| entry.key == key)?;
        Some(&entry.origin)
    }

    /// Returns the request time-out that this configuration would have with another TTL: the default
    /// depends on the TTL.
    #[must_use]
    pub fn request_timeout_with(&self, ttl: Duration) -> Duration {
        match self.origin("client.request_timeout") {
            Some(sources::DEFAULT) => read::default_request_timeout(ttl),
            _ => self.request_timeout,
        }
    }

    /// Creates a connector for the configured store, without I/O.
    ///
    /// # Errors
    ///
    /// Returns an error of the kind [`ErrorKind::Config`] for an unknown scheme or option, or for a value
    /// that the backend refuses.
    pub fn open(&self, registry: &Registry) -> Result<Arc<dyn Connect>, Error> {
        registry.open(&self.settings)
    }

    /// Returns a builder of a client with all configured values.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn builder(&self, registry: &Registry) -> Result<ClientBuilder, Error> {
        let mut builder = Client::builder(self.open(registry)?)
            .namespace(self.namespace.clone())
            .ttl(self.ttl)
            .drift_bounds(self.drift_bounds)
            .request_timeout(self.request_timeout)
            .require(self.require);
        if let Some(label) = &self.label {
            builder = builder.label(label.as_str());
        }
        Ok(builder)
    }

    /// Connects a client to the configured store.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); also if the store cannot be reached or refuses the client.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves nothing behind.
    pub async fn connect(&self, registry: &Registry) -> Result<Client, Error> {
        let connected = self.builder(registry)?.connect().await;
        connected.map_err(|error| self.with_origin_of_ttl(error))
    }

    /// Adds the origin of the TTL to an error about it.
    fn with_origin_of_ttl(&self, error: Error) -> Error {
        if error.operation() != "choosing a TTL" {
            return error;
        }
        let origin = self.origin("lock.ttl").unwrap_or(sources::DEFAULT);
        let hint = match error.backend() {
            Some("zookeeper") => {
                "; the servers set these bounds: a longer TTL needs a longer `maxSessionTimeout`, a \
                 shorter one a shorter `tickTime`, option `tick` and `minSessionTimeout`"
            }
            _ => "",
        };
        let detail = error.detail().unwrap_or_default();
        let detail = format!("`lock.ttl` ({origin}): {detail}{hint}");
        error.with_detail(detail)
    }

    /// Connects a client that can inspect, list and evict, and cannot acquire. It creates nothing in the
    /// store.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves nothing behind.
    pub async fn observe(&self, registry: &Registry) -> Result<Client, Error> {
        self.builder(registry)?.read_only(true).connect().await
    }
}

/// The text in place of a secret.
pub const REDACTED: &str = "[redacted]";

fn looks_secret(option: &str) -> bool {
    ["password", "secret", "passphrase", "credential"]
        .iter()
        .any(|word| option.contains(word))
}

fn refuse(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "reading the configuration").with_detail(detail)
}
