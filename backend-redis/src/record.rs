//! The records that the scripts store for an attempt, and the messages that they publish.

use std::time::{Duration, SystemTime};

use tenure_core::{
    backend::BackendEvent,
    error::{Error, ErrorKind},
    id::{AttemptId, ClientId},
    loss::LossReason,
    mode::Mode,
    name::{decode, encode},
    request::{Enqueue, Grant, Holder, Owner, Since, StoreTime},
    token::FencingToken,
};

/// The prefix of every record and message about exclusive attempts.
const FORMAT_PREFIX: &str = "tenure/1 ";

/// The prefix of every record and message about attempts of other modes. Versions without modes
/// refuse it.
const FORMAT_MODES_PREFIX: &str = "tenure/2 ";

/// Encodes an owner as one word without spaces.
fn encode_owner(owner: &Owner) -> String {
    let (label, host) = (encode(&owner.label), encode(&owner.host));
    format!("{label}/{host}/{}", owner.pid)
}

/// Parses what [`encode_owner`] wrote. The text is untrusted.
pub(crate) fn decode_owner(text: &str) -> Option<Owner> {
    let mut parts = text.split('/');
    let label = decode(parts.next()?)?;
    let host = decode(parts.next()?)?;
    let pid = parts.next()?.parse().ok()?;
    parts.next().is_none().then(|| Owner::new(label, host, pid))
}

/// Converts a time of the server's clock.
pub(crate) fn system_time(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

/// The fields of an attempt as the enqueue script takes them: TTL, client and owner, and a mode that
/// is not exclusive.
pub(crate) fn attempt_fields(request: &Enqueue, client: ClientId) -> String {
    let owner = encode_owner(&request.owner);
    let ttl = request.ttl.as_micros();
    match request.mode {
        Mode::Exclusive => format!("{ttl} {client} {owner}"),
        mode => format!("{ttl} {client} {owner} {mode}"),
    }
}

/// Parses a holder as a script shows it. `raw` is the record, empty without a holder; `now` is the
/// server's time; `foreign_ms` is the remaining TTL of a foreign holder in milliseconds, negative
/// if it does not expire.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] if the record has this project's prefix and is malformed.
pub(crate) fn read_holder(raw: &str, now: u64, foreign_ms: i64) -> Result<Option<Holder>, Error> {
    if raw.is_empty() {
        return Ok(None);
    }
    if !raw.starts_with("tenure/") {
        let left = u64::try_from(foreign_ms).ok().map(Duration::from_millis);
        return Ok(Some(Holder::foreign().with_expires_in(left)));
    }
    parse_holder(raw, now).map(Some).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "reading a holder")
            .with_backend("redis")
            .with_detail("the holder's record is malformed; delete the key if nobody uses it")
    })
}

fn parse_holder(raw: &str, now: u64) -> Option<Holder> {
    let modes = raw.strip_prefix(FORMAT_MODES_PREFIX);
    let mut words = modes
        .or_else(|| raw.strip_prefix(FORMAT_PREFIX))?
        .split(' ');
    let attempt = AttemptId::parse(words.next()?)?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (refreshed, token, ttl) = (number()?, number()?, number()?);
    let _client = words.next()?;
    let owner = decode_owner(words.next()?)?;
    let _enqueued = words.next()?;
    let granted = words.next()?.parse().ok()?;
    let mode = match modes {
        Some(_) => Mode::parse(words.next()?)?,
        None => Mode::Exclusive,
    };
    let left = refreshed.saturating_add(ttl).saturating_sub(now);
    Some(
        Holder::new(attempt, owner)
            .with_token(FencingToken::new(token))
            .with_since(Since::Granted(system_time(granted)))
            .with_expires_in(Some(Duration::from_micros(left)))
            .with_ttl(Duration::from_micros(ttl))
            .with_mode(mode),
    )
}

/// Parses the reason for which an entry is gone.
pub(crate) fn loss_reason(word: &str) -> LossReason {
    match word {
        "expired" => LossReason::Expired,
        "displaced" => LossReason::Displaced,
        _ => LossReason::Evicted,
    }
}

/// Parses a message from the inbox channel; `None` if it is not of a known format version. A message
/// about attempts of other modes concerns one or more attempts of the client.
pub(crate) fn read_message(payload: &[u8]) -> Option<Vec<BackendEvent>> {
    let text = std::str::from_utf8(payload).ok()?;
    let Some(words) = text.strip_prefix(FORMAT_PREFIX) else {
        return read_joint_message(text.strip_prefix(FORMAT_MODES_PREFIX)?);
    };
    let mut words = words.split(' ');
    let kind = words.next()?;
    let attempt = AttemptId::parse(words.next()?)?;
    let event = match kind {
        "granted" => BackendEvent::Granted(read_grant(attempt, &mut words)?),
        "lost" => BackendEvent::Lost {
            attempt,
            reason: loss_reason(words.next()?),
        },
        _ => return None,
    };
    Some(vec![event])
}

