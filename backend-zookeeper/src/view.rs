//! Looking at locks, which changes nothing; and taking a grant away.

use tenure_core::{
    error::Error,
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page},
    token::FencingToken,
};

use crate::{
    core::Core,
    enqueue::listing,
    error::{of_read, of_write},
    queue::in_order,
    record,
    session::Link,
    wire::{
        conn::Fault,
        proto::{Code, Node, Request},
    },
};

/// How many nodes are asked for at once.
const AT_ONCE: usize = 256;

/// The contenders of a lock in order, as paths.
async fn contenders(
    link: &Link,
    operation: &'static str,
    lock: &str,
) -> Result<Vec<String>, Error> {
    let failed = |fault| of_read(operation, lock, fault);
    let answer = link.conn.send(&Request::children(lock)).map_err(failed)?;
    match listing(answer).await {
        Ok((_, names)) => Ok(paths_in_order(lock, &names)),
        Err(Fault::Refused(Code::NoNode)) => Ok(Vec::new()),
        Err(fault) => Err(failed(fault)),
    }
}

fn paths_in_order(lock: &str, names: &[String]) -> Vec<String> {
    in_order(names)
        .into_iter()
        .map(|name| format!("{lock}/{name}"))
        .collect()
}

/// Reads nodes; `None` for one that is gone.
async fn read(
    link: &Link,
    operation: &'static str,
    paths: &[String],
) -> Result<Vec<Option<Node>>, Error> {
    let mut nodes = Vec::with_capacity(paths.len());
    for some in paths.chunks(AT_ONCE) {
        let requests = some.iter().map(|path| Request::get_data(path, false));
        let answers = link
            .conn
            .send_all(requests)
            .map_err(|fault| of_read(operation, "", fault))?;
        for (path, answer) in some.iter().zip(answers) {
            let failed = |fault| of_read(operation, path, fault);
            match answer.get().await {
                Ok(reply) => {
                    let node = Node::answer(&reply.body).map_err(|bad| failed(bad.into()))?;
                    nodes.push(Some(node));
                }
                Err(Fault::Refused(Code::NoNode)) => nodes.push(None),
                Err(fault) => return Err(failed(fault)),
            }
        }
    }
    Ok(nodes)
}

/// A lock and its queue.
pub(crate) async fn inspect(core: &Core, name: &LockName) -> Result<LockState, Error> {
    const OPERATION: &str = "inspecting";
    let link = core.looking(OPERATION).await?;
    let lock = core.paths.lock(name);
    let paths = contenders(&link, OPERATION, &lock).await?;
    let nodes = read(&link, OPERATION, &paths).await?;
    let mut state = LockState::new(name.clone(), None, Vec::new());
    let floor = core.settings.context.token_floor;
    for (path, node) in paths.iter().zip(nodes) {
        let Some(node) = node else { continue };
        if state.holder.is_none() {
            state.holder = Some(record::holder(OPERATION, path, &node, floor)?);
        } else {
            state.queue.push(record::waiter(OPERATION, path, &node)?);
        }
    }
    Ok(state)
}

/// A page of the locks of the namespace, by name.
pub(crate) async fn list(core: &Core, request: &List) -> Result<Page, Error> {
    const OPERATION: &str = "listing";
    let link = core.looking(OPERATION).await?;
    let namespace = core.paths.namespace();
    let failed = |fault| of_read(OPERATION, namespace, fault);
    let answer = link
        .conn
        .send(&Request::children(namespace))
        .map_err(failed)?;
    let mut encoded = match listing(answer).await {
        Ok((_, encoded)) => encoded,
        Err(Fault::Refused(Code::NoNode)) => return Ok(Page::default()),
        Err(fault) => return Err(failed(fault)),
    };
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
    let some = names.get(..request.limit.max(1)).unwrap_or(&names);
    let next = (some.len() < names.len())
        .then(|| some.last().map(|(encoded, _)| encoded.clone()))
        .flatten();
    let asked = link.conn.send_all(
        some.iter()
            .map(|(_, name)| Request::children(&core.paths.lock(name))),
    );
    let mut busy = Vec::new();
    for ((_, name), answer) in some.iter().zip(asked.map_err(failed)?) {
        let lock = core.paths.lock(name);
        let names = match listing(answer).await {
            Ok((_, names)) => names,
            Err(Fault::Refused(Code::NoNode | Code::NoAuth)) => continue,
            Err(fault) => return Err(failed(fault)),
        };
        let paths = paths_in_order(&lock, &names);
        if let Some(first) = paths.first() {
            let waiters = u64::try_from(paths.len() - 1).unwrap_or(u64::MAX);
            busy.push((name.clone(), first.clone(), waiters));
        }
    }
    let firsts: Vec<String> = busy.iter().map(|(_, first, _)| first.clone()).collect();
    let floor = core.settings.context.token_floor;
    let mut locks = Vec::new();
    for ((name, first, waiters), node) in
        busy.into_iter().zip(read(&link, OPERATION, &firsts).await?)
    {
        // A lock that cannot be read does not hide the others; `inspect` says what is wrong with it.
        let holder = node.map(|node| {
            record::holder(OPERATION, &first, &node, floor).unwrap_or_else(|_| Holder::foreign())
        });
        if holder.is_some() || waiters > 0 {
            locks.push(Listed::new(name, holder, waiters));
        }
    }
    Ok(Page::new(locks, next))
}

/// Takes away the grant with this token.
pub(crate) async fn evict(
    core: &Core,
    name: &LockName,
    token: FencingToken,
) -> Result<Evicted, Error> {
    const OPERATION: &str = "evicting";
    let link = core.looking(OPERATION).await?;
    let lock = core.paths.lock(name);
    let floor = core.settings.context.token_floor;
    loop {
        let paths = contenders(&link, OPERATION, &lock).await?;
        let Some(first) = paths.first() else {
            return Ok(Evicted::NotHeld(None));
        };
        let firsts = std::slice::from_ref(first);
        let Some(Some(node)) = read(&link, OPERATION, firsts).await?.pop() else {
            // It has just ended; the next one is asked for.
            continue;
        };
        let holder = record::holder(OPERATION, first, &node, floor)?;
        if holder.token != Some(token) {
            return Ok(Evicted::NotHeld(Some(holder)));
        }
        // A node's name is never used again, so that this deletes that grant or nothing.
        return match link.conn.call(Request::delete(first)).await {
            Ok(_) => Ok(Evicted::Evicted),
            Err(Fault::Refused(Code::NoNode)) => continue,
            Err(fault) => Err(of_write(OPERATION, first, fault)),
        };
    }
}
