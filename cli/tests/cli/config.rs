//! Bad configuration and unusable stores: one clear message, and the right exit code.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
};

use tenure::file::FileStore;

use crate::support::{Sandbox, copied_command, finished, is_root, unconfigured, write};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

#[test]
fn error_about_an_unknown_scheme_lists_the_known_ones() {
    let sandbox = Sandbox::new();
    let scheme = |url: &str| sandbox.run(&["--url", url, "status", "x"]);
    scheme("nosuchthing:x").assert_failed(78, &["`nosuchthing`", "`file`", "`memory`"]);
    scheme("fiel:/x").assert_failed(78, &["did you mean `file`?"]);
    scheme("zk://h").assert_failed(78, &["did you mean `zookeeper`?"]);
    for address in ["127.0.0.1:6379", "localhost:6379"] {
        let wanted = format!("the address has no scheme; write `redis://{address}`");
        scheme(address).assert_failed(78, &[&wanted]);
    }
    for address in ["redis:", "etcd:", "zookeeper:"] {
        scheme(address).assert_failed(78, &["the address names no server; its form is"]);
    }
    for address in ["redis:localhost:6379", "etcd:h:1", "zookeeper:h"] {
        scheme(address).assert_failed(78, &["the address lacks `//` after"]);
    }
    scheme("").assert_failed(78, &["backend.url", "flag --url"]);
    scheme("file:relative").assert_failed(78, &["absolute"]);
    scheme("file://host/x").assert_failed(78, &["no servers"]);
}

#[test]
fn s1_errors_do_not_repeat_possible_secrets() {
    let sandbox = Sandbox::new();
    for url in [
        "redis://u:canary@h/",
        "file:/x?canary=1",
        "redis://u:canary",
    ] {
        let shown = sandbox.run(&["--url", url, "status", "x"]);
        shown.assert_failed(78, &["backend.url"]);
        assert!(!shown.stderr.contains("canary"), "{shown:?}");
    }
    write(&sandbox.path("a.toml"), "[backend]\npassword = \"canary\nx");
    let shown = sandbox.run(&["--config", "a.toml", "status", "x"]);
    shown.assert_failed(78, &["a.toml", "not TOML", "line 3"]);
    assert!(!shown.stderr.contains("canary"), "{shown:?}");

    write(&sandbox.path("pw"), "canary\n");
    write(
        &sandbox.path("b.toml"),
        "[backend]\npassword_file = \"pw\"\n[backend.options]\nsecret_thing = \"canary\"\n",
    );
    for format in ["text", "json"] {
        let shown = sandbox.run(&["--config", "b.toml", "--output", format, "config", "show"]);
        assert!(
            !shown.assert_succeeded().stdout.contains("canary"),
            "{shown:?}"
        );
        assert!(shown.stdout.contains("[redacted]"), "{shown:?}");
    }
    let mut command = sandbox.tenure(&["config", "show"]);
    let shown = finished(
        command
            .env("TENURE__BACKEND__PASSWORD", "canary")
            .output()
            .unwrap(),
    );
    assert!(!shown.assert_succeeded().stdout.contains("canary"));
    assert!(
        shown.stdout.contains("variable TENURE__BACKEND__PASSWORD"),
        "{shown:?}"
    );
}

#[test]
fn unusable_configuration_file_is_refused() {
    let sandbox = Sandbox::new();
    let with = |file: &str| sandbox.run(&["--config", file, "status", "x"]);
    let absolute = sandbox.path("no.toml").display().to_string();
    with("no.toml").assert_failed(78, &[&absolute, "does not exist"]);
    with(".").assert_failed(78, &["is a directory"]);
    write(&sandbox.path("bad.toml"), "this is not toml");
    with("bad.toml").assert_failed(78, &["bad.toml", "not TOML", "line 1"]);
    std::fs::write(sandbox.path("latin.toml"), b"x = \"\xff\"").unwrap();
    with("latin.toml").assert_failed(78, &["latin.toml", "UTF-8"]);
    write(&sandbox.path("key.toml"), "[lock]\ntll = \"5s\"\n");
    with("key.toml").assert_failed(78, &["\"lock.tll\"", "key.toml", "`lock.ttl`"]);
    write(&sandbox.path("time.toml"), "[lock]\nttl = \"5 parsecs\"\n");
    with("time.toml").assert_failed(78, &["`lock.ttl`", "time.toml", "5 parsecs", "\"30s\""]);
    write(
        &sandbox.path("option.toml"),
        "[backend.options]\nshare = true\n",
    );
    with("option.toml").assert_failed(78, &["\"share\"", "option.toml", "`shared`"]);
    write(
        &sandbox.path("require.toml"),
        "[require]\ndurability = \"consensus\"\n",
    );
    with("require.toml").assert_failed(78, &["consensus", "local"]);
}

