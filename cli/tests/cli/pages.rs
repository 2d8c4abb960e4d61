//! The pages: the blocks of commands are run, or at least parsed by the command.
//!
//! A comment before a block, `<!-- test: MARK -->`, says how the block is tested:
//!
//! | mark | test |
//! |---|---|
//! | `holder NAME` | the commands run while `report.sh` holds this lock, with the token [`TOKEN`] in the text |
//! | `redis` | `redis://10.0.0.1` is a server of the test |
//! | `file NAME` | the block is written to this file, which later blocks of the page use |
//! | `crontab` | the command of each line is run |
//! | `none, REASON` | nothing is run; each `tenure` command is parsed |
//!
//! The blocks of a page run one after the other in one directory, with a store of its own. A command must succeed
//! unless `echo $?` follows. If a block shows any output, it must be the output of the commands: numbers are not
//! compared, and `...` stands for any text.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use tenure_test_servers::redis;

use crate::support::{Finished, Running, Sandbox, finished, unconfigured, wait_until, write};

/// The pages whose commands are run.
const RUN: [&str; 4] = [
    "docs/getting-started.md",
    "docs/migration.md",
    "docs/recipes.md",
    "docs/troubleshooting.md",
];
/// The token of the holder in the text.
const TOKEN: &str = "1796054775958938";
const REDIS: &str = "redis://10.0.0.1";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// The files below a directory whose names end so.
fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// The names of all pages.
fn pages() -> Vec<String> {
    let mut found = Vec::new();
    files(&root().join("docs"), ".md", &mut found);
    found.extend(["README.md", "examples/README.md"].map(|page| root().join(page)));
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(name).collect()
}

#[derive(Debug)]
struct Block {
    /// The page and the line.
    place: String,
    kind: String,
    mark: String,
    text: String,
}

/// The blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let text = read(page);
    let mut lines = text.lines().enumerate();
    let (mut found, mut mark) = (Vec::new(), String::new());
    while let Some((number, line)) = lines.next() {
        let comment = line.trim().strip_prefix("<!-- test: ");
        if let Some(comment) = comment {
            mark = comment.strip_suffix(" -->").unwrap().to_owned();
        } else if let Some(kind) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let inner = lines.by_ref().map(|(_, line)| line);
            let inner = inner.take_while(|line| !line.trim_start().starts_with("```"));
            let inner = inner.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n");
            found.push(Block {
                place: format!("{page}:{}", number + 1),
                kind: kind.to_owned(),
                mark: std::mem::take(&mut mark),
                text: inner.collect(),
            });
        } else if !line.is_empty() {
            assert_eq!(mark, "", "{page}:{}: no block after a mark", number + 1);
        }
    }
    found
}

impl Block {
    /// The commands, and the output.
    fn session(&self) -> (Vec<String>, String) {
        let (mut commands, mut output) = (Vec::<String>::new(), String::new());
        let mut continued = false;
        for line in self.text.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push(command.to_owned()),
                None if continued => {
                    let last = commands.last_mut().unwrap();
                    *last = format!("{last}\n{line}");
                }
                None => output += &format!("{line}\n"),
            }
            continued = line.ends_with('\\') && (continued || line.starts_with("$ "));
        }
        (commands, output)
    }
}

