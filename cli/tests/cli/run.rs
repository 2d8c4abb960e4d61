//! `tenure run`: exit codes, options, and the environment of the command.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::Duration,
};

use crate::support::{Running, Sandbox, finished, now, wait_until, write};

#[test]
fn exit_code_is_that_of_the_command() {
    let sandbox = Sandbox::new();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        let run = sandbox.run(&["run", "x", "-c", script]);
        assert_eq!(run.code, Some(code), "{script}: {run:?}");
        assert_eq!(run.stderr, "", "{script}");
    }
}

#[test]
fn command_that_cannot_start_is_126_or_127() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["run", "x", "--", "no-such-command"])
        .assert_failed(127, &["no-such-command", "not found"]);
    write(&sandbox.path("plain"), "text");
    sandbox
        .run(&["run", "x", "--", "./plain"])
        .assert_failed(126, &["./plain", "not executable"]);
    sandbox
        .run(&["run", "x", "--", "/"])
        .assert_failed(126, &["not executable"]);
    // The lock is free again at once.
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_succeeded();
}

#[test]
fn script_without_an_interpreter_line_runs_as_under_env() {
    let sandbox = Sandbox::new();
    let executable = |name: &str, text: &str| {
        // A separate process writes the file. If this process had it open for writing, children of
        // other tests could inherit the descriptor, and the file could not be executed.
        let mut command = std::process::Command::new("sh");
        command.args([
            "-c",
            "printf %s \"$2\" > \"$1\" && chmod 755 ./\"$1\"",
            "sh",
            name,
            text,
        ]);
        let written = command.current_dir(sandbox.path(".")).status();
        assert!(written.unwrap().success());
    };
    std::fs::create_dir(sandbox.path("bin")).unwrap();
    let script = "echo \"$0 $#: $1\"; cat; exit 5";
    executable("bin/script", script);
    executable("-script", script);
    executable("bin/empty", "");
    executable("bin/odd", "\u{1}\u{2}");
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    for command in [
        &["bin/script", "one two", "-n"][..],
        &["script", "one two"],
        &["./-script"],
        &["empty"],
        &["odd"],
    ] {
        let run = |mut program: std::process::Command| {
            let input = std::fs::File::open(sandbox.path("bin/script")).unwrap();
            program.args(command).env("PATH", &path).stdin(input);
            finished(program.current_dir(sandbox.path(".")).output().unwrap())
        };
        let plain = run(std::process::Command::new("env"));
        let under = run(sandbox.tenure(&["run", "x", "--"]));
        assert_eq!(under.code, plain.code, "{command:?}: {under:?}");
        assert_eq!(under.stdout, plain.stdout, "{command:?}");
    }
}

