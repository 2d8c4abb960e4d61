//! The keys of a lock on the server, and the channel of a client.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `tenure:{NS:NAME}:holder` | string, expires | the exclusive holder, or what the other holders take |
//! | `tenure:{NS:NAME}:fence` | string, expires | the last token that was granted |
//! | `tenure:{NS:NAME}:queue` | sorted set, expires | the holders that are not exclusive, and the waiters, in order |
//! | `tenure:{NS:NAME}:entries` | hash, expires | the details of each of them |
//! | `tenure:{NS:NAME}:fenced:ATTEMPT` | string, expires | an attempt that is fenced off |
//! | `tenure:inbox:CLIENT` | channel | messages to one client |
//!
//! Namespace and name are encoded as [`tenure_core::name`] defines, so neither contains a brace or
//! a colon. The text between the braces is the hash tag; it keeps all keys of a lock in one slot of
//! a cluster.
//!
//! With a [key template](KeySpace::with_template), the holder key is the key that other programs
//! use, and the other keys carry its hash tag.

use tenure_core::{
    error::{Error, ErrorKind},
    id::{AttemptId, ClientId},
    name::{LockName, Namespace},
};

use crate::transport::ScriptCall;

/// The suffixes of a lock's keys.
const HOLDER_SUFFIX: &str = "holder";
const LAST_TOKEN_SUFFIX: &str = "fence";
const QUEUE_SUFFIX: &str = "queue";
const ENTRIES_SUFFIX: &str = "entries";
/// An attempt follows this suffix.
const FENCE_SUFFIX: &str = "fenced:";

/// The prefix of every client's channel.
pub(crate) const INBOX_PREFIX: &str = "tenure:inbox:";

/// The channel on which a client receives messages about its attempts.
pub(crate) fn inbox(client: ClientId) -> String {
    format!("{INBOX_PREFIX}{client}")
}

/// Names the keys of all locks in one namespace.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    namespace: String,
    template: Option<PlainTemplate>,
}

/// A template such as `lock:{name}`.
#[derive(Clone, Debug)]
struct PlainTemplate {
    before: String,
    after: String,
}

/// The keys of one lock.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    pub(crate) holder: String,
    /// The prefix of the other keys, if it differs from the prefix of the holder key.
    prefix: Option<String>,
}

impl KeySpace {
    /// Creates the key names of this namespace.
    pub(crate) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.encoded(),
            template: None,
        }
    }

    /// Like [`new`](Self::new), with a template for the holder key: `{name}` stands for the lock's
    /// name as given, `{namespace}` for the namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] unless the template contains `{name}` exactly once.
    pub(crate) fn with_template(namespace: &Namespace, template: &str) -> Result<Self, Error> {
        let template = template.replace("{namespace}", namespace.as_str());
        match template.split("{name}").collect::<Vec<_>>().as_slice() {
            [before, after] => Ok(Self {
                namespace: namespace.encoded(),
                template: Some(PlainTemplate {
                    before: (*before).to_owned(),
                    after: (*after).to_owned(),
                }),
            }),
            _ => Err(Error::new(ErrorKind::Config, "reading options")
                .with_backend("redis")
                .with_detail(
                    "`plain_key` must contain `{name}` exactly once, such as \"lock:{name}\"",
                )),
        }
    }

    /// The keys of this lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if `clustered` is set and no hash tag can place other keys in the
    /// slot of the plain key.
    pub(crate) fn lock(&self, name: &LockName, clustered: bool) -> Result<LockKeys, Error> {
        let encoded = name.encoded();
        let Some(template) = &self.template else {
            let parts = [
                "tenure:{",
                &self.namespace,
                ":",
                &encoded,
                "}:",
                HOLDER_SUFFIX,
            ];
            return Ok(LockKeys {
                holder: parts.concat(),
                prefix: None,
            });
        };
        let holder = format!("{}{}{}", template.before, name.as_str(), template.after);
        if holder.starts_with("tenure:") {
            return Err(Error::new(ErrorKind::Unsupported, "deriving the keys of")
                .with_backend("redis")
                .with_lock(name.clone())
                .with_detail(
                    "the plain key would begin with `tenure:`, which is reserved for this \
                     backend; use another name, or a `plain_key` with another prefix",
                ));
        }
        let tag = hash_tag(&holder);
        if tag.contains('}') && clustered {
            return Err(Error::new(ErrorKind::Unsupported, "deriving the keys of")
                .with_backend("redis")
                .with_lock(name.clone())
                .with_detail(
                    "in a cluster, no other key can share the slot of a plain key with a `}` that \
                     closes no hash tag; use another name, or a `plain_key` with a hash tag",
                ));
        }
        // The hash tag may contain anything; the part after it keeps different locks apart.
        let prefix = format!("tenure:{{{tag}}}:{}:{encoded}:", self.namespace);
        Ok(LockKeys {
            holder,
            prefix: Some(prefix),
        })
    }

    /// A `SCAN` pattern that matches at least the holder and queue keys of all locks whose names
    /// begin with `prefix`.
    pub(crate) fn scan_pattern(&self, prefix: &str) -> String {
        match &self.template {
            None => format!(
                "tenure:{{{}:{}*",
                escape_glob(&self.namespace),
                escape_glob(&encoded_prefix(prefix))
            ),
            Some(template) => format!(
                "{}{}*{}",
                escape_glob(&template.before),
                escape_glob(prefix),
                escape_glob(&template.after)
            ),
        }
    }

    /// The lock of a key that [`scan_pattern`](Self::scan_pattern) matched; `None` for another kind
    /// of key or a foreign key.
    pub(crate) fn name_of(&self, key: &[u8]) -> Option<LockName> {
        let key = std::str::from_utf8(key).ok()?;
        match &self.template {
            None => {
                let rest = key
                    .strip_prefix("tenure:{")?
                    .strip_prefix(&*self.namespace)?;
                let rest = rest.strip_prefix(':')?;
                let encoded = rest
                    .strip_suffix("}:holder")
                    .or_else(|| rest.strip_suffix("}:queue"))?;
                LockName::from_encoded(encoded)
            }
            Some(template) => {
                let name = key
                    .strip_prefix(&*template.before)?
                    .strip_suffix(&*template.after)?;
                LockName::new(name).ok()
            }
        }
    }
}

