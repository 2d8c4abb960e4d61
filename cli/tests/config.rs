//! Bad configuration and bad places: one clear line, and the right exit code.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may"
)]

mod common;

use std::os::unix::{fs::PermissionsExt, process::CommandExt};

use common::{Place, bare, done, write};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn error_about_an_unknown_scheme_lists_the_known_ones() {
    let place = Place::new();
    let scheme = |url: &str| place.run(&["--url", url, "status", "x"]);
    scheme("nosuchthing:x").failed(78, &["`nosuchthing`", "`file`", "`memory`"]);
    scheme("fiel:/x").failed(78, &["did you mean `file`?"]);
    scheme("").failed(78, &["backend.url", "flag --url"]);
    scheme("file:relative").failed(78, &["absolute"]);
    scheme("file://host/x").failed(78, &["no servers"]);
}

#[test]
fn s1_errors_do_not_repeat_possible_secrets() {
    let place = Place::new();
    for url in [
        "redis://u:canary@h/",
        "file:/x?canary=1",
        "redis://u:canary",
    ] {
        let shown = place.run(&["--url", url, "status", "x"]);
        shown.failed(78, &["backend.url"]);
        assert!(!shown.stderr.contains("canary"), "{shown:?}");
    }
    write(&place.path("a.toml"), "[backend]\npassword = \"canary\nx");
    let shown = place.run(&["--config", "a.toml", "status", "x"]);
    shown.failed(78, &["a.toml", "not TOML", "line 3"]);
    assert!(!shown.stderr.contains("canary"), "{shown:?}");

    write(&place.path("pw"), "canary\n");
    write(
        &place.path("b.toml"),
        "[backend]\npassword_file = \"pw\"\n[backend.options]\nsecret_thing = \"canary\"\n",
    );
    for format in ["text", "json"] {
        let shown = place.run(&["--config", "b.toml", "--output", format, "config", "show"]);
        assert!(!shown.succeeded().stdout.contains("canary"), "{shown:?}");
        assert!(shown.stdout.contains("[redacted]"), "{shown:?}");
    }
    let mut command = place.tenure(&["config", "show"]);
    let shown = done(
        command
            .env("TENURE__BACKEND__PASSWORD", "canary")
            .output()
            .unwrap(),
    );
    assert!(!shown.succeeded().stdout.contains("canary"));
    assert!(
        shown.stdout.contains("variable TENURE__BACKEND__PASSWORD"),
        "{shown:?}"
    );
}

#[test]
fn unusable_configuration_file_is_refused() {
    let place = Place::new();
    let with = |file: &str| place.run(&["--config", file, "status", "x"]);
    with("no.toml").failed(78, &["no.toml", "does not exist"]);
    with(".").failed(78, &["is a directory"]);
    write(&place.path("bad.toml"), "this is not toml");
    with("bad.toml").failed(78, &["bad.toml", "not TOML", "line 1"]);
    std::fs::write(place.path("latin.toml"), b"x = \"\xff\"").unwrap();
    with("latin.toml").failed(78, &["latin.toml", "UTF-8"]);
    write(&place.path("key.toml"), "[lock]\ntll = \"5s\"\n");
    with("key.toml").failed(78, &["\"lock.tll\"", "key.toml", "`lock.ttl`"]);
    write(&place.path("time.toml"), "[lock]\nttl = \"5 parsecs\"\n");
    with("time.toml").failed(78, &["`lock.ttl`", "time.toml", "5 parsecs", "\"30s\""]);
    write(
        &place.path("option.toml"),
        "[backend.options]\nshare = true\n",
    );
    with("option.toml").failed(78, &["\"share\"", "option.toml", "`shared`"]);
    write(
        &place.path("require.toml"),
        "[require]\ndurability = \"consensus\"\n",
    );
    with("require.toml").failed(78, &["consensus", "local"]);
}

