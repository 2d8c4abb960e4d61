//! A parser of the HTTP/2 frames of etcd clients and servers.

use std::{collections::HashMap, io};

use loona_hpack::Decoder;

use super::{
    cursor::Cursor,
    found::{Fed, Found},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// The header of each message: a compression flag and the length.
const MESSAGE_HEAD: usize = 5;
/// The maximum size of a client's header table.
const HEADER_TABLE: usize = 64 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A parser of the data of one client, in chunks of any size.
///
/// A call is a command when its first message is complete, because a server replies then, without waiting
/// for the end of the stream in a later frame. Each later message is a further command, for example
/// `Watch.message`.
pub(super) struct Parser {
    state: State,
    buffer: Vec<u8>,
    headers: Decoder<'static>,
    /// Incomplete headers.
    block: Vec<u8>,
    calls: HashMap<u32, Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preface,
    Frames,
    Lost,
}

#[derive(Debug, Default)]
struct Call {
    name: String,
    /// The received bytes of incomplete messages.
    body: Vec<u8>,
    /// The number of reported messages.
    told: usize,
    ends: bool,
}

impl Default for Parser {
    fn default() -> Self {
        let mut headers = Decoder::new();
        headers.set_max_allowed_table_size(HEADER_TABLE);
        Self {
            state: State::Preface,
            buffer: Vec::new(),
            headers,
            block: Vec::new(),
            calls: HashMap::new(),
        }
    }
}

impl Parser {
    pub(super) fn feed(&mut self, piece: &[u8]) -> Fed {
        let mut fed = Fed::default();
        let mut rest = piece;
        while !rest.is_empty() && self.state != State::Lost {
            let (now, later) = rest.split_at(self.missing().min(rest.len()));
            rest = later;
            self.buffer.extend_from_slice(now);
            if self.missing() > 0 {
                continue;
            }
            let before = fed.commands.len();
            if self.complete(&mut fed).is_err() {
                self.state = State::Lost;
            }
            if fed.commands.len() > before {
                fed.end = piece.len() - rest.len();
            }
        }
        fed
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Returns the number of missing bytes of the current part.
    fn missing(&self) -> usize {
        let expected = match self.state {
            State::Preface => PREFACE.len(),
            _ => Head::of(&self.buffer).map_or(FRAME_HEAD, |head| FRAME_HEAD + head.length),
        };
        expected.saturating_sub(self.buffer.len())
    }

    fn complete(&mut self, fed: &mut Fed) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        if self.state == State::Preface {
            self.state = State::Frames;
            return if bytes == PREFACE { Ok(()) } else { invalid() };
        }
        let Some(head) = Head::of(&bytes) else {
            return invalid();
        };
        let payload = &bytes[FRAME_HEAD..];
        match head.kind {
            HEADERS | CONTINUATION => {
                let mut block = payload;
                if head.kind == HEADERS {
                    block = head.without_padding(payload)?;
                    if head.has(PRIORITY) {
                        Cursor(block).bytes(5)?;
                        block = &block[5..];
                    }
                    self.block.clear();
                    if head.has(END_STREAM) {
                        self.calls.entry(head.stream).or_default().ends = true;
                    }
                }
                self.block.extend_from_slice(block);
                if head.has(END_HEADERS) {
                    fed.began |= self.end_headers(head.stream)?;
                }
            }
            DATA => {
                let body = head.without_padding(payload)?;
                // Data of a reset call may still arrive.
                if let Some(call) = self.calls.get_mut(&head.stream) {
                    call.body.extend_from_slice(body);
                    call.ends |= head.has(END_STREAM);
                }
            }
            RESET => drop(self.calls.remove(&head.stream)),
            _ => return Ok(()),
        }
        self.report(head.stream, fed);
        Ok(())
    }

    /// Decodes the headers; returns whether they begin a call.
    fn end_headers(&mut self, stream: u32) -> io::Result<bool> {
        let block = std::mem::take(&mut self.block);
        let Ok(headers) = self.headers.decode(&block) else {
            return invalid().map(|()| false);
        };
        let path = headers.iter().find(|(name, _)| name == b":path");
        let call = self.calls.entry(stream).or_default();
        // Trailing headers have no path.
        let Some((_, path)) = path else {
            return Ok(false);
        };
        let path = String::from_utf8_lossy(path);
        path.rsplit('/')
            .next()
            .unwrap_or_default()
            .clone_into(&mut call.name);
        Ok(true)
    }

    /// Reports the complete commands of a stream.
    fn report(&mut self, stream: u32, fed: &mut Fed) {
        let Some(call) = self.calls.get_mut(&stream) else {
            return;
        };
        // Its headers are incomplete, or it was reset.
        if call.name.is_empty() {
            return;
        }
        loop {
            let message = call.next_message();
            if message.is_none() && (call.told > 0 || !call.ends) {
                break;
            }
            let name = match call.told {
                0 => call.name.clone(),
                _ => format!("{}.message", call.name),
            };
            fed.began |= call.told > 0;
            call.told += 1;
            fed.commands.push(Found {
                name,
                arguments: message.into_iter().collect(),
                answer: stream.into(),
                idle: false,
            });
        }
        if call.ends {
            self.calls.remove(&stream);
        }
    }
}

impl Call {
    fn next_message(&mut self) -> Option<Vec<u8>> {
        let mut cursor = Cursor(&self.body);
        let _compressed = cursor.u8().ok()?;
        let length = usize::try_from(cursor.u32().ok()?).ok()?;
        let message = cursor.bytes(length).ok()?.to_vec();
        self.body.drain(..MESSAGE_HEAD + length);
        Some(message)
    }
}

fn invalid() -> io::Result<()> {
    Err(io::ErrorKind::InvalidData.into())
}

/// The header of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let length_and_kind = cursor.u32().ok()?;
        Some(Self {
            length: usize::try_from(length_and_kind >> 8).ok()?,
            kind: length_and_kind.to_be_bytes()[3],
            flags: cursor.u8().ok()?,
            stream: cursor.u32().ok()? & 0x7fff_ffff,
        })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn without_padding(self, payload: &[u8]) -> io::Result<&[u8]> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let mut cursor = Cursor(payload);
        let padding = usize::from(cursor.u8()?);
        let length = cursor.0.len().saturating_sub(padding);
        cursor.bytes(length)
    }
}

