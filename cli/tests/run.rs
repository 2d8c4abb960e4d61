//! `tenure run`: exit codes, options, what the command finds.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may"
)]

mod common;

use std::{io::Write, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use common::{Place, Running, done, now, until, write};

#[test]
fn exit_code_is_that_of_the_command() {
    let place = Place::new();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        let done = place.run(&["run", "x", "-c", script]);
        assert_eq!(done.code, Some(code), "{script}: {done:?}");
        assert_eq!(done.stderr, "", "{script}");
    }
}

#[test]
fn command_that_cannot_start_is_126_or_127() {
    let place = Place::new();
    place
        .run(&["run", "x", "--", "no-such-command"])
        .failed(127, &["no-such-command", "not found"]);
    write(&place.path("plain"), "text");
    place
        .run(&["run", "x", "--", "./plain"])
        .failed(126, &["./plain", "not executable"]);
    write(&place.path("odd"), "\u{1}\u{2}");
    std::fs::set_permissions(place.path("odd"), PermissionsExt::from_mode(0o755)).unwrap();
    place
        .run(&["run", "x", "--", "./odd"])
        .failed(126, &["./odd"]);
    // The lock is free again at once.
    place.run(&["run", "-n", "x", "--", "true"]).succeeded();
}

#[test]
fn taken_lock_is_75_or_the_requested_code() {
    let place = Place::new();
    let holder = place.hold(
        &["--label", "the\u{1b}[2J holder"],
        "x",
        "echo up > up; exec sleep 1000",
    );
    place.line("up");
    place
        .run(&["run", "-n", "x", "--", "true"])
        .failed(75, &["\"x\"", "the\\u{1b}[2J holder", "pid"]);
    place
        .run(&["run", "-n", "-E", "7", "x", "--", "true"])
        .failed(7, &["held by"]);
    let quiet = place.run(&["run", "-n", "-q", "x", "--", "true"]);
    assert_eq!((quiet.code, &*quiet.stderr), (Some(75), ""));
    let fine = place.run(&["run", "-n", "-E", "0", "x", "--", "touch", "ran"]);
    assert_eq!(fine.code, Some(0));
    assert!(place.read("ran").is_none());

    let begin = now();
    let late = place.run(&["run", "-w", "300ms", "x", "--", "true"]);
    assert!(now().since(begin) >= Duration::from_millis(300));
    assert_eq!(late.code, Some(75));
    let lines: Vec<_> = late.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("tenure: waiting for \"x\", held by"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("tenure: gave up waiting for \"x\" after 300ms"),
        "{lines:?}"
    );
    drop(holder);
}

#[test]
fn w1_run_waits_for_its_turn_and_names_the_holder() {
    let place = Place::new();
    let holder = place.hold(
        &["--label", "first"],
        "x",
        "echo up > up; while [ ! -e go ]; do sleep 0.02; done",
    );
    place.line("up");
    let next = place.hold(&[], "x", "cat up; echo $TENURE_TOKEN > second");
    until("a waiter", || place.waiting("x") == 1);
    let first = place.token("x").unwrap();
    write(&place.path("go"), "");
    let next = next.finish();
    next.succeeded();
    assert_eq!(next.stdout, "up\n");
    assert!(
        next.stderr
            .starts_with("tenure: waiting for \"x\", held by \"first\" (pid "),
        "{next:?}"
    );
    // Since it was granted, or, where the store does not tell that, since it was asked for.
    let since = [" since 2", " which asked for it at 2"];
    assert!(
        since.iter().any(|since| next.stderr.contains(since)),
        "{next:?}"
    );
    let second: u64 = place.line("second").parse().unwrap();
    assert!(second > first);
    holder.finish().succeeded();
}

#[test]
fn command_receives_its_grant_in_the_environment_and_its_stdin() {
    let place = Place::new();
    let mut command = place.tenure(&[
        "run", "a b", "--label", "me", "--ttl", "40s", "-c", "cat; env",
    ]);
    for name in [
        "TENURE_NAME",
        "TENURE_TOKEN",
        "TENURE_OWNER",
        "TENURE_BACKEND",
        "TENURE_TTL_MS",
    ] {
        command.env(name, "inherited");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"from stdin\n")
        .unwrap();
    let done = done(child.wait_with_output().unwrap());
    done.succeeded();
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[0], "from stdin");
    for line in [
        "TENURE_NAME=a b".to_owned(),
        "TENURE_TTL_MS=40000".to_owned(),
        format!("TENURE_BACKEND={}", place.url()),
    ] {
        assert!(lines.contains(&&*line), "{line} is not in {lines:?}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("TENURE_OWNER=me@")),
        "{lines:?}"
    );
    let token = lines
        .iter()
        .find_map(|line| line.strip_prefix("TENURE_TOKEN="))
        .unwrap();
    assert!(token.parse::<u64>().unwrap() > 0);
    assert!(!done.stdout.contains("inherited"));
}