/// Splits a command into its words; an operator ends a word and is one.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.replace("\\\n", " ").chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '\n') => words.extend(word.take()),
            (None, '|' | '&' | ';' | '>' | '<') => {
                words.extend(word.take());
                words.push("|".to_owned());
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The arguments of each `tenure` of a command.
fn invocations(command: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for simple in words(command).split(|word| word == "|") {
        for (at, word) in simple.iter().enumerate() {
            let before = &simple[..at];
            let is_prefix = |word: &String| word == "sudo" || word == "exec" || word.contains('=');
            let is_command = before.iter().all(is_prefix) || before.ends_with(&["--".to_owned()]);
            if is_command && (word == "tenure" || word.ends_with("/tenure")) {
                found.push(simple[at + 1..].to_vec());
            }
        }
    }
    found
}

/// Asserts that the command accepts the arguments. It runs with an invalid configuration, so that it does nothing.
fn assert_parsed(place: &str, arguments: &[String]) {
    let mut command = unconfigured();
    command.args(arguments).env("TENURE__LOCK__TTL", "");
    let directory = tempfile::tempdir().unwrap();
    let outcome = finished(command.current_dir(&directory).output().unwrap());
    let is_accepted = matches!(outcome.code, Some(0 | 78));
    assert!(is_accepted, "{place}: tenure {arguments:?}: {outcome:?}");
}

/// Asserts that a shell accepts the block, and `tenure` its arguments.
fn assert_syntax(block: &Block, commands: &[String]) {
    let mut shell = Command::new("sh");
    shell.args(["-n", "-c", &commands.join("\n")]);
    let outcome = finished(shell.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", block.place);
    for arguments in commands.iter().flat_map(|command| invocations(command)) {
        assert_parsed(&block.place, &arguments);
    }
}

/// The directory and the store in which a page is run.
struct Session {
    sandbox: Sandbox,
    redis: redis::Server,
}

impl Session {
    fn new(redis: redis::Server) -> Self {
        let sandbox = Sandbox::new();
        for directory in ["bin", ".cargo/bin", "etc"] {
            fs::create_dir_all(sandbox.path(directory)).unwrap();
        }
        let tenure = env!("CARGO_BIN_EXE_tenure");
        symlink(tenure, sandbox.path(".cargo/bin/tenure")).unwrap();
        let report = root().join("examples/deploy/report.sh");
        symlink(report, sandbox.path("bin/report.sh")).unwrap();
        Self { sandbox, redis }
    }

    /// Replaces the paths of the text by those of the session.
    fn localise(&self, text: &str) -> String {
        let path = |name: &str| self.sandbox.path(name).display().to_string();
        text.replace("/usr/local/bin", &path("bin"))
            .replace("/etc/tenure", &path("etc"))
            .replace(REDIS, self.redis.url().as_str())
    }

    fn run(&self, script: &str, with_store: bool) -> Finished {
        write(&self.sandbox.path("script"), script);
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,QUIT", "sh", "-c"]);
        command.arg(". ./script 2>&1");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"TENURE") {
                command.env_remove(name);
            }
        }
        let own = self.sandbox.path(".cargo/bin");
        let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("HOME", self.sandbox.path(""));
        if with_store {
            command.envs(self.sandbox.environment());
        }
        command.current_dir(self.sandbox.path(""));
        Running::start(command).finish_within(Duration::from_secs(60))
    }

    /// Starts a process that holds the lock.
    fn hold(&self, name: &str) -> (Running, String) {
        let holder = self
            .sandbox
            .spawn_run(&["--label", "report.sh"], name, "exec sleep 600");
        let mut token = None;
        wait_until("a holder", || {
            token = self.sandbox.token(name);
            token.is_some()
        });
        (holder, token.unwrap().to_string())
    }

    /// Runs the commands of a block, and compares their output.
    fn test(&self, block: &Block) {
        let (commands, expected) = block.session();
        let holder = block
            .mark
            .strip_prefix("holder ")
            .map(|name| self.hold(name));
        let mut script = String::new();
        for (at, command) in commands.iter().enumerate() {
            script += &format!("{command}\n");
            if commands.get(at + 1).is_none_or(|next| next != "echo $?") {
                script += "[ $? = 0 ] || { echo 'the last command failed'; exit 1; }\n";
            }
        }
        let mut script = self.localise(&script);
        if let Some((_, token)) = &holder {
            script = script.replace(TOKEN, token);
        }
        let outcome = self.run(&script, block.mark != "redis");
        if let Some((holder, _)) = holder {
            holder.signal(Signal::SIGTERM);
            holder.finish();
        }
        let place = &block.place;
        assert_eq!(outcome.code, Some(0), "{place}: {}", outcome.stdout);
        let actual = outcome
            .stdout
            .replace(&self.sandbox.url(), "file:/var/tmp/tenure-1000");
        let actual = actual.replace(self.redis.url().as_str(), &format!("{REDIS}:6379"));
        let shown = expected.is_empty() || matches(&comparable(&expected), &comparable(&actual));
        assert!(shown, "{place}: the output is:\n{actual}");
    }
}

/// The text without the numbers and the host's name.
fn comparable(text: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let text = text.replace(&format!("on \"{host}\""), "on \"web1\"");
    let mut kept = String::new();
    for c in text.trim().chars() {
        match c {
            '0'..='9' if kept.ends_with('0') => {}
            '0'..='9' => kept.push('0'),
            _ => kept.push(c),
        }
    }
    kept
}

/// Whether the text is that of the pattern, in which `...` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once("...") else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(first) else {
        return false;
    };
    let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.any(|at| matches(rest, &text[at..]))
}

