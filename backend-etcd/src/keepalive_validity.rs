//! When the reply to a keep-alive proves that the lease is alive.
//!
//! Before 3.4.31 and 3.5.13, a leader that was partitioned or stopped also answers keep-alives,
//! although its successor has let the lease expire. On those versions a reply counts only once the
//! same server has answered a transaction that was sent after it, in the same raft term: then there
//! was no other leader in between.

use etcd_client::ResponseHeader;

use crate::config::KeepaliveTrust;

/// The server that answered, and its raft term.
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
    /// The first version that supports watch ids chosen by the client.
    pub(crate) const MIN_SUPPORTED: Self = Self(3, 4, 0);

    /// Parses `3.4.23`, with or without a suffix.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }

    /// Whether members of this version can keep different data after one of them was killed (etcd
    /// issue 13766; mended in 3.5.3).
    pub(crate) fn can_diverge(self) -> bool {
        (Self(3, 5, 0)..Self(3, 5, 3)).contains(&self)
    }

    /// Whether a keep-alive reply alone proves that the lease is alive.
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
    fn versions_are_parsed_and_fixed_ones_trusted() {
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
        for (text, diverges) in [
            ("3.4.23", false),
            ("3.5.0", true),
            ("3.5.2", true),
            ("3.5.3", false),
        ] {
            assert_eq!(
                ServerVersion::parse(text).unwrap().can_diverge(),
                diverges,
                "{text}"
            );
        }
        assert!(ServerVersion::parse("3.3.27").unwrap() < ServerVersion::MIN_SUPPORTED);
    }
}
