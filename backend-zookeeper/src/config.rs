//! The options of a ZooKeeper store.

use std::{fmt, time::Duration};

use tenure_core::{
    error::{Error, ErrorKind},
    secret::Secret,
    settings::{Settings, Tls},
};

use zookeeper_client::Acls;

/// The options of a ZooKeeper store.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The servers' `tickTime`; 2 s by default, like theirs. Proofs of a session's life are
    /// measured in ticks. With a shorter tick than theirs a holder could believe in its lock for
    /// too long, so the driver refuses servers whose shortest session shows a longer tick.
    pub tick: Duration,
    /// The access rights of the nodes that this client creates.
    pub acl: Acl,
    /// The time limit for one connection to one server: name look-up, TCP, TLS and authentication.
    /// 2 s by default. It applies to a new session. When a session is resumed, its TTL decides the
    /// limit, so that several servers can be tried in time.
    pub connect_timeout: Duration,
    /// The user of the servers' `digest` scheme.
    pub username: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// Certificates, for the scheme `zookeepers`.
    pub tls: Tls,
}

/// The access rights of the nodes that this client creates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acl {
    /// `Creator` if a user name is set, else `Open`.
    #[default]
    Auto,
    /// Every client has all rights.
    Open,
    /// Clients with the same credentials (user name or certificate) have all rights; others have
    /// none.
    Creator,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(2),
            acl: Acl::default(),
            connect_timeout: Duration::from_secs(2),
            username: None,
            password: None,
            tls: Tls::default(),
        }
    }
}

impl Options {
    /// The names of the options in a configuration.
    pub const KEYS: &'static [&'static str] = &["acl", "connect_timeout", "tick"];

    /// Sets the servers' `tickTime`.
    #[must_use]
    pub const fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Sets the access rights of the nodes that this client creates.
    #[must_use]
    pub const fn acl(mut self, acl: Acl) -> Self {
        self.acl = acl;
        self
    }

    /// Sets the time limit for one connection to one server.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets user name and password.
    #[must_use]
    pub fn credentials(mut self, username: Option<String>, password: Option<Secret>) -> Self {
        self.username = username;
        self.password = password;
        self
    }

    /// Sets the certificates.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Reads the options from settings.
    pub(crate) fn read(settings: &Settings) -> Result<Self, Error> {
        let given = &settings.options;
        let default = Self::default();
        let acl = match given.get::<String>("acl")?.as_deref() {
            None | Some("auto") => Acl::Auto,
            Some("open") => Acl::Open,
            Some("creator") => Acl::Creator,
            Some(_) => {
                return Err(refuse(
                    "`backend.options.acl` is \"auto\", \"open\" or \"creator\"",
                ));
            }
        };
        Ok(Self {
            tick: given.duration("tick")?.unwrap_or(default.tick),
            acl,
            connect_timeout: given
                .duration("connect_timeout")?
                .unwrap_or(default.connect_timeout),
            username: settings.username.clone(),
            password: settings.password.clone(),
            tls: settings.tls.clone(),
        })
    }

    /// Refuses values that make no sense. [`Address`](crate::address::Address) checks the options that depend on the address.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.tick < Duration::from_millis(10) || self.tick > Duration::from_secs(600) {
            return Err(refuse(
                "`backend.options.tick` is not between 10 ms and 10 min; set it to the servers' \
                 `tickTime`",
            ));
        }
        if self.connect_timeout < Duration::from_millis(1) {
            return Err(refuse("`backend.options.connect_timeout` is under 1 ms"));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => {
                return Err(refuse(
                    "`backend.username` is set without a password; set `backend.password_file` too",
                ));
            }
            (None, Some(_)) => {
                return Err(refuse(
                    "a password is set without a user; set `backend.username` too",
                ));
            }
            (Some(user), Some(_)) if user.contains(':') || user.is_empty() => {
                return Err(refuse(
                    "`backend.username` is empty or holds a colon; the `digest` scheme allows \
                     neither",
                ));
            }
            _ => {}
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(refuse(
                "a client certificate needs its key; set both `cert_file` and `key_file`, or \
                 neither",
            ));
        }
        Ok(())
    }

    /// The access control list of the nodes that this client creates.
    pub(crate) const fn acls(&self) -> Acls<'static> {
        match self.acl {
            Acl::Open => Acls::anyone_all(),
            Acl::Creator => Acls::creator_all(),
            Acl::Auto if self.username.is_some() => Acls::creator_all(),
            Acl::Auto => Acls::anyone_all(),
        }
    }
}

/// A refusal of the configuration.
pub(crate) fn refuse(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "configuring the store")
        .with_backend("zookeeper")
        .with_detail(detail)
}

// The user name is left out: the output shows only whether it is set.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("tick", &self.tick)
            .field("acl", &self.acl)
            .field("connect_timeout", &self.connect_timeout)
            .field("username", &self.username.is_some())
            .field("password", &self.password)
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::settings::{RawOptions as Given, StoreUrl, Value};

    use super::*;

    fn read(key: &str, value: &str) -> Result<Options, Error> {
        let settings = Settings::new(StoreUrl::parse("zookeeper://h").unwrap())
            .with_options(Given::new().with(key, Value::from(value), "variable X"));
        let options = Options::read(&settings)?;
        options.check().map(|()| options)
    }

    #[test]
    fn every_option_is_read() {
        assert_eq!(read("tick", "3s").unwrap().tick, Duration::from_secs(3));
        assert_eq!(read("acl", "open").unwrap().acl, Acl::Open);
        assert_eq!(read("acl", "creator").unwrap().acl, Acl::Creator);
        let limit = read("connect_timeout", "7s").unwrap().connect_timeout;
        assert_eq!(limit, Duration::from_secs(7));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for (key, value) in [
            ("tick", "1ms"),
            ("tick", "1h"),
            ("acl", "all"),
            ("connect_timeout", "0s"),
        ] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
        let secret = || Some(Secret::new("s"));
        for (user, password) in [
            (Some("me"), None),
            (None, secret()),
            (Some("a:b"), secret()),
        ] {
            let user = user.map(str::to_owned);
            let options = Options::default().credentials(user, password);
            assert!(options.check().is_err());
        }
        let half = Options::default().tls(Tls::new(None, Some("c.pem".into()), None));
        assert!(half.check().is_err());
    }

    #[test]
    fn a_user_name_restricts_access_unless_the_option_opens_it() {
        let open = Options::default();
        let acls = |options: &Options| format!("{:?}", options.acls());
        let anyone = format!("{:?}", Acls::anyone_all());
        assert_eq!(acls(&open), anyone);
        let named = open.credentials(Some("me".into()), Some(Secret::new("canary")));
        assert_ne!(acls(&named), anyone);
        assert!(!format!("{named:?}").contains("canary"));
        assert_eq!(acls(&named.acl(Acl::Open)), anyone);
    }
}
