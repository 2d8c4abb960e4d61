//! The blob: the binary format of a lock's state and its validation (clauses S2, S3).
//!
//! ```text
//! tenure 2 8c7f00aa
//! {"namespace":"billing","name":"job","generation":1754000000000000,"queue":{…},"entries":2}
//! 5d0c… (the holder)
//! 91ab… (a waiter)
//! ```
//!
//! The first line contains the format number and the CRC-32 of everything after it. Each entry has a
//! line, see [`entry_line`]. A change of one entry changes its line and the first two: a store can
//! write only these.
//!
//! Format 3 is written while an entry is not exclusive: each line begins with the mode of its entry.
//! A client that knows formats up to 2 refuses such a lock, and shares all others (clause S3). Format 1,
//! which is read and no longer written, had all in one JSON object.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{entry_line, store::Key};
use crate::{
    error::ErrorKind,
    queue::{Entry, Queue, QueueSummary},
    request::StoreTime,
};

/// The format of a queue of exclusive entries.
const FORMAT_EXCLUSIVE: u64 = 2;
/// The format of every other queue, which is also the newest one that this version reads.
const FORMAT_MODES: u64 = 3;
/// Length of an entry's line with texts of usual length, to allocate the blob at once.
const USUAL_LINE_BYTES: usize = 256;
const MAGIC: &[u8] = b"tenure ";
/// Limit of all counters. No valid history reaches it, and beyond it an addition could overflow.
const COUNTER_LIMIT: u64 = 1 << 62;

/// The state of a lock with its generation.
#[derive(Clone, Debug, Default)]
pub(super) struct LockRecord {
    /// Increases with each swap. Across a deletion of the blob it increases as long as the wall
    /// clock does.
    pub(super) generation: u64,
    pub(super) queue: Queue,
}

impl LockRecord {
    pub(super) const fn as_of(&self) -> StoreTime {
        StoreTime::new(self.generation)
    }
}

/// The reason for which bytes are not a valid state.
#[derive(Debug)]
pub(super) struct InvalidBlob {
    pub(super) kind: ErrorKind,
    why: String,
}

impl InvalidBlob {
    fn corrupt(why: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Corrupt,
            why: why.into(),
        }
    }
}

impl fmt::Display for InvalidBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The second line, followed by the lines of that number of entries.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    namespace: String,
    name: String,
    generation: u64,
    queue: QueueSummary,
    entries: usize,
}

/// The body of format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeRecord {
    namespace: String,
    name: String,
    generation: u64,
    queue: Queue,
}

/// Encodes a state.
pub(super) fn encode(key: &Key, state: &LockRecord) -> Result<Vec<u8>, serde_json::Error> {
    let entries = state.queue.entries();
    let mut bytes = Vec::with_capacity((entries.len() + 2) * USUAL_LINE_BYTES);
    let (format, write_entry): (_, fn(&mut Vec<u8>, &Entry) -> _) = if state.queue.is_exclusive() {
        (FORMAT_EXCLUSIVE, entry_line::write)
    } else {
        (FORMAT_MODES, entry_line::write_with_mode)
    };
    // The checksum replaces its digits once the body is known.
    bytes.extend_from_slice(format!("tenure {format} {:08x}\n", 0).as_bytes());
    let body = bytes.len();
    let header = Header {
        namespace: key.namespace.as_str().to_owned(),
        name: key.name.as_str().to_owned(),
        generation: state.generation,
        queue: state.queue.summary(),
        entries: entries.len(),
    };
    serde_json::to_writer(&mut bytes, &header)?;
    bytes.push(b'\n');
    for entry in entries {
        write_entry(&mut bytes, entry)?;
    }
    let checksum = format!("{:08x}", crc32fast::hash(&bytes[body..]));
    bytes[body - checksum.len() - 1..body - 1].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// Decodes a state from untrusted bytes.
pub(super) fn decode(key: &Key, bytes: &[u8]) -> Result<LockRecord, InvalidBlob> {
    if bytes.is_empty() {
        return Err(InvalidBlob::corrupt("it is empty"));
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(InvalidBlob::corrupt(
            "it was not written by tenure, or was overwritten",
        ));
    };
    let end = rest
        .iter()
        .take(64)
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| InvalidBlob::corrupt("its first line is truncated"))?;
    let (header, body) = (&rest[..end], &rest[end + 1..]);
    let header = std::str::from_utf8(header)
        .map_err(|_| InvalidBlob::corrupt("its first line is not text"))?;
    let (format, checksum) = header.split_once(' ').unwrap_or((header, ""));
    let format: u64 = canonical(format)
        .ok_or_else(|| InvalidBlob::corrupt("its first line has no format number"))?;
    if format > FORMAT_MODES {
        return Err(InvalidBlob {
            kind: ErrorKind::NewerFormat,
            why: format!(
                "it has format {format}, but this version of tenure reads formats up to \
                 {FORMAT_MODES}"
            ),
        });
    }
    if format == 0 {
        return Err(InvalidBlob::corrupt("its format number is invalid"));
    }
    if checksum != format!("{:08x}", crc32fast::hash(body)) {
        return Err(InvalidBlob::corrupt(
            "its checksum is wrong: it was truncated or overwritten",
        ));
    }
    let (header, queue) = match format {
        1 => decode_whole(body)?,
        FORMAT_EXCLUSIVE => decode_lines(body, entry_line::parse)?,
        _ => decode_lines(body, entry_line::parse_with_mode)?,
    };
    if header.namespace != key.namespace.as_str() || header.name != key.name.as_str() {
        return Err(InvalidBlob::corrupt(format!(
            "it is the state of another lock: {:?} in namespace {:?}",
            header.name, header.namespace
        )));
    }
    queue
        .validate()
        .map_err(|malformed| InvalidBlob::corrupt(malformed.to_string()))?;
    let beats_too_often = |queue: &Queue| queue.entries().any(|entry| entry.beat >= COUNTER_LIMIT);
    if header.generation >= COUNTER_LIMIT || beats_too_often(&queue) {
        return Err(InvalidBlob::corrupt("a counter in it is out of range"));
    }
    Ok(LockRecord {
        generation: header.generation,
        queue,
    })
}

