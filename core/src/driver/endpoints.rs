//! The servers of a store, and the order in which a client tries them.

use std::fmt;

use crate::{
    error::{Error, ErrorKind},
    settings::StoreUrl,
};

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Endpoint {
    /// The host name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Creates an address. `host` has no brackets.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self { host, port }
    }
}

/// Shows `host:port`, with brackets around an IPv6 address.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The servers of a store, at least one, and which of them to try now.
///
/// Fail-over is in a fixed cycle: [`advance`](Self::advance) moves on to the next server, and a
/// server is tried again only after all others. Start with [`shuffled`](Self::shuffled), so that
/// the clients of a store do not all use the same server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointList {
    endpoints: Vec<Endpoint>,
    current: usize,
}

impl EndpointList {
    /// Reads the servers of an address: `host:port`, separated by commas. A server without a port
    /// gets the default one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the address names no server.
    pub fn from_url(url: &StoreUrl, default_port: u16) -> Result<Self, Error> {
        let endpoints: Vec<_> = url
            .hosts()
            .iter()
            .map(|host| Endpoint::new(&*host.name, host.port.unwrap_or(default_port)))
            .collect();
        if endpoints.is_empty() {
            let form = format!("host:{default_port},host:{default_port}");
            return Err(Error::new(ErrorKind::Config, "configuring the store")
                .with_detail(no_server(url, &form)));
        }
        let current = 0;
        Ok(Self { endpoints, current })
    }

    /// Puts the servers into a random order.
    #[must_use]
    pub fn shuffled(mut self) -> Self {
        fastrand::shuffle(&mut self.endpoints);
        self
    }

    /// Returns the server to try now.
    #[must_use]
    pub fn current(&self) -> &Endpoint {
        &self.endpoints[self.current]
    }

    /// Moves on to the next server; after the last one, to the first one.
    pub fn advance(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len();
    }

    /// Returns the servers, in their order.
    #[must_use]
    pub fn as_slice(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// Shows `host:port,host:port`, in the order of the servers. [`EndpointList::advance`] does not
/// change the text.
impl fmt::Display for EndpointList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Returns the message about an address that names no server. `form` is the part after `//` in an
/// example of an address.
#[must_use]
pub fn no_server(url: &StoreUrl, form: &str) -> String {
    let scheme = url.scheme();
    let what = match url.path() {
        path if path.is_empty() || path.starts_with('/') => "names no server".to_owned(),
        // The text could be a password, so the message does not repeat it.
        _ => format!("lacks `//` after `{scheme}:`"),
    };
    format!("the address {what}; its form is `{scheme}://{form}`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn list(url: &str) -> Result<EndpointList, Error> {
        EndpointList::from_url(&StoreUrl::parse(url).unwrap(), 2379)
    }

    #[test]
    fn each_server_gets_a_port_and_ipv6_keeps_its_brackets() {
        let list = list("etcd://h1,[::1]:7,10.0.0.1:8/x").unwrap();
        assert_eq!(list.to_string(), "h1:2379,[::1]:7,10.0.0.1:8");
        assert_eq!(list.as_slice()[1], Endpoint::new("::1", 7));
    }

    #[test]
    fn address_without_a_server_is_rejected() {
        for url in ["etcd:", "etcd:///locks", "etcd:h1"] {
            let error = list(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains("etcd://host:2379"), "{error}");
        }
        let error = list("etcd:").unwrap_err().to_string();
        assert!(error.contains("names no server"), "{error}");
        let error = list("etcd:h1:2379").unwrap_err().to_string();
        assert!(error.contains("lacks `//` after `etcd:`"), "{error}");
    }

    #[test]
    fn all_others_are_tried_before_a_server_is_tried_again() {
        let mut list = list("etcd://a,b,c,d").unwrap().shuffled();
        let shown = list.to_string();
        let first = list.current().clone();
        let mut tried = BTreeSet::new();
        for _ in 0..4 {
            assert!(tried.insert(list.current().clone()));
            list.advance();
        }
        assert_eq!(*list.current(), first);
        assert_eq!(list.to_string(), shown);
    }

    #[test]
    fn clients_begin_with_different_servers() {
        let list = list("etcd://a,b,c,d").unwrap();
        let first = list.clone().shuffled().current().clone();
        assert!((0..60).any(|_| *list.clone().shuffled().current() != first));
    }
}
