//! The file of `--metrics-file`: its format, and what it says at each moment of a run.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    process::Stdio,
};

use crate::support::{Sandbox, wait_until, write};

/// A lock name whose characters have to be escaped in a label, and the label.
const NAME: &str = "a \"b\\c\nd";
const ESCAPED: &str = r#"a \"b\\c\nd"#;

/// The series of a file: the value by the name, or by the outcome.
type Series = HashMap<String, f64>;

/// Returns the series of a file with valid format, in which each series has the labels; `None` while
/// there is no file.
fn read(sandbox: &Sandbox, labels: &str) -> Option<Series> {
    let text = sandbox.read("m.prom")?;
    let mut series = Series::new();
    let mut described = (String::new(), String::new());
    assert!(text.ends_with('\n'), "{text}");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            described.0 = help.split_once(' ').unwrap().0.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            described.1 = kind.strip_suffix(" gauge").unwrap().to_owned();
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!((name, name), (&*described.0, &*described.1), "{text}");
            let (own, value) = rest
                .strip_prefix(labels)
                .and_then(|rest| rest.split_once("} "))
                .unwrap_or_else(|| panic!("not the labels {labels}: {line}"));
            let name = name.strip_prefix("tenure_run_").unwrap();
            let value = value.parse().unwrap();
            assert!(series.insert(format!("{name}{own}"), value).is_none());
        }
    }
    Some(series)
}

/// Waits until the gauge has the value, and returns the series.
#[track_caller]
fn wait_for(sandbox: &Sandbox, labels: &str, name: &str, value: f64) -> Series {
    let mut series = Series::new();
    wait_until(&format!("{name} {value}"), || {
        series = read(sandbox, labels).unwrap_or_default();
        series.get(name) == Some(&value)
    });
    series
}

fn outcome(series: &Series) -> &str {
    let mut found = series
        .iter()
        .filter(|(name, value)| name.starts_with("outcome,") && **value == 1.0);
    let (name, _) = found.next().expect("an outcome");
    assert_eq!(found.next(), None);
    name.strip_prefix("outcome,outcome=\"")
        .and_then(|name| name.strip_suffix('"'))
        .unwrap()
}

fn labels(lock: &str) -> String {
    let backend = std::env::var("TENURE_TEST_STORE").unwrap_or_else(|_| "file".to_owned());
    format!("lock=\"{lock}\",namespace=\"default\",backend=\"{backend}\"")
}

