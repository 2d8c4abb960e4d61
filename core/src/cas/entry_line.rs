//! The line of a blob that stores one entry of a queue.
//!
//! ```text
//! <attempt> <client> <clock> <refreshed> <beat> <ttl> <enqueued> <token> <granted> <pid> ["label","host"]
//! ```
//!
//! With a mode, it comes first: `exclusive`, `shared` or, for two of ten permits, `2/10`.
//!
//! Identifiers have 32 hexadecimal digits, times are nanoseconds or, of the wall clock, microseconds.
//! Token and time of the grant are `-` if the entry waits. Every client of a lock reads all lines,
//! so a line has no names of fields and is shorter than the same entry in JSON.

use std::time::Duration;

use crate::{
    id::{AttemptId, ClientId},
    mode::Mode,
    queue::{ClockId, Entry, GrantRecord, Stamp},
    request::Owner,
    token::FencingToken,
};

/// Appends the line of an entry, with its line feed.
pub(super) fn write(line: &mut Vec<u8>, entry: &Entry) -> Result<(), serde_json::Error> {
    write_id(line, entry.attempt.as_u128());
    write_id(line, entry.client.as_u128());
    write_id(line, entry.refreshed.clock.as_u128());
    write_number(line, nanos(entry.refreshed.at)?);
    write_number(line, entry.beat);
    write_number(line, nanos(entry.ttl)?);
    write_number(line, entry.enqueued_at_us);
    match entry.grant {
        Some(grant) => {
            write_number(line, grant.token.get());
            write_number(line, grant.granted_at_us);
        }
        None => line.extend_from_slice(b"- - "),
    }
    write_number(line, u64::from(entry.owner.pid));
    serde_json::to_writer(&mut *line, &(&entry.owner.label, &entry.owner.host))?;
    line.push(b'\n');
    Ok(())
}

/// Appends the line of an entry with its mode.
pub(super) fn write_with_mode(line: &mut Vec<u8>, entry: &Entry) -> Result<(), serde_json::Error> {
    line.extend_from_slice(entry.mode.to_string().as_bytes());
    line.push(b' ');
    write(line, entry)
}

/// Parses a line with a mode.
pub(super) fn parse_with_mode(line: &str) -> Option<Entry> {
    let (mode, line) = line.split_once(' ')?;
    let mode = Mode::parse(mode)?;
    parse(line).map(|entry| Entry { mode, ..entry })
}

/// Parses a line without its line feed. Returns `None` for a text that [`write`] does not write.
pub(super) fn parse(line: &str) -> Option<Entry> {
    let mut rest = line;
    let attempt = AttemptId::from_u128(take_id(&mut rest)?);
    let client = ClientId::from_u128(take_id(&mut rest)?);
    let clock = ClockId::new(take_id(&mut rest)?);
    let mut fields = rest.splitn(8, ' ');
    let refreshed = Stamp::new(clock, Duration::from_nanos(parse_number(fields.next()?)?));
    let beat = parse_number(fields.next()?)?;
    let ttl = Duration::from_nanos(parse_number(fields.next()?)?);
    let enqueued_at_us = parse_number(fields.next()?)?;
    let grant = match (fields.next()?, fields.next()?) {
        ("-", "-") => None,
        (token, granted) => Some(GrantRecord {
            token: FencingToken::new(parse_number(token)?),
            granted_at_us: parse_number(granted)?,
        }),
    };
    let pid = u32::try_from(parse_number(fields.next()?)?).ok()?;
    let (label, host) = serde_json::from_str(fields.next()?).ok()?;
    Some(Entry {
        attempt,
        client,
        owner: Owner { label, host, pid },
        ttl,
        refreshed,
        beat,
        enqueued_at_us,
        grant,
        mode: Mode::Exclusive,
    })
}

fn nanos(time: Duration) -> Result<u64, serde_json::Error> {
    u64::try_from(time.as_nanos()).map_err(serde::ser::Error::custom)
}

fn write_id(line: &mut Vec<u8>, id: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b' '; 33];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    line.extend_from_slice(&text);
}

fn write_number(line: &mut Vec<u8>, mut number: u64) {
    // The largest number has 20 digits.
    let mut text = [b' '; 21];
    let mut first = 20;
    loop {
        first -= 1;
        text[first] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&text[first..]);
}

