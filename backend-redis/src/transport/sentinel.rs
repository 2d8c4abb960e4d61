//! Which server the sentinels say is the master.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Value, cmd};
use tenure_core::error::ErrorKind;

use super::{
    config::TransportConfig,
    connect_error::{ConnectError, one_line},
    connection::{Connection, Purpose},
    handshake::text,
};
use crate::address::Endpoint;

/// So often the sentinels are asked whether the master is still the master.
const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// So often in a row a sentinel may name another master before the next sentinel is asked.
const MAX_MASTER_CHANGES: usize = 3;

/// The sentinels, in the order in which they are asked: the one that knew it last time first.
#[derive(Debug)]
pub(super) struct Sentinels {
    order: Mutex<Vec<Endpoint>>,
    name: String,
}

impl Sentinels {
    pub(super) fn new(places: Vec<Endpoint>, name: String) -> Self {
        let order = Mutex::new(places);
        Self { order, name }
    }

    /// Asks one after the other, until one names a server that says itself that it is the master.
    pub(super) async fn connect(
        &self,
        settings: &TransportConfig,
    ) -> Result<Connection, ConnectError> {
        let mut troubles = Vec::new();
        let mut unknown = 0;
        let order = self.order().clone();
        for sentinel in &order {
            match self.master(sentinel, settings).await {
                Ok(Some(conn)) => {
                    self.prefer(sentinel);
                    return Ok(conn);
                }
                Ok(None) => unknown += 1,
                Err(trouble) => troubles.push(trouble),
            }
        }
        if unknown == order.len() || (unknown > 0 && troubles.is_empty()) {
            let name = one_line(&self.name);
            let what = format!(
                "the sentinels know no master {name:?}; compare with `sentinel monitor` in their \
                 configuration"
            );
            return Err(ConnectError::new(ErrorKind::Config, what));
        }
        // What waiting cannot mend comes first; then whatever the last one said.
        let worst = troubles
            .iter()
            .find(|trouble| !trouble.kind.is_retryable())
            .or_else(|| troubles.last())
            .cloned();
        Err(worst
            .unwrap_or_else(|| ConnectError::new(ErrorKind::Unavailable, "no sentinel answered")))
    }

    /// Returns when a sentinel names another server than this one, and that says itself that it is
    /// the master.
    ///
    /// A master that was only cut off from the others takes requests until it hears that it is none
    /// any more, and loses them then. So the sentinels are asked all the while.
    pub(super) async fn replaced(&self, master: &Endpoint, settings: &TransportConfig) {
        let mut asked: Option<Connection> = None;
        loop {
            tokio::time::sleep(MASTER_CHECK_INTERVAL).await;
            let first = self.order().first().cloned();
            let Some(sentinel) = first else { return };
            let conn = match asked.take() {
                Some(conn) if conn.place == sentinel && !conn.has_ended() => Ok(conn),
                _ => Self::reach(&sentinel, settings).await,
            };
            let answer = match conn {
                Ok(conn) => {
                    let answer = self.question(&conn).await;
                    asked = Some(conn);
                    answer
                }
                Err(trouble) => Err(trouble),
            };
            match answer {
                Ok(Some(place)) if place != *master => {
                    let named = Connection::open(&place, Purpose::Replicas, settings).await;
                    if named.is_ok() {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                // The next one knows more, perhaps.
                Ok(None) | Err(_) => {
                    asked = None;
                    self.order().rotate_left(1);
                }
            }
        }
    }

    /// A connection to the master that this sentinel names; `None` if it knows none.
    ///
    /// It is asked once more when there is a connection. A master that was killed and comes back, empty,
    /// says of itself that it is one until the sentinels have told it otherwise: whoever was told its
    /// address before the failover would take it for the master, and every lock for lost.
    async fn master(
        &self,
        sentinel: &Endpoint,
        settings: &TransportConfig,
    ) -> Result<Option<Connection>, ConnectError> {
        let asked = Self::reach(sentinel, settings).await?;
        let Some(mut named) = self.question(&asked).await? else {
            return Ok(None);
        };
        for _ in 0..MAX_MASTER_CHANGES {
            let conn = Connection::open(&named, Purpose::Commands, settings).await;
            match self.question(&asked).await? {
                Some(still) if still == named => return conn.map(Some),
                Some(other) => named = other,
                None => return Ok(None),
            }
        }
        Err(ConnectError::new(
            ErrorKind::Unavailable,
            format!("sentinel {sentinel}: it names another master each time it is asked"),
        ))
    }

    async fn reach(
        sentinel: &Endpoint,
        settings: &TransportConfig,
    ) -> Result<Connection, ConnectError> {
        let conn = Connection::open_sentinel(sentinel, settings).await;
        conn.map_err(|trouble| ConnectError {
            detail: format!("sentinel {}", trouble.detail),
            ..trouble
        })
    }

    async fn question(&self, conn: &Connection) -> Result<Option<Endpoint>, ConnectError> {
        let sentinel = &conn.place;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.name);
        let wrong = |what: &str| {
            let what = format!("sentinel {sentinel}: {what}");
            ConnectError::new(ErrorKind::Unavailable, what)
        };
        match conn.command(&question).await {
            Ok(Value::Nil) => Ok(None),
            Ok(Value::Array(parts)) => {
                let (host, port) = match &*parts {
                    [host, port] => (text(host), text(port).and_then(|port| port.parse().ok())),
                    _ => (None, None),
                };
                host.zip(port)
                    .and_then(|(host, port)| Endpoint::named(host, port, sentinel))
                    .map(Some)
                    .ok_or_else(|| wrong("its answer is no address"))
            }
            Ok(Value::ServerError(error)) => match error.code() {
                "NOAUTH" => Err(ConnectError::new(
                    ErrorKind::Unauthenticated,
                    format!(
                        "sentinel {sentinel}: it wants a password; set \
                         `backend.options.sentinel_password`"
                    ),
                )),
                "NOPERM" => Err(ConnectError::new(
                    ErrorKind::PermissionDenied,
                    format!(
                        "sentinel {sentinel}: `sentinel_username` may not ask \
                         `sentinel|get-master-addr-by-name`"
                    ),
                )),
                "ERR"
                    if error
                        .details()
                        .is_some_and(|d| d.contains("unknown command")) =>
                {
                    Err(ConnectError::new(
                        ErrorKind::Config,
                        format!(
                            "{sentinel} is no sentinel; sentinels listen on port 26379 usually"
                        ),
                    ))
                }
                code => Err(wrong(&one_line(&format!(
                    "{code} {}",
                    error.details().unwrap_or_default()
                )))),
            },
            Ok(_) => Err(wrong("its answer is no address")),
            Err(error) => Err(wrong(&one_line(&error.to_string()))),
        }
    }

    fn prefer(&self, sentinel: &Endpoint) {
        let mut order = self.order();
        if let Some(at) = order.iter().position(|place| place == sentinel) {
            order[..=at].rotate_right(1);
        }
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Vec<Endpoint>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
