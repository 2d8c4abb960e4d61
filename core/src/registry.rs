//! The registry of backends: a value that a program builds, not a global.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    backend::Connect,
    error::{Error, ErrorKind},
    settings::{Settings, nearest, no_scheme, servers_without_scheme},
};

/// Creates connectors for one kind of store from settings. Each backend crate implements it once.
pub trait Factory: fmt::Debug + Send + Sync + 'static {
    /// Returns the schemes of the addresses that it accepts: `redis`, `rediss`.
    fn schemes(&self) -> &[&'static str];

    /// Returns a one-line description.
    fn summary(&self) -> &'static str;

    /// Returns the option names that it accepts under `[backend.options]`.
    fn option_keys(&self) -> &[&'static str] {
        &[]
    }

    /// Returns the options whose values must not be shown (clause S1).
    fn secret_option_keys(&self) -> &[&'static str] {
        &[]
    }

    /// Validates the settings and creates a connector. Does no I/O.
    ///
    /// The registry guarantees that the scheme is one of the factory's and that all option names
    /// are known.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the invalid setting.
    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error>;
}

/// Other names of stores, and the schemes that they mean.
const ALIASES: &[(&str, &str)] = &[
    ("valkey", "redis"),
    ("valkeys", "rediss"),
    ("zk", "zookeeper"),
    ("zks", "zookeepers"),
];

/// Schemes and their factories.
///
/// ```
/// use tenure_core::registry::Registry;
///
/// let registry = Registry::new();
/// assert_eq!(registry.schemes().count(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    known: BTreeMap<&'static str, Arc<dyn Factory>>,
    absent: BTreeMap<&'static str, &'static str>,
}

impl Registry {
    /// Creates an empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a factory for all its schemes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the factory has no scheme or one of them is already registered.
    /// Then the registry is unchanged.
    pub fn register(&mut self, factory: Arc<dyn Factory>) -> Result<&mut Self, Error> {
        let schemes = factory.schemes().to_vec();
        let refuse =
            |detail| Error::new(ErrorKind::Config, "registering a backend").with_detail(detail);
        if schemes.is_empty() {
            return Err(refuse(format!("{factory:?} has no scheme")));
        }
        for (at, scheme) in schemes.iter().enumerate() {
            if self.known.contains_key(scheme) || schemes[..at].contains(scheme) {
                return Err(refuse(format!(
                    "the scheme `{scheme}` is already registered"
                )));
            }
        }
        for scheme in schemes {
            self.absent.remove(scheme);
            self.known.insert(scheme, Arc::clone(&factory));
        }
        Ok(self)
    }

    /// Declares that a scheme exists but is not part of this build, and which Cargo feature enables
    /// it. Has no effect on a registered scheme.
    pub fn absent(&mut self, scheme: &'static str, feature: &'static str) -> &mut Self {
        if !self.known.contains_key(scheme) {
            self.absent.insert(scheme, feature);
        }
        self
    }

