//! Finds the master through sentinels.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Value, cmd};
use tenure_core::{
    driver::{ConnectError, one_line},
    error::ErrorKind,
};

use super::{
    config::TransportConfig,
    connection::{Connection, Purpose},
    handshake::as_text,
};
use crate::address::Endpoint;

/// The interval at which a sentinel is queried for the current master.
const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The number of times in a row that a sentinel may name another master before the next sentinel is
/// queried.
const MAX_MASTER_CHANGES: usize = 3;

/// The sentinels in query order. The sentinel that last knew the master comes first.
#[derive(Debug)]
pub(super) struct Sentinels {
    order: Mutex<Vec<Endpoint>>,
    name: String,
}

impl Sentinels {
    pub(super) fn new(endpoints: Vec<Endpoint>, name: String) -> Self {
        let order = Mutex::new(endpoints);
        Self { order, name }
    }

    /// Queries the sentinels in turn until one names a server that itself reports to be the master.
    pub(super) async fn connect(
        &self,
        config: &TransportConfig,
    ) -> Result<Connection, ConnectError> {
        let mut errors = Vec::new();
        let mut unknown = 0;
        let order = self.order().clone();
        for sentinel in &order {
            match self.connect_master(sentinel, config).await {
                Ok(Some(conn)) => {
                    self.move_to_front(sentinel);
                    return Ok(conn);
                }
                Ok(None) => unknown += 1,
                Err(error) => errors.push(error),
            }
        }
        if unknown == order.len() || (unknown > 0 && errors.is_empty()) {
            let name = one_line(&self.name);
            let detail = format!(
                "the sentinels know no master {name:?}; compare the name with `sentinel monitor` \
                 in their configuration"
            );
            return Err(ConnectError::new(ErrorKind::Config, detail));
        }
        // An error that a retry cannot fix comes first, then the last error.
        let worst = errors
            .iter()
            .find(|error| !error.kind.is_retryable())
            .or_else(|| errors.last())
            .cloned();
        Err(worst
            .unwrap_or_else(|| ConnectError::new(ErrorKind::Unavailable, "no sentinel answered")))
    }

    /// Returns when a sentinel names another server that itself reports to be the master.
    ///
    /// A master that is only cut off from the other servers accepts requests until it learns that
    /// it was replaced, and then loses them. Therefore the sentinels are queried throughout.
    pub(super) async fn until_replaced(&self, master: &Endpoint, config: &TransportConfig) {
        let mut sentinel_conn: Option<Connection> = None;
        loop {
            tokio::time::sleep(MASTER_CHECK_INTERVAL).await;
            let first = self.order().first().cloned();
            let Some(sentinel) = first else { return };
            let conn = match sentinel_conn.take() {
                Some(conn) if conn.endpoint == sentinel && !conn.is_closed() => Ok(conn),
                _ => Self::connect_sentinel(&sentinel, config).await,
            };
            let answer = match conn {
                Ok(conn) => {
                    let answer = self.query_master(&conn).await;
                    sentinel_conn = Some(conn);
                    answer
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(Some(endpoint)) if endpoint != *master => {
                    let named = Connection::open(&endpoint, Purpose::Replicas, config).await;
                    if named.is_ok() {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                // The next sentinel may know more.
                Ok(None) | Err(_) => {
                    sentinel_conn = None;
                    self.order().rotate_left(1);
                }
            }
        }
    }

    /// Connects to the master that this sentinel names; `None` if it knows none.
    ///
    /// The sentinel is queried again after connecting. A master that was killed and restarts empty
    /// reports itself as master until the sentinels reconfigure it. A client that got its address
    /// before the failover would otherwise connect to it and take every lock for lost.
    async fn connect_master(
        &self,
        sentinel: &Endpoint,
        config: &TransportConfig,
    ) -> Result<Option<Connection>, ConnectError> {
        let sentinel_conn = Self::connect_sentinel(sentinel, config).await?;
        let Some(mut named) = self.query_master(&sentinel_conn).await? else {
            return Ok(None);
        };
        for _ in 0..MAX_MASTER_CHANGES {
            let conn = Connection::open(&named, Purpose::Commands, config).await;
            match self.query_master(&sentinel_conn).await? {
                Some(confirmed) if confirmed == named => return conn.map(Some),
                Some(other) => named = other,
                None => return Ok(None),
            }
        }
        Err(ConnectError::new(
            ErrorKind::Unavailable,
            format!("sentinel {sentinel}: it names another master at each query"),
        ))
    }

    async fn connect_sentinel(
        sentinel: &Endpoint,
        config: &TransportConfig,
    ) -> Result<Connection, ConnectError> {
        let conn = Connection::open(sentinel, Purpose::Sentinel, config).await;
        conn.map_err(|error| ConnectError::new(error.kind, format!("sentinel {}", error.detail)))
    }

    async fn query_master(&self, conn: &Connection) -> Result<Option<Endpoint>, ConnectError> {
        let sentinel = &conn.endpoint;
        let mut command = cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&self.name);
        let unavailable = |detail: &str| {
            let detail = format!("sentinel {sentinel}: {detail}");
            ConnectError::new(ErrorKind::Unavailable, detail)
        };
        match conn.command(&command).await {
            Ok(Value::Nil) => Ok(None),
            Ok(Value::Array(parts)) => {
                let (host, port) = match &*parts {
                    [host, port] => (
                        as_text(host),
                        as_text(port).and_then(|port| port.parse().ok()),
                    ),
                    _ => (None, None),
                };
                host.zip(port)
                    .and_then(|(host, port)| Endpoint::from_host_and_port(host, port, sentinel))
                    .map(Some)
                    .ok_or_else(|| unavailable("the reply is not an address"))
            }
            Ok(Value::ServerError(error)) => match error.code() {
                "NOAUTH" => Err(ConnectError::new(
                    ErrorKind::Unauthenticated,
                    format!(
                        "sentinel {sentinel}: a password is required; set \
                         `backend.options.sentinel_password`"
                    ),
                )),
                "NOPERM" => Err(ConnectError::new(
                    ErrorKind::PermissionDenied,
                    format!(
                        "sentinel {sentinel}: `sentinel_username` may not run \
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
                            "{sentinel} is not a sentinel; sentinels usually listen on port 26379"
                        ),
                    ))
                }
                code => Err(unavailable(&one_line(&format!(
                    "{code} {}",
                    error.details().unwrap_or_default()
                )))),
            },
            Ok(_) => Err(unavailable("the reply is not an address")),
            Err(error) => Err(unavailable(&one_line(&error.to_string()))),
        }
    }

    fn move_to_front(&self, sentinel: &Endpoint) {
        let mut order = self.order();
        if let Some(at) = order.iter().position(|endpoint| endpoint == sentinel) {
            order[..=at].rotate_right(1);
        }
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Vec<Endpoint>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
