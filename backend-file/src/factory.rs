//! The factory of the file backend.

use std::sync::Arc;

use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
    registry::Factory,
    settings::Settings,
};

use crate::{FileStore, Options};

/// The scheme `file`: `file:/directory`, or `file:` for [`FileStore::default_root`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FileFactory;

impl FileFactory {
    /// Creates the factory.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Factory for FileFactory {
    fn schemes(&self) -> &[&'static str] {
        &["file"]
    }

    fn summary(&self) -> &'static str {
        "many processes of one host, no server: file: or file:/directory"
    }

    fn option_keys(&self) -> &[&'static str] {
        Options::KEYS
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let refuse = |detail| {
            Error::new(ErrorKind::Config, "opening the directory of locks")
                .with_backend("file")
                .with_detail(detail)
        };
        let url = &settings.url;
        if !url.hosts().is_empty() {
            return Err(refuse(
                "a file store has no servers; write `file:/directory`, with one slash or three",
            ));
        }
        let root = match url.path() {
            "" => FileStore::default_root(),
            path if path.starts_with('/') => path.into(),
            _ => {
                return Err(refuse(
                    "the directory must be absolute, so that all processes use the same one: \
                     `file:/directory`",
                ));
            }
        };
        if settings.username.is_some() || settings.password.is_some() || !settings.tls.is_empty() {
            return Err(refuse(
                "a file store has no user, password or certificates; owner and mode of the \
                 directory control the access",
            ));
        }
        let options = Options::default()
            .shared(settings.options.get("shared")?.unwrap_or(false))
            .allow_network(settings.options.get("allow_network")?.unwrap_or(false));
        Ok(Arc::new(FileStore::open(root, options)))
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::settings::{StoreUrl, Value};

    use super::*;

    fn open(url: &str) -> Result<String, Error> {
        let settings = Settings::new(StoreUrl::parse(url).unwrap());
        FileFactory::new()
            .open(&settings)
            .map(|store| store.info().endpoint)
    }

    #[test]
    fn address_contains_a_directory() {
        assert_eq!(open("file:/srv/locks").unwrap(), "file:/srv/locks");
        assert_eq!(open("file:///srv/locks").unwrap(), "file:/srv/locks");
        let default = FileStore::default_root().display().to_string();
        assert_eq!(open("file:").unwrap(), format!("file:{default}"));
        for wrong in ["file:locks", "file:./locks", "file://host/locks"] {
            assert_eq!(
                open(wrong).unwrap_err().kind(),
                ErrorKind::Config,
                "{wrong}"
            );
        }
    }

    #[test]
    fn options_are_read_and_unsupported_settings_are_rejected() {
        let settings = || Settings::new(StoreUrl::parse("file:/srv/locks").unwrap());
        let options = |value: Value| {
            tenure_core::settings::RawOptions::new().with("shared", value, "variable X")
        };
        let factory = FileFactory::new();
        let shared = factory.open(&settings().with_options(options(Value::from("true"))));
        assert!(format!("{:?}", shared.unwrap()).contains("shared: true"));
        let wrong = factory.open(&settings().with_options(options(Value::from("maybe"))));
        assert!(wrong.unwrap_err().to_string().contains("variable X"));
        let user = settings().with_credentials(Some("me".to_owned()), None);
        assert!(factory.open(&user).is_err());
    }
}