#[test]
fn unreadable_configuration_file_is_refused() {
    let sandbox = Sandbox::new();
    write(&sandbox.path("a.toml"), "");
    std::fs::set_permissions(sandbox.path("a.toml"), PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(sandbox.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = sandbox.tenure(&["--config", "a.toml", "status", "x"]);
    if is_root() {
        command = copied_command(&sandbox, &["--config", "a.toml", "status", "x"]);
        command.uid(NOBODY).gid(NOBODY);
    }
    finished(command.output().unwrap()).assert_failed(78, &["a.toml", "permission denied"]);
}

#[test]
fn unknown_variable_is_refused_where_a_lock_is_taken_and_a_warning_elsewhere() {
    let sandbox = Sandbox::new();
    let with = |name: &str, arguments: &[&str]| {
        let mut command = sandbox.tenure(arguments);
        finished(command.env(name, "redis://h").output().unwrap())
    };
    for name in ["TENURE__BACKEND__ULR", "TENURE_BACKEND_URL"] {
        let words = [name, "did you mean `TENURE__BACKEND__URL`?"];
        for arguments in [
            &["run", "x", "--", "touch", "ran"][..],
            &["doctor"],
            &["conformance"],
            &["bench"],
            &["break", "x", "--token", "1", "--reason", "r"],
        ] {
            with(name, arguments).assert_failed(78, &words);
        }
        for arguments in [
            &["status", "x"][..],
            &["ls"],
            &["config", "show"],
            &["config", "check"],
        ] {
            let shown = with(name, arguments);
            let warnings: Vec<_> = shown.assert_succeeded().stderr.lines().collect();
            assert!(warnings[0].starts_with("tenure: warning: "), "{shown:?}");
            assert!(
                words.iter().all(|word| warnings[0].contains(word)),
                "{shown:?}"
            );
        }
        let check = with(name, &["config", "check"]);
        assert!(
            check.stdout.contains("`tenure run` refuses it") && check.stdout.contains(name),
            "{check:?}"
        );
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn url_that_reaches_another_kind_of_server_says_so() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Answers as a web server does. The thread ends with the process.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut connection = connection;
            let _ = connection.read(&mut [0; 16]);
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for (scheme, words) in [
        ("redis", "does not speak the Redis protocol"),
        ("etcd", "answers as etcd does"),
        ("zookeeper", "does not speak the ZooKeeper protocol"),
    ] {
        let url = format!("{scheme}://{address}");
        let run = sandbox.run(&["--url", &url, "run", "x", "--", "true"]);
        run.assert_failed(69, &[&address.to_string(), words]);
    }
}

#[test]
fn show_names_the_directory_and_the_password_file_in_use() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("etc")).unwrap();
    std::fs::write(sandbox.path("etc/pw"), "secret\n").unwrap();
    let etc = std::fs::canonicalize(sandbox.path("etc")).unwrap();
    let default_root = FileStore::default_root();
    for (backend, key, shown) in [
        (
            "url = \"file:\"",
            "store",
            format!("file:{}", default_root.display()),
        ),
        (
            "url = \"redis://h\"\npassword_file = \"pw\"",
            "password_file",
            format!("{}/pw", etc.display()),
        ),
    ] {
        std::fs::write(
            sandbox.path("etc/app.toml"),
            format!("[backend]\n{backend}\n"),
        )
        .unwrap();
        let show = |format: &str| {
            let mut command = unconfigured();
            command.current_dir(sandbox.path("."));
            command.args([
                "--config",
                "etc/app.toml",
                "--output",
                format,
                "config",
                "show",
            ]);
            finished(command.output().unwrap())
                .assert_succeeded()
                .stdout
                .clone()
        };
        let view: serde_json::Value = serde_json::from_str(&show("json")).unwrap();
        assert_eq!(view[key], shown);
        let line = format!("# the {}: {shown}\n", key.replace('_', " "));
        assert!(show("text").contains(&line), "{line}");
    }
}

#[test]
fn run_inside_a_run_accepts_the_variables_of_the_outer_one() {
    let sandbox = Sandbox::new();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    sandbox
        .run(&["run", "x", "--", tenure, "run", "y", "--", "true"])
        .assert_succeeded();
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
    let sandbox = Sandbox::new();
    write(
        &sandbox.path("a.toml"),
        "[lock]\nttl = \"11s\"\nwait = \"1s\"\nlabel = \"007\"\n",
    );
    let show = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = sandbox.tenure(&["--config", "a.toml"]);
        command.args(arguments);
        if let Some(ttl) = variable {
            command.env("TENURE__LOCK__TTL", ttl);
        }
        finished(command.output().unwrap())
            .assert_succeeded()
            .stdout
            .clone()
    };
    let from_file = show(None, &["config", "show"]);
    assert!(
        from_file.contains("lock.ttl = \"11s\"") && from_file.contains("# a.toml"),
        "{from_file}"
    );
    assert!(from_file.contains("lock.label = \"007\""), "{from_file}");
    let from_variable = show(Some("12s"), &["config", "show"]);
    assert!(
        from_variable.contains("\"12s\"") && from_variable.contains("variable TENURE__LOCK__TTL")
    );
    let environment = [
        "run",
        "x",
        "--kill-after",
        "1s",
        "-c",
        "echo $TENURE_TTL_MS $TENURE_OWNER",
    ];
    let shown = show(Some("12s"), &environment);
    assert!(shown.starts_with("12000 007@"), "{shown}");
    let flags = [
        "run",
        "x",
        "--ttl",
        "13s",
        "--kill-after",
        "1s",
        "-c",
        "echo $TENURE_TTL_MS",
    ];
    assert_eq!(show(Some("12s"), &flags), "13000\n");
}

