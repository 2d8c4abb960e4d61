//! What the node of a contender holds: a line of JSON for those who look at the lock.
//!
//! Who holds the lock does not depend on it: that is a matter of names and sessions.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Holder, Owner, Since, Waiter},
    token::FencingToken,
};

use crate::{
    error::error,
    paths,
    wire::proto::{Node, Stat},
};

/// What every record of ours begins with, whatever its version.
const MARK: &[u8] = b"{\"tenure\":";
const VERSION: u64 = 1;

#[derive(Deserialize, Serialize)]
struct Record {
    /// The version of this format. First, so that later versions are told by it.
    tenure: u64,
    ttl_ms: u64,
    owner: Owner,
}

#[derive(Deserialize)]
struct Version {
    tenure: u64,
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

/// Whether this is what [`encode`] would write of some attempt, and if not, why not.
fn decode(operation: &'static str, path: &str, data: &[u8]) -> Result<Option<Record>, Error> {
    if !data.starts_with(MARK) {
        // Curator writes an address into nodes of this form, and others what they like.
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
                "`{path}` is of version {} of the format, and this program knows up to {VERSION}; \
                 use a newer one",
                version.tenure
            ),
        ));
    }
    let record: Record = serde_json::from_slice(data).map_err(|_| corrupt())?;
    Ok(Some(record))
}

/// Who holds a lock, by the node that is first.
pub(crate) fn holder(
    operation: &'static str,
    path: &str,
    node: &Node,
    floor: FencingToken,
) -> Result<Holder, Error> {
    let record = decode(operation, path, &node.data)?;
    let attempt = paths::attempt(path.rsplit('/').next().unwrap_or_default());
    let holder = match (record, attempt) {
        (Some(record), Some(attempt)) => {
            let owner = Owner::new(record.owner.label, record.owner.host, record.owner.pid);
            Holder::new(attempt, owner).with_ttl(Duration::from_millis(record.ttl_ms))
        }
        _ => Holder::foreign(),
    };
    Ok(holder
        .with_token(token(&node.stat, floor))
        .with_since(Since::Enqueued(node.stat.made)))
}

/// One who waits.
pub(crate) fn waiter(operation: &'static str, path: &str, node: &Node) -> Result<Waiter, Error> {
    let record = decode(operation, path, &node.data)?;
    let attempt = paths::attempt(path.rsplit('/').next().unwrap_or_default());
    let (attempt, owner) = match (attempt, record) {
        (Some(attempt), Some(record)) => {
            let owner = Owner::new(record.owner.label, record.owner.host, record.owner.pid);
            (Some(attempt), Some(owner))
        }
        _ => (None, None),
    };
    Ok(Waiter::new(attempt, owner, Some(node.stat.made)))
}

/// The fencing token of a node: the transaction that made it, above the floor.
pub(crate) fn token(stat: &Stat, floor: FencingToken) -> FencingToken {
    let czxid = u64::try_from(stat.czxid).unwrap_or(0);
    let token = floor.get().saturating_add(czxid);
    FencingToken::new(token.min(FencingToken::MAX.get()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tenure_core::{id::AttemptId, name::LockName};

    use super::*;

    fn node(data: &[u8]) -> Node {
        Node {
            data: data.to_vec(),
            stat: Stat {
                czxid: 5,
                made: SystemTime::UNIX_EPOCH,
                owner: 1,
            },
        }
    }

    fn seen(path: &str, data: &[u8]) -> Result<Holder, Error> {
        holder("looking", path, &node(data), FencingToken::new(10))
    }

    #[test]
    fn records_come_back() {
        let attempt = AttemptId::from_u128(7);
        let ttl = Duration::from_secs(30);
        let owner = Owner::new("a \"label\"", "host", 9);
        let name = LockName::new("x").unwrap();
        let request = Enqueue::new(name, attempt, owner.clone(), ttl, true);
        let data = encode(&request);
        assert!(data.starts_with(MARK) && !data.contains(&b'\n'));
        let path = format!("/ns/x/{}0000000001", paths::stem(attempt));
        let holder = seen(&path, &data).unwrap();
        assert_eq!(holder.attempt, Some(attempt));
        assert_eq!(holder.owner, Some(owner));
        assert_eq!(holder.ttl, Some(ttl));
        assert_eq!(holder.token, Some(FencingToken::new(15)));
        // Under another name it is nobody's of ours.
        assert_eq!(seen("/ns/x/y-0000000001", &data).unwrap().attempt, None);
    }

    #[test]
    fn s2_s3_data_is_foreign_malformed_or_newer() {
        let path = format!("/ns/x/{}0000000001", paths::stem(AttemptId::from_u128(7)));
        for foreign in [&b""[..], b"10.0.0.1", b"\xff\xfe", b"{}"] {
            assert_eq!(seen(&path, foreign).unwrap().attempt, None);
        }
        for wrong in [
            &b"{\"tenure\":1,scribbled"[..],
            b"{\"tenure\":1}",
            b"{\"tenure\":\"a\"}",
        ] {
            let error = seen(&path, wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&path), "{error}");
        }
        let newer = seen(&path, b"{\"tenure\":2,\"else\":[]}").unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::NewerFormat);
        assert!(newer.to_string().contains("version 2"), "{newer}");
    }
}
