//! The data of a contender's node: one line of JSON that `inspect` shows.
//!
//! Exclusion does not depend on it: node names and sessions decide which contender holds the lock.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Holder, Owner, Since, Waiter},
    token::FencingToken,
};

use zookeeper_client::Stat;

use crate::{error::error, keys};

/// The first bytes of every record that `tenure` writes, in any version.
const MARK: &[u8] = b"{\"tenure\":";
const VERSION: u64 = 1;

#[derive(Deserialize, Serialize)]
struct Record {
    /// The version of this format. It is the first field, so that every version can read it.
    tenure: u64,
    ttl_ms: u64,
    owner: Owner,
}

#[derive(Deserialize)]
struct Version {
    tenure: u64,
}

/// A node as the servers show it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
}

/// The record of an attempt.
pub(crate) fn encode(request: &Enqueue) -> Vec<u8> {
    let record = Record {
        tenure: VERSION,
        ttl_ms: u64::try_from(request.ttl.as_millis()).unwrap_or(u64::MAX),
        owner: request.owner.clone(),
    };
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Reads a record that `tenure` wrote. `None`: the data is foreign.
fn decode(operation: &'static str, path: &str, data: &[u8]) -> Result<Option<Record>, Error> {
    if !data.starts_with(MARK) {
        // Curator writes an address into nodes of this form.
        return Ok(None);
    }
    let corrupt = || {
        error(
            ErrorKind::Corrupt,
            operation,
            format!("the data of `{path}` is malformed; delete that node if its owner is gone"),
        )
    };
    let version: Version = serde_json::from_slice(data).map_err(|_| corrupt())?;
    if version.tenure > VERSION {
        return Err(error(
            ErrorKind::NewerFormat,
            operation,
            format!(
                "`{path}` has version {} of the format, and this program knows up to {VERSION}; \
                 use a newer program",
                version.tenure
            ),
        ));
    }
    let record: Record = serde_json::from_slice(data).map_err(|_| corrupt())?;
    Ok(Some(record))
}

/// A holder of a lock, read from its node.
pub(crate) fn holder(
    operation: &'static str,
    path: &str,
    node: &Node,
    floor: FencingToken,
) -> Result<Holder, Error> {
    let record = decode(operation, path, &node.data)?;
    let name = keys::parse(child_of(path));
    let holder = match (record, name.attempt) {
        (Some(record), Some(attempt)) => {
            let owner = Owner::new(record.owner.label, record.owner.host, record.owner.pid);
            Holder::new(attempt, owner).with_ttl(Duration::from_millis(record.ttl_ms))
        }
        _ => Holder::foreign(),
    };
    Ok(holder
        .with_token(token_of(path, &node.stat, floor))
        .with_since(Since::Enqueued(created(&node.stat)))
        .with_mode(name.mode))
}

/// A waiter, read from its node.
pub(crate) fn waiter(operation: &'static str, path: &str, node: &Node) -> Result<Waiter, Error> {
    let record = decode(operation, path, &node.data)?;
    let name = keys::parse(child_of(path));
    let (attempt, owner) = match (name.attempt, record) {
        (Some(attempt), Some(record)) => {
            let owner = Owner::new(record.owner.label, record.owner.host, record.owner.pid);
            (Some(attempt), Some(owner))
        }
        _ => (None, None),
    };
    Ok(Waiter::new(attempt, owner, Some(created(&node.stat))).with_mode(name.mode))
}

/// The name of a node without those of its parents.
pub(crate) fn child_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// When a node was created, by the leader's clock.
fn created(stat: &Stat) -> SystemTime {
    let millis = u64::try_from(stat.ctime).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// The fencing token of a node: the zxid of its creation, above the floor. The token of a downgraded grant
/// is that of the exclusive node.
pub(crate) fn token_of(path: &str, stat: &Stat, floor: FencingToken) -> FencingToken {
    let exclusive = keys::parse(child_of(path)).exclusive_czxid;
    token(exclusive.unwrap_or(stat.czxid), floor)
}

/// The fencing token of a node that this transaction has created.
pub(crate) fn token(czxid: i64, floor: FencingToken) -> FencingToken {
    let czxid = u64::try_from(czxid).unwrap_or(0);
    let token = floor.get().saturating_add(czxid);
    FencingToken::new(token.min(FencingToken::MAX.get()))
}

#[cfg(test)]
pub(crate) mod tests {
    use tenure_core::{id::AttemptId, mode::Mode, name::LockName};

    use super::*;

    pub(crate) fn stat(czxid: i64, ephemeral_owner: i64) -> Stat {
        Stat {
            czxid,
            mzxid: czxid,
            pzxid: czxid,
            ctime: 0,
            mtime: 0,
            version: 0,
            cversion: 0,
            aversion: 0,
            ephemeral_owner,
            data_length: 0,
            num_children: 0,
        }
    }

    fn node(data: &[u8]) -> Node {
        Node {
            data: data.to_vec(),
            stat: stat(5, 1),
        }
    }

    fn read(path: &str, data: &[u8]) -> Result<Holder, Error> {
        holder("looking", path, &node(data), FencingToken::new(10))
    }

    #[test]
    fn a_record_is_read_back() {
        let attempt = AttemptId::from_u128(7);
        let ttl = Duration::from_secs(30);
        let owner = Owner::new("a \"label\"", "host", 9);
        let name = LockName::new("x").unwrap();
        let request = Enqueue::new(name, attempt, owner.clone(), ttl, true);
        let data = encode(&request);
        assert!(data.starts_with(MARK) && !data.contains(&b'\n'));
        let path = format!(
            "/ns/x/{}0000000001",
            keys::node_prefix(attempt, Mode::Exclusive, false)
        );
        let holder = read(&path, &data).unwrap();
        assert_eq!(holder.attempt, Some(attempt));
        assert_eq!(holder.owner, Some(owner));
        assert_eq!(holder.ttl, Some(ttl));
        assert_eq!(holder.token, Some(FencingToken::new(15)));
        // Under a name of another form it is foreign.
        assert_eq!(read("/ns/x/y-0000000001", &data).unwrap().attempt, None);
    }

    #[test]
    fn m4_a_downgraded_grant_keeps_its_token() {
        let attempt = AttemptId::from_u128(7);
        let writer = format!(
            "{}0000000001",
            keys::node_prefix(attempt, Mode::Exclusive, true)
        );
        let reader = keys::downgraded(&writer, attempt, 3).unwrap();
        let holder = read(&format!("/ns/x/{reader}"), b"").unwrap();
        assert_eq!(holder.token, Some(FencingToken::new(13)));
        assert_eq!(holder.mode, Mode::Shared);
    }

    #[test]
    fn s2_s3_data_that_is_foreign_malformed_or_newer_is_told_apart() {
        let path = format!(
            "/ns/x/{}0000000001",
            keys::node_prefix(AttemptId::from_u128(7), Mode::Exclusive, false)
        );
        for foreign in [&b""[..], b"10.0.0.1", b"\xff\xfe", b"{}"] {
            assert_eq!(read(&path, foreign).unwrap().attempt, None);
        }
        for wrong in [
            &b"{\"tenure\":1,scribbled"[..],
            b"{\"tenure\":1}",
            b"{\"tenure\":\"a\"}",
        ] {
            let error = read(&path, wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&path), "{error}");
        }
        let newer = read(&path, b"{\"tenure\":2,\"else\":[]}").unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::NewerFormat);
        assert!(newer.to_string().contains("version 2"), "{newer}");
    }
}
