//! Opens a Redis store from configuration.

use std::sync::Arc;

use tenure_core::{backend::Connect, error::Error, registry::Factory, settings::Settings};

use crate::{Options, RedisStore, address::SCHEMES};

/// The factory for the schemes `redis`, `redis+unix`, `redis+sentinel` and `redis+cluster`, and,
/// with TLS, `rediss`, `rediss+sentinel` and `rediss+cluster`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RedisFactory;

impl RedisFactory {
    /// Creates the factory.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Factory for RedisFactory {
    fn schemes(&self) -> &[&'static str] {
        SCHEMES
    }

    fn summary(&self) -> &'static str {
        "many hosts, one Redis server, Sentinel or a cluster: redis://host:port/database"
    }

    fn option_keys(&self) -> &[&'static str] {
        Options::KEYS
    }

    fn secret_option_keys(&self) -> &[&'static str] {
        Options::SECRET_KEYS
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let options = Options::from_settings(settings)?;
        Ok(Arc::new(RedisStore::open(&settings.url, options)?))
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{
        error::ErrorKind,
        registry::Registry,
        secret::Secret,
        settings::{RawOptions, StoreUrl, Value},
    };

    use super::*;

    fn open(url: &str, key: &str, value: &str) -> Result<String, Error> {
        let mut registry = Registry::new();
        registry.register(Arc::new(RedisFactory::new()))?;
        let settings = Settings::new(StoreUrl::parse(url).unwrap())
            .with_credentials(Some("me".to_owned()), Some(Secret::new("canary")))
            .with_options(RawOptions::new().with(key, Value::from(value), "variable X"));
        let store = registry.open(&settings)?;
        assert!(!format!("{store:?}").contains("canary"));
        assert_eq!(store.info().scheme, "redis");
        Ok(store.info().endpoint)
    }

    #[test]
    fn store_of_each_scheme_opens_and_displays_its_address() {
        for (url, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("rediss://h:1/2", "rediss://h:1/2"),
            ("redis+unix:/s", "redis+unix:/s"),
            ("redis+sentinel://h/m", "redis+sentinel://h:26379/m/0"),
            ("rediss+sentinel://h/m", "rediss+sentinel://h:26379/m/0"),
            ("redis+cluster://h", "redis+cluster://h:6379"),
            ("rediss+cluster://h", "rediss+cluster://h:6379"),
        ] {
            assert_eq!(open(url, "eviction", "warn").unwrap(), shown);
        }
    }

    #[test]
    fn s1_rejected_option_is_named_and_no_secret_is_shown() {
        for (key, value) in [
            ("sentinel_pasword", "canary"),
            ("sentinel_password", "canary"),
            ("database", "canary"),
            ("eviction", "canary"),
        ] {
            let error = open("redis://h", key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(
                error.to_string().contains("sentinel_password") || error.to_string().contains(key)
            );
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
        let factory = RedisFactory::new();
        assert_eq!(factory.secret_option_keys(), ["sentinel_password"]);
    }
}
