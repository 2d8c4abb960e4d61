//! The options of an etcd store.

use std::{fmt, fs, path::Path, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use tenure_core::{
    error::{Error, ErrorKind},
    secret::Secret,
    settings::{Settings, Tls},
};

/// The options of an etcd store.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The time limit for connecting to one server: name resolution, connection, TLS and
    /// authentication. 2 s by default.
    pub connect_timeout: Duration,
    /// Whether a keep-alive reply alone proves that the lease is alive.
    pub keepalive_trusted: KeepaliveTrust,
    /// The user name for authentication.
    pub username: Option<String>,
    /// The password for authentication.
    pub password: Option<Secret>,
    /// Certificates for the scheme `etcds`.
    pub tls: Tls,
}

/// Whether a keep-alive reply alone proves that the lease is alive. Before 3.4.31 and 3.5.13, a
/// leader that was partitioned or stopped still answered keep-alives although its successor had let
/// the lease expire. On those versions a reply counts only after the same server has answered a
/// transaction that was sent later, in the same raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeepaliveTrust {
    /// Decided by the version of the server.
    #[default]
    Auto,
    /// Never, on any version.
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            keepalive_trusted: KeepaliveTrust::default(),
            username: None,
            password: None,
            tls: Tls::default(),
        }
    }
}

impl Options {
    /// The option names that a configuration may use.
    pub const KEYS: &'static [&'static str] = &["connect_timeout", "keepalive_trusted"];

    /// Sets the time limit for connecting to one server.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets whether a keep-alive reply alone is trusted.
    #[must_use]
    pub const fn keepalive_trusted(mut self, trust: KeepaliveTrust) -> Self {
        self.keepalive_trusted = trust;
        self
    }

    /// Sets the user name and the password.
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

    /// Reads the options from the settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let given = &settings.options;
        let default = Self::default();
        let keepalive_trusted = match given.get::<String>("keepalive_trusted")?.as_deref() {
            None | Some("auto") => KeepaliveTrust::Auto,
            Some("never") => KeepaliveTrust::Never,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.keepalive_trusted` must be \"auto\" or \"never\"",
                ));
            }
        };
        Ok(Self {
            connect_timeout: given
                .duration("connect_timeout")?
                .unwrap_or(default.connect_timeout),
            keepalive_trusted,
            username: settings.username.clone(),
            password: settings.password.clone(),
            tls: settings.tls.clone(),
        })
    }

    /// The options of each connection. Reads the certificate files each time, so that a renewed
    /// certificate needs no restart.
    pub(crate) fn connect_options(&self, uses_tls: bool) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            // Servers reject pings that arrive more often than every five seconds.
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            options = options.with_user(user.clone(), password.expose());
        }
        if uses_tls {
            options = options.with_tls(tls_options(&self.tls)?);
        }
        Ok(options)
    }

    pub(crate) fn validate(&self, uses_tls: bool) -> Result<(), Error> {
        if self.connect_timeout < Duration::from_millis(1) {
            return Err(config_error(
                "`backend.options.connect_timeout` must be at least 1 ms",
            ));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => {
                return Err(config_error(
                    "`backend.username` is set without a password; also set `backend.password_file`",
                ));
            }
            (None, Some(_)) => {
                return Err(config_error(
                    "a password is set without `backend.username`; etcd needs both",
                ));
            }
            _ => {}
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(config_error(
                "a client certificate needs its key; set both `cert_file` and `key_file`, or neither",
            ));
        }
        if !uses_tls && !self.tls.is_empty() {
            return Err(config_error(
                "`[backend.tls]` sets certificates, but the scheme `etcd` does not use TLS; use \
                 `etcds`",
            ));
        }
        Ok(())
    }
}

fn tls_options(files: &Tls) -> Result<TlsOptions, Error> {
    let mut options = TlsOptions::new();
    options = match &files.ca_file {
        Some(path) => options.ca_certificate(Certificate::from_pem(read_pem(path)?)),
        None => options.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&files.cert_file, &files.key_file) {
        options = options.identity(Identity::from_pem(read_pem(cert)?, read_pem(key)?));
    }
    Ok(options)
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Error> {
    let shown = path.display();
    let bytes =
        fs::read(path).map_err(|error| config_error(format!("cannot read `{shown}`: {error}")))?;
    let marker = b"-----BEGIN ";
    if !bytes.windows(marker.len()).any(|window| window == marker) {
        return Err(config_error(format!("`{shown}` is not a PEM file")));
    }
    Ok(bytes)
}

/// An error about the configuration.
pub(crate) fn config_error(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "configuring the store")
        .with_backend("etcd")
        .with_detail(detail)
}

// Shows only whether a user name is set.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("connect_timeout", &self.connect_timeout)
            .field("keepalive_trusted", &self.keepalive_trusted)
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
    use crate::address::Address;

    fn read(key: &str, value: &str) -> Result<Options, Error> {
        let url = StoreUrl::parse("etcd://h").unwrap();
        let settings = Settings::new(url.clone()).with_options(Given::new().with(
            key,
            Value::from(value),
            "variable X",
        ));
        let options = Options::from_settings(&settings)?;
        Address::new(&url, &options).map(|_| options)
    }

    #[test]
    fn options_are_parsed_and_invalid_values_rejected() {
        let seven = Duration::from_secs(7);
        assert_eq!(
            read("connect_timeout", "7s").unwrap().connect_timeout,
            seven
        );
        let never = read("keepalive_trusted", "never").unwrap();
        assert_eq!(never.keepalive_trusted, KeepaliveTrust::Never);
        for (key, value) in [("connect_timeout", "0s"), ("keepalive_trusted", "always")] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
        let url = StoreUrl::parse("etcd://h").unwrap();
        let secret = || Some(Secret::new("canary"));
        for wrong in [
            Options::default().credentials(Some("me".into()), None),
            Options::default().credentials(None, secret()),
            Options::default().tls(Tls::new(Some("ca.pem".into()), None, None)),
            Options::default().tls(Tls::new(None, Some("c.pem".into()), None)),
        ] {
            assert!(Address::new(&url, &wrong).is_err());
        }
    }

    #[test]
    fn s1_debug_output_contains_no_secret() {
        let secret = Some(Secret::new("canary"));
        let options = Options::default().credentials(Some("canary".into()), secret);
        assert!(!format!("{options:?}").contains("canary"));
    }
}
