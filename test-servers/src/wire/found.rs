//! The commands that a parser finds in the bytes of a client.

/// A command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) arguments: Vec<Vec<u8>>,
    /// The number by which the connection identifies the reply.
    pub(super) answer: i64,
    /// Whether no caller requested it, such as a ping.
    pub(super) idle: bool,
}

/// The commands of one chunk of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fed {
    pub(super) commands: Vec<Found>,
    /// The end of the last of these commands in the chunk; zero if there is none.
    pub(super) end: usize,
    /// Whether a command begins in the chunk.
    pub(super) began: bool,
}

impl Found {
    pub(super) fn of_words(words: Vec<Vec<u8>>) -> Self {
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
