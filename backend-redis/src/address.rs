//! The address of a Redis deployment, parsed and validated.

use std::{fmt, path::PathBuf};

use tenure_core::{
    driver::no_server,
    error::Error,
    settings::{Host, StoreUrl},
};

use crate::config::{Options, config_error};

/// The URL schemes of this backend.
pub(crate) const SCHEMES: &[&str] = &[
    "redis",
    "redis+cluster",
    "redis+sentinel",
    "redis+unix",
    "rediss",
    "rediss+cluster",
    "rediss+sentinel",
];

const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    /// A TCP address.
    Tcp {
        /// The host name or IP address; an IPv6 address has no brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket on this machine.
    Unix(PathBuf),
}

impl Endpoint {
    pub(crate) fn tcp(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self::Tcp { host, port }
    }

    fn from_host(host: &Host, port: u16) -> Self {
        Self::tcp(&*host.name, host.port.unwrap_or(port))
    }

    /// Parses the `host:port` in a server's reply. A server that does not know its own name sends
    /// an empty host or `?`; the result then has the host of `source`, the server that replied.
    pub(crate) fn parse(text: &str, source: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        Self::from_host_and_port(host, port, source)
    }

    /// Like [`parse`](Self::parse), for a host and a port that are already separate.
    pub(crate) fn from_host_and_port(host: &str, port: u16, source: &Self) -> Option<Self> {
        let host = match (host, source) {
            ("" | "?", Self::Tcp { host, .. }) => host,
            ("" | "?", Self::Unix(_)) => return None,
            (host, _) => host,
        };
        (port > 0).then(|| Self::tcp(host, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How the servers are deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deployment {
    /// One standalone server.
    Single(Endpoint),
    /// The master that the sentinels report under this name.
    Sentinel {
        /// The sentinels to query.
        sentinels: Vec<Endpoint>,
        /// The name of the master in the sentinels' configuration.
        name: String,
    },
    /// The masters of a cluster.
    Cluster {
        /// The nodes that are queried first for the slot map.
        seeds: Vec<Endpoint>,
    },
}

/// The servers of a store and how to connect to them. Contains no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) deployment: Deployment,
    /// Whether connections use TLS.
    pub(crate) secure: bool,
    /// The database number.
    pub(crate) database: u32,
}

impl Address {
    /// Parses a store URL together with the options that apply to it.
    ///
    /// # Errors
    ///
    /// `Config`, with the reason.
    pub(crate) fn new(url: &StoreUrl, options: &Options) -> Result<Self, Error> {
        options.validate()?;
        let scheme = url.scheme();
        let (base, form) = scheme.split_once('+').unwrap_or((scheme, ""));
        let secure = base == "rediss";
        if (base != "redis" && !secure) || !SCHEMES.contains(&scheme) {
            return Err(config_error(format!(
                "unknown scheme `{scheme}`; known schemes: {}",
                SCHEMES.join(", ")
            )));
        }
        // Unix sockets have no scheme with TLS.
        let tls_scheme = match form {
            "" | "unix" => "rediss".to_owned(),
            form => format!("rediss+{form}"),
        };
        options
            .connection
            .validate(scheme, &tls_scheme)
            .map_err(|error| error.with_backend("redis"))?;
        let hosts = url.hosts();
        let path = url.path();
        let (deployment, number) = match form {
            "unix" => {
                if !hosts.is_empty() || !path.starts_with('/') {
                    return Err(config_error(
                        "the socket path must be absolute, such as \
                         `redis+unix:/run/redis/redis.sock`",
                    ));
                }
                (Deployment::Single(Endpoint::Unix(path.into())), None)
            }
            "sentinel" => {
                let wanted = "the URL must name the sentinels and the master: \
                              `redis+sentinel://h1,h2/name`";
                let mut parts = path.trim_start_matches('/').split('/');
                let name = parts.next().unwrap_or_default().to_owned();
                let number = parts.next().filter(|number| !number.is_empty());
                if hosts.is_empty() || name.is_empty() || parts.next().is_some() {
                    return Err(config_error(wanted));
                }
                let sentinels = hosts
                    .iter()
                    .map(|h| Endpoint::from_host(h, SENTINEL_PORT))
                    .collect();
                let number = number.map(parse_database).transpose()?;
                (Deployment::Sentinel { sentinels, name }, number)
            }
            "cluster" => {
                if hosts.is_empty() {
                    return Err(config_error(
                        "the URL must name at least one node of the cluster: \
                         `redis+cluster://h1,h2`",
                    ));
                }
                let seeds = hosts
                    .iter()
                    .map(|h| Endpoint::from_host(h, SERVER_PORT))
                    .collect();
                (Deployment::Cluster { seeds }, parse_path(path)?)
            }
            _ => {
                if hosts.is_empty() {
                    return Err(config_error(no_server(url, "HOST:PORT")));
                }
                let [host] = hosts else {
                    return Err(config_error(format!(
                        "`{scheme}` takes one server, such as `{scheme}://localhost`; for \
                         several, use `{base}+sentinel` or `{base}+cluster`"
                    )));
                };
                let endpoint = Endpoint::from_host(host, SERVER_PORT);
                (Deployment::Single(endpoint), parse_path(path)?)
            }
        };
        let database = match (number, options.database) {
            (Some(one), Some(other)) if one != other => {
                return Err(config_error(format!(
                    "the URL names database {one}, but `backend.options.database` is {other}"
                )));
            }
            (one, other) => one.or(other).unwrap_or(0),
        };
        if database != 0 && matches!(deployment, Deployment::Cluster { .. }) {
            return Err(config_error("a cluster has only database 0"));
        }
        if !matches!(deployment, Deployment::Sentinel { .. })
            && (options.sentinel_username.is_some() || options.sentinel_password.is_some())
        {
            return Err(config_error(format!(
                "the options `sentinel_username` and `sentinel_password` do not apply to \
                 `{scheme}`"
            )));
        }
        Ok(Self {
            deployment,
            secure,
            database,
        })
    }
}

fn parse_path(path: &str) -> Result<Option<u32>, Error> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(None),
        number => parse_database(number).map(Some),
    }
}

fn parse_database(number: &str) -> Result<u32, Error> {
    // The error does not repeat the text: a user may have put anything there by mistake.
    number
        .parse()
        .map_err(|_| config_error("the path of the URL must be a database number, such as `/3`"))
}

// Equal addresses have equal texts. Default ports and the database number are included.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.secure { "s" } else { "" };
        let list = |endpoints: &[Endpoint]| {
            let endpoints: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
            endpoints.join(",")
        };
        match &self.deployment {
            Deployment::Single(Endpoint::Unix(path)) => {
                write!(f, "redis+unix:{}", path.display())?;
                if self.database != 0 {
                    write!(f, " database {}", self.database)?;
                }
                Ok(())
            }
            Deployment::Single(endpoint) => write!(f, "redis{s}://{endpoint}/{}", self.database),
            Deployment::Sentinel { sentinels, name } => {
                let sentinels = list(sentinels);
                write!(
                    f,
                    "redis{s}+sentinel://{sentinels}/{name}/{}",
                    self.database
                )
            }
            Deployment::Cluster { seeds } => write!(f, "redis{s}+cluster://{}", list(seeds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tenure_core::{driver::ConnectionOptions, error::ErrorKind, secret::Secret, settings::Tls};

    use super::*;

    fn address(url: &str) -> Result<Address, Error> {
        Address::new(&StoreUrl::parse(url).unwrap(), &Options::default())
    }

    #[test]
    fn url_of_each_form_is_parsed_and_displayed_in_full() {
        for (url, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://h/", "redis://h:6379/0"),
            ("rediss://[::1]:1/3", "rediss://[::1]:1/3"),
            ("redis+unix:/run/r.sock", "redis+unix:/run/r.sock"),
            ("redis+unix:///run/r.sock", "redis+unix:/run/r.sock"),
            (
                "redis+sentinel://a,b:1/main",
                "redis+sentinel://a:26379,b:1/main/0",
            ),
            (
                "rediss+sentinel://a/main/2",
                "rediss+sentinel://a:26379/main/2",
            ),
            ("redis+cluster://a,b:1", "redis+cluster://a:6379,b:1"),
            ("rediss+cluster://a/0", "rediss+cluster://a:6379"),
        ] {
            assert_eq!(address(url).unwrap().to_string(), shown);
        }
        let options = Options::default().database(3);
        let url = StoreUrl::parse("redis+unix:/s").unwrap();
        assert_eq!(Address::new(&url, &options).unwrap().database, 3);
    }

    #[test]
    fn invalid_url_or_option_is_rejected() {
        for (url, hint) in [
            ("redis:", "names no server; its form is `redis://HOST:PORT`"),
            ("redis:localhost:6379", "lacks `//` after `redis:`"),
            ("redis://a,b", "redis+cluster"),
            ("redis://a/x", "database number"),
            ("redis+unix:r.sock", "absolute"),
            ("redis+sentinel://a", "name"),
            ("redis+sentinel:///main", "name"),
            ("redis+sentinel://a/main/1/2", "name"),
            ("redis+cluster:", "name at least one node"),
            ("redis+cluster://a/1", "only database 0"),
            ("redis+cluter://a", "known schemes"),
            ("rediss+unix:/s", "known schemes"),
        ] {
            let error = address(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(hint), "{error}");
        }
        let url = StoreUrl::parse("redis://h/1").unwrap();
        let connection = |connection| Options::default().connection(connection);
        for options in [
            Options::default().database(2),
            connection(ConnectionOptions::default().with_tls(Tls::new(
                Some("ca.pem".into()),
                None,
                None,
            ))),
            connection(ConnectionOptions::default().with_tls(Tls::new(
                None,
                Some("c.pem".into()),
                None,
            ))),
            connection(ConnectionOptions::default().with_credentials(Some("me".into()), None)),
            connection(ConnectionOptions::default().with_connect_timeout(Duration::ZERO)),
            Options::default().sentinel_credentials(None, Some(Secret::new("x"))),
        ] {
            let error = Address::new(&url, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{options:?}");
        }
    }

    #[test]
    fn server_without_a_known_name_keeps_the_queried_host() {
        let source = Endpoint::tcp("h", 1);
        for (text, endpoint) in [
            ("10.0.0.1:7000", Endpoint::tcp("10.0.0.1", 7000)),
            (":7000", Endpoint::tcp("h", 7000)),
            ("?:7000", Endpoint::tcp("h", 7000)),
            ("::1:7000", Endpoint::tcp("::1", 7000)),
        ] {
            assert_eq!(Endpoint::parse(text, &source), Some(endpoint));
        }
        for text in ["", "h", "h:", "h:0", "h:70000"] {
            assert_eq!(Endpoint::parse(text, &source), None, "{text}");
        }
    }
}
