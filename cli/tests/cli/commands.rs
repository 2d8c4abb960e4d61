//! All commands except `run`, `config` and `conformance`: their text, their JSON, and a closed stdout.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{Sandbox, finished, unconfigured, wait_until, write};

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn i1_status_shows_holder_and_queue_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let free = sandbox.run(&["status", "x"]);
    let shown = free.assert_succeeded().stdout.clone();
    assert_eq!(
        shown,
        format!(
            "\"x\"  free\nin namespace \"default\" of {}\n",
            sandbox.url()
        )
    );
    // Reading creates nothing in the store (I1).
    assert!(!sandbox.path("locks").exists());
    assert_eq!(sandbox.status("x")["holder"], Value::Null);

    let holder = sandbox.spawn_run(
        &["--label", "first"],
        "x",
        "echo $TENURE_TOKEN > up; exec sleep 1000",
    );
    let token = sandbox.line("up");
    let waiter = sandbox.spawn_run(&["-q", "--label", "second\u{1b}[31m"], "x", "true");
    wait_until("a waiter", || sandbox.waiting("x") == 1);
    let state = sandbox.status("x");
    assert_eq!(state["schema"], "tenure.status/1");
    assert_eq!(state["name"], "x");
    assert_eq!(state["namespace"], "default");
    assert_eq!(state["holder"]["label"], "first");
    assert_eq!(state["holder"]["pid"], holder.pid().as_raw());
    assert_eq!(
        state["holder"]["token"].as_u64().unwrap().to_string(),
        token
    );
    assert_eq!(state["holder"]["ttl_ms"], 30_000);
    assert_eq!(state["queue"][0]["label"], "second\u{1b}[31m");
    assert_eq!(state["queue"][0]["pid"], waiter.pid().as_raw());
    let shown = sandbox.run(&["status", "x"]).stdout;
    assert!(
        shown.contains("held by \"first\"") && shown.contains("1. waiting: \"second\\u{1b}[31m\""),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'));
    assert_eq!(sandbox.waiting("x"), 1);
    drop((holder, waiter));
}

#[test]
fn n2_ls_returns_names_as_they_were_given() {
    let sandbox = Sandbox::new();
    let names = ["a/b", "a b%", "größe 🔒", "a\nb"];
    let held: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let held = sandbox.spawn_run(&[], name, &format!("echo up > up{at}; exec sleep 1000"));
            sandbox.line(&format!("up{at}"));
            held
        })
        .collect();
    let listed = lines(
        &sandbox
            .run(&["--output", "json", "ls"])
            .assert_succeeded()
            .stdout,
    );
    let mut found: Vec<_> = listed
        .iter()
        .map(|line| line["name"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    let mut wanted = names;
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert!(listed.iter().all(|line| line["schema"] == "tenure.ls/1"));
    let text = sandbox.run(&["ls"]).stdout;
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("\"a\\nb\""), "{text}");
    assert_eq!(sandbox.run(&["ls", "a/"]).stdout.lines().count(), 1);
    let elsewhere = sandbox.run(&["--namespace", "other", "ls"]);
    assert_eq!(elsewhere.stdout, "");
    let printed = &elsewhere.stderr;
    assert!(
        printed.contains("no locks in namespace \"other\" of "),
        "{printed:?}"
    );
    let none = sandbox.run(&["ls", "zzz"]);
    let wanted = "tenure: no locks whose names begin with \"zzz\" in namespace ";
    assert!(none.stderr.starts_with(wanted), "{none:?}");
    drop(held);
}

#[test]
fn i2_break_evicts_only_the_grant_with_the_token() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "x", "echo up > up; exec sleep 1000");
    sandbox.line("up");
    let token = sandbox.token("x").unwrap();
    let wrong = (token + 1).to_string();
    sandbox
        .run(&["break", "x", "--token", &wrong, "--reason", "r"])
        .assert_failed(75, &["no grant", &wrong, "held by"]);
    sandbox
        .run(&["break", "free", "--token", "1", "--reason", "r"])
        .assert_failed(75, &["free"]);
    let token = token.to_string();
    let shown = sandbox.run(&[
        "--output", "json", "break", "x", "--token", &token, "--reason", "r",
    ]);
    let value: Value = serde_json::from_str(&shown.assert_succeeded().stdout).unwrap();
    assert_eq!(
        (&value["schema"], &value["broken"]),
        (&"tenure.break/1".into(), &true.into())
    );
    assert_eq!(holder.finish().code, Some(79));
    sandbox
        .run(&["break", "x", "--token", &token])
        .assert_failed(64, &["--reason"]);
}

