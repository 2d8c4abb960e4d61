//! The links between the members of a cluster: relays that a test can cut.
//!
//! Each member advertises a relay in front of its own port, so that all connections between members pass
//! through relays. A relay knows the target by its own port. It finds the source by the socket of the
//! connection, which one of the members has open. A connection of another process, such as a client, is
//! never cut.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::{self, Handle},
    sync::{OnceCell, oneshot, watch},
    task::spawn_blocking,
};

use crate::{Error, ports};

/// The maximum size of one read.
const CHUNK_SIZE: usize = 64 * 1024;
/// The number of ports that are tried while other processes take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;

/// The cut directions, each from one member to another.
type Cuts = BTreeSet<(usize, usize)>;

/// The links between the members of a cluster. All are intact at first.
///
/// On a cut link, connections stay open and data is held, as in a network that loses packets: when the link
/// is intact again, the data arrives. A new connection over a cut link gets no answer. Data that a relay
/// passes on at the moment of the cut may still arrive, and so may the last data of a connection that its
/// source has closed before the first cut.
pub struct Links {
    shared: Arc<Shared>,
    runtime: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// The process of each member; zero if none was started yet.
    members: Mutex<Vec<Arc<AtomicU32>>>,
    cuts: watch::Sender<Cuts>,
}

/// The port of a relay that does not run yet.
pub(crate) struct RelayPort {
    listener: TcpListener,
    port: u16,
}

impl RelayPort {
    /// Listens on a free port, so that the port can be advertised before the target is known.
    pub(crate) fn bind() -> Result<Self, Error> {
        let mut last = None;
        for _ in 0..MAX_PORT_ATTEMPTS {
            let port = ports::free()?;
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(listener) => return Ok(Self { listener, port }),
                Err(error) => last = Some(format!("no relay on port {port}: {error}")),
            }
        }
        Err(Error::new(last.unwrap_or_default()))
    }

    pub(crate) fn number(&self) -> u16 {
        self.port
    }
}

/// Addresses that a relay replaces in the first data of a connection, by others of the same length.
pub(crate) type Replacements = Vec<(String, String)>;

impl Links {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::new(format!("no thread for relays: {error}"));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            let _ = runtime.block_on(ended);
        };
        let thread = thread::Builder::new()
            .name("relays".to_owned())
            .spawn(run)
            .map_err(failed)?;
        Ok(Self {
            shared: Arc::new(Shared {
                members: Mutex::default(),
                cuts: watch::Sender::default(),
            }),
            runtime: handle,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Adds a member whose process has this id, and returns its index.
    pub(crate) fn add_member(&self, process: Arc<AtomicU32>) -> usize {
        let mut members = self.shared.members();
        members.push(process);
        members.len() - 1
    }

    /// Starts a relay to the port `target` of a member.
    pub(crate) fn relay(
        &self,
        port: RelayPort,
        member: usize,
        target: u16,
        replacements: Replacements,
    ) -> Result<(), Error> {
        port.listener
            .set_nonblocking(true)
            .map_err(|error| Error::new(format!("no relay on port {}: {error}", port.port)))?;
        let relay = Arc::new(Relay {
            shared: Arc::clone(&self.shared),
            port: port.port,
            member,
            target,
            replacements,
        });
        self.runtime.spawn(relay.accept(port.listener));
        Ok(())
    }

    /// Cuts both directions between a member and every other member.
    pub fn isolate(&self, member: usize) {
        let count = self.shared.members().len();
        self.shared.cuts.send_modify(|cuts| {
            for other in (0..count).filter(|other| *other != member) {
                cuts.insert((member, other));
                cuts.insert((other, member));
            }
        });
    }

    /// Cuts one direction: what `from` sends does not reach `to`, and what `to` sends reaches `from`.
    pub fn cut(&self, from: usize, to: usize) {
        self.shared.cuts.send_modify(|cuts| {
            cuts.insert((from, to));
        });
    }

    /// Makes all links intact, and delivers the held data.
    pub fn heal(&self) {
        self.shared.cuts.send_modify(BTreeSet::clear);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("cuts", &*self.shared.cuts.borrow())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AtomicU32>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the member that has connected from `local` to `remote`; `None` if another process has.
    fn source(&self, local: u16, remote: u16) -> Option<usize> {
        let socket = ports::connected_socket(local, remote)?;
        let has_it = |process: &Arc<AtomicU32>| {
            ports::has_open(process.load(Ordering::SeqCst), |file| file == socket)
        };
        self.members().iter().position(has_it)
    }
}

/// The relay in front of one port of a member.
struct Relay {
    shared: Arc<Shared>,
    port: u16,
    member: usize,
    target: u16,
    replacements: Replacements,
}

impl Relay {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
            return;
        };
        loop {
            if let Ok((stream, peer)) = listener.accept().await {
                tokio::spawn(Arc::clone(&self).serve(stream, peer.port()));
            }
        }
    }

    /// Serves one connection until one side breaks it or both sides close it.
    async fn serve(self: Arc<Self>, mut source: TcpStream, from: u16) {
        let connection = Connection {
            relay: &self,
            from,
            member: OnceCell::new(),
        };
        // A connection is made by packets of both directions.
        for direction in [Direction::Forth, Direction::Back] {
            if connection.intact(direction).await.is_err() {
                return;
            }
        }
        let Ok(mut target) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).await else {
            return;
        };
        let _ = source.set_nodelay(true);
        let _ = target.set_nodelay(true);
        let (from_source, to_source) = source.split();
        let (from_target, to_target) = target.split();
        let _ = tokio::try_join!(
            connection.pass(from_source, to_target, Direction::Forth, &self.replacements),
            connection.pass(from_target, to_source, Direction::Back, &[]),
        );
    }
}

