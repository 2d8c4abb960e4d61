//! What a proxy understands: the commands of a client, and which of them the server has answered.

use std::io;

use super::{grpc, resp, zookeeper};

/// The protocol between a client and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Redis,
    Etcd,
    ZooKeeper,
}

/// A command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) arguments: Vec<Vec<u8>>,
    /// By what its answer is known among the others of the connection.
    pub(super) answer: i64,
    /// Whether it is nothing that a caller asked for, such as a sign of life.
    pub(super) idle: bool,
}

/// What a piece of a client's bytes brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fed {
    pub(super) commands: Vec<Found>,
    /// Where in the piece the last of these commands ends; zero if there is none.
    pub(super) end: usize,
    /// Whether a command began in it.
    pub(super) began: bool,
}

/// A reader of what one client sends, in pieces of any size.
pub(super) enum Parser {
    Redis(resp::Parser),
    Etcd(Box<grpc::Parser>),
    ZooKeeper(zookeeper::Parser),
}

impl Parser {
    pub(super) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Redis => Self::Redis(resp::Parser::default()),
            Protocol::Etcd => Self::Etcd(Box::default()),
            Protocol::ZooKeeper => Self::ZooKeeper(zookeeper::Parser::default()),
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) -> Fed {
        match self {
            Self::Redis(parser) => {
                let was_within = parser.is_within_command();
                let mut commands = Vec::new();
                let end = parser.feed(piece, |words| commands.push(Found::of_words(words)));
                let begun = commands.len() + usize::from(parser.is_within_command());
                Fed {
                    end,
                    began: begun > usize::from(was_within),
                    commands,
                }
            }
            Self::Etcd(parser) => parser.feed(piece),
            Self::ZooKeeper(parser) => parser.feed(piece),
        }
    }

    /// Whether something came that is no command, so that nothing after it was understood.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Redis(parser) => parser.is_lost(),
            Self::Etcd(parser) => parser.is_lost(),
            Self::ZooKeeper(parser) => parser.is_lost(),
        }
    }
}

impl Found {
    fn of_words(words: Vec<Vec<u8>>) -> Self {
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        Self {
            name: String::from_utf8_lossy(&name).to_ascii_uppercase(),
            arguments: words.collect(),
            answer: 0,
            idle: false,
        }
    }
}

/// A reader of what a server sends on one connection, which knows when a command was answered.
pub(super) enum Answers<'a> {
    /// After the command comes another, and its answer has this word in it.
    Redis(Mark<'a>),
    Etcd(grpc::Answers),
    ZooKeeper(zookeeper::Answers),
}

impl<'a> Answers<'a> {
    pub(super) fn of(protocol: Protocol, mark: &'a [u8]) -> Self {
        match protocol {
            Protocol::Redis => Self::Redis(Mark::new(mark)),
            Protocol::Etcd => Self::Etcd(grpc::Answers::default()),
            Protocol::ZooKeeper => Self::ZooKeeper(zookeeper::Answers::default()),
        }
    }

    /// Takes the next piece; whether the awaited answer, if any, is in it.
    pub(super) fn feed(&mut self, piece: &[u8], awaited: Option<i64>) -> bool {
        match self {
            Self::Redis(mark) => awaited.is_some() && mark.is_found_with(piece),
            Self::Etcd(answers) => answers.feed(piece, awaited),
            Self::ZooKeeper(answers) => answers.feed(piece, awaited),
        }
    }
}

/// Looks for a word in bytes that come in pieces.
pub(super) struct Mark<'a> {
    word: &'a [u8],
    /// The end of what came before, in which the word may have begun.
    before: Vec<u8>,
}

impl<'a> Mark<'a> {
    fn new(word: &'a [u8]) -> Self {
        Self {
            word,
            before: Vec::new(),
        }
    }

    fn is_found_with(&mut self, piece: &[u8]) -> bool {
        self.before.extend_from_slice(piece);
        let length = self.word.len();
        let found = self
            .before
            .windows(length)
            .any(|window| window == self.word);
        let done = self.before.len().saturating_sub(length - 1);
        self.before.drain(..done);
        found
    }
}

/// A reader of big-endian bytes that never reads beyond them.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> io::Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> io::Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_however_it_is_cut() {
        let text = b"+OK\r\n-ERR unknown command 'MARK-17', with args\r\n";
        for cut in 0..text.len() {
            let mut mark = Mark::new(b"MARK-17");
            let (one, two) = text.split_at(cut);
            assert!(
                mark.is_found_with(one) ^ mark.is_found_with(two),
                "cut at {cut}"
            );
        }
        let mut mark = Mark::new(b"MARK-17");
        let found = text.chunks(1).filter(|byte| mark.is_found_with(byte));
        assert_eq!(found.count(), 1);
        assert!(!Mark::new(b"MARK-18").is_found_with(text));
    }
}
