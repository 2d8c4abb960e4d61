//! Tests of Redis servers and of the proxy.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which fail by panicking"
)]

mod groups;
mod lifecycle;
mod security;
mod wire;
mod wire_faults;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The time limit for an expected event.
const BOUND: Duration = Duration::from_secs(30);
/// The time in which no event must occur; an event would occur within two milliseconds.
const QUIET: Duration = Duration::from_millis(200);

/// A client that sends bytes, so that a test controls which bytes are sent together.
struct RawClient(TcpStream);

impl RawClient {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads `expected`.
    #[track_caller]
    fn expect(&mut self, expected: &[u8]) {
        self.0.set_read_timeout(Some(BOUND)).unwrap();
        let mut found = vec![0; expected.len()];
        self.0.read_exact(&mut found).unwrap();
        assert!(found == expected, "{:?}", String::from_utf8_lossy(&found));
    }

    fn byte(&mut self) -> [u8; 1] {
        let mut byte = [0];
        self.0.set_read_timeout(Some(BOUND)).unwrap();
        self.0.read_exact(&mut byte).unwrap();
        byte
    }

    /// Expects no data on an open connection.
    #[track_caller]
    fn expect_silence(&mut self) {
        self.0.set_read_timeout(Some(QUIET)).unwrap();
        let read = self.0.read(&mut [0; 64]);
        let kind = read.map_err(|error| error.kind());
        assert!(
            matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{kind:?}"
        );
    }

    /// Expects the end of the connection without data.
    #[track_caller]
    fn expect_end(&mut self) {
        self.0.set_read_timeout(Some(BOUND)).unwrap();
        let read = self.0.read(&mut [0; 64]);
        let ended = match &read {
            Ok(length) => *length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(ended, "{read:?}");
    }
}

/// Selects one of the two cryptography providers of the build.
fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
