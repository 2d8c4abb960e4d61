//! The servers' addresses, read from the URL and checked.

use std::fmt;

use rustls::pki_types::ServerName;
use tenure_core::{error::Error, settings::StoreUrl};

use crate::config::{Options, refuse};

/// The schemes.
pub(crate) const SCHEMES: &[&str] = &["zookeeper", "zookeepers"];

const PORT: u16 = 2181;

/// One server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A host name or an IP address; an IPv6 address has no brackets here.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Endpoint {
    /// Whether a certificate can name this host. With TLS, the client crate panics on any other
    /// host.
    fn can_be_certified(&self) -> bool {
        ServerName::try_from(self.host.as_str()).is_ok()
    }
}

/// The servers of a store, and the node below which it keeps its locks. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whether the connections use TLS.
    pub(crate) secure: bool,
    /// The node below which all nodes of `tenure` lie, such as `/app`; empty if there is none.
    pub(crate) root: String,
}

impl Address {
    /// Reads an address and checks it together with the options.
    ///
    /// # Errors
    ///
    /// A `Config` error says what is wrong.
    pub(crate) fn new(url: &StoreUrl, options: &Options) -> Result<Self, Error> {
        options.check()?;
        let scheme = url.scheme();
        if !SCHEMES.contains(&scheme) {
            return Err(refuse(format!(
                "`{scheme}` is not a ZooKeeper scheme; the known ones are {}",
                SCHEMES.join(", ")
            )));
        }
        let secure = scheme == "zookeepers";
        if !secure && !options.tls.is_empty() {
            return Err(refuse(
                "certificates are set, but the scheme `zookeeper` has no TLS; use `zookeepers`",
            ));
        }
        let endpoints: Vec<Endpoint> = url
            .hosts()
            .iter()
            .map(|host| Endpoint {
                host: host.name.clone(),
                port: host.port.unwrap_or(PORT),
            })
            .collect();
        if endpoints.is_empty() {
            return Err(refuse(format!(
                "the address names no server; its form is `{scheme}://host:{PORT},host:{PORT}/chroot`"
            )));
        }
        let root = url.path().trim_end_matches('/').to_owned();
        let parts = root.split('/').skip(1);
        if !root.is_empty() && parts.clone().any(|part| matches!(part, "" | "." | "..")) {
            return Err(refuse(
                "the path of the address is not a node: it must not hold an empty part, `.` or `..`",
            ));
        }
        if parts.clone().next() == Some("zookeeper") {
            return Err(refuse(
                "the node `/zookeeper` belongs to the servers themselves; choose another path",
            ));
        }
        if secure && let Some(endpoint) = endpoints.iter().find(|at| !at.can_be_certified()) {
            return Err(refuse(format!(
                "{endpoint}: a certificate cannot name this host; use a DNS name or an IP address"
            )));
        }
        Ok(Self {
            endpoints,
            secure,
            root,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure {
            "zookeepers://"
        } else {
            "zookeeper://"
        })?;
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if at == 0 { "" } else { "," })?;
        }
        f.write_str(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{error::ErrorKind, settings::Tls};

    use super::*;

    fn address(url: &str) -> Result<Address, Error> {
        Address::new(&StoreUrl::parse(url)?, &Options::default())
    }

    #[test]
    fn an_address_is_shown_with_its_default_ports() {
        for (url, shown) in [
            ("zookeeper://a", "zookeeper://a:2181"),
            ("zookeeper://a,b:1/app/", "zookeeper://a:2181,b:1/app"),
            ("zookeepers://[::1]:7/x/y", "zookeepers://[::1]:7/x/y"),
        ] {
            assert_eq!(address(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_malformed_address_is_refused() {
        for url in [
            "zookeeper:",
            "zookeeper:///app",
            "zookeeper://a//b",
            "zookeeper://a/../b",
            "zookeeper://a/zookeeper",
            "zoo://a",
        ] {
            assert_eq!(address(url).unwrap_err().kind(), ErrorKind::Config, "{url}");
        }
        let tls = Options::default().tls(Tls::new(Some("ca.pem".into()), None, None));
        let url = StoreUrl::parse("zookeeper://a").unwrap();
        assert!(Address::new(&url, &tls).is_err());
    }
}
