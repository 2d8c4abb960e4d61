//! The sources of values: a file, the environment, flags.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use config::{ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use tenure_core::{error::Error, settings::nearest};

use super::{KEYS, OPTIONS_PREFIX, refuse};

/// The prefix of every variable.
pub(super) const PREFIX: &str = "TENURE__";

/// The sources that [`Config::load`](super::Config::load) reads.
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<Flag>,
    warn_of_unknown_variables: bool,
}

#[derive(Clone)]
struct Flag {
    key: &'static str,
    value: String,
    origin: String,
}

// Variables may contain secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("variables", &self.environment.len())
            .field(
                "flags",
                &self.flags.iter().map(|flag| flag.key).collect::<Vec<_>>(),
            )
            .finish()
    }
}

impl Sources {
    /// Creates sources with the defaults only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this TOML file. It must exist.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Returns the directory of the configuration file if it is the origin of a value.
    pub(super) fn dir_of(&self, origin: &str) -> Option<&Path> {
        let file = self.file.as_deref();
        file.filter(|file| file.display().to_string() == origin)?
            .parent()
    }

    /// Reads the variables of this process that begin with `TENURE__`, as
    /// [`environment_from`](Self::environment_from) does.
    #[must_use]
    pub fn environment(self) -> Self {
        self.environment_from(std::env::vars_os())
    }

    /// Reads those of the variables that begin with `TENURE__`.
    ///
    /// An unknown variable is an error, as an unknown key in the file is: otherwise a misspelled URL
    /// would lead to locks in the default store. This applies to a variable that begins with
    /// `TENURE__` and matches no key (`TENURE__BACKEND__ULR`), and to one that is meant for a key and
    /// does not name it (`TENURE_BACKEND_URL`, `TENURE_URL`).
    #[must_use]
    pub fn environment_from(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        self.environment = variables
            .into_iter()
            .filter(|(name, _)| {
                name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
                    || name.to_str().and_then(misspelled).is_some()
            })
            .collect();
        self.environment.sort();
        self
    }

    /// Makes unknown variables warnings instead of an error, for a program that takes no lock. See
    /// [`Config::warnings`](super::Config::warnings).
    #[must_use]
    pub fn warn_of_unknown_variables(mut self) -> Self {
        self.warn_of_unknown_variables = true;
        self
    }

    /// Sets one of [`KEYS`] and overrides all other sources. `origin` describes the source, such as
    /// `flag --ttl`.
    #[must_use]
    pub fn set(
        mut self,
        key: &'static str,
        value: impl Into<String>,
        origin: impl Into<String>,
    ) -> Self {
        let (value, origin) = (value.into(), origin.into());
        self.flags.push(Flag { key, value, origin });
        self
    }
}

/// One value and its origin.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) value: Value,
    pub(super) origin: String,
}

