//! TLS options for the client crate.

use std::{fs, path::Path};

use tenure_core::{driver::ConnectError, error::ErrorKind, settings::Tls};
use zookeeper_client::TlsOptions;

/// Reads the certificate files. Called for each connection, so that a renewed certificate needs no
/// restart.
///
/// The crate asks rustls for the default provider of the process. If the process has none, this makes
/// `ring` the default, because rustls panics where two providers are linked and none is the default.
pub(super) fn options(files: &Tls) -> Result<TlsOptions, ConnectError> {
    // Checks the files, with messages that name them.
    tenure_tls::configure(files)?;
    tenure_tls::ensure_default_provider();
    let authorities = match &files.ca_file {
        Some(path) => read(path)?,
        None => tenure_tls::system_authorities_pem(),
    };
    let unusable = |error| ConnectError::new(ErrorKind::Config, format!("TLS: {error}"));
    let options = TlsOptions::new()
        .with_pem_ca(&authorities)
        .map_err(unusable)?;
    match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => options
            .with_pem_identity(&read(cert)?, &read(key)?)
            .map_err(unusable),
        _ => Ok(options),
    }
}

fn read(path: &Path) -> Result<String, ConnectError> {
    let path_shown = path.display();
    fs::read_to_string(path).map_err(|error| {
        ConnectError::new(
            ErrorKind::Config,
            format!("`{path_shown}` cannot be read: {error}"),
        )
    })
}
