//! No server outlives the process that started it. This program starts itself as a child that starts
//! servers, kills the child, and checks that nothing remains.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test without the usual harness"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use tenure_test_servers::{etcd, redis::Server, zookeeper};

/// The environment variable with the behaviour of the child.
const ROLE: &str = "TENURE_TEST_SERVERS_ROLE";
/// The environment variable with the kind of server of the child.
const KIND: &str = "TENURE_TEST_SERVERS_KIND";
const BOUND_STEPS: u32 = 1_500;
const STEP: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        let kind = std::env::var(KIND).unwrap();
        match &*kind {
            "etcd" => of_another_kind(
                &role,
                || etcd::Server::builder().start().unwrap(),
                |server| server.pause().unwrap(),
                |server| (server.process_id(), server.directory().to_owned()),
            ),
            "zookeeper" => of_another_kind(
                &role,
                || zookeeper::Server::builder().start().unwrap(),
                |server| server.pause().unwrap(),
                |server| (server.process_id(), server.directory().to_owned()),
            ),
            _ => child(&role),
        }
    }
    let cases = [
        ("running", "redis"),
        ("paused", "redis"),
        ("beside_other_children", "redis"),
        ("panicking", "redis"),
        ("running", "etcd"),
        ("paused", "etcd"),
        ("running", "zookeeper"),
        ("paused", "zookeeper"),
    ];
    let trials = cases.map(|(role, kind)| {
        let name = format!("a_server_of_{kind}_is_gone_when_its_process_was_{role}");
        Trial::test(name, move || server_is_gone(role, kind))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Runs a child with an etcd or ZooKeeper server.
fn of_another_kind<S>(
    role: &str,
    start: impl Fn() -> S,
    pause: impl Fn(&S),
    known: impl Fn(&S) -> (Option<u32>, PathBuf),
) -> ! {
    let server = start();
    if role == "paused" {
        pause(&server);
    }
    let (process, directory) = known(&server);
    println!("{} {} ", process.unwrap(), directory.display());
    loop {
        thread::park();
    }
}

/// Runs the child: starts a server, reports it, and then waits or panics.
fn child(role: &str) -> ! {
    let sleeper = || {
        let mut sleep = Command::new("sleep");
        let sleep = sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
        sleep.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut others: Vec<Child> = Vec::new();
    let server = if role == "beside_other_children" {
        // Other children start at the same time and survive this process. If one of them held the
        // watchdog's pipe, the server would survive as well.
        let starting = thread::spawn(|| Server::builder().start());
        while !starting.is_finished() {
            others.push(sleeper());
            thread::sleep(Duration::from_millis(1));
        }
        others.push(sleeper());
        starting.join().unwrap().unwrap()
    } else {
        Server::builder().start().unwrap()
    };
    if role == "paused" {
        server.pause().unwrap();
    }
    let others: Vec<String> = others.iter().map(|other| other.id().to_string()).collect();
    println!(
        "{} {} {}",
        server.process_id().unwrap(),
        server.directory().display(),
        others.join(",")
    );
    if role == "panicking" {
        // Like a failing test; this child is not killed.
        panic!("the child of this test panics on purpose");
    }
    loop {
        thread::park();
    }
}

fn server_is_gone(role: &str, kind: &str) -> Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(ROLE, role)
        .env(KIND, kind)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line)?;
    let words: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
    let [server, directory, others] = words[..] else {
        return Err(format!("the child said {line:?}").into());
    };
    let directory = PathBuf::from(directory);
    let existed = role == "panicking" || (is_alive(server) && directory.exists());

    if role != "panicking" {
        child.kill()?;
    }
    child.wait()?;
    let outcome = wait_until_gone(server, &directory);
    for other in others.split(',').filter(|other| !other.is_empty()) {
        let lived = is_alive(other);
        Command::new("kill").args(["-9", other]).status()?;
        if !lived {
            return Err(format!("process {other} was to live on beside the server").into());
        }
    }
    if !existed {
        return Err("the server was not there before its process was killed".into());
    }
    outcome
}

fn wait_until_gone(server: &str, directory: &Path) -> Result<(), Failed> {
    for _ in 0..BOUND_STEPS {
        if !is_alive(server) && !directory.exists() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    let left = format!(
        "left behind: process {server}: {}, directory: {}",
        is_alive(server),
        directory.exists()
    );
    // With a time limit, so that a failing test cleans up as well.
    Command::new("kill").args(["-9", server]).status()?;
    Err(left.into())
}

/// Returns whether the process runs; a zombie does not.
fn is_alive(process: &str) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default();
        !state.trim_start().starts_with(['Z', 'X'])
    })
}
