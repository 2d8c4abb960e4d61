//! `tenure conformance`: exit codes, reports, remaining entries, and secrets.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tenure_test_servers::redis::Server;

use crate::support::{Sandbox, finished, unconfigured, wait_until};

/// A filter that selects one case, which needs other processes.
const PROCESS_CASE: &str = "processes_never_overlap";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn cases_run_on_the_configured_store_and_all_reports_are_written() {
    let sandbox = Sandbox::new();
    let names = ["a.json", "a.xml", "a.html", "a.md", "a.txt"];
    let mut arguments = vec![
        "conformance",
        "--filter",
        PROCESS_CASE,
        "--stress",
        "1s",
        "--namespace",
        "mine",
    ];
    arguments.extend(names.iter().flat_map(|name| ["--report", *name]));
    let run = sandbox.run(&arguments);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout.contains("1 passed, 0 failed, 0 ignored"),
        "{run:?}"
    );
    for name in names {
        let text = std::fs::read_to_string(sandbox.path(name)).unwrap();
        assert!(text.contains(PROCESS_CASE), "{name}: {text}");
    }
    let report = json(&std::fs::read_to_string(sandbox.path("a.json")).unwrap());
    assert_eq!(report["schema"], "tenure.conformance/1");
    assert_eq!(
        report["cases"][0]["verdict"], "passed",
        "workers are other processes"
    );
    assert!(
        report["stress"]["history"]["grants"]
            .as_array()
            .unwrap()
            .len()
            > 5,
        "{report}"
    );
    assert_eq!(report["left"], json("[]"));
    assert!(sandbox.lock_dirs().is_empty(), "{:?}", sandbox.lock_dirs());
    let again = sandbox.run(&[
        "conformance",
        "--from",
        "a.json",
        "--report",
        "b.html",
        "--output",
        "json",
    ]);
    assert_eq!((again.code, json(&again.stdout)), (Some(0), report));
    assert!(sandbox.path("b.html").exists());
}

#[test]
fn store_of_one_process_shows_the_cases_that_do_not_apply() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&[
        "conformance",
        "--url",
        "memory:",
        "--filter",
        "::",
        "--list",
    ]);
    assert!(
        run.code == Some(0) && run.stdout.lines().count() > 50,
        "{run:?}"
    );
    let arguments = [
        "conformance",
        "--url",
        "memory:",
        "--filter",
        "exclusion::",
        "--stress",
        "0s",
    ];
    let run = sandbox.run(&arguments);
    assert!(
        run.code == Some(0) && run.stdout.contains("no other process can reach this store"),
        "{run:?}"
    );
    let strict = sandbox.run(&[&arguments[..], &["--strict", "--output", "json"]].concat());
    assert_eq!(strict.code, Some(1), "{strict:?}");
    let report = json(&strict.stdout);
    let failed: Vec<&Value> = (report["cases"].as_array().unwrap().iter())
        .filter(|case| case["verdict"] == "failed")
        .collect();
    assert_eq!(failed.len(), 2, "{report}");
    assert!(report["stress"].is_null());
}

#[test]
fn bad_usage_and_an_unreachable_store_have_separate_exit_codes() {
    let sandbox = Sandbox::new();
    for (arguments, code, text) in [
        (&["--report", "a.pdf"][..], 64, ".html"),
        (&["--filter", "no such case"], 64, "--list"),
        (&["--jobs", "0"], 64, "--jobs"),
        (&["--from", "nowhere.json"], 74, "nowhere.json"),
        (&["--from", "nowhere.json", "--strict"], 64, "--strict"),
        (&["--url", "redis://127.0.0.1:1"], 69, "127.0.0.1:1"),
        (&["--url", "nonsense:"], 78, "nonsense"),
        (
            &[
                "--url",
                "memory:",
                "--filter",
                "names::",
                "--stress",
                "0s",
                "--report",
                "no/such/a.json",
            ],
            74,
            "a.json",
        ),
    ] {
        let run = sandbox.run(&[&["conformance"][..], arguments].concat());
        assert!(
            run.code == Some(code) && run.stderr.contains(text),
            "{arguments:?}: {run:?}"
        );
    }
    std::fs::write(sandbox.path("other.json"), "{\"schema\": \"tenure.run/1\"}").unwrap();
    let run = sandbox.run(&["conformance", "--from", "other.json"]);
    assert!(
        run.code == Some(64) && run.stderr.contains("tenure.run/1"),
        "{run:?}"
    );
}

#[test]
fn s1_password_reaches_the_workers_and_no_report_and_no_key_stays() {
    let sandbox = Sandbox::new();
    let server = Server::builder()
        .acl_user("locker", "canary-0f3e", "~* &* +@all")
        .start()
        .unwrap();
    std::fs::write(sandbox.path("secret"), "canary-0f3e\n").unwrap();
    let file = format!(
        "[backend]\nurl = \"{}\"\nusername = \"locker\"\npassword_file = \"{}\"\n",
        server.url(),
        sandbox.path("secret").display()
    );
    std::fs::write(sandbox.path("a.toml"), file).unwrap();
    for (filter, passed) in [("secrets::", 1), (PROCESS_CASE, 1)] {
        let mut command = unconfigured();
        command.current_dir(sandbox.path("."));
        command.args([
            "conformance",
            "--config",
            "a.toml",
            "--stress",
            "0s",
            "--output",
            "json",
        ]);
        command.args([
            "--filter", filter, "--report", "a.html", "--report", "a.xml",
        ]);
        let run = finished(command.output().unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
        let report = json(&run.stdout);
        let verdicts = report["cases"].as_array().unwrap().iter();
        assert_eq!(
            verdicts.filter(|case| case["verdict"] == "passed").count(),
            passed,
            "{report}"
        );
        let written =
            ["a.html", "a.xml"].map(|name| std::fs::read_to_string(sandbox.path(name)).unwrap());
        for text in written.iter().chain([&run.stdout, &run.stderr]) {
            assert!(!text.contains("canary-0f3e"), "{text}");
        }
    }
    for command in ["doctor", "bench"] {
        let mut run = unconfigured();
        run.current_dir(sandbox.path("."));
        run.args(["--config", "a.toml", command]);
        if command == "bench" {
            run.args(["--for", "50ms", "--tasks", "2", "--waiters", "2"]);
        }
        finished(run.output().unwrap()).assert_succeeded();
    }
    let keys = server.text(&["KEYS", "*"]).unwrap();
    let kept = keys.lines().filter(|key| !key.contains(":fenced:"));
    assert_eq!(kept.count(), 0, "{keys}");
}

#[test]
fn interrupt_ends_the_suite_after_the_running_cases() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tenure(&[
        "conformance",
        "--jobs",
        "1",
        "--output",
        "json",
        "--url",
        "memory:",
    ]);
    let child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    // Before the process catches the signal, the signal would kill it.
    wait_until("a handler of INT", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << (Signal::SIGINT as i32 - 1)) != 0)
    });
    kill(pid, Signal::SIGINT).unwrap();
    let run = finished(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{run:?}");
    let report = json(&run.stdout);
    assert!(report["cases"].as_array().unwrap().len() < 10, "{report}");
}
