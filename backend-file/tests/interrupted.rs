//! A process is stopped or killed at every system call of an update, without damage. While it is
//! stopped, the directories that it uses are replaced by links.
//!
//! The test starts its own binary as the process to interrupt, and steps it from system call to
//! system call.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod common;

use std::{
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tenure_core::{
    clock::{Clock, SystemClock},
    id::AttemptId,
    lease::{DriftBounds, Lease},
    name::{LockName, Namespace},
    request::{Enqueue, Enqueued, Owner, Remove, Removed, Renewed},
};
use tenure_file::Options;

use crate::common::{Client, connect, lock, try_connect};

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(600);
const OPERATIONS: [&str; 5] = ["create", "enqueue", "renew", "remove", ENQUEUE_AGAIN];
/// An enqueue that meets a conflict, gets the permit and prepares its swap again. Only the system
/// calls after the conflict are interrupted.
const ENQUEUE_AGAIN: &str = "enqueue_again";

fn main() {
    if let Ok(operation) = std::env::var("TENURE_TEST_OPERATION") {
        return interrupted(&operation);
    }
    let mut trials = Vec::new();
    for operation in OPERATIONS {
        trials.push(Trial::test(
            format!("x3_killed_in_{operation}"),
            move || {
                run(killed(operation));
                Ok(())
            },
        ));
        trials.push(Trial::test(
            format!("x1_stopped_past_its_ttl_in_{operation}"),
            move || {
                run(stopped(operation, SHORT));
                Ok(())
            },
        ));
        trials.push(Trial::test(
            format!("x1_stopped_while_others_go_on_in_{operation}"),
            move || {
                run(stopped(operation, LONG));
                Ok(())
            },
        ));
        if operation == ENQUEUE_AGAIN {
            continue;
        }
        for dir in [".tmp", "default", "default/job"] {
            // Only the creation of a lock uses the temporary directories.
            if dir == ".tmp" && operation != "create" {
                continue;
            }
            trials.push(Trial::test(
                format!("{dir}_replaced_by_a_link_in_{operation}"),
                move || {
                    run(replaced_by_a_link(operation, dir));
                    Ok(())
                },
            ));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn run(test: impl Future<Output = ()>) {
    runtime().block_on(test);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

// ---- the process that is interrupted ----

fn interrupted(operation: &str) {
    let variable = |name: &str| std::env::var(name).unwrap();
    let root = PathBuf::from(variable("TENURE_TEST_ROOT"));
    let name = lock(&variable("TENURE_TEST_NAME"));
    let ttl = Duration::from_millis(variable("TENURE_TEST_TTL_MS").parse().unwrap());
    let report = runtime().block_on(async {
        // One thread, so that stepping it steps the whole process.
        let client = try_connect(&root, Options::default().inline(true))
            .await
            .unwrap();
        match operation {
            "create" | "enqueue" | ENQUEUE_AGAIN => {
                if operation == ENQUEUE_AGAIN {
                    // Another client, so that this one has no cached state: a conflict of a swap
                    // from memory does not count.
                    let other = try_connect(&root, Options::default().inline(true));
                    acquire_and_remove(&other.await.unwrap(), &name).await;
                } else if operation == "enqueue" {
                    acquire_and_remove(&client, &name).await;
                }
                let attempt = AttemptId::random().unwrap();
                let request = Enqueue::new(name, attempt, owner(operation), ttl, true);
                let answer = between_marks(client.backend.enqueue(request)).await;
                match answer {
                    Ok(Enqueued::Granted(grant)) => believed(ttl, grant.proved_from.unwrap()),
                    other => format!("no {other:?}"),
                }
            }
            "renew" => {
                let grant = client.acquire(&name, ttl).await;
                let renewal = client.renew(&name, grant.attempt, Some(grant.token));
                match between_marks(renewal).await {
                    Renewed::Proved { from } => believed(ttl, from),
                    other => format!("no {other:?}"),
                }
            }
            _ => {
                let grant = client.acquire(&name, ttl).await;
                let remove = Remove::new(name.clone(), grant.attempt, ttl, true);
                match between_marks(client.backend.remove(remove)).await {
                    Ok(removed) => {
                        assert_ne!(removed, Removed::AsWaiter);
                        "no".to_owned()
                    }
                    Err(error) => format!("failed {error}"),
                }
            }
        }
    });
    println!("{report}");
}

/// Returns an owner. A long one makes the state so long that it is stored as a delta.
fn owner(operation: &str) -> Owner {
    let length = if operation == ENQUEUE_AGAIN { 256 } else { 1 };
    Owner::new("\"".repeat(length), "\"".repeat(length), 1)
}

async fn acquire_and_remove(client: &Client, name: &LockName) {
    let grant = client.acquire(name, LONG).await;
    client.remove(name, grant.attempt).await;
}

/// Stops for the tracer before and after the operation.
async fn between_marks<T>(operation: impl Future<Output = T>) -> T {
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
    let value = operation.await;
    raise(Signal::SIGSTOP).unwrap();
    value
}

/// Returns whether a client would consider the lease held now.
fn believed(ttl: Duration, proved_from: tenure_core::clock::Instant) -> String {
    let lease = Lease::new(DriftBounds::default(), ttl, proved_from);
    let live = lease.check(SystemClock.now()).is_live();
    if live { "holds" } else { "no longer" }.to_owned()
}

// ---- the tracer ----

struct Traced {
    child: Child,
    pid: Pid,
}

impl Traced {
    fn start(operation: &str, root: &Path, name: &LockName, ttl: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .env("TENURE_TEST_OPERATION", operation)
            .env("TENURE_TEST_ROOT", root)
            .env("TENURE_TEST_NAME", name.as_str())
            .env("TENURE_TEST_TTL_MS", ttl.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let traced = Self { child, pid };
        let status = waitpid(pid, None).unwrap();
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).unwrap();
        traced
    }

    /// Continues to the next system call; `false` if the update is complete.
    fn step(&self) -> bool {
        self.to_next_stop() && self.to_next_stop()
    }

    fn to_next_stop(&self) -> bool {
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::PtraceSyscall(_) => return true,
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return false,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => panic!("{other:?}"),
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        while !matches!(
            waitpid(self.pid, None).unwrap(),
            WaitStatus::Signaled(..) | WaitStatus::Exited(..)
        ) {}
    }

    /// Lets the process run to its end, and returns its output.
    fn finish(mut self) -> String {
        loop {
            ptrace::cont(self.pid, None).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::Exited(_, code) => {
                    assert_eq!(code, 0);
                    break;
                }
                WaitStatus::Stopped(..) => {}
                other => panic!("{other:?}"),
            }
        }
        let mut report = String::new();
        let mut output = self.child.stdout.take().unwrap();
        output.read_to_string(&mut report).unwrap();
        report.trim().to_owned()
    }
}

/// Starts one process for each system call of the operation, stopped before that call, each with
/// its own lock.
async fn at_every_call(
    client: &Client,
    operation: &str,
    root: &Path,
    ttl: Duration,
) -> Vec<(LockName, Traced)> {
    let mut stopped = Vec::new();
    for calls in 0.. {
        let name = lock(&format!("{operation}/{calls}"));
        let traced = Traced::start(operation, root, &name, ttl);
        if operation == ENQUEUE_AGAIN {
            while !has_proposal(&lock_dir(root, &name)) {
                assert!(traced.step(), "{name}: no proposal");
            }
            // Its swap now meets a conflict.
            acquire_and_remove(client, &name).await;
        }
        let goes_on = (0..calls).all(|_| traced.step());
        stopped.push((name, traced));
        if !goes_on {
            break;
        }
    }
    assert!(stopped.len() > 8, "{} system calls", stopped.len());
    stopped
}

fn lock_dir(root: &Path, name: &LockName) -> PathBuf {
    let key = tenure_core::cas::Key::new(Namespace::default(), name.clone());
    tenure_file::paths::lock_dir(root, &key)
}

/// Returns whether a directory contains data of a version that is not published.
fn has_proposal(dir: &Path) -> bool {
    let highest = |prefix: &str| {
        std::fs::read_dir(dir)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter_map(|name| {
                name.strip_prefix(prefix)?
                    .split('.')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .max()
    };
    highest("data.") > highest("head.")
}

/// Returns whether a directory contains data that is stored as a delta.
fn has_delta(dir: &Path) -> bool {
    std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .any(|target| {
            let first = target.as_os_str().as_encoded_bytes().first();
            matches!(first, Some(b'd' | b'D'))
        })
}

/// Returns whether a process has the permit of a lock.
fn is_permit_held(root: &Path, name: &LockName) -> bool {
    let Ok(file) = std::fs::File::open(lock_dir(root, name).join("permit")) else {
        return false;
    };
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}

/// Acquires each lock of the killed processes within their TTL.
async fn killed(operation: &str) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let client = connect(root).await;
    let mut last_kill = SystemClock.now();
    let mut names = Vec::new();
    for (name, traced) in at_every_call(&client, operation, root, SHORT).await {
        traced.kill();
        last_kill = SystemClock.now();
        names.push(name);
    }
    for name in names {
        let seen = client.backend.inspect(&name).await.unwrap();
        let attempt = AttemptId::random().unwrap();
        let answer = client.enqueue(&name, attempt, LONG, true).await.unwrap();
        let grant = match answer {
            Enqueued::Granted(grant) => Some(grant),
            _ => {
                client
                    .granted(&name, attempt, Duration::from_secs(10))
                    .await
            }
        };
        let grant = grant.unwrap_or_else(|| panic!("{name} is blocked"));
        // All processes died before the last kill; one TTL later none may block the lock.
        let now = SystemClock.now();
        assert!(
            now.since(last_kill) < SHORT + Duration::from_secs(5),
            "{name}"
        );
        if let Some(token) = seen.holder.and_then(|holder| holder.token) {
            assert!(grant.token > token, "{name}");
        }
        assert_eq!(client.remove(&name, attempt).await, Removed::AsHolder);
    }
    expect_no_stale_files(root, operation);
}

/// Acquires the lock while each process is stopped, lets the process continue, and checks its
/// result against the store.
async fn stopped(operation: &str, ttl: Duration) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let client = connect(root).await;
    let stopped = at_every_call(&client, operation, root, ttl).await;
    if ttl == SHORT {
        tokio::time::sleep(SHORT).await;
    }
    let mut overtaken = 0;
    let mut with_permit = 0;
    let mut with_delta = 0;
    for (name, traced) in stopped {
        with_permit += usize::from(is_permit_held(root, &name));
        with_delta += usize::from(operation != "create" && has_delta(&lock_dir(root, &name)));
        let ours = overtake(&client, &name).await;
        let report = traced.finish();
        assert!(!report.starts_with("failed"), "{name}: {report}");
        let holder = client.backend.inspect(&name).await.unwrap().holder;
        let holds = holder.and_then(|holder| holder.attempt);
        if let Some(ours) = ours {
            overtaken += 1;
            assert_ne!(report, "holds", "{name}: two believe");
            assert_eq!(
                holds,
                Some(ours),
                "{name}: the grant of another was touched"
            );
        } else {
            // Its publications count, whatever this process did in the meantime.
            assert!(ttl == LONG, "{name} is blocked");
            if operation != "remove" {
                assert_eq!(report, "holds", "{name}");
            }
        }
    }
    if (operation, ttl) == ("renew", LONG) {
        assert_eq!(overtaken, 0, "it held all the time");
    } else {
        assert!(overtaken > 3, "overtook {overtaken}");
    }
    if operation == ENQUEUE_AGAIN {
        assert!(with_permit > 3, "{with_permit} processes had the permit");
        assert!(with_delta > 3, "{with_delta} processes had written a delta");
    }
    expect_no_stale_files(root, operation);
}

/// Replaces a directory by a link to a copy of it before each system call of the operation. The
/// copy, which a process that follows the link takes for the original, stays unchanged.
async fn replaced_by_a_link(operation: &str, dir: &str) {
    let mut replaced = 0;
    for calls in 0.. {
        let base = tempfile::tempdir().unwrap();
        let (root, copied) = (base.path().join("locks"), base.path().join("copy"));
        let traced = Traced::start(operation, &root, &lock("job"), LONG);
        let goes_on = (0..calls).all(|_| traced.step());
        let path = root.join(dir);
        // It may not exist before this call.
        if path.exists() {
            common::copy(&path, &copied);
            std::fs::rename(&path, base.path().join("moved")).unwrap();
            symlink(&copied, &path).unwrap();
            let before = tree(&copied);
            let report = traced.finish();
            let root = root.to_str().unwrap();
            assert!(
                !report.starts_with("failed") || report.contains(root),
                "{report}"
            );
            assert_eq!(tree(&copied), before, "{operation}, system call {calls}");
            replaced += 1;
        } else {
            traced.kill();
        }
        if !goes_on {
            break;
        }
    }
    assert!(replaced > 0);
}

/// Returns the path, the mode and the time of the last change of everything in a directory.
fn tree(path: &Path) -> Vec<(PathBuf, u32, i64, i64)> {
    let meta = path.symlink_metadata().unwrap();
    let mut found = vec![(
        path.to_path_buf(),
        meta.mode(),
        meta.mtime(),
        meta.mtime_nsec(),
    )];
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        found.extend(paths.iter().flat_map(|path| tree(path)));
    }
    found
}

/// Acquires the lock several times and holds it at the end. Returns `None` if the stopped process
/// holds the lock and a waiter would have to wait for it.
async fn overtake(client: &Client, name: &LockName) -> Option<AttemptId> {
    let mut last = None;
    for _ in 0..4 {
        if let Some(last) = last.take() {
            assert_eq!(client.remove(name, last).await, Removed::AsHolder);
        }
        let attempt = AttemptId::random().unwrap();
        match client.enqueue(name, attempt, LONG, true).await.unwrap() {
            Enqueued::Granted(_) => last = Some(attempt),
            Enqueued::Waiting(_) => {
                assert_eq!(client.remove(name, attempt).await, Removed::AsWaiter);
                return None;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    last
}

/// Checks that no files accumulate: a head, its data and the previous data, and possibly one proposal
/// of a killed process. A long state has two pieces in each version, and a conflict adds the permit.
fn expect_no_stale_files(root: &Path, operation: &str) {
    let locks = std::fs::read_dir(root.join("default")).unwrap();
    let most = if operation == ENQUEUE_AGAIN { 8 } else { 4 };
    let mut seen = 0;
    for dir in locks.map(|entry| entry.unwrap().path()) {
        let count = std::fs::read_dir(&dir).unwrap().count();
        assert!(
            count <= most,
            "{operation}: {count} files in {}",
            dir.display()
        );
        seen += 1;
    }
    assert!(seen > 8);
}
