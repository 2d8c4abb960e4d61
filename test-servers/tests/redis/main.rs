//! What the Redis servers of this crate do when they are started, asked, broken and ended.

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

/// How long something may take that has to happen.
const BOUND: Duration = Duration::from_secs(30);
/// How long something is watched that must not happen; it would within a millisecond or two.
const QUIET: Duration = Duration::from_millis(200);

/// A client that speaks bytes, so that a test decides what is sent together.
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

    /// Reads as much as `expected` is long, and it has to be that.
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

    /// Nothing comes, and the connection stays.
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

    /// The connection ends, and nothing came before.
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

/// Other servers' clients, which are in this build too, bring a second one.
fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
