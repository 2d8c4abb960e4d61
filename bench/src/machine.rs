//! On what was measured.

use std::{fs, process::Command, thread};

/// The machine and the versions, each with what it is.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut facts = vec![
        ("tenure", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "processors",
            format!("{cores} x {}", after("/proc/cpuinfo", "model name")),
        ),
        ("memory", after("/proc/meminfo", "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("load before the run (1, 5, 15 minutes)", load()),
    ];
    if let Ok(output) = Command::new("rustc").arg("--version").output() {
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        facts.push(("compiler", version));
    }
    facts
}

fn load() -> String {
    let all = read("/proc/loadavg");
    let three: Vec<_> = all.split(' ').take(3).collect();
    three.join(", ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What stands behind the first line's colon that begins so.
fn after(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(
        || "unknown".to_owned(),
        |(_, value)| value.trim().to_owned(),
    )
}
