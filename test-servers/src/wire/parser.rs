//! Finds the commands in what a client sends: RESP arrays of bulk strings, and inline commands.

/// The longest line that Redis accepts, for a header or an inline command.
const LONGEST_LINE: usize = 64 * 1024;
/// The most arguments, and the longest one, that Redis accepts.
const MOST_ARGUMENTS: usize = 1024 * 1024;
const LONGEST_ARGUMENT: usize = 512 * 1024 * 1024;

/// A parser of one direction of one connection. It takes bytes in pieces of any size, and is fed
/// each byte once.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
    line: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    /// Arguments of the present command that are still to come.
    missing: usize,
}

#[derive(Debug, Default)]
enum State {
    /// Reading the line that begins a command.
    #[default]
    Command,
    /// Reading the line that announces an argument.
    Length,
    /// Reading an argument; so many of its bytes are missing, its line end included.
    Argument(usize),
    /// What came is no command; nothing more is understood.
    Lost,
}

impl Parser {
    /// Takes the next bytes, and gives each command that they complete to `found`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Vec<Vec<u8>>)) {
        while !bytes.is_empty() {
            match self.state {
                State::Lost => return,
                State::Argument(missing) => {
                    let taken = missing.min(bytes.len());
                    let (now, later) = bytes.split_at(taken);
                    self.line.extend_from_slice(now);
                    bytes = later;
                    self.state = State::Argument(missing - taken);
                    if missing == taken {
                        self.end_argument(&mut found);
                    }
                }
                State::Command | State::Length => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (now, later) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    self.line.extend_from_slice(now);
                    bytes = later;
                    if end.is_some() {
                        self.end_line(&mut found);
                    } else if self.line.len() > LONGEST_LINE {
                        self.state = State::Lost;
                    }
                }
            }
        }
    }

    /// Whether something came that is no command, so that nothing after it was understood.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Whether a command has begun and is not complete.
    pub(super) fn is_within_command(&self) -> bool {
        !self.line.is_empty() || !matches!(self.state, State::Command)
    }

    fn end_line(&mut self, found: &mut impl FnMut(Vec<Vec<u8>>)) {
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let next = match (&self.state, line.split_first()) {
            (State::Command, Some((b'*', count))) => self.begin(count),
            (State::Command, _) => inline(&line).map(|words| {
                if !words.is_empty() {
                    found(words);
                }
                State::Command
            }),
            (_, Some((b'$', length))) => number(length)
                .filter(|length| *length <= LONGEST_ARGUMENT)
                .map(|length| State::Argument(length + 2)),
            _ => None,
        };
        self.state = next.unwrap_or(State::Lost);
    }

    fn begin(&mut self, count: &[u8]) -> Option<State> {
        // Redis skips an empty command, and one of a negative number of arguments.
        if count.first() == Some(&b'-') {
            return number(&count[1..]).map(|_| State::Command);
        }
        self.missing = number(count).filter(|count| *count <= MOST_ARGUMENTS)?;
        Some(if self.missing == 0 {
            State::Command
        } else {
            State::Length
        })
    }

    fn end_argument(&mut self, found: &mut impl FnMut(Vec<Vec<u8>>)) {
        let mut argument = std::mem::take(&mut self.line);
        if !argument.ends_with(b"\r\n") {
            self.state = State::Lost;
            return;
        }
        argument.truncate(argument.len() - 2);
        self.arguments.push(argument);
        self.missing -= 1;
        self.state = State::Length;
        if self.missing == 0 {
            self.state = State::Command;
            found(std::mem::take(&mut self.arguments));
        }
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The words of an inline command; none if it is no text, such as the begin of a TLS session.
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

    /// A pipeline of all shapes: an array, an inline command, empty lines and arrays, an empty
    /// argument, one with line ends and what looks like headers in it.
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
    fn a_pipeline_is_understood_in_one_piece_and_in_any_two() {
        assert_eq!(commands_of(&[PIPELINE]).0, expected());
        for cut in 0..PIPELINE.len() {
            let (one, two) = PIPELINE.split_at(cut);
            assert_eq!(commands_of(&[one, two]).0, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn a_pipeline_is_understood_byte_by_byte() {
        let pieces: Vec<&[u8]> = PIPELINE.chunks(1).collect();
        let (commands, parser) = commands_of(&pieces);
        assert_eq!(commands, expected());
        assert!(!parser.is_lost() && !parser.is_within_command());
    }

    #[test]
    fn a_large_argument_arrives_whole() {
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
    fn what_is_no_command_ends_the_reading_and_is_said() {
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
        let (_, parser) = commands_of(&[&vec![b'a'; LONGEST_LINE + 1]]);
        assert!(parser.is_lost());
    }

    #[test]
    fn the_begin_of_a_command_is_known_as_such() {
        for begin in [b"*".as_slice(), b"*1\r\n", b"*1\r\n$4\r\nPI", b"PI"] {
            assert!(commands_of(&[begin]).1.is_within_command(), "{begin:?}");
        }
    }
}