#[test]
fn check_reports_whether_the_configuration_is_valid() {
    let sandbox = Sandbox::new();
    let shown = sandbox.run(&["config", "check"]);
    assert!(
        shown.assert_succeeded().stdout.contains("valid"),
        "{shown:?}"
    );
    assert!(
        !sandbox.path("locks").exists(),
        "the store is not contacted"
    );
    let json = sandbox.run(&["--output", "json", "config", "check"]);
    let value: serde_json::Value = serde_json::from_str(&json.assert_succeeded().stdout).unwrap();
    assert_eq!(
        (&value["schema"], &value["ok"]),
        (&"tenure.config-check/1".into(), &true.into())
    );
    sandbox
        .run(&["--url", "fiel:", "config", "check"])
        .assert_failed(78, &["file"]);
}

#[test]
fn foreign_or_read_only_directory_is_refused() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("open")).unwrap();
    std::fs::set_permissions(sandbox.path("open"), PermissionsExt::from_mode(0o777)).unwrap();
    let url = format!("file:{}", sandbox.path("open").display());
    sandbox
        .run(&["--url", &url, "run", "x", "--", "true"])
        .assert_failed(77, &["open", "chmod"]);
    write(&sandbox.path("plain"), "");
    let url = format!("file:{}", sandbox.path("plain").display());
    sandbox
        .run(&["--url", &url, "run", "x", "--", "true"])
        .assert_failed(78, &["not a directory"]);
    if !is_root() {
        return;
    }
    // The superuser may inspect the store of another user, but not lock in it.
    std::fs::create_dir(sandbox.path("theirs")).unwrap();
    std::fs::set_permissions(sandbox.path("theirs"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(sandbox.path("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let url = format!("file:{}", sandbox.path("theirs").display());
    sandbox
        .run(&["--url", &url, "run", "x", "--", "true"])
        .assert_failed(77, &["theirs", "run this as that user"]);
    sandbox
        .run(&["--url", &url, "status", "x"])
        .assert_succeeded();
    assert_eq!(
        std::fs::read_dir(sandbox.path("theirs")).unwrap().count(),
        0
    );
    std::fs::set_permissions(sandbox.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.run(&["run", "x", "--", "true"]).assert_succeeded();
    let mut command = copied_command(&sandbox, &["run", "x", "--", "true"]);
    command.uid(NOBODY).gid(NOBODY);
    finished(command.output().unwrap()).assert_failed(77, &["locks"]);
    let mut command = copied_command(
        &sandbox,
        &[
            "--url",
            &format!("file:{}", sandbox.path("new").display()),
            "run",
            "x",
            "--",
            "true",
        ],
    );
    command.uid(NOBODY).gid(NOBODY);
    finished(command.output().unwrap()).assert_failed(77, &["new"]);
}

#[test]
fn s2_corrupted_state_file_is_named_and_is_not_a_free_lock() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "x", "--", "true"]).assert_succeeded();
    let mut truncated = 0;
    truncate_states(&sandbox.path("locks"), &mut truncated);
    assert!(truncated > 0);
    sandbox
        .run(&["run", "x", "--", "touch", "ran"])
        .assert_failed(69, &["corrupt", "locks"]);
    sandbox
        .run(&["status", "x"])
        .assert_failed(69, &["corrupt", "locks"]);
    // It does not hide the other locks.
    let listed = sandbox.run(&["ls"]);
    listed.assert_succeeded();
    assert!(
        listed.stdout.starts_with("\"x\"  cannot be read: "),
        "{}",
        listed.stdout
    );
    assert!(sandbox.read("ran").is_none());
}

/// Truncates every state below the directory to half its length: the targets of links, and plain files.
fn truncate_states(dir: &std::path::Path, truncated: &mut usize) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            truncate_states(&entry.path(), truncated);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            let target = target.to_str().unwrap();
            std::fs::remove_file(entry.path()).unwrap();
            std::os::unix::fs::symlink(&target[..target.len() / 2], entry.path()).unwrap();
            *truncated += 1;
        } else if kind.is_file() && entry.metadata().unwrap().len() > 1 {
            let text = std::fs::read(entry.path()).unwrap();
            std::fs::write(entry.path(), &text[..text.len() / 2]).unwrap();
            *truncated += 1;
        }
    }
}

#[test]
fn default_store_depends_only_on_the_user() {
    // A cron job and a shell of the same user use the same store, whatever their environment.
    let shown = finished(unconfigured().args(["config", "check"]).output().unwrap());
    let plain = finished(
        unconfigured()
            .env_clear()
            .args(["config", "check"])
            .output()
            .unwrap(),
    );
    let uid = nix::unistd::geteuid();
    assert!(
        shown
            .stdout
            .contains(&format!("file:/var/tmp/tenure-{uid}")),
        "{shown:?}"
    );
    assert_eq!(shown.stdout, plain.stdout);
}
