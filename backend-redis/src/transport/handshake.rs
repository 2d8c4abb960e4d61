//! The facts that a server reports about itself, and whether it is suitable for locks.

use std::time::Duration;

use redis::Value;
use tenure_core::{driver::ConnectError, error::ErrorKind};

use crate::config::{Durability, Eviction, Options};

/// The oldest supported server version.
const MIN_SERVER_VERSION: (u32, u32) = (6, 2);

/// The reply to `HELLO`, which every user may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HelloReply {
    pub(super) version: String,
    pub(super) mode: String,
    pub(super) role: String,
}

impl HelloReply {
    /// Parses the reply. Missing fields stay empty and fail where they are needed.
    pub(super) fn parse(reply: &Value) -> Self {
        let mut hello = Self::default();
        let mut take = |key: &Value, value: &Value| {
            let text = as_text(value).unwrap_or_default().to_owned();
            match key_text(key) {
                "version" => hello.version = text,
                "mode" => hello.mode = text,
                "role" => hello.role = text,
                _ => {}
            }
        };
        match reply {
            Value::Map(pairs) => pairs.iter().for_each(|(key, value)| take(key, value)),
            Value::Array(flat) => flat
                .chunks_exact(2)
                .for_each(|pair| take(&pair[0], &pair[1])),
            _ => {}
        }
        hello
    }

    /// Rejects a server that is too old or whose mode does not match the URL.
    pub(super) fn check(&self, cluster: bool) -> Result<(), ConnectError> {
        let mut parts = self
            .version
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < MIN_SERVER_VERSION {
            let version = tenure_core::driver::one_line(&self.version);
            return Err(ConnectError::new(
                ErrorKind::Unsupported,
                format!("the server has version {version:?}, but Redis 6.2 or later is required"),
            ));
        }
        match (self.mode.as_str(), cluster) {
            ("sentinel", _) => Err(ConnectError::new(
                ErrorKind::Config,
                "the server is a sentinel; use `redis+sentinel://host/name`",
            )),
            ("cluster", false) => Err(ConnectError::new(
                ErrorKind::Config,
                "the server is a cluster node; use `redis+cluster://` (`rediss+cluster://` with \
                 TLS)",
            )),
            ("cluster", true) | (_, false) => Ok(()),
            (_, true) => Err(ConnectError::new(
                ErrorKind::Config,
                "the server is not in cluster mode; use `redis://` (`rediss://` with TLS)",
            )),
        }
    }

    pub(super) fn is_master(&self) -> bool {
        self.role == "master"
    }
}

/// The relevant fields of the reply to `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InfoReply {
    pub(super) maxmemory: u64,
    pub(super) policy: Option<String>,
    pub(super) aof_enabled: Option<bool>,
    pub(super) uptime: Option<Duration>,
    pub(super) loading: bool,
}

impl InfoReply {
    pub(super) fn parse(reply: &Value) -> Self {
        let mut info = Self::default();
        for (key, value) in as_text(reply)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split_once(':'))
        {
            match key {
                "maxmemory" => info.maxmemory = value.parse().unwrap_or(0),
                "maxmemory_policy" => info.policy = Some(value.to_owned()),
                "aof_enabled" => info.aof_enabled = Some(value == "1"),
                "uptime_in_seconds" => info.uptime = value.parse().ok().map(Duration::from_secs),
                "loading" => info.loading = value == "1",
                _ => {}
            }
        }
        info
    }

    /// Rejects a server that is not ready or does not keep what the options state. Returns a
    /// warning about a problem that the options tolerate.
    pub(super) fn check(&self, options: &Options) -> Result<Option<String>, ConnectError> {
        if self.loading {
            return Err(ConnectError::new(
                ErrorKind::Unavailable,
                "the server is still loading its data",
            ));
        }
        if options.durability == Durability::Local && self.aof_enabled != Some(true) {
            return Err(ConnectError::new(
                ErrorKind::Config,
                "`durability = \"local\"` is set, but the server's `appendonly` is off; set \
                 `appendonly yes` and `appendfsync always` on the server, or `durability = \
                 \"volatile\"`",
            ));
        }
        let policy = self.policy.as_deref().unwrap_or("noeviction");
        if self.maxmemory == 0 || policy == "noeviction" {
            return Ok(None);
        }
        let problem = format!(
            "the server's `maxmemory-policy` is `{policy}`, which evicts {} when memory runs out; \
             set it to `noeviction`",
            if policy.starts_with("volatile") {
                "the locks"
            } else {
                "locks and queues"
            }
        );
        match options.eviction {
            Eviction::Warn => Ok(Some(problem)),
            Eviction::Refuse => Err(ConnectError::new(
                ErrorKind::Config,
                format!("{problem}, or set `backend.options.eviction = \"warn\"`"),
            )),
        }
    }

    /// The time for which the restart delay still blocks grants.
    pub(super) fn restart_delay_left(&self, options: &Options) -> Duration {
        // A server that does not report its uptime may have just started. A reported uptime is the
        // difference of two whole seconds, so it may be 1 s immediately after the start.
        let up = self.uptime.unwrap_or(Duration::ZERO);
        let up = up.saturating_sub(Duration::from_secs(1));
        options.restart_delay.saturating_sub(up)
    }
}

