//! The proxy: its thread, and what a test may ask of it.

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

/// How long the proxy's thread may take to do what it is told, on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How many ports are tried when others take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;

/// A TCP proxy on a free port of 127.0.0.1, in front of one server; it runs in a thread of its own
/// and ends when dropped, its connections with it.
///
/// It passes bytes on as they come, records the commands among them (not those of a TLS session),
/// and injects faults. A fault holds for all connections, from the moment that its method returns.
///
/// What a command is depends on the protocol:
///
/// - Redis ([`start`](Self::start)): its name is in capitals, its arguments are as they came.
/// - etcd ([`for_etcd`](Self::for_etcd)): a call, by the last part of its path: `Txn`, `Range`,
///   `LeaseGrant`, `Watch`. It has one argument, the message. A later message of the same call is
///   a command of its own: `LeaseKeepAlive.message`, `Watch.message`.
/// - ZooKeeper ([`for_zookeeper`](Self::for_zookeeper)): a request, by the name that clients give
///   it: `create2`, `getChildren2`, `multi`, `ping`. Where it has a path, that is its first
///   argument; its whole body is the last one. The arguments of `connect` are the session that is
///   taken up (`0` for a new one) and its timeout in milliseconds, those of `multi` its parts
///   (`create /a`), that of `auth` the scheme. Four letters such as `ruok` are a command too.
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

/// What the accepting task is told.
enum Order {
    Refuse(mpsc::Sender<io::Result<()>>),
    Accept(mpsc::Sender<io::Result<()>>),
}

impl Proxy {
    /// A proxy in front of the Redis server at `target`, for example `server.address()`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port can be had.
    pub fn start(target: impl ToSocketAddrs) -> Result<Self, Error> {
        Self::start_for(Protocol::Redis, target)
    }

    /// A proxy in front of the etcd server at `target`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port can be had.
    pub fn for_etcd(target: impl ToSocketAddrs) -> Result<Self, Error> {
        Self::start_for(Protocol::Etcd, target)
    }

    /// A proxy in front of the ZooKeeper server at `target`.
    ///
    /// # Errors
    ///
    /// When the target is no address, or when no port can be had.
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

    /// `redis://127.0.0.1:PORT`, or `etcd` or `zookeeper` before the colon.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.protocol {
            Protocol::Redis => "redis",
            Protocol::Etcd => "etcd",
            Protocol::ZooKeeper => "zookeeper",
        };
        format!("{scheme}://{}", self.address())
    }

    /// Sends connections that are made from now on to another server.
    ///
    /// # Errors
    ///
    /// When the target is no address.
    pub fn set_target(&self, target: impl ToSocketAddrs) -> Result<(), Error> {
        let target = resolve(target)?;
        *self.shared.target() = target;
        Ok(())
    }

    /// Every command since the start or the last [`reset`](Self::reset), in the order of their
    /// arrival; also those that were held back or lost afterwards.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.shared.record.commands()
    }

    /// How many commands had this name, whatever letters of it are capitals.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.shared.record.count(name)
    }

    /// How many times something was sent that begins a command: commands that arrive together
    /// count as one request, a command that arrives in pieces as well. Of a pipeline larger than
    /// 64 KiB each such part may count.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.record.requests()
    }

    /// Forgets commands and requests, but not connections.
    pub fn reset(&self) {
        self.shared.record.reset();
    }

    /// How many connections were accepted since the start.
    #[must_use]
    pub fn connections_made(&self) -> u64 {
        self.shared.record.connections_made()
    }

    /// How many connections are open now.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.shared.record.open().len()
    }

    /// How many connections sent something that is no command, such as a TLS session. What they
    /// sent from then on was passed on, but not recorded: counts hold only while this is zero.
    #[must_use]
    pub fn connections_unreadable(&self) -> u64 {
        self.shared.record.connections_unreadable()
    }

    /// Closes all connections of this moment, with all that is on its way or held back, and
    /// returns when they are closed. New ones are accepted, as is one on which nothing was said
    /// yet and which waits to be accepted.
    ///
    /// # Errors
    ///
    /// When a connection is not closed within 10 s.
    pub fn cut(&self) -> Result<(), Error> {
        let open = self.shared.record.open();
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        self.closed(&open)
    }

    /// While `true`, connecting fails: nobody listens. Connections of before stay.
    ///
    /// # Errors
    ///
    /// When the port cannot be had again, or the proxy does not obey within 10 s.
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
            Err(_) => Err(failed("it did not obey")),
        }
    }

    /// From now on requests reach the server, and replies and pushes wait here: until
    /// [`release_replies`](Self::release_replies), or for ever if [`cut`](Self::cut) comes first.
    pub fn hold_replies(&self) {
        self.shared.held.send_modify(|held| held.replies = true);
    }

    /// Passes on what was held back, and everything from now on.
    pub fn release_replies(&self) {
        self.shared.held.send_modify(|held| held.replies = false);
    }

    /// From now on requests wait here, recorded but not known to the server: until
    /// [`release_requests`](Self::release_requests), or for ever if [`cut`](Self::cut) comes first.
    pub fn hold_requests(&self) {
        self.shared.held.send_modify(|held| held.requests = true);
    }

    /// Passes on what was held back, and everything from now on.
    pub fn release_requests(&self) {
        self.shared.held.send_modify(|held| held.requests = false);
    }

    /// From now on each piece of what clients send waits so long before it is passed on; pieces
    /// that come meanwhile wait their turn. Zero ends it.
    pub fn delay_requests(&self, delay: Duration) {
        let set = |held: &mut HeldTraffic| held.delay_of_requests = delay;
        self.shared.held.send_modify(set);
    }

    /// As [`delay_requests`](Self::delay_requests), for what the server sends.
    pub fn delay_replies(&self, delay: Duration) {
        let set = |held: &mut HeldTraffic| held.delay_of_replies = delay;
        self.shared.held.send_modify(set);
    }

    /// The next command of any connection reaches the server and is carried out, with what arrives
    /// together with it; its reply is lost, and then the connection is closed. Returns at once; a
    /// client that sees its connection end knows that the server is done. Happens once.
    ///
    /// Nothing that this connection's server sends reaches the client any more from the moment
    /// that the command arrives. A Redis server is sent one more command, which it does not know.
    /// A `ping` of ZooKeeper is not meant by "any". On a call of etcd that stays open, the first
    /// thing that the server sends from then on counts as the reply.
    pub fn drop_replies_and_cut(&self) {
        self.shared.record.lose_reply_of(None);
    }

    /// As [`drop_replies_and_cut`](Self::drop_replies_and_cut), for the next command of this name.
    pub fn drop_reply_of_and_cut(&self, name: &str) {
        self.shared.record.lose_reply_of(Some(name));
    }

    /// How many times a reply was lost and its connection closed for it.
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
    /// The proxy's thread. When it ends, its runtime ends, and with that all connections.
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

    /// Serves one client, until a side closes the connection or it is cut.
    fn begin(&self, client: TcpStream) {
        // Before the connection is known as open, so that whoever knows it can cut it.
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
