//! Reads the values of a configuration: types, bounds, and values that exclude each other.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use config::ValueKind;
use tenure_core::{
    capability::{Durability, Requirements},
    error::Error,
    lease::DriftBounds,
    name::Namespace,
    secret::Secret,
    settings::{RawOptions, Settings, StoreUrl, Tls, Value, nearest},
};

use super::{
    Config, Entries, Entry, OPTIONS_PREFIX, REDACTED, refuse,
    sources::{DEFAULT, Found, Sources, merge},
};

const DEFAULTS: &[(&str, &str)] = &[
    ("backend.url", "file:"),
    ("backend.namespace", "default"),
    ("lock.ttl", "30s"),
    ("client.margin", "25ms"),
];

/// The upper bound of the default of `client.request_timeout`.
const MAX_DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn load(sources: &Sources) -> Result<Config, Error> {
    let (found, warnings) = merge(sources, DEFAULTS)?;
    let read = Reader {
        found: &found,
        sources,
    };
    let password_file = read.path(PASSWORD_FILE)?;

    let url = read.text("backend.url")?.unwrap_or_default();
    let url = StoreUrl::parse(&url).map_err(|error| read.invalid("backend.url", error.detail()))?;
    let namespace = read.text("backend.namespace")?.unwrap_or_default();
    let namespace = Namespace::new(&namespace)
        .map_err(|error| read.invalid("backend.namespace", Some(&error.to_string())))?;
    let tls = Tls::new(
        read.path("backend.tls.ca_file")?,
        read.path("backend.tls.cert_file")?,
        read.path("backend.tls.key_file")?,
    );
    let settings = Settings::new(url)
        .with_credentials(
            read.text("backend.username")?,
            read.password(password_file.as_deref())?,
        )
        .with_tls(tls)
        .with_options(read.options()?);

    let ttl = read.duration("lock.ttl")?.unwrap_or_default();
    if ttl.is_zero() {
        return Err(read.invalid(
            "lock.ttl",
            Some("a TTL must be longer than zero; use a form such as \"30s\""),
        ));
    }
    let request_timeout = match read.duration("client.request_timeout")? {
        Some(limit) if limit.is_zero() => {
            let why = "a time-out must be longer than zero; use a form such as \"5s\"";
            return Err(read.invalid("client.request_timeout", Some(why)));
        }
        Some(limit) => limit,
        None => default_request_timeout(ttl),
    };
    let mut require = Requirements::default();
    require.durability = read.durability()?;
    require.push = read.flag("require.push")?;
    require.push_evidence = read.flag("require.push_evidence")?;

    Ok(Config {
        settings,
        password_file,
        namespace,
        ttl,
        wait: read.duration("lock.wait")?,
        label: read.text("lock.label")?,
        require,
        request_timeout,
        drift_bounds: DriftBounds::new(
            DRIFT_PPM,
            read.duration("client.margin")?.unwrap_or_default(),
        ),
        entries: Entries(entries(&found, request_timeout)),
        warnings,
    })
}

/// The bound of clock drift: one percent (clause D1).
const DRIFT_PPM: u32 = 10_000;

/// Returns the default of `client.request_timeout`. With it, the reply to a renewal that is sent at two
/// thirds of the TTL arrives well before the deadline.
pub(super) fn default_request_timeout(ttl: Duration) -> Duration {
    (ttl.saturating_mul(3) / 20).min(MAX_DEFAULT_REQUEST_TIMEOUT)
}

const PASSWORD_FILE: &str = "backend.password_file";

struct Reader<'a> {
    found: &'a BTreeMap<String, Found>,
    sources: &'a Sources,
}

