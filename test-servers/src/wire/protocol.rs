//! The protocols that a proxy parses: commands of a client, and replies of a server.

use super::{
    found::{Fed, Found},
    grpc, resp, zookeeper,
};

/// The protocol between a client and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Redis,
    Etcd,
    ZooKeeper,
}

/// A parser of the data of one client, in chunks of any size.
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

    /// Whether the data was invalid, so that nothing after it is parsed.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Redis(parser) => parser.is_lost(),
            Self::Etcd(parser) => parser.is_lost(),
            Self::ZooKeeper(parser) => parser.is_lost(),
        }
    }
}

/// A parser of the data of a server on one connection, which finds the reply to a command.
pub(super) enum Answers<'a> {
    /// Another command follows the command, and its reply contains this mark.
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

    /// Parses the next chunk; returns whether it contains the awaited reply.
    pub(super) fn feed(&mut self, piece: &[u8], awaited: Option<i64>) -> bool {
        match self {
            Self::Redis(mark) => awaited.is_some() && mark.is_found_with(piece),
            Self::Etcd(answers) => answers.feed(piece, awaited),
            Self::ZooKeeper(answers) => answers.feed(piece, awaited),
        }
    }
}

/// A search for a word in chunks of bytes.
pub(super) struct Mark<'a> {
    word: &'a [u8],
    /// The end of the previous chunks, in which the word may begin.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_found_in_chunks_of_any_size() {
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
