//! One connection to one server: made, checked, and watched for life.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind as RedisKind, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use tenure_core::{clock::Instant, error::ErrorKind, secret::Secret};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    batch::Batcher,
    config::TransportConfig,
    connect_error::ConnectError,
    handshake::{HelloReply, InfoReply},
    script_call::Listener,
    stream::{self, Liveness, MonitoredStream, RawStream, Timeouts},
};
use crate::address::{Deployment, Endpoint};

/// Requests that wait to be written. Only bounds memory: what does not fit waits for room.
const PIPELINE_BUFFER_SIZE: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Commands, and perhaps the subscription.
    Commands,
    /// Requests that end with a wait for replicas.
    Replicas,
    /// A question to a node of a cluster about the others.
    Query,
}

/// What was learnt of a server when it was connected.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerInfo {
    pub(super) version: String,
    pub(super) policy: Option<String>,
    pub(super) aof_enabled: Option<bool>,
    /// Until when nothing may be granted there.
    pub(super) closed_until: Option<Instant>,
}

/// One connection. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) place: Endpoint,
    pub(super) learnt: ServerInfo,
    pub(super) batcher: Batcher,
    mux: MultiplexedConnection,
    life: Arc<Liveness>,
    ended: watch::Receiver<bool>,
    driver: AbortHandle,
    patience: Duration,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects, logs in and checks the server, within the time of the options.
    pub(super) async fn open(
        place: &Endpoint,
        purpose: Purpose,
        settings: &TransportConfig,
    ) -> Result<Self, ConnectError> {
        let limit = settings.connect_limit();
        let options = &settings.options;
        let login = Login {
            database: settings.target.database,
            username: options.username.as_deref(),
            password: options.password.as_ref(),
            resp3: true,
        };
        let listener = (purpose == Purpose::Commands).then(|| Arc::clone(&settings.listener));
        let patience = match purpose {
            Purpose::Replicas => settings.limit + options.replica_timeout,
            Purpose::Commands | Purpose::Query => settings.limit,
        };
        let in_tls = AtomicBool::new(false);
        let opening = async {
            let wire = Self::wire(place, settings, &in_tls).await?;
            let conn = Self::log_in(wire, place, &login, patience, listener, settings);
            let mut conn = conn.await?;
            conn.check(purpose, settings).await?;
            Ok(conn)
        };
        match timeout(limit, opening).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::late(place, limit, in_tls.into_inner())),
        }
    }

    /// Connects to a sentinel.
    pub(super) async fn open_sentinel(
        place: &Endpoint,
        settings: &TransportConfig,
    ) -> Result<Self, ConnectError> {
        let limit = settings.connect_limit();
        let login = Login {
            database: 0,
            username: settings.options.sentinel_username.as_deref(),
            password: settings.options.sentinel_password.as_ref(),
            // Nothing is pushed, so the protocol that every sentinel knows will do.
            resp3: false,
        };
        let in_tls = AtomicBool::new(false);
        let opening = async {
            let wire = Self::wire(place, settings, &in_tls).await?;
            Self::log_in(wire, place, &login, limit, None, settings).await
        };
        match timeout(limit, opening).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::late(place, limit, in_tls.into_inner())),
        }
    }

    async fn wire(
        place: &Endpoint,
        settings: &TransportConfig,
        in_tls: &AtomicBool,
    ) -> Result<RawStream, ConnectError> {
        let TransportConfig {
            target, options, ..
        } = settings;
        let limits = Timeouts {
            connect: settings.connect_limit(),
            answer: settings.limit,
        };
        stream::open(place, target.secure, &options.tls, limits, in_tls).await
    }

    async fn log_in(
        wire: RawStream,
        place: &Endpoint,
        login: &Login<'_>,
        patience: Duration,
        listener: Option<Arc<dyn Listener>>,
        settings: &TransportConfig,
    ) -> Result<Self, ConnectError> {
        let files = &settings.options.tls;
        let life = Liveness::new();
        let tracked = MonitoredStream::new(wire, Arc::clone(&life));
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(patience))
            .set_pipeline_buffer_size(PIPELINE_BUFFER_SIZE);
        if let Some(listener) = listener {
            config = config.set_push_sender(move |push: PushInfo| {
                deliver(&*listener, push);
                Ok::<_, std::convert::Infallible>(())
            });
        }
        let made = MultiplexedConnection::new_with_config(&login.info(), tracked, config).await;
        let (mux, driver) = made.map_err(|error| {
            let wire = life.take_failure();
            let wire = wire.map(|error| ConnectError::of_io(place, &error, files));
            ConnectError::of_reply(place, "logging in", &error, wire)
        })?;
        let (end, ended) = watch::channel(false);
        let driver = tokio::spawn(async move {
            // Set however the driver ends, also if it is aborted.
            let _end = SetOnDrop(end);
            driver.await;
        });
        Ok(Self {
            place: place.clone(),
            learnt: ServerInfo::default(),
            batcher: Batcher::new(),
            mux,
            life,
            ended,
            driver: driver.abort_handle(),
            patience,
        })
    }

    /// Asks the server who it is, in one round trip, and hands it the scripts on the way.
    async fn check(
        &mut self,
        purpose: Purpose,
        settings: &TransportConfig,
    ) -> Result<(), ConnectError> {
        let place = &self.place;
        let put = |trouble: ConnectError| ConnectError {
            detail: format!("{place}: {}", trouble.detail),
            ..trouble
        };
        let options = &settings.options;
        let mut pipe = Pipeline::new();
        pipe.cmd("HELLO");
        if purpose == Purpose::Commands {
            pipe.cmd("INFO");
            if options.min_replicas > 0 {
                // Asks for nothing and waits for nothing: only whether we may.
                pipe.cmd("WAIT").arg(0).arg(1);
            }
            for script in &settings.scripts {
                pipe.cmd("SCRIPT").arg("LOAD").arg(&script.text);
            }
        }
        let wrong = |doing: &str, error: &RedisError| {
            let wire = self.life.take_failure();
            let wire = wire.map(|error| ConnectError::of_io(place, &error, &options.tls));
            ConnectError::of_reply(place, doing, error, wire)
        };
        let replies = self.pipeline(&pipe).await;
        let mut replies = replies
            .map_err(|error| wrong("asking who it is", &error))?
            .into_iter();
        let mut next = |doing: &str| match replies.next().unwrap_or(Value::Nil) {
            Value::ServerError(error) => Err(wrong(doing, &error.into())),
            value => Ok(value),
        };
        let hello = HelloReply::read(&next("HELLO")?);
        hello.check(settings.is_cluster()).map_err(put)?;
        let mut learnt = ServerInfo {
            version: hello.version.clone(),
            ..ServerInfo::default()
        };
        if purpose != Purpose::Query && !hello.is_master() {
            let what = match settings.target.deployment {
                Deployment::Single(_) => {
                    "it is a replica, and locks need the master; name that, or let sentinels find \
                     it (`redis+sentinel://`)"
                }
                Deployment::Sentinel { .. } | Deployment::Cluster { .. } => {
                    "it is named as the master and is a replica; perhaps a failover is under way"
                }
            };
            return Err(put(ConnectError::new(ErrorKind::Unavailable, what)));
        }
        if purpose == Purpose::Commands {
            match next("INFO") {
                Ok(info) => {
                    let info = InfoReply::read(&info);
                    if let Some(warning) = info.check(options).map_err(put)? {
                        settings.warn_once(&format!("{place}: {warning}"));
                    }
                    let closed = info.closed_for(options);
                    if !closed.is_zero() {
                        learnt.closed_until = Some(settings.clock.now() + closed);
                    }
                    learnt.policy = info.policy;
                    learnt.aof_enabled = info.aof_enabled;
                }
                Err(trouble) if trouble.kind == ErrorKind::PermissionDenied => {
                    skip_info(place, settings)?;
                }
                Err(trouble) => return Err(trouble),
            }
            if options.min_replicas > 0 {
                next("WAIT")?;
            }
            for _ in &settings.scripts {
                match next("SCRIPT LOAD") {
                    // Then the first use carries the text.
                    Err(trouble) if trouble.kind == ErrorKind::PermissionDenied => break,
                    Err(trouble) => return Err(trouble),
                    Ok(_) => {}
                }
            }
        }
        self.learnt = learnt;
        Ok(())
    }

    /// Subscribes to the inbox.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(), ConnectError> {
        let done = self.mux.clone().subscribe(channel).await;
        done.map_err(|error| ConnectError::of_reply(&self.place, "SUBSCRIBE", &error, None))
    }

    /// Sends one command. Every kind of error reply is an `Ok(Value::ServerError)`.
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        self.mux.clone().send_packed_command(command).await
    }

    /// Sends commands in one write, and answers with one reply for each.
    pub(super) async fn pipeline(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipe.len();
        let mut mux = self.mux.clone();
        let replies = mux.send_packed_commands(pipe, 0, count).await?;
        if replies.len() != count {
            // Cannot be told apart any more.
            self.give_up("its answers do not match the questions");
            return Err((RedisKind::Client, "the answers do not match the questions").into());
        }
        Ok(replies)
    }

    /// Ends the connection. What is under way is unanswered.
    pub(super) fn give_up(&self, why: &str) {
        if !self.has_ended() {
            tracing::debug!(backend = "redis", server = %self.place, why, "connection given up");
        }
        self.driver.abort();
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow() || self.driver.is_finished()
    }

    /// Returns when the connection has ended; ends it itself when the other side has been silent
    /// for longer than any answer may take. That is how a peer is noticed that was stopped, or
    /// whose machine is gone.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.clone();
        loop {
            let slice = (self.patience / 4).max(Duration::from_millis(1));
            match timeout(slice, ended.wait_for(|ended| *ended)).await {
                Ok(_) => return,
                Err(_) if self.life.silence() >= self.patience => {
                    self.give_up("it has been silent for longer than an answer may take");
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// What ended it, in words.
    pub(super) fn ending(&self, settings: &TransportConfig) -> String {
        match self.life.take_failure() {
            Some(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                format!("{}: it closed the connection", self.place)
            }
            Some(error) => ConnectError::of_io(&self.place, &error, &settings.options.tls).detail,
            None => format!("{}: the connection was given up", self.place),
        }
    }
}

/// Without `INFO` the server's settings are unknown. That is only a warning, unless an option rests
/// on them.
fn skip_info(place: &Endpoint, settings: &TransportConfig) -> Result<(), ConnectError> {
    let options = &settings.options;
    let needs = if options.durability == crate::config::Durability::Local {
        "durability = \"local\""
    } else if !options.restart_delay.is_zero() {
        "restart_delay"
    } else {
        settings.warn_once(&format!(
            "{place}: this user may not ask INFO (`+info`), so it was not checked whether the \
             server may evict locks"
        ));
        return Ok(());
    };
    Err(ConnectError::new(
        ErrorKind::PermissionDenied,
        format!("{place}: `backend.options.{needs}` needs the right to ask INFO (`+info`)"),
    ))
}

fn deliver(listener: &dyn Listener, push: PushInfo) {
    if push.kind != PushKind::Message {
        return;
    }
    // A channel and what was said there.
    if let Some(Value::BulkString(payload)) = push.data.get(1) {
        listener.message(payload);
    }
}

struct SetOnDrop(watch::Sender<bool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Who we are to one server.
struct Login<'a> {
    database: u32,
    username: Option<&'a str>,
    password: Option<&'a Secret>,
    resp3: bool,
}

impl Login<'_> {
    fn info(&self) -> RedisConnectionInfo {
        let protocol = if self.resp3 {
            ProtocolVersion::RESP3
        } else {
            ProtocolVersion::RESP2
        };
        // `CLIENT SETINFO` is a right more than is needed, and 7.0 does not know it.
        let mut info = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_db(i64::from(self.database))
            .set_skip_set_lib_name();
        if let Some(username) = self.username {
            info = info.set_username(username);
        }
        if let Some(password) = self.password {
            info = info.set_password(password.expose());
        }
        info
    }
}
