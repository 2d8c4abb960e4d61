//! A parser of Redis commands: RESP arrays of bulk strings, and inline commands.

/// The longest line that Redis accepts, for a header or an inline command.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// The most arguments, and the longest one, that Redis accepts.
const MAX_ARGUMENTS: usize = 1024 * 1024;
const MAX_ARGUMENT_BYTES: usize = 512 * 1024 * 1024;

/// A parser of the data of one client, in chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
    line: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    /// The number of missing arguments of the current command.
    missing: usize,
}

#[derive(Debug, Default)]
enum State {
    /// Reading the line that begins a command.
    #[default]
    Command,
    /// Reading the line that announces an argument.
    Length,
    /// Reading an argument with this number of missing bytes, including its line end.
    Argument(usize),
    /// The data was invalid; nothing more is parsed.
    Lost,
}

impl Parser {
    /// Parses the next bytes and passes each completed command to `found`. Returns the end of the last
    /// command in the bytes; zero if there is none.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Vec<Vec<u8>>)) -> usize {
        let mut rest = bytes;
        let mut end = 0;
        while !rest.is_empty() && !self.is_lost() {
            let (now, later) = rest.split_at(self.piece(rest));
            rest = later;
            if let Some(command) = self.take(now) {
                found(command);
                end = bytes.len() - rest.len();
            }
        }
        end
    }

    /// Returns the number of bytes that belong to the current line or argument.
    fn piece(&self, bytes: &[u8]) -> usize {
        match self.state {
            State::Argument(missing) => missing.min(bytes.len()),
            _ => bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(bytes.len(), |end| end + 1),
        }
    }

    /// Parses a part; returns the command if the part completes it.
    fn take(&mut self, piece: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.line.extend_from_slice(piece);
        match self.state {
            State::Lost => None,
            State::Argument(missing) => {
                self.state = State::Argument(missing - piece.len());
                (missing == piece.len()).then(|| self.end_argument())?
            }
            State::Command | State::Length if piece.ends_with(b"\n") => self.end_line(),
            State::Command | State::Length => {
                if self.line.len() > MAX_LINE_BYTES {
                    self.state = State::Lost;
                }
                None
            }
        }
    }

    /// Whether the data was invalid, so that nothing after it is parsed.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Whether a command is incomplete.
    pub(super) fn is_within_command(&self) -> bool {
        !self.line.is_empty() || !matches!(self.state, State::Command)
    }

    fn end_line(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let mut command = None;
        let next = match (&self.state, line.split_first()) {
            (State::Command, Some((b'*', count))) => self.begin(count),
            (State::Command, _) => inline(&line).map(|words| {
                command = Some(words).filter(|words| !words.is_empty());
                State::Command
            }),
            (_, Some((b'$', length))) => number(length)
                .filter(|length| *length <= MAX_ARGUMENT_BYTES)
                .map(|length| State::Argument(length + 2)),
            _ => None,
        };
        self.state = next.unwrap_or(State::Lost);
        command
    }

    fn begin(&mut self, count: &[u8]) -> Option<State> {
        // Redis skips commands with zero or a negative number of arguments.
        if count.first() == Some(&b'-') {
            return number(&count[1..]).map(|_| State::Command);
        }
        self.missing = number(count).filter(|count| *count <= MAX_ARGUMENTS)?;
        Some(if self.missing == 0 {
            State::Command
        } else {
            State::Length
        })
    }

    fn end_argument(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut argument = std::mem::take(&mut self.line);
        if !argument.ends_with(b"\r\n") {
            self.state = State::Lost;
            return None;
        }
        argument.truncate(argument.len() - 2);
        self.arguments.push(argument);
        self.missing -= 1;
        if self.missing > 0 {
            self.state = State::Length;
            return None;
        }
        self.state = State::Command;
        Some(std::mem::take(&mut self.arguments))
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns the words of an inline command; `None` for binary data, such as a TLS session.
fn inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let line = std::str::from_utf8(line).ok()?;
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return None;
    }
    let words = line.split_whitespace();
    Some(words.map(|word| word.as_bytes().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands_of(pieces: &[&[u8]]) -> (Vec<Vec<String>>, Parser) {
        let mut parser = Parser::default();
        let mut commands = Vec::new();
        for piece in pieces {
            parser.feed(piece, |command| {
                let words = command.iter().map(|word| String::from_utf8_lossy(word));
                commands.push(words.map(String::from).collect());
            });
        }
        (commands, parser)
    }

    /// A pipeline with all forms: an array, an inline command, empty lines and arrays, an empty argument, and
    /// an argument that contains line ends and headers.
    const PIPELINE: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING  hello\r\n\r\n*0\r\n*-1\r\n\
        *3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n";

    fn expected() -> Vec<Vec<String>> {
        [
            vec!["GET", "a"],
            vec!["PING", "hello"],
            vec!["SET", "", "*1\r\n$4\r\nPING"],
            vec!["QUIT"],
        ]
        .map(|words| words.into_iter().map(String::from).collect())
        .to_vec()
    }

    #[test]
    fn pipeline_is_understood_in_one_piece_and_in_any_two() {
        assert_eq!(commands_of(&[PIPELINE]).0, expected());
        for cut in 0..PIPELINE.len() {
            let (one, two) = PIPELINE.split_at(cut);
            assert_eq!(commands_of(&[one, two]).0, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn pipeline_is_understood_byte_by_byte() {
        let pieces: Vec<&[u8]> = PIPELINE.chunks(1).collect();
        let (commands, parser) = commands_of(&pieces);
        assert_eq!(commands, expected());
        assert!(!parser.is_lost() && !parser.is_within_command());
    }

    #[test]
    fn large_argument_arrives_whole() {
        let value = vec![b'\n'; 3 << 20];
        let mut bytes = format!("*2\r\n$4\r\nECHO\r\n${}\r\n", value.len()).into_bytes();
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(b"\r\n");
        let mut parser = Parser::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(16 * 1024) {
            assert!(found.is_empty());
            parser.feed(piece, |command| found.push(command));
        }
        assert_eq!(found, [vec![b"ECHO".to_vec(), value]]);
    }

    #[test]
    fn invalid_command_ends_the_parsing() {
        for noise in [
            b"\x16\x03\x01\x02\x00\x01\n".as_slice(),
            b"*x\r\n",
            b"*1\r\nPING\r\n",
            b"*1\r\n$x\r\n",
            b"*1\r\n$4\r\nPINGxx",
            b"*99999999\r\n",
        ] {
            let (commands, parser) = commands_of(&[noise, b"PING\r\n"]);
            assert!(commands.is_empty() && parser.is_lost(), "{noise:?}");
        }
        let (_, parser) = commands_of(&[&vec![b'a'; MAX_LINE_BYTES + 1]]);
        assert!(parser.is_lost());
    }

    #[test]
    fn end_of_the_last_complete_command_is_returned() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"PING\r\nPING\r\n*1\r\n", |_| ()), 12);
        assert_eq!(parser.feed(b"$4\r\n", |_| ()), 0);
        assert_eq!(parser.feed(b"PING\r\nP", |_| ()), 6);
    }

    #[test]
    fn start_of_a_command_is_recognized() {
        for begin in [b"*".as_slice(), b"*1\r\n", b"*1\r\n$4\r\nPI", b"PI"] {
            assert!(commands_of(&[begin]).1.is_within_command(), "{begin:?}");
        }
    }
}
