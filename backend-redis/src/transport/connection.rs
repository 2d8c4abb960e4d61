//! One connection to one server: opening, handshake, and detection of a silent peer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind as RedisKind, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use tenure_core::{clock::Instant, driver::ConnectError, error::ErrorKind};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    config::TransportConfig,
    connect_error::{self, no_answer_hint},
    handshake::{HelloReply, InfoReply},
    script_call::{CallResult, Listener, ScriptCall},
    stream::{self, Liveness, MonitoredStream, RawStream, Timeouts},
};
use crate::address::{Deployment, Endpoint};

/// The number of requests that may wait to be written. It bounds memory only: further requests wait
/// for room.
const PIPELINE_BUFFER_SIZE: usize = 1024;

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Commands, and possibly the inbox subscription.
    Commands,
    /// Requests that end with `WAIT`.
    Replicas,
    /// A query to a cluster node about the cluster.
    Query,
    /// Queries to a sentinel.
    Sentinel,
}

/// One connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) endpoint: Endpoint,
    /// The end of the restart delay; until then the server may grant nothing.
    pub(super) grants_blocked_until: Option<Instant>,
    mux: MultiplexedConnection,
    liveness: Arc<Liveness>,
    closed: watch::Receiver<bool>,
    driver: AbortHandle,
    response_timeout: Duration,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects, authenticates and performs the handshake within the connect timeout.
    pub(super) async fn open(
        endpoint: &Endpoint,
        purpose: Purpose,
        config: &TransportConfig,
    ) -> Result<Self, ConnectError> {
        let limit = config.connect_timeout();
        let in_tls_handshake = AtomicBool::new(false);
        let opening = async {
            let timeouts = Timeouts {
                connect: limit,
                response: config.request_timeout,
            };
            let (secure, files) = (config.address.secure, &config.options.connection.tls);
            let stream = stream::open(endpoint, secure, files, timeouts, &in_tls_handshake).await?;
            let mut conn = Self::log_in(stream, endpoint, purpose, config).await?;
            if purpose != Purpose::Sentinel {
                conn.handshake(purpose, config).await?;
            }
            Ok(conn)
        };
        timeout(limit, opening).await.unwrap_or_else(|_| {
            let in_tls_handshake = in_tls_handshake.load(Ordering::Relaxed);
            Err(ConnectError::timed_out(limit, no_answer_hint(in_tls_handshake)).at(endpoint))
        })
    }

    async fn log_in(
        stream: RawStream,
        endpoint: &Endpoint,
        purpose: Purpose,
        config: &TransportConfig,
    ) -> Result<Self, ConnectError> {
        let response_timeout = match purpose {
            Purpose::Replicas => config.request_timeout + config.options.replica_timeout,
            Purpose::Commands | Purpose::Query => config.request_timeout,
            Purpose::Sentinel => config.connect_timeout(),
        };
        let files = &config.options.connection.tls;
        let liveness = Liveness::new();
        let tracked = MonitoredStream::new(stream, Arc::clone(&liveness));
        let mut redis_config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER_SIZE);
        if purpose == Purpose::Commands {
            let listener = Arc::clone(&config.listener);
            redis_config = redis_config.set_push_sender(move |push: PushInfo| {
                deliver(&*listener, push);
                Ok::<_, std::convert::Infallible>(())
            });
        }
        let connected =
            MultiplexedConnection::new_with_config(&login(purpose, config), tracked, redis_config)
                .await;
        let (mux, driver) = connected.map_err(|error| {
            let io_error = liveness.take_failure();
            let io_error = io_error.map(|error| connect_error::from_io(endpoint, &error, files));
            connect_error::from_reply(endpoint, "logging in", &error, io_error)
        })?;
        let (end, closed) = watch::channel(false);
        let driver = tokio::spawn(async move {
            // Set however the driver ends, including by being aborted.
            let _end = SetOnDrop(end);
            driver.await;
        });
        Ok(Self {
            endpoint: endpoint.clone(),
            grants_blocked_until: None,
            mux,
            liveness,
            closed,
            driver: driver.abort_handle(),
            response_timeout,
        })
    }

    /// Identifies the server and loads the scripts, in one round trip.
    async fn handshake(
        &mut self,
        purpose: Purpose,
        config: &TransportConfig,
    ) -> Result<(), ConnectError> {
        let endpoint = &self.endpoint;
        let with_endpoint = |error: ConnectError| error.at(endpoint);
        let options = &config.options;
        let mut pipe = Pipeline::new();
        pipe.cmd("HELLO");
        if purpose == Purpose::Commands {
            pipe.cmd("INFO");
            if options.min_replicas > 0 {
                // `WAIT 0 1` waits for nothing; it only checks whether the user may run the
                // command.
                pipe.cmd("WAIT").arg(0).arg(1);
            }
            for script in &config.scripts {
                pipe.cmd("SCRIPT").arg("LOAD").arg(&script.text);
            }
        }
        let reply_error = |step: &str, error: &RedisError| {
            let io_error = self.liveness.take_failure();
            let io_error = io_error
                .map(|error| connect_error::from_io(endpoint, &error, &options.connection.tls));
            connect_error::from_reply(endpoint, step, error, io_error)
        };
        let replies = self.pipeline(&pipe).await;
        let mut replies = replies
            .map_err(|error| reply_error("handshake", &error))?
            .into_iter();
        let mut next = |step: &str| match replies.next().unwrap_or(Value::Nil) {
            Value::ServerError(error) => Err(reply_error(step, &error.into())),
            value => Ok(value),
        };
        let mut grants_blocked_until = None;
        let hello = HelloReply::parse(&next("HELLO")?);
        hello.check(config.is_cluster()).map_err(with_endpoint)?;
        tracing::debug!(backend = "redis", %endpoint, ?hello, "connected");
        if purpose != Purpose::Query && !hello.is_master() {
            let detail = match config.address.deployment {
                Deployment::Single(_) => {
                    "the server is a replica, but locks need the master; use the master's \
                     address, or find it through sentinels (`redis+sentinel://`)"
                }
                Deployment::Sentinel { .. } | Deployment::Cluster { .. } => {
                    "the server was reported as the master but is a replica; a failover may be in \
                     progress"
                }
            };
            return Err(with_endpoint(ConnectError::new(
                ErrorKind::Unavailable,
                detail,
            )));
        }
        if purpose == Purpose::Commands {
            match next("INFO") {
                Ok(info) => {
                    let info = InfoReply::parse(&info);
                    tracing::debug!(backend = "redis", %endpoint, ?info, "server settings");
                    if let Some(warning) = info.check(options).map_err(with_endpoint)? {
                        config.warn_once(&format!("{endpoint}: {warning}"));
                    }
                    let delay_left = info.restart_delay_left(options);
                    if !delay_left.is_zero() {
                        grants_blocked_until = Some(config.clock.now() + delay_left);
                    }
                }
                Err(error) if error.kind == ErrorKind::PermissionDenied => {
                    allow_missing_info(endpoint, config)?;
                }
                Err(error) => return Err(error),
            }
            if options.min_replicas > 0 {
                next("WAIT")?;
            }
            for _ in &config.scripts {
                match next("SCRIPT LOAD") {
                    // Then the first use of each script sends its source.
                    Err(error) if error.kind == ErrorKind::PermissionDenied => break,
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
        }
        self.grants_blocked_until = grants_blocked_until;
        Ok(())
    }

    /// Subscribes to the inbox channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(), ConnectError> {
        let subscribed = self.mux.clone().subscribe(channel).await;
        subscribed
            .map_err(|error| connect_error::from_reply(&self.endpoint, "SUBSCRIBE", &error, None))
    }

    /// Sends one command. Every error reply is an `Ok(Value::ServerError)`.
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        self.mux.clone().send_packed_command(command).await
    }

    /// Sends one call alone.
    pub(super) async fn call(&self, call: &ScriptCall) -> CallResult {
        let command = ScriptCall::command(std::iter::once(call), false);
        Ok(call.unwrap_reply(self.command(&command).await?))
    }

    /// Sends commands in one write and returns one reply for each.
    pub(super) async fn pipeline(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipe.len();
        let mut mux = self.mux.clone();
        let replies = mux.send_packed_commands(pipe, 0, count).await?;
        if replies.len() != count {
            // Later replies could no longer be matched to their requests.
            self.abort("the replies do not match the requests");
            return Err((RedisKind::Client, "the replies do not match the requests").into());
        }
        Ok(replies)
    }

    /// Closes the connection. Requests in flight get no reply.
    pub(super) fn abort(&self, reason: &str) {
        if !self.is_closed() {
            let server = &self.endpoint;
            tracing::debug!(backend = "redis", %server, reason, "closing the connection");
        }
        self.driver.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.driver.is_finished()
    }

    /// Returns when the connection has ended. Closes it if the peer has been silent for longer than
    /// any reply may take, which is how a stopped peer or a dead machine is detected.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.clone();
        loop {
            let poll_interval = (self.response_timeout / 4).max(Duration::from_millis(1));
            match timeout(poll_interval, closed.wait_for(|closed| *closed)).await {
                Ok(_) => return,
                Err(_) if self.liveness.silence() >= self.response_timeout => {
                    self.abort("the server has been silent for longer than a reply may take");
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// A description of why the connection ended.
    pub(super) fn close_reason(&self, config: &TransportConfig) -> String {
        match self.liveness.take_failure() {
            Some(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                format!("{}: the server closed the connection", self.endpoint)
            }
            Some(error) => {
                connect_error::from_io(&self.endpoint, &error, &config.options.connection.tls)
                    .detail
            }
            None => format!("{}: this client closed the connection", self.endpoint),
        }
    }
}

/// Handles a user without the right to run `INFO`. The server's settings are then unknown, which is
/// only a warning unless an option depends on them.
fn allow_missing_info(endpoint: &Endpoint, config: &TransportConfig) -> Result<(), ConnectError> {
    let options = &config.options;
    let needs = if options.durability == crate::config::Durability::Local {
        "durability = \"local\""
    } else if !options.restart_delay.is_zero() {
        "restart_delay"
    } else {
        config.warn_once(&format!(
            "{endpoint}: the user may not run INFO (`+info`), so this client could not check \
             whether the server may evict locks"
        ));
        return Ok(());
    };
    Err(ConnectError::new(
        ErrorKind::PermissionDenied,
        format!("{endpoint}: `backend.options.{needs}` requires the right to run INFO (`+info`)"),
    ))
}

fn deliver(listener: &dyn Listener, push: PushInfo) {
    if push.kind != PushKind::Message {
        return;
    }
    // The elements are the channel and the payload.
    if let Some(Value::BulkString(payload)) = push.data.get(1) {
        listener.on_message(payload);
    }
}

struct SetOnDrop(watch::Sender<bool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// The credentials and the protocol for a server.
fn login(purpose: Purpose, config: &TransportConfig) -> RedisConnectionInfo {
    let options = &config.options;
    let (database, protocol, username, password) = if purpose == Purpose::Sentinel {
        // A sentinel pushes nothing, so RESP2, which every sentinel supports, is enough.
        let (username, password) = (&options.sentinel_username, &options.sentinel_password);
        (0, ProtocolVersion::RESP2, username, password)
    } else {
        let (username, password) = (&options.connection.username, &options.connection.password);
        let database = config.address.database;
        (database, ProtocolVersion::RESP3, username, password)
    };
    // `CLIENT SETINFO` needs an additional right, and Redis 7.0 does not support it.
    let mut info = RedisConnectionInfo::default()
        .set_protocol(protocol)
        .set_db(i64::from(database))
        .set_skip_set_lib_name();
    if let Some(username) = username {
        info = info.set_username(username);
    }
    if let Some(password) = password {
        info = info.set_password(password.expose());
    }
    info
}
