//! When the answer to a keep-alive proves that the lease lives.
//!
//! Servers before 3.4.31 and 3.5.13 answer keep-alives also as a leader that was cut off or stopped,
//! and whose successor has let the lease expire. There the answer counts only once the same server has
//! answered a transaction, sent after it, in the same term: then no other leader came between.

use etcd_client::ResponseHeader;

use crate::config::KeepaliveTrust;

/// Which server has answered, and in which term of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RaftTerm {
    connection: u64,
    term: u64,
}

impl RaftTerm {
    #[cfg(test)]
    pub(crate) const fn new(connection: u64, term: u64) -> Self {
        Self { connection, term }
    }

    pub(crate) const fn of(header: &ResponseHeader) -> Self {
        Self {
            connection: header.member_id(),
            term: header.raft_term(),
        }
    }
}

/// The version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServerVersion(u32, u32, u32);

impl ServerVersion {
    /// Watches that are numbered by the client came with this one.
    pub(crate) const MIN_SUPPORTED: Self = Self(3, 4, 0);

    /// Reads `3.4.23`, also with something behind it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }

    /// Whether its answers to keep-alives are believed as they are.
    pub(crate) fn keepalives_are_trusted(self, trust: KeepaliveTrust) -> bool {
        let since = match self {
            Self(3, 4, _) => Self(3, 4, 31),
            _ => Self(3, 5, 13),
        };
        trust == KeepaliveTrust::Auto && self >= since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_trusted() {
        let trusted = |text: &str| {
            ServerVersion::parse(text)
                .unwrap()
                .keepalives_are_trusted(KeepaliveTrust::Auto)
        };
        for text in ["3.4.31", "3.5.13", "3.5.13-rc.1", "3.6.0", "4.0.0"] {
            assert!(trusted(text), "{text}");
        }
        for text in ["3.3.99", "3.4.0", "3.4.30", "3.5.0", "3.5.12", "3.5.12+git"] {
            assert!(!trusted(text), "{text}");
        }
        let newest = ServerVersion::parse("3.7.2").unwrap();
        assert!(!newest.keepalives_are_trusted(KeepaliveTrust::Never));
        for text in ["", "3", "3.4", "x.y.z"] {
            assert_eq!(ServerVersion::parse(text), None, "{text}");
        }
        assert!(ServerVersion::parse("3.3.27").unwrap() < ServerVersion::MIN_SUPPORTED);
    }
}
