//! The etcd backend by configuration.

use std::sync::Arc;

use tenure_core::{backend::Connect, error::Error, registry::Factory, settings::Settings};

use crate::{EtcdStore, Options};

/// The schemes `etcd`, and with TLS `etcds`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EtcdFactory;

impl EtcdFactory {
    /// The factory.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Factory for EtcdFactory {
    fn schemes(&self) -> &[&'static str] {
        &["etcd", "etcds"]
    }

    fn summary(&self) -> &'static str {
        "many hosts, an etcd cluster: etcd://host:port,host:port"
    }

    fn option_keys(&self) -> &[&'static str] {
        Options::KEYS
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let options = Options::from_settings(settings)?;
        Ok(Arc::new(EtcdStore::open(&settings.url, options)?))
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{
        error::ErrorKind,
        registry::Registry,
        secret::Secret,
        settings::{RawOptions as Given, StoreUrl, Value},
    };

    use super::*;

    fn open(url: &str, key: &str, value: &str) -> Result<String, Error> {
        let mut registry = Registry::new();
        registry.register(Arc::new(EtcdFactory::new()))?;
        let settings = Settings::new(StoreUrl::parse(url).unwrap())
            .with_credentials(Some("me".to_owned()), Some(Secret::new("canary")))
            .with_options(Given::new().with(key, Value::from(value), "variable X"));
        let store = registry.open(&settings)?;
        assert!(!format!("{store:?}").contains("canary"));
        assert_eq!(store.info().scheme, "etcd");
        Ok(store.info().endpoint)
    }

    #[test]
    fn every_scheme_is_opened_and_shown_the_same_way_each_time() {
        for (url, shown) in [
            ("etcd://h", "etcd://h:2379"),
            ("etcds://h:1,i/", "etcds://h:1,i:2379"),
        ] {
            assert_eq!(open(url, "keepalive_trusted", "auto").unwrap(), shown);
        }
    }

    #[test]
    fn s1_what_is_refused_names_the_option_and_shows_no_secret() {
        for (key, value) in [
            ("keepalive_trust", "canary"),
            ("keepalive_trusted", "canary"),
            ("connect_timeout", "canary"),
        ] {
            let error = open("etcd://h", key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(key), "{error}");
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
    }
}
