//! The binary `tenure`: the library function with the registry of this build.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenure_cli::run(std::env::args_os(), &tenure::default_registry())
}
