//! Free ports of 127.0.0.1.
//!
//! Taken from below the range that the system gives to outgoing connections: a server that is
//! killed and restarted must find its port free although clients try to reach it meanwhile, each
//! attempt from a port of that range (an attempt from the very port that it aims at even connects
//! to itself).

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use crate::Error;

const FIRST_PORT: u16 = 10_000;
/// Where Linux lets the outgoing range begin, unless told otherwise.
const DEFAULT_EPHEMERAL_START: u16 = 32_768;
const MAX_ATTEMPTS: u32 = 1_000;

static RESERVED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on, and that this process was not given before. Another process may
/// still take it before it is used: whoever uses it has to be ready to try another.
pub(crate) fn free() -> Result<u16, Error> {
    let end = end_of_range();
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let reserved = reserved.get_or_insert_default();
    for _ in 0..MAX_ATTEMPTS {
        let port = FIRST_PORT + random_below(end - FIRST_PORT);
        if !reserved.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            reserved.insert(port);
            return Ok(port);
        }
    }
    Err(Error::new(format!(
        "no free port of 127.0.0.1 between {FIRST_PORT} and {end} in {MAX_ATTEMPTS} attempts"
    )))
}

/// Whether `process` listens on `port`: somebody else's server may have been faster to take it, and
/// would answer as well. True where the system does not tell.
pub(crate) fn is_listened_on(port: u16, process: u32) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return !fs::exists("/proc/self/fd").unwrap_or(false);
    };
    let listening = listening_sockets(port);
    files.flatten().any(|file| {
        fs::read_link(file.path()).is_ok_and(|target| listening.contains(target.as_os_str()))
    })
}

/// The sockets that listen on `port`, by the names that they have among a process's files.
fn listening_sockets(port: u16) -> HashSet<OsString> {
    const LISTENING: &str = "0A";
    let port = format!(":{port:04X}");
    let mut sockets = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, LISTENING, _, _, _, _, _, inode, ..] = columns[..]
                && local.ends_with(&port)
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
        // A range that leaves no room below is shared with outgoing connections.
        .filter(|begin| *begin > FIRST_PORT + 2_000)
        .unwrap_or(DEFAULT_EPHEMERAL_START)
}

/// Random enough for a port; each hasher has keys of its own.
fn random_below(bound: u16) -> u16 {
    let random = RandomState::new().build_hasher().finish();
    u16::try_from(random % u64::from(bound)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_never_given_twice() {
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

    #[test]
    fn it_is_known_who_listens() {
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
