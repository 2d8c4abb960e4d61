//! The configuration of a Redis store.

use std::{fmt, time::Duration};

use tenure_core::{
    driver::ConnectionOptions,
    error::{Error, ErrorKind},
    secret::Secret,
    settings::Settings,
};

/// The options of a Redis store.
///
/// The defaults suit a single server whose loss may cost the locks: they require nothing of
/// replicas or of persistence.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The database number. `None` means the number in the URL, or 0. A cluster has only database
    /// 0.
    pub database: Option<u32>,
    /// The number of replicas that must acknowledge a grant before it counts. 0 disables this.
    pub min_replicas: u32,
    /// The longest wait for these acknowledgements. At least 1 ms; 1 s by default.
    pub replica_timeout: Duration,
    /// The data that the server keeps across a restart.
    pub durability: Durability,
    /// The reaction to a server that may evict locks when it runs out of memory.
    pub eviction: Eviction,
    /// No lock is granted until the server has been up for this long. After a restart that lost the
    /// data, holders from before may still believe that they hold their locks. To be effective, the
    /// delay must be at least the longest TTL in use. Zero, the default, disables it.
    pub restart_delay: Duration,
    /// The key format of other programs that lock with `SET key value NX PX`: a template with
    /// `{name}`, and optionally `{namespace}`.
    pub plain_key: Option<String>,
    /// Time limit, credentials on the server, and TLS files.
    pub connection: ConnectionOptions,
    /// The user name on the sentinels.
    pub sentinel_username: Option<String>,
    /// The password on the sentinels.
    pub sentinel_password: Option<Secret>,
}

/// The data that the server keeps across a restart, as stated by the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A restart or a failover may lose acknowledged writes.
    #[default]
    Volatile,
    /// The server runs with `appendonly yes` and `appendfsync always`, so a restart loses nothing.
    /// Connecting fails if the server reports that its append-only file is off. The server does not
    /// report `appendfsync`, so that setting is not checked.
    Local,
}

/// The reaction to a server that may evict locks, that is, one with `maxmemory` set and a
/// `maxmemory-policy` other than `noeviction`. The `volatile-*` policies evict locks, the
/// `allkeys-*` policies also evict queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Refuse to connect.
    #[default]
    Refuse,
    /// Log a warning and connect.
    Warn,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            database: None,
            min_replicas: 0,
            replica_timeout: Duration::from_secs(1),
            durability: Durability::default(),
            eviction: Eviction::default(),
            restart_delay: Duration::ZERO,
            plain_key: None,
            connection: ConnectionOptions::default(),
            sentinel_username: None,
            sentinel_password: None,
        }
    }
}

impl Options {
    /// The option names in a configuration file.
    pub const KEYS: &'static [&'static str] = &[
        ConnectionOptions::CONNECT_TIMEOUT,
        "database",
        "durability",
        "eviction",
        "min_replicas",
        "plain_key",
        "replica_timeout",
        "restart_delay",
        "sentinel_password",
        "sentinel_username",
    ];

    /// The options that hold secrets.
    pub const SECRET_KEYS: &'static [&'static str] = &["sentinel_password"];

    /// Sets the database number.
    #[must_use]
    pub const fn database(mut self, number: u32) -> Self {
        self.database = Some(number);
        self
    }

    /// Requires `min` replicas to acknowledge each grant within `timeout`.
    #[must_use]
    pub const fn replicas(mut self, min: u32, timeout: Duration) -> Self {
        self.min_replicas = min;
        self.replica_timeout = timeout;
        self
    }

    /// Sets what the server keeps across a restart.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets what to do about a server that may evict locks.
    #[must_use]
    pub const fn eviction(mut self, eviction: Eviction) -> Self {
        self.eviction = eviction;
        self
    }

    /// Grants no lock until the server has been up for `delay`.
    #[must_use]
    pub const fn restart_delay(mut self, delay: Duration) -> Self {
        self.restart_delay = delay;
        self
    }

    /// Shares locks with programs that use `SET key value NX PX`.
    #[must_use]
    pub fn plain_key(mut self, template: impl Into<String>) -> Self {
        self.plain_key = Some(template.into());
        self
    }

    /// Sets time limit, credentials on the server, and TLS files.
    #[must_use]
    pub fn connection(mut self, connection: ConnectionOptions) -> Self {
        self.connection = connection;
        self
    }

    /// Sets the credentials for the sentinels.
    #[must_use]
    pub fn sentinel_credentials(
        mut self,
        username: Option<String>,
        password: Option<Secret>,
    ) -> Self {
        self.sentinel_username = username;
        self.sentinel_password = password;
        self
    }

    /// Reads the options from settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let given = &settings.options;
        let default = Self::default();
        let durability = match given.get::<String>("durability")?.as_deref() {
            None | Some("volatile") => Durability::Volatile,
            Some("local") => Durability::Local,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.durability` must be \"volatile\" or \"local\"",
                ));
            }
        };
        let eviction = match given.get::<String>("eviction")?.as_deref() {
            None | Some("refuse") => Eviction::Refuse,
            Some("warn") => Eviction::Warn,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.eviction` must be \"refuse\" or \"warn\"",
                ));
            }
        };
        Ok(Self {
            database: given.get("database")?,
            min_replicas: given.get("min_replicas")?.unwrap_or(default.min_replicas),
            replica_timeout: given
                .duration("replica_timeout")?
                .unwrap_or(default.replica_timeout),
            durability,
            eviction,
            restart_delay: given
                .duration("restart_delay")?
                .unwrap_or(default.restart_delay),
            plain_key: given.get("plain_key")?,
            connection: ConnectionOptions::from_settings(settings)?,
            sentinel_username: given.get("sentinel_username")?,
            sentinel_password: given.get("sentinel_password")?,
        })
    }

    /// Rejects invalid combinations. [`Address::new`](crate::address::Address::new) checks what
    /// depends on the URL.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.replica_timeout < Duration::from_millis(1) {
            // A `WAIT` with a timeout of 0 would block forever.
            return Err(config_error(
                "`backend.options.replica_timeout` must be at least 1 ms",
            ));
        }
        if let Some(template) = &self.plain_key
            && !template.contains("{name}")
        {
            return Err(config_error(
                "`backend.options.plain_key` must contain `{name}`; otherwise all locks would \
                 share one key",
            ));
        }
        if self.sentinel_username.is_some() && self.sentinel_password.is_none() {
            return Err(config_error(
                "`backend.options.sentinel_username` is set without `sentinel_password`",
            ));
        }
        Ok(())
    }
}

