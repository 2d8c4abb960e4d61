//! A parser of the length-prefixed frames of ZooKeeper clients and servers.

use std::io;

use super::{
    cursor::Cursor,
    found::{Fed, Found},
};

/// The maximum size of a frame; the default limit of a server is 1 MiB.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
/// Stands for the reply to the first request of a connection, which has no number.
const FIRST: i64 = i64::MIN;

/// A parser of the data of one client, in chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Parser {
    frame: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// The first data is the request for a session, or a four-letter command.
    #[default]
    Connect,
    Requests,
    /// A four-letter command was sent; no further data follows.
    Over,
    /// The data was invalid; nothing more is parsed.
    Lost,
}

impl Parser {
    pub(super) fn feed(&mut self, piece: &[u8]) -> Fed {
        let mut fed = Fed::default();
        let mut rest = piece;
        while !rest.is_empty() && !matches!(self.state, State::Over | State::Lost) {
            fed.began |= self.frame.is_empty();
            let missing = missing(&self.frame).min(rest.len());
            let (now, later) = rest.split_at(missing);
            rest = later;
            self.frame.extend_from_slice(now);
            if let Some(command) = self.complete() {
                fed.commands.push(command);
                fed.end = piece.len() - rest.len();
            }
        }
        fed
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Returns the command if its frame is complete.
    fn complete(&mut self) -> Option<Found> {
        let length = length(&self.frame)?;
        if self.state == State::Connect && self.frame.iter().all(u8::is_ascii_lowercase) {
            self.state = State::Over;
            let letters = std::mem::take(&mut self.frame);
            let name = String::from_utf8_lossy(&letters).into_owned();
            return Some(found(name, Vec::new(), FIRST));
        }
        if length > MAX_FRAME_BYTES {
            self.state = State::Lost;
            return None;
        }
        if self.frame.len() < 4 + length {
            return None;
        }
        let frame = std::mem::take(&mut self.frame);
        let command = if self.state == State::Connect {
            self.state = State::Requests;
            connect(&frame[4..])
        } else {
            request(&frame[4..])
        };
        if command.is_err() {
            self.state = State::Lost;
        }
        command.ok()
    }
}

/// Returns the number of missing bytes of the current part of a frame.
fn missing(frame: &[u8]) -> usize {
    match length(frame) {
        None => 4 - frame.len(),
        Some(length) => (4 + length).saturating_sub(frame.len()),
    }
}

fn length(frame: &[u8]) -> Option<usize> {
    usize::try_from(Cursor(frame).u32().ok()?).ok()
}

fn found(name: String, arguments: Vec<Vec<u8>>, answer: i64) -> Found {
    Found {
        idle: name == "ping",
        name,
        arguments,
        answer,
    }
}

/// Parses a request for a session. The arguments are its id in hexadecimal and its timeout in milliseconds.
fn connect(frame: &[u8]) -> io::Result<Found> {
    let mut cursor = Cursor(frame);
    let _version = cursor.i32()?;
    let _seen = cursor.i64()?;
    let timeout = cursor.i32()?;
    let session = cursor.i64()?;
    let arguments = vec![
        format!("{session:x}").into_bytes(),
        timeout.to_string().into_bytes(),
    ];
    Ok(found("connect".to_owned(), arguments, FIRST))
}

fn request(frame: &[u8]) -> io::Result<Found> {
    let mut cursor = Cursor(frame);
    let number = cursor.i32()?;
    let operation = cursor.i32()?;
    let body = cursor.0;
    let arguments = match operation {
        14 | 22 => parts(body)?,
        100 => {
            // Without the secret that follows.
            let _kind = cursor.i32()?;
            vec![buffer(&mut cursor)?.to_vec()]
        }
        1..=9 | 12 | 13 | 15 | 17..=21 | 103 | 104 | 106 => {
            vec![buffer(&mut cursor)?.to_vec(), body.to_vec()]
        }
        _ if body.is_empty() => Vec::new(),
        _ => vec![body.to_vec()],
    };
    Ok(found(name(operation), arguments, number.into()))
}

/// Returns the parts of a transaction, each with its name and its path.
fn parts(body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut cursor = Cursor(body);
    let mut parts = Vec::new();
    loop {
        let operation = cursor.i32()?;
        let done = cursor.u8()? != 0;
        let _error = cursor.i32()?;
        if done {
            return Ok(parts);
        }
        let path = buffer(&mut cursor)?;
        let mut part = name(operation).into_bytes();
        part.push(b' ');
        part.extend_from_slice(path);
        parts.push(part);
        match operation {
            1 | 15 | 19 | 21 => {
                buffer(&mut cursor)?;
                for _ in 0..cursor.i32()?.max(0) {
                    let _rights = cursor.i32()?;
                    buffer(&mut cursor)?;
                    buffer(&mut cursor)?;
                }
                let _flags = cursor.i32()?;
                if operation == 21 {
                    let _lifetime = cursor.i64()?;
                }
            }
            2 | 13 => drop(cursor.i32()?),
            5 => {
                buffer(&mut cursor)?;
                let _version = cursor.i32()?;
            }
            4 | 8 => drop(cursor.u8()?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Reads length-prefixed bytes; a length of -1 stands for no bytes.
fn buffer<'a>(cursor: &mut Cursor<'a>) -> io::Result<&'a [u8]> {
    let length = cursor.i32()?;
    cursor.bytes(usize::try_from(length.max(0)).unwrap_or(0))
}

fn name(operation: i32) -> String {
    let name = match operation {
        -11 => "closeSession",
        1 => "create",
        2 => "delete",
        3 => "exists",
        4 => "getData",
        5 => "setData",
        6 => "getACL",
        7 => "setACL",
        8 => "getChildren",
        9 => "sync",
        11 => "ping",
        12 => "getChildren2",
        13 => "check",
        14 => "multi",
        15 => "create2",
        16 => "reconfig",
        17 => "checkWatches",
        18 => "removeWatches",
        19 => "createContainer",
        20 => "deleteContainer",
        21 => "createTTL",
        22 => "multiRead",
        100 => "auth",
        101 => "setWatches",
        102 => "sasl",
        103 => "getEphemerals",
        104 => "getAllChildrenNumber",
        105 => "setWatches2",
        106 => "addWatch",
        107 => "whoAmI",
        other => return format!("operation{other}"),
    };
    name.to_owned()
}

/// A parser of the data of a server.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The received bytes of the length and the number at the start of a frame.
    head: Vec<u8>,
    /// The number of missing bytes of the frame after them.
    missing: usize,
    first_is_over: bool,
}

impl Answers {
    /// Parses the next chunk; returns whether the awaited reply begins in it.
    pub(super) fn feed(&mut self, piece: &[u8], awaited: Option<i64>) -> bool {
        let mut rest = piece;
        let mut seen = false;
        while !rest.is_empty() {
            if self.missing > 0 {
                let skipped = self.missing.min(rest.len());
                self.missing -= skipped;
                rest = &rest[skipped..];
                continue;
            }
            let (now, later) = rest.split_at((8 - self.head.len()).min(rest.len()));
            rest = later;
            self.head.extend_from_slice(now);
            if self.head.len() < 8 {
                break;
            }
            let head = std::mem::take(&mut self.head);
            let mut cursor = Cursor(&head);
            let length = cursor.u32().unwrap_or(0);
            let number = i64::from(cursor.i32().unwrap_or(0));
            self.missing = usize::try_from(length).unwrap_or(0).saturating_sub(4);
            let answered = if self.first_is_over { number } else { FIRST };
            self.first_is_over = true;
            seen |= awaited == Some(answered);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    fn text(text: &str) -> Vec<u8> {
        frame(text.as_bytes())
    }

    fn numbers(numbers: &[i32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// A session, an authentication, a created node, and a transaction.
    fn session() -> Vec<u8> {
        let mut connect = numbers(&[0, 0, 0, 4_000, 0, 0x1f]);
        connect.extend(frame(&[0; 16]));
        let mut auth = numbers(&[-4, 100, 0]);
        auth.extend([text("digest"), text("user:secret")].concat());
        let entry = [numbers(&[1, 31]), text("world"), text("anyone")].concat();
        let mut create = numbers(&[1, 15]);
        create.extend([text("/a"), text("data"), entry.clone(), numbers(&[3])].concat());
        let mut multi = numbers(&[2, 14]);
        multi.extend(
            [
                numbers(&[13]),
                vec![0],
                numbers(&[-1]),
                text("/a"),
                numbers(&[7]),
            ]
            .concat(),
        );
        multi.extend([numbers(&[1]), vec![0], numbers(&[-1]), text("/b")].concat());
        multi.extend([numbers(&[-1]), entry, numbers(&[0])].concat());
        multi.extend([numbers(&[-1]), vec![1], numbers(&[-1])].concat());
        let ping = numbers(&[-2, 11]);
        [connect, auth, create, multi, ping]
            .map(|body| frame(&body))
            .concat()
    }

    fn format_commands(commands: &[Found]) -> Vec<String> {
        let line = |found: &Found| {
            let count = if found.name == "create2" { 1 } else { 9 };
            let arguments = found.arguments.iter().take(count);
            let words = arguments.map(|argument| String::from_utf8_lossy(argument).into_owned());
            let words: Vec<String> = std::iter::once(found.name.clone()).chain(words).collect();
            words.join(" ")
        };
        commands.iter().map(line).collect()
    }

    const SAID: [&str; 5] = [
        "connect 1f 4000",
        "auth digest",
        "create2 /a",
        "multi check /a create /b",
        "ping",
    ];

    #[test]
    fn requests_are_understood_in_one_piece_and_in_any_two() {
        let bytes = session();
        for cut in 0..bytes.len() {
            let mut parser = Parser::default();
            let (one, two) = bytes.split_at(cut);
            let (one, two) = (parser.feed(one), parser.feed(two));
            let all = [one.commands, two.commands].concat();
            assert_eq!(format_commands(&all), SAID, "cut at {cut}");
            assert_eq!(two.end, bytes.len() - cut);
            assert!(!parser.is_lost());
        }
    }

    #[test]
    fn four_letters_are_a_command() {
        let mut parser = Parser::default();
        assert_eq!(format_commands(&parser.feed(b"ruok").commands), ["ruok"]);
        assert!(!parser.is_lost());
    }

    #[test]
    fn invalid_frame_ends_the_parsing() {
        for wrong in [
            b"GET / HTTP".as_slice(),
            &frame(&[0; 3]),
            &[0x16, 3, 1, 2, 0, 1],
        ] {
            let mut parser = Parser::default();
            assert_eq!(parser.feed(wrong).commands, []);
            assert!(parser.is_lost(), "{wrong:?}");
        }
    }

    #[test]
    fn answers_are_found_by_their_numbers_in_chunks_of_any_size() {
        let first = frame(&[9; 37]);
        let event = frame(&numbers(&[-1, 0, 0, 7]));
        let answer = frame(&numbers(&[7, 0, 0, 0, 0]));
        let bytes = [first, event, answer].concat();
        for (awaited, times) in [(7, 1), (FIRST, 1), (9, 0), (0, 0)] {
            let mut whole = Answers::default();
            assert_eq!(whole.feed(&bytes, Some(awaited)), times == 1);
            let mut answers = Answers::default();
            let seen = bytes
                .chunks(1)
                .filter(|byte| answers.feed(byte, Some(awaited)));
            assert_eq!(seen.count(), times, "{awaited}");
        }
    }
}
