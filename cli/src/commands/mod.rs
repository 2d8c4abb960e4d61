//! All commands except `run`, and the choice of the command.

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

use std::process::ExitCode;

use tenure::Registry;

use crate::{
    args::{Cli, Command},
    exit::Failure,
    log,
};

/// Runs the command that the command line selects.
pub(crate) fn run(cli: Cli, registry: &Registry) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    log::start(global.verbose);
    match cli.command {
        Command::Run(options) => crate::run::run(options, global, registry),
        Command::Status(name) => show::status(&name.name, global, registry),
        Command::Leader(name) => show::leader(&name.name, global, registry),
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