#[test]
fn watch_shows_each_change_until_it_is_interrupted() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tenure(&["--output", "json", "watch", "x", "--every", "50ms"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&output.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["holder"], Value::Null);
    let holder = sandbox.spawn_run(
        &["--label", "me"],
        "x",
        "while [ ! -e go ]; do sleep 0.02; done",
    );
    let held = next();
    assert_eq!(
        (&held["schema"], &held["holder"]["label"]),
        (&"tenure.watch/1".into(), &"me".into())
    );
    write(&sandbox.path("go"), "");
    assert_eq!(next()["holder"], Value::Null);
    holder.finish().assert_succeeded();
    kill(
        nix::unistd::Pid::from_raw(watch.id().cast_signed()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130));
}

#[test]
fn backends_completions_man_and_help_write_their_output() {
    let shown = finished(unconfigured().arg("backends").output().unwrap());
    assert!(
        shown.assert_succeeded().stdout.contains("file") && shown.stdout.contains("memory"),
        "{shown:?}"
    );
    let json = finished(
        unconfigured()
            .args(["--output", "json", "backends"])
            .output()
            .unwrap(),
    );
    assert!(
        lines(&json.stdout)
            .iter()
            .all(|line| line["schema"] == "tenure.backends/1")
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = finished(
            unconfigured()
                .args(["completions", shell])
                .output()
                .unwrap(),
        );
        assert!(
            script.assert_succeeded().stdout.contains("tenure"),
            "{shell}"
        );
    }
    let page = finished(unconfigured().arg("man").output().unwrap());
    assert!(
        page.assert_succeeded().stdout.contains(".TH tenure"),
        "{page:?}"
    );
    let page = finished(unconfigured().args(["man", "run"]).output().unwrap());
    assert!(
        page.assert_succeeded().stdout.contains("status\\-file"),
        "{page:?}"
    );
    finished(unconfigured().args(["man", "rum"]).output().unwrap())
        .assert_failed(64, &["rum", "run"]);
    for arguments in [&["--help"][..], &["run", "--help"]] {
        let help = finished(unconfigured().args(arguments).output().unwrap());
        assert!(
            help.assert_succeeded().stdout.contains("Examples:"),
            "{help:?}"
        );
        assert!(help.stdout.contains("79"), "{help:?}");
    }
    finished(
        unconfigured()
            .args(["run", "x", "--fooo"])
            .output()
            .unwrap(),
    )
    .assert_failed(64, &["--fooo"]);
    finished(unconfigured().output().unwrap()).assert_failed(64, &["subcommand"]);
}

#[test]
fn closed_stdout_ends_a_command_quietly() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["status", "x"][..],
        &["config", "show"],
        &["--help"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = sandbox.tenure(arguments);
        command.stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let run = finished(output);
        assert_eq!((run.code, run.stderr.as_str()), (Some(141), ""), "{run:?}");
    }
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = sandbox.tenure(&["status", "x"]);
    command.stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    finished(output).assert_failed(74, &["No space"]);
    // A run with a closed stderr still runs and keeps the exit code.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.tenure(&["run", "x", "--", "no-such-command"]);
    assert_eq!(command.stderr(writer).status().unwrap().code(), Some(127));
}

#[test]
fn doctor_checks_the_store_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["run", "mine", "--", "true"])
        .assert_succeeded();
    let before = sandbox.lock_dirs();
    let run = sandbox.run(&["doctor"]);
    let shown = &run.assert_succeeded().stdout;
    for step in [
        "reach", "take", "renew", "inspect", "wait", "break", "release", "leaves",
    ] {
        assert!(
            shown.contains(&format!("ok       {step} ")),
            "{step}: {shown}"
        );
    }
    assert!(
        shown.contains("exclusive, shared, and with permits"),
        "{shown}"
    );
    assert_eq!(sandbox.lock_dirs(), before, "{shown}");
    let run = sandbox.run(&["--output", "json", "doctor"]);
    let report = lines(&run.assert_succeeded().stdout);
    assert_eq!(report[0]["schema"], "tenure.doctor/1");
    assert_eq!(report[0]["ok"], true);
}

