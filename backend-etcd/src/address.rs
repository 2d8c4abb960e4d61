//! The address of a cluster: its endpoints and whether they use TLS.

use std::fmt;

use tenure_core::{error::Error, settings::StoreUrl};

use crate::config::{Options, config_error};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Each as `host:port`.
    hosts: Vec<String>,
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
        if !matches!(url.path(), "" | "/") {
            return Err(config_error(
                "an etcd address has no path; use `namespace` to separate locks",
            ));
        }
        let hosts: Vec<_> = url
            .hosts()
            .iter()
            .map(|host| {
                let mut host = host.clone();
                host.port.get_or_insert(DEFAULT_PORT);
                host.to_string()
            })
            .collect();
        if hosts.is_empty() {
            return Err(config_error(
                "the address names no server; write etcd://host:2379",
            ));
        }
        let address = Self { hosts, tls };
        options.validate(tls)?;
        Ok(address)
    }

    /// How many endpoints there are; never zero.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// One endpoint, in the form that the client library expects.
    pub(crate) fn endpoint(&self, index: usize) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = &self.hosts[index % self.hosts.len()];
        format!("{scheme}://{host}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}", self.hosts.join(","))
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
        assert_eq!(address.endpoint(4), "http://[::1]:7");
        assert_eq!(open("etcds://h").unwrap().endpoint(0), "https://h:2379");
        assert!(open("etcd://h/locks").is_err());
        assert!(open("etcd:").is_err());
    }
}
