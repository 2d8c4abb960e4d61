//! The options of an etcd store.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use tenure_core::{
    driver::ConnectionOptions,
    error::{Error, ErrorKind},
    settings::{Settings, Tls},
};

/// The options of an etcd store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Time limit, credentials and TLS files.
    pub connection: ConnectionOptions,
    /// Whether a keep-alive reply alone proves that the lease is alive.
    pub keepalive_trusted: KeepaliveTrust,
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

impl Options {
    /// The option names that a configuration may use.
    pub const KEYS: &'static [&'static str] =
        &[ConnectionOptions::CONNECT_TIMEOUT, "keepalive_trusted"];

    /// Sets time limit, credentials and TLS files.
    #[must_use]
    pub fn connection(mut self, connection: ConnectionOptions) -> Self {
        self.connection = connection;
        self
    }

    /// Sets whether a keep-alive reply alone is trusted.
    #[must_use]
    pub const fn keepalive_trusted(mut self, trust: KeepaliveTrust) -> Self {
        self.keepalive_trusted = trust;
        self
    }

    /// Reads the options from the settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let keepalive_trusted = match settings
            .options
            .get::<String>("keepalive_trusted")?
            .as_deref()
        {
            None | Some("auto") => KeepaliveTrust::Auto,
            Some("never") => KeepaliveTrust::Never,
            Some(_) => {
                return Err(config_error(
                    "`backend.options.keepalive_trusted` must be \"auto\" or \"never\"",
                ));
            }
        };
        Ok(Self {
            connection: ConnectionOptions::from_settings(settings)?,
            keepalive_trusted,
        })
    }

    /// The options of each connection. Reads the certificate files each time, so that a renewed
    /// certificate needs no restart.
    pub(crate) fn connect_options(&self, uses_tls: bool) -> Result<ConnectOptions, Error> {
        let connection = &self.connection;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(connection.connect_timeout)
            // Servers reject pings that arrive more often than every five seconds.
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let (Some(user), Some(password)) = (&connection.username, &connection.password) {
            options = options.with_user(user.clone(), password.expose());
        }
        if uses_tls {
            options = options.with_tls(tls_options(&connection.tls)?);
        }
        Ok(options)
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

#[cfg(test)]
mod tests {
    use tenure_core::{
        secret::Secret,
        settings::{RawOptions as Given, StoreUrl, Value},
    };

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
        let connection = read("connect_timeout", "7s").unwrap().connection;
        assert_eq!(connection.connect_timeout, seven);
        let never = read("keepalive_trusted", "never").unwrap();
        assert_eq!(never.keepalive_trusted, KeepaliveTrust::Never);
        for (key, value) in [("connect_timeout", "0s"), ("keepalive_trusted", "always")] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
        let url = StoreUrl::parse("etcd://h").unwrap();
        let connection = ConnectionOptions::default;
        for wrong in [
            connection().with_credentials(Some("me".into()), None),
            connection().with_credentials(None, Some(Secret::new("canary"))),
            connection().with_tls(Tls::new(Some("ca.pem".into()), None, None)),
            connection().with_tls(Tls::new(None, Some("c.pem".into()), None)),
        ] {
            let options = Options::default().connection(wrong);
            assert!(Address::new(&url, &options).is_err());
        }
    }

    #[test]
    fn s1_debug_output_contains_no_secret() {
        let secret = Some(Secret::new("canary"));
        let connection = ConnectionOptions::default();
        let connection = connection.with_credentials(Some("canary".into()), secret);
        let options = Options::default().connection(connection);
        assert!(!format!("{options:?}").contains("canary"));
    }
}
