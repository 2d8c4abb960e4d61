//! `tenure completions` and `tenure man`.

use clap::CommandFactory;
use tenure::settings::nearest;

use crate::{
    args::Cli,
    escape::quote,
    exit::{Failure, IO, USAGE},
    output,
};

/// Writes the completion script of a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tenure", &mut script);
    output::write(script)
}

/// Writes the manual page of one command, or of `tenure`.
pub(super) fn page(name: Option<&str>) -> Result<(), Failure> {
    let mut whole = Cli::command();
    whole.build();
    let chosen = match name {
        None => whole,
        Some(name) => {
            let Some(found) = whole.find_subcommand(name) else {
                let known: Vec<_> = whole
                    .get_subcommands()
                    .map(clap::Command::get_name)
                    .collect();
                let hint = nearest(name, known.iter().copied())
                    .map_or_else(|| known.join(", "), |near| format!("did you mean {near}?"));
                let message = format!("there is no command {}; {hint}", quote(name));
                return Err(Failure::new(USAGE, message));
            };
            found.clone()
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(chosen)
        .render(&mut page)
        .map_err(|error| Failure::new(IO, format!("writing the manual page: {error}")))?;
    output::write(page)
}
