//! Reasons for which a connection cannot be made, in terms of what the operator can fix.

use std::{fmt, io, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    settings::Tls,
};

/// A failure to connect to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectError {
    /// The kind of the error, which tells a caller how to react. A kind that [is
    /// retryable](crate::error::ErrorKind::is_retryable) may go away; any other needs the operator.
    pub kind: ErrorKind,
    /// The cause and, where it is known, the remedy, in one line. Contains no secret.
    pub detail: String,
}

/// How a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The server rejects the client's certificate, or requires one.
    ClientCertificate,
    /// The server's certificate has expired.
    Expired,
    /// The server does not use TLS on this port.
    NotTls,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// No trusted authority has signed the server's certificate.
    UntrustedIssuer,
    /// The server's certificate is for another host name.
    WrongHostName,
}

impl ConnectError {
    /// Creates an error. `detail` is one line and contains no secret.
    #[must_use]
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    /// No answer arrived within `limit`. `hint` follows this in the message.
    #[must_use]
    pub fn timed_out(limit: Duration, hint: &str) -> Self {
        let detail = format!("no answer within {limit:?}{hint}");
        Self::new(ErrorKind::Unavailable, detail)
    }

    /// The network failed. If the server closed the connection at once, `closed_hint` says what
    /// that may mean for this store.
    #[must_use]
    pub fn from_io(error: &io::Error, closed_hint: &str) -> Self {
        let detail = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "nothing listens there; start the server, or correct the host and the port"
                    .to_owned()
            }
            io::ErrorKind::NotFound => "no such socket".to_owned(),
            io::ErrorKind::TimedOut => "the connection timed out".to_owned(),
            io::ErrorKind::PermissionDenied => "permission to open the socket is denied".to_owned(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => {
                format!("the server closed the connection at once; {closed_hint}")
            }
            _ => one_line(&error.to_string()),
        };
        Self::new(ErrorKind::Unavailable, detail)
    }

    /// TLS failed. `files` are the files of the connection, and `cause` is the error of the TLS
    /// library.
    #[must_use]
    pub fn from_tls(failure: TlsFailure, files: &Tls, cause: &str) -> Self {
        let cause = one_line(cause);
        let (kind, detail) = match failure {
            TlsFailure::ClientCertificate => (
                ErrorKind::Unauthenticated,
                match &files.cert_file {
                    Some(path) => format!(
                        "the server does not accept the client certificate `{}` ({cause})",
                        path.display()
                    ),
                    None => format!(
                        "the server requires a client certificate; set `cert_file` and `key_file` \
                         ({cause})"
                    ),
                },
            ),
            TlsFailure::Expired => (
                ErrorKind::Config,
                "the certificate has expired; renew it on the server".to_owned(),
            ),
            TlsFailure::NotTls => (
                ErrorKind::Config,
                "the server does not use TLS on this port; use the scheme without the `s`, or the \
                 TLS port"
                    .to_owned(),
            ),
            TlsFailure::NotYetValid => (
                ErrorKind::Config,
                "the certificate is not valid yet; compare the clocks".to_owned(),
            ),
            TlsFailure::UntrustedIssuer => (
                ErrorKind::Config,
                match &files.ca_file {
                    Some(path) => format!(
                        "certificate not signed by an authority trusted by `{}`",
                        path.display()
                    ),
                    None => "certificate not signed by an authority trusted by this system; name \
                             its authority in `ca_file`"
                        .to_owned(),
                },
            ),
            TlsFailure::WrongHostName => (
                ErrorKind::Config,
                "the certificate is for another host name; use a name that it contains".to_owned(),
            ),
        };
        Self::new(kind, detail)
    }

    /// The server speaks the protocol of another program. `protocol` is the expected one.
    #[must_use]
    pub fn wrong_protocol(protocol: &str) -> Self {
        let detail = format!("the server does not speak the {protocol} protocol");
        Self::new(ErrorKind::Unavailable, detail)
    }

    /// Combines the errors of several servers, each with its server in front. The kind is that of
    /// the last one. `None` if there are no errors.
    #[must_use]
    pub fn of_all(errors: Vec<Self>) -> Option<Self> {
        let kind = errors.last()?.kind;
        let mut details: Vec<_> = errors.into_iter().map(|error| error.detail).collect();
        details.dedup();
        Some(Self::new(kind, details.join("; ")))
    }

    /// Puts the server in front of the message.
    #[must_use]
    pub fn at(self, endpoint: impl fmt::Display) -> Self {
        let detail = format!("{endpoint}: {}", self.detail);
        Self { detail, ..self }
    }

    /// Returns the error of an operation of the backend with this scheme. `operation` is a phrase
    /// that can follow "while".
    #[must_use]
    pub fn into_error(self, backend: &'static str, operation: &'static str) -> Error {
        Error::new(self.kind, operation)
            .with_backend(backend)
            .with_detail(self.detail)
    }
}

