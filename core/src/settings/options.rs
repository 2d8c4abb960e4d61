//! The options of one kind of store, before they have types.

use std::{collections::BTreeMap, time::Duration};

use serde::de::DeserializeOwned;

use super::value::{Value, ValueDeserializer};
use crate::error::{Error, ErrorKind};

/// The table `[backend.options]`: for each name, a value and its origin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawOptions(BTreeMap<String, OptionEntry>);

/// An option.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct OptionEntry {
    /// The value.
    pub value: Value,
    /// Where the option was set, as a text for messages.
    pub origin: String,
}

// The value may be secret; only a backend knows whether it is.
impl std::fmt::Debug for OptionEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OptionEntry")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl RawOptions {
    /// Creates an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option with its origin: `a.toml`, `environment variable X`.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: Value, origin: impl Into<String>) -> Self {
        let origin = origin.into();
        self.0.insert(key.into(), OptionEntry { value, origin });
        self
    }

    /// Returns whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all options, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OptionEntry)> {
        self.0.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// Returns an option, converted to `T`; `None` if it is not set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the option, its origin and the expected type, but without the
    /// value.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(entry) = self.0.get(key) else {
            return Ok(None);
        };
        T::deserialize(ValueDeserializer(entry.value.clone()))
            .map(Some)
            .map_err(|mismatch| entry.refuse(key, &mismatch))
    }

    /// Returns an option as a duration, written with its unit such as `30s`; `None` if it is not
    /// set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the option, its origin and the expected format.
    pub fn duration(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(entry) = self.0.get(key) else {
            return Ok(None);
        };
        let Value::Text(text) = &entry.value else {
            return Err(entry.refuse(key, &"expected a duration such as \"30s\", in quotes"));
        };
        humantime::parse_duration(text)
            .map(Some)
            .map_err(|_| entry.refuse(key, &"expected a duration such as \"30s\" or \"1m 30s\""))
    }

    /// Rejects an option that is not in `known`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the option, its origin and the nearest known option.
    pub fn check_known(&self, scheme: &str, known: &[&str]) -> Result<(), Error> {
        let Some((key, entry)) = self.iter().find(|(key, _)| !known.contains(key)) else {
            return Ok(());
        };
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "it has no options".to_owned(),
            None => format!("its options are {}", known.join(", ")),
        };
        Err(refuse(format!(
            "`{scheme}` has no option {key:?} ({}); {hint}",
            entry.origin
        )))
    }
}

impl OptionEntry {
    fn refuse(&self, key: &str, why: &dyn std::fmt::Display) -> Error {
        refuse(format!("`backend.options.{key}` ({}): {why}", self.origin))
    }
}

fn refuse(detail: String) -> Error {
    Error::new(ErrorKind::Config, "reading the backend's options").with_detail(detail)
}

/// Returns the known word that is nearest to `word`, if one is near.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn text(value: &str) -> RawOptions {
        RawOptions::new().with("x", Value::from(value), "variable X")
    }

    #[test]
    fn text_is_converted_and_nothing_is_converted_to_text() {
        assert_eq!(text("true").get::<bool>("x").unwrap(), Some(true));
        assert_eq!(text("12").get::<u16>("x").unwrap(), Some(12));
        assert_eq!(text("007").get::<String>("x").unwrap(), Some("007".into()));
        assert_eq!(
            text("a, b").get::<Vec<String>>("x").unwrap(),
            Some(vec!["a".into(), "b".into()])
        );
        assert_eq!(text("1,2").get::<Vec<u8>>("x").unwrap(), Some(vec![1, 2]));
        assert_eq!(
            text("90s").duration("x").unwrap(),
            Some(Duration::from_secs(90))
        );
        assert_eq!(text("1").get::<bool>("y").unwrap(), None);
        let number = RawOptions::new().with("x", Value::Int(7), "a.toml");
        assert!(number.get::<String>("x").is_err());
        assert_eq!(number.get::<u8>("x").unwrap(), Some(7));
    }

    #[test]
    fn tables_and_enums_are_read() {
        #[derive(Debug, Deserialize, PartialEq)]
        #[serde(rename_all = "lowercase")]
        enum Mode {
            Fast,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        struct Inner {
            mode: Mode,
            tries: Option<u8>,
        }
        let table = BTreeMap::from([
            ("mode".into(), Value::from("fast")),
            ("tries".into(), Value::from("3")),
        ]);
        let options = RawOptions::new().with("x", Value::Table(table), "a.toml");
        let inner: Inner = options.get("x").unwrap().unwrap();
        assert_eq!((inner.mode, inner.tries), (Mode::Fast, Some(3)));
        assert!(text("slow").get::<Mode>("x").is_err());
    }

    #[test]
    fn s1_errors_name_key_and_origin_but_not_the_value() {
        for error in [
            text("canary").get::<bool>("x").unwrap_err(),
            text("canary").get::<u16>("x").unwrap_err(),
            text("canary").duration("x").unwrap_err(),
            text("canary")
                .get::<BTreeMap<String, String>>("x")
                .unwrap_err(),
        ] {
            let shown = error.to_string();
            assert!(
                shown.contains("backend.options.x") && shown.contains("variable X"),
                "{shown}"
            );
            assert!(!shown.contains("canary"), "{shown}");
        }
        assert!(!format!("{:?}", text("canary")).contains("canary"));
    }

    #[test]
    fn unknown_options_name_the_nearest() {
        let options = RawOptions::new().with("min_replica", Value::Int(1), "a.toml");
        let shown = options
            .check_known("redis", &["min_replicas", "shared"])
            .unwrap_err()
            .to_string();
        assert!(
            shown.contains("`min_replicas`") && shown.contains("a.toml"),
            "{shown}"
        );
        assert!(options.check_known("redis", &["min_replica"]).is_ok());
        assert_eq!(nearest("ttll", ["ttl", "wait"]), Some("ttl"));
        assert_eq!(nearest("quite_other", ["ttl", "wait"]), None);
    }
}