#[test]
fn command_inherits_no_descriptors_of_the_supervisor() {
    // No descriptor but the three, no blocked and no ignored signal.
    let place = Place::new();
    let script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let plain = std::process::Command::new("env")
        .args(["--default-signal=HUP,INT,QUIT", "sh", "-c", script])
        .output()
        .unwrap();
    let under = place.run(&["run", "x", "-c", script]);
    assert_eq!(
        under.succeeded().stdout,
        String::from_utf8_lossy(&plain.stdout)
    );
}

#[test]
fn nested_run_of_the_same_lock_is_refused() {
    let place = Place::new();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let inner = |outer: &str, inner: &str| {
        let script = format!("{tenure} run {inner} -- true");
        place.run(&["run", outer, "-c", &script])
    };
    inner("x", "x").failed(64, &["\"x\"", "already"]);
    inner("x", "y").succeeded();
    // Two levels deep.
    let script = format!("{tenure} run y -- {tenure} run x -- true");
    place
        .run(&["run", "x", "-c", &script])
        .failed(64, &["\"x\""]);
    // Another store, another namespace, and a variable that outlived its run, are no such case.
    let other = Place::new();
    let script = format!(
        "{tenure} --url {} run x -- true && {tenure} --namespace n run x -- true",
        other.url()
    );
    place.run(&["run", "x", "-c", &script]).succeeded();
    let saved = place.run(&["run", "x", "-c", "echo $TENURE_HELD"]).stdout;
    let done = done(
        place
            .tenure(&["run", "x", "--", "true"])
            .env("TENURE_HELD", saved.trim())
            .output()
            .unwrap(),
    );
    done.succeeded();
}

#[test]
fn n1_invalid_names_are_refused_before_any_effect() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    place.run(&["run", "", "--", "true"]).failed(64, &["empty"]);
    place
        .run(&["run", &"x".repeat(513), "--", "true"])
        .failed(64, &["513"]);
    place
        .run(&["run", &"x".repeat(512), "--", "true"])
        .succeeded();
    let mut command = place.tenure(&["status"]);
    command.arg(std::ffi::OsStr::from_bytes(b"ab\xff"));
    done(command.output().unwrap()).failed(64, &["UTF-8", "offset 2"]);
    let other = Place::new();
    other.run(&["run", "", "--", "true"]).failed(64, &[]);
    assert!(!other.path("locks").exists());
}

#[test]
fn durations_that_do_not_fit_are_refused_with_the_arithmetic() {
    let place = Place::new();
    place
        .run(&["run", "x", "--kill-after", "6s", "--", "true"])
        .failed(64, &["30s", "--kill-after (6s)", "two thirds", "20s"]);
    place
        .run(&["run", "x", "--ttl", "10s", "--", "true"])
        .failed(64, &["--kill-after (5s)"]);
    place
        .run(&["run", "x", "--ttl", "0s", "--", "true"])
        .failed(78, &["lock.ttl"]);
    place
        .run(&[
            "run",
            "x",
            "--ttl",
            "1ms",
            "--kill-after",
            "0s",
            "--",
            "true",
        ])
        .failed(64, &["TTL"]);
    place
        .run(&["run", "x", "--ttl", "5 parsecs", "--", "true"])
        .failed(64, &["--ttl", "5 parsecs", "30s"]);
    place
        .run(&["run", "x", "-E", "256", "--", "true"])
        .failed(64, &["256"]);
    place
        .run(&["run", "x", "--lost-exit-code", "-1", "--", "true"])
        .failed(64, &["-1"]);
    place.run(&["run", "x"]).failed(64, &["COMMAND"]);
    place
        .run(&["run", "x", "true"])
        .failed(64, &["true", "after `--`"]);
    place
        .run(&["run", "-n", "-w", "1s", "x", "--", "true"])
        .failed(64, &["cannot be used with"]);
    write(&place.path("a.toml"), "[lock]\nttl = \"10s\"\n");
    place
        .run(&["--config", "a.toml", "run", "x", "--", "true"])
        .failed(78, &["--kill-after (5s)"]);
}

