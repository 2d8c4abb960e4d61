//! Reports errors of the argument parser in one line; writes help and version to stdout.

use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};

use crate::{
    exit::{Failure, USAGE},
    output,
};

/// Shows the help or the version, or reports the error in the arguments.
pub(crate) fn report(error: &clap::Error) -> Result<ExitCode, Failure> {
    let text = error.render().to_string();
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return output::write(text).map(|()| ExitCode::SUCCESS);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::write_error(&text);
        return Err(Failure::silent(USAGE));
    }
    let mut line = one_line(&text);
    let unknown = error.get(ContextKind::InvalidArg);
    if error.kind() == ErrorKind::UnknownArgument
        && unknown.is_some_and(|argument| !argument.to_string().starts_with('-'))
    {
        line += "; put the command to run after `--`";
    }
    Err(Failure::new(USAGE, line))
}

/// Returns the message and its tips without the usage, which `--help` shows.
fn one_line(text: &str) -> String {
    let mut parts = Vec::new();
    // Several tips stand in one paragraph.
    for paragraph in text.replace("\n  tip: ", "\n\n  tip: ").split("\n\n") {
        let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if !words.is_empty() && !words.starts_with("Usage:") && !words.starts_with("For more") {
            parts.push(if words.starts_with("tip: to pass '-") {
                // The parser names only one letter of a name such as `-name`.
                "put `--` before a lock name that begins with `-`".to_owned()
            } else {
                words
            });
        }
    }
    let message = parts.join("; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message}; see `tenure --help`")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_usage_error_is_one_line_that_names_the_cause() {
        for (arguments, wanted) in [
            (
                &["tenure", "run", "x", "--ttl", "5 parsecs", "--", "true"][..],
                "--ttl",
            ),
            (&["tenure", "status"], "NAME"),
            (&["tenure", "run", "-ab", "--", "true"], "lock name"),
            (&["tenure", "run", "--foo", "x"], "--foo"),
            (&["tenure", "run", "-E", "256", "x", "--", "true"], "256"),
            (&["tenure"], "subcommand"),
            (&["tenure", "stat", "x"], "status"),
        ] {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            let line = one_line(&error.render().to_string());
            assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
        }
        let error = Cli::try_parse_from(["tenure", "run", "x", "--ttl", "5 parsecs", "--", "true"]);
        let line = one_line(&error.unwrap_err().render().to_string());
        assert!(line.contains("5 parsecs") && line.contains("30s"), "{line}");
    }
}