#[test]
fn lock_name_that_begins_with_a_hyphen_stands_after_two_hyphens() {
    let sandbox = Sandbox::new();
    let name = "-n";
    let run = sandbox.run(&[
        "run",
        "-q",
        "--",
        name,
        "--",
        "sh",
        "-c",
        "printf \"%s %s\\n\" $TENURE_NAME $1",
        "sh",
        "--",
    ]);
    assert_eq!(run.assert_succeeded().stdout, "-n --\n");
    let run = sandbox.run(&["run", "-c", "printf \"%s\\n\" $TENURE_NAME", "--", name]);
    assert_eq!(run.assert_succeeded().stdout, "-n\n");
    // After a name, everything after the first `--` belongs to the command.
    let run = sandbox.run(&["run", "x", "--", "echo", "-a", "--", "b"]);
    assert_eq!(run.assert_succeeded().stdout, "-a -- b\n");
    let run = sandbox.run(&["run", "--", "x", "--", "echo", "--", "b"]);
    assert_eq!(run.assert_succeeded().stdout, "-- b\n");

    let mut holder = sandbox.tenure(&["run", "--", name, "--", "sh", "-c"]);
    holder.arg("echo up > up; exec sleep 1000");
    let holder = Running::start(holder);
    sandbox.line("up");
    let shown = sandbox.run(&["status", "--", name]);
    assert!(
        shown.assert_succeeded().stdout.contains("held by"),
        "{shown:?}"
    );
    let shown = sandbox.run(&["ls", "--", "-"]);
    assert!(
        shown.assert_succeeded().stdout.contains("\"-n\""),
        "{shown:?}"
    );
    let mut watch = sandbox.tenure(&["--output", "json", "watch", "--", name]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = String::new();
    BufReader::new(watch.stdout.take().unwrap())
        .read_line(&mut shown)
        .unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    let state: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(state["name"], name);
    let token = state["holder"]["token"].to_string();
    sandbox
        .run(&["break", "--token", &token, "--reason", "r", "--", name])
        .assert_succeeded();
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn usage_error_says_where_the_name_and_the_command_stand() {
    let sandbox = Sandbox::new();
    let usage = "tenure run [OPTIONS] [--] NAME -- COMMAND";
    for (arguments, word) in [
        (&["run"][..], "NAME is missing"),
        (&["run", "--"], "NAME is missing"),
        (&["run", "x"], "COMMAND is missing"),
        (&["run", "x", "--"], "COMMAND is missing"),
        (&["run", "--", "x"], "COMMAND is missing"),
        (&["run", "--", "x", "--"], "COMMAND is missing"),
        (&["run", "--", "x", "true"], "`--` after it, is missing"),
        (&["run", "-c", "true", "x", "--", "true"], "--shell"),
        (&["run", "-c", "true", "--", "x", "--", "true"], "--shell"),
    ] {
        sandbox.run(arguments).assert_failed(64, &[word, usage]);
    }
    sandbox
        .run(&["run", "--wiat", "5s", "x", "--", "true"])
        .assert_failed(
            64,
            &["similar argument exists: '--wait'; see `tenure run --help`"],
        );
    for arguments in [
        &["run", "-name", "--", "true"][..],
        &["run", "--xyzzy", "--", "true"],
        &["status", "-name"],
        &["watch", "-name"],
        &["break", "-name", "--token", "1", "--reason", "r"],
        &["ls", "-name"],
    ] {
        let wanted = "put `--` before a lock name that begins with `-`";
        sandbox.run(arguments).assert_failed(64, &[wanted]);
    }
    assert!(!sandbox.path("locks").exists());
}

#[test]
fn ttl_that_does_not_hold_kill_after_is_refused_with_values_that_are_accepted() {
    let sandbox = Sandbox::new();
    let run = |options: &[&str]| {
        let run = ["run"].iter().chain(options).chain(&["x", "--", "true"]);
        sandbox.run(&run.copied().collect::<Vec<_>>())
    };
    let remedy = "use --ttl 29s or more, or --kill-after 3s or less";
    run(&["--ttl", "20s"]).assert_failed(64, &["20s (flag --ttl)", remedy]);
    run(&["--ttl", "29s"]).assert_succeeded();
    run(&["--ttl", "28s"]).assert_failed(64, &[remedy.split_once(',').unwrap().0]);
    run(&["--ttl", "20s", "--kill-after", "3s"]).assert_succeeded();
    run(&["--ttl", "20s", "--kill-after", "4s"]).assert_failed(64, &["--kill-after 3s or less"]);
    let mut fixed = sandbox.tenure(&["run", "--ttl", "20s", "x", "--", "true"]);
    fixed.env("TENURE__CLIENT__REQUEST_TIMEOUT", "8s");
    finished(fixed.output().unwrap()).assert_failed(64, &["use --ttl 41s or more"]);
}

#[test]
fn taken_lock_is_75_or_the_requested_code() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(
        &["--label", "the\u{1b}[2J holder"],
        "x",
        "echo up > up; exec sleep 1000",
    );
    sandbox.line("up");
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_failed(75, &["\"x\"", "the\\u{1b}[2J holder", "pid"]);
    sandbox
        .run(&["run", "-n", "-E", "7", "x", "--", "true"])
        .assert_failed(7, &["held by"]);
    let quiet = sandbox.run(&["run", "-n", "-q", "x", "--", "true"]);
    assert_eq!((quiet.code, &*quiet.stderr), (Some(75), ""));
    let fine = sandbox.run(&["run", "-n", "-E", "0", "x", "--", "touch", "ran"]);
    assert_eq!(fine.code, Some(0));
    assert!(sandbox.read("ran").is_none());

    let begin = now();
    let late = sandbox.run(&["run", "-w", "300ms", "x", "--", "true"]);
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
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(
        &["--label", "first"],
        "x",
        "echo up > up; while [ ! -e go ]; do sleep 0.02; done",
    );
    sandbox.line("up");
    let next = sandbox.spawn_run(&[], "x", "cat up; echo $TENURE_TOKEN > second");
    wait_until("a waiter", || sandbox.waiting("x") == 1);
    let first = sandbox.token("x").unwrap();
    write(&sandbox.path("go"), "");
    let next = next.finish();
    next.assert_succeeded();
    assert_eq!(next.stdout, "up\n");
    assert!(
        next.stderr
            .starts_with("tenure: waiting for \"x\", held by \"first\" (pid "),
        "{next:?}"
    );
    // The time of the grant; a store that does not know it shows the time of the request.
    let since = [" since 2", " which asked for it at 2"];
    assert!(
        since.iter().any(|since| next.stderr.contains(since)),
        "{next:?}"
    );
    let second: u64 = sandbox.line("second").parse().unwrap();
    assert!(second > first);
    holder.finish().assert_succeeded();
}

#[test]
fn command_receives_its_grant_in_the_environment_and_its_stdin() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tenure(&[
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
    let run = finished(child.wait_with_output().unwrap());
    run.assert_succeeded();
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[0], "from stdin");
    for line in [
        "TENURE_NAME=a b".to_owned(),
        "TENURE_TTL_MS=40000".to_owned(),
        format!("TENURE_BACKEND={}", sandbox.url()),
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
    assert!(!run.stdout.contains("inherited"));
}

#[test]
fn command_inherits_no_descriptors_of_the_supervisor() {
    // The command has three descriptors, no blocked signal and no ignored signal.
    let sandbox = Sandbox::new();
    let script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let plain = std::process::Command::new("env")
        .args(["--default-signal=HUP,INT,QUIT", "sh", "-c", script])
        .output()
        .unwrap();
    let under = sandbox.run(&["run", "x", "-c", script]);
    assert_eq!(
        under.assert_succeeded().stdout,
        String::from_utf8_lossy(&plain.stdout)
    );
}

#[test]
fn nested_run_of_the_same_lock_is_refused() {
    let sandbox = Sandbox::new();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let inner = |outer: &str, inner: &str| {
        let script = format!("{tenure} run {inner} -- true");
        sandbox.run(&["run", outer, "-c", &script])
    };
    inner("x", "x").assert_failed(64, &["\"x\"", "already"]);
    inner("x", "y").assert_succeeded();
    // It would not wait.
    inner("x", "-n x").assert_failed(75, &["\"x\" is held by"]);
    // Two levels deep.
    let script = format!("{tenure} run y -- {tenure} run x -- true");
    sandbox
        .run(&["run", "x", "-c", &script])
        .assert_failed(64, &["\"x\""]);
    // Another store, another namespace, and a variable that outlived its run, are no such case.
    let other = Sandbox::new();
    let script = format!(
        "{tenure} --url {} run x -- true && {tenure} --namespace n run x -- true",
        other.url()
    );
    sandbox.run(&["run", "x", "-c", &script]).assert_succeeded();
    let saved = sandbox.run(&["run", "x", "-c", "echo $TENURE_HELD"]).stdout;
    let run = finished(
        sandbox
            .tenure(&["run", "x", "--", "true"])
            .env("TENURE_HELD", saved.trim())
            .output()
            .unwrap(),
    );
    run.assert_succeeded();
}

#[test]
fn n1_invalid_names_are_refused_before_any_effect() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    sandbox
        .run(&["run", "", "--", "true"])
        .assert_failed(64, &["empty"]);
    sandbox
        .run(&["run", &"x".repeat(513), "--", "true"])
        .assert_failed(64, &["513"]);
    sandbox
        .run(&["run", &"x".repeat(512), "--", "true"])
        .assert_succeeded();
    let mut command = sandbox.tenure(&["status"]);
    command.arg(std::ffi::OsStr::from_bytes(b"ab\xff"));
    finished(command.output().unwrap()).assert_failed(64, &["UTF-8", "offset 2"]);
    let other = Sandbox::new();
    other.run(&["run", "", "--", "true"]).assert_failed(64, &[]);
    assert!(!other.path("locks").exists());
}

#[test]
fn durations_that_do_not_fit_are_refused_with_the_arithmetic() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["run", "x", "--kill-after", "6s", "--", "true"])
        .assert_failed(64, &["30s", "--kill-after (6s)", "two thirds", "20s"]);
    sandbox
        .run(&["run", "x", "--ttl", "10s", "--", "true"])
        .assert_failed(64, &["--kill-after (5s)"]);
    sandbox
        .run(&["run", "x", "--ttl", "0s", "--", "true"])
        .assert_failed(78, &["lock.ttl"]);
    sandbox
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
        .assert_failed(64, &["TTL"]);
    sandbox
        .run(&["run", "x", "--ttl", "5 parsecs", "--", "true"])
        .assert_failed(64, &["--ttl", "5 parsecs", "30s"]);
    sandbox
        .run(&["run", "x", "-E", "256", "--", "true"])
        .assert_failed(64, &["256"]);
    sandbox
        .run(&["run", "x", "--lost-exit-code", "-1", "--", "true"])
        .assert_failed(64, &["-1"]);
    sandbox.run(&["run", "x"]).assert_failed(64, &["COMMAND"]);
    sandbox
        .run(&["run", "x", "true"])
        .assert_failed(64, &["true", "after `--`"]);
    sandbox
        .run(&["run", "-n", "-w", "1s", "x", "--", "true"])
        .assert_failed(64, &["cannot be used with"]);
    write(&sandbox.path("a.toml"), "[lock]\nttl = \"10s\"\n");
    sandbox
        .run(&["--config", "a.toml", "run", "x", "--", "true"])
        .assert_failed(78, &["--kill-after (5s)"]);
}

