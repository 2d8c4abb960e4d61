//! Why a server cannot be reached. The client crate reports only that no server could be
//! (`docs/zookeeper-client.md`, report 5), so this module connects once more and asks the server.

use std::{io, time::Duration};

use rustls::pki_types::ServerName;
use tenure_core::error::ErrorKind;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::ConnectError;
use crate::{
    address::Endpoint,
    session::{DriverConfig, time::until},
};

/// The first words of the answer to the command `srvr` from a server that serves clients.
const SERVES: &str = "Zookeeper version";
/// Part of the answer from a server that is up and does not serve clients.
const NO_QUORUM: &str = "not currently serving requests";
/// Part of the answer from a server on which the command is forbidden.
const FORBIDDEN: &str = "is not executed because it is not in the whitelist";
/// How many bytes of the answer are read.
const MAX_ANSWER: usize = 128;

/// A hint for the error message: a server that wants TLS does not say so.
pub(super) const fn tls_hint(config: &DriverConfig) -> &'static str {
    if config.address.secure {
        ""
    } else {
        "; does it want TLS (`zookeepers://`)?"
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
    let (kind, detail) = reason.unwrap_or_else(|| {
        let hint = tls_hint(config);
        let detail = format!("it accepts connections and does not answer{hint}");
        (ErrorKind::Unavailable, detail)
    });
    ConnectError::of_endpoint(endpoint, kind, detail)
}

async fn examine(endpoint: &Endpoint, config: &DriverConfig) -> (ErrorKind, String) {
    let unavailable = |detail: String| (ErrorKind::Unavailable, detail);
    let stream = match TcpStream::connect((&*endpoint.host, endpoint.port)).await {
        Ok(stream) => stream,
        // Closed while it was being made.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            return of_answer("", config.address.secure);
        }
        Err(error) => return unavailable(of_connecting(&error)),
    };
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
    let tls = tenure_tls::configure(&config.options.tls)
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

fn of_connecting(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

/// A TLS connection that failed.
fn of_stream(error: &io::Error, config: &DriverConfig) -> (ErrorKind, String) {
    if let Some(tls) = tenure_tls::explain(error, &config.options.tls) {
        return (tls.kind, tls.detail);
    }
    let detail = match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => {
            "it closed the connection at once; does it speak TLS on that port, does it accept the \
             client certificate, and has this host reached the server's `maxClientCnxns`?"
                .to_owned()
        }
        _ => one_line(&error.to_string()),
    };
    (ErrorKind::Unavailable, detail)
}

fn of_answer(answer: &str, secure: bool) -> (ErrorKind, String) {
    let unavailable = |detail: &str| (ErrorKind::Unavailable, detail.to_owned());
    if answer.contains(NO_QUORUM) {
        unavailable("it is up and does not serve: it has no quorum, or has not caught up yet")
    } else if answer.starts_with(SERVES) || answer.contains(FORBIDDEN) {
        unavailable("it serves others and closed the connection of this client")
    } else if answer.is_empty() && secure {
        unavailable(
            "it closed the connection at once; this host may have reached the server's \
             `maxClientCnxns`",
        )
    } else if answer.is_empty() {
        unavailable(
            "it closed the connection at once: this host has reached the server's \
             `maxClientCnxns`, or the port wants TLS (`zookeepers://`)",
        )
    } else {
        unavailable("what answers there does not speak the protocol of ZooKeeper")
    }
}

/// Text from outside, made fit for one line of a message.
fn one_line(text: &str) -> String {
    let line = text.chars().take(300);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
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
            ("", false, "maxClientCnxns"),
            ("", false, "zookeepers://"),
            ("", true, "maxClientCnxns"),
            ("-ERR unknown command 'srvr'", false, "does not speak"),
            ("HTTP/1.1 400 Bad Request", false, "does not speak"),
        ] {
            let (kind, detail) = of_answer(answer, secure);
            assert_eq!(kind, ErrorKind::Unavailable);
            assert!(detail.contains(part), "{answer}: {detail}");
        }
    }
}