/// The names and the generation of a body.
struct Identity {
    namespace: String,
    name: String,
    generation: u64,
}

fn decode_lines(
    body: &[u8],
    parse: impl Fn(&str) -> Option<Entry>,
) -> Result<(Identity, Queue), InvalidBlob> {
    let text = std::str::from_utf8(body)
        .map_err(|_| InvalidBlob::corrupt("it is not the state of a lock: it is not text"))?;
    let (header, lines) = text.split_once('\n').unwrap_or((text, ""));
    let header: Header = serde_json::from_str(header).map_err(not_a_state)?;
    // The number of entries is untrusted: it allocates no more than the text can contain.
    let mut entries = Vec::with_capacity(header.entries.min(lines.len() / 100));
    for line in lines.split_terminator('\n') {
        let entry = parse(line).ok_or_else(|| {
            InvalidBlob::corrupt(format!("its entry {} is malformed", entries.len()))
        })?;
        entries.push(entry);
    }
    if entries.len() != header.entries || !text.ends_with('\n') {
        return Err(InvalidBlob::corrupt("its number of entries is wrong"));
    }
    let identity = Identity {
        namespace: header.namespace,
        name: header.name,
        generation: header.generation,
    };
    Ok((identity, Queue::from_parts(header.queue, entries)))
}