#[test]
fn status_file_describes_the_run() {
    let sandbox = Sandbox::new();
    let read =
        || -> serde_json::Value { serde_json::from_str(&sandbox.read("s.json").unwrap()).unwrap() };
    let flag = ["run", "--status-file", "s.json", "x"];
    let with = |rest: &[&str]| sandbox.run(&[&flag[..], rest].concat());

    assert_eq!(with(&["-c", "sleep 0.05; exit 4"]).code, Some(4));
    let status = read();
    assert_eq!(status["schema"], "tenure.run/1");
    assert_eq!(status["outcome"], "exited");
    assert_eq!(
        (
            &status["acquired"],
            &status["child_code"],
            &status["release"]
        ),
        (&true.into(), &4.into(), &"released".into())
    );
    assert!(status["token"].as_u64().unwrap() > 0 && status["held_ms"].as_u64().unwrap() >= 50);

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

    let holder = sandbox.spawn_run(&[], "x", "echo up > up; exec sleep 1000");
    sandbox.line("up");
    let busy = sandbox.run(&["run", "-n", "--status-file", "s.json", "x", "--", "true"]);
    assert_eq!(busy.code, Some(75));
    assert_eq!(
        (&read()["outcome"], &read()["acquired"]),
        (&"busy".into(), &false.into())
    );
    drop(holder);
    // No other file remains beside it.
    let names = std::fs::read_dir(sandbox.path(".")).unwrap();
    let mut left: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "locks");
    left.sort();
    assert_eq!(left, ["s.json", "up"]);
    sandbox
        .run(&["run", "--status-file", "no/such/s.json", "x", "--", "true"])
        .assert_failed(64, &["no/such"]);
    sandbox
        .run(&["run", "--status-file", ".", "x", "--", "true"])
        .assert_failed(64, &["directory"]);
}

