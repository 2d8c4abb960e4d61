//! The paths of the nodes.
//!
//! | node | meaning |
//! |---|---|
//! | `CHROOT/NAMESPACE` | persistent; created once |
//! | `CHROOT/NAMESPACE/NAME` | a container: the servers delete it some time after its last child |
//! | `CHROOT/NAMESPACE/NAME/CHILD` | one contender; ephemeral |
//!
//! | child | contender |
//! |---|---|
//! | `_c_GUID-lock-SEQUENCE` | exclusive |
//! | `_c_GUID-__WRIT__SEQUENCE` | exclusive, in a lock that has readers |
//! | `_c_GUID-__READ__SEQUENCE` | shared |
//! | `_c_GUID-zxid-ZXID-__READ__SEQUENCE` | shared, by the downgrade of an exclusive grant |
//! | `_c_GUID-permits-TAKE-of-TOTAL-lock-SEQUENCE` | some of the permits |
//!
//! Namespace and name are encoded by the table of [`tenure_core::name`], which leaves no character
//! that the servers forbid in a path. The namespace `zookeeper` is written `%7Aookeeper`, because the
//! servers own the node `/zookeeper`. GUID is the attempt's id. ZXID is the transaction that created
//! the node of the exclusive grant, in hexadecimal digits: the token of the grant derives from it, and
//! the new node has the sequence number of the old one.
//!
//! Programs that use Curator's or kazoo's recipes share a lock by its path, `/NAMESPACE/NAME`. The names
//! are chosen for them and for earlier versions of `tenure`, which take every child that they cannot
//! interpret for an exclusive contender.

use std::fmt::Write as _;

use tenure_core::{
    id::AttemptId,
    mode::Mode,
    name::{LockName, Namespace},
};

use crate::order::number_of;

/// Separates the GUID from the sequence number, as in Curator's mutex.
const LOCK: &str = "-lock-";
/// The marks of Curator's reader-writer lock.
const READ: &str = "__READ__";
const WRITE: &str = "__WRIT__";
/// Precedes the number of permits that are taken, and their total.
const PERMITS: &str = "-permits-";
const OF: &str = "-of-";
/// Precedes the transaction that created the node of a downgraded grant.
const ZXID: &str = "-zxid-";
const GUID_LENGTH: usize = 36;

/// The paths of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
    namespace: String,
}

impl Keys {
    pub(crate) fn new(root: &str, namespace: &Namespace) -> Self {
        let encoded = match namespace.encoded() {
            reserved if reserved == "zookeeper" => "%7Aookeeper".to_owned(),
            encoded => encoded,
        };
        Self {
            root: root.to_owned(),
            namespace: format!("{root}/{encoded}"),
        }
    }

    /// The node below which all nodes of `tenure` lie; empty for the root node.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The namespace's node, the parent of the locks' nodes.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A lock's node, the parent of its contenders.
    pub(crate) fn lock(&self, name: &LockName) -> String {
        format!("{}/{}", self.namespace, name.encoded())
    }
}

/// The name of an attempt's node without its sequence number. `beside_readers`: an exclusive
/// attempt is a writer in a lock that has readers.
pub(crate) fn node_prefix(attempt: AttemptId, mode: Mode, beside_readers: bool) -> String {
    let mut name = format!("_c_{}", guid(attempt));
    match mode {
        Mode::Shared => name.extend(["-", READ]),
        Mode::Permits { take, of } => {
            let _ = write!(name, "{PERMITS}{take}{OF}{of}{LOCK}");
        }
        _ if beside_readers => name.extend(["-", WRITE]),
        _ => name.push_str(LOCK),
    }
    name
}

/// The name of the node that replaces the exclusive node `child` by a downgrade. `czxid` is the transaction
/// that created `child`. `None` if `child` is no exclusive node of this attempt.
pub(crate) fn downgraded(child: &str, attempt: AttemptId, czxid: i64) -> Option<String> {
    let (head, number) = child
        .rsplit_once(WRITE)
        .and_then(|(head, number)| Some((head.strip_suffix('-')?, number)))
        .or_else(|| child.rsplit_once(LOCK))?;
    let guid = guid(attempt);
    (head.strip_prefix("_c_") == Some(&guid))
        .then(|| format!("_c_{guid}{ZXID}{czxid:016x}-{READ}{number}"))
}

