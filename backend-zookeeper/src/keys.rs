//! The paths of the nodes.
//!
//! | node | meaning |
//! |---|---|
//! | `CHROOT/NAMESPACE` | persistent; created once |
//! | `CHROOT/NAMESPACE/NAME` | a container: the servers delete it some time after its last child |
//! | `CHROOT/NAMESPACE/NAME/_c_GUID-lock-SEQUENCE` | one contender; ephemeral |
//!
//! Namespace and name are encoded by the table of [`tenure_core::name`], which leaves no character
//! that the servers forbid in a path. The namespace `zookeeper` is written `%7Aookeeper`, because the
//! servers own the node `/zookeeper`. GUID is the attempt's id.
//!
//! Programs that use Curator's or kazoo's recipes share a lock by its path, `/NAMESPACE/NAME`.

use tenure_core::{
    id::AttemptId,
    name::{LockName, Namespace},
};

/// Separates the GUID from the sequence number, as in Curator's names.
const LOCK: &str = "-lock-";

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

/// The name of an attempt's node without its sequence number.
pub(crate) fn node_prefix(attempt: AttemptId) -> String {
    let id = attempt.to_string();
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    format!(
        "_c_{}-{}-{}-{}-{}{LOCK}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// The attempt that a child of a lock's node belongs to; `None` for a name of another form.
pub(crate) fn attempt_of(child: &str) -> Option<AttemptId> {
    let (guid, _) = child.strip_prefix("_c_")?.split_once(LOCK)?;
    let dashes: Vec<usize> = guid.match_indices('-').map(|(at, _)| at).collect();
    if dashes != [8, 13, 18, 23] {
        return None;
    }
    AttemptId::parse(&guid.replace('-', ""))
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

    #[test]
    fn an_attempt_is_read_back_from_its_node() {
        let id = AttemptId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let prefix = node_prefix(id);
        assert_eq!(prefix, "_c_01234567-89ab-cdef-0011-223344556677-lock-");
        assert_eq!(attempt_of(&format!("{prefix}0000000003")), Some(id));
        for foreign in [
            "",
            "_c_",
            "lock-0000000001",
            "_c_0123456789abcdef0011223344556677-lock-0000000001",
            "_c_01234567-89AB-cdef-0011-223344556677-lock-0000000001",
        ] {
            assert_eq!(attempt_of(foreign), None, "{foreign}");
        }
    }
}
