//! The command line: options, help texts, examples.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tenure::mode::Mode;

use crate::{
    exit::{Failure, USAGE},
    guardian::protocol::OnLost,
};

const AFTER_HELP: &str = "\
Examples:
  tenure run nightly -- ./report.sh          one at a time; wait for the lock if necessary
  tenure run -n nightly -- ./report.sh       give up at once if the lock is taken (exit code 75)
  tenure run -w 10m nightly -- make          give up after ten minutes
  tenure status nightly                      who holds it, who waits
  tenure doctor                              does the configured store carry locks?

Exit codes:
  the command's own; 128+N if it died of signal N
  75   the lock is taken, or the wait timed out
  79   the lock was lost and the command was stopped
  80   the command could not be stopped: it runs as another user, or hangs in the kernel
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
    /// Store URL, such as file:/var/lib/locks
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
    /// Format of the results
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, help_heading = "Global options")]
    pub(crate) output: Format,
    /// Log to stderr; twice for more detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// The format of the results.
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
    /// Print the value of the leader, which is the label of the lock's holder
    #[command(after_help = LEADER_HELP)]
    Leader(Name),
    /// List the locks that are held or waited for
    Ls(Ls),
    /// Show each change of a lock until interrupted
    Watch(Watch),
    /// Evict the holder of a lock, which continues until it learns of the loss
    Break(Break),
    /// Check the configured store with a temporary lock: connection, permissions, guarantees, speed
    Doctor,
    /// Run the conformance suite on the configured store, in a temporary namespace
    #[cfg(feature = "conformance")]
    #[command(after_help = CONFORMANCE_HELP)]
    Conformance(Conformance),
    /// List the kinds of stores that this build supports
    Backends,
    /// Measure the speed of locks on the configured store, in a separate namespace
    Bench(Bench),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a completion script for a shell
    Completions(Completions),
    /// Write a manual page
    Man(Man),
}

const LEADER_HELP: &str = "\
Example:
  tenure run --value 10.0.0.7:8080 scheduler -- ./scheduler    on each candidate
  tenure leader scheduler                                      prints 10.0.0.7:8080

Exit codes: 0 somebody leads, 1 nobody leads, 69 unreachable, 77 refused, 78 configuration.";

const RUN_HELP: &str = "\
The environment of the command contains TENURE_NAME, TENURE_TOKEN, TENURE_FLOOR, TENURE_OWNER,
TENURE_BACKEND and TENURE_TTL_MS. Pass the token to the resource that the command writes to, so that the resource
can refuse a late write.

Examples:
  tenure run backup -- rsync -a /srv /mnt/backup
  tenure run -n backup -c 'pg_dump shop | gzip > shop.gz'
  tenure run -w 30s -E 0 backup -- ./backup.sh     a lock that is taken is no failure
  tenure run -- -odd-name -- ./backup.sh           a name that begins with `-`
  tenure run -s catalogue -- ./search              with other readers, but not with a writer
  tenure run --permits 1/4 encoder -- ./encode     at most four at the same time
  tenure run --also b a -- ./move a b              two locks at once
  tenure run -n --hold-at-least 1m nightly -- ./report   once, though several hosts start it

To run a command as another user, run `tenure` as that user: `sudo tenure run NAME -- COMMAND`, not
`tenure run NAME -- sudo COMMAND`. Without the permission to signal the command, `tenure` cannot
stop it.

Exit codes: the command's own, or 75 busy, 79 lost, 80 lost or unsupervised and not stopped,
69 unreachable, 77 refused, 78 configuration, 64 usage, 126 not executable, 127 not found, 130 and 143 interrupted while waiting.";

const RUN_USAGE: &str = "\
tenure run [OPTIONS] [--] NAME -- COMMAND [ARG]...
       tenure run [OPTIONS] --shell STRING [--] NAME";