/// What the name of a contender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChildName {
    /// The attempt; `None` for a name of another form.
    pub(crate) attempt: Option<AttemptId>,
    /// A contender whose name says nothing else is exclusive.
    pub(crate) mode: Mode,
    /// The transaction that created the exclusive node before a downgrade.
    pub(crate) exclusive_czxid: Option<i64>,
}

/// Reads the name of a lock's child.
pub(crate) fn parse(child: &str) -> ChildName {
    let (attempt, rest) = match own_form(child) {
        Some((attempt, rest)) => (Some(attempt), rest),
        None => (None, child),
    };
    let mut name = ChildName {
        attempt,
        mode: Mode::Exclusive,
        exclusive_czxid: None,
    };
    if let Some((head, number)) = rest.rsplit_once(READ)
        && number_of(number).is_some()
    {
        name.mode = Mode::Shared;
        let zxid = head.strip_prefix(ZXID).and_then(|zxid| zxid.get(..16));
        name.exclusive_czxid = zxid.and_then(|zxid| i64::from_str_radix(zxid, 16).ok());
    } else if attempt.is_some()
        && let Some(permits) = rest.strip_prefix(PERMITS)
    {
        match permits_of(permits) {
            Some(permits) => name.mode = permits,
            // Like every name of another form.
            None => name.attempt = None,
        }
    }
    name
}

/// The attempt that a child of a lock's node belongs to; `None` for a name of another form.
pub(crate) fn attempt_of(child: &str) -> Option<AttemptId> {
    parse(child).attempt
}

/// The mode of the contender with this name.
pub(crate) fn mode_of(child: &str) -> Mode {
    // Most names have one of two forms, and a long queue has many of them.
    match child.get(3 + GUID_LENGTH..) {
        Some(rest) if rest.starts_with(LOCK) => Mode::Exclusive,
        _ => parse(child).mode,
    }
}

/// Whether the node of a reader with the same number may exist when a node with this name is deleted, because
/// a program that uses Curator's reader-writer lock has downgraded its grant.
pub(crate) fn may_be_downgraded_by_curator(child: &str) -> bool {
    child.contains(WRITE)
}

/// Splits a name of one of the forms that this module writes.
fn own_form(child: &str) -> Option<(AttemptId, &str)> {
    let (guid, rest) = child.strip_prefix("_c_")?.split_at_checked(GUID_LENGTH)?;
    let dashes = guid.match_indices('-').map(|(at, _)| at);
    if !dashes.eq([8, 13, 18, 23]) {
        return None;
    }
    let known = [LOCK, PERMITS, ZXID]
        .iter()
        .any(|form| rest.starts_with(form))
        || rest
            .strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(READ) || rest.starts_with(WRITE));
    let attempt = AttemptId::parse(&guid.replace('-', ""))?;
    known.then_some((attempt, rest))
}

/// Reads `TAKE-of-TOTAL-lock-SEQUENCE`.
fn permits_of(text: &str) -> Option<Mode> {
    let (permits, _) = text.split_once(LOCK)?;
    let (take, of) = permits.split_once(OF)?;
    // Another spelling of a number is foreign.
    Mode::parse(&format!("{take}/{of}"))
}

