//! The value of a contender's key: its owner, for people to read.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tenure_core::{
    error::{Error, ErrorKind},
    id::AttemptId,
    mode::Mode,
    request::{Enqueue, Holder, Owner, Since, Waiter},
    token::FencingToken,
};

use crate::{
    error::backend_error,
    keys::{Contender, display_key},
};

/// The format of an exclusive entry.
const EXCLUSIVE_FORMAT: u64 = 1;

/// The format of an entry with another mode. A client that knows only exclusive locks rejects it, or
/// does not read the value and takes the entry for an exclusive one (S3).
const MODE_FORMAT: u64 = 2;

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
    /// Present if it is not exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
}

/// The part of a record that decides who holds the lock.
#[derive(Deserialize)]
struct ModeOnly<'a> {
    tenure: u64,
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
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
    mode: Mode,
}

/// The token of a contender with this create revision.
pub(crate) fn token(floor: u64, revision: i64) -> FencingToken {
    FencingToken::new(floor.saturating_add(u64::try_from(revision).unwrap_or(0)))
}

/// The value for the key of this attempt.
pub(crate) fn encode(request: &Enqueue, floor: FencingToken) -> Vec<u8> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mode = request.mode;
    let record = Record {
        tenure: format_of(mode),
        attempt: request.attempt.to_string(),
        label: request.owner.label.clone(),
        host: request.owner.host.clone(),
        pid: request.owner.pid,
        ttl: u64::try_from(request.ttl.as_millis()).unwrap_or(u64::MAX),
        at: at.map_or(0, |at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX)),
        floor: floor.get(),
        mode: (!mode.is_exclusive()).then(|| mode.to_string()),
    };
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The same value with the mode `shared`; `None` if the value is not one of this backend.
pub(crate) fn downgraded(value: &[u8]) -> Option<Vec<u8>> {
    let mut record: Record = serde_json::from_slice(value).ok()?;
    record.tenure = MODE_FORMAT;
    record.mode = Some(Mode::Shared.to_string());
    serde_json::to_vec(&record).ok()
}

const fn format_of(mode: Mode) -> u64 {
    if mode.is_exclusive() {
        EXCLUSIVE_FORMAT
    } else {
        MODE_FORMAT
    }
}

/// Whether a value is that of a shared entry.
pub(crate) fn is_shared(value: &[u8]) -> bool {
    decode_mode(value) == Ok(Mode::Shared)
}

