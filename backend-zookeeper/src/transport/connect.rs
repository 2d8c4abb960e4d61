//! Connecting to one server: TCP, TLS, the handshake that begins or resumes a session, and the
//! credentials.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    clock::Instant,
    driver::{ConnectError, Endpoint},
    error::ErrorKind,
};
use zookeeper_client::{Client, Error as ZkError, SessionInfo};

use super::{
    Connection, answer,
    diagnose::{diagnose, silence_hint},
    task::ClientTask,
    tls,
};
use crate::{
    error::RequestError,
    session::{DriverConfig, time::until},
};

/// A node that no program creates. Its deletion fails, but only after a majority of the servers has
/// agreed on that.
const ABSENT_NODE: &str = "/zookeeper/tenure-absent";

/// The request to begin or resume a session.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    /// The session to resume; `None` begins a new one.
    pub(crate) resume: Option<SessionInfo>,
    /// The session's time-out.
    pub(crate) timeout: Duration,
    /// How long the server may stay silent.
    pub(crate) silence: Duration,
    /// The number of the connection.
    pub(crate) number: u64,
}

/// A connection, and what the server said about the session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Arc<Connection>,
    pub(crate) session: SessionInfo,
    /// The session's time-out as the server grants it.
    pub(crate) timeout: Duration,
    /// When the handshake of a resumed session was sent and answered. It counts as a heartbeat: the leader
    /// validates the session, and counts it as alive.
    pub(crate) handshake: Option<(Instant, Instant)>,
}

/// How an attempt to connect failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The server says that the session has expired.
    Expired,
    Error(ConnectError),
}

/// How many answers of a server a resumed session waits for: to the handshake, to a ping of the crate, to
/// the credentials, and to the first request.
const RESUME_ANSWERS: u32 = 4;

/// Connects to one server. For a new session, the option `connect_timeout` is the time limit. For a
/// resumed session, each answer may take as long as a server may be silent. If a new session fails,
/// another connection finds out why.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    config: &DriverConfig,
    handshake: Handshake,
) -> Result<Opened, Failure> {
    let new = handshake.resume.is_none();
    let limit = if new {
        config.options.connection.connect_timeout
    } else {
        handshake.silence * RESUME_ANSWERS
    };
    let clock = &*config.context.clock;
    let opening = Box::pin(open(endpoint, config, handshake));
    let opened = until(clock, clock.now() + limit, opening).await;
    match opened {
        Some(Err(OpenError::Unreachable)) if new => {
            let reason = diagnose(endpoint, config, limit).await;
            Err(Failure::Error(reason))
        }
        Some(Ok(opened)) => Ok(opened),
        Some(Err(OpenError::Failed(failure))) => Err(failure),
        Some(Err(OpenError::Unreachable)) => Err(Failure::Error(
            ConnectError::new(
                ErrorKind::Unavailable,
                "the connection could not be made again",
            )
            .at(endpoint),
        )),
        None => Err(Failure::Error(
            ConnectError::timed_out(limit, silence_hint(config)).at(endpoint),
        )),
    }
}

/// Why a connection to a server failed.
enum OpenError {
    /// The crate does not say why.
    Unreachable,
    Failed(Failure),
}

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        Self::Failed(Failure::Error(error))
    }
}

async fn open(
    endpoint: &Endpoint,
    config: &DriverConfig,
    handshake: Handshake,
) -> Result<Opened, OpenError> {
    let mut connector = Client::connector()
        .with_session_timeout(handshake.timeout)
        // The crate ignores a limit that is longer than three fifths of the session's time-out.
        .with_connection_timeout(handshake.silence.min(handshake.timeout * 3 / 5))
        .with_fail_eagerly();
    if config.address.secure {
        connector = connector.with_tls(tls::options(&config.options.connection.tls)?);
    }
    let resumed = handshake.resume.as_ref().map(SessionInfo::id);
    let silence = handshake.silence;
    if let Some(session) = handshake.resume {
        connector = connector.with_session(session);
    }
    let server = endpoint.to_string();
    let connecting = async {
        if config.address.secure {
            connector.secure_connect(&server).await
        } else {
            connector.connect(&server).await
        }
    };
    let asked = config.now();
    let (connected, task) = ClientTask::capture(connecting).await;
    let exchanged = (asked, config.now());
    let client = connected.map_err(|error| match error {
        ZkError::SessionExpired => OpenError::Failed(Failure::Expired),
        ZkError::AuthFailed => rejected(endpoint).into(),
        _ => OpenError::Unreachable,
    })?;
    let task = task.ok_or_else(|| {
        ConnectError::new(
            ErrorKind::Protocol,
            "this version of the crate `zookeeper-client` does not hand over its task",
        )
    })?;
    let session = client.session().clone();
    if resumed.is_some_and(|resumed| resumed != session.id()) {
        // Some servers begin a new session, without an error, instead of resuming the old one.
        return Err(OpenError::Failed(Failure::Expired));
    }
    let timeout = client.session_timeout();
    let connection = Connection::serve(client, task, handshake.number);
    authenticate(endpoint, config, &connection).await?;
    if resumed.is_some() {
        let (clock, limit) = (&*config.context.clock, config.now() + silence);
        let catching_up = until(clock, limit, catch_up(endpoint, &connection));
        catching_up.await.ok_or(OpenError::Unreachable)??;
    }
    Ok(Opened {
        connection,
        session,
        timeout,
        handshake: resumed.map(|_| exchanged),
    })
}

fn rejected(endpoint: &Endpoint) -> ConnectError {
    ConnectError::new(
        ErrorKind::Unauthenticated,
        "the server does not accept user name and password",
    )
    .at(endpoint)
}

/// Sends the credentials after the handshake. If they are sent before it, some servers close the
/// connection (`docs/zookeeper-client.md`, report 6).
async fn authenticate(
    endpoint: &Endpoint,
    config: &DriverConfig,
    connection: &Connection,
) -> Result<(), ConnectError> {
    let Some(user) = &config.options.connection.username else {
        return Ok(());
    };
    let password = config.options.connection.password.as_ref();
    let password = password.map(|password| password.expose());
    let secret = format!("{user}:{}", password.unwrap_or_default());
    let sent = match connection.client() {
        Ok(client) => answer(client.auth("digest", secret.as_bytes())).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(ZkError::AuthFailed)) => Err(rejected(endpoint)),
        Err(_) => Err(ConnectError::new(
            ErrorKind::Unavailable,
            "the server closed the connection during the authentication",
        )
        .at(endpoint)),
    }
}

/// Waits until the server has applied everything that was acknowledged before. The crate cannot
/// tell a server which transactions the session has seen, so a server that lags behind may resume
/// it. A `sync` is not enough, because a leader that was deposed answers it too.
async fn catch_up(endpoint: &Endpoint, connection: &Connection) -> Result<(), OpenError> {
    let lagging = |_| {
        ConnectError::new(
            ErrorKind::Unavailable,
            "the server did not catch up with the others",
        )
        .at(endpoint)
    };
    let client = connection.client().map_err(lagging)?;
    match answer(client.delete(ABSENT_NODE, None)).await {
        Err(RequestError::Refused(ZkError::SessionExpired)) => {
            Err(OpenError::Failed(Failure::Expired))
        }
        // An earlier attempt to connect, to another server, was answered later than this one.
        Err(error @ RequestError::Refused(ZkError::SessionMoved)) => Err(lagging(error).into()),
        Ok(()) | Err(RequestError::Refused(_)) => Ok(()),
        Err(error) => Err(lagging(error).into()),
    }
}
