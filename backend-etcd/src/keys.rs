//! The keys of a lock in the store.
//!
//! | key | content |
//! |---|---|
//! | `NS/NAME/LEASE-SLOT` | a contender of `tenure`; the value names its owner |
//! | `NS/NAME/LEASE` | a contender of `etcdctl lock NS/NAME` or `concurrency.Mutex` |
//! | `NS/%fenced/ATTEMPT` | an attempt that is fenced off |
//!
//! The table in [`tenure_core::name`] encodes namespace and name, so that neither contains a slash
//! and neither can be `%fenced`: in that table, upper-case digits follow a percent sign. LEASE is
//! the id of the lease in hexadecimal digits, as the Go client writes it. SLOT is a number that is
//! used again as soon as no contender of the same lease has it: the store keeps each key that ever
//! existed until its history is compacted, and scans all of them on each read below the prefix. The
//! contender with the lowest create revision holds the lock. Any other key below the prefix is not a
//! contender.

use tenure_core::{
    id::AttemptId,
    name::{LockName, Namespace, encode},
};

/// Builds the keys of the locks of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    namespace: String,
}

/// The kind of a key below a lock's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// A contender of `tenure`.
    Ours { lease: i64 },
    /// A contender of another program.
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

    /// The prefix of all keys of the namespace.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("{}/", self.namespace)
    }

    /// The prefix of all keys of a lock.
    pub(crate) fn prefix(&self, name: &LockName) -> String {
        format!("{}/{}/", self.namespace, name.encoded())
    }

    /// The prefix of the keys of a lease's contenders; the number of the slot follows.
    pub(crate) fn stem(&self, name: &LockName, lease: i64) -> String {
        format!("{}{lease:x}-", self.prefix(name))
    }

    /// The key that fences an attempt off.
    pub(crate) fn fence(&self, attempt: AttemptId) -> String {
        format!("{}/%fenced/{attempt}", self.namespace)
    }

    /// A key that never exists, for requests that need some key.
    pub(crate) fn absent_key(&self) -> String {
        format!("{}/%nowhere", self.namespace)
    }

    /// Where the keys begin of the locks whose names have this prefix.
    pub(crate) fn listing_start(&self, prefix: &str) -> String {
        // The table encodes each byte independently, except in a name that consists of dots alone.
        let encoded = match prefix {
            "." | ".." => String::new(),
            _ => encode(prefix),
        };
        format!("{}/{encoded}", self.namespace)
    }

    /// The lock and the contender that a key of the namespace belongs to. Returns `None` if the key
    /// has neither the form of `tenure` nor the form shared with the Go client.
    pub(crate) fn parse(&self, key: &[u8]) -> Option<(LockName, Contender)> {
        let rest = std::str::from_utf8(key).ok()?;
        let rest = rest.strip_prefix(&*self.namespace)?.strip_prefix('/')?;
        let (name, tail) = rest.split_once('/')?;
        Some((LockName::from_encoded(name)?, parse_contender(tail)?))
    }
}

/// The kind of a key below this prefix. Returns `None` if it is not a contender.
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

/// The end of the range of all keys with this prefix.
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

/// Formats a key in one line.
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
    fn n2_different_locks_have_disjoint_prefixes() {
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
    fn w1_only_well_formed_keys_are_contenders() {
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
    fn range_end_follows_all_keys_with_the_prefix() {
        assert_eq!(range_end("a/"), b"a0");
        assert_eq!(range_end(""), [0]);
    }
}
