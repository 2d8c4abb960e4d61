//! The settings of a backend: the store's address, the credentials and the backend's own options.
//!
//! This module knows the origin of a setting only as a text. The facade reads files, environment
//! variables and flags.

mod options;
mod url;
mod value;

use std::path::PathBuf;

pub use options::{OptionEntry, RawOptions, nearest};
pub use url::{Host, StoreUrl};
pub(crate) use url::{no_scheme, servers_without_scheme};
pub use value::Value;

use crate::secret::Secret;

/// The settings that [`Factory::open`](crate::registry::Factory::open) receives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The store's address.
    pub url: StoreUrl,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The TLS files.
    pub tls: Tls,
    /// The backend's own options.
    pub options: RawOptions,
}

impl Settings {
    /// Creates the settings of a store that needs only its address.
    #[must_use]
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            username: None,
            password: None,
            tls: Tls::default(),
            options: RawOptions::default(),
        }
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

    /// Sets the options.
    #[must_use]
    pub fn with_options(mut self, options: RawOptions) -> Self {
        self.options = options;
        self
    }
}

/// The files of a TLS connection, all in PEM format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The authorities that can sign the server's certificate; the system's authorities if absent.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    pub cert_file: Option<PathBuf>,
    /// The private key of the client's certificate.
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// Creates the set of files.
    #[must_use]
    pub const fn new(
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
    ) -> Self {
        Self {
            ca_file,
            cert_file,
            key_file,
        }
    }

    /// Returns whether no file is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ca_file.is_none() && self.cert_file.is_none() && self.key_file.is_none()
    }
}
