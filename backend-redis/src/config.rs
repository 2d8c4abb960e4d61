//! What can be set about a Redis store.

use std::{fmt, time::Duration};

use tenure_core::{
    error::{Error, ErrorKind},
    secret::Secret,
    settings::{Settings, Tls},
};

/// The options of a Redis store.
///
/// The defaults suit one server whose loss may cost the locks: nothing is asked of replicas or of
/// the disk.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The database's number; `None`: that of the address, or 0. A cluster has none but 0.
    pub database: Option<u32>,
    /// So many replicas must have acknowledged a grant before it counts. 0: none is asked.
    pub min_replicas: u32,
    /// So long is waited for them. 1 ms or more; 1 s by default.
    pub replica_timeout: Duration,
    /// What the server is known to keep.
    pub durability: Durability,
    /// What to do about a server that may evict locks when it is short of memory.
    pub eviction: Eviction,
    /// Nothing is granted until the server has been up for so long: after a restart with an empty
    /// memory, holders of before may still believe in their locks. At least the longest TTL in use
    /// if it is to help; zero, the default, is off.
    pub restart_delay: Duration,
    /// How other programs that lock with `SET key value NX PX` call the key of a lock: a text with
    /// `{name}`, and `{namespace}` if wanted.
    pub plain_key: Option<String>,
    /// So long may it take to reach one server: name look-up, connection, TLS, log-in. 2 s by
    /// default.
    pub connect_timeout: Duration,
    /// Who we are to the server.
    pub username: Option<String>,
    /// How we prove that.
    pub password: Option<Secret>,
    /// Who we are to the sentinels.
    pub sentinel_username: Option<String>,
    /// How we prove that.
    pub sentinel_password: Option<Secret>,
    /// Certificates, for the schemes that begin with `rediss`.
    pub tls: Tls,
}

/// What the operator says that the server keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A restart or a failover may lose what was acknowledged.
    #[default]
    Volatile,
    /// The server runs with `appendonly yes` and `appendfsync always`: a restart loses nothing.
    /// Refused if the server says that its log is off; `appendfsync` it does not tell.
    Local,
}

/// What to do about a server that may evict locks: `maxmemory` is set, and `maxmemory-policy` is
/// not `noeviction`. The `volatile-*` policies take the locks away, `allkeys-*` the queues too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Do not connect to it.
    #[default]
    Refuse,
    /// Write a warning and go on.
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
            connect_timeout: Duration::from_secs(2),
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: Tls::default(),
        }
    }
}