/// Parses the token, the TTL and the time of a pushed grant.
fn read_grant<'a>(attempt: AttemptId, words: &mut impl Iterator<Item = &'a str>) -> Option<Grant> {
    let mut number = || words.next()?.parse::<u64>().ok();
    let (token, ttl, as_of) = (number()?, number()?, number()?);
    Some(Grant::pushed(
        attempt,
        FencingToken::new(token),
        Duration::from_micros(ttl),
        StoreTime::new(as_of),
    ))
}

/// Parses `granted FLOOR` with ATTEMPT TOKEN TTL AS-OF for each grant, `lost REASON` with each
/// ATTEMPT, and `recheck` with each ATTEMPT that has to report.
fn read_joint_message(text: &str) -> Option<Vec<BackendEvent>> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let subject = match kind {
        "granted" | "lost" => words.next()?,
        _ => "",
    };
    let mut events = Vec::new();
    while let Some(word) = words.next() {
        let attempt = AttemptId::parse(word)?;
        events.push(match kind {
            "granted" => {
                let floor = FencingToken::new(subject.parse().ok()?);
                BackendEvent::Granted(read_grant(attempt, &mut words)?.with_floor(floor))
            }
            "lost" => BackendEvent::Lost {
                attempt,
                reason: loss_reason(subject),
            },
            "recheck" => BackendEvent::Recheck { attempt },
            _ => return None,
        });
    }
    (!events.is_empty()).then_some(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_owner_with_any_text_survives_encoding() {
        for label in ["", "a b", "a/b", "é%", "..", "\n"] {
            let owner = Owner::new(label, "host", 7);
            let word = encode_owner(&owner);
            assert!(!word.contains(' '), "{word}");
            assert_eq!(decode_owner(&word), Some(owner));
        }
        for wrong in ["", "a", "a/b", "a/b/c", "a/b/1/2", "%/b/1"] {
            assert_eq!(decode_owner(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn s2_holder_is_ours_foreign_or_malformed() {
        let id = AttemptId::from_u128(1);
        let client = "2".repeat(32);
        let raw = format!("tenure/1 {id} 1000 9 500 {client} a/b/5 3 4");
        let holder = read_holder(&raw, 1200, -1).unwrap().unwrap();
        assert_eq!(holder.attempt, Some(id));
        assert_eq!(holder.token, Some(FencingToken::new(9)));
        assert_eq!(holder.expires_in, Some(Duration::from_micros(300)));
        assert_eq!(read_holder("", 0, -1).unwrap(), None);
        let foreign = read_holder("1234", 0, 70).unwrap().unwrap();
        assert_eq!(foreign.attempt, None);
        assert_eq!(foreign.expires_in, Some(Duration::from_millis(70)));
        let kind = read_holder("tenure/1 x", 0, -1).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Corrupt);
    }

    #[test]
    fn s2_foreign_message_is_ignored() {
        for wrong in [
            &b"\xff"[..],
            b"",
            b"tenure/3 granted",
            b"tenure/2 granted",
            b"tenure/2 granted 1 x",
            b"tenure/1 granted x",
            b"hello",
        ] {
            assert_eq!(read_message(wrong), None);
        }
        let text = format!("tenure/1 lost {} evicted", AttemptId::from_u128(1));
        let events = read_message(text.as_bytes()).unwrap();
        assert!(matches!(events[..], [BackendEvent::Lost { .. }]));
    }

    #[test]
    fn m3_message_has_several_grants_with_one_floor() {
        let ids = [1, 2].map(AttemptId::from_u128);
        let text = format!("tenure/2 granted 7 {} 8 500 3 {} 9 600 4", ids[0], ids[1]);
        let events = read_message(text.as_bytes()).unwrap();
        let grants: Vec<_> = events
            .iter()
            .map(|event| match event {
                BackendEvent::Granted(grant) => {
                    (grant.attempt, grant.token.get(), grant.floor.get())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(grants, [(ids[0], 8, 7), (ids[1], 9, 7)]);
        // A part of a message is not read as a shorter one.
        assert_eq!(read_message(&text.as_bytes()[..text.len() - 2]), None);
    }
}