/// The text of a reply, if it is one.
pub(super) fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn key_text(value: &Value) -> &str {
    as_text(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: &str, mode: &str) -> HelloReply {
        HelloReply {
            version: version.to_owned(),
            mode: mode.to_owned(),
            role: "master".to_owned(),
        }
    }

    #[test]
    fn old_server_or_wrong_mode_is_rejected_with_a_hint() {
        assert_eq!(hello("6.2.0", "standalone").check(false), Ok(()));
        assert_eq!(hello("8.0.1", "cluster").check(true), Ok(()));
        assert_eq!(hello("10.0", "standalone").check(false), Ok(()));
        for (old, mode, cluster, hint) in [
            ("6.0.16", "standalone", false, "6.2"),
            ("", "standalone", false, "6.2"),
            ("7.0.15", "cluster", false, "redis+cluster://"),
            ("7.0.15", "standalone", true, "`redis://`"),
            ("7.0.15", "sentinel", false, "redis+sentinel://"),
            ("7.0.15", "sentinel", true, "redis+sentinel://"),
        ] {
            let error = hello(old, mode).check(cluster).unwrap_err();
            assert!(error.detail.contains(hint), "{error:?}");
        }
    }

    fn info(text: &str) -> InfoReply {
        InfoReply::parse(&Value::BulkString(text.replace('\n', "\r\n").into_bytes()))
    }

    #[test]
    fn x1_server_that_may_evict_is_rejected_or_warned_about() {
        let info_with = |policy: &str, max: u64| {
            info(&format!(
                "# Memory\nmaxmemory:{max}\nmaxmemory_policy:{policy}\n"
            ))
        };
        let refuse = Options::default();
        let warn = Options::default().eviction(Eviction::Warn);
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let error = info_with(policy, 1).check(&refuse).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config);
            assert!(error.detail.contains(policy), "{error:?}");
            let warning = info_with(policy, 1).check(&warn).unwrap();
            assert!(warning.unwrap().contains("noeviction"));
            assert_eq!(info_with(policy, 0).check(&refuse), Ok(None));
        }
        assert_eq!(info_with("noeviction", 1).check(&refuse), Ok(None));
    }

    #[test]
    fn c1_durability_local_requires_the_append_only_file() {
        let local = Options::default().durability(Durability::Local);
        assert!(info("aof_enabled:0\n").check(&local).is_err());
        assert!(info("").check(&local).is_err());
        assert_eq!(info("aof_enabled:1\n").check(&local), Ok(None));
        assert_eq!(info("aof_enabled:0\n").check(&Options::default()), Ok(None));
        assert!(info("loading:1\n").check(&Options::default()).is_err());
    }

    #[test]
    fn x1_grants_stay_blocked_for_the_rest_of_the_restart_delay() {
        let options = Options::default().restart_delay(Duration::from_secs(30));
        let left = |text| info(text).restart_delay_left(&options).as_secs();
        assert_eq!(left("uptime_in_seconds:10\n"), 21);
        assert_eq!(left("uptime_in_seconds:30\n"), 1);
        assert_eq!(left("uptime_in_seconds:31\n"), 0);
        assert_eq!(left("uptime_in_seconds:1\n"), 30);
        assert_eq!(left("uptime_in_seconds:99\n"), 0);
        assert_eq!(left(""), 30);
    }
}