impl LockKeys {
    /// Adds the keys that every attempt shares, in the order in which the scripts expect them.
    pub(crate) fn push_all(&self, call: &mut ScriptCall) {
        call.key(&*self.holder);
        call.key(self.last_token());
        call.key(self.queue());
        call.key(self.entries());
    }

    /// Adds the keys that show the holder and the waiters.
    pub(crate) fn push_for_inspect(&self, call: &mut ScriptCall) {
        call.key(&*self.holder);
        call.key(self.queue());
        call.key(self.entries());
    }

    pub(crate) fn last_token(&self) -> String {
        format!("{}{LAST_TOKEN_SUFFIX}", self.prefix())
    }

    pub(crate) fn queue(&self) -> String {
        format!("{}{QUEUE_SUFFIX}", self.prefix())
    }

    pub(crate) fn entries(&self) -> String {
        format!("{}{ENTRIES_SUFFIX}", self.prefix())
    }

    /// The key that fences off an attempt.
    pub(crate) fn fence(&self, attempt: AttemptId) -> String {
        format!("{}{FENCE_SUFFIX}{attempt}", self.prefix())
    }

    fn prefix(&self) -> &str {
        match &self.prefix {
            Some(prefix) => prefix,
            None => self
                .holder
                .strip_suffix(HOLDER_SUFFIX)
                .unwrap_or(&self.holder),
        }
    }
}

/// The part of a key that a cluster hashes: the text between the first `{` and the next `}` if it
/// is not empty, otherwise the whole key.
pub(crate) fn hash_tag(key: &str) -> &str {
    let Some((_, after)) = key.split_once('{') else {
        return key;
    };
    match after.split_once('}') {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    }
}

/// Encodes the beginning of a name. The encoding works byte by byte, so the encoded prefix is a
/// prefix of the encoded name. The names `.` and `..` are exceptions.
fn encoded_prefix(prefix: &str) -> String {
    match prefix {
        "." | ".." => String::new(),
        _ => tenure_core::name::encode(prefix),
    }
}

fn escape_glob(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).unwrap()
    }

    fn namespace(text: &str) -> Namespace {
        Namespace::new(text).unwrap()
    }

    #[test]
    fn n2_keys_of_different_locks_differ_and_share_a_slot_per_lock() {
        let texts = [
            "a",
            "a}",
            "{a}",
            "a:b",
            "a b",
            "A",
            "é",
            ".",
            "..",
            "a}:holder",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for space in ["ns", "ns:a", "n}s", "."] {
            let keys = KeySpace::new(&namespace(space));
            for text in texts {
                let lock = keys.lock(&name(text), true).unwrap();
                assert_eq!(hash_tag(&lock.holder), hash_tag(&lock.queue()));
                assert_eq!(keys.name_of(lock.holder.as_bytes()), Some(name(text)));
                assert_eq!(keys.name_of(lock.queue().as_bytes()), Some(name(text)));
                assert_eq!(keys.name_of(lock.last_token().as_bytes()), None);
                assert!(seen.insert(lock.holder), "{space} {text}");
            }
        }
    }

    #[test]
    fn n2_plain_key_matches_the_template() {
        let keys = KeySpace::with_template(&namespace("app"), "{namespace}/lock:{name}!").unwrap();
        let lock = keys.lock(&name("a{b}c"), true).unwrap();
        assert_eq!(lock.holder, "app/lock:a{b}c!");
        assert_eq!(hash_tag(&lock.holder), hash_tag(&lock.last_token()));
        assert_eq!(keys.name_of(b"app/lock:x!"), Some(name("x")));
        assert_eq!(keys.name_of(b"app/lock:\xff!"), None);
        assert_eq!(keys.scan_pattern("a*"), "app/lock:a\\**!");
        assert!(keys.lock(&name("a}"), true).is_err());
        assert!(keys.lock(&name("a}"), false).is_ok());
        let bare = KeySpace::with_template(&namespace("app"), "{name}").unwrap();
        assert!(bare.lock(&name("tenure:{x}:a:x:fence"), false).is_err());
        for wrong in ["lock", "{name}{name}"] {
            assert!(KeySpace::with_template(&namespace("app"), wrong).is_err());
        }
    }

    #[test]
    fn n2_plain_keys_in_one_slot_have_different_other_keys() {
        let keys = KeySpace::with_template(&namespace("app"), "{name}").unwrap();
        let last_tokens: Vec<_> = ["{a}b", "{a}c"]
            .map(|text| keys.lock(&name(text), true).unwrap().last_token())
            .into();
        assert_ne!(last_tokens[0], last_tokens[1]);
    }
}
