//! The command `tenure` with an additional backend.

use std::{process::ExitCode, sync::Arc};

use tenure_table::TableFactory;

fn main() -> ExitCode {
    let mut registry = tenure::default_registry();
    if let Err(error) = registry.register(Arc::new(TableFactory::default())) {
        eprintln!("tenure: {error}");
        return ExitCode::FAILURE;
    }
    tenure_cli::run(std::env::args_os(), &registry)
}
