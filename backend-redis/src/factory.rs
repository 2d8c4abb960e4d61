//! The Redis backend by configuration.

use std::sync::Arc;

use tenure_core::{backend::Connect, error::Error, registry::Factory, settings::Settings};

use crate::{Options, RedisStore, link::SCHEMES};

/// The schemes `redis`, `redis+unix`, `redis+sentinel` and `redis+cluster`, and with TLS `rediss`,
/// `rediss+sentinel` and `rediss+cluster`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RedisFactory;

impl RedisFactory {
    /// The factory.
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
        let options = Options::read(settings)?;
        Ok(Arc::new(RedisStore::open(&settings.url, options)?))
    }
}
