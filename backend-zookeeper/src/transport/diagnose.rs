//! Why a server cannot be reached. The client crate reports only that no server could be
//! (`docs/zookeeper-client.md`, report 5), so this module connects once more and asks the server.

use std::{io, time::Duration};

use rustls::pki_types::ServerName;
use tenure_core::{
    driver::{ConnectError, Endpoint},
    error::ErrorKind,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::session::{DriverConfig, time::until};

/// The first words of the answer to the command `srvr` from a server that serves clients.
const SERVES: &str = "Zookeeper version";
/// Part of the answer from a server that is up and does not serve clients.
const NO_QUORUM: &str = "not currently serving requests";
/// Part of the answer from a server on which the command is forbidden.
const FORBIDDEN: &str = "is not executed because it is not in the whitelist";
/// The possible causes when a server closes a TLS connection.
const CLOSED_HINT: &str =
    "does it speak TLS on that port, and does it accept the client certificate?";
/// How long a server has at least to close a connection that it does not want.
const CLOSES_WITHIN: Duration = Duration::from_millis(100);
/// How many bytes of the answer are read.
const MAX_ANSWER: usize = 128;

/// A hint for the error message: a server that wants TLS, or is of another kind, does not say so.
pub(super) const fn silence_hint(config: &DriverConfig) -> &'static str {
    if config.address.secure {
        "; is it a ZooKeeper server with TLS on this port?"
    } else {
        "; is it a ZooKeeper server, and does it want TLS (`zookeepers://`)?"
    }
}

/// Finds out why a server cannot be reached.
pub(super) async fn diagnose(
    endpoint: &Endpoint,
    config: &DriverConfig,
    limit: Duration,
) -> ConnectError {
    let clock = &*config.context.clock;
    let reason = until(clock, clock.now() + limit, examine(endpoint, config)).await;
    let reason = reason.unwrap_or_else(|| {
        let hint = silence_hint(config);
        unavailable(format!("it accepts connections and does not answer{hint}"))
    });
    reason.at(endpoint)
}

/// The server has no connection left for this host.
fn full() -> ConnectError {
    ConnectError::new(
        ErrorKind::Exhausted,
        "it closed the connection at once, because this host has as many connections as the server's \
         `maxClientCnxns` allows (60 unless configured); end other programs or raise that limit",
    )
}

fn unavailable(detail: impl Into<String>) -> ConnectError {
    ConnectError::new(ErrorKind::Unavailable, detail)
}

async fn examine(endpoint: &Endpoint, config: &DriverConfig) -> ConnectError {
    let clock = &*config.context.clock;
    let begun = clock.now();
    let stream = match TcpStream::connect((&*endpoint.host, endpoint.port)).await {
        Ok(stream) => stream,
        // Closed while it was being made.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return full(),
        Err(error) => return ConnectError::from_io(&error, CLOSED_HINT),
    };
    // A server that has no connection left for this host closes before it reads anything. The time to
    // connect was one round trip.
    let round_trip = clock.now().since(begun);
    let closes_by = clock.now() + CLOSES_WITHIN.max(3 * round_trip);
    if let Some(Ok(0) | Err(_)) = until(clock, closes_by, stream.peek(&mut [0])).await {
        return full();
    }
    if config.address.secure {
        return match handshake(endpoint, config, stream).await {
            Ok(mut stream) => match ask(&mut stream).await {
                Ok(answer) => of_answer(&answer, true),
                Err(error) => of_stream(&error, config),
            },
            Err(error) => of_stream(&error, config),
        };
    }
    let mut stream = stream;
    match ask(&mut stream).await {
        Ok(answer) => of_answer(&answer, false),
        Err(_) => of_answer("", false),
    }
}

async fn handshake(
    endpoint: &Endpoint,
    config: &DriverConfig,
    stream: TcpStream,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tls = tenure_tls::configure(&config.options.connection.tls)
        .map_err(|error| io::Error::other(error.detail))?;
    let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
    TlsConnector::from(tls).connect(name, stream).await
}

/// Sends the command `srvr`, which every server allows unless it was forbidden, and reads the first
/// bytes of the answer.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
    stream.write_all(b"srvr").await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A TLS connection that failed.
fn of_stream(error: &io::Error, config: &DriverConfig) -> ConnectError {
    tenure_tls::explain(error, &config.options.connection.tls)
        .unwrap_or_else(|| ConnectError::from_io(error, CLOSED_HINT))
}

fn of_answer(answer: &str, secure: bool) -> ConnectError {
    if answer.contains(NO_QUORUM) {
        unavailable("it is up and does not serve: it has no quorum, or has not caught up yet")
    } else if answer.starts_with(SERVES) || answer.contains(FORBIDDEN) {
        unavailable("it serves others and closed the connection of this client")
    } else if answer.is_empty() && secure {
        unavailable("it closed the connection without an answer")
    } else if answer.is_empty() {
        unavailable(
            "it closed the connection without an answer; does the port want TLS \
             (`zookeepers://`)?",
        )
    } else {
        ConnectError::wrong_protocol("ZooKeeper")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_a_message_of_its_own() {
        for (answer, secure, part) in [
            (
                "This ZooKeeper instance is not currently serving requests\n",
                false,
                "quorum",
            ),
            ("Zookeeper version: 3.8.0", false, "serves others"),
            (
                "srvr is not executed because it is not in the whitelist.\n",
                false,
                "serves others",
            ),
            ("", false, "zookeepers://"),
            ("", true, "without an answer"),
            ("-ERR unknown command 'srvr'", false, "does not speak"),
            ("HTTP/1.1 400 Bad Request", false, "does not speak"),
        ] {
            let ConnectError { kind, detail, .. } = of_answer(answer, secure);
            assert_eq!(kind, ErrorKind::Unavailable);
            assert!(detail.contains(part), "{answer}: {detail}");
        }
    }
}
