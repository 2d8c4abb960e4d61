//! The requests that locks need, and what the servers answer.

use std::time::{Duration, SystemTime};

use super::jute::{Malformed, Reader, Writer};

/// The `xid` of a message that answers no request.
pub(crate) const NOTIFICATION: i32 = -1;
/// The `xid` of a credential and of its answer.
pub(crate) const AUTH: i32 = -4;

/// One request: its kind and its record.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) op: i32,
    pub(crate) body: Vec<u8>,
}

/// Who may do what with a node that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody may do everything.
    Open,
    /// Whoever has the credentials of the one who made it may do everything, and nobody else
    /// anything.
    Creator,
}

/// What kind of node is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Persistent,
    /// Goes with its session; the server appends a number.
    EphemeralSequential,
    /// The server deletes it a while after its last child.
    Container,
}

impl Request {
    fn new(op: i32, body: Writer) -> Self {
        Self {
            op,
            body: body.done(),
        }
    }

    /// Makes a node, and is answered with its [`Made`].
    pub(crate) fn create(path: &str, data: &[u8], access: Access, kind: Kind) -> Self {
        const ALL: i32 = 31;
        let (scheme, id) = match access {
            Access::Open => ("world", "anyone"),
            Access::Creator => ("auth", ""),
        };
        let (op, flags) = match kind {
            Kind::Persistent => (15, 0),
            Kind::EphemeralSequential => (15, 3),
            Kind::Container => (19, 4),
        };
        let body = Writer::default().text(path).bytes(data);
        let body = body.int(1).int(ALL).text(scheme).text(id).int(flags);
        Self::new(op, body)
    }

    /// Deletes a node, whatever its version.
    pub(crate) fn delete(path: &str) -> Self {
        Self::new(2, Writer::default().text(path).int(-1))
    }

    /// Looks at a node, and watches it also if it is not there.
    pub(crate) fn exists(path: &str, watch: bool) -> Self {
        Self::new(3, Writer::default().text(path).flag(watch))
    }

    /// Reads a node, and watches it only if it is there.
    pub(crate) fn get_data(path: &str, watch: bool) -> Self {
        Self::new(4, Writer::default().text(path).flag(watch))
    }

    /// Lists the children of a node.
    pub(crate) fn children(path: &str) -> Self {
        Self::new(8, Writer::default().text(path).flag(false))
    }

    /// Waits until this server has caught up with the leader.
    pub(crate) fn sync(path: &str) -> Self {
        Self::new(9, Writer::default().text(path))
    }

    /// Ends the session.
    pub(crate) fn close() -> Self {
        Self::new(-11, Writer::default())
    }

    pub(crate) fn auth(scheme: &str, secret: &[u8]) -> Self {
        Self::new(100, Writer::default().int(0).text(scheme).bytes(secret))
    }
}

/// What a server refused a request with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    NoNode,
    NoAuth,
    NodeExists,
    NotEmpty,
    SessionExpired,
    InvalidAcl,
    AuthFailed,
    SessionMoved,
    QuotaExceeded,
    Throttled,
    Other(i32),
}

impl Code {
    pub(crate) const fn of(number: i32) -> Self {
        match number {
            -101 => Self::NoNode,
            -102 => Self::NoAuth,
            -110 => Self::NodeExists,
            -111 => Self::NotEmpty,
            -112 => Self::SessionExpired,
            -114 => Self::InvalidAcl,
            -115 | -124 => Self::AuthFailed,
            -118 => Self::SessionMoved,
            -125 => Self::QuotaExceeded,
            -127 => Self::Throttled,
            other => Self::Other(other),
        }
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The transaction that made it.
    pub(crate) czxid: i64,
    /// When it was made, by the leader's clock.
    pub(crate) made: SystemTime,
    /// The session that it goes with; 0 if with none.
    pub(crate) owner: i64,
}

impl Stat {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let czxid = reader.long()?;
        let _mzxid = reader.long()?;
        let millis = u64::try_from(reader.long()?).unwrap_or(0);
        let _mtime = reader.long()?;
        let (_version, _cversion, _aversion) = (reader.int()?, reader.int()?, reader.int()?);
        let owner = reader.long()?;
        let (_length, _children) = (reader.int()?, reader.int()?);
        let _pzxid = reader.long()?;
        let made = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        Ok(Self {
            czxid,
            made: made.unwrap_or(SystemTime::UNIX_EPOCH),
            owner,
        })
    }

