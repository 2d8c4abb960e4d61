//! Inspecting and listing locks, which changes nothing, and evicting a grant.

use futures_util::{StreamExt as _, stream};
use tenure_core::{
    error::Error,
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page},
    token::FencingToken,
};
use zookeeper_client::{Client, Error as ZkError};

use crate::{
    error::{RequestError, of_read, of_write},
    queue::in_order,
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
    let mut state = LockState::new(name.clone(), None, Vec::new());
    let floor = shared.config.context.token_floor;
    for (path, node) in paths.iter().zip(nodes) {
        let Some(node) = node.map_err(|failure| of_read(OPERATION, path, failure))? else {
            continue;
        };
        if state.holder.is_none() {
            state.holder = Some(record::holder(OPERATION, path, &node, floor)?);
        } else {
            state.queue.push(record::waiter(OPERATION, path, &node)?);
        }
    }
    Ok(state)
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
    let waiters = u64::try_from(paths.len() - 1).unwrap_or(u64::MAX);
    let floor = shared.config.context.token_floor;
    let holder = match connection.read_one(first).await {
        Ok(node) => node.map(|node| {
            record::holder("listing", first, &node, floor).unwrap_or_else(|_| Holder::foreign())
        }),
        Err(RequestError::Refused(_)) => Some(Holder::foreign()),
        Err(failure) => return Err(failure),
    };
    let taken = holder.is_some() || waiters > 0;
    Ok(taken.then(|| Listed::new(name, holder, waiters)))
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
        let Some(first) = paths.first() else {
            return Ok(Evicted::NotHeld(None));
        };
        let Some(node) = connection.read_one(first).await.map_err(failed)? else {
            // The holder has just left: look at the next one.
            continue;
        };
        let holder = record::holder(OPERATION, first, &node, floor)?;
        if holder.token != Some(token) {
            return Ok(Evicted::NotHeld(Some(holder)));
        }
        // The number in a node's name rises with each node of the lock. So this name is the node that
        // was read, or no node.
        return match delete(&operation.client, first).await {
            Ok(true) => Ok(Evicted::Evicted),
            Ok(false) => continue,
            Err(failure) => Err(of_write(OPERATION, first, failure)),
        };
    }
}