#[test]
fn status_file_describes_the_run() {
    let place = Place::new();
    let read =
        || -> serde_json::Value { serde_json::from_str(&place.read("s.json").unwrap()).unwrap() };
    let flag = ["run", "--status-file", "s.json", "x"];
    let with = |rest: &[&str]| place.run(&[&flag[..], rest].concat());

    assert_eq!(with(&["-c", "sleep 0.05; exit 4"]).code, Some(4));
    let record = read();
    assert_eq!(record["schema"], "tenure.run/1");
    assert_eq!(record["outcome"], "exited");
    assert_eq!(
        (
            &record["acquired"],
            &record["child_code"],
            &record["release"]
        ),
        (&true.into(), &4.into(), &"released".into())
    );
    assert!(record["token"].as_u64().unwrap() > 0 && record["held_ms"].as_u64().unwrap() >= 50);

    with(&["--", "no-such-command"]);
    assert_eq!(
        (&read()["outcome"], &read()["exit_code"]),
        (&"not_started".into(), &127.into())
    );
    with(&["-c", "kill -KILL $$"]);
    assert_eq!(
        (&read()["outcome"], &read()["child_signal"]),
        (&"signaled".into(), &9.into())
    );

    let holder = place.hold(&[], "x", "echo up > up; exec sleep 1000");
    place.line("up");
    let busy = place.run(&["run", "-n", "--status-file", "s.json", "x", "--", "true"]);
    assert_eq!(busy.code, Some(75));
    assert_eq!(
        (&read()["outcome"], &read()["acquired"]),
        (&"busy".into(), &false.into())
    );
    drop(holder);
    // Nothing else is left beside it.
    let names = std::fs::read_dir(place.path(".")).unwrap();
    let mut left: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "locks");
    left.sort();
    assert_eq!(left, ["s.json", "up"]);
    place
        .run(&["run", "--status-file", "no/such/s.json", "x", "--", "true"])
        .failed(64, &["no/such"]);
    place
        .run(&["run", "--status-file", ".", "x", "--", "true"])
        .failed(64, &["directory"]);
}

#[test]
fn x1_different_names_run_concurrently() {
    let place = Place::new();
    let holder = place.hold(&[], "a", "echo up > up; exec sleep 1000");
    place.line("up");
    place.run(&["run", "-n", "a/b", "--", "true"]).succeeded();
    place.run(&["run", "-n", "A", "--", "true"]).succeeded();
    drop(holder);
}

#[test]
fn release_wakes_the_next_waiter_at_once_despite_a_long_ttl() {
    let place = Place::new();
    let first = place.hold(&["--ttl", "10m"], "x", "echo up > up; sleep 0.3");
    place.line("up");
    let begin = now();
    let next = Running::start(place.tenure(&["run", "--ttl", "10m", "-q", "x", "--", "true"]));
    next.finish().succeeded();
    assert!(now().since(begin) < Duration::from_secs(10));
    first.finish().succeeded();
}

#[test]
fn stopped_reader_of_stderr_delays_nothing() {
    let place = Place::new();
    let holder = place.hold(&[], "x", "touch up; exec sleep 1000");
    until("the holder", || place.path("up").exists());
    // A pipe that is full, as that of a reader that was stopped.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![0; 65_536]).unwrap();
    let mut command = place.tenure(&["-vv", "run", "x", "--", "touch", "ran"]);
    command.stderr(Stdio::from(writer));
    let mut waiter = command.spawn().unwrap();
    until("a waiter", || place.waiting("x") == 1);
    holder.signal(nix::sys::signal::Signal::SIGTERM);
    until("the command", || place.path("ran").exists());
    until("the end", || waiter.try_wait().unwrap().is_some());
    assert_eq!(waiter.wait().unwrap().code(), Some(0));
}

#[test]
fn overlong_durations_are_refused_with_the_arithmetic() {
    let place = Place::new();
    let ages = "18446744073709551615s";
    place
        .run(&["run", "--kill-after", ages, "x", "--", "true"])
        .failed(64, &["cannot hold --kill-after"]);
    let done = place.run(&["run", "--ttl", ages, "x", "--", "true"]);
    assert!(matches!(done.code, Some(64 | 78)), "{done:?}");
}

#[test]
fn status_file_keeps_devices_and_links_in_place() {
    let place = Place::new();
    write(&place.path("target"), "");
    std::os::unix::fs::symlink("target", place.path("link")).unwrap();
    let link = place.path("link");
    let link = link.to_str().unwrap();
    place
        .run(&["run", "--status-file", link, "x", "--", "true"])
        .succeeded();
    assert!(place.path("link").is_symlink());
    assert!(place.read("target").unwrap().contains("tenure.run/1"));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = place.tenure(&["run", "--status-file", "/dev/stdout", "x", "--", "true"]);
    command.stdout(Stdio::from(writer));
    assert!(command.status().unwrap().success());
    drop(command);
    let text = std::io::read_to_string(reader).unwrap();
    assert!(text.contains("tenure.run/1"), "{text}");
}

#[test]
fn store_of_one_process_is_refused() {
    let place = Place::new();
    let mut command = place.tenure(&["--url", "memory:", "run", "x", "--", "true"]);
    command.env_remove("TENURE__BACKEND__OPTIONS__TICK");
    done(command.output().unwrap()).failed(78, &["memory:", "file:DIRECTORY"]);
}
