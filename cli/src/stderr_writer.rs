//! Writes to stderr without blocking the caller.
//!
//! The reader of stderr may stop reading (a full pipe, a terminal stopped by Ctrl-S). In this case
//! a line is late or lost, but renewals continue, and neither the lock nor the command is delayed.
//! A separate thread does the writing.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

/// How long the program waits at its end for unwritten text.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

enum Message {
    Text(Vec<u8>),
    /// A request to confirm that all earlier text is written.
    Flushed(Sender<()>),
}

/// Passes text to the writer thread. The first call starts the thread; if the start fails, the
/// calling thread writes the text.
pub(crate) fn write(text: Vec<u8>) {
    let _ = send(WRITER.get_or_init(start), Message::Text(text));
}

static WRITER: OnceLock<Option<Sender<Message>>> = OnceLock::new();

fn send(writer: &Option<Sender<Message>>, message: Message) -> Option<()> {
    match (writer, message) {
        (Some(writer), message) => writer.send(message).ok(),
        (None, Message::Text(text)) => io::stderr().write_all(&text).ok(),
        (None, Message::Flushed(_)) => None,
    }
}

fn start() -> Option<Sender<Message>> {
    let (sender, messages) = channel();
    let writer = thread::Builder::new().name("stderr".to_owned());
    writer.spawn(move || write_messages(&messages)).ok()?;
    Some(sender)
}

fn write_messages(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Text(text) => {
                let _ = io::stderr().write_all(&text);
            }
            Message::Flushed(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Waits until all text is written, for at most [`FLUSH_TIMEOUT`].
pub(crate) fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, flushed) = channel();
    if send(writer, Message::Flushed(done)).is_some() {
        let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// A writer for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