#[test]
fn x1_different_names_run_concurrently() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "a", "echo up > up; exec sleep 1000");
    sandbox.line("up");
    sandbox
        .run(&["run", "-n", "a/b", "--", "true"])
        .assert_succeeded();
    sandbox
        .run(&["run", "-n", "A", "--", "true"])
        .assert_succeeded();
    drop(holder);
}

#[test]
fn release_wakes_the_next_waiter_at_once_despite_a_long_ttl() {
    let sandbox = Sandbox::new();
    let first = sandbox.spawn_run(&["--ttl", "10m"], "x", "echo up > up; sleep 0.3");
    sandbox.line("up");
    let begin = now();
    let next = Running::start(sandbox.tenure(&["run", "--ttl", "10m", "-q", "x", "--", "true"]));
    next.finish().assert_succeeded();
    assert!(now().since(begin) < Duration::from_secs(10));
    first.finish().assert_succeeded();
}

#[test]
fn stopped_reader_of_stderr_delays_nothing() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "x", "touch up; exec sleep 1000");
    wait_until("the holder", || sandbox.path("up").exists());
    // A full pipe, like the pipe of a stopped reader.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![0; 65_536]).unwrap();
    let mut command = sandbox.tenure(&["-vv", "run", "x", "--", "touch", "ran"]);
    command.stderr(Stdio::from(writer));
    let mut waiter = command.spawn().unwrap();
    wait_until("a waiter", || sandbox.waiting("x") == 1);
    holder.signal(nix::sys::signal::Signal::SIGTERM);
    wait_until("the command", || sandbox.path("ran").exists());
    wait_until("the end", || waiter.try_wait().unwrap().is_some());
    assert_eq!(waiter.wait().unwrap().code(), Some(0));
}

