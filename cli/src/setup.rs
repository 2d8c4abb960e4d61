//! The first steps of every command: the configuration, the runtime, the client.

use std::{ffi::OsStr, path::Path, time::Duration};

use tenure::{Client, Config, Registry, Sources, name::LockName};

use crate::{
    args::Global,
    exit::{Failure, UNAVAILABLE, USAGE, print_warning},
};

/// Returns the sources of the configuration. An unknown variable is an error.
pub(crate) fn sources(global: &Global) -> Sources {
    let mut sources = Sources::new().environment();
    if let Some(path) = &global.config {
        sources = sources.file(path);
    }
    if let Some(url) = &global.url {
        sources = sources.set("backend.url", url, "flag --url");
    }
    if let Some(namespace) = &global.namespace {
        sources = sources.set("backend.namespace", namespace, "flag --namespace");
    }
    sources
}

/// Returns the same for a command that only reads: it warns of unknown variables, so that an operator
/// can use it while the configuration is wrong.
pub(crate) fn read_only_sources(global: &Global) -> Sources {
    sources(global).warn_of_unknown_variables()
}

/// Reads the configuration, and prints its warnings.
pub(crate) fn load(sources: &Sources) -> Result<Config, Failure> {
    let config = Config::load(sources)?;
    for warning in config.warnings() {
        print_warning(&format!("warning: {warning}"));
    }
    Ok(config)
}

/// Parses the name of a lock.
pub(crate) fn lock_name(text: &OsStr) -> Result<LockName, Failure> {
    LockName::from_bytes(text.as_encoded_bytes())
        .map_err(|error| Failure::new(USAGE, format!("the lock's name is invalid: {error}")))
}

/// Creates the runtime of the supervisor and of the other commands.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    if children_enter_another_pid_namespace() {
        return Err(Failure::new(
            USAGE,
            "the kernel refuses threads to this process, because its children would enter another pid \
             namespace; use `unshare --pid --fork` instead of `unshare --pid`",
        ));
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(UNAVAILABLE, format!("starting the runtime: {error}")))
}

/// Returns whether this process was moved with `unshare(CLONE_NEWPID)`, as `unshare --pid` without
/// `--fork` does. The guardian would report process ids that are not valid in this process.
fn children_enter_another_pid_namespace() -> bool {
    let path = |name: &str| Path::new("/proc/self/ns").join(name);
    let (own, children) = (path("pid"), path("pid_for_children"));
    // The link exists since Linux 4.12. It cannot be read until the first child has started.
    match std::fs::read_link(own) {
        Ok(own) if children.is_symlink() => std::fs::read_link(children).ok() != Some(own),
        _ => false,
    }
}

/// Like [`with_client`], for one lock: a failure names the lock.
pub(crate) fn with_client_for_lock<T>(
    lock: &LockName,
    sources: &Sources,
    registry: &Registry,
    query: impl AsyncFnOnce(&Config, &Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_client(sources, registry, query).map_err(|failure| failure.naming(lock))
}

/// Connects a client that acquires no lock, runs the query, and closes the connection.
pub(crate) fn with_client<T>(
    sources: &Sources,
    registry: &Registry,
    query: impl AsyncFnOnce(&Config, &Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let config = load(sources)?;
    runtime()?.block_on(async {
        let client = config.observe(registry).await?;
        let answer = query(&config, &client).await;
        client.shutdown(Duration::from_secs(1)).await;
        answer
    })
}
