//! TLS of the drivers that open their own connections: whom we trust, who we are, and what went
//! wrong, in words for whoever must mend it.
//!
//! No part of what users see: the files are named by [`Tls`] of the core. The versions of this crate
//! follow those of `rustls`.

use std::{fmt, fs, io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tenure_core::{error::ErrorKind, settings::Tls};

/// What is wrong, and of what kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsError {
    /// What a caller can do about it.
    pub kind: ErrorKind,
    /// What is wrong, and what to do. Names files, and shows nothing of what is in them.
    pub detail: String,
}

impl TlsError {
    fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }
}

/// Reads the files; blocks for as long as that takes. To be called for each connection anew, so that a
/// renewed certificate needs no restart.
///
/// # Errors
///
/// A [`TlsError`] of the kind [`ErrorKind::Config`] that names the file: it cannot be read, or is not
/// what it should be.
pub fn configure(files: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| {
                    file_error(path, "holds a certificate that cannot be used", error)
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(TlsError::new(
                    ErrorKind::Config,
                    "this system has no certificate authorities; name the server's in `ca_file`",
                ));
            }
        }
    }
    // The provider is named: a program that links two of them has no default, and asking for it
    // panics.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new(ErrorKind::Config, format!("TLS: {error}")))?
        .with_root_certificates(roots);
    let config = match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|_| file_error(key, "holds no PEM key without a passphrase", "no key"))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| match error {
                    // What `openssl x509 -req` makes without extensions.
                    rustls::Error::InvalidCertificate(_) => file_error(
                        cert,
                        "cannot be used; it must be an X.509 certificate of version 3",
                        error,
                    ),
                    error => file_error(cert, "does not go with its key", error),
                })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| file_error(path, "is no PEM file", error))?;
    if found.is_empty() {
        return Err(file_error(path, "holds no certificate", "none found"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| file_error(path, "cannot be read", error))
}

fn file_error(path: &Path, what: &str, error: impl fmt::Display) -> TlsError {
    let path = path.display();
    TlsError::new(ErrorKind::Config, format!("`{path}` {what}: {error}"))
}

/// Makes `ring` the default provider of the process, if the process has none. A library that asks
/// rustls for the default panics where two providers are linked and none is the default. Connections
/// that name their provider are not affected.
pub fn ensure_default_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have set one in between, and that one serves as well.
        let _ = ring::default_provider().install_default();
    }
}

/// The certificate authorities of the system, for a library that reads them as PEM.
#[must_use]
pub fn system_authorities_pem() -> String {
    let found = rustls_native_certs::load_native_certs();
    let encoded = found.certs.iter();
    encoded
        .map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.as_ref())))
        .collect()
}

/// What a failed read or write means if TLS is what failed; `None` if it was the network.
#[must_use]
pub fn explain(error: &io::Error, files: &Tls) -> Option<TlsError> {
    let (kind, detail) = classify(failure(error)?, files);
    Some(TlsError::new(kind, detail))
}

/// The failure of TLS behind a failed read or write, if that is what failed.
#[must_use]
pub fn failure(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn classify(error: &rustls::Error, files: &Tls) -> (ErrorKind, String) {
    use rustls::Error as Tls;
    let trusted = || match &files.ca_file {
        Some(path) => format!("`{}`", path.display()),
        None => "this system (name its authority in `ca_file`)".to_owned(),
    };
    match error {
        // A bad signature: of another authority that goes by the same name.
        Tls::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => (
            ErrorKind::Config,
            format!(
                "its certificate is signed by nobody that is trusted by {}",
                trusted()
            ),
        ),
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            ErrorKind::Config,
            "its certificate is for another host name; use a name that stands in it".to_owned(),
        ),
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => (
            ErrorKind::Config,
            "its certificate has expired; renew it on the server".to_owned(),
        ),
        Tls::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            ErrorKind::Config,
            "its certificate is not valid yet; compare the clocks".to_owned(),
        ),
        Tls::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => (
            ErrorKind::Unauthenticated,
            match &files.cert_file {
                Some(path) => format!(
                    "it does not accept our certificate `{}` ({error})",
                    path.display()
                ),
                None => format!(
                    "it wants a certificate of ours; set `cert_file` and `key_file` ({error})"
                ),
            },
        ),
        Tls::InvalidMessage(_) => (
            ErrorKind::Config,
            "it does not speak TLS there; use the scheme without the `s`, or its TLS port"
                .to_owned(),
        ),
        other => (ErrorKind::Unavailable, format!("TLS failed: {other}")),
    }
}