#[test]
fn overlong_durations_are_refused_with_the_arithmetic() {
    let sandbox = Sandbox::new();
    let forever = "18446744073709551615s";
    sandbox
        .run(&["run", "--kill-after", forever, "x", "--", "true"])
        .assert_failed(64, &["cannot hold --kill-after"]);
    let run = sandbox.run(&["run", "--ttl", forever, "x", "--", "true"]);
    assert!(matches!(run.code, Some(64 | 78)), "{run:?}");
}

#[test]
fn status_file_keeps_devices_and_links_in_place() {
    let sandbox = Sandbox::new();
    write(&sandbox.path("target"), "");
    std::os::unix::fs::symlink("target", sandbox.path("link")).unwrap();
    let link = sandbox.path("link");
    let link = link.to_str().unwrap();
    sandbox
        .run(&["run", "--status-file", link, "x", "--", "true"])
        .assert_succeeded();
    assert!(sandbox.path("link").is_symlink());
    assert!(sandbox.read("target").unwrap().contains("tenure.run/1"));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = sandbox.tenure(&["run", "--status-file", "/dev/stdout", "x", "--", "true"]);
    command.stdout(Stdio::from(writer));
    assert!(command.status().unwrap().success());
    drop(command);
    let text = std::io::read_to_string(reader).unwrap();
    assert!(text.contains("tenure.run/1"), "{text}");
}

#[test]
fn store_of_one_process_is_refused() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tenure(&["--url", "memory:", "run", "x", "--", "true"]);
    command.env_remove("TENURE__BACKEND__OPTIONS__TICK");
    finished(command.output().unwrap()).assert_failed(78, &["memory:", "file:DIRECTORY"]);
}