#[derive(Clone, Copy)]
enum Direction {
    /// From the process that has connected.
    Forth,
    Back,
}

/// One connection over a relay.
struct Connection<'a> {
    relay: &'a Relay,
    /// The port of the process that has connected.
    from: u16,
    /// The member that has connected, once it is known; `None` if it is no member.
    member: OnceCell<Option<usize>>,
}

impl Connection<'_> {
    /// Passes on the data of one direction, up to and including its end.
    async fn pass(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        direction: Direction,
        replacements: &[(String, String)],
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_SIZE];
        let mut replacements = replacements;
        loop {
            let length = from.read(&mut buffer).await?;
            self.intact(direction).await?;
            if length == 0 {
                return to.shutdown().await;
            }
            for (old, new) in std::mem::take(&mut replacements) {
                replace(&mut buffer[..length], old.as_bytes(), new.as_bytes());
            }
            to.write_all(&buffer[..length]).await?;
        }
    }

    /// Waits until a direction is not cut.
    async fn intact(&self, direction: Direction) -> io::Result<()> {
        let mut cuts = self.relay.shared.cuts.subscribe();
        // The search for the member is expensive, so that it waits for the first cut.
        if cuts.borrow().is_empty() {
            return Ok(());
        }
        let Some(member) = *self.member.get_or_init(|| self.find_member()).await else {
            return Ok(());
        };
        let link = match direction {
            Direction::Forth => (member, self.relay.member),
            Direction::Back => (self.relay.member, member),
        };
        let intact = cuts.wait_for(|cuts| !cuts.contains(&link)).await;
        intact
            .map(|_| ())
            .map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    async fn find_member(&self) -> Option<usize> {
        let (shared, from, to) = (Arc::clone(&self.relay.shared), self.from, self.relay.port);
        let found = spawn_blocking(move || shared.source(from, to)).await;
        found.ok().flatten()
    }
}

/// Replaces `old` wherever it occurs. The lengths must be equal: a length before the text stays true.
fn replace(data: &mut [u8], old: &[u8], new: &[u8]) {
    if old.len() != new.len() {
        return;
    }
    for start in 0..data.len().saturating_sub(old.len() - 1) {
        if data[start..].starts_with(old) {
            data[start..start + old.len()].copy_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    #[test]
    fn text_of_the_same_length_is_replaced_everywhere() {
        let mut data = *b"ab12ab";
        replace(&mut data, b"ab", b"xy");
        assert_eq!(&data, b"xy12xy");
        replace(&mut data, b"12", b"1");
        assert_eq!(&data, b"xy12xy");
    }

    /// This process is the source and both members: the first member that has the socket is the source.
    #[test]
    fn data_is_held_while_its_direction_is_cut() {
        let links = Links::new().unwrap();
        for _ in 0..2 {
            links.add_member(Arc::new(AtomicU32::new(std::process::id())));
        }
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = RelayPort::bind().unwrap();
        let number = port.number();
        let target_port = target.local_addr().unwrap().port();
        links.relay(port, 1, target_port, Vec::new()).unwrap();
        let mut source = TcpStream::connect(("127.0.0.1", number)).unwrap();
        source.write_all(b"a").unwrap();
        let (mut target, _) = target.accept().unwrap();
        let mut byte = [0];
        target.read_exact(&mut byte).unwrap();

        links.cut(0, 1);
        let quiet = Some(Duration::from_millis(200));
        target.set_read_timeout(quiet).unwrap();
        source.write_all(b"b").unwrap();
        target.read_exact(&mut byte).unwrap_err();
        target.write_all(b"c").unwrap();
        source.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"c", "the other direction is intact");

        links.heal();
        target.set_read_timeout(None).unwrap();
        target.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");

        links.isolate(0);
        source.set_read_timeout(quiet).unwrap();
        target.write_all(b"d").unwrap();
        source.read_exact(&mut byte).unwrap_err();
    }

    #[test]
    fn connection_of_another_process_is_not_cut() {
        let links = Links::new().unwrap();
        for _ in 0..2 {
            links.add_member(Arc::default());
        }
        links.isolate(0);
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = RelayPort::bind().unwrap();
        let number = port.number();
        let target_port = target.local_addr().unwrap().port();
        links.relay(port, 0, target_port, Vec::new()).unwrap();
        let mut source = TcpStream::connect(("127.0.0.1", number)).unwrap();
        source.write_all(b"a").unwrap();
        let (mut target, _) = target.accept().unwrap();
        target.read_exact(&mut [0]).unwrap();
    }
}
