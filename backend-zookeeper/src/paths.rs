//! Where the nodes of a lock lie.
//!
//! | node | what it is |
//! |---|---|
//! | `CHROOT/NAMESPACE` | stays; made once |
//! | `CHROOT/NAMESPACE/NAME` | a container: the servers delete it a while after its last child |
//! | `CHROOT/NAMESPACE/NAME/_c_GUID-lock-SEQUENCE` | one contender; goes with its session |
//!
//! Namespace and name are encoded by the table of [`tenure_core::name`], which leaves nothing that
//! the servers forbid in a path. One exception: the namespace `zookeeper` is written `%7Aookeeper`,
//! because without a chroot the node `/zookeeper` is the servers' own. GUID is the attempt's id.
//!
//! Programs that use Curator's or kazoo's recipes share a lock by its path, `/NAMESPACE/NAME`.

use tenure_core::{
    id::AttemptId,
    name::{LockName, Namespace},
};

/// What stands before the sequence number of a contender of Curator's form.
const LOCK: &str = "-lock-";

/// Where the locks of one namespace lie.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: String,
    namespace: String,
}

impl Paths {
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

    /// The node below which everything lies; empty if that is the root.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn lock(&self, name: &LockName) -> String {
        format!("{}/{}", self.namespace, name.encoded())
    }
}

/// What the node of an attempt is called, without its sequence number.
pub(crate) fn stem(attempt: AttemptId) -> String {
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

/// The attempt whose node is called so, if it is of this form.
pub(crate) fn attempt(child: &str) -> Option<AttemptId> {
    let (guid, _) = child.strip_prefix("_c_")?.split_once(LOCK)?;
    let places: Vec<usize> = guid.match_indices('-').map(|(at, _)| at).collect();
    if places != [8, 13, 18, 23] {
        return None;
    }
    AttemptId::parse(&guid.replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n2_the_servers_own_node_is_no_namespace() {
        let path = |text: &str| {
            let namespace = Namespace::new(text).unwrap();
            Paths::new("", &namespace).namespace().to_owned()
        };
        assert_eq!(path("zookeeper"), "/%7Aookeeper");
        assert_eq!(path("zookeepers"), "/zookeepers");
        assert_eq!(path("%7Aookeeper"), "/%257Aookeeper");
        assert_eq!(path("a/b"), "/a%2Fb");
        assert_eq!(path("."), "/%2E");
    }

    #[test]
    fn n2_names_stay_one_step_below_their_namespace() {
        let paths = Paths::new("/root", &Namespace::new("a/b").unwrap());
        let lock = |text: &str| paths.lock(&LockName::new(text).unwrap());
        assert_eq!(lock("c/d"), "/root/a%2Fb/c%2Fd");
        assert_eq!(lock("c%2Fd"), "/root/a%2Fb/c%252Fd");
        assert_eq!(lock(".."), "/root/a%2Fb/%2E%2E");
    }

    #[test]
    fn names_of_attempts_come_back() {
        let id = AttemptId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let stem = stem(id);
        assert_eq!(stem, "_c_01234567-89ab-cdef-0011-223344556677-lock-");
        assert_eq!(attempt(&format!("{stem}0000000003")), Some(id));
        for foreign in [
            "",
            "_c_",
            "lock-0000000001",
            "_c_0123456789abcdef0011223344556677-lock-0000000001",
            "_c_01234567-89AB-cdef-0011-223344556677-lock-0000000001",
        ] {
            assert_eq!(attempt(foreign), None, "{foreign}");
        }
    }
}