    /// Reads the answer to [`Request::exists`].
    pub(crate) fn answer(body: &[u8]) -> Result<Self, Malformed> {
        Self::read(&mut Reader::new(body))
    }
}

/// The answer to [`Request::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

impl Made {
    pub(crate) fn answer(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(Self {
            path: reader.text()?.to_owned(),
            stat: Stat::read(&mut reader)?,
        })
    }
}

/// The answer to [`Request::get_data`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
}

impl Node {
    pub(crate) fn answer(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(Self {
            data: reader.bytes()?.to_vec(),
            stat: Stat::read(&mut reader)?,
        })
    }
}

/// Reads the answer to [`Request::children`].
pub(crate) fn children(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.int()?;
    // Not allocated ahead: the number may say anything.
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(reader.text()?.to_owned());
    }
    Ok(names)
}

/// What happened to a node that was watched. The watch is used up by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) path: String,
    pub(crate) deleted: bool,
}

impl Event {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.int()?;
        let _state = reader.int()?;
        Ok(Self {
            path: reader.text()?.to_owned(),
            deleted: kind == 2,
        })
    }
}

/// A session, as a server knows it.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) id: i64,
    pub(crate) key: [u8; 16],
}

impl std::fmt::Debug for Pass {
    // Whoever knows the key can act as this session.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pass({:#x})", self.id)
    }
}

impl Pass {
    /// Asks for a new session.
    pub(crate) const NEW: Self = Self {
        id: 0,
        key: [0; 16],
    };
}

/// The first message on a connection.
pub(crate) fn greeting(pass: Pass, timeout: Duration, seen: i64) -> Vec<u8> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let body = Writer::default().int(0).long(seen).int(millis);
    body.long(pass.id).bytes(&pass.key).flag(false).done()
}

/// The answer to the first message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Welcome {
    /// The session; its id is 0 if the one that was named is gone.
    pub(crate) pass: Pass,
    pub(crate) timeout: Duration,
}

impl Welcome {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let _version = reader.int()?;
        let millis = u64::try_from(reader.int()?).unwrap_or(0);
        let id = reader.long()?;
        let mut key = [0; 16];
        let given = reader.bytes()?;
        if let Some(given) = given.get(..16) {
            key.copy_from_slice(given);
        } else if id != 0 {
            return Err(Malformed);
        }
        Ok(Self {
            pass: Pass { id, key },
            timeout: Duration::from_millis(millis),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_session_s_key_is_not_shown() {
        let pass = Pass {
            id: 7,
            key: [0xAB; 16],
        };
        let shown = format!("{pass:?}");
        assert_eq!(shown, "Pass(0x7)");
    }

    #[test]
    fn s2_answers_of_any_bytes_are_read_or_refused() {
        let stat = [0_u8; 68];
        assert!(Stat::answer(&stat).is_ok());
        assert!(Stat::answer(&stat[1..]).is_err());
        for length in 0..80 {
            for fill in [0_u8, 1, 0x7F, 0xFF] {
                let bytes = vec![fill; length];
                let _ = (Made::answer(&bytes), Node::answer(&bytes));
                let _ = (Event::read(&bytes), Welcome::read(&bytes));
                let _ = children(&bytes);
            }
        }
    }

    #[test]
    fn a_session_that_is_gone_has_no_id() {
        let gone = Writer::default().int(0).int(0).long(0).bytes(&[0; 16]);
        assert_eq!(Welcome::read(&gone.done()).unwrap().pass.id, 0);
        let short = Writer::default().int(0).int(100).long(5).bytes(&[1; 3]);
        assert!(Welcome::read(&short.done()).is_err());
    }
}
