//! Which keys a lock has in the store.
//!
//! | key | holds |
//! |---|---|
//! | `NS/NAME/LEASE-SLOT` | one contender of ours: who it is |
//! | `NS/NAME/LEASE` | one contender of `etcdctl lock NS/NAME` or `concurrency.Mutex` |
//! | `NS/%fenced/ATTEMPT` | an attempt that is fenced off |
//!
//! Namespace and name are encoded by the table of [`tenure_core::name`], so that neither holds a slash,
//! and neither can read `%fenced`: a percent sign is followed by upper-case digits there. LEASE is the
//! lease's id in hexadecimal digits, as the Go client writes it. SLOT is a number that is used again as
//! soon as nobody of the same lease has it: the store remembers each key that ever was until its history
//! is compacted, and goes through all of them whenever it looks below the prefix. The contender with the
//! lowest create revision holds the lock. Anything else below the prefix is no contender.

use tenure_core::{
    id::AttemptId,
    name::{LockName, Namespace, encode},
};

/// How the locks of one namespace are named in the store.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    namespace: String,
}

/// What a key below a lock's prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// One of ours.
    Ours { lease: i64 },
    /// Somebody else's.
    Foreign { lease: i64 },
}

impl Contender {
    pub(crate) const fn lease(self) -> i64 {
        match self {
            Self::Ours { lease } | Self::Foreign { lease } => lease,
        }
    }
}

impl KeySpace {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.encoded(),
        }
    }

    /// What all keys of the namespace begin with.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("{}/", self.namespace)
    }

    /// What all keys of a lock begin with.
    pub(crate) fn prefix(&self, name: &LockName) -> String {
        format!("{}/{}/", self.namespace, name.encoded())
    }

    /// What the keys of a lease's contenders begin with; the slot's number follows.
    pub(crate) fn stem(&self, name: &LockName, lease: i64) -> String {
        format!("{}{lease:x}-", self.prefix(name))
    }

    /// The key that fences an attempt off.
    pub(crate) fn fence(&self, attempt: AttemptId) -> String {
        format!("{}/%fenced/{attempt}", self.namespace)
    }

    /// A key that never exists, to ask something of the store with.
    pub(crate) fn absent_key(&self) -> String {
        format!("{}/%nowhere", self.namespace)
    }

    /// Where the keys of locks begin whose names begin so.
    pub(crate) fn listing_start(&self, prefix: &str) -> String {
        // The table writes each byte for itself, but for a name that is nothing but dots.
        let encoded = match prefix {
            "." | ".." => String::new(),
            _ => encode(prefix),
        };
        format!("{}/{encoded}", self.namespace)
    }

    /// The lock and the contender that a key of the namespace belongs to; `None` if it is neither
    /// ours nor of the form that we share.
    pub(crate) fn parse(&self, key: &[u8]) -> Option<(LockName, Contender)> {
        let rest = std::str::from_utf8(key).ok()?;
        let rest = rest.strip_prefix(&*self.namespace)?.strip_prefix('/')?;
        let (name, tail) = rest.split_once('/')?;
        Some((LockName::from_encoded(name)?, parse_contender(tail)?))
    }
}

/// What a key below this prefix is; `None` for noise.
pub(crate) fn parse_below(prefix: &str, key: &[u8]) -> Option<Contender> {
    parse_contender(std::str::from_utf8(key.strip_prefix(prefix.as_bytes())?).ok()?)
}

fn parse_contender(tail: &str) -> Option<Contender> {
    let (lease, rest) = match tail.split_once('-') {
        Some((lease, rest)) => (lease, Some(rest)),
        None => (tail, None),
    };
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if lease.is_empty() || lease.len() > 16 || !lease.bytes().all(hex) {
        return None;
    }
    let lease = i64::from_str_radix(lease, 16).ok()?;
    match rest {
        None => Some(Contender::Foreign { lease }),
        Some(rest) if rest.contains('/') => None,
        Some(slot) if !slot.is_empty() && slot.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Contender::Ours { lease })
        }
        Some(_) => Some(Contender::Foreign { lease }),
    }
}

/// The end of the range of all keys that begin so.
pub(crate) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A key as it can be shown in one line.
pub(crate) fn display_key(key: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(text: &str) -> KeySpace {
        KeySpace::new(&Namespace::new(text).unwrap())
    }

    #[test]
    fn n2_keys_of_different_locks_have_different_prefixes() {
        let names = [
            "a", "a/b", "a-b", "A", "é", ".", "..", "%fenced", "a%2Fb", "x",
        ];
        let attempt = AttemptId::from_u128(7);
        let mut prefixes = Vec::new();
        for namespace in ["ns", "ns/a", "n", "."] {
            let keys = space(namespace);
            for text in names {
                let name = LockName::new(text).unwrap();
                let key = format!("{}12", keys.stem(&name, 0x7f));
                let ours = Contender::Ours { lease: 0x7f };
                assert_eq!(keys.parse(key.as_bytes()), Some((name.clone(), ours)));
                prefixes.push(keys.prefix(&name));
            }
            assert_eq!(keys.parse(keys.fence(attempt).as_bytes()), None);
            assert_eq!(keys.parse(keys.absent_key().as_bytes()), None);
        }
        for (index, one) in prefixes.iter().enumerate() {
            for other in &prefixes[index + 1..] {
                assert!(
                    !one.starts_with(other) && !other.starts_with(one),
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn w1_contenders_are_told_from_noise() {
        let foreign = Some(Contender::Foreign { lease: 0x1f });
        for (tail, expected) in [
            ("1f".to_owned(), foreign),
            ("1f-later-form".to_owned(), foreign),
            ("1f-0".to_owned(), Some(Contender::Ours { lease: 0x1f })),
            ("1f-".to_owned(), foreign),
            ("b/1f".to_owned(), None),
            ("1f-x/y".to_owned(), None),
            ("1F".to_owned(), None),
            ("-".to_owned(), None),
            (String::new(), None),
            ("hello".to_owned(), None),
            ("ffffffffffffffff".to_owned(), None),
            ("11111111111111111".to_owned(), None),
        ] {
            let key = format!("ns/a/{tail}");
            assert_eq!(parse_below("ns/a/", key.as_bytes()), expected, "{tail}");
        }
        assert_eq!(parse_below("ns/a/", b"ns/a/\xff"), None);
    }

    #[test]
    fn ranges_end_behind_the_prefix() {
        assert_eq!(range_end("a/"), b"a0");
        assert_eq!(range_end(""), [0]);
    }
}
