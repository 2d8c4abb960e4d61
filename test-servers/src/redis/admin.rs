//! Administration of a server through its unix socket, as a user with all rights.
//!
//! These commands need neither TLS nor the tested rights, and do not pass through proxies.

use std::{path::PathBuf, time::Duration};

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value};

use crate::Error;

/// The user with all rights, if users are configured. The server is reachable from this machine only, and
/// only during a test.
pub(super) const USER: &str = "admin-of-tests";
pub(super) const PASSWORD: &str = "password-of-the-admin-of-tests";

/// The administrative access to a server.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) socket: PathBuf,
    pub(super) with_user: bool,
}

impl Admin {
    /// Sends one command and waits for the reply. Each step takes at most `timeout`.
    pub(super) fn command(&self, arguments: &[&[u8]], timeout: Duration) -> Result<Value, Error> {
        self.attempt(arguments, timeout).map_err(|error| {
            let command: Vec<_> = arguments
                .iter()
                .take(4)
                .map(|argument| String::from_utf8_lossy(argument))
                .collect();
            Error::new(format!(
                "command {} failed on the server at {}: {error}",
                command.join(" "),
                self.socket.display()
            ))
        })
    }

    fn attempt(&self, arguments: &[&[u8]], timeout: Duration) -> redis::RedisResult<Value> {
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if self.with_user {
            settings = settings.set_username(USER).set_password(PASSWORD);
        }
        let address = ConnectionAddr::Unix(self.socket.clone())
            .into_connection_info()?
            .set_redis_settings(settings);
        let mut connection = redis::Client::open(address)?.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        connection.set_write_timeout(Some(timeout))?;
        let mut command = redis::Cmd::new();
        for argument in arguments {
            command.arg(*argument);
        }
        command.query(&mut connection)
    }
}

/// Formats a reply as text: strings and numbers unchanged, lists with one item on each line.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}

/// A list of bulk strings, as bytes.
pub(super) fn items(value: Value) -> Vec<Vec<u8>> {
    match value {
        Value::Array(items) => items.iter().map(text_bytes).collect(),
        _ => Vec::new(),
    }
}

fn text_bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes.clone(),
        other => text(other).into_bytes(),
    }
}

/// Returns the value of `field` in a reply with lines `field:value`, such as `INFO`.
pub(super) fn field<'a>(info: &'a str, field: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// Returns the value of `name` in a reply that lists names and values alternately.
pub(super) fn paired(answer: &Value, name: &str) -> Option<String> {
    let Value::Array(items) = answer else {
        return None;
    };
    items
        .chunks_exact(2)
        .find(|pair| text(&pair[0]) == name)
        .map(|pair| text(&pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n";
        assert_eq!(field(info, "role"), Some("master"));
        assert_eq!(field(info, "rol"), None);

        let bulk = |text: &str| Value::BulkString(text.into());
        let pairs = Value::Array(vec![bulk("name"), bulk("a"), bulk("flags"), bulk("master")]);
        assert_eq!(paired(&pairs, "flags").as_deref(), Some("master"));
        assert_eq!(paired(&pairs, "a"), None);
        assert_eq!(text(&pairs), "name\na\nflags\nmaster");
    }
}