/// An error about the configuration.
pub(crate) fn config_error(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "configuring the store")
        .with_backend("redis")
        .with_detail(detail)
}

// User names are not shown, only whether they are set.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("database", &self.database)
            .field("min_replicas", &self.min_replicas)
            .field("replica_timeout", &self.replica_timeout)
            .field("durability", &self.durability)
            .field("eviction", &self.eviction)
            .field("restart_delay", &self.restart_delay)
            .field("plain_key", &self.plain_key)
            .field("connection", &self.connection)
            .field("sentinel_username", &self.sentinel_username.is_some())
            .field("sentinel_password", &self.sentinel_password)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::settings::{RawOptions, StoreUrl, Value};

    use super::*;

    fn read(key: &str, value: &str) -> Result<Options, Error> {
        let settings = Settings::new(StoreUrl::parse("redis://h").unwrap())
            .with_options(RawOptions::new().with(key, Value::from(value), "variable X"));
        let options = Options::from_settings(&settings)?;
        options.validate().map(|()| options)
    }

    #[test]
    fn each_option_is_read() {
        assert_eq!(read("database", "3").unwrap().database, Some(3));
        assert_eq!(read("min_replicas", "2").unwrap().min_replicas, 2);
        let second = Duration::from_secs(7);
        assert_eq!(
            read("replica_timeout", "7s").unwrap().replica_timeout,
            second
        );
        assert_eq!(read("restart_delay", "7s").unwrap().restart_delay, second);
        let connection = read("connect_timeout", "7s").unwrap().connection;
        assert_eq!(connection.connect_timeout, second);
        let local = read("durability", "local").unwrap().durability;
        assert_eq!(local, Durability::Local);
        assert_eq!(read("eviction", "warn").unwrap().eviction, Eviction::Warn);
        let plain = read("plain_key", "lock:{name}").unwrap().plain_key;
        assert_eq!(plain.as_deref(), Some("lock:{name}"));
        assert!(
            read("sentinel_password", "x")
                .unwrap()
                .sentinel_password
                .is_some()
        );
        for key in Options::SECRET_KEYS {
            assert!(Options::KEYS.contains(key));
        }
    }

    #[test]
    fn invalid_option_is_rejected() {
        for (key, value) in [
            ("database", "-1"),
            ("min_replicas", "x"),
            ("replica_timeout", "0s"),
            ("connect_timeout", "soon"),
            ("durability", "replicated"),
            ("eviction", "ignore"),
            ("plain_key", "lock"),
            ("sentinel_username", "me"),
        ] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn s1_debug_shows_no_secret() {
        let canary = || Some(Secret::new("canary"));
        let connection = ConnectionOptions::default();
        let options = Options::default()
            .connection(connection.with_credentials(Some("canary".into()), canary()))
            .sentinel_credentials(Some("canary".into()), canary());
        assert!(!format!("{options:?}").contains("canary"));
    }
}