impl Options {
    /// The names under which a configuration may set them.
    pub const KEYS: &'static [&'static str] = &[
        "connect_timeout",
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

    /// Those of them that are secret.
    pub const SECRET_KEYS: &'static [&'static str] = &["sentinel_password"];

    /// Sets the database's number.
    #[must_use]
    pub const fn database(mut self, number: u32) -> Self {
        self.database = Some(number);
        self
    }

    /// Asks so many replicas to acknowledge each grant, for so long.
    #[must_use]
    pub const fn replicas(mut self, min: u32, timeout: Duration) -> Self {
        self.min_replicas = min;
        self.replica_timeout = timeout;
        self
    }

    /// Says what the server keeps.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Says what to do about a server that may evict locks.
    #[must_use]
    pub const fn eviction(mut self, eviction: Eviction) -> Self {
        self.eviction = eviction;
        self
    }

    /// Grants nothing until the server has been up for so long.
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

    /// Sets the time to reach one server.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets who we are to the server.
    #[must_use]
    pub fn credentials(mut self, username: Option<String>, password: Option<Secret>) -> Self {
        self.username = username;
        self.password = password;
        self
    }

    /// Sets who we are to the sentinels.
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

    /// Sets the certificates.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Reads them from settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let given = &settings.options;
        let default = Self::default();
        let durability = match given.get::<String>("durability")?.as_deref() {
            None | Some("volatile") => Durability::Volatile,
            Some("local") => Durability::Local,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.durability` is \"volatile\" or \"local\"",
                ));
            }
        };
        let eviction = match given.get::<String>("eviction")?.as_deref() {
            None | Some("refuse") => Eviction::Refuse,
            Some("warn") => Eviction::Warn,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.eviction` is \"refuse\" or \"warn\"",
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
            connect_timeout: given
                .duration("connect_timeout")?
                .unwrap_or(default.connect_timeout),
            username: settings.username.clone(),
            password: settings.password.clone(),
            sentinel_username: given.get("sentinel_username")?,
            sentinel_password: given.get("sentinel_password")?,
            tls: settings.tls.clone(),
        })
    }

    /// Refuses what cannot be meant. What depends on the address is the target's to check.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.connect_timeout < Duration::from_millis(1) {
            return Err(config_error(
                "`backend.options.connect_timeout` is under 1 ms",
            ));
        }
        if self.replica_timeout < Duration::from_millis(1) {
            // A `WAIT` of 0 ms would wait for ever.
            return Err(config_error(
                "`backend.options.replica_timeout` is under 1 ms",
            ));
        }
        if let Some(template) = &self.plain_key
            && !template.contains("{name}")
        {
            return Err(config_error(
                "`backend.options.plain_key` needs `{name}` in it, or all locks would share one key",
            ));
        }
        if self.username.is_some() && self.password.is_none() {
            return Err(config_error(
                "`backend.username` is set and no password; set `backend.password_file` too",
            ));
        }
        if self.sentinel_username.is_some() && self.sentinel_password.is_none() {
            return Err(config_error(
                "`backend.options.sentinel_username` is set and `sentinel_password` is not",
            ));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(config_error(
                "a certificate of our own and its key go together; set `cert_file` and `key_file`, \
                 or neither",
            ));
        }
        Ok(())
    }
}

/// A refusal of the configuration.
pub(crate) fn config_error(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "configuring the store")
        .with_backend("redis")
        .with_detail(detail)
}

// Who we are is left out: only that it is set.
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
            .field("connect_timeout", &self.connect_timeout)
            .field("username", &self.username.is_some())
            .field("password", &self.password)
            .field("sentinel_username", &self.sentinel_username.is_some())
            .field("sentinel_password", &self.sentinel_password)
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::settings::{Options as RawOptions, StoreUrl, Value};

    use super::*;

    fn read(key: &str, value: &str) -> Result<Options, Error> {
        let settings = Settings::new(StoreUrl::parse("redis://h").unwrap())
            .with_options(RawOptions::new().with(key, Value::from(value), "variable X"));
        let options = Options::from_settings(&settings)?;
        options.validate().map(|()| options)
    }

    #[test]
    fn every_option_is_read() {
        assert_eq!(read("database", "3").unwrap().database, Some(3));
        assert_eq!(read("min_replicas", "2").unwrap().min_replicas, 2);
        let second = Duration::from_secs(7);
        assert_eq!(
            read("replica_timeout", "7s").unwrap().replica_timeout,
            second
        );
        assert_eq!(read("restart_delay", "7s").unwrap().restart_delay, second);
        assert_eq!(
            read("connect_timeout", "7s").unwrap().connect_timeout,
            second
        );
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
    fn what_cannot_be_meant_is_refused() {
        for (key, value) in [
            ("database", "-1"),
            ("min_replicas", "x"),
            ("replica_timeout", "0s"),
            ("connect_timeout", "0s"),
            ("durability", "replicated"),
            ("eviction", "ignore"),
            ("plain_key", "lock"),
            ("sentinel_username", "me"),
        ] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
        let named = Options::default().credentials(Some("me".into()), None);
        assert!(named.validate().is_err());
        let half = Options::default().tls(Tls::new(None, Some("c.pem".into()), None));
        assert!(half.validate().is_err());
    }

    #[test]
    fn s1_debug_shows_no_secret() {
        let canary = || Some(Secret::new("canary"));
        let options = Options::default()
            .credentials(Some("canary".into()), canary())
            .sentinel_credentials(Some("canary".into()), canary());
        assert!(!format!("{options:?}").contains("canary"));
    }
}
