//! The factory that makes a ZooKeeper store from settings.

use std::sync::Arc;

use tenure_core::{backend::Connect, error::Error, registry::Factory, settings::Settings};

use crate::{Options, ZooKeeperStore, address::SCHEMES};

/// The schemes `zookeeper`, and with TLS `zookeepers`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ZooKeeperFactory;

impl ZooKeeperFactory {
    /// The factory.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Factory for ZooKeeperFactory {
    fn schemes(&self) -> &[&'static str] {
        SCHEMES
    }

    fn summary(&self) -> &'static str {
        "many hosts, a ZooKeeper ensemble: zookeeper://host:port,host:port/chroot"
    }

    fn option_keys(&self) -> &[&'static str] {
        Options::KEYS
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let options = Options::read(settings)?;
        Ok(Arc::new(ZooKeeperStore::open(&settings.url, options)?))
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
        registry.register(Arc::new(ZooKeeperFactory::new()))?;
        let settings = Settings::new(StoreUrl::parse(url).unwrap())
            .with_credentials(Some("me".to_owned()), Some(Secret::new("canary")))
            .with_options(Given::new().with(key, Value::from(value), "variable X"));
        let store = registry.open(&settings)?;
        assert!(!format!("{store:?}").contains("canary"));
        assert_eq!(store.info().scheme, "zookeeper");
        Ok(store.info().endpoint)
    }

    #[test]
    fn every_scheme_is_opened() {
        for (url, shown) in [
            ("zookeeper://h,i:3/x", "zookeeper://h:2181,i:3/x"),
            ("zookeepers://h", "zookeepers://h:2181"),
        ] {
            assert_eq!(open(url, "tick", "1s").unwrap(), shown);
        }
    }

    #[test]
    fn s1_what_is_refused_names_the_option_and_shows_no_secret() {
        for (key, value) in [("tik", "canary"), ("tick", "canary"), ("acl", "canary")] {
            let error = open("zookeeper://h", key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(key), "{error}");
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
    }
}