impl Reader<'_> {
    fn invalid(&self, key: &str, why: Option<&str>) -> Error {
        let origin = self.found.get(key).map_or(DEFAULT, |found| &found.origin);
        refuse(format!(
            "`{key}` ({origin}): {}",
            why.unwrap_or("the value is invalid")
        ))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(found) = self.found.get(key) else {
            return Ok(None);
        };
        match &found.value.kind {
            ValueKind::String(text) if text.is_empty() => Err(self.invalid(
                key,
                Some("the value is empty; remove the key, or set a value"),
            )),
            ValueKind::String(text) => Ok(Some(text.clone())),
            kind => Err(self.invalid(
                key,
                Some(&format!(
                    "expected a string in quotes, found {}",
                    describe_kind(kind)
                )),
            )),
        }
    }

    /// Returns a path. A relative one from the configuration file begins in the directory of that
    /// file, so that it means the same wherever the program starts.
    fn path(&self, key: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.text(key)?.map(PathBuf::from);
        let origin = self.found.get(key).map(|found| &*found.origin);
        let dir = origin.and_then(|origin| self.sources.dir_of(origin));
        Ok(match (path, dir) {
            (Some(path), Some(dir)) => Some(dir.join(path)),
            (path, _) => path,
        })
    }

    fn duration(&self, key: &str) -> Result<Option<Duration>, Error> {
        const EXAMPLE: &str = "use a form such as \"30s\", \"500ms\" or \"1m 30s\"";
        let Some(found) = self.found.get(key) else {
            return Ok(None);
        };
        let shown = match &found.value.kind {
            ValueKind::String(text) => match humantime::parse_duration(text) {
                Ok(duration) => return Ok(Some(duration)),
                Err(_) => format!("{text:?}"),
            },
            ValueKind::I64(number) => format!("{number} without a unit"),
            kind => describe_kind(kind).to_owned(),
        };
        Err(self.invalid(key, Some(&format!("{shown} is not a duration; {EXAMPLE}"))))
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        let Some(found) = self.found.get(key) else {
            return Ok(false);
        };
        match &found.value.kind {
            ValueKind::Boolean(value) => Ok(*value),
            ValueKind::String(text) if text == "true" => Ok(true),
            ValueKind::String(text) if text == "false" => Ok(false),
            _ => Err(self.invalid(key, Some("expected `true` or `false`"))),
        }
    }

    fn durability(&self) -> Result<Option<Durability>, Error> {
        const KEY: &str = "require.durability";
        const KNOWN: [Durability; 4] = [
            Durability::Volatile,
            Durability::Local,
            Durability::Replicated,
            Durability::Consensus,
        ];
        let Some(text) = self.text(KEY)? else {
            return Ok(None);
        };
        let names = KNOWN.map(|known| known.to_string());
        if let Some(at) = names.iter().position(|name| *name == text) {
            return Ok(Some(KNOWN[at]));
        }
        let near = nearest(&text, names.iter().map(String::as_str));
        let hint = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
        let list = names.join(", ");
        Err(self.invalid(
            KEY,
            Some(&format!(
                "{text:?} is unknown; {hint}the known values are {list}"
            )),
        ))
    }

    fn password(&self, file: Option<&Path>) -> Result<Option<Secret>, Error> {
        const KEY: &str = PASSWORD_FILE;
        let password = self.text("backend.password")?;
        let Some(path) = file else {
            return Ok(password.map(Secret::new));
        };
        if password.is_some() {
            let why = "`backend.password` is also set; keep one of them";
            return Err(self.invalid(KEY, Some(why)));
        }
        let bytes = std::fs::read(path).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
                io::ErrorKind::IsADirectory => "is a directory, not a file".to_owned(),
                _ => format!("cannot be read: {error}"),
            };
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let shown = absolute.display().to_string();
            self.invalid(KEY, Some(&format!("{shown:?} {why}")))
        })?;
        let Ok(mut text) = String::from_utf8(bytes) else {
            return Err(self.invalid(KEY, Some("the file is not UTF-8 text")));
        };
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() {
            return Err(self.invalid(KEY, Some("the file is empty")));
        }
        if text.contains('\n') {
            let why = "the file has more than one line; it must contain the password only";
            return Err(self.invalid(KEY, Some(why)));
        }
        Ok(Some(Secret::new(text)))
    }

    fn options(&self) -> Result<RawOptions, Error> {
        let mut options = RawOptions::new();
        for (key, found) in self.found {
            if let Some(option) = key.strip_prefix(OPTIONS_PREFIX) {
                let value = option_value(&found.value.kind)
                    .ok_or_else(|| self.invalid(key, Some("the number is too large")))?;
                options = options.with(option, value, &found.origin);
            }
        }
        Ok(options)
    }
}

fn option_value(kind: &ValueKind) -> Option<Value> {
    Some(match kind {
        ValueKind::Boolean(value) => Value::Bool(*value),
        ValueKind::I64(value) => Value::Int(*value),
        ValueKind::U64(value) => Value::Int(i64::try_from(*value).ok()?),
        ValueKind::I128(value) => Value::Int(i64::try_from(*value).ok()?),
        ValueKind::U128(value) => Value::Int(i64::try_from(*value).ok()?),
        ValueKind::Float(value) => Value::Float(*value),
        ValueKind::String(text) => Value::Text(text.clone()),
        ValueKind::Nil => Value::Text(String::new()),
        ValueKind::Array(list) => Value::List(
            list.iter()
                .map(|value| option_value(&value.kind))
                .collect::<Option<_>>()?,
        ),
        ValueKind::Table(table) => Value::Table(
            table
                .iter()
                .map(|(key, value)| Some((key.clone(), option_value(&value.kind)?)))
                .collect::<Option<_>>()?,
        ),
    })
}

const fn describe_kind(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::Array(_) => "a list",
        ValueKind::Table(_) => "a table",
        ValueKind::String(_) => "a string",
        ValueKind::Nil => "nothing",
        _ => "a number",
    }
}

/// The key whose default follows from another value.
const DERIVED_KEY: &str = "client.request_timeout";

fn entries(found: &BTreeMap<String, Found>, request_timeout: Duration) -> Vec<Entry> {
    let mut entries: Vec<_> = found
        .iter()
        .map(|(key, found)| {
            let value = if key == "backend.password" {
                REDACTED.to_owned()
            } else {
                option_value(&found.value.kind).map_or_else(String::new, |value| value.to_string())
            };
            Entry {
                key: key.clone(),
                value,
                origin: found.origin.clone(),
                is_default: found.origin == DEFAULT,
            }
        })
        .collect();
    // A derived default is shown too.
    if !found.contains_key(DERIVED_KEY) {
        entries.push(Entry {
            key: DERIVED_KEY.to_owned(),
            value: format!("\"{}\"", humantime::format_duration(request_timeout)),
            origin: DEFAULT.to_owned(),
            is_default: true,
        });
        entries.sort_by(|a, b| a.key.cmp(&b.key));
    }
    entries
}
