//! Commands that have become another user, so that `tenure` may not signal them.
//!
//! Only root can create a set-uid program, so these tests do nothing for other users.

use std::{
    fs::Permissions,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    Finished, Running, Sandbox, copied_command, finished, is_alive, is_root, wait_until, write,
};

/// The user that runs `tenure`.
const USER: u32 = 65_534;
/// The user that the command becomes.
const OTHER_USER: u32 = 65_533;
const SHORT_TTL: &[&str] = &["--ttl", "3s", "--kill-after", "300ms"];
/// Longer than the TTL: a lock that is not renewed is granted to a waiter within this time.
const LONG_WAIT: &str = "8s";

/// A sandbox whose store belongs to [`USER`], with the directory `out` for all users.
struct Users {
    sandbox: Sandbox,
}

/// Kills a process at the end of the test.
struct KillOnDrop(Pid);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

impl Users {
    /// Returns `None` if this process is not root.
    fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let sandbox = Sandbox::new();
        let mode = |name: &str, mode| {
            std::fs::set_permissions(sandbox.path(name), Permissions::from_mode(mode)).unwrap();
        };
        mode(".", 0o755);
        for (name, bits) in [("locks", 0o700), ("out", 0o777)] {
            std::fs::create_dir(sandbox.path(name)).unwrap();
            mode(name, bits);
        }
        chown(sandbox.path("locks"), Some(USER), Some(USER)).unwrap();
        // A separate process copies the file, as in `copied_command`.
        let copy = Command::new("sh")
            .args(["-c", "cp \"$(command -v setpriv)\" as-other"])
            .current_dir(sandbox.path("."))
            .status();
        assert!(copy.unwrap().success());
        mode("as-other", 0o4755);
        // Creates the copy that `tenure` below uses.
        let _ = copied_command(&sandbox, &[]);
        Some(Self { sandbox })
    }

    /// Returns a shell command that runs `script` as [`OTHER_USER`]. The script waits for the file
    /// `stop` and exits with 7. It does not keep the pipes of the test open.
    fn other(script: &str) -> String {
        format!(
            "./as-other --reuid {OTHER_USER} --clear-groups sh -c \
             'exec >/dev/null 2>&1; {script} until test -e out/stop; do sleep 0.02; done; exit 7'"
        )
    }

    fn tenure(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.sandbox.path("tenure-copy"));
        command.envs(self.sandbox.environment()).args(arguments);
        command.current_dir(self.sandbox.path("."));
        command.stdin(Stdio::null()).uid(USER).gid(USER);
        command
    }

    /// Starts a run of this shell command, with a status file.
    fn start(&self, options: &[&str], script: &str) -> Running {
        let run = ["run", "--status-file", "out/s.json"];
        let command = ["x", "--", "sh", "-c", script];
        Running::start(self.tenure(&[&run, options, &command].concat()))
    }

    /// Starts a command that becomes the other user and remains the leader of its group.
    fn start_other(&self, options: &[&str]) -> (Running, Pid, KillOnDrop) {
        let script = format!("exec {}", Self::other("echo $$ > out/other;"));
        let holder = self.start(options, &script);
        let other = self.sandbox.pid("out/other");
        (holder, other, KillOnDrop(other))
    }

    /// Starts a command with a child that becomes the other user.
    fn start_mixed(&self, options: &[&str], script: &str) -> (Running, Pid, KillOnDrop) {
        let child = Self::other("echo $$ > out/other;");
        let holder = self.start(
            options,
            &format!("{script} {child} & while :; do wait; done"),
        );
        let other = self.sandbox.pid("out/other");
        (holder, other, KillOnDrop(other))
    }

    /// Waits for the lock for up to `wait`.
    fn acquire(&self, wait: &str) -> Finished {
        let arguments = [&["run", "-q", "-w", wait], SHORT_TTL, &["x", "--", "true"]].concat();
        finished(self.tenure(&arguments).output().unwrap())
    }

    fn evict(&self) {
        let token = self.sandbox.token("x").unwrap().to_string();
        let arguments = ["break", "x", "--token", &token, "--reason", "test"];
        finished(self.tenure(&arguments).output().unwrap()).assert_succeeded();
    }

    /// Ends the commands.
    fn stop(&self) {
        write(&self.sandbox.path("out/stop"), "");
    }

    #[track_caller]
    fn assert_status(&self, outcome: &str, release: &str) {
        let text = self.sandbox.read("out/s.json").unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&status["outcome"], &status["release"]),
            (&outcome.into(), &release.into()),
            "{status}"
        );
    }
}

#[track_caller]
fn assert_not_stopped(run: &Finished, words: &[&str]) {
    assert_eq!(run.code, Some(80), "{run:?}");
    for word in [words, &["could not be stopped", "user 65533"]].concat() {
        assert!(run.stderr.contains(word), "{word:?} is missing: {run:?}");
    }
}

#[test]
fn l2_loss_reports_a_command_of_another_user_that_still_runs() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(&["--lost-exit-code", "9"]);
    users.evict();
    let run = holder.finish();
    assert_not_stopped(&run, &["lost \"x\"", "still runs", "evicted"]);
    assert!(!run.stderr.contains("was stopped"), "{run:?}");
    users.assert_status("not_stopped", "not_held");
    assert!(is_alive(other));
}