#[test]
fn doctor_reports_a_wrong_configuration() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("a.toml"), "[lock]\nttl = \"soon\"\n").unwrap();
    let arguments = ["--config", "a.toml", "doctor"];
    let run = sandbox.run(&arguments);
    run.assert_failed(78, &["lock.ttl"]);
    assert!(run.stdout.starts_with("FAILED   configuration "), "{run:?}");
    let run = sandbox.run(&[&["--output", "json"][..], &arguments].concat());
    run.assert_failed(78, &["lock.ttl"]);
    let report = lines(&run.stdout);
    assert_eq!(
        (&report[0]["ok"], &report[0]["store"]),
        (&false.into(), &Value::Null)
    );
    assert_eq!(report[0]["rows"][0]["what"], "configuration");
}

/// The path begins at the configuration file.
#[test]
fn doctor_warns_of_a_password_file_that_others_may_read() {
    let sandbox = Sandbox::new();
    let (file, password) = (sandbox.path("app.toml"), sandbox.path("pw"));
    std::fs::write(&password, "secret\n").unwrap();
    let text = "[backend]\nurl = \"redis://127.0.0.1:1\"\npassword_file = \"pw\"\n";
    std::fs::write(&file, text).unwrap();
    for (mode, warns) in [(0o644, true), (0o660, true), (0o640, false), (0o600, false)] {
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut doctor = unconfigured();
        doctor.arg("--config").arg(&file).arg("doctor");
        let run = finished(doctor.output().unwrap());
        run.assert_failed(69, &["nothing listens"]);
        assert_eq!(
            run.stdout.contains("warning  password file"),
            warns,
            "{run:?}"
        );
    }
}

#[test]
fn doctor_names_the_failed_step_and_exits_with_its_code() {
    let sandbox = Sandbox::new();
    for (arguments, code, step, word) in [
        (
            &["--url", "redis://127.0.0.1:1", "doctor"][..],
            69,
            "reach",
            "nothing listens",
        ),
        (
            &["--url", "file:/proc/none", "doctor"],
            69,
            "reach",
            "/proc/none",
        ),
    ] {
        // Not the store of the tests, which may have options of its own.
        let run = finished(unconfigured().args(arguments).output().unwrap());
        run.assert_failed(code, &[word]);
        assert!(run.stdout.contains(&format!("FAILED   {step} ")), "{run:?}");
    }
    let mut slow = sandbox.tenure(&["doctor"]);
    slow.env("TENURE__LOCK__TTL", "3s");
    let slow = finished(slow.output().unwrap());
    assert!(slow.stdout.contains("warning  configuration"), "{slow:?}");
}

#[test]
fn bench_uses_a_separate_namespace_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let options = ["--for", "50ms", "--tasks", "2", "--waiters", "3"];
    let arguments = [&["--output", "json", "bench"][..], &options].concat();
    let shown = sandbox.run(&arguments);
    let view: Value = serde_json::from_str(&shown.assert_succeeded().stdout).unwrap();
    assert_eq!(view["schema"], "tenure.bench/1");
    let namespace = view["namespace"].as_str().unwrap();
    assert!(namespace.starts_with("bench-"), "{namespace}");
    assert!(view["uncontended_us"]["count"].as_u64().unwrap() > 0);
    let micros = |of: &Value, what: &str| of[what].as_f64().unwrap();
    assert!(micros(&view["uncontended_us"], "p99") >= micros(&view["uncontended_us"], "median"));
    assert!(view["independent"]["pairs_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(view["contended"]["waiters"], 3);
    // Each of the three waiters acquired the lock at least once.
    assert!(view["contended"]["hand_over_us"]["count"].as_u64().unwrap() >= 2);
    for namespace in [namespace, "default"] {
        let listed = sandbox.run(&["--namespace", namespace, "ls"]);
        assert_eq!(listed.assert_succeeded().stdout, "", "{namespace}");
    }
    let text = sandbox.run(&[&["bench"][..], &options].concat());
    assert!(text.assert_succeeded().stdout.contains("3 waiters"));
    assert_eq!(sandbox.lock_dirs(), [""; 0].map(std::path::PathBuf::from));
    let wrong = sandbox.run(&["bench", "--tasks", "0"]);
    assert_eq!(wrong.code, Some(64));
}

#[test]
fn error_about_an_unreachable_store_names_the_lock() {
    for arguments in [
        &["run", "nightly", "--", "true"][..],
        &["status", "nightly"],
        &["watch", "nightly"],
        &["break", "nightly", "--token", "7", "--reason", "test"],
    ] {
        let mut command = unconfigured();
        command
            .args(["--url", "redis://127.0.0.1:1"])
            .args(arguments);
        finished(command.output().unwrap()).assert_failed(
            69,
            &[
                "\"nightly\"",
                "connecting to redis",
                "nothing listens",
                "start the server",
            ],
        );
    }
}
