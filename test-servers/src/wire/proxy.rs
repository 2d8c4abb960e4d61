//! The proxy and its thread.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
};

use super::{
    protocol::Protocol,
    record::{Command, Record},
    relay::{Connection, HeldTraffic},
};
use crate::{Error, ports};

/// The time limit for a command to the proxy's thread on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of ports that are tried while other processes take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;

/// A TCP proxy on a free port of 127.0.0.1, in front of one server. It runs in its own thread, and ends with
/// all connections when dropped.
///
/// It relays data, records its commands (except in a TLS session), and injects faults. A fault applies to
/// all connections from the return of its method on.
///
/// Commands depend on the protocol:
///
/// - Redis ([`start`](Self::start)): the name is in capitals, the arguments are unchanged.
/// - etcd ([`for_etcd`](Self::for_etcd)): a call with the last part of its path as the name: `Txn`,
///   `Range`, `LeaseGrant`, `Watch`. The only argument is the message. A later message of the same call is a
///   further command: `LeaseKeepAlive.message`, `Watch.message`.
/// - ZooKeeper ([`for_zookeeper`](Self::for_zookeeper)): a request with its name in clients: `create2`,
///   `getChildren2`, `multi`, `ping`. A path is the first argument, and the whole body the last one. The
///   arguments of `connect` are the resumed session (`0` for a new one) and its timeout in milliseconds, the
///   arguments of `multi` are its parts (`create /a`), and the argument of `auth` is the scheme. Four-letter
///   commands such as `ruok` are commands as well.
pub struct Proxy {
    port: u16,
    protocol: Protocol,
    shared: Shared,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    protocol: Protocol,
    record: Arc<Record>,
    target: Arc<Mutex<SocketAddr>>,
    held: watch::Sender<HeldTraffic>,
    cuts: watch::Sender<u64>,
}

/// A command to the accepting task.
enum Order {
    Refuse(mpsc::Sender<io::Result<()>>),
    Accept(mpsc::Sender<io::Result<()>>),
}

impl Proxy {
    /// A proxy in front of the Redis server at `target`, for example `server.address()`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port is free.
    pub fn start(target: impl ToSocketAddrs) -> Result<Self, Error> {
        Self::start_for(Protocol::Redis, target)
    }

    /// A proxy in front of the etcd server at `target`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port is free.
    pub fn for_etcd(target: impl ToSocketAddrs) -> Result<Self, Error> {
        Self::start_for(Protocol::Etcd, target)
    }

    /// A proxy in front of the ZooKeeper server at `target`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port is free.
    pub fn for_zookeeper(target: impl ToSocketAddrs) -> Result<Self, Error> {
        Self::start_for(Protocol::ZooKeeper, target)
    }

    fn start_for(protocol: Protocol, target: impl ToSocketAddrs) -> Result<Self, Error> {
        let target = resolve(target)?;
        let mut listener = Err(Error::new("no port was tried"));
        for _ in 0..MAX_PORT_ATTEMPTS {
            let port = ports::free()?;
            listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .and_then(|listener| listener.set_nonblocking(true).map(|()| (port, listener)))
                .map_err(|error| Error::new(format!("no proxy on port {port}: {error}")));
            if listener.is_ok() {
                break;
            }
        }
        let (port, listener) = listener?;
        let shared = Shared {
            protocol,
            record: Arc::default(),
            target: Arc::new(Mutex::new(target)),
            held: watch::Sender::default(),
            cuts: watch::Sender::default(),
        };
        let (orders, received) = unbounded_channel();
        let for_thread = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("proxy-{port}"))
            .spawn(move || for_thread.run(listener, port, received))
            .map_err(|error| Error::new(format!("no thread for the proxy: {error}")))?;
        Ok(Self {
            port,
            protocol,
            shared,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// The port of 127.0.0.1 that the proxy listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://127.0.0.1:PORT`, or with the scheme `etcd` or `zookeeper`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.protocol {
            Protocol::Redis => "redis",
            Protocol::Etcd => "etcd",
            Protocol::ZooKeeper => "zookeeper",
        };
        format!("{scheme}://{}", self.address())
    }

