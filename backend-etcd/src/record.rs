//! The value of a contender's key: its owner, for people to read.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tenure_core::{
    error::{Error, ErrorKind},
    id::AttemptId,
    request::{Enqueue, Holder, Owner, Since, Waiter},
    token::FencingToken,
};

use crate::{
    error::backend_error,
    keys::{Contender, display_key},
};

/// The format that this version writes.
const FORMAT_VERSION: u64 = 1;

/// One line of JSON.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    tenure: u64,
    /// The attempt that owns the entry.
    attempt: String,
    label: String,
    host: String,
    pid: u32,
    /// In milliseconds.
    ttl: u64,
    /// The time of the enqueue by the clock of its client, in microseconds since 1970.
    at: u64,
    /// Added to the revision to make the token.
    #[serde(default, skip_serializing_if = "is_zero")]
    floor: u64,
}

#[derive(Deserialize)]
struct FormatOnly {
    tenure: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde requires this signature"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A contender as read from the store.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    pub(crate) contender: Contender,
    pub(crate) revision: i64,
    /// `None` for a foreign contender.
    details: Option<Details>,
}

#[derive(Clone, Debug)]
struct Details {
    attempt: AttemptId,
    owner: Owner,
    ttl: Duration,
    since: SystemTime,
    floor: u64,
}

/// The token of a contender with this create revision.
pub(crate) fn token(floor: u64, revision: i64) -> FencingToken {
    FencingToken::new(floor.saturating_add(u64::try_from(revision).unwrap_or(0)))
}

/// The value for the key of this attempt.
pub(crate) fn encode(request: &Enqueue, floor: FencingToken) -> Vec<u8> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let record = Record {
        tenure: FORMAT_VERSION,
        attempt: request.attempt.to_string(),
        label: request.owner.label.clone(),
        host: request.owner.host.clone(),
        pid: request.owner.pid,
        ttl: u64::try_from(request.ttl.as_millis()).unwrap_or(u64::MAX),
        at: at.map_or(0, |at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX)),
        floor: floor.get(),
    };
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Reads a contender. The value of a foreign contender may be anything.
///
/// # Errors
///
/// [`ErrorKind::NewerFormat`] or [`ErrorKind::Corrupt`], with the key, if this version cannot read
/// an entry of `tenure`.
pub(crate) fn read(
    operation: &'static str,
    contender: Contender,
    kv: &etcd_client::KeyValue,
) -> Result<QueueEntry, Error> {
    let revision = kv.create_revision();
    let details = match contender {
        Contender::Foreign { .. } => None,
        Contender::Ours { .. } => Some(decode(kv.value()).map_err(|error| match error {
            DecodeError::Newer(version) => backend_error(
                ErrorKind::NewerFormat,
                operation,
                format!(
                    "key {} has format {version}, but this version reads formats up to \
                     {FORMAT_VERSION}; update this program",
                    display_key(kv.key())
                ),
            ),
            DecodeError::Malformed => backend_error(
                ErrorKind::Corrupt,
                operation,
                format!(
                    "key {} holds a value that this backend did not write; delete the key if \
                     nothing else uses it",
                    display_key(kv.key())
                ),
            ),
        })?),
    };
    Ok(QueueEntry {
        contender,
        revision,
        details,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum DecodeError {
    Newer(u64),
    Malformed,
}

fn decode(value: &[u8]) -> Result<Details, DecodeError> {
    let version: FormatOnly = serde_json::from_slice(value).map_err(|_| DecodeError::Malformed)?;
    if version.tenure > FORMAT_VERSION {
        return Err(DecodeError::Newer(version.tenure));
    }
    let record: Record = serde_json::from_slice(value).map_err(|_| DecodeError::Malformed)?;
    let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(record.at));
    if record.tenure != FORMAT_VERSION || record.floor > FencingToken::MAX.get() {
        return Err(DecodeError::Malformed);
    }
    Ok(Details {
        attempt: AttemptId::parse(&record.attempt).ok_or(DecodeError::Malformed)?,
        owner: Owner::new(record.label, record.host, record.pid),
        ttl: Duration::from_millis(record.ttl),
        since: since.ok_or(DecodeError::Malformed)?,
        floor: record.floor,
    })
}

impl QueueEntry {
    pub(crate) fn token(&self) -> FencingToken {
        let floor = self.details.as_ref().map_or(0, |details| details.floor);
        token(floor, self.revision)
    }

    pub(crate) fn holder(&self) -> Holder {
        match &self.details {
            Some(details) => Holder::new(details.attempt, details.owner.clone())
                .with_token(self.token())
                .with_since(Since::Enqueued(details.since))
                .with_ttl(details.ttl),
            None => Holder::foreign().with_token(self.token()),
        }
    }

    pub(crate) fn waiter(&self) -> Waiter {
        let owner = self.details.as_ref().map(|details| details.owner.clone());
        let since = self.details.as_ref().map(|details| details.since);
        Waiter::new(self.attempt(), owner, since)
    }

    /// The attempt that owns the entry; `None` for a foreign contender.
    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        self.details.as_ref().map(|details| details.attempt)
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::name::LockName;

    use super::*;

    fn written(label: &str, floor: u64) -> Vec<u8> {
        let request = Enqueue::new(
            LockName::new("a").unwrap(),
            AttemptId::from_u128(1),
            Owner::new(label, "host", 7),
            Duration::from_millis(2500),
            true,
        );
        encode(&request, FencingToken::new(floor))
    }

    #[test]
    fn owners_round_trip_as_one_line_of_json() {
        for label in ["", "a b", "\"", "é%", "\n\u{1}"] {
            let value = written(label, 5);
            assert!(!value.contains(&b'\n'), "{label:?}");
            let details = decode(&value).unwrap();
            assert_eq!(details.owner, Owner::new(label, "host", 7));
            assert_eq!(details.ttl, Duration::from_millis(2500));
            assert_eq!(details.floor, 5);
            assert_eq!(details.attempt, AttemptId::from_u128(1));
            assert!(details.since.elapsed().unwrap() < Duration::from_secs(60));
        }
    }

    #[test]
    fn s2_s3_unreadable_values_are_rejected_with_their_reason() {
        for wrong in [
            &b""[..],
            b"\xff",
            b"{}",
            b"7",
            b"{\"tenure\":1}",
            b"{\"tenure\":1,\"attempt\":\"x\",\"label\":\"\",\"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":1}",
            b"{\"tenure\":0,\"attempt\":\"00000000000000000000000000000001\",\"label\":\"\",\"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":1}",
            b"{\"tenure\":1,\"attempt\":\"00000000000000000000000000000001\",\"label\":\"\",\"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":1,\"floor\":9223372036854775807}",
        ] {
            assert_eq!(decode(wrong).unwrap_err(), DecodeError::Malformed, "{wrong:?}");
        }
        let newer = decode(b"{\"tenure\":2,\"what\":\"ever\"}").unwrap_err();
        assert_eq!(newer, DecodeError::Newer(2));
        let latest = format!(
            "{{\"tenure\":1,\"attempt\":\"00000000000000000000000000000001\",\"label\":\"\",\"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":{}}}",
            u64::MAX
        );
        // Some systems cannot represent such a late date; none may panic.
        let _ = decode(latest.as_bytes());
    }
}