/// Every block of the pages is tested in the way that its kind and its mark say.
#[test]
fn pages_contain_commands_that_run_and_programs_that_are_built() {
    let doctests = read("tenure/src/lib.rs");
    let mut not_run = Vec::new();
    for page in pages() {
        let server = || redis::Server::builder().start().unwrap();
        let session = RUN.contains(&&*page).then(|| Session::new(server()));
        for block in blocks(&page) {
            let place = &block.place;
            if let Some(reason) = block.mark.strip_prefix("none, ") {
                not_run.push(format!("{place}: {reason}"));
                if block.kind == "console" {
                    assert_syntax(&block, &block.session().0);
                }
                continue;
            }
            match (&*block.kind, block.mark.split_once(' '), &session) {
                (_, Some(("file", name)), Some(session)) => {
                    let path = session.sandbox.path(name);
                    write(&path, &session.localise(&block.text));
                    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
                }
                ("console", _, Some(session)) => session.test(&block),
                ("console", None, None) => assert_syntax(&block, &block.session().0),
                ("text", None, Some(session)) if block.mark == "crontab" => {
                    for line in block.text.lines() {
                        let command: Vec<_> = line.split_whitespace().skip(5).collect();
                        let outcome = session.run(&session.localise(&command.join(" ")), true);
                        assert_eq!(outcome.code, Some(0), "{place}: {outcome:?}");
                    }
                }
                ("text", None, _) => {
                    for arguments in block.text.lines().flat_map(invocations) {
                        assert!(block.mark.is_empty(), "{place}: {arguments:?}");
                    }
                }
                ("toml", None, _) => assert_toml(&block),
                ("rust" | "rust,no_run", None, _) => {
                    assert!(doctests.contains(&page), "{place}: no doctest of tenure")
                }
                (kind, ..) => panic!(
                    "{place}: no test of `{kind}` with the mark `{}`",
                    block.mark
                ),
            }
        }
    }
    println!("not run:\n{}", not_run.join("\n"));
}

/// A configuration is valid; a manifest of Cargo is none.
fn assert_toml(block: &Block) {
    if !block.text.contains("[backend") && !block.text.contains("[lock]") {
        return;
    }
    let sandbox = Sandbox::new();
    let etc = sandbox.path("etc");
    fs::create_dir(&etc).unwrap();
    for file in block
        .text
        .split('"')
        .filter_map(|text| text.strip_prefix("/etc/tenure/"))
    {
        write(&etc.join(file), "text\n");
    }
    let text = block
        .text
        .replace("/etc/tenure", &etc.display().to_string());
    write(&sandbox.path("config.toml"), &text);
    let mut command = unconfigured();
    command.args(["--config", "config.toml", "config", "check"]);
    let outcome = finished(command.current_dir(sandbox.path("")).output().unwrap());
    assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", block.place);
}

/// The first column of the tables of messages contains texts of the source.
#[test]
fn messages_of_the_troubleshooting_page_are_in_the_source() {
    let mut sources = Vec::new();
    for directory in [
        "cli",
        "core",
        "tenure",
        "backend-etcd",
        "backend-file",
        "backend-redis",
        "backend-zookeeper",
    ] {
        files(&root().join(directory).join("src"), ".rs", &mut sources);
    }
    // A line of a text that ends with `\` continues at the next word.
    let source = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.split("\\\n");
        let first = lines.next().unwrap_or_default().to_owned();
        lines.fold(first, |all, line| all + line.trim_start())
    };
    let sources: Vec<_> = sources.iter().map(source).collect();
    let text = read("docs/troubleshooting.md");
    let messages: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(message, _)| message)
        .collect();
    assert!(messages.len() > 25, "{messages:?}");
    for message in messages {
        for part in message.split("...") {
            let known = sources.iter().any(|source| source.contains(part.trim()));
            assert!(known, "no source contains {part:?} of {message:?}");
        }
    }
}

/// The test of the test: what it must not accept.
#[test]
fn output_and_usage_that_differ_are_noticed() {
    assert!(matches("a ... c ...", "a b c d") && matches("a", "a"));
    assert!(!matches("a ... c", "a b") && !matches("a", "a b") && !matches("...b", "a"));
    let found = invocations("A=b tenure ls 'x y' | sudo /bin/tenure run x -- tenure man # tenure");
    let found: Vec<_> = found.iter().map(|words| words.join(" ")).collect();
    assert_eq!(found, ["ls x y", "run x -- tenure man", "man"]);
    let arguments = ["run", "--no-such-option", "x", "--", "true"].map(str::to_owned);
    assert!(std::panic::catch_unwind(|| assert_parsed("", &arguments)).is_err());
}
