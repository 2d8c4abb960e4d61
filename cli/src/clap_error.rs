//! Reports errors of the argument parser in one line; writes help and version to stdout.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    CommandFactory,
    error::{ContextKind, ErrorKind},
};

use crate::{
    args::Cli,
    exit::{Failure, USAGE},
    output,
};

/// Shows the help or the version, or reports the error in the arguments.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::write(text).map(|()| ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::write_error(&text);
            Err(Failure::silent(USAGE))
        }
        _ => Err(Failure::new(USAGE, one_line(error, arguments))),
    }
}

/// Returns the message and its tips, and names the help that shows the usage.
fn one_line(error: &clap::Error, arguments: &[OsString]) -> String {
    let mut parts = Vec::new();
    let text = error.render().to_string();
    let is_misspelled = error.get(ContextKind::SuggestedArg).is_some();
    // Several tips stand in one paragraph.
    for paragraph in text.replace("\n  tip: ", "\n\n  tip: ").split("\n\n") {
        let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.is_empty() || words.starts_with("Usage:") || words.starts_with("For more") {
            continue;
        }
        if !words.starts_with("tip: to pass '-") {
            parts.push(words);
        } else if !is_misspelled {
            // The parser names only one letter of a name such as `-name`.
            parts.push("put `--` before a lock name that begins with `-`".to_owned());
        }
    }
    let unknown = error.get(ContextKind::InvalidArg);
    if error.kind() == ErrorKind::UnknownArgument
        && unknown.is_some_and(|argument| !argument.to_string().starts_with('-'))
    {
        parts.push("put the command to run after `--`".to_owned());
    }
    let message = parts.join("; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message}; see `{} --help`", command_of(arguments))
}

/// Returns the command that the arguments select, such as `tenure run` or `tenure config show`.
fn command_of(arguments: &[OsString]) -> String {
    let mut name = String::from("tenure");
    let mut command = &Cli::command();
    let mut arguments = arguments.iter().skip(1).filter_map(|text| text.to_str());
    while let Some(argument) = arguments.next() {
        if takes_value(argument) {
            arguments.next();
        } else if !argument.starts_with('-') {
            let Some(found) = command.find_subcommand(argument) else {
                break;
            };
            command = found;
            name = format!("{name} {argument}");
        }
    }
    name
}

/// Returns whether a global option takes a value.
fn takes_value(option: &str) -> bool {
    Cli::command().get_arguments().any(|argument| {
        let names_it = |long| option.strip_prefix("--") == Some(long);
        argument.get_action().takes_values() && argument.get_long().is_some_and(names_it)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn line_of(arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let error = Cli::try_parse_from(&arguments).unwrap_err();
        one_line(&error, &arguments)
    }

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
            let line = line_of(arguments);
            assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
        }
        let line = line_of(&["tenure", "run", "x", "--ttl", "5 parsecs", "--", "true"]);
        assert!(line.contains("5 parsecs") && line.contains("30s"), "{line}");
    }

    #[test]
    fn misspelled_option_gets_the_similar_one_and_no_hint_about_names() {
        let line = line_of(&["tenure", "run", "--wiat", "5s", "x", "--", "true"]);
        assert!(
            line.contains("'--wait'") && !line.contains("lock name"),
            "{line}"
        );
    }

    #[test]
    fn value_that_begins_with_a_hyphen_is_refused_as_a_duration() {
        for option in ["-w", "--wait", "--ttl", "--kill-after"] {
            let line = line_of(&["tenure", "run", option, "-5s", "x", "--", "true"]);
            assert!(
                line.contains("invalid value '-5s'") && line.contains("not a duration"),
                "{line}"
            );
            assert!(!line.contains("lock name"), "{line}");
        }
    }

    #[test]
    fn error_of_a_subcommand_points_to_its_help() {
        for (arguments, wanted) in [
            (
                &["tenure", "run", "--wiat", "x"][..],
                "see `tenure run --help`",
            ),
            (
                &["tenure", "--namespace", "ls", "run", "--ttl", "x"],
                "see `tenure run --help`",
            ),
            (&["tenure", "status"], "see `tenure status --help`"),
            (
                &["tenure", "config", "show", "x"],
                "see `tenure config show --help`",
            ),
            (&["tenure", "stat", "x"], "see `tenure --help`"),
            (
                &["tenure", "run", "x", "status"],
                "after `--`; see `tenure run --help`",
            ),
        ] {
            let line = line_of(arguments);
            assert!(line.ends_with(wanted), "{line}");
        }
    }
}
