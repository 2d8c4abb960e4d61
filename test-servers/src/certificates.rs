//! A certificate authority for one test, and its certificates.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::Error;

/// A certificate authority, a server certificate for 127.0.0.1 and localhost, and a client certificate:
/// PEM files in one directory.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Creates an authority and its certificates in an existing directory. Each call creates a separate
    /// authority.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn generate(directory: &Path) -> Result<Self, Error> {
        let files = Self::of(directory);
        files.write_all().map_err(|why| {
            Error::new(format!(
                "cannot make certificates in {}: {why}",
                directory.display()
            ))
        })?;
        Ok(files)
    }

    /// Copies the files to another existing directory, for another member of a cluster.
    pub(crate) fn copy_to(&self, directory: &Path) -> Result<(), Error> {
        let copy = Self::of(directory);
        let files = |of: &Self| {
            [
                of.ca_file(),
                of.server_certificate_file(),
                of.server_key_file(),
                of.client_certificate_file(),
                of.client_key_file(),
            ]
        };
        for (from, to) in files(self).into_iter().zip(files(&copy)) {
            fs::copy(&from, &to).map_err(|error| {
                Error::new(format!(
                    "cannot copy {} to {}: {error}",
                    from.display(),
                    directory.display()
                ))
            })?;
        }
        Ok(())
    }

    /// The certificates in `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The certificate of the authority, with which each side verifies the other.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_certificate_file(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The server's key.
    #[must_use]
    pub fn server_key_file(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// A client's certificate.
    #[must_use]
    pub fn client_certificate_file(&self) -> PathBuf {
        self.directory.join("client.pem")
    }

    /// The client's key.
    #[must_use]
    pub fn client_key_file(&self) -> PathBuf {
        self.directory.join("client.key")
    }

    fn write_all(&self) -> Result<(), String> {
        let text = |error: rcgen::Error| error.to_string();
        let io_text = |error: io::Error| error.to_string();

        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "authority of a test");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate().map_err(text)?;
        let certificate = ca.self_signed(&ca_key).map_err(text)?;
        fs::write(self.ca_file(), certificate.pem()).map_err(io_text)?;
        let issuer = Issuer::new(ca, ca_key);

        let leaves = [
            (
                "server",
                vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
                // A replica or a member of a cluster is a client as well.
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ],
                self.server_certificate_file(),
                self.server_key_file(),
            ),
            (
                "client",
                Vec::new(),
                vec![ExtendedKeyUsagePurpose::ClientAuth],
                self.client_certificate_file(),
                self.client_key_file(),
            ),
        ];
        for (name, subjects, usages, certificate_file, key_file) in leaves {
            let mut leaf = CertificateParams::new(subjects).map_err(text)?;
            leaf.distinguished_name
                .push(DnType::CommonName, format!("{name} of a test"));
            leaf.use_authority_key_identifier_extension = true;
            leaf.extended_key_usages = usages;
            let key = KeyPair::generate().map_err(text)?;
            let certificate = leaf.signed_by(&key, &issuer).map_err(text)?;
            fs::write(certificate_file, certificate.pem()).map_err(io_text)?;
            fs::write(key_file, key.serialize_pem()).map_err(io_text)?;
        }
        Ok(())
    }
}