/// Asserts that Prometheus accepts the file, where its tool is installed.
fn assert_promtool_accepts(sandbox: &Sandbox) {
    let file = fs::File::open(sandbox.path("m.prom")).unwrap();
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(file);
    let Ok(output) = promtool.stdout(Stdio::piped()).output() else {
        eprintln!("promtool is missing, so the format is checked by this test only");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn last_success_outlives_runs_that_fail_or_do_nothing() {
    let sandbox = Sandbox::new();
    let labels = labels(ESCAPED);
    let run = |options: &[&str], script: &str| {
        let flags = ["run", "--metrics-file", "m.prom", "-q"];
        let rest = [NAME, "-c", script];
        let code = sandbox.run(&[&flags[..], options, &rest].concat()).code;
        (code, read(&sandbox, &labels).unwrap())
    };
    let (code, failed) = run(&[], "exit 3");
    assert_eq!((code, failed["exit_code"]), (Some(3), 3.0));
    assert_eq!(outcome(&failed), "exited");
    assert!(!failed.contains_key("last_success_timestamp_seconds"));

    let (code, success) = run(&[], "sleep 0.05");
    assert_eq!((code, success["exit_code"]), (Some(0), 0.0));
    let token = sandbox.run(&["run", NAME, "-c", "echo $TENURE_TOKEN"]);
    let next: f64 = token.stdout.trim().parse().unwrap();
    assert!(success["fencing_token"] > failed["fencing_token"]);
    assert!(success["fencing_token"] < next);
    assert!(success["hold_seconds"] >= 0.05);
    assert!(success["wait_seconds"] >= 0.0);
    let end = success["end_timestamp_seconds"];
    assert_eq!(success["last_success_timestamp_seconds"], end);
    assert!(success["start_timestamp_seconds"] <= success["acquired_timestamp_seconds"]);
    assert!(success["acquired_timestamp_seconds"] <= end);
    for (name, value) in [("held", 0.0), ("waiting", 0.0), ("lost", 0.0)] {
        assert_eq!(success[name], value, "{name}");
    }
    assert!(!success.contains_key("lease_expiry_timestamp_seconds"));
    assert_promtool_accepts(&sandbox);

    let (_, failed) = run(&[], "kill -KILL $$");
    assert_eq!(outcome(&failed), "signaled");
    assert_eq!(failed["last_success_timestamp_seconds"], end);

    let holder = sandbox.spawn_run(&[], NAME, "echo up > up; exec sleep 1000");
    sandbox.line("up");
    let (code, busy) = run(&["-n", "-E", "0"], "true");
    assert_eq!((code, outcome(&busy)), (Some(0), "busy"));
    assert_eq!(busy["last_success_timestamp_seconds"], end);
    assert!(!busy.contains_key("fencing_token") && !busy.contains_key("hold_seconds"));
    assert_promtool_accepts(&sandbox);
    drop(holder);

    // The success of another lock is not this one's.
    let other = sandbox.run(&["run", "--metrics-file", "m.prom", "x", "-c", "exit 1"]);
    assert_eq!(other.code, Some(1));
    let series = read(&sandbox, &self::labels("x")).unwrap();
    assert!(!series.contains_key("last_success_timestamp_seconds"));
    let names = fs::read_dir(sandbox.path(".")).unwrap();
    let mut left: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "locks");
    left.sort();
    assert_eq!(left, ["m.prom", "up"], "a temporary file is left");
}

#[test]
fn running_command_is_shown_as_waiting_then_held() {
    let sandbox = Sandbox::new();
    let labels = labels("x");
    let holder = sandbox.spawn_run(
        &[],
        "x",
        "echo up > up; while [ ! -e go ]; do sleep 0.02; done",
    );
    sandbox.line("up");
    let script = "while [ ! -e end ]; do sleep 0.02; done";
    let flags = [
        "--metrics-file",
        "m.prom",
        "-q",
        "--ttl",
        "3s",
        "--kill-after",
        "0s",
    ];
    let run = sandbox.spawn_run(&flags, "x", script);
    let waiting = wait_for(&sandbox, &labels, "waiting", 1.0);
    assert_eq!((waiting["held"], waiting["lost"]), (0.0, 0.0));
    assert!(!waiting.contains_key("wait_seconds") && !waiting.contains_key("exit_code"));
    assert_promtool_accepts(&sandbox);
    write(&sandbox.path("go"), "");
    let held = wait_for(&sandbox, &labels, "held", 1.0);
    let expiry = |series: &Series| series["lease_expiry_timestamp_seconds"];
    assert_eq!(held["waiting"], 0.0);
    assert!(expiry(&held) > held["acquired_timestamp_seconds"]);
    assert!(!held.contains_key("exit_code") && !held.contains_key("end_timestamp_seconds"));
    assert_promtool_accepts(&sandbox);
    // Renewals move the end of the lease.
    wait_until("a later end of the lease", || {
        expiry(&read(&sandbox, &labels).unwrap()) > expiry(&held) + 1.0
    });
    write(&sandbox.path("end"), "");
    run.finish().assert_succeeded();
    holder.finish().assert_succeeded();
    let ended = read(&sandbox, &labels).unwrap();
    assert_eq!((ended["held"], ended["exit_code"]), (0.0, 0.0));
}

#[test]
fn l1_loss_is_shown_while_the_command_runs_on() {
    let sandbox = Sandbox::new();
    let labels = labels("x");
    let flags = ["--metrics-file", "m.prom", "--on-lost", "ignore"];
    let run = sandbox.spawn_run(
        &flags,
        "x",
        "echo up > up; while [ ! -e go ]; do sleep 0.02; done",
    );
    sandbox.line("up");
    let token = sandbox.token("x").unwrap().to_string();
    sandbox
        .run(&["break", "x", "--token", &token, "--reason", "test"])
        .assert_succeeded();
    let lost = wait_for(&sandbox, &labels, "lost", 1.0);
    assert_eq!(lost["held"], 0.0);
    assert!(!lost.contains_key("lease_expiry_timestamp_seconds"));
    write(&sandbox.path("go"), "");
    assert_eq!(run.finish().code, Some(0));
    let ended = read(&sandbox, &labels).unwrap();
    assert_eq!((outcome(&ended), ended["exit_code"]), ("lost", 0.0));
    assert!(!ended.contains_key("last_success_timestamp_seconds"));
}

#[test]
fn unwritable_file_is_refused_at_the_start_and_a_warning_at_the_end() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&[
            "run",
            "--metrics-file",
            "no/m.prom",
            "x",
            "--",
            "touch",
            "ran",
        ])
        .assert_failed(64, &["the metrics file", "no/m.prom"]);
    assert!(sandbox.read("ran").is_none());
    fs::create_dir(sandbox.path("dir")).unwrap();
    // The next write is due in some seconds.
    let script = "until grep '^tenure_run_held.* 1$' dir/m.prom >/dev/null 2>&1; do sleep 0.02; done; \
                  rm -r dir; exit 5";
    sandbox
        .run(&["run", "--metrics-file", "dir/m.prom", "x", "-c", script])
        .assert_failed(
            5,
            &["the metrics file", "dir/m.prom", "could not be written"],
        );
}

/// The text of a page of the documentation.
fn page(name: &str) -> String {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::read_to_string(docs.join(name)).unwrap()
}

/// Returns the names of series in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|character: char| !character.is_ascii_lowercase() && character != '_')
        .filter(|word| word.starts_with("tenure_run_"))
        .collect()
}

#[test]
fn pages_name_all_gauges_and_their_alerts_are_valid() {
    let sandbox = Sandbox::new();
    let script = "until grep '^tenure_run_held.* 1$' m.prom; do sleep 0.02; done; cat m.prom";
    let run = sandbox.run(&["run", "--metrics-file", "m.prom", "x", "-c", script]);
    let ended = sandbox.read("m.prom").unwrap();
    let mut written = names(&run.assert_succeeded().stdout);
    written.extend(names(&ended));
    assert_eq!(names(&page("cli.md")), written);

    let operations = page("operations.md");
    let (_, alerts) = operations.split_once("```promql\n").unwrap();
    let (alerts, _) = alerts.split_once("```").unwrap();
    let unknown: Vec<_> = names(alerts).difference(&written).copied().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let expressions = alerts.lines().filter(|line| !line.starts_with('#'));
    let mut rules = "groups:\n- name: tenure\n  rules:\n".to_owned();
    for expression in expressions {
        rules.push_str(&format!("  - alert: A\n    expr: '{expression}'\n"));
    }
    write(&sandbox.path("rules.yml"), &rules);
    let mut promtool = std::process::Command::new("promtool");
    promtool
        .args(["check", "rules"])
        .arg(sandbox.path("rules.yml"));
    if let Ok(output) = promtool.output() {
        assert!(output.status.success(), "{output:?}");
    }
}