/// Merges the sources. Returns their values by key, and a sentence about each unknown variable.
pub(super) fn merge(
    sources: &Sources,
    defaults: &[(&'static str, &str)],
) -> Result<(BTreeMap<String, Found>, Vec<String>), Error> {
    let mut builder = config::Config::builder();
    for (key, value) in defaults {
        builder = builder
            .set_default(*key, text(value, DEFAULT))
            .map_err(internal)?;
    }
    if let Some(path) = &sources.file {
        builder = builder.add_source(read_file(path)?);
    }
    let (variables, unknown) = variables(&sources.environment)?;
    if !unknown.is_empty() && !sources.warn_of_unknown_variables {
        return Err(refuse(format!(
            "{}; correct the name or unset the variable",
            unknown.join("; ")
        )));
    }
    builder = builder.add_source(
        Environment::default()
            .prefix("TENURE")
            .prefix_separator("__")
            .separator("__")
            .source(Some(variables)),
    );
    for flag in &sources.flags {
        builder = builder
            .set_override(flag.key, text(&flag.value, &flag.origin))
            .map_err(internal)?;
    }
    let merged = builder.build().map_err(internal)?;
    let mut found = BTreeMap::new();
    flatten(
        String::new(),
        merged.collect().map_err(internal)?,
        &mut found,
    );
    for key in found.keys() {
        check_key(key).map_err(|hint| {
            let origin = found.get(key).map_or("", |found| &found.origin);
            refuse(format!("unknown key {key:?} ({origin}); {hint}"))
        })?;
    }
    Ok((found, unknown))
}

/// The origin of a default.
pub(super) const DEFAULT: &str = "default";

fn text(value: &str, origin: &str) -> Value {
    Value::new(
        Some(&origin.to_owned()),
        ValueKind::String(value.to_owned()),
    )
}

/// Converts an error that cannot occur: this module sets the keys and has checked every source.
fn internal(error: ConfigError) -> Error {
    let shown = error.to_string();
    let line = shown.lines().next().unwrap_or_default();
    refuse(line)
}

/// Returns the name of the variable that sets a key.
fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Returns the key that a misspelled variable probably means: the name has too few underscores, is in
/// lower case, is only the last word of the key, or differs from the key in a letter or two.
/// The variables that `tenure run` sets for its command match no key.
fn misspelled(name: &str) -> Option<String> {
    let name = name.to_lowercase().replace("__", "_");
    let named = name.strip_prefix("tenure_")?;
    if let Some(option) = named.strip_prefix("backend_options_") {
        return Some(format!("{OPTIONS_PREFIX}{option}"));
    }
    let is_meant = |key: &&&str| {
        let Some((table, word)) = key.rsplit_once('.') else {
            return false;
        };
        let in_table = named
            .strip_prefix(&table.replace('.', "_"))
            .and_then(|rest| rest.strip_prefix('_'));
        named == word || in_table.is_some_and(|rest| nearest(rest, [word]).is_some())
    };
    KEYS.iter().find(is_meant).map(ToString::to_string)
}

fn check_key(key: &str) -> Result<(), String> {
    let is_option = key
        .strip_prefix(OPTIONS_PREFIX)
        .is_some_and(|option| !option.is_empty());
    if KEYS.contains(&key) || is_option {
        return Ok(());
    }
    if KEYS
        .iter()
        .any(|known| known.starts_with(&format!("{key}.")))
    {
        return Err(format!(
            "`{key}` is a table; write `[{key}]` and its keys below it"
        ));
    }
    Err(
        match nearest(key, KEYS.iter().copied()).or_else(|| misplaced(key)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the known keys are {}", KEYS.join(", ")),
        },
    )
}

/// Returns a known key with the same last word: `backend.url` for `url`.
fn misplaced(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(key);
    let names: Vec<_> = KEYS.iter().map(|known| last(known)).collect();
    let near = nearest(&wanted, names.iter().map(String::as_str))?;
    KEYS.iter().copied().find(|known| last(known) == near)
}

fn read_file(path: &Path) -> Result<impl Source + Clone + Send + Sync + 'static + use<>, Error> {
    let shown = format!("{:?}", path.display().to_string());
    let text = std::fs::read(path).map_err(|error| {
        // A relative path means little to the reader of a cron mail.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let shown = format!("{:?}", absolute.display().to_string());
        let why = match error.kind() {
            io::ErrorKind::NotFound => "does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
            io::ErrorKind::IsADirectory => "is a directory, not a file".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        refuse(format!("the configuration file {shown} {why}"))
    })?;
    let text = String::from_utf8(text)
        .map_err(|_| refuse(format!("the configuration file {shown} is not UTF-8 text")))?;
    let origin = path.display().to_string();
    let parsed = File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|error| {
            refuse(format!(
                "the configuration file {shown} is not TOML{}",
                syntax_error(&error)
            ))
        })?;
    Ok(Labelled {
        values: label(parsed, &origin),
    })
}

/// Returns the position and the cause of a syntax error. The parser's message also quotes the line, which
/// may contain a password, so only the position and the last sentence are used (clause S1).
fn syntax_error(error: &ConfigError) -> String {
    let shown = error.to_string();
    let mut lines = shown.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let at = first.find("line ").map_or("", |at| &first[at..]);
    let why = lines.next_back().filter(|line| !line.contains(['|', '^']));
    match (at, why) {
        ("", _) => String::new(),
        (at, Some(why)) => format!(": {at}: {why}"),
        (at, None) => format!(": {at}"),
    }
}

/// The values of a file, each with the file as its origin.
#[derive(Clone, Debug)]
struct Labelled {
    values: Map<String, Value>,
}

impl Source for Labelled {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

fn label(values: Map<String, Value>, origin: &str) -> Map<String, Value> {
    values
        .into_iter()
        .map(|(key, value)| {
            let kind = match value.kind {
                ValueKind::Table(table) => ValueKind::Table(label(table, origin)),
                kind => kind,
            };
            (key, Value::new(Some(&origin.to_owned()), kind))
        })
        .collect()
}

/// Returns the variables that match a key, and a sentence about each of the others.
fn variables(
    environment: &[(OsString, OsString)],
) -> Result<(Map<String, String>, Vec<String>), Error> {
    let mut known = Map::new();
    let mut unknown = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else {
            unknown.push(format!("the variable {name:?} matches no key"));
            continue;
        };
        if !name.starts_with(PREFIX) {
            let meant = variable_name(&misspelled(name).unwrap_or_default());
            unknown.push(format!(
                "the variable {name:?} is not read; did you mean `{meant}`?"
            ));
            continue;
        }
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        if let Err(hint) = check_key(&key) {
            let hint = match nearest(&key, KEYS.iter().copied()).or_else(|| misplaced(&key)) {
                Some(near) => format!("did you mean `{}`?", variable_name(near)),
                None => hint,
            };
            unknown.push(format!("the variable {name:?} matches no key; {hint}"));
            continue;
        }
        let value = value
            .to_str()
            .ok_or_else(|| refuse(format!("the variable {name} is not UTF-8 text")))?;
        known.insert(name.to_owned(), value.to_owned());
    }
    Ok((known, unknown))
}

fn flatten(prefix: String, values: Map<String, Value>, found: &mut BTreeMap<String, Found>) {
    for (name, value) in values {
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        let origin = match value.origin() {
            Some("the environment") => format!("variable {}", variable_name(&key)),
            Some(origin) => origin.to_owned(),
            None => DEFAULT.to_owned(),
        };
        match value.kind {
            // The value of an option may be a table.
            ValueKind::Table(table) if !key.starts_with(OPTIONS_PREFIX) => {
                if table.is_empty()
                    && !KEYS
                        .iter()
                        .any(|known| known.starts_with(&format!("{key}.")))
                    && key != OPTIONS_PREFIX.trim_end_matches('.')
                {
                    let value = Value::new(None, ValueKind::Table(table));
                    found.insert(key, Found { value, origin });
                } else {
                    flatten(key, table, found);
                }
            }
            kind => {
                let value = Value::new(None, kind);
                found.insert(key, Found { value, origin });
            }
        }
    }
}
