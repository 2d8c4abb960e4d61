//! All commands except `run`: each reads the configuration, queries the store, and shows the
//! result.

mod backends;
mod bench;
mod config;
#[cfg(feature = "conformance")]
mod conformance;
mod doctor;
mod evict;
mod manual;
mod show;
mod watch;

use std::{process::ExitCode, time::Duration};

use tenure::{Client, Config, Registry, Sources, name::LockName};

use crate::{
    args::{Cli, Command, Global},
    exit::{Failure, UNAVAILABLE, USAGE, print_message},
};

/// Runs the command that the command line selects.
pub(crate) fn run(cli: Cli, registry: &Registry) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    crate::log::start(global.verbose);
    match cli.command {
        Command::Run(options) => crate::run::run(options, global, registry),
        Command::Status(name) => show::status(&name.name, global, registry),
        Command::Ls(options) => show::ls(options.prefix, global, registry),
        Command::Watch(options) => watch::watch(&options, global, registry),
        Command::Break(options) => evict::evict(&options, global, registry),
        #[cfg(feature = "conformance")]
        Command::Conformance(options) => {
            return conformance::run(&options, global, registry);
        }
        Command::Doctor => doctor::run(global, registry),
        Command::Backends => backends::list(global, registry),
        Command::Bench(options) => bench::bench(&options, global, registry),
        Command::Config(command) => config::run(&command, global, registry),
        Command::Completions(options) => manual::completions(options.shell),
        Command::Man(options) => manual::page(options.command.as_deref()),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Returns the sources of the configuration that all commands share.
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

/// Reads the configuration and prints its warnings.
pub(crate) fn load(sources: &Sources) -> Result<Config, Failure> {
    let config = Config::load(sources)?;
    for warning in config.warnings() {
        print_message(&format!("warning: {warning}"));
    }
    Ok(config)
}

/// Parses the name of a lock.
pub(crate) fn lock_name(text: &std::ffi::OsStr) -> Result<LockName, Failure> {
    LockName::from_bytes(text.as_encoded_bytes())
        .map_err(|error| Failure::new(USAGE, format!("the lock's name is invalid: {error}")))
}

/// Creates the runtime of the supervisor and of the other commands.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(UNAVAILABLE, format!("starting the runtime: {error}")))
}

/// Like [`with_client`], for one lock: a failure names the lock.
pub(crate) fn about<T>(
    lock: &LockName,
    global: &Global,
    registry: &Registry,
    ask: impl AsyncFnOnce(&Config, &Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_client(global, registry, ask).map_err(|failure| failure.about(lock))
}

/// Queries the configured store and closes the connection.
pub(crate) fn with_client<T>(
    global: &Global,
    registry: &Registry,
    ask: impl AsyncFnOnce(&Config, &Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let config = load(&sources(global))?;
    runtime()?.block_on(async {
        let client = config.observe(registry).await?;
        let answer = ask(&config, &client).await;
        client.shutdown(Duration::from_secs(1)).await;
        answer
    })
}