/// Makes text of a server or of a library fit into one line of a message: the first 300
/// characters, with a space for each control character.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_errors_say_what_the_operator_can_check() {
        for (kind, part) in [
            (io::ErrorKind::ConnectionRefused, "nothing listens there"),
            (io::ErrorKind::ConnectionReset, "is it full?"),
            (io::ErrorKind::UnexpectedEof, "closed the connection"),
            (io::ErrorKind::TimedOut, "timed out"),
        ] {
            let error = ConnectError::from_io(&kind.into(), "is it full?");
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert!(error.detail.contains(part), "{error:?}");
        }
        let other = io::Error::other("a\nb");
        assert_eq!(ConnectError::from_io(&other, "").detail, "a b");
        let late = ConnectError::timed_out(Duration::from_secs(2), "; is it down?");
        assert_eq!(late.detail, "no answer within 2s; is it down?");
        assert!(late.kind.is_retryable());
    }

    #[test]
    fn tls_failures_name_the_file_or_the_setting() {
        let none = Tls::default();
        let files = Tls::new(
            Some("ca.pem".into()),
            Some("cert.pem".into()),
            Some("key.pem".into()),
        );
        for (failure, files, part) in [
            (TlsFailure::UntrustedIssuer, &none, "`ca_file`"),
            (TlsFailure::UntrustedIssuer, &files, "`ca.pem`"),
            (TlsFailure::ClientCertificate, &none, "`cert_file`"),
            (TlsFailure::ClientCertificate, &files, "`cert.pem`"),
            (TlsFailure::WrongHostName, &none, "host name"),
            (TlsFailure::NotTls, &none, "without the `s`"),
            (TlsFailure::Expired, &none, "expired"),
            (TlsFailure::NotYetValid, &none, "clocks"),
        ] {
            let error = ConnectError::from_tls(failure, files, "alert 42");
            assert!(!error.kind.is_retryable(), "{error:?}");
            assert!(error.detail.contains(part), "{error:?}");
        }
    }

    #[test]
    fn error_of_the_store_names_server_and_backend() {
        let error = ConnectError::wrong_protocol("ZooKeeper").at("h:1");
        assert_eq!(
            error.into_error("zookeeper", "connecting").to_string(),
            "connecting to zookeeper: store unavailable: h:1: the server does not speak the \
             ZooKeeper protocol"
        );
    }

    #[test]
    fn error_of_several_servers_names_the_reason_of_each() {
        assert_eq!(ConnectError::of_all(Vec::new()), None);
        let refused = io::ErrorKind::ConnectionRefused.into();
        let errors = vec![
            ConnectError::wrong_protocol("ZooKeeper").at("a:1"),
            ConnectError::from_io(&refused, "").at("b:2"),
        ];
        let error = ConnectError::of_all(errors).unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let wanted = "a:1: the server does not speak the ZooKeeper protocol; b:2: nothing listens";
        assert!(error.detail.starts_with(wanted), "{error:?}");
    }

    #[test]
    fn foreign_text_becomes_one_line() {
        let text = format!("x\r\n{}", "y".repeat(400));
        assert_eq!(one_line(&text).len(), 300);
        assert!(one_line(&text).starts_with("x  y"));
        assert_eq!(one_line("x\n"), "x");
    }
}