/// Takes an identifier and the space after it from the beginning of a text.
fn take_id<'a>(text: &mut &'a str) -> Option<u128> {
    let (id, rest): (&'a str, &'a str) = text.split_at_checked(32)?;
    *text = rest.strip_prefix(' ')?;
    parse_id(id)
}

fn parse_id(text: &str) -> Option<u128> {
    let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut id = [0; 16];
    let mut invalid = 0;
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (
            DIGIT_VALUES[usize::from(pair[0])],
            DIGIT_VALUES[usize::from(pair[1])],
        );
        // The mark of an invalid digit is above all values.
        invalid |= high | low;
        *byte = high << 4 | low;
    }
    (invalid < INVALID_DIGIT).then_some(u128::from_be_bytes(id))
}

const INVALID_DIGIT: u8 = 0x80;
/// The value of each hexadecimal digit.
const DIGIT_VALUES: [u8; 256] = {
    let mut values = [INVALID_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Parses a number without a sign and without a leading zero.
fn parse_number(text: &str) -> Option<u64> {
    let digits = text.as_bytes();
    let canonical = digits.first()?.is_ascii_digit() && (digits[0] != b'0' || digits.len() == 1);
    canonical.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(numbers: [u64; 6], ids: [u128; 3], pid: u32, texts: [String; 2], held: bool) -> Entry {
        let [label, host] = texts;
        Entry {
            attempt: AttemptId::from_u128(ids[0]),
            client: ClientId::from_u128(ids[1]),
            owner: Owner { label, host, pid },
            ttl: Duration::from_nanos(numbers[0]),
            refreshed: Stamp::new(ClockId::new(ids[2]), Duration::from_nanos(numbers[1])),
            beat: numbers[2],
            enqueued_at_us: numbers[3],
            grant: held.then(|| GrantRecord {
                token: FencingToken::new(numbers[4]),
                granted_at_us: numbers[5],
            }),
            mode: Mode::Exclusive,
        }
    }

    proptest! {
        #[test]
        fn every_entry_round_trips_in_one_line(
            numbers in any::<[u64; 6]>(),
            ids in any::<[u128; 3]>(),
            pid in any::<u32>(),
            texts in any::<[String; 2]>(),
            held in any::<bool>(),
        ) {
            let entry = entry(numbers, ids, pid, texts, held);
            let mut line = Vec::new();
            write(&mut line, &entry).unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n') && !line.contains(&0));
            prop_assert_eq!(parse(std::str::from_utf8(&line).unwrap()), Some(entry.clone()));
            let entry = Entry { mode: Mode::Permits { take: pid.max(1), of: u32::MAX }, ..entry };
            let mut line = Vec::new();
            write_with_mode(&mut line, &entry).unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert_eq!(parse_with_mode(std::str::from_utf8(&line).unwrap()), Some(entry));
        }

        #[test]
        fn s2_no_text_causes_a_panic(text in "[-0-9a-f +]{0,200}.{0,20}") {
            let _ = (parse(&text), parse_with_mode(&text));
        }
    }

    #[test]
    fn s2_a_malformed_line_is_rejected() {
        let texts = ["a \"label\"\n".to_owned(), String::new()];
        let entry = entry(
            [30, 0, 1, u64::MAX, 7, 8],
            [1, 2, u128::MAX],
            42,
            texts,
            true,
        );
        let mut line = Vec::new();
        write(&mut line, &entry).unwrap();
        let line = String::from_utf8(line).unwrap();
        let line = line.trim_end();
        assert_eq!(parse(line), Some(entry));
        for (from, to) in [
            (" 30 ", " 030 "),
            (" 30 ", " +30 "),
            (" 30 ", " -30 "),
            (" 30 ", "  30 "),
            (" 7 8 ", " - 8 "),
            (" 42 ", " 4294967296 "),
            ("ffff", "FFFF"),
            ("0000", "000"),
            (",\"\"]", "]"),
        ] {
            assert!(line.contains(from), "{from}");
            assert_eq!(parse(&line.replacen(from, to, 1)), None, "{to}");
        }
    }
}