/// Reads the mode of a contender. A foreign contender is exclusive.
///
/// # Errors
///
/// As [`read`].
pub(crate) fn read_mode(
    operation: &'static str,
    contender: Contender,
    kv: &etcd_client::KeyValue,
) -> Result<Mode, Error> {
    match contender {
        Contender::Foreign { .. } => Ok(Mode::Exclusive),
        Contender::Ours { .. } => {
            decode_mode(kv.value()).map_err(|error| error.into_error(operation, kv.key()))
        }
    }
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
        Contender::Ours { .. } => {
            Some(decode(kv.value()).map_err(|error| error.into_error(operation, kv.key()))?)
        }
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

impl DecodeError {
    fn into_error(self, operation: &'static str, key: &[u8]) -> Error {
        let key = display_key(key);
        match self {
            Self::Newer(version) => backend_error(
                ErrorKind::NewerFormat,
                operation,
                format!(
                    "key {key} has format {version}, but this version reads formats up to \
                     {MODE_FORMAT}; update this program"
                ),
            ),
            Self::Malformed => backend_error(
                ErrorKind::Corrupt,
                operation,
                format!(
                    "key {key} holds a value that this backend did not write; delete the key if \
                     nothing else uses it"
                ),
            ),
        }
    }
}

fn decode_mode(value: &[u8]) -> Result<Mode, DecodeError> {
    let record: ModeOnly<'_> = serde_json::from_slice(value).map_err(|_| DecodeError::Malformed)?;
    if record.tenure > MODE_FORMAT {
        return Err(DecodeError::Newer(record.tenure));
    }
    let mode = match &record.mode {
        None => Some(Mode::Exclusive),
        Some(text) => Mode::parse(text).filter(|mode| !mode.is_exclusive()),
    };
    mode.filter(|mode| format_of(*mode) == record.tenure)
        .ok_or(DecodeError::Malformed)
}

fn decode(value: &[u8]) -> Result<Details, DecodeError> {
    let mode = decode_mode(value)?;
    let record: Record = serde_json::from_slice(value).map_err(|_| DecodeError::Malformed)?;
    let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(record.at));
    if record.floor > FencingToken::MAX.get() {
        return Err(DecodeError::Malformed);
    }
    Ok(Details {
        attempt: AttemptId::parse(&record.attempt).ok_or(DecodeError::Malformed)?,
        owner: Owner::new(record.label, record.host, record.pid),
        ttl: Duration::from_millis(record.ttl),
        since: since.ok_or(DecodeError::Malformed)?,
        floor: record.floor,
        mode,
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
                .with_ttl(details.ttl)
                .with_mode(details.mode),
            None => Holder::foreign().with_token(self.token()),
        }
    }

    pub(crate) fn waiter(&self) -> Waiter {
        let owner = self.details.as_ref().map(|details| details.owner.clone());
        let since = self.details.as_ref().map(|details| details.since);
        Waiter::new(self.attempt(), owner, since).with_mode(self.mode())
    }

    /// The mode; exclusive for a foreign contender.
    pub(crate) fn mode(&self) -> Mode {
        let details = self.details.as_ref();
        details.map_or(Mode::Exclusive, |details| details.mode)
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
        written_as(Mode::Exclusive, label, floor)
    }

    fn written_as(mode: Mode, label: &str, floor: u64) -> Vec<u8> {
        let request = Enqueue::new(
            LockName::new("a").unwrap(),
            AttemptId::from_u128(1),
            Owner::new(label, "host", 7),
            Duration::from_millis(2500),
            true,
        )
        .with_mode(mode);
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
    fn s3_exclusive_entry_is_written_as_before_modes_existed() {
        let text = String::from_utf8(written("a", 0)).unwrap();
        let fields = "{\"tenure\":1,\"attempt\":\"00000000000000000000000000000001\",\
                      \"label\":\"a\",\"host\":\"host\",\"pid\":7,\"ttl\":2500,\"at\":";
        let rest = text.strip_prefix(fields).unwrap();
        let digits = rest.strip_suffix('}').unwrap();
        assert!(digits.parse::<u64>().is_ok(), "{text}");
    }

    #[test]
    fn s3_modes_round_trip_in_a_format_that_older_clients_reject() {
        let permits = Mode::permits(2, 5).unwrap();
        for mode in [Mode::Exclusive, Mode::Shared, permits] {
            let value = written_as(mode, "a", 5);
            assert_eq!(decode(&value).unwrap().mode, mode);
            assert_eq!(decode_mode(&value), Ok(mode));
            let version = serde_json::from_slice::<ModeOnly<'_>>(&value)
                .unwrap()
                .tenure;
            assert_eq!(version, if mode.is_exclusive() { 1 } else { 2 });
        }
    }

    #[test]
    fn m4_downgraded_value_differs_in_nothing_but_the_mode() {
        let value = written("\"é", 5);
        let shared = downgraded(&value).unwrap();
        let (before, after) = (decode(&value).unwrap(), decode(&shared).unwrap());
        assert_eq!((before.mode, after.mode), (Mode::Exclusive, Mode::Shared));
        assert_eq!(
            (
                before.attempt,
                before.owner,
                before.since,
                before.floor,
                before.ttl
            ),
            (
                after.attempt,
                after.owner,
                after.since,
                after.floor,
                after.ttl
            )
        );
        assert_eq!(
            downgraded(&shared).as_ref(),
            Some(&shared),
            "it can be repeated"
        );
    }

    #[test]
    fn s2_mode_that_this_version_did_not_write_is_malformed() {
        for mode in [
            "Shared",
            "",
            "exclusive",
            "0/2",
            "3/2",
            "1/02",
            "1/4294967296",
            "upgraded",
        ] {
            let value = String::from_utf8(written_as(Mode::Shared, "a", 0)).unwrap();
            let value = value.replace("\"shared\"", &format!("\"{mode}\""));
            assert_eq!(
                decode_mode(value.as_bytes()),
                Err(DecodeError::Malformed),
                "{mode}"
            );
        }
        for (mode, from, to) in [(Mode::Shared, 2, 1), (Mode::Exclusive, 1, 2)] {
            let value = String::from_utf8(written_as(mode, "a", 0)).unwrap();
            let value = value.replace(&format!("\"tenure\":{from}"), &format!("\"tenure\":{to}"));
            assert_eq!(
                decode_mode(value.as_bytes()),
                Err(DecodeError::Malformed),
                "{value}"
            );
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
        let newer = decode(b"{\"tenure\":3,\"what\":\"ever\"}").unwrap_err();
        assert_eq!(newer, DecodeError::Newer(3));
        let latest = format!(
            "{{\"tenure\":1,\"attempt\":\"00000000000000000000000000000001\",\"label\":\"\",\"host\":\"\",\"pid\":1,\"ttl\":1,\"at\":{}}}",
            u64::MAX
        );
        // Some systems cannot represent such a late date; none may panic.
        let _ = decode(latest.as_bytes());
    }
}
