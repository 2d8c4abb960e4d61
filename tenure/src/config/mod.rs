//! The configuration: where values come from, which of them counts, and what is wrong with them.
//!
//! Later sources win: defaults, the file, the environment, flags. Each value is kept with its
//! origin.
//!
//! | key | value | default |
//! |---|---|---|
//! | `backend.url` | which store | `file:` |
//! | `backend.namespace` | keeps applications apart | `default` |
//! | `backend.username`, `.password`, `.password_file` | who we are to the store | |
//! | `backend.tls.ca_file`, `.cert_file`, `.key_file` | certificates, PEM | |
//! | `backend.options.*` | what only this kind of store knows | |
//! | `lock.ttl` | how long the store keeps a lock of ours after we fall silent | `30s` |
//! | `lock.wait` | how long to wait for a lock | for ever |
//! | `lock.label` | who we say that we are | |
//! | `require.durability`, `.push`, `.push_evidence` | what the store must offer | nothing |
//! | `client.request_timeout` | how long one request may take | 15 % of `lock.ttl`, `5s` at most |
//! | `client.margin` | what the deadline is shortened by | `25ms` |
//!
//! A variable is the key in capitals with `__` for each dot and `TENURE__` before it:
//! `TENURE__BACKEND__URL`.

mod read;
mod sources;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

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

/// Every key but those of `backend.options`.
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

/// Where keys of the store's own begin.
pub const OPTIONS_PREFIX: &str = "backend.options.";

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Which store, and what it needs.
    pub settings: Settings,
    /// What keeps applications apart in one store.
    pub namespace: Namespace,
    /// How long the store keeps a lock after its holder has fallen silent.
    pub ttl: Duration,
    /// How long to wait for a lock; `None` is for ever.
    pub wait: Option<Duration>,
    /// Who we say that we are.
    pub label: Option<String>,
    /// What the store must offer.
    pub require: Requirements,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How far clocks are distrusted.
    pub terms: DriftBounds,
    entries: Entries,
    warnings: Vec<String>,
}

/// Values as they are: among the options there may be secrets that only the backend knows of.
#[derive(Clone)]
struct Entries(Vec<Entry>);

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|entry| &entry.key))
            .finish()
    }
}

/// One value, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its key: `lock.ttl`.
    pub key: String,
    /// Its value as TOML; `[redacted]` if it is a secret.
    pub value: String,
    /// Where it was set.
    pub origin: String,
    /// Whether nobody set it.
    pub is_default: bool,
}

impl Config {
    /// Reads and checks everything. The store is not contacted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], in one line that names the key, its origin, and what to write.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        read::load(sources)
    }

    /// What is odd, but no error: variables that match nothing.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every value with its origin. Secrets are masked, also those that only the registry's
    /// factory knows of.
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

    /// Where a key's value comes from; `None` if it has none.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        let entry = self.entries.0.iter().find(|entry| entry.key == key)?;
        Some(&entry.origin)
    }

    /// Makes a connector for the configured store. No I/O.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`]: an unknown scheme or option, or what the backend refuses.
    pub fn open(&self, registry: &Registry) -> Result<Arc<dyn Connect>, Error> {
        registry.open(&self.settings)
    }

    /// A builder of a client of the configured store, with everything set that is configured.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn client(&self, registry: &Registry) -> Result<ClientBuilder, Error> {
        let mut builder = Client::builder(self.open(registry)?)
            .namespace(self.namespace.clone())
            .ttl(self.ttl)
            .drift_bounds(self.terms)
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
    /// As [`open`](Self::open), and whatever the store answers.
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves nothing behind.
    pub async fn connect(&self, registry: &Registry) -> Result<Client, Error> {
        self.client(registry)?.connect().await
    }

    /// Connects a client that acquires nothing: it inspects, lists and evicts. It makes nothing in
    /// the store.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Cancelling leaves nothing behind.
    pub async fn observe(&self, registry: &Registry) -> Result<Client, Error> {
        self.client(registry)?.read_only(true).connect().await
    }
}

/// What is shown in place of a secret.
pub const REDACTED: &str = "[redacted]";

fn looks_secret(option: &str) -> bool {
    ["password", "secret", "passphrase", "credential"]
        .iter()
        .any(|word| option.contains(word))
}

fn refuse(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "reading the configuration").with_detail(detail)
}