#[test]
fn l2_loss_reports_a_child_of_another_user_that_still_runs() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) =
        users.start_mixed(&["--on-lost", "term", "--kill-after", "1s"], "");
    users.evict();
    assert_not_stopped(&holder.finish(), &["lost \"x\"", "still runs", "evicted"]);
    users.assert_status("not_stopped", "not_held");
    assert!(is_alive(other));
}

#[test]
fn x1_expiry_reports_a_command_of_another_user_that_still_runs() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(SHORT_TTL);
    holder.signal(Signal::SIGSTOP);
    users.acquire("20s").assert_succeeded();
    holder.signal(Signal::SIGCONT);
    assert_not_stopped(&holder.finish(), &["lost \"x\"", "still runs"]);
    users.assert_status("not_stopped", "not_held");
    assert!(is_alive(other));
}

#[test]
fn x1_lock_that_is_renewed_again_is_held_until_a_child_of_another_user_ends() {
    let Some(users) = Users::new() else { return };
    let options = ["--ttl", "12s", "--kill-after", "1900ms"];
    let trap = "trap 'echo asked > out/asked' TERM;";
    let (holder, other, _kill) = users.start_mixed(&options, trap);
    let token = users.sandbox.token("x");
    holder.signal(Signal::SIGSTOP);
    // The guardian stops the command at the deadline, although the supervisor renews again.
    wait_until("TERM", || users.sandbox.path("out/asked").exists());
    holder.signal(Signal::SIGCONT);
    assert_eq!(users.acquire(LONG_WAIT).code, Some(75));
    assert_eq!(users.sandbox.token("x"), token);
    assert!(is_alive(other));
    users.stop();
    let run = holder.finish();
    assert_not_stopped(&run, &["\"x\" is held until the command ends", "has ended"]);
    users.assert_status("not_stopped", "released");
    users.acquire("0s").assert_succeeded();
}

#[test]
fn x1_lock_is_held_after_the_death_of_the_guardian_until_the_command_ends() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(SHORT_TTL);
    let token = users.sandbox.token("x");
    kill(holder.guardian(), Signal::SIGKILL).unwrap();
    assert_eq!(users.acquire(LONG_WAIT).code, Some(75));
    assert_eq!(users.sandbox.token("x"), token);
    assert!(is_alive(other));
    // A request to end cannot reach the command, and does not free the lock.
    holder.signal(Signal::SIGTERM);
    assert_eq!(users.acquire("1s").code, Some(75));
    users.stop();
    let run = holder.finish();
    assert_not_stopped(
        &run,
        &[
            "\"x\" is held until the command ends",
            "SIGTERM",
            "has ended",
        ],
    );
    users.assert_status("not_stopped", "released");
    users.acquire("0s").assert_succeeded();
}

#[test]
fn l2_loss_after_the_death_of_the_guardian_reports_a_command_that_still_runs() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(&[]);
    kill(holder.guardian(), Signal::SIGKILL).unwrap();
    users.evict();
    assert_not_stopped(&holder.finish(), &["lost \"x\"", "still runs", "evicted"]);
    users.assert_status("not_stopped", "not_held");
    assert!(is_alive(other));
}

#[test]
fn x3_guardian_of_a_killed_supervisor_reports_a_command_that_still_runs() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(SHORT_TTL);
    let guardian = holder.guardian();
    holder.signal(Signal::SIGKILL);
    wait_until("the end of the guardian", || !is_alive(guardian));
    let printed = holder.finish().stderr;
    for word in ["\"x\"", "could not be stopped", "user 65533", "still runs"] {
        assert!(printed.contains(word), "{word:?} is missing: {printed:?}");
    }
    // Nobody renews the lock.
    users.acquire("20s").assert_succeeded();
    assert!(is_alive(other));
}

#[test]
fn term_that_cannot_reach_the_command_is_reported_and_the_lock_is_held() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_other(SHORT_TTL);
    holder.signal(Signal::SIGTERM);
    assert_eq!(users.acquire(LONG_WAIT).code, Some(75));
    assert!(is_alive(other));
    users.stop();
    let run = holder.finish();
    assert_eq!(run.code, Some(7), "{run:?}");
    for word in ["SIGTERM did not reach", "user 65533", "\"x\" is held"] {
        assert!(run.stderr.contains(word), "{word:?} is missing: {run:?}");
    }
    users.assert_status("exited", "released");
}

#[test]
fn term_that_cannot_reach_a_child_of_the_command_does_not_free_the_lock() {
    let Some(users) = Users::new() else { return };
    let (holder, other, _kill) = users.start_mixed(SHORT_TTL, "");
    holder.signal(Signal::SIGTERM);
    assert_eq!(users.acquire(LONG_WAIT).code, Some(75));
    assert!(is_alive(other));
    users.stop();
    let run = holder.finish();
    assert_eq!(run.code, Some(143), "{run:?}");
    assert!(run.stderr.contains("SIGTERM did not reach"), "{run:?}");
    users.assert_status("signaled", "released");
    users.acquire("0s").assert_succeeded();
}

#[test]
fn command_that_becomes_another_user_and_ends_in_time_is_like_any_other() {
    let Some(users) = Users::new() else { return };
    users.stop();
    let holder = users.start(SHORT_TTL, &format!("exec {}", Users::other("")));
    let run = holder.finish_within(Duration::from_secs(20));
    assert_eq!((run.code, &*run.stderr), (Some(7), ""));
    users.assert_status("exited", "released");
}