/// A parser of the data of a server: a message or the end of the stream is a reply.
#[derive(Debug, Default)]
pub(super) struct Answers {
    head: Vec<u8>,
    /// The number of missing bytes of the frame after its header.
    missing: usize,
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
            let (now, later) = rest.split_at((FRAME_HEAD - self.head.len()).min(rest.len()));
            rest = later;
            self.head.extend_from_slice(now);
            if self.head.len() < FRAME_HEAD {
                break;
            }
            if let Some(head) = Head::of(&std::mem::take(&mut self.head)) {
                self.missing = head.length;
                let answers = match head.kind {
                    DATA | RESET => true,
                    HEADERS => head.has(END_STREAM),
                    _ => false,
                };
                seen |= answers && awaited == Some(head.stream.into());
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use loona_hpack::Encoder;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn message(text: &str) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        message.extend_from_slice(text.as_bytes());
        message
    }

    /// A lease with two keep-alives, a transaction in several frames, and a reset call.
    fn session() -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut block = |path: &str| {
            let headers = [
                (b":method".as_slice(), b"POST".as_slice()),
                (b":path", path.as_bytes()),
                (b"authorization", b"a token"),
            ];
            encoder.encode(headers)
        };
        let grant = block("/etcdserverpb.Lease/LeaseGrant");
        let keep = block("/etcdserverpb.Lease/LeaseKeepAlive");
        let given_up = block("/etcdserverpb.KV/Range");
        let txn = block("/etcdserverpb.KV/Txn");
        let padded = [&[3], message("grant").as_slice(), &[0; 3]].concat();
        let prioritised = [&[0, 0, 0, 0, 16], keep.as_slice()].concat();
        let txn_message = message("transaction");
        [
            PREFACE.to_vec(),
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, END_HEADERS, 1, &grant),
            frame(DATA, PADDED | END_STREAM, 1, &padded),
            frame(HEADERS, END_HEADERS | PRIORITY, 3, &prioritised),
            frame(DATA, 0, 3, &message("first")),
            frame(HEADERS, END_HEADERS, 5, &given_up),
            frame(RESET, 0, 5, &[0, 0, 0, 8]),
            frame(HEADERS, 0, 7, &txn[..2]),
            frame(CONTINUATION, END_HEADERS, 7, &txn[2..]),
            frame(DATA, 0, 7, &txn_message[..7]),
            frame(DATA, 0, 3, &[message("second"), message("third")].concat()),
            frame(DATA, 0, 7, &txn_message[7..]),
            frame(DATA, END_STREAM, 7, &[]),
            frame(6, 0, 0, &[0; 8]),
            frame(DATA, END_STREAM, 3, &[]),
        ]
        .concat()
    }

    fn format_commands(commands: &[Found]) -> Vec<String> {
        let line = |found: &Found| {
            let message = found.arguments.concat();
            let message = String::from_utf8_lossy(&message).into_owned();
            format!("{} {} {message}", found.answer, found.name)
        };
        commands.iter().map(line).collect()
    }

    const SAID: [&str; 5] = [
        "1 LeaseGrant grant",
        "3 LeaseKeepAlive first",
        "3 LeaseKeepAlive.message second",
        "3 LeaseKeepAlive.message third",
        "7 Txn transaction",
    ];

    #[test]
    fn calls_are_understood_in_one_piece_and_in_any_two() {
        let bytes = session();
        for cut in 0..bytes.len() {
            let mut parser = Parser::default();
            let (one, two) = bytes.split_at(cut);
            let (one, two) = (parser.feed(one), parser.feed(two));
            assert_eq!(
                format_commands(&[one.commands, two.commands].concat()),
                SAID,
                "cut at {cut}"
            );
            assert!(!parser.is_lost());
        }
        let mut parser = Parser::default();
        let fed = parser.feed(&bytes);
        // Three frames follow the last message.
        assert_eq!(fed.end, bytes.len() - 9 - 17 - 9);
    }

    #[test]
    fn invalid_call_ends_the_parsing() {
        let wrong_headers = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &[0xff; 8])].concat();
        for wrong in [
            b"GET /health HTTP/1.0\r\n\r\n".as_slice(),
            wrong_headers.as_slice(),
        ] {
            let mut parser = Parser::default();
            assert_eq!(parser.feed(wrong).commands, []);
            assert!(parser.is_lost());
        }
    }

    #[test]
    fn answers_are_found_by_their_streams_in_chunks_of_any_size() {
        let bytes = [
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, END_HEADERS, 1, b"headers"),
            frame(HEADERS, END_HEADERS, 3, b"headers"),
            frame(DATA, 0, 3, &message("third")),
            frame(HEADERS, END_HEADERS | END_STREAM, 5, b"refused"),
        ]
        .concat();
        for (awaited, times) in [(1, 0), (3, 1), (5, 1), (7, 0)] {
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