#[derive(Debug, Args)]
#[command(override_usage = RUN_USAGE)]
pub(crate) struct Run {
    /// Give up at once if the lock is taken
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// Give up after this time [default: wait forever]
    #[arg(short = 'w', long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Also wait for a store that cannot be reached at the start
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) wait_for_store: bool,
    /// Exit code if the lock is taken or the wait timed out
    #[arg(short = 'E', long, value_name = "N", default_value_t = 75)]
    pub(crate) conflict_exit_code: u8,
    /// How long the store keeps the lock after the last renewal [default: 30s]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Time between TERM and KILL when the deadline comes near
    #[arg(long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration, default_value = KILL_AFTER_TEXT)]
    pub(crate) kill_after: Duration,
    /// What to do with the command on evidence that the lock is already lost
    #[arg(long, value_enum, default_value_t = OnLost::Kill)]
    pub(crate) on_lost: OnLost,
    /// Exit code if the lock was lost
    #[arg(long, value_name = "N", default_value_t = 79)]
    pub(crate) lost_exit_code: u8,
    /// Share the lock with other runs that share it, as readers do
    #[arg(short = 's', long, conflicts_with = "permits")]
    pub(crate) shared: bool,
    /// Take K of the lock's N permits; all runs must name the same N
    #[arg(long, value_name = "K/N", value_parser = permits)]
    pub(crate) permits: Option<Mode>,
    /// Another lock, acquired together with NAME in an order that cannot deadlock; repeatable
    #[arg(long, value_name = "NAME", conflicts_with = "permits")]
    pub(crate) also: Vec<OsString>,
    /// Keep the lock for at least this time after the grant, also if the command ends earlier
    #[arg(long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) hold_at_least: Option<Duration>,
    /// Run this through `sh -c`
    #[arg(short = 'c', long, value_name = "STRING")]
    shell: Option<OsString>,
    /// Label of the holder, for `status` [default: the command's name]
    #[arg(long, value_name = "TEXT", visible_alias = "value")]
    pub(crate) label: Option<String>,
    /// Write one JSON object about the run to this file at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) status_file: Option<PathBuf>,
    /// Write metrics about the run to this file, NAME.prom, for Prometheus' node exporter
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// Print no message about waiting or about a lock that is taken
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Name of the lock; put `--` before a name that begins with `-`
    name: Option<OsString>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Returns the name of the lock, and the program with its arguments.
    ///
    /// The parser assigns everything after the first `--` to the command. If no name stands before
    /// it, the name follows, and then a second `--`.
    pub(crate) fn name_and_command(&self) -> Result<(&OsStr, Vec<OsString>), Failure> {
        let (name, command) = match (&self.name, &*self.command) {
            (Some(name), command) => (name, command),
            (None, []) => return Err(bad_run("NAME is missing")),
            (None, [name]) => (name, &[][..]),
            (None, [name, separator, command @ ..]) if separator == "--" => (name, command),
            (None, [_, ..]) => return Err(bad_run("NAME, or the `--` after it, is missing")),
        };
        let command = match (&self.shell, command) {
            (Some(script), []) => vec!["sh".into(), "-c".into(), script.clone()],
            (Some(_), _) => return Err(bad_run("--shell cannot be used with COMMAND")),
            (None, []) => return Err(bad_run("COMMAND is missing")),
            (None, command) => command.to_vec(),
        };
        Ok((name, command))
    }
}

fn bad_run(what: &str) -> Failure {
    Failure::new(
        USAGE,
        format!("{what}; use `tenure run [OPTIONS] [--] NAME -- COMMAND`; see `tenure run --help`"),
    )
}

#[cfg(feature = "conformance")]
const CONFORMANCE_HELP: &str = "\
Every case has a separate namespace below the configured one, which begins with NS.conformance-.
At the end the command evicts all locks that are still held there, and lists everything that
remains. It does not touch locks of other namespaces, but puts load on the store for some minutes.

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
    /// Only cases whose ids contain this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// List the cases and run none
    #[arg(long)]
    pub(crate) list: bool,
    /// How many cases run at the same time
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
    /// Count a case that does not apply as failed, unless no client can run it on this store
    #[arg(long)]
    pub(crate) strict: bool,
    /// How long workers compete for a few locks, for the timeline; 0s for no timeline
    #[arg(long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration, default_value = "3s")]
    pub(crate) stress: Duration,
    /// Write a report; the file extension selects the format: .json, .xml (JUnit), .html, .md, .txt
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,
    /// Run no case: show these JSON reports, and write them to the files of --report
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
    /// Only names with this prefix
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Name of the lock
    pub(crate) name: OsString,
    /// Interval between two queries of the store
    #[arg(long, value_name = "DUR", allow_hyphen_values = true, value_parser = duration, default_value = "1s")]
    pub(crate) every: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Break {
    /// Name of the lock
    pub(crate) name: OsString,
    /// The token of the grant to evict, as `status` shows it
    #[arg(long, value_name = "T")]
    pub(crate) token: u64,
    /// Reason, written to stderr for the log
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Number of tasks, each with its own lock
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = tasks)]
    pub(crate) tasks: usize,
    /// Number of waiters for one lock, each with its own client
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = tasks)]
    pub(crate) waiters: usize,
    /// How long each of the three measurements takes
    #[arg(long = "for", value_name = "DUR", allow_hyphen_values = true, value_parser = duration, default_value = "3s")]
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
    /// Shell of the completion script
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Command of the page [default: an overview of all commands]
    pub(crate) command: Option<String>,
}

/// Parses the number of permits that a run takes, and how many there are.
fn permits(text: &str) -> Result<Mode, String> {
    let form =
        || "not a number of permits; use a form such as 1/4, which is one of four".to_owned();
    let (take, of) = text.split_once('/').ok_or_else(form)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| form());
    let mode = Mode::permits(number(take)?, number(of)?);
    mode.map_err(|error| error.detail().unwrap_or_default().to_owned())
}

fn tasks(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=10_000).contains(&count) => Ok(count),
        _ => Err("not a number from 1 to 10000".to_owned()),
    }
}

/// Parses a duration. Its options allow a value that begins with `-`, so that `-w -5s` is an error of
/// the value.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "not a duration; use a form such as 30s, 500ms or \"1m 30s\"".to_owned())
}
