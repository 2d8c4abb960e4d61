//! Where values come from: a file, the environment, flags.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use config::{ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use tenure_core::{error::Error, settings::nearest};

use super::{KEYS, OPTIONS_PREFIX, refuse};

/// What every variable begins with.
pub(super) const PREFIX: &str = "TENURE__";

/// What [`Config::load`](super::Config::load) reads.
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<Flag>,
}

#[derive(Clone)]
struct Flag {
    key: &'static str,
    value: String,
    origin: String,
}

// Variables may hold secrets.
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
    /// No source but the defaults.
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

    /// Reads the variables of this process that begin with `TENURE__`.
    #[must_use]
    pub fn environment(self) -> Self {
        self.environment_from(std::env::vars_os())
    }

    /// Reads these variables, as far as they begin with `TENURE__`. One that is meant for a key and does
    /// not name it (`TENURE_BACKEND_URL`, `TENURE_URL`) is not read, and reported.
    #[must_use]
    pub fn environment_from(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        self.environment = variables
            .into_iter()
            .filter(|(name, _)| {
                name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
                    || name.to_str().and_then(misspelt).is_some()
            })
            .collect();
        self.environment.sort();
        self
    }

    /// Sets one of [`KEYS`] above all other sources, and says in words where that comes from:
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

/// One value as it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) value: Value,
    pub(super) origin: String,
}

/// Merges the sources, and returns their values by key, and warnings.
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
    let (variables, warnings) = variables(&sources.environment)?;
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
    Ok((found, warnings))
}

/// The origin of what nobody set.
pub(super) const DEFAULT: &str = "default";

fn text(value: &str, origin: &str) -> Value {
    Value::new(
        Some(&origin.to_owned()),
        ValueKind::String(value.to_owned()),
    )
}

/// For what cannot be wrong, since keys are ours and every source was looked at before.
fn internal(error: ConfigError) -> Error {
    let shown = error.to_string();
    let line = shown.lines().next().unwrap_or_default();
    refuse(line)
}

/// The name of the variable that sets a key.
fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The key that a variable is meant for, with too few underscores, in small letters, or by its last word
/// alone. Those that the command sets for what it runs are none of them.
fn misspelt(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace("__", "_");
    let named = name.strip_prefix("tenure_")?;
    let is_meant =
        |key: &&str| key.replace('.', "_") == named || key.rsplit('.').next() == Some(named);
    KEYS.iter().copied().find(is_meant)
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
            "`{key}` is a table; write `[{key}]` and its keys below"
        ));
    }
    Err(
        match nearest(key, KEYS.iter().copied()).or_else(|| misplaced(key)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the known keys are {}", KEYS.join(", ")),
        },
    )
}

/// The known key that ends as this one does: `url` was meant to be `backend.url`.
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
                place(&error)
            ))
        })?;
    Ok(Labelled {
        values: label(parsed, &origin),
    })
}

/// Where the file stops being TOML. The parser's message also repeats the line, which may hold a
/// password: only its place and its last sentence are taken (clause S1).
fn place(error: &ConfigError) -> String {
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

/// Values of a file, each with the file as its origin.
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

/// The variables that match a key, and warnings about those that do not.
fn variables(
    environment: &[(OsString, OsString)],
) -> Result<(Map<String, String>, Vec<String>), Error> {
    let mut known = Map::new();
    let mut warnings = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else {
            warnings.push(format!("the variable {name:?} matches no key"));
            continue;
        };
        if !name.starts_with(PREFIX) {
            let meant = misspelt(name).map(variable_name).unwrap_or_default();
            warnings.push(format!(
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
            warnings.push(format!("the variable {name:?} matches no key; {hint}"));
            continue;
        }
        let value = value
            .to_str()
            .ok_or_else(|| refuse(format!("the variable {name} is not UTF-8 text")))?;
        known.insert(name.to_owned(), value.to_owned());
    }
    Ok((known, warnings))
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
            // An option's value may itself be a table.
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
