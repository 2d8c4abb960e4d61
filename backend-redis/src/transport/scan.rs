//! Walks the keys of all masters, page by page.

use std::sync::Arc;

use redis::{Value, cmd};

use super::{
    handshake::text,
    node::{Node, unsent},
    reply_class::{ReplyClass, judge},
    script_call::CallError,
    topology::Topology,
};

/// One page, and where to go on: `<cursor of the server> <its place>`. The nodes are walked in the
/// order of their places, so that one which joins or leaves meanwhile shifts nothing.
pub(super) async fn scan(
    core: &Topology,
    cursor: Option<&str>,
    pattern: &str,
    count: usize,
) -> Result<(Vec<Vec<u8>>, Option<String>), CallError> {
    let mut nodes: Vec<(String, Arc<Node>)> = core
        .nodes()
        .into_iter()
        .map(|node| {
            let place = node.place.as_ref().map(ToString::to_string);
            (place.unwrap_or_default(), node)
        })
        .collect();
    nodes.sort_by(|one, other| one.0.cmp(&other.0));
    let (position, from) = match cursor {
        None => ("0", None),
        Some(cursor) => match cursor.split_once(' ') {
            Some((position, place)) if position.parse::<u64>().is_ok() => (position, Some(place)),
            _ => return Err(unsent("that is no place to go on from")),
        },
    };
    let Some((place, node)) = nodes
        .iter()
        .find(|(place, _)| from.is_none_or(|from| &**place >= from))
    else {
        return Ok((Vec::new(), None));
    };
    // Another node than the cursor was made for is walked from its beginning.
    let position = match from {
        Some(from) if from == place => position,
        _ => "0",
    };
    let conn = node.conn(&core.settings).await?;
    let mut command = cmd("SCAN");
    command.arg(position);
    command
        .arg("MATCH")
        .arg(pattern)
        .arg("COUNT")
        .arg(count.max(1));
    let reply = match judge(conn.command(&command).await, &conn.place) {
        ReplyClass::Done(answer) => answer?,
        _ => return Err(unsent(format!("{} does not answer SCAN", conn.place))),
    };
    let (next, keys) =
        read(reply).ok_or_else(|| unsent(format!("{}: its answer to SCAN is none", conn.place)))?;
    let after = nodes
        .iter()
        .find(|(other, _)| other > place)
        .map(|(other, _)| format!("0 {other}"));
    let next = match next.as_str() {
        "0" => after,
        next => Some(format!("{next} {place}")),
    };
    Ok((keys, next))
}

fn read(reply: Value) -> Option<(String, Vec<Vec<u8>>)> {
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
    Some((text(&cursor)?.to_owned(), keys.collect()))
}
