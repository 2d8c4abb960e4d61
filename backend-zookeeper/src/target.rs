//! Where the servers are: an address, read and checked.

use std::fmt;

use tenure_core::{error::Error, settings::StoreUrl};

use crate::{
    config::{Options, refuse},
    wire::open::Place,
};

/// The schemes.
pub(crate) const SCHEMES: &[&str] = &["zookeeper", "zookeepers"];

const PORT: u16 = 2181;

/// Which servers are meant, and below which node. Holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) places: Vec<Place>,
    pub(crate) secure: bool,
    /// The node below which everything lies, such as `/app`; empty if there is none.
    pub(crate) root: String,
}

impl Target {
    /// Reads an address, together with the options that belong to it.
    ///
    /// # Errors
    ///
    /// `Config` says what is wrong.
    pub(crate) fn new(url: &StoreUrl, options: &Options) -> Result<Self, Error> {
        options.check()?;
        let scheme = url.scheme();
        if !SCHEMES.contains(&scheme) {
            return Err(refuse(format!(
                "`{scheme}` is no scheme of ZooKeeper; known are {}",
                SCHEMES.join(", ")
            )));
        }
        let secure = scheme == "zookeepers";
        if !secure && !options.tls.is_empty() {
            return Err(refuse(
                "certificates are set, but `zookeeper` is without TLS; use `zookeepers`",
            ));
        }
        let places: Vec<Place> = url
            .hosts()
            .iter()
            .map(|host| Place {
                host: host.name.clone(),
                port: host.port.unwrap_or(PORT),
            })
            .collect();
        if places.is_empty() {
            return Err(refuse(format!(
                "the address names no server; it is `{scheme}://host:{PORT},host:{PORT}/chroot`"
            )));
        }
        let root = url.path().trim_end_matches('/').to_owned();
        let parts = root.split('/').skip(1);
        if !root.is_empty() && parts.clone().any(|part| matches!(part, "" | "." | "..")) {
            return Err(refuse(
                "the path of the address is no node: it may hold no empty part, no `.` and no `..`",
            ));
        }
        if parts.clone().next() == Some("zookeeper") {
            return Err(refuse(
                "the node `/zookeeper` belongs to the servers themselves; choose another path",
            ));
        }
        Ok(Self {
            places,
            secure,
            root,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure {
            "zookeepers://"
        } else {
            "zookeeper://"
        })?;
        for (at, place) in self.places.iter().enumerate() {
            write!(f, "{}{place}", if at == 0 { "" } else { "," })?;
        }
        f.write_str(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{error::ErrorKind, settings::Tls};

    use super::*;

    fn target(url: &str) -> Result<Target, Error> {
        Target::new(&StoreUrl::parse(url)?, &Options::default())
    }

    #[test]
    fn addresses_are_shown_as_they_are_meant() {
        for (url, shown) in [
            ("zookeeper://a", "zookeeper://a:2181"),
            ("zookeeper://a,b:1/app/", "zookeeper://a:2181,b:1/app"),
            ("zookeepers://[::1]:7/x/y", "zookeepers://[::1]:7/x/y"),
        ] {
            assert_eq!(target(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for url in [
            "zookeeper:",
            "zookeeper:///app",
            "zookeeper://a//b",
            "zookeeper://a/../b",
            "zookeeper://a/zookeeper",
            "zoo://a",
        ] {
            assert_eq!(target(url).unwrap_err().kind(), ErrorKind::Config, "{url}");
        }
        let tls = Options::default().tls(Tls::new(Some("ca.pem".into()), None, None));
        let url = StoreUrl::parse("zookeeper://a").unwrap();
        assert!(Target::new(&url, &tls).is_err());
    }
}
