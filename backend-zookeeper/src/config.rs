//! What can be set about a ZooKeeper store.

use std::{fmt, time::Duration};

use tenure_core::{
    error::{Error, ErrorKind},
    secret::Secret,
    settings::{Settings, Tls},
};

use crate::wire::proto::Access;

/// The options of a ZooKeeper store.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The servers' `tickTime`. 2 s by default, as theirs. All that is known of the life of a
    /// session is measured in it: with a shorter one here than theirs a holder could believe in its
    /// lock for too long, so that such servers are refused as far as they show it.
    pub tick: Duration,
    /// Who may do what with the nodes that are made here.
    pub acl: Acl,
    /// So long may it take to reach one server: name look-up, connection, TLS, log-in. 2 s by
    /// default, and less where a TTL is so short that several servers have to be tried in it.
    pub connect_timeout: Duration,
    /// Who we are to the servers, by their `digest` scheme.
    pub username: Option<String>,
    /// How we prove that.
    pub password: Option<Secret>,
    /// Certificates, for the scheme `zookeepers`.
    pub tls: Tls,
}

/// Who may do what with the nodes that are made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acl {
    /// With a user name that user alone, else everybody.
    #[default]
    Auto,
    /// Everybody may do everything.
    Open,
    /// Whoever has the same credentials (user name, or certificate) may do everything, and nobody
    /// else anything.
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
    /// The names under which a configuration may set them.
    pub const KEYS: &'static [&'static str] = &["acl", "connect_timeout", "tick"];

    /// Sets the servers' `tickTime`.
    #[must_use]
    pub const fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Sets who may do what with the nodes that are made here.
    #[must_use]
    pub const fn acl(mut self, acl: Acl) -> Self {
        self.acl = acl;
        self
    }

    /// Sets the time to reach one server.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets who we are to the servers.
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

    /// Reads them from settings.
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

    /// Refuses what cannot be meant. What depends on the address is the target's to check.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.tick < Duration::from_millis(10) || self.tick > Duration::from_secs(600) {
            return Err(refuse(
                "`backend.options.tick` is not between 10 ms and 10 min; it is the servers' \
                 `tickTime`",
            ));
        }
        if self.connect_timeout < Duration::from_millis(1) {
            return Err(refuse("`backend.options.connect_timeout` is under 1 ms"));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => {
                return Err(refuse(
                    "`backend.username` is set and no password; set `backend.password_file` too",
                ));
            }
            (None, Some(_)) => {
                return Err(refuse(
                    "a password is set and no user; set `backend.username` too",
                ));
            }
            (Some(user), Some(_)) if user.contains(':') || user.is_empty() => {
                return Err(refuse(
                    "`backend.username` is empty or holds a colon, which the `digest` scheme does \
                     not allow",
                ));
            }
            _ => {}
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(refuse(
                "a certificate of our own and its key go together; set `cert_file` and `key_file`, \
                 or neither",
            ));
        }
        Ok(())
    }

    pub(crate) fn access(&self) -> Access {
        match self.acl {
            Acl::Open => Access::Open,
            Acl::Creator => Access::Creator,
            Acl::Auto if self.username.is_some() => Access::Creator,
            Acl::Auto => Access::Open,
        }
    }
}

/// A refusal of the configuration.
pub(crate) fn refuse(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "configuring the store")
        .with_backend("zookeeper")
        .with_detail(detail)
}

// Who we are is left out: only that it is set.
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
    use tenure_core::settings::{Options as Given, StoreUrl, Value};

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
    fn what_cannot_be_meant_is_refused() {
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
    fn who_has_a_user_name_keeps_others_out_unless_told_otherwise() {
        let open = Options::default();
        assert_eq!(open.access(), Access::Open);
        let named = open.credentials(Some("me".into()), Some(Secret::new("canary")));
        assert_eq!(named.access(), Access::Creator);
        assert!(!format!("{named:?}").contains("canary"));
        assert_eq!(named.acl(Acl::Open).access(), Access::Open);
    }
}
