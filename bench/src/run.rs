//! The command `tenure run` beside `flock(1)`.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tenure_core::clock::{Clock, SystemClock};

use crate::{
    contender::Failure,
    measure::work,
    results::{Results, Work},
};

const ROUNDS: usize = 101;
const RUN: Work = work("a command under a lock: `true`", "ms", "");

/// Runs `true` under a lock again and again, in turn by either; nothing if this host has no `flock`, or
/// the command was not built.
pub(crate) fn run(results: &mut Results) -> Result<(), Failure> {
    let tenure = std::env::current_exe()?.with_file_name("tenure");
    if !tenure.exists() {
        println!(
            "no {}: build the command with the same profile first",
            tenure.display()
        );
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let url = format!("file:{}", directory.path().join("locks").display());
    let file = directory.path().join("flock");
    let mut ours = Command::new(tenure);
    ours.args(["run", "--url", &url, "nightly", "--", "true"]);
    let mut theirs = Command::new("flock");
    theirs.arg(&file).arg("true");
    for round in 0..=ROUNDS {
        for (who, command) in [("flock(1)", &mut theirs), ("tenure run", &mut ours)] {
            let took = once(command)?;
            if round > 0 {
                results.add("file", RUN, who, 1, took * 1e3);
            }
        }
    }
    Ok(())
}

/// Seconds until it has ended.
fn once(command: &mut Command) -> Result<f64, Failure> {
    let start = SystemClock.now();
    let status = command.stdin(Stdio::null()).status().map_err(|error| {
        let program = Path::new(command.get_program()).display();
        format!("{program}: {error}")
    })?;
    if status.success() {
        Ok(SystemClock.now().since(start).as_secs_f64())
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}
