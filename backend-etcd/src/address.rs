//! The address of a cluster: its endpoints and whether they use TLS.

use std::fmt;

use tenure_core::{
    driver::{Endpoint, EndpointList},
    error::Error,
    settings::StoreUrl,
};

use crate::config::{Options, config_error};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) endpoints: EndpointList,
    pub(crate) tls: bool,
}

impl Address {
    /// Parses the endpoints of a URL and validates the options against them.
    pub(crate) fn new(url: &StoreUrl, options: &Options) -> Result<Self, Error> {
        let tls = match url.scheme() {
            "etcd" => false,
            "etcds" => true,
            other => return Err(config_error(format!("`{other}` is not an etcd scheme"))),
        };
        let named = |error: Error| error.with_backend("etcd");
        let endpoints = EndpointList::from_url(url, DEFAULT_PORT).map_err(named)?;
        if !matches!(url.path(), "" | "/") {
            return Err(config_error(
                "an etcd address has no path; use `namespace` to separate locks",
            ));
        }
        let connection = &options.connection;
        connection.validate(url.scheme(), "etcds").map_err(named)?;
        connection.require_username().map_err(named)?;
        Ok(Self { endpoints, tls })
    }

    /// The number of endpoints; never zero.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.as_slice().len()
    }

    /// An endpoint in the form that the client library expects.
    pub(crate) fn url_of(&self, endpoint: &Endpoint) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{endpoint}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}", self.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_paths_rejected() {
        let open = |text: &str| Address::new(&StoreUrl::parse(text).unwrap(), &Options::default());
        let address = open("etcd://h1,[::1]:7,h3/").unwrap();
        assert_eq!(address.to_string(), "etcd://h1:2379,[::1]:7,h3:2379");
        let url = |address: &Address, at: usize| address.url_of(&address.endpoints.as_slice()[at]);
        assert_eq!(url(&address, 1), "http://[::1]:7");
        assert_eq!(url(&open("etcds://h").unwrap(), 0), "https://h:2379");
        assert!(open("etcd://h/locks").is_err());
        assert!(open("etcd:").is_err());
    }
}
