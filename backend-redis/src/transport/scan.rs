//! Scans the keys of all masters, page by page.

use std::sync::Arc;

use redis::{Value, cmd};

use super::{
    handshake::as_text,
    node::Node,
    reply_class::{ReplyClass, classify},
    script_call::CallError,
    topology::Topology,
};

/// Returns one page and the cursor of the next one: `<cursor of the server> <its endpoint>`. The
/// nodes are scanned in the order of their endpoints, so that a node that joins or leaves does not
/// shift the others.
pub(super) async fn scan(
    topology: &Topology,
    cursor: Option<&str>,
    pattern: &str,
    count: usize,
) -> Result<(Vec<Vec<u8>>, Option<String>), CallError> {
    let mut nodes: Vec<(String, Arc<Node>)> = topology
        .nodes()
        .into_iter()
        .map(|node| {
            let endpoint = node.endpoint.as_ref().map(ToString::to_string);
            (endpoint.unwrap_or_default(), node)
        })
        .collect();
    nodes.sort_by(|one, other| one.0.cmp(&other.0));
    let (position, from) = match cursor {
        None => ("0", None),
        Some(cursor) => match cursor.split_once(' ') {
            Some((position, endpoint)) if position.parse::<u64>().is_ok() => {
                (position, Some(endpoint))
            }
            _ => {
                return Err(CallError::not_sent(
                    "invalid cursor; use one returned by a previous page",
                ));
            }
        },
    };
    let Some((endpoint, node)) = nodes
        .iter()
        .find(|(endpoint, _)| from.is_none_or(|from| &**endpoint >= from))
    else {
        return Ok((Vec::new(), None));
    };
    // If the cursor's node is gone, the next node is scanned from its beginning.
    let position = match from {
        Some(from) if from == endpoint => position,
        _ => "0",
    };
    let conn = &node.ready_connection(&topology.config).await?.conn;
    let mut command = cmd("SCAN");
    command.arg(position);
    command
        .arg("MATCH")
        .arg(pattern)
        .arg("COUNT")
        .arg(count.max(1));
    let reply = match classify(conn.command(&command).await?, &conn.endpoint) {
        ReplyClass::Final(answer) => answer?,
        _ => {
            return Err(CallError::not_sent(format!(
                "{} rejects SCAN",
                conn.endpoint
            )));
        }
    };
    let (next, keys) = parse_page(reply).ok_or_else(|| {
        CallError::not_sent(format!("{}: malformed reply to SCAN", conn.endpoint))
    })?;
    let after = nodes
        .iter()
        .find(|(other, _)| other > endpoint)
        .map(|(other, _)| format!("0 {other}"));
    let next = match next.as_str() {
        "0" => after,
        next => Some(format!("{next} {endpoint}")),
    };
    Ok((keys, next))
}

fn parse_page(reply: Value) -> Option<(String, Vec<Vec<u8>>)> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let [cursor, Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let keys = keys.into_iter().filter_map(|key| match key {
        Value::BulkString(key) => Some(key),
        _ => None,
    });
    Some((as_text(&cursor)?.to_owned(), keys.collect()))
}