    /// Sets the server of further connections.
    ///
    /// # Errors
    ///
    /// When the target is no address.
    pub fn set_target(&self, target: impl ToSocketAddrs) -> Result<(), Error> {
        let target = resolve(target)?;
        *self.shared.target() = target;
        Ok(())
    }

    /// All commands since the start or the last [`reset`](Self::reset), in the order of arrival, including
    /// held and lost commands.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.shared.record.commands()
    }

    /// The number of commands with this name, independent of case.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.shared.record.count(name)
    }

    /// The number of requests: chunks in which a command begins. Commands that arrive together are one
    /// request, and so is a command that arrives in several chunks. A pipeline of more than 64 KiB may count
    /// several times.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.record.requests()
    }

    /// Clears the recorded commands and requests, but not the connections.
    pub fn reset(&self) {
        self.shared.record.reset();
    }

    /// The number of accepted connections since the start.
    #[must_use]
    pub fn connections_made(&self) -> u64 {
        self.shared.record.connections_made()
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.shared.record.open().len()
    }

    /// The number of connections with invalid commands, such as a TLS session. Their further data is relayed
    /// but not recorded: counts are complete only while this number is zero.
    #[must_use]
    pub fn connections_unreadable(&self) -> u64 {
        self.shared.record.connections_unreadable()
    }

    /// Closes all current connections with their data in flight, and returns when they are closed. Further
    /// connections are accepted, including one that already waits to be accepted.
    ///
    /// # Errors
    ///
    /// When a connection is not closed within 10 s.
    pub fn cut(&self) -> Result<(), Error> {
        let open = self.shared.record.open();
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        self.closed(&open)
    }

    /// While `true`, new connections fail because the port is closed. Open connections stay open.
    ///
    /// # Errors
    ///
    /// When the port cannot be opened again, or when the proxy does not react within 10 s.
    pub fn refuse(&self, refuse: bool) -> Result<(), Error> {
        let (done, outcome) = mpsc::channel();
        let order = if refuse {
            Order::Refuse(done)
        } else {
            Order::Accept(done)
        };
        let told = self
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send(order).is_ok());
        let failed = |why: &str| Error::new(format!("the proxy on port {}: {why}", self.port));
        if !told {
            return Err(failed("it has ended"));
        }
        match outcome.recv_timeout(COMMAND_TIMEOUT) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&format!("cannot listen again: {error}"))),
            Err(_) => Err(failed("it did not react")),
        }
    }

    /// Holds replies and pushes from now on, until [`release_replies`](Self::release_replies). Requests reach
    /// the server. [`cut`](Self::cut) drops the held data.
    pub fn hold_replies(&self) {
        self.shared.held.send_modify(|held| held.replies = true);
    }

    /// Passes the held data, and all further data.
    pub fn release_replies(&self) {
        self.shared.held.send_modify(|held| held.replies = false);
    }

    /// Holds requests from now on, until [`release_requests`](Self::release_requests). They are recorded but
    /// do not reach the server. [`cut`](Self::cut) drops the held data.
    pub fn hold_requests(&self) {
        self.shared.held.send_modify(|held| held.requests = true);
    }

    /// Passes the held data, and all further data.
    pub fn release_requests(&self) {
        self.shared.held.send_modify(|held| held.requests = false);
    }

    /// Delays everything that clients send from now on, as a slow network does: each piece by this time,
    /// however many are on their way. Zero ends the delay.
    pub fn delay_requests(&self, delay: Duration) {
        let set = |held: &mut HeldTraffic| held.delay_of_requests = delay;
        self.shared.held.send_modify(set);
    }

    /// As [`delay_requests`](Self::delay_requests), for the data of the server.
    pub fn delay_replies(&self, delay: Duration) {
        let set = |held: &mut HeldTraffic| held.delay_of_replies = delay;
        self.shared.held.send_modify(set);
    }

    /// Passes the server's data one piece after another from now on, with this time after each, as a slow
    /// server answers. Zero ends it.
    pub fn pace_replies(&self, pace: Duration) {
        let set = |held: &mut HeldTraffic| held.pace_of_replies = pace;
        self.shared.held.send_modify(set);
    }

    /// Loses the reply of the next command of any connection, once: the server executes the command and the
    /// commands that arrive with it, and then the connection is closed. Returns at once. When the connection
    /// of a client ends, the server has executed the command.
    ///
    /// From the arrival of the command on, the client receives no data. A Redis server receives one further,
    /// unknown command. A `ping` of ZooKeeper does not count as a command. For an open call of etcd, the
    /// next data of the server counts as the reply.
    pub fn drop_replies_and_cut(&self) {
        self.shared.record.lose_reply_of(None);
    }

    /// As [`drop_replies_and_cut`](Self::drop_replies_and_cut), for the next command of this name.
    pub fn drop_reply_of_and_cut(&self, name: &str) {
        self.shared.record.lose_reply_of(Some(name));
    }

    /// The number of lost replies.
    #[must_use]
    pub fn replies_dropped(&self) -> u64 {
        self.shared.record.replies_lost()
    }

    fn closed(&self, connections: &BTreeSet<u64>) -> Result<(), Error> {
        if self
            .shared
            .record
            .wait_until_closed(connections, COMMAND_TIMEOUT)
        {
            Ok(())
        } else {
            Err(Error::new(format!(
                "the proxy on port {}: a connection was not closed within {COMMAND_TIMEOUT:?}",
                self.port
            )))
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("port", &self.port)
            .field("target", &*self.shared.target())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs the proxy's thread. Its end closes all connections.
    fn run(self, listener: std::net::TcpListener, port: u16, orders: UnboundedReceiver<Order>) {
        if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(self.accept(listener, port, orders));
        }
    }

    async fn accept(
        self,
        listener: std::net::TcpListener,
        port: u16,
        mut orders: UnboundedReceiver<Order>,
    ) {
        let mut listener = TcpListener::from_std(listener).ok();
        loop {
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Refuse(done)) => {
                        listener = None;
                        let _ = done.send(Ok(()));
                    }
                    Some(Order::Accept(done)) => {
                        let outcome = match listener {
                            Some(_) => Ok(()),
                            None => TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                                .await
                                .map(|new| listener = Some(new)),
                        };
                        let _ = done.send(outcome);
                    }
                },
                client = accepted => if let Ok((client, _)) = client {
                    self.begin(client);
                },
            }
        }
    }

    /// Serves one client until the connection ends.
    fn begin(&self, client: TcpStream) {
        // Before the connection is recorded, so that a recorded connection can be cut.
        let mut cuts = self.cuts.subscribe();
        let number = self.record.opened();
        let connection = Connection {
            number,
            protocol: self.protocol,
            record: Arc::clone(&self.record),
            held: self.held.subscribe(),
        };
        let target = *self.target();
        let record = Arc::clone(&self.record);
        tokio::spawn(async move {
            let served = async {
                if let Ok(server) = TcpStream::connect(target).await {
                    connection.run(client, server).await;
                }
            };
            tokio::select! {
                biased;
                _ = cuts.changed() => {}
                () = served => {}
            }
            record.closed(number);
        });
    }

    fn target(&self) -> std::sync::MutexGuard<'_, SocketAddr> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolve(target: impl ToSocketAddrs) -> Result<SocketAddr, Error> {
    let resolved = target
        .to_socket_addrs()
        .map(|mut addresses| addresses.next());
    match resolved {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(Error::new("no proxy: its target has no address")),
        Err(error) => Err(Error::new(format!("no proxy: its target: {error}"))),
    }
}
