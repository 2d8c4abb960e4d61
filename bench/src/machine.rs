//! The machine of a run.

use std::{fs, process::Command, thread};

/// Returns facts about the machine and versions, each with its name.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut facts = vec![
        ("tenure", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "processors",
            format!("{cores} x {}", field("/proc/cpuinfo", "model name")),
        ),
        ("memory", field("/proc/meminfo", "MemTotal")),
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

/// Returns the text after the colon of the first line that begins with `key`.
fn field(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(
        || "unknown".to_owned(),
        |(_, value)| value.trim().to_owned(),
    )
}