    /// Returns the registered schemes, in alphabetical order.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.known.keys().copied()
    }

    /// Returns the schemes that are not part of this build, each with the feature that enables it.
    pub fn absent_schemes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.absent
            .iter()
            .map(|(scheme, feature)| (*scheme, *feature))
    }

    /// Returns each factory once, in the order of their first schemes.
    pub fn factories(&self) -> impl Iterator<Item = &Arc<dyn Factory>> {
        self.known
            .iter()
            .filter(|(scheme, factory)| factory.schemes().iter().min() == Some(*scheme))
            .map(|(_, factory)| factory)
    }

    /// Returns the factory of a scheme.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the known schemes, or with the feature to enable.
    pub fn factory(&self, scheme: &str) -> Result<&Arc<dyn Factory>, Error> {
        if let Some(factory) = self.known.get(scheme) {
            return Ok(factory);
        }
        let detail = if let Some(feature) = self.absent.get(scheme) {
            format!(
                "the scheme `{scheme}` is not part of this build; rebuild with the feature \
                 `{feature}`"
            )
        } else {
            let known: Vec<_> = self.schemes().map(|scheme| format!("`{scheme}`")).collect();
            let list = if known.is_empty() {
                "no scheme is registered".to_owned()
            } else {
                format!("known schemes are {}", known.join(", "))
            };
            let all: Vec<_> = self.schemes().chain(self.absent.keys().copied()).collect();
            let alias = ALIASES.iter().find(|(alias, _)| *alias == scheme);
            let meant = alias.map(|(_, meant)| *meant);
            let meant = meant.filter(|meant| all.contains(meant));
            match meant.or_else(|| nearest(scheme, all)) {
                Some(near) => {
                    format!("unknown scheme `{scheme}`; did you mean `{near}`? ({list})")
                }
                None => format!("unknown scheme `{scheme}`; {list}"),
            }
        };
        Err(Error::new(ErrorKind::Config, "choosing a backend").with_detail(detail))
    }

    /// Creates a connector for the store of the settings. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for an unknown scheme or option, or the factory's error.
    pub fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let scheme = settings.url.scheme();
        let factory = self.factory(scheme).map_err(|error| {
            // `localhost:6379` looks like a scheme and a path.
            let text = settings.url.to_string();
            match servers_without_scheme(&text) {
                Some(servers) if !self.absent.contains_key(scheme) => {
                    error.with_detail(no_scheme(servers))
                }
                _ => error,
            }
        })?;
        settings
            .options
            .check_known(settings.url.scheme(), factory.option_keys())?;
        factory.open(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{RawOptions, StoreUrl, Value};

    #[derive(Debug)]
    struct Fake(&'static [&'static str]);

    impl Factory for Fake {
        fn schemes(&self) -> &[&'static str] {
            self.0
        }

        fn summary(&self) -> &'static str {
            "for the test"
        }

        fn option_keys(&self) -> &[&'static str] {
            &["shared"]
        }

        fn open(&self, _: &Settings) -> Result<Arc<dyn Connect>, Error> {
            Err(Error::new(ErrorKind::Unsupported, "opening a fake"))
        }
    }

    fn registry() -> Registry {
        let mut registry = Registry::new();
        registry
            .register(Arc::new(Fake(&["redis", "rediss"])))
            .unwrap()
            .register(Arc::new(Fake(&["file"])))
            .unwrap()
            .absent("etcd", "etcd");
        registry
    }

    fn open(url: &str) -> Error {
        registry()
            .open(&Settings::new(StoreUrl::parse(url).unwrap()))
            .unwrap_err()
    }

    #[test]
    fn duplicates_are_rejected_and_change_nothing() {
        let mut registry = registry();
        let error = registry
            .register(Arc::new(Fake(&["new", "file"])))
            .unwrap_err();
        assert!(error.to_string().contains("`file`"), "{error}");
        assert!(registry.register(Arc::new(Fake(&["a", "a"]))).is_err());
        assert!(registry.register(Arc::new(Fake(&[]))).is_err());
        assert_eq!(
            registry.schemes().collect::<Vec<_>>(),
            ["file", "redis", "rediss"]
        );
        assert_eq!(registry.factories().count(), 2);
    }

    #[test]
    fn unknown_scheme_lists_the_known_ones() {
        let shown = open("nosuchthing:x").to_string();
        assert!(shown.contains("`file`, `redis`, `rediss`"), "{shown}");
        let shown = open("rediz:x").to_string();
        assert!(shown.contains("did you mean `redis`"), "{shown}");
        let shown = open("valkey://h").to_string();
        assert!(shown.contains("did you mean `redis`"), "{shown}");
        let shown = open("zk://h").to_string();
        assert!(!shown.contains("did you mean"), "not registered: {shown}");
    }

    #[test]
    fn host_in_the_place_of_the_scheme_is_no_unknown_scheme() {
        let shown = open("localhost:6379").to_string();
        assert!(
            shown.contains("no scheme; write `redis://localhost:6379`"),
            "{shown}"
        );
        let shown = open("etcd:2379").to_string();
        assert!(shown.contains("feature"), "{shown}");
    }

    #[test]
    fn absent_scheme_names_its_feature() {
        let shown = open("etcd://h/x").to_string();
        assert!(shown.contains("feature `etcd`"), "{shown}");
        let mut registry = registry();
        registry.register(Arc::new(Fake(&["etcd"]))).unwrap();
        assert_eq!(registry.absent_schemes().count(), 0);
        registry.absent("etcd", "etcd");
        assert_eq!(registry.absent_schemes().count(), 0);
    }

    #[test]
    fn unknown_options_are_rejected_before_the_factory_opens() {
        let options = RawOptions::new().with("share", Value::Bool(true), "a.toml");
        let settings = Settings::new(StoreUrl::parse("file:/x").unwrap()).with_options(options);
        let error = registry().open(&settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("`shared`"), "{error}");
        assert_eq!(open("file:/x").kind(), ErrorKind::Unsupported);
    }
}