fn decode_whole(body: &[u8]) -> Result<(Identity, Queue), InvalidBlob> {
    let read: WholeRecord = serde_json::from_slice(body).map_err(not_a_state)?;
    let identity = Identity {
        namespace: read.namespace,
        name: read.name,
        generation: read.generation,
    };
    Ok((identity, read.queue))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn not_a_state(error: serde_json::Error) -> InvalidBlob {
    InvalidBlob::corrupt(format!("it is not the state of a lock: {error}"))
}

/// Parses a number that has no sign, no leading zero and no other non-canonical form.
fn canonical(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::{AttemptId, ClientId},
        name::{LockName, Namespace},
        queue::{ClockId, Event, Now, Stamp},
        request::Owner,
    };

    fn key() -> Key {
        Key::new(Namespace::default(), LockName::new("job").unwrap())
    }

    fn held() -> LockRecord {
        let mut queue = Queue::new();
        let now = Now::new(
            Stamp::new(ClockId::new(7), Duration::from_secs(5)),
            1_000,
            1_000,
        );
        for n in 1..=2 {
            queue.on(
                Event::Enqueue {
                    attempt: AttemptId::from_u128(n),
                    client: ClientId::from_u128(9),
                    owner: Owner::new("label", "host", 1),
                    ttl: Duration::from_secs(30),
                    wait: true,
                    mode: crate::mode::Mode::Exclusive,
                },
                &now,
            );
        }
        LockRecord {
            generation: 3,
            queue,
        }
    }

    fn resealed(body: &str) -> Vec<u8> {
        format!("tenure 2 {:08x}\n{body}", crc32fast::hash(body.as_bytes())).into_bytes()
    }

    #[test]
    fn state_round_trips() {
        let bytes = encode(&key(), &held()).unwrap();
        let state = decode(&key(), &bytes).unwrap();
        assert_eq!((state.generation, state.queue), (3, held().queue));
    }

    /// The first entry of another mode changes the format, and the last one that leaves changes it back.
    #[test]
    fn s3_other_modes_have_a_format_of_their_own() {
        let mut state = held();
        let first = |state: &LockRecord| {
            let bytes = encode(&key(), state).unwrap();
            assert_eq!(decode(&key(), &bytes).unwrap().queue, state.queue);
            String::from_utf8(bytes).unwrap()
        };
        assert!(first(&state).starts_with("tenure 2 "));
        let now = Now::new(Stamp::new(ClockId::new(7), Duration::from_secs(6)), 0, 0);
        let attempt = AttemptId::from_u128(3);
        let joins = Event::Enqueue {
            attempt,
            client: ClientId::from_u128(9),
            owner: Owner::new("label", "host", 1),
            ttl: Duration::from_secs(30),
            wait: true,
            mode: crate::mode::Mode::Permits { take: 2, of: 3 },
        };
        state.queue.on(joins, &now);
        let text = first(&state);
        assert!(
            text.starts_with("tenure 3 ") && text.contains("\nexclusive 0000"),
            "{text}"
        );
        assert!(text.contains("\n2/3 0000"), "{text}");
        for damaged in [("2/3", "4/3"), ("2/3", "02/3"), ("exclusive", "shared ")] {
            let body = text
                .split_once('\n')
                .unwrap()
                .1
                .replacen(damaged.0, damaged.1, 1);
            let bytes = format!("tenure 3 {:08x}\n{body}", crc32fast::hash(body.as_bytes()));
            let invalid = decode(&key(), bytes.as_bytes()).unwrap_err();
            assert_eq!(invalid.kind, ErrorKind::Corrupt, "{damaged:?}");
        }
        let fence = None;
        state.queue.on(Event::Remove { attempt, fence }, &now);
        assert!(first(&state).starts_with("tenure 2 "));
    }

    #[test]
    fn s3_state_of_the_first_format_is_read() {
        let queue = serde_json::to_string(&held().queue).unwrap();
        let body =
            format!(r#"{{"namespace":"default","name":"job","generation":3,"queue":{queue}}}"#);
        let checksum = crc32fast::hash(body.as_bytes());
        let bytes = format!("tenure 1 {checksum:08x}\n{body}").into_bytes();
        let state = decode(&key(), &bytes).unwrap();
        assert_eq!((state.generation, state.queue), (3, held().queue));
    }

    #[test]
    fn one_changed_entry_changes_its_line_and_the_header() {
        let before = encode(&key(), &held()).unwrap();
        let mut state = held();
        let now = Now::new(Stamp::new(ClockId::new(7), Duration::from_secs(6)), 0, 0);
        let attempt = AttemptId::from_u128(2);
        state.queue.on(Event::Renew { attempt }, &now);
        let after = encode(&key(), &state).unwrap();
        let lines = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.lines().map(str::to_owned).collect()
        };
        let (before, after) = (lines(&before), lines(&after));
        let same: Vec<_> = before.iter().zip(&after).map(|(a, b)| a == b).collect();
        assert_eq!(same, [false, true, true, false]);
    }

    #[test]
    fn s2_every_truncation_and_changed_byte_is_rejected() {
        let bytes = encode(&key(), &held()).unwrap();
        for end in 0..bytes.len() {
            assert!(decode(&key(), &bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(decode(&key(), &changed).is_err(), "bit {bit} of byte {at}");
            }
        }
        let mut longer = bytes;
        longer.push(b' ');
        assert!(decode(&key(), &longer).is_err());
    }

    #[test]
    fn s3_newer_format_is_reported() {
        let invalid = decode(&key(), b"tenure 4 whatever comes\n\xff").unwrap_err();
        assert_eq!(invalid.kind, ErrorKind::NewerFormat);
        let text = invalid.to_string();
        assert!(
            text.contains("format 4") && text.contains("up to 3"),
            "{text}"
        );
        for odd in ["tenure 0 00000000\n", "tenure +1 0\n", "tenure 01 0\n"] {
            let invalid = decode(&key(), odd.as_bytes()).unwrap_err();
            assert_eq!(invalid.kind, ErrorKind::Corrupt, "{odd}");
        }
    }

    #[test]
    fn n2_state_of_another_lock_is_rejected() {
        let other = Key::new(Namespace::default(), LockName::new("other").unwrap());
        let bytes = encode(&other, &held()).unwrap();
        let text = decode(&key(), &bytes).unwrap_err().to_string();
        assert!(text.contains("\"other\""), "{text}");
    }

    #[test]
    fn s2_impossible_state_with_valid_checksum_is_rejected() {
        let bytes = encode(&key(), &held()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let body = text.split_once('\n').unwrap().1;
        assert!(decode(&key(), &resealed(body)).is_ok());
        for (from, to) in [
            ("\"generation\":3", "\"generation\":18446744073709551615"),
            (" 0 30000000000 ", " 18446744073709551615 30000000000 "),
            ("\"entries\":2", "\"entries\":3"),
            ("\"entries\":2", "\"entries\":18446744073709551615"),
            ("\"last_token\":1000", "\"last_token\":1"),
            ("\"last_token\":1000", "\"last_token\":18446744073709551615"),
            ("\"queue\":", "\"more\":1,\"queue\":"),
        ] {
            assert!(body.contains(from), "{from} in {body}");
            let changed = body.replacen(from, to, 1);
            let invalid = decode(&key(), &resealed(&changed)).unwrap_err();
            assert_eq!(invalid.kind, ErrorKind::Corrupt, "{to}");
        }
    }

    proptest! {
        #[test]
        fn s2_no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&key(), &bytes).is_err());
            for format in [1, 2] {
                let checksum = crc32fast::hash(&bytes);
                let mut sealed = format!("tenure {format} {checksum:08x}\n").into_bytes();
                sealed.extend_from_slice(&bytes);
                prop_assert!(decode(&key(), &sealed).is_err());
            }
        }
    }
}
