//! Free ports of 127.0.0.1.
//!
//! The ports are below the range of outgoing connections: when a server restarts, its port must be free
//! although clients try to connect meanwhile, each attempt from a port of that range. (An attempt from the
//! target port even connects to itself.)

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::Error;

const FIRST_PORT: u16 = 10_000;
/// The default start of the range of outgoing connections on Linux.
const DEFAULT_EPHEMERAL_START: u16 = 32_768;
const MAX_ATTEMPTS: u32 = 1_000;

/// The ports of one server. A kind of server uses a part of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ports {
    /// Clients connect to this port.
    pub(crate) client: u16,
    /// Members of a cluster connect to this port.
    pub(crate) peer: u16,
    /// Members of a ZooKeeper cluster elect a leader through this port.
    pub(crate) election: u16,
    /// The server answers tests on this port without TLS.
    pub(crate) status: u16,
    /// Where other members reach `peer` and `election`, if not there: the ports of relays.
    pub(crate) relays: Option<RelayPorts>,
}

/// The ports of the relays in front of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayPorts {
    pub(crate) peer: u16,
    pub(crate) election: u16,
}

impl Ports {
    pub(crate) fn free() -> Result<Self, Error> {
        Ok(Self {
            client: free()?,
            peer: free()?,
            election: free()?,
            status: free()?,
            relays: None,
        })
    }

    /// The port that other members use for `peer`.
    pub(crate) fn advertised_peer(&self) -> u16 {
        self.relays.map_or(self.peer, |relays| relays.peer)
    }

    /// The port that other members use for `election`.
    pub(crate) fn advertised_election(&self) -> u16 {
        self.relays.map_or(self.election, |relays| relays.election)
    }
}

static RESERVED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Returns a port on which no process listens, and that this function has not returned before, here or in
/// another process that uses it. A program that does not use it may still take the port before it is used, so
/// that callers must be able to try another one.
pub(crate) fn free() -> Result<u16, Error> {
    let end = end_of_range();
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let reserved = reserved.get_or_insert_default();
    for _ in 0..MAX_ATTEMPTS {
        let port = FIRST_PORT + random_below(end - FIRST_PORT);
        if !reserved.contains(&port)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && reserve(port).map_err(|error| Error::new(format!("reserving a port: {error}")))?
        {
            reserved.insert(port);
            return Ok(port);
        }
    }
    Err(Error::new(format!(
        "no free port of 127.0.0.1 between {FIRST_PORT} and {end} in {MAX_ATTEMPTS} attempts"
    )))
}

/// Keeps other test processes from the port until this process ends, so that a server finds its port free when
/// it restarts. Returns whether no other process keeps it.
fn reserve(port: u16) -> io::Result<bool> {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = match FILE.get() {
        Some(file) => file,
        None => match open_reservations() {
            Ok(opened) => FILE.get_or_init(|| opened),
            // Another user made it. Without it, two processes may choose one port, which is rare.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            Err(error) => return Err(error),
        },
    };
    match lock_byte(file, port) {
        Ok(()) => Ok(true),
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens the file whose locked bytes are the ports that the test processes of this user keep.
fn open_reservations() -> io::Result<File> {
    let name = format!("tenure-test-ports-{}", nix::unistd::getuid());
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    options.open(std::env::temp_dir().join(name))
}

/// Locks the byte with this number, for as long as the file is open. Other systems have no such lock.
#[cfg(not(target_os = "linux"))]
fn lock_byte(_file: &File, _number: u16) -> nix::Result<()> {
    Ok(())
}

/// Locks the byte with this number, for as long as the file is open.
#[cfg(target_os = "linux")]
fn lock_byte(file: &File, number: u16) -> nix::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number.into(),
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(|_| ())
}

/// Returns whether `process` listens on `port`. Otherwise another process may have taken the port and
/// answer there. Returns `true` on systems without `/proc`.
pub(crate) fn is_listened_on(port: u16, process: u32) -> bool {
    const LISTENING: &str = "0A";
    if !fs::exists("/proc/self/fd").unwrap_or(false) {
        return true;
    }
    let port = format!(":{port:04X}");
    let listening = sockets(|local, state| state == LISTENING && local.ends_with(&port));
    has_open(process, |file| listening.contains(file))
}

/// Returns the socket that is connected from `local` to `remote`, by its name in `/proc/PID/fd`.
pub(crate) fn connected_socket(local: u16, remote: u16) -> Option<OsString> {
    // As a whole, since the table has a line for each connection that has ended lately.
    let addresses = format!("{} {}", loopback(local), loopback(remote));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table[table.find(&addresses)?..].split_whitespace().nth(8)?;
    Some(format!("socket:[{inode}]").into())
}

/// Returns 127.0.0.1 with this port as the table of sockets shows it.
fn loopback(port: u16) -> String {
    let address = u32::from_ne_bytes([127, 0, 0, 1]);
    format!("{address:08X}:{port:04X}")
}

/// Returns whether `process` has such a file open.
pub(crate) fn has_open(process: u32, is_such: impl Fn(&OsStr) -> bool) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| is_such(target.as_os_str())))
}

/// Returns the sockets whose local address and state are wanted, by their names in `/proc/PID/fd`.
fn sockets(is_wanted: impl Fn(&str, &str) -> bool) -> HashSet<OsString> {
    let mut sockets = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, state, _, _, _, _, _, inode, ..] = columns[..]
                && is_wanted(local, state)
            {
                sockets.insert(format!("socket:[{inode}]").into());
            }
        }
    }
    sockets
}

fn end_of_range() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        // If there are too few ports below the range, use ports of the range as well.
        .filter(|begin| *begin > FIRST_PORT + 2_000)
        .unwrap_or(DEFAULT_EPHEMERAL_START)
}

/// Returns a random number below `bound`; each hasher has random keys.
fn random_below(bound: u16) -> u16 {
    let random = RandomState::new().build_hasher().finish();
    u16::try_from(random % u64::from(bound)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_unique() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        let distinct: HashSet<&u16> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        let listeners: Vec<_> = ports
            .iter()
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)))
            .collect();
        // Another process may have taken one or two meanwhile.
        assert!(listeners.iter().filter(|l| l.is_ok()).count() > 45);
    }

    /// The lock belongs to the open file, so a second one is like that of another process.
    #[test]
    fn port_of_another_process_is_left_alone() {
        let port = free().unwrap();
        let other = open_reservations().unwrap();
        assert_eq!(lock_byte(&other, port), Err(Errno::EAGAIN));
    }

    #[test]
    fn listening_process_is_recognized() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_listened_on(port, std::process::id()));
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let others = is_listened_on(port, other.id());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!others);
        drop(listener);
        assert!(!is_listened_on(port, std::process::id()));
    }
}
