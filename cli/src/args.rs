//! The command line: options, help texts, examples.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::guardian::protocol::OnLost;

const AFTER_HELP: &str = "\
Examples:
  tenure run nightly -- ./report.sh          one at a time; wait for the lock if need be
  tenure run -n nightly -- ./report.sh       give up at once if it is taken (exit code 75)
  tenure run -w 10m nightly -- make          give up after ten minutes
  tenure status nightly                      who holds it, who waits
  tenure doctor                              does the configured store carry locks?

Exit codes:
  the command's own; 128+N if it died of signal N
  75   the lock is taken, or the wait timed out
  79   the lock was lost and the command was stopped
  64   bad usage            69   store unreachable, or outcome unknown
  77   access refused       78   bad configuration
  126  not executable       127  not found
  130, 143  interrupted while waiting for the lock

Without --url, --config and TENURE__BACKEND__URL the store is a directory of the present user on
this host. See docs/cli.md for the configuration, the environment and the JSON output.";

/// The default of `--kill-after`.
pub(crate) const KILL_AFTER: Duration = Duration::from_secs(5);
const KILL_AFTER_TEXT: &str = "5s";

/// Run a command while holding a lock, on whichever store the configuration names.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Which store, such as file:/var/lib/locks
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub(crate) url: Option<String>,
    /// Configuration file (TOML)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Namespace of the lock names
    #[arg(
        long,
        global = true,
        value_name = "NS",
        help_heading = "Global options"
    )]
    pub(crate) namespace: Option<String>,
    /// How to show results
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, help_heading = "Global options")]
    pub(crate) output: Format,
    /// Log to stderr what is done; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one JSON object per line, with a `schema` field
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Show who holds a lock and who waits for it
    Status(Name),
    /// List the locks that are held or waited for
    Ls(Ls),
    /// Show each change of a lock until interrupted
    Watch(Watch),
    /// Take a lock away from its holder, whose work goes on until it hears of it
    Break(Break),
    /// Try out the configured store on a lock of its own: reach, rights, promises, pace
    Doctor,
    /// Run the conformance suite on the configured store, in a namespace that is thrown away
    #[cfg(feature = "conformance")]
    #[command(after_help = CONFORMANCE_HELP)]
    Conformance(Conformance),
    /// List the kinds of stores that this build knows
    Backends,
    /// Measure how fast locks are on the configured store, in a namespace of its own
    Bench(Bench),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a completion script for a shell
    Completions(Completions),
    /// Write a manual page
    Man(Man),
}

const RUN_HELP: &str = "\
The command gets TENURE_NAME, TENURE_TOKEN, TENURE_OWNER, TENURE_BACKEND and TENURE_TTL_MS. Pass
the token on to what the command writes to, so that a late write can be refused.

Examples:
  tenure run backup -- rsync -a /srv /mnt/backup
  tenure run -n backup -c 'pg_dump shop | gzip > shop.gz'
  tenure run -w 30s -E 0 backup -- ./backup.sh     not getting the lock in time is no failure

Exit codes: the command's own, or 75 busy, 79 lost, 69 unreachable, 77 refused, 78 configuration,
64 usage, 126 not executable, 127 not found, 130 and 143 interrupted while waiting.";

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Give up at once if the lock is taken
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// Give up after that long [default: wait for ever]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Exit code if the lock is taken or the wait timed out
    #[arg(short = 'E', long, value_name = "N", default_value_t = 75)]
    pub(crate) conflict_exit_code: u8,
    /// How long the store keeps the lock after we fall silent [default: 30s]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Time between TERM and KILL when the deadline comes near
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = KILL_AFTER_TEXT)]
    pub(crate) kill_after: Duration,
    /// What becomes of the command on evidence that the lock is gone already
    #[arg(long, value_enum, default_value_t = OnLost::Kill)]
    pub(crate) on_lost: OnLost,
    /// Exit code if the lock was lost
    #[arg(long, value_name = "N", default_value_t = 79)]
    pub(crate) lost_exit_code: u8,
    /// Run this through `sh -c`
    #[arg(short = 'c', long, value_name = "STRING", conflicts_with = "command")]
    pub(crate) shell: Option<OsString>,
    /// Who holds the lock, for `status` [default: the command's name]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// Write one JSON object about the run to this file at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) status_file: Option<PathBuf>,
    /// Say nothing about waiting, or about not getting the lock
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Name of the lock
    pub(crate) name: OsString,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "shell")]
    pub(crate) command: Vec<OsString>,
}

#[cfg(feature = "conformance")]
const CONFORMANCE_HELP: &str = "\
Every case has a namespace of its own below the configured one, which begins with NS.conformance-.
What is held there in the end is taken away; what stays behind is said. Locks of other namespaces
are not touched, but a store that others use gets some load for a minute or a few.

Examples:
  tenure conformance --url redis://10.0.0.1              the store as it is
  tenure conformance --report page.html --report ci.xml  a page for people, JUnit XML for CI
  tenure conformance --filter token::                    some of the cases
  tenure conformance --from a.json --from b.json --report both.html

Exit codes: 0 passed, 1 failed, 64 usage, 69 store unreachable, 74 a report could not be written,
77 refused, 78 configuration, 130 interrupted.";

#[cfg(feature = "conformance")]
#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// Only cases whose ids contain this
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// List the cases and run none
    #[arg(long)]
    pub(crate) list: bool,
    /// How many cases run at the same time
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
    /// Count a case as failed that does not apply, unless no client could run it on this store
    #[arg(long)]
    pub(crate) strict: bool,
    /// How long workers fight over a few locks, for the timeline; 0s for not at all
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "3s")]
    pub(crate) stress: Duration,
    /// Write a report; the name's ending says which: .json, .xml (JUnit), .html, .md, .txt
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,
    /// Run nothing: show these JSON reports, and write them as --report says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "list", "strict"])]
    pub(crate) from: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Name of the lock
    pub(crate) name: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only names that begin so
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Name of the lock
    pub(crate) name: OsString,
    /// How often to look
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "1s")]
    pub(crate) every: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Break {
    /// Name of the lock
    pub(crate) name: OsString,
    /// The token of the grant that is taken away, as `status` shows it
    #[arg(long, value_name = "T")]
    pub(crate) token: u64,
    /// Why; it is written to stderr, for the log
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How many tasks take a lock each
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = tasks)]
    pub(crate) tasks: usize,
    /// How many want one lock
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = tasks)]
    pub(crate) waiters: usize,
    /// How long each of the three measurements takes
    #[arg(long = "for", value_name = "DUR", value_parser = duration, default_value = "3s")]
    pub(crate) span: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every value and where it comes from, secrets masked
    Show,
    /// Check the configuration without contacting the store
    Check,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Of this command [default: of all of them, in short]
    pub(crate) command: Option<String>,
}

fn tasks(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=10_000).contains(&count) => Ok(count),
        _ => Err("it is not a number from 1 to 10000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "it is not a duration; write such as 30s, 500ms or \"1m 30s\"".to_owned())
}
