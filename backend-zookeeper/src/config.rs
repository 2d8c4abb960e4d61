//! The options of a ZooKeeper store.

use std::time::Duration;

use tenure_core::{
    driver::ConnectionOptions,
    error::{Error, ErrorKind},
    settings::Settings,
};
use zookeeper_client::Acls;

/// The options of a ZooKeeper store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The servers' `tickTime`; 2 s by default, like theirs. Proofs of a session's life are
    /// measured in ticks. With a shorter tick than theirs a holder could believe in its lock for
    /// too long, so the driver refuses servers whose shortest session shows a longer tick.
    pub tick: Duration,
    /// The access rights of the nodes that this client creates.
    pub acl: Acl,
    /// Time limit, credentials and TLS files. The user name is that of the servers' `digest` scheme.
    /// The time limit applies to a new session. When a session is resumed, its TTL decides the limit,
    /// so that several servers can be tried in time.
    pub connection: ConnectionOptions,
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
            connection: ConnectionOptions::default(),
        }
    }
}

impl Options {
    /// The names of the options in a configuration.
    pub const KEYS: &'static [&'static str] = &["acl", ConnectionOptions::CONNECT_TIMEOUT, "tick"];

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

    /// Sets time limit, credentials and TLS files.
    #[must_use]
    pub fn connection(mut self, connection: ConnectionOptions) -> Self {
        self.connection = connection;
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
            connection: ConnectionOptions::from_settings(settings)?,
        })
    }

    /// Rejects values out of range. [`Address`](crate::address::Address) checks the options of the
    /// connection, which depend on the scheme.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.tick < Duration::from_millis(10) || self.tick > Duration::from_secs(600) {
            return Err(refuse(
                "`backend.options.tick` is not between 10 ms and 10 min; set it to the servers' \
                 `tickTime`",
            ));
        }
        let username = self.connection.username.as_deref();
        if username.is_some_and(|username| username.is_empty() || username.contains(':')) {
            return Err(refuse(
                "`backend.username` is empty or holds a colon; the `digest` scheme allows neither",
            ));
        }
        Ok(())
    }

    /// The access control list of the nodes that this client creates.
    pub(crate) const fn acls(&self) -> Acls<'static> {
        match self.acl {
            Acl::Open => Acls::anyone_all(),
            Acl::Creator => Acls::creator_all(),
            Acl::Auto if self.connection.username.is_some() => Acls::creator_all(),
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

#[cfg(test)]
mod tests {
    use tenure_core::{
        secret::Secret,
        settings::{RawOptions as Given, StoreUrl, Value},
    };

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
        let connection = read("connect_timeout", "7s").unwrap().connection;
        assert_eq!(connection.connect_timeout, Duration::from_secs(7));
    }

    #[test]
    fn values_out_of_range_are_rejected() {
        for (key, value) in [
            ("tick", "1ms"),
            ("tick", "1h"),
            ("acl", "all"),
            ("connect_timeout", "soon"),
        ] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
        let credentials = |username: &str| {
            let password = Some(Secret::new("s"));
            ConnectionOptions::default().with_credentials(Some(username.into()), password)
        };
        for username in ["a:b", ""] {
            let options = Options::default().connection(credentials(username));
            assert!(options.check().is_err());
        }
    }

    #[test]
    fn a_user_name_restricts_access_unless_the_option_opens_it() {
        let open = Options::default();
        let acls = |options: &Options| format!("{:?}", options.acls());
        let anyone = format!("{:?}", Acls::anyone_all());
        assert_eq!(acls(&open), anyone);
        let secret = Some(Secret::new("canary"));
        let connection = ConnectionOptions::default().with_credentials(Some("me".into()), secret);
        let named = open.connection(connection);
        assert_ne!(acls(&named), anyone);
        assert!(!format!("{named:?}").contains("canary"));
        assert_eq!(acls(&named.acl(Acl::Open)), anyone);
    }
}
