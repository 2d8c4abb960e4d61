//! TLS for the drivers that open their own connections: trusted authorities, the client's
//! certificate, and error messages that say how to fix a failed handshake.
//!
//! This crate is not part of the API for users: [`Tls`] of the core names the files. Its versions
//! follow those of `rustls`.

use std::{fmt, fs, io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tenure_core::{
    driver::{ConnectError, TlsFailure},
    error::ErrorKind,
    settings::Tls,
};

/// Reads the files and returns the configuration of a client. The call blocks while it reads.
///
/// Call this function for each connection, so that a renewed certificate needs no restart.
///
/// # Errors
///
/// Returns a [`ConnectError`] of the kind [`ErrorKind::Config`] that names the file if the file cannot
/// be read or has the wrong content.
pub fn configure(files: &Tls) -> Result<Arc<ClientConfig>, ConnectError> {
    let mut roots = RootCertStore::empty();
    match &files.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| file_error(path, "contains an unusable certificate", error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(ConnectError::new(
                    ErrorKind::Config,
                    "this system has no certificate authorities; name the server's authority in `ca_file`",
                ));
            }
        }
    }
    // The code names the provider: a program that links two providers has no default, and a request
    // for the default panics.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::new(ErrorKind::Config, format!("TLS: {error}")))?
        .with_root_certificates(roots);
    let config = match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| {
                file_error(key, "contains no PEM key without a passphrase", "no key")
            })?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| match error {
                    // `openssl x509 -req` creates such a certificate without extensions.
                    rustls::Error::InvalidCertificate(_) => file_error(
                        cert,
                        "cannot be used; it must be an X.509 certificate of version 3",
                        error,
                    ),
                    error => file_error(cert, "does not match its key", error),
                })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| file_error(path, "is not a PEM file", error))?;
    if found.is_empty() {
        return Err(file_error(path, "contains no certificate", "none found"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|error| file_error(path, "cannot be read", error))
}

fn file_error(path: &Path, what: &str, error: impl fmt::Display) -> ConnectError {
    let path = path.display();
    ConnectError::new(ErrorKind::Config, format!("`{path}` {what}: {error}"))
}

/// Makes `ring` the default provider of the process if the process has no default. A library that
/// requests the default from rustls panics if the program links two providers and neither is the
/// default. Connections that name their provider are not affected.
pub fn ensure_default_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have set a default in the meantime; that default serves as well.
        let _ = ring::default_provider().install_default();
    }
}

/// Returns the certificate authorities of the system as PEM.
#[must_use]
pub fn system_authorities_pem() -> String {
    let found = rustls_native_certs::load_native_certs();
    let encoded = found.certs.iter();
    encoded
        .map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.as_ref())))
        .collect()
}

/// Explains a failed read or write if TLS failed; returns `None` if the network failed.
#[must_use]
pub fn explain(error: &io::Error, files: &Tls) -> Option<ConnectError> {
    let error = failure(error)?;
    let cause = error.to_string();
    Some(match classify(error) {
        Some(failure) => ConnectError::from_tls(failure, files, &cause),
        None => ConnectError::new(ErrorKind::Unavailable, format!("TLS failed: {cause}")),
    })
}

/// Returns the error of `rustls` behind a failed read or write, if there is one.
#[must_use]
pub fn failure(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn classify(error: &rustls::Error) -> Option<TlsFailure> {
    use rustls::Error as Tls;
    Some(match error {
        // A bad signature comes from another authority with the same name.
        Tls::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => TlsFailure::UntrustedIssuer,
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => TlsFailure::WrongHostName,
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => TlsFailure::Expired,
        Tls::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => TlsFailure::NotYetValid,
        Tls::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => TlsFailure::ClientCertificate,
        Tls::InvalidMessage(_) => TlsFailure::NotTls,
        _ => return None,
    })
}
