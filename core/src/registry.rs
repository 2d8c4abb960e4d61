//! Which backends there are: a value that a program builds, not a global.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    backend::Connect,
    error::{Error, ErrorKind},
    settings::{Settings, nearest},
};

/// Makes connectors of one kind of store from settings. A backend crate implements it once.
pub trait Factory: fmt::Debug + Send + Sync + 'static {
    /// The schemes of the addresses that it takes: `redis`, `rediss`.
    fn schemes(&self) -> &[&'static str];

    /// One line that says what it is for.
    fn summary(&self) -> &'static str;

    /// The names that it knows under `[backend.options]`.
    fn option_keys(&self) -> &[&'static str] {
        &[]
    }

    /// Those of its options whose values must not be shown (clause S1).
    fn secret_option_keys(&self) -> &[&'static str] {
        &[]
    }

    /// Checks the settings and makes a connector. No I/O.
    ///
    /// The scheme is one of its own, and all option names are known: the registry has seen to it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] that names the setting.
    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error>;
}

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
    /// A registry that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory under all of its schemes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if one of the schemes is taken already, or it has none. Then nothing
    /// was added.
    pub fn register(&mut self, factory: Arc<dyn Factory>) -> Result<&mut Self, Error> {
        let schemes = factory.schemes().to_vec();
        let refuse =
            |detail| Error::new(ErrorKind::Config, "registering a backend").with_detail(detail);
        if schemes.is_empty() {
            return Err(refuse(format!("{factory:?} names no scheme")));
        }
        for (at, scheme) in schemes.iter().enumerate() {
            if self.known.contains_key(scheme) || schemes[..at].contains(scheme) {
                return Err(refuse(format!(
                    "the scheme `{scheme}` is registered already"
                )));
            }
        }
        for scheme in schemes {
            self.absent.remove(scheme);
            self.known.insert(scheme, Arc::clone(&factory));
        }
        Ok(self)
    }

    /// Says of a scheme that it exists and was left out of this build, and which Cargo feature
    /// brings it. One that is registered stays.
    pub fn absent(&mut self, scheme: &'static str, feature: &'static str) -> &mut Self {
        if !self.known.contains_key(scheme) {
            self.absent.insert(scheme, feature);
        }
        self
    }

    /// The schemes that can be opened, in alphabetical order.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.known.keys().copied()
    }

    /// The schemes that were left out of this build, each with the feature that brings it.
    pub fn absent_schemes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.absent
            .iter()
            .map(|(scheme, feature)| (*scheme, *feature))
    }

    /// The factories, each once, in the order of their first scheme.
    pub fn factories(&self) -> impl Iterator<Item = &Arc<dyn Factory>> {
        self.known
            .iter()
            .filter(|(scheme, factory)| factory.schemes().iter().min() == Some(*scheme))
            .map(|(_, factory)| factory)
    }

    /// The factory of a scheme.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] that lists the known schemes, or names the feature to enable.
    pub fn factory(&self, scheme: &str) -> Result<&Arc<dyn Factory>, Error> {
        if let Some(factory) = self.known.get(scheme) {
            return Ok(factory);
        }
        let detail = if let Some(feature) = self.absent.get(scheme) {
            format!(
                "the scheme `{scheme}` is not part of this build; build it with the feature \
                 `{feature}`"
            )
        } else {
            let known: Vec<_> = self.schemes().map(|scheme| format!("`{scheme}`")).collect();
            let list = if known.is_empty() {
                "no scheme is registered".to_owned()
            } else {
                format!("known are {}", known.join(", "))
            };
            let all = self.schemes().chain(self.absent.keys().copied());
            match nearest(scheme, all) {
                Some(near) => {
                    format!("unknown scheme `{scheme}`; did you mean `{near}`? ({list})")
                }
                None => format!("unknown scheme `{scheme}`; {list}"),
            }
        };
        Err(Error::new(ErrorKind::Config, "choosing a backend").with_detail(detail))
    }

    /// Makes a connector for the store that the settings name. No I/O.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`]: an unknown scheme or option, or whatever the factory refuses.
    pub fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let factory = self.factory(settings.url.scheme())?;
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
    fn duplicates_are_refused_and_change_nothing() {
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
    fn an_unknown_scheme_lists_the_known_ones() {
        let shown = open("nosuchthing:x").to_string();
        assert!(shown.contains("`file`, `redis`, `rediss`"), "{shown}");
        let shown = open("rediz:x").to_string();
        assert!(shown.contains("did you mean `redis`"), "{shown}");
    }

    #[test]
    fn a_scheme_that_was_left_out_names_its_feature() {
        let shown = open("etcd://h/x").to_string();
        assert!(shown.contains("feature `etcd`"), "{shown}");
        let mut registry = registry();
        registry.register(Arc::new(Fake(&["etcd"]))).unwrap();
        assert_eq!(registry.absent_schemes().count(), 0);
        registry.absent("etcd", "etcd");
        assert_eq!(registry.absent_schemes().count(), 0);
    }

    #[test]
    fn unknown_options_are_refused_before_the_factory_is_asked() {
        let options = RawOptions::new().with("share", Value::Bool(true), "a.toml");
        let settings = Settings::new(StoreUrl::parse("file:/x").unwrap()).with_options(options);
        let error = registry().open(&settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("`shared`"), "{error}");
        assert_eq!(open("file:/x").kind(), ErrorKind::Unsupported);
    }
}
