//! Free ports of 127.0.0.1.
//!
//! Taken from below the range that the system gives to outgoing connections: a server that is
//! killed and restarted must find its port free although clients try to reach it meanwhile, each
//! attempt from a port of that range (an attempt from the very port that it aims at even connects
//! to itself).

use std::{
    collections::HashSet,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use crate::Error;

const LOWEST: u16 = 10_000;
/// Where Linux lets the outgoing range begin, unless told otherwise.
const USUAL_END: u16 = 32_768;
const ATTEMPTS: u32 = 1_000;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on, and that this process was not given before. Another process may
/// still take it before it is used: whoever uses it has to be ready to try another.
pub(crate) fn free() -> Result<u16, Error> {
    let end = end_of_range();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..ATTEMPTS {
        let port = LOWEST + random_below(end - LOWEST);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    Err(Error::new(format!(
        "no free port of 127.0.0.1 between {LOWEST} and {end} in {ATTEMPTS} attempts"
    )))
}

fn end_of_range() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        // A range that leaves no room below is shared with outgoing connections.
        .filter(|begin| *begin > LOWEST + 2_000)
        .unwrap_or(USUAL_END)
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
}
