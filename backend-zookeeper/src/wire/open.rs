//! Making a connection: the network, TLS, the greeting that makes or resumes a session, and the
//! log-in.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tenure_core::{
    error::{Error, ErrorKind},
    settings::Tls,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    conn::{Conn, Fault, Incoming, Listener, Outgoing},
    proto::{Code, Pass, Request, Welcome, greeting},
};
use crate::config::Options;

/// Why a connection could not be made, in words for whoever must mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) kind: ErrorKind,
    pub(crate) detail: String,
}

impl Trouble {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        Error::new(self.kind, operation)
            .with_backend("zookeeper")
            .with_detail(self.detail)
    }

    fn of_io(place: &Place, error: &io::Error, files: &Tls, secure: bool) -> Self {
        if let Some(tls) = tenure_tls::explain(error, files) {
            return Self::new(tls.kind, format!("{place}: {}", tls.detail));
        }
        let what = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::TimedOut => "it does not answer".to_owned(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
                if secure =>
            {
                "it closed the connection at once; does it speak TLS on that port, and does it \
                 accept our certificate?"
                    .to_owned()
            }
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => {
                "it closed the connection at once: it has no quorum, or has not caught up, or \
                 wants TLS (`zookeepers://`)"
                    .to_owned()
            }
            _ => one_line(&error.to_string()),
        };
        Self::new(ErrorKind::Unavailable, format!("{place}: {what}"))
    }
}

/// A text that somebody else wrote, fit for one line of a message.
fn one_line(text: &str) -> String {
    let line = text.chars().take(300);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name or address; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whom to be for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    pub(crate) pass: Pass,
    /// How long the session is to last in silence.
    pub(crate) timeout: Duration,
    /// The latest transaction that we have seen: a server that lags behind it sends us away.
    pub(crate) seen: i64,
}

/// A connection and what the server said of the session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) conn: Conn,
    pub(crate) welcome: Welcome,
}

/// Connects to one server. `Ok(None)`: it says that the session is gone.
pub(crate) async fn open(
    place: &Place,
    secure: bool,
    options: &Options,
    hello: Greeting,
    listener: Arc<dyn Listener>,
) -> Result<Option<Opened>, Trouble> {
    let failed = |error: io::Error| Trouble::of_io(place, &error, &options.tls, secure);
    let stream = TcpStream::connect((&*place.host, place.port))
        .await
        .map_err(failed)?;
    // Small messages, each of which somebody waits for.
    stream.set_nodelay(true).map_err(failed)?;
    let (mut incoming, mut outgoing): (Incoming, Outgoing) = if secure {
        let config = tenure_tls::configure(&options.tls)
            .map_err(|tls| Trouble::new(tls.kind, tls.detail))?;
        let name = ServerName::try_from(place.host.clone()).map_err(|_| {
            let what = "its name cannot stand in a certificate";
            Trouble::new(ErrorKind::Config, format!("{place}: {what}"))
        })?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(failed)?;
        let (incoming, outgoing) = tokio::io::split(stream);
        (Box::new(incoming), Box::new(outgoing))
    } else {
        let (incoming, outgoing) = stream.into_split();
        (Box::new(incoming), Box::new(outgoing))
    };
    let body = greeting(hello.pass, hello.timeout, hello.seen);
    let mut frame = i32::try_from(body.len())
        .unwrap_or(i32::MAX)
        .to_be_bytes()
        .to_vec();
    frame.extend(body);
    outgoing.write_all(&frame).await.map_err(failed)?;
    outgoing.flush().await.map_err(failed)?;
    let length = incoming.read_i32().await.map_err(failed)?;
    let foreign = || {
        let what = "what answers there does not speak the protocol of ZooKeeper";
        Trouble::new(ErrorKind::Unavailable, format!("{place}: {what}"))
    };
    let length = usize::try_from(length).ok().filter(|&n| n <= 1024);
    let mut answer = vec![0; length.ok_or_else(foreign)?];
    incoming.read_exact(&mut answer).await.map_err(failed)?;
    let welcome = Welcome::read(&answer).map_err(|_| foreign())?;
    if welcome.pass.id == 0 {
        return Ok(None);
    }
    let conn = Conn::start(incoming, outgoing, hello.seen, listener);
    log_in(place, options, &conn).await?;
    Ok(Some(Opened { conn, welcome }))
}

async fn log_in(place: &Place, options: &Options, conn: &Conn) -> Result<(), Trouble> {
    let Some(user) = &options.username else {
        return Ok(());
    };
    let password = options.password.as_ref();
    let secret = format!(
        "{user}:{}",
        password
            .map(|password| password.expose())
            .unwrap_or_default()
    );
    match conn.call(Request::auth("digest", secret.as_bytes())).await {
        Ok(_) => Ok(()),
        Err(Fault::Refused(Code::AuthFailed)) => Err(Trouble::new(
            ErrorKind::Unauthenticated,
            format!("{place}: it does not accept user name and password"),
        )),
        Err(_) => Err(Trouble::new(
            ErrorKind::Unavailable,
            format!("{place}: it closed the connection during the log-in"),
        )),
    }
}