/// An attempt's id in the form of a GUID.
fn guid(attempt: AttemptId) -> String {
    let id = attempt.to_string();
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n2_the_servers_own_node_is_not_used_as_a_namespace() {
        let path = |text: &str| {
            let namespace = Namespace::new(text).unwrap();
            Keys::new("", &namespace).namespace().to_owned()
        };
        assert_eq!(path("zookeeper"), "/%7Aookeeper");
        assert_eq!(path("zookeepers"), "/zookeepers");
        assert_eq!(path("%7Aookeeper"), "/%257Aookeeper");
        assert_eq!(path("a/b"), "/a%2Fb");
        assert_eq!(path("."), "/%2E");
    }

    #[test]
    fn n2_a_lock_is_a_child_of_its_namespace() {
        let keys = Keys::new("/root", &Namespace::new("a/b").unwrap());
        let lock = |text: &str| keys.lock(&LockName::new(text).unwrap());
        assert_eq!(lock("c/d"), "/root/a%2Fb/c%2Fd");
        assert_eq!(lock("c%2Fd"), "/root/a%2Fb/c%252Fd");
        assert_eq!(lock(".."), "/root/a%2Fb/%2E%2E");
    }

    const ID: AttemptId = AttemptId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    const GUID: &str = "_c_01234567-89ab-cdef-0011-223344556677";
    const TWO_OF_TEN: Mode = Mode::Permits { take: 2, of: 10 };

    #[test]
    fn an_attempt_and_its_mode_are_read_back_from_its_node() {
        for (mode, beside_readers, rest) in [
            (Mode::Exclusive, false, "-lock-"),
            (Mode::Exclusive, true, "-__WRIT__"),
            (Mode::Shared, false, "-__READ__"),
            (Mode::Shared, true, "-__READ__"),
            (TWO_OF_TEN, false, "-permits-2-of-10-lock-"),
        ] {
            let prefix = node_prefix(ID, mode, beside_readers);
            assert_eq!(prefix, format!("{GUID}{rest}"));
            for number in ["0000000003", "-2147483648"] {
                let child = format!("{prefix}{number}");
                assert_eq!((attempt_of(&child), mode_of(&child)), (Some(ID), mode));
                assert_eq!(parse(&child).exclusive_czxid, None);
            }
        }
    }

    #[test]
    fn m4_a_downgraded_node_keeps_the_number_and_the_zxid_of_the_exclusive_one() {
        for beside_readers in [false, true] {
            for number in ["0000000003", "-2147483648"] {
                let prefix = node_prefix(ID, Mode::Exclusive, beside_readers);
                let child = downgraded(&format!("{prefix}{number}"), ID, 0x2a).unwrap();
                assert_eq!(
                    child,
                    format!("{GUID}-zxid-000000000000002a-__READ__{number}")
                );
                let read = ChildName {
                    attempt: Some(ID),
                    mode: Mode::Shared,
                    exclusive_czxid: Some(0x2a),
                };
                assert_eq!(parse(&child), read);
            }
        }
        for (mode, number) in [(Mode::Shared, "0000000003"), (TWO_OF_TEN, "0000000003")] {
            let child = format!("{}{number}", node_prefix(ID, mode, false));
            assert_eq!(downgraded(&child, ID, 1), None);
        }
    }

    #[test]
    fn s3_a_name_of_another_form_is_that_of_a_foreign_exclusive_contender() {
        for foreign in [
            "",
            "_c_",
            "lock-0000000001",
            "_c_0123456789abcdef0011223344556677-lock-0000000001",
            "_c_01234567-89AB-cdef-0011-223344556677-lock-0000000001",
            "_c_01234567-89ab-cdef-0011-223344556677-permits-0-of-3-lock-0000000001",
            "_c_01234567-89ab-cdef-0011-223344556677-permits-4-of-3-lock-0000000001",
            "_c_01234567-89ab-cdef-0011-223344556677-permits-02-of-3-lock-0000000001",
            "_c_01234567-89ab-cdef-0011-223344556677-permits-2-lock-0000000001",
            "_c_01234567-89ab-cdef-0011-223344556677-leases-2-lock-0000000001",
            "é_c_permits-2-of-3-lock-0000000001",
        ] {
            let read = (attempt_of(foreign), mode_of(foreign));
            assert_eq!(read, (None, Mode::Exclusive), "{foreign}");
        }
        // Curator names a reader without its protection in this way.
        let reader = parse("__READ__0000000001");
        assert_eq!((reader.attempt, reader.mode), (None, Mode::Shared));
    }
}