#[test]
fn unreadable_configuration_file_is_refused() {
    let place = Place::new();
    write(&place.path("a.toml"), "");
    std::fs::set_permissions(place.path("a.toml"), PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(place.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.tenure(&["--config", "a.toml", "status", "x"]);
    if is_root() {
        command = common::copied(&place, &["--config", "a.toml", "status", "x"]);
        command.uid(NOBODY).gid(NOBODY);
    }
    done(command.output().unwrap()).failed(78, &["a.toml", "permission denied"]);
}

#[test]
fn unknown_variables_are_reported() {
    let place = Place::new();
    let mut command = place.tenure(&["run", "x", "--", "true"]);
    let shown = done(command.env("TENURE__LOCK__TLL", "5s").output().unwrap());
    assert_eq!(shown.code, Some(0));
    assert!(
        shown.stderr.contains("TENURE__LOCK__TLL") && shown.stderr.contains("`TENURE__LOCK__TTL`"),
        "{shown:?}"
    );
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
    let place = Place::new();
    write(
        &place.path("a.toml"),
        "[lock]\nttl = \"11s\"\nwait = \"1s\"\nlabel = \"007\"\n",
    );
    let show = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = place.tenure(&["--config", "a.toml"]);
        command.args(arguments);
        if let Some(ttl) = variable {
            command.env("TENURE__LOCK__TTL", ttl);
        }
        done(command.output().unwrap()).succeeded().stdout.clone()
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
    let place = Place::new();
    let shown = place.run(&["config", "check"]);
    assert!(shown.succeeded().stdout.contains("sound"), "{shown:?}");
    assert!(!place.path("locks").exists(), "the store is not contacted");
    let json = place.run(&["--output", "json", "config", "check"]);
    let value: serde_json::Value = serde_json::from_str(&json.succeeded().stdout).unwrap();
    assert_eq!(
        (&value["schema"], &value["ok"]),
        (&"tenure.config-check/1".into(), &true.into())
    );
    place
        .run(&["--url", "fiel:", "config", "check"])
        .failed(78, &["file"]);
}

#[test]
fn foreign_or_read_only_directory_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.path("open")).unwrap();
    std::fs::set_permissions(place.path("open"), PermissionsExt::from_mode(0o777)).unwrap();
    let url = format!("file:{}", place.path("open").display());
    place
        .run(&["--url", &url, "run", "x", "--", "true"])
        .failed(77, &["open", "chmod"]);
    write(&place.path("plain"), "");
    let url = format!("file:{}", place.path("plain").display());
    place
        .run(&["--url", &url, "run", "x", "--", "true"])
        .failed(78, &["not a directory"]);
    if !is_root() {
        return;
    }
    // The superuser may look at anybody's store, and not lock in it.
    std::fs::create_dir(place.path("theirs")).unwrap();
    std::fs::set_permissions(place.path("theirs"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(place.path("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let url = format!("file:{}", place.path("theirs").display());
    place
        .run(&["--url", &url, "run", "x", "--", "true"])
        .failed(77, &["theirs", "run this as that user"]);
    place.run(&["--url", &url, "status", "x"]).succeeded();
    assert_eq!(std::fs::read_dir(place.path("theirs")).unwrap().count(), 0);
    std::fs::set_permissions(place.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    place.run(&["run", "x", "--", "true"]).succeeded();
    let mut command = common::copied(&place, &["run", "x", "--", "true"]);
    command.uid(NOBODY).gid(NOBODY);
    done(command.output().unwrap()).failed(77, &["locks"]);
    let mut command = common::copied(
        &place,
        &[
            "--url",
            &format!("file:{}", place.path("new").display()),
            "run",
            "x",
            "--",
            "true",
        ],
    );
    command.uid(NOBODY).gid(NOBODY);
    done(command.output().unwrap()).failed(77, &["new"]);
}

#[test]
fn s2_corrupted_state_file_is_named_and_is_not_a_free_lock() {
    let place = Place::new();
    place.run(&["run", "x", "--", "true"]).succeeded();
    let mut broken = 0;
    scribble(&place.path("locks"), &mut broken);
    assert!(broken > 0);
    place
        .run(&["run", "x", "--", "touch", "ran"])
        .failed(69, &["corrupt", "locks"]);
    place
        .run(&["status", "x"])
        .failed(69, &["corrupt", "locks"]);
    assert!(place.read("ran").is_none());
}

/// Cuts off in the middle whatever holds a state below: the targets of links, or plain files.
fn scribble(dir: &std::path::Path, broken: &mut usize) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            scribble(&entry.path(), broken);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            let target = target.to_str().unwrap();
            std::fs::remove_file(entry.path()).unwrap();
            std::os::unix::fs::symlink(&target[..target.len() / 2], entry.path()).unwrap();
            *broken += 1;
        } else if kind.is_file() && entry.metadata().unwrap().len() > 1 {
            let text = std::fs::read(entry.path()).unwrap();
            std::fs::write(entry.path(), &text[..text.len() / 2]).unwrap();
            *broken += 1;
        }
    }
}

#[test]
fn default_store_depends_only_on_the_user() {
    // A cron job and a shell of the same user meet, whatever their environment.
    let shown = done(bare().args(["config", "check"]).output().unwrap());
    let plain = done(
        bare()
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
