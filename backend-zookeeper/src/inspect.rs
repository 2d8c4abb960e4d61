//! Inspecting and listing locks, which changes nothing, and evicting a grant.

use futures_util::{StreamExt as _, stream};
use tenure_core::{
    error::Error,
    mode::Occupancy,
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page},
    token::FencingToken,
};
use zookeeper_client::{Client, Error as ZkError};

use crate::{
    error::{RequestError, of_read, of_write},
    keys::mode_of,
    order::{count_holders, in_order},
    record,
    shared::Shared,
    transport::{Connection, answer, delete},
};

/// How many locks of a listing are looked up at once.
const MAX_LOOKUPS: usize = 64;

/// Lists children in any order, after the server has caught up with the leader; none if the node is
/// gone.
async fn children(client: &Client, path: &str) -> Result<Vec<String>, RequestError> {
    let (synced, listed) = (client.sync(path), client.list_children(path));
    answer(synced).await?;
    match answer(listed).await {
        Err(RequestError::Refused(ZkError::NoNode)) => Ok(Vec::new()),
        listed => listed,
    }
}

fn paths_in_order(lock: &str, names: &[String]) -> Vec<String> {
    in_order(names)
        .into_iter()
        .map(|name| format!("{lock}/{name}"))
        .collect()
}

/// A lock and its queue.
pub(crate) async fn inspect(shared: &Shared, name: &LockName) -> Result<LockState, Error> {
    const OPERATION: &str = "inspecting";
    let (connection, _permit) = shared.reader(OPERATION).await?;
    let lock = shared.keys.lock(name);
    let failed = |failure| of_read(OPERATION, &lock, failure);
    let operation = connection.operation().await.map_err(failed)?;
    let names = children(&operation.client, &lock).await.map_err(failed)?;
    let paths = paths_in_order(&lock, &names);
    let nodes = connection.read(&paths).await.map_err(failed)?;
    let (mut holders, mut queue, mut occupancy) = (Vec::new(), Vec::new(), Occupancy::Free);
    let floor = shared.config.context.token_floor;
    for (path, node) in paths.iter().zip(nodes) {
        let Some(node) = node.map_err(|failure| of_read(OPERATION, path, failure))? else {
            continue;
        };
        let mode = mode_of(record::child_of(path));
        if queue.is_empty() && occupancy.admits(mode) {
            occupancy.add(mode);
            holders.push(record::holder(OPERATION, path, &node, floor)?);
        } else {
            queue.push(record::waiter(OPERATION, path, &node)?);
        }
    }
    Ok(LockState::with_holders(name.clone(), holders, queue))
}

/// A page of the locks of the namespace, ordered by name.
pub(crate) async fn list(shared: &Shared, request: &List) -> Result<Page, Error> {
    const OPERATION: &str = "listing";
    let (connection, _permit) = shared.reader(OPERATION).await?;
    let namespace = shared.keys.namespace();
    let failed = |failure| of_read(OPERATION, namespace, failure);
    let operation = connection.operation().await.map_err(failed)?;
    let encoded = children(&operation.client, namespace).await;
    drop(operation);
    let mut encoded = encoded.map_err(failed)?;
    encoded.sort_unstable();
    let names: Vec<(String, LockName)> = encoded
        .into_iter()
        .filter(|encoded| request.cursor.as_ref().is_none_or(|last| encoded > last))
        .filter_map(|encoded| {
            let name = LockName::from_encoded(&encoded)?;
            name.as_str()
                .starts_with(&request.prefix)
                .then_some((encoded, name))
        })
        .collect();
    let page = names.get(..request.limit.max(1)).unwrap_or(&names);
    let next = (page.len() < names.len())
        .then(|| page.last().map(|(encoded, _)| encoded.clone()))
        .flatten();
    let looked_up = stream::iter(page.to_vec()).map(|(_, name)| listed(shared, &connection, name));
    let mut looked_up = looked_up.buffered(MAX_LOOKUPS);
    let mut locks = Vec::new();
    while let Some(lock) = looked_up.next().await {
        locks.extend(lock.map_err(failed)?);
    }
    Ok(Page::new(locks, next))
}

/// A lock as a listing shows it; `None` if it has neither a holder nor waiters. A lock that cannot
/// be read does not hide the others: `inspect` says what is wrong with it.
async fn listed(
    shared: &Shared,
    connection: &Connection,
    name: LockName,
) -> Result<Option<Listed>, RequestError> {
    let lock = shared.keys.lock(&name);
    let operation = connection.operation().await?;
    let names = match answer(operation.client.list_children(&lock)).await {
        Ok(names) => names,
        Err(RequestError::Refused(ZkError::NoNode | ZkError::NoAuth)) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let paths = paths_in_order(&lock, &names);
    let Some(first) = paths.first() else {
        return Ok(None);
    };
    let holders = count_holders(paths.iter().map(|path| record::child_of(path)));
    let count = |many: usize| u64::try_from(many).unwrap_or(u64::MAX);
    let (holders, waiters) = (count(holders), count(paths.len() - holders));
    let floor = shared.config.context.token_floor;
    let holder = match connection.read_one(first).await {
        Ok(node) => node.map(|node| {
            record::holder("listing", first, &node, floor).unwrap_or_else(|_| Holder::foreign())
        }),
        Err(RequestError::Refused(_)) => Some(Holder::foreign()),
        Err(failure) => return Err(failure),
    };
    let taken = holder.is_some() || holders > 1 || waiters > 0;
    Ok(taken.then(|| Listed::new(name, holder, waiters).with_holders(holders)))
}

/// Evicts the grant with this token, and no other grant.
pub(crate) async fn evict(
    shared: &Shared,
    name: &LockName,
    token: FencingToken,
) -> Result<Evicted, Error> {
    const OPERATION: &str = "evicting";
    let (connection, _permit) = shared.reader(OPERATION).await?;
    let lock = shared.keys.lock(name);
    let floor = shared.config.context.token_floor;
    let failed = |failure| of_read(OPERATION, &lock, failure);
    let operation = connection.operation().await.map_err(failed)?;
    loop {
        let names = children(&operation.client, &lock).await.map_err(failed)?;
        let paths = paths_in_order(&lock, &names);
        let holders = count_holders(paths.iter().map(|path| record::child_of(path)));
        let paths = paths.get(..holders).unwrap_or(&paths);
        let Some(first) = paths.first() else {
            return Ok(Evicted::NotHeld(None));
        };
        let nodes = connection.read(paths).await.map_err(failed)?;
        let mut evicted = None;
        let mut shown = None;
        for (path, node) in paths.iter().zip(nodes) {
            match node.map_err(failed)? {
                Some(node) if record::token_of(path, &node.stat, floor) == token => {
                    evicted = Some(path);
                }
                Some(node) if path == first => {
                    shown = Some(record::holder(OPERATION, path, &node, floor)?);
                }
                _ => {}
            }
        }
        let Some(path) = evicted else {
            if shown.is_none() {
                // The first holder has just left: look at the next one.
                continue;
            }
            return Ok(Evicted::NotHeld(shown));
        };
        // The number in a node's name rises with each node of the lock, and the name of a downgraded one
        // contains its attempt. So this name is the node that was read, or no node.
        return match delete(&operation.client, path).await {
            Ok(true) => Ok(Evicted::Evicted),
            Ok(false) => continue,
            Err(failure) => Err(of_write(OPERATION, path, failure)),
        };
    }
}
