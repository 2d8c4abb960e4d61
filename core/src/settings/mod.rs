//! What a backend is configured with: the store's address, who we are to it, and its own options.
//!
//! Nothing here knows where a setting came from but by the words of its origin; files, variables
//! and flags are the facade's.

mod options;
mod url;
mod value;

use std::path::PathBuf;

pub use options::{OptionEntry, RawOptions, nearest};
pub use url::{Host, StoreUrl};
pub use value::Value;

use crate::secret::Secret;

/// What [`Factory::open`](crate::registry::Factory::open) is given.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Which store.
    pub url: StoreUrl,
    /// Who we are to it.
    pub username: Option<String>,
    /// How we prove that.
    pub password: Option<Secret>,
    /// Certificates.
    pub tls: Tls,
    /// What only this kind of store knows.
    pub options: RawOptions,
}

impl Settings {
    /// Settings of a store that needs no more than its address.
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

    /// Sets who we are.
    #[must_use]
    pub fn with_credentials(mut self, username: Option<String>, password: Option<Secret>) -> Self {
        self.username = username;
        self.password = password;
        self
    }

    /// Sets the certificates.
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

/// The files of a TLS connection, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// Who may sign the server's certificate; the system's authorities if absent.
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    pub cert_file: Option<PathBuf>,
    /// The key of our certificate.
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// Those files.
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

    /// Whether nothing is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ca_file.is_none() && self.cert_file.is_none() && self.key_file.is_none()
    }
}
