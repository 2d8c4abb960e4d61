//! From values to a configuration: types, bounds, and what must not be set together.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

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

/// The longest time that one request is given if nobody says otherwise.
const LONGEST_REQUEST: Duration = Duration::from_secs(5);

pub(super) fn load(sources: &Sources) -> Result<Config, Error> {
    let (found, warnings) = merge(sources, DEFAULTS)?;
    let read = Reader(&found);

    let url = read.text("backend.url")?.unwrap_or_default();
    let url = StoreUrl::parse(&url).map_err(|error| read.wrong("backend.url", error.detail()))?;
    let namespace = read.text("backend.namespace")?.unwrap_or_default();
    let namespace = Namespace::new(&namespace)
        .map_err(|error| read.wrong("backend.namespace", Some(&error.to_string())))?;
    let tls = Tls::new(
        read.path("backend.tls.ca_file")?,
        read.path("backend.tls.cert_file")?,
        read.path("backend.tls.key_file")?,
    );
    let settings = Settings::new(url)
        .with_credentials(read.text("backend.username")?, read.password()?)
        .with_tls(tls)
        .with_options(read.options()?);

    let ttl = read.duration("lock.ttl")?.unwrap_or_default();
    if ttl.is_zero() {
        return Err(read.wrong(
            "lock.ttl",
            Some("a TTL of nothing is none; write such as \"30s\""),
        ));
    }
    let request_timeout = match read.duration("client.request_timeout")? {
        Some(limit) if limit.is_zero() => {
            let why = "a request needs some time; write such as \"5s\"";
            return Err(read.wrong("client.request_timeout", Some(why)));
        }
        Some(limit) => limit,
        None => request_timeout(ttl),
    };
    let mut require = Requirements::default();
    require.durability = read.durability()?;
    require.push = read.flag("require.push")?;
    require.push_evidence = read.flag("require.push_evidence")?;

    Ok(Config {
        settings,
        namespace,
        ttl,
        wait: read.duration("lock.wait")?,
        label: read.text("lock.label")?,
        require,
        request_timeout,
        terms: DriftBounds::new(
            DRIFT_PPM,
            read.duration("client.margin")?.unwrap_or_default(),
        ),
        entries: Entries(entries(&found, request_timeout)),
        warnings,
    })
}

/// One percent (clause D1).
const DRIFT_PPM: u32 = 10_000;

/// How long one request may take if nobody says otherwise: what lets a renewal that is sent at
/// two thirds of the TTL come back with time to spare.
fn request_timeout(ttl: Duration) -> Duration {
    (ttl.saturating_mul(3) / 20).min(LONGEST_REQUEST)
}

struct Reader<'a>(&'a BTreeMap<String, Found>);

impl Reader<'_> {
    fn wrong(&self, key: &str, why: Option<&str>) -> Error {
        let origin = self.0.get(key).map_or(DEFAULT, |found| &found.origin);
        refuse(format!(
            "`{key}` ({origin}): {}",
            why.unwrap_or("it is wrong")
        ))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(found) = self.0.get(key) else {
            return Ok(None);
        };
        match &found.value.kind {
            ValueKind::String(text) if text.is_empty() => {
                Err(self.wrong(key, Some("it is empty; leave it out, or give it a value")))
            }
            ValueKind::String(text) => Ok(Some(text.clone())),
            kind => Err(self.wrong(
                key,
                Some(&format!("it is {}, wanted is a text in quotes", what(kind))),
            )),
        }
    }

    fn path(&self, key: &str) -> Result<Option<PathBuf>, Error> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    fn duration(&self, key: &str) -> Result<Option<Duration>, Error> {
        const EXAMPLE: &str = "write such as \"30s\", \"500ms\" or \"1m 30s\"";
        let Some(found) = self.0.get(key) else {
            return Ok(None);
        };
        let shown = match &found.value.kind {
            ValueKind::String(text) => match humantime::parse_duration(text) {
                Ok(duration) => return Ok(Some(duration)),
                Err(_) => format!("{text:?}"),
            },
            ValueKind::I64(number) => format!("{number} without a unit"),
            kind => what(kind).to_owned(),
        };
        Err(self.wrong(key, Some(&format!("{shown} is not a duration; {EXAMPLE}"))))
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        let Some(found) = self.0.get(key) else {
            return Ok(false);
        };
        match &found.value.kind {
            ValueKind::Boolean(value) => Ok(*value),
            ValueKind::String(text) if text == "true" => Ok(true),
            ValueKind::String(text) if text == "false" => Ok(false),
            _ => Err(self.wrong(key, Some("wanted is `true` or `false`"))),
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
        Err(self.wrong(
            KEY,
            Some(&format!("{text:?} is none; {hint}known are {list}")),
        ))
    }

    fn password(&self) -> Result<Option<Secret>, Error> {
        const KEY: &str = "backend.password_file";
        let password = self.text("backend.password")?;
        let Some(path) = self.path(KEY)? else {
            return Ok(password.map(Secret::new));
        };
        if password.is_some() {
            let why = "`backend.password` is set too; keep one of them";
            return Err(self.wrong(KEY, Some(why)));
        }
        let bytes = std::fs::read(&path).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
                io::ErrorKind::IsADirectory => "is a directory, not a file".to_owned(),
                _ => format!("cannot be read: {error}"),
            };
            self.wrong(
                KEY,
                Some(&format!("{:?} {why}", path.display().to_string())),
            )
        })?;
        let Ok(mut text) = String::from_utf8(bytes) else {
            return Err(self.wrong(KEY, Some("the file is not UTF-8 text")));
        };
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() {
            return Err(self.wrong(KEY, Some("the file is empty")));
        }
        Ok(Some(Secret::new(text)))
    }

    fn options(&self) -> Result<RawOptions, Error> {
        let mut options = RawOptions::new();
        for (key, found) in self.0 {
            if let Some(option) = key.strip_prefix(OPTIONS_PREFIX) {
                let value = option_value(&found.value.kind).ok_or_else(|| {
                    self.wrong(key, Some("a number of this size is not possible"))
                })?;
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

const fn what(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Boolean(_) => "a truth value",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::Array(_) => "a list",
        ValueKind::Table(_) => "a table",
        ValueKind::String(_) => "a text",
        ValueKind::Nil => "nothing",
        _ => "a number",
    }
}

/// The one default that follows from another value.
const DERIVED: &str = "client.request_timeout";

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
    // What follows from another value is worth showing too.
    if !found.contains_key(DERIVED) {
        entries.push(Entry {
            key: DERIVED.to_owned(),
            value: format!("\"{}\"", humantime::format_duration(request_timeout)),
            origin: DEFAULT.to_owned(),
            is_default: true,
        });
        entries.sort_by(|a, b| a.key.cmp(&b.key));
    }
    entries
}
