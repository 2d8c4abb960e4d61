//! The options of a connection that do not depend on the store.

use std::{fmt, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    secret::Secret,
    settings::{Settings, Tls},
};

/// The options of a connection to a server: time limit, credentials and TLS files.
///
/// `Debug` shows neither the user name nor the password (clause S1).
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectionOptions {
    /// The time limit for connecting to one server: name resolution, connection, TLS and
    /// authentication. At least 1 ms; 2 s by default.
    pub connect_timeout: Duration,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The files for a scheme with TLS.
    pub tls: Tls,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            username: None,
            password: None,
            tls: Tls::default(),
        }
    }
}

impl ConnectionOptions {
    /// The name of the one option that is read from the table `[backend.options]`. The others have
    /// their own places in [`Settings`].
    pub const CONNECT_TIMEOUT: &'static str = "connect_timeout";

    /// Sets the time limit for connecting to one server.
    #[must_use]
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the credentials.
    #[must_use]
    pub fn with_credentials(mut self, username: Option<String>, password: Option<Secret>) -> Self {
        self.username = username;
        self.password = password;
        self
    }

    /// Sets the TLS files.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Reads the options from settings. [`validate`](Self::validate) checks them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the time limit is not a duration.
    pub fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let default = Self::default();
        let connect_timeout = settings.options.duration(Self::CONNECT_TIMEOUT)?;
        Ok(Self {
            connect_timeout: connect_timeout.unwrap_or(default.connect_timeout),
            username: settings.username.clone(),
            password: settings.password.clone(),
            tls: settings.tls.clone(),
        })
    }

    /// Rejects options that contradict each other, or the scheme of the store's address.
    /// `tls_scheme` is the scheme that uses TLS, such as `etcds`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with what is wrong and how to fix it: a time limit under 1 ms, a user
    /// name without a password, a client certificate without its key, or TLS files for another
    /// scheme than `tls_scheme`.
    pub fn validate(&self, scheme: &str, tls_scheme: &str) -> Result<(), Error> {
        if self.connect_timeout < Duration::from_millis(1) {
            return Err(refuse(
                "`backend.options.connect_timeout` must be at least 1 ms",
            ));
        }
        if self.username.is_some() && self.password.is_none() {
            return Err(refuse(
                "`backend.username` is set without a password; set `backend.password_file` too",
            ));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(refuse(
                "a client certificate needs its key, and the reverse; set both `cert_file` and \
                 `key_file`, or neither",
            ));
        }
        if scheme != tls_scheme && !self.tls.is_empty() {
            return Err(refuse(&format!(
                "`[backend.tls]` sets certificates, but the scheme `{scheme}` does not use TLS; \
                 use `{tls_scheme}`"
            )));
        }
        Ok(())
    }

    /// Rejects a password without a user name, for a store that needs both.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`].
    pub fn require_username(&self) -> Result<(), Error> {
        if self.password.is_some() && self.username.is_none() {
            return Err(refuse(
                "a password is set without a user name; set `backend.username` too",
            ));
        }
        Ok(())
    }
}

fn refuse(detail: &str) -> Error {
    Error::new(ErrorKind::Config, "configuring the store").with_detail(detail)
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("username", &self.username.is_some())
            .field("password", &self.password)
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{RawOptions, StoreUrl, Value};

    fn options() -> ConnectionOptions {
        ConnectionOptions::default()
    }

    fn secret() -> Option<Secret> {
        Some(Secret::new("canary"))
    }

    #[test]
    fn settings_are_read() {
        let timeout = RawOptions::new().with("connect_timeout", Value::from("7s"), "variable X");
        let settings = Settings::new(StoreUrl::parse("etcds://h").unwrap())
            .with_credentials(Some("me".into()), secret())
            .with_tls(Tls::new(Some("ca.pem".into()), None, None))
            .with_options(timeout);
        let read = ConnectionOptions::from_settings(&settings).unwrap();
        assert_eq!(read.connect_timeout, Duration::from_secs(7));
        assert_eq!(read.username.as_deref(), Some("me"));
        assert!(read.password.is_some());
        assert_eq!(read.tls, settings.tls);
        assert!(read.validate("etcds", "etcds").is_ok());

        let settings = Settings::new(StoreUrl::parse("etcd://h").unwrap());
        let read = ConnectionOptions::from_settings(&settings).unwrap();
        assert_eq!(read.connect_timeout, Duration::from_secs(2));
    }

    #[test]
    fn contradictions_are_rejected_with_the_setting() {
        for (wrong, hint) in [
            (
                options().with_connect_timeout(Duration::ZERO),
                "connect_timeout",
            ),
            (
                options().with_credentials(Some("me".into()), None),
                "password_file",
            ),
            (
                options().with_tls(Tls::new(None, Some("c.pem".into()), None)),
                "key_file",
            ),
            (
                options().with_tls(Tls::new(Some("ca.pem".into()), None, None)),
                "`etcds`",
            ),
        ] {
            let error = wrong.validate("etcd", "etcds").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(hint), "{error}");
        }
        assert!(options().validate("etcd", "etcds").is_ok());
    }

    #[test]
    fn password_alone_is_rejected_only_where_a_user_name_is_required() {
        let alone = options().with_credentials(None, secret());
        assert!(alone.validate("redis", "rediss").is_ok());
        assert!(alone.require_username().is_err());
        let both = options().with_credentials(Some("me".into()), secret());
        assert!(both.require_username().is_ok());
        assert!(options().require_username().is_ok());
    }

    #[test]
    fn s1_debug_shows_no_credentials() {
        let both = options().with_credentials(Some("canary".into()), secret());
        assert!(!format!("{both:?}").contains("canary"));
    }
}
