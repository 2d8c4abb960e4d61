//! The address of a store: `scheme:path` or `scheme://host:port,host:port/path`.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// The address of a store. It contains no secret: user information in an address is rejected
/// (clause S1).
///
/// The path is used as written, without decoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreUrl {
    scheme: String,
    hosts: Option<Vec<Host>>,
    path: String,
}

/// A server of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Host {
    /// The host name or IP address; an IPv6 address without brackets.
    pub name: String,
    /// The port, if one was given.
    pub port: Option<u16>,
}

impl StoreUrl {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the defect. It does not repeat text that could be a secret.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(refuse(
                "a store's address begins with its scheme and a colon, such as \
                 `file:/var/lib/locks` or `redis://HOST:PORT`",
            ));
        };
        let mut letters = scheme.bytes();
        let sound = letters.next().is_some_and(|b| b.is_ascii_lowercase())
            && letters.all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.')
            });
        if !sound {
            if let Some(servers) = servers_without_scheme(text) {
                return Err(refuse(&no_scheme(servers)));
            }
            // The text before the colon could be a password, so the message does not repeat it.
            return Err(refuse(
                "a scheme is lower-case letters, digits, `+`, `-` and `.`, such as `file` or `memory`",
            ));
        }
        let server = rest.strip_prefix("//");
        let before_path = rest.split('/').next().unwrap_or_default();
        if before_path.contains('@') || server.is_some_and(|server| server.contains('@')) {
            return Err(refuse(&format!(
                "the `{scheme}:` address contains user information before an `@`; put it into \
                 `backend.username` and `backend.password_file` instead"
            )));
        }
        if rest.contains('?') {
            return Err(refuse(&format!(
                "the `{scheme}:` address contains a query after a `?`; put the settings under \
                 `[backend.options]` instead"
            )));
        }
        if rest.contains('#') || rest.chars().any(char::is_control) {
            return Err(refuse(&format!(
                "the `{scheme}:` address contains a `#` or a control character"
            )));
        }
        let Some(server) = server else {
            return Ok(Self {
                scheme: scheme.to_owned(),
                hosts: None,
                path: rest.to_owned(),
            });
        };
        let (authority, path) = match server.find('/') {
            Some(at) => server.split_at(at),
            None => (server, ""),
        };
        let hosts = if authority.is_empty() {
            Vec::new()
        } else {
            authority
                .split(',')
                .map(|host| Host::parse(scheme, host))
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            hosts: Some(hosts),
            path: path.to_owned(),
        })
    }

    /// Returns the part before the colon.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the servers after `//`; empty if there are none.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        self.hosts.as_deref().unwrap_or_default()
    }

    /// Returns the part after the servers, with its leading slash; or everything after the colon if
    /// that does not begin with `//`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl std::str::FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if let Some(hosts) = &self.hosts {
            f.write_str("//")?;
            for (at, host) in hosts.iter().enumerate() {
                if at > 0 {
                    f.write_str(",")?;
                }
                host.fmt(f)?;
            }
        }
        f.write_str(&self.path)
    }
}

impl Host {
    fn parse(scheme: &str, text: &str) -> Result<Self, Error> {
        let bad = |what: &str| refuse(&format!("the `{scheme}:` address {what}"));
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, after) = rest
                    .split_once(']')
                    .ok_or_else(|| bad("has a `[` without its `]`"))?;
                match after.strip_prefix(':') {
                    Some(port) => (name, Some(port)),
                    None if after.is_empty() => (name, None),
                    None => return Err(bad("has something other than a port after a `]`")),
                }
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        if name.is_empty() {
            return Err(bad("has an empty host name"));
        }
        if text.chars().any(char::is_whitespace) {
            return Err(bad(
                "has a space in a host name; write several servers as `host:port,host:port`",
            ));
        }
        let port = port
            .map(|port| match port.parse::<u16>() {
                Ok(number) if number > 0 && !port.starts_with('+') => Ok(number),
                // The text could be a part of a password, so the message does not repeat it.
                _ => Err(bad("has a port that is not a number from 1 to 65535")),
            })
            .transpose()?;
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Returns the servers of a text such as `127.0.0.1:6379`, which has no scheme; `None` if it is not
/// of this form.
pub(crate) fn servers_without_scheme(text: &str) -> Option<&str> {
    let servers = text.split('/').next()?;
    let is_server = |server: &str| {
        let Some((name, port)) = server.rsplit_once(':') else {
            return false;
        };
        let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
        let name = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name);
        !name.is_empty() && name.bytes().all(is_part) && port.parse::<u16>().is_ok()
    };
    servers.split(',').all(is_server).then_some(servers)
}

