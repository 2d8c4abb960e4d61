//! The servers' addresses, read from the URL and checked.

use std::fmt;

use rustls::pki_types::ServerName;
use tenure_core::{
    driver::{Endpoint, EndpointList},
    error::Error,
    settings::StoreUrl,
};

use crate::config::{Options, refuse};

/// The schemes.
pub(crate) const SCHEMES: &[&str] = &["zookeeper", TLS_SCHEME];
const TLS_SCHEME: &str = "zookeepers";

const PORT: u16 = 2181;

/// The servers of a store, and the node below which it keeps its locks. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) endpoints: EndpointList,
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
        let secure = scheme == TLS_SCHEME;
        let named = |error: Error| error.with_backend("zookeeper");
        let connection = &options.connection;
        connection.validate(scheme, TLS_SCHEME).map_err(named)?;
        connection.require_username().map_err(named)?;
        let endpoints = EndpointList::from_url(url, PORT).map_err(named)?;
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
        // The client crate panics on a host that no certificate can name.
        let unnameable = |at: &&Endpoint| ServerName::try_from(at.host.as_str()).is_err();
        if secure && let Some(endpoint) = endpoints.as_slice().iter().find(unnameable) {
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
        let scheme = SCHEMES[usize::from(self.secure)];
        write!(f, "{scheme}://{}{}", self.endpoints, self.root)
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{driver::ConnectionOptions, error::ErrorKind, secret::Secret, settings::Tls};

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
        let url = StoreUrl::parse("zookeeper://a").unwrap();
        let default = ConnectionOptions::default;
        for connection in [
            default().with_tls(Tls::new(Some("ca.pem".into()), None, None)),
            default().with_credentials(None, Some(Secret::new("s"))),
        ] {
            let options = Options::default().connection(connection);
            assert!(Address::new(&url, &options).is_err());
        }
    }
}