/// Returns the message about servers without a scheme.
pub(crate) fn no_scheme(servers: &str) -> String {
    format!(
        "the address has no scheme; write `redis://{servers}`, `etcd://{servers}` or \
         `zookeeper://{servers}`"
    )
}

fn refuse(detail: &str) -> Error {
    Error::new(ErrorKind::Config, "reading the store's address").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let url = StoreUrl::parse("etcd://h1:2379,[::1]:2380,h3/locks").unwrap();
        assert_eq!(url.scheme(), "etcd");
        let hosts: Vec<_> = url.hosts().iter().map(|h| (&*h.name, h.port)).collect();
        assert_eq!(
            hosts,
            [("h1", Some(2379)), ("::1", Some(2380)), ("h3", None)]
        );
        assert_eq!(url.path(), "/locks");
        assert_eq!(url.to_string(), "etcd://h1:2379,[::1]:2380,h3/locks");

        for (text, scheme, path) in [
            ("file:/home/me@work/x", "file", "/home/me@work/x"),
            ("file:///srv/locks", "file", "/srv/locks"),
            ("file:", "file", ""),
            ("memory:a", "memory", "a"),
            (
                "redis+sentinel://a:1,b:2/master/0",
                "redis+sentinel",
                "/master/0",
            ),
        ] {
            let url = StoreUrl::parse(text).unwrap();
            assert_eq!((url.scheme(), url.path()), (scheme, path));
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn s1_possible_secret_is_rejected_and_not_repeated() {
        for text in [
            "redis://me:canary@host/",
            "redis://canary@host",
            "redis://me:can/canary@host",
            "redis:canary@host",
            "redis://me:canary",
            "redis://host?password=canary",
            "canary",
            "CANARY:x",
            "file:/x#canary",
            "redis://[canary",
            "redis://[h]canary",
        ] {
            let error = StoreUrl::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.to_lowercase().contains("canary"), "{shown}");
                assert!(!shown.contains('\n'), "{shown}");
            }
        }
        let hint = StoreUrl::parse("redis://h?x=1").unwrap_err().to_string();
        assert!(hint.contains("[backend.options]"), "{hint}");
        let hint = StoreUrl::parse("redis://u@h").unwrap_err().to_string();
        assert!(hint.contains("backend.username"), "{hint}");
    }

    #[test]
    fn servers_without_a_scheme_are_told_to_have_none() {
        for text in ["127.0.0.1:6379", "[::1]:2379", "10.0.0.1:1,10.0.0.2:1"] {
            let error = StoreUrl::parse(text).unwrap_err().to_string();
            let wanted = format!("no scheme; write `redis://{text}`");
            assert!(error.contains(&wanted), "{error}");
        }
        let error = StoreUrl::parse("10.0.0.1").unwrap_err().to_string();
        assert!(error.contains("`redis://HOST:PORT`"), "{error}");
    }

    #[test]
    fn invalid_hosts_are_rejected() {
        for text in [
            "etcd://a,,b",
            "etcd://:1",
            "etcd://a:0",
            "etcd://a:+1",
            "etcd://a:70000",
        ] {
            assert!(StoreUrl::parse(text).is_err(), "{text}");
        }
        let hint = StoreUrl::parse("etcd://a, b").unwrap_err().to_string();
        assert!(hint.contains("host:port,host:port"), "{hint}");
    }
}
