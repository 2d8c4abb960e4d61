//! Tests of the configuration.

use std::ffi::OsString;

use tenure_core::{capability::Durability, error::ErrorKind, settings::Value};

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn from_variables(pairs: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(&Sources::new().environment_from(variables(pairs)))
}

fn from_file(text: &str) -> Result<Config, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&Sources::new().file(path))
}

#[track_caller]
fn assert_refused(outcome: Result<Config, Error>, words: &[&str]) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
    text
}

#[test]
fn defaults_are_enough() {
    let config = Config::load(&Sources::new()).unwrap();
    assert_eq!(config.settings.url.to_string(), "file:");
    assert_eq!(config.namespace.as_str(), "default");
    assert_eq!(config.ttl, Duration::from_secs(30));
    assert_eq!(config.request_timeout, Duration::from_millis(4500));
    assert_eq!((config.wait, &config.label), (None, &None));
    assert_eq!(config.drift_bounds, DriftBounds::DEFAULT);
    assert!(config.warnings().is_empty());
}

#[test]
fn file_with_all_tables_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("pw");
    std::fs::write(&password, "007\n").unwrap();
    let config = from_file(&format!(
        r#"
        [backend]
        url = "etcd://10.0.0.1:2379,10.0.0.2:2379"
        namespace = "billing"
        username = "billing"
        password_file = {:?}
        [backend.tls]
        ca_file = "ca.pem"
        [backend.options]
        tick = "2s"
        shared = true
        [lock]
        ttl = "1m"
        wait = "1m"
        [require]
        durability = "consensus"
        push = true
        "#,
        password.display().to_string()
    ))
    .unwrap();
    let settings = &config.settings;
    assert_eq!(settings.url.hosts().len(), 2);
    assert_eq!(settings.password.as_ref().unwrap().expose(), "007");
    assert_eq!(settings.options.get::<bool>("shared").unwrap(), Some(true));
    assert_eq!(
        settings.options.duration("tick").unwrap(),
        Some(Duration::from_secs(2))
    );
    assert_eq!(config.wait, Some(Duration::from_secs(60)));
    assert_eq!(config.require.durability, Some(Durability::Consensus));
    assert!(config.require.push && !config.require.push_evidence);
    assert_eq!(config.request_timeout, Duration::from_secs(5));
}

#[test]
fn password_file_has_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("pw");
    let load = |text: &str| {
        std::fs::write(&password, text).unwrap();
        let file = password.display().to_string();
        from_file(&format!(
            "[backend]\nurl = \"redis://h\"\npassword_file = {file:?}\n"
        ))
    };
    for text in ["007", "007\n", "007\r\n"] {
        let config = load(text).unwrap();
        assert_eq!(config.settings.password.unwrap().expose(), "007");
    }
    assert_refused(load("007\n\n"), &["password_file", "more than one line"]);
}

/// A relative path in the file begins at the file, and one in a variable at the process.
#[test]
fn paths_begin_at_the_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.toml");
    std::fs::write(dir.path().join("pw"), "007\n").unwrap();
    let text = "[backend]\nurl = \"redis://h\"\npassword_file = \"pw\"\n[backend.tls]\nca_file = \"ca.pem\"\n";
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&Sources::new().file(&file)).unwrap();
    assert_eq!(config.settings.password.unwrap().expose(), "007");
    assert_eq!(config.password_file, Some(dir.path().join("pw")));
    assert_eq!(config.settings.tls.ca_file, Some(dir.path().join("ca.pem")));
    let variables = variables(&[("TENURE__BACKEND__TLS__CA_FILE", "other.pem")]);
    let sources = Sources::new().file(&file).environment_from(variables);
    let config = Config::load(&sources).unwrap();
    assert_eq!(
        config.settings.tls.ca_file,
        Some(PathBuf::from("other.pem"))
    );
}

#[test]
fn strings_stay_strings() {
    let config = from_variables(&[
        ("TENURE__BACKEND__PASSWORD", "007"),
        ("TENURE__BACKEND__NAMESPACE", "true"),
        ("TENURE__LOCK__LABEL", "1e3"),
        ("TENURE__REQUIRE__PUSH", "true"),
        ("TENURE__BACKEND__OPTIONS__MIN_REPLICAS", "2"),
    ])
    .unwrap();
    assert_eq!(config.settings.password.as_ref().unwrap().expose(), "007");
    assert_eq!(config.namespace.as_str(), "true");
    assert_eq!(config.label.as_deref(), Some("1e3"));
    assert!(config.require.push);
    assert_eq!(
        config.settings.options.get::<u8>("min_replicas").unwrap(),
        Some(2)
    );
    assert_refused(
        from_file("[backend]\npassword = 7"),
        &["`backend.password`", "quotes"],
    );
}

#[test]
fn later_sources_win_and_each_value_knows_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.toml");
    std::fs::write(
        &path,
        "[lock]\nttl = \"11s\"\nlabel = \"file\"\nwait = \"1s\"",
    )
    .unwrap();
    let config = Config::load(
        &Sources::new()
            .set("lock.wait", "3s", "flag --wait")
            .environment_from(variables(&[
                ("TENURE__LOCK__LABEL", "variable"),
                ("TENURE__LOCK__WAIT", "2s"),
                ("OTHER", "x"),
            ]))
            .file(&path),
    )
    .unwrap();
    assert_eq!(config.ttl, Duration::from_secs(11));
    assert_eq!(config.label.as_deref(), Some("variable"));
    assert_eq!(config.wait, Some(Duration::from_secs(3)));
    assert_eq!(config.origin("lock.ttl"), path.to_str());
    assert_eq!(
        config.origin("lock.label"),
        Some("variable TENURE__LOCK__LABEL")
    );
    assert_eq!(config.origin("lock.wait"), Some("flag --wait"));
    assert_eq!(config.origin("backend.url"), Some("default"));
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_refused(
        from_file("[lock]\nttll = \"1s\""),
        &["\"lock.ttll\"", "`lock.ttl`"],
    );
    assert_refused(from_file("url = \"file:\""), &["\"url\"", "`backend.url`"]);
    assert_refused(
        from_file("[backend.tls]\nca_fil = \"x\""),
        &["`backend.tls.ca_file`"],
    );
    assert_refused(from_file("lock = \"x\""), &["`lock` is a table"]);
    assert_refused(
        from_file("[quite.other]\nthing = 1"),
        &["quite.other.thing"],
    );
    assert_refused(from_file("[quite]"), &["quite"]);
    assert_refused(from_file("[lock.ttl]\nx = 1"), &["lock.ttl.x"]);
    from_file("[lock]\n[backend.options]").unwrap();
}

#[test]
fn unknown_variable_is_an_error_that_names_the_nearest() {
    for (name, wanted) in [
        ("TENURE__BACKEND__ULR", "`TENURE__BACKEND__URL`"),
        ("TENURE__LOCK__TLL", "`TENURE__LOCK__TTL`"),
        ("TENURE__QUITE__OTHER", "backend.url"),
        ("TENURE__URL", "`TENURE__BACKEND__URL`"),
        ("TENURE_BACKEND_URL", "`TENURE__BACKEND__URL`"),
        ("TENURE_BACKEND__ULR", "`TENURE__BACKEND__URL`"),
        ("TENURE_URL", "`TENURE__BACKEND__URL`"),
        ("TENURE_LOCK_TLL", "`TENURE__LOCK__TTL`"),
        (
            "TENURE_BACKEND_OPTIONS_SHARED",
            "`TENURE__BACKEND__OPTIONS__SHARED`",
        ),
        ("tenure__lock__label", "`TENURE__LOCK__LABEL`"),
    ] {
        let text = assert_refused(from_variables(&[(name, "canary")]), &[name, wanted]);
        assert!(!text.contains("canary"), "{text}");
    }
    // The variables of `tenure run`, and of programs that use this one.
    from_variables(&[
        ("TENURE_NAME", "a"),
        ("TENURE_TOKEN", "5"),
        ("TENURE_OWNER", "a@b:1"),
        ("TENURE_BACKEND", "redis://h"),
        ("TENURE_TTL_MS", "30000"),
        ("TENURE_HELD", "a=b"),
        ("TENURE_LOCK_DIR", "/x"),
        ("TENURE_TEST_STORE", "file"),
        ("TENURE_ETCD", "/usr/bin/etcd"),
        ("TENURE_CONFORMANCE_WORKER", "x"),
    ])
    .unwrap();
}

#[test]
fn unknown_variables_are_warnings_if_asked() {
    let config = Config::load(
        &Sources::new()
            .warn_of_unknown_variables()
            .environment_from(variables(&[
                ("TENURE__LOCK__TLL", "1s"),
                ("TENURE__LOCK", "1s"),
                ("TENURE__", "1s"),
                ("TENURE_TOKEN", "5"),
                ("TENURE_BACKEND", "redis://h"),
                ("TENURE_BACKEND_URL", "redis://h"),
                ("TENURE_BACKEND_PASSWORD_FILE", "/x"),
                ("TENURE_URL", "redis://h"),
                ("TENURE_NAME", "a"),
                ("TENURE_NAMESPACE", "b"),
                ("tenure__lock__label", "c"),
            ])),
    )
    .unwrap();
    assert_eq!(config.warnings().len(), 8, "{:?}", config.warnings());
    assert_eq!(
        config.settings.url.to_string(),
        "file:",
        "the variable is not read"
    );
    let all = config.warnings().join("\n");
    assert!(all.contains("`TENURE__BACKEND__URL`"), "{all}");
    assert!(all.contains("`TENURE__BACKEND__PASSWORD_FILE`"), "{all}");
    assert!(all.contains("`TENURE__LOCK__TTL`"), "{all}");
    assert_refused(
        from_variables(&[("TENURE__BACKEND__URL", "")]),
        &["TENURE__BACKEND__URL", "empty"],
    );
}

#[test]
fn invalid_values_name_key_origin_and_remedy() {
    assert_refused(
        from_variables(&[("TENURE__LOCK__TTL", "5 parsecs")]),
        &[
            "`lock.ttl`",
            "variable TENURE__LOCK__TTL",
            "\"5 parsecs\"",
            "\"30s\"",
        ],
    );
    assert_refused(
        from_file("[lock]\nttl = 30"),
        &["30 without a unit", "\"30s\""],
    );
    assert_refused(from_file("[lock]\nttl = \"0s\""), &["`lock.ttl`"]);
    assert_refused(
        from_file("[require]\npush = \"yes\""),
        &["`require.push`", "`true`"],
    );
    assert_refused(
        from_file("[require]\ndurability = \"consensu\""),
        &["did you mean `consensus`?"],
    );
    assert_refused(
        from_file("[backend]\nnamespace = \"a\\u0000b\""),
        &["`backend.namespace`", "NUL"],
    );
    assert_refused(
        from_variables(&[("TENURE__BACKEND__NAMESPACE", &"x".repeat(513))]),
        &["513"],
    );
}

#[test]
fn password_has_one_source() {
    assert_refused(
        from_file("[backend]\npassword = \"canary\"\npassword_file = \"/x\""),
        &["backend.password_file", "keep one"],
    );
    assert_refused(
        from_file("[backend]\npassword_file = \"/no/such\""),
        &["/no/such", "does not exist"],
    );
    assert_refused(
        from_file("[backend]\npassword_file = \"/\""),
        &["is a directory"],
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pw");
    for (text, wanted) in [("a b\n", "a b"), ("a\r\n", "a"), (" a", " a")] {
        std::fs::write(&path, text).unwrap();
        let shown = path.to_str().unwrap();
        let config = from_variables(&[("TENURE__BACKEND__PASSWORD_FILE", shown)]).unwrap();
        assert_eq!(config.settings.password.unwrap().expose(), wanted);
    }
    std::fs::write(&path, "\n").unwrap();
    let shown = path.to_str().unwrap();
    assert_refused(
        from_variables(&[("TENURE__BACKEND__PASSWORD_FILE", shown)]),
        &["empty"],
    );
}

#[test]
fn s1_no_secret_is_shown() {
    let registry = crate::default_registry();
    let config = from_variables(&[
        ("TENURE__BACKEND__PASSWORD", "canary"),
        ("TENURE__BACKEND__OPTIONS__SASL_PASSWORD", "canary"),
        ("TENURE__BACKEND__OPTIONS__TICK", "2s"),
    ])
    .unwrap();
    let shown = format!("{:?} {:?}", config.entries(&registry), config);
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("2s") && shown.contains(REDACTED), "{shown}");
    let sources = Sources::new().environment_from(variables(&[("TENURE__X", "canary")]));
    assert!(!format!("{sources:?}").contains("canary"));

    for text in [
        "[backend]\nurl = \"redis://u:canary@h\"",
        "[backend]\nurl = \"redis://h?p=canary\"",
    ] {
        let text = assert_refused(from_file(text), &["`backend.url`"]);
        assert!(!text.contains("canary"), "{text}");
    }
    // The file ends in the middle of a secret.
    for text in [
        "[backend]\npassword = \"canary",
        "[backend]\npassword = canary",
        "canary",
    ] {
        let text = assert_refused(from_file(text), &["not TOML", "line "]);
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn options_keep_their_types() {
    assert_refused(
        from_file("[backend.options]\nf = 18446744073709551615"),
        &[],
    );
    let config = from_file("[backend.options]\na = 1\nb = [1, \"x\"]\ne = 1.5").unwrap();
    {
        let options = &config.settings.options;
        assert_eq!(options.get::<u8>("a").unwrap(), Some(1));
        let (_, list) = options.iter().find(|(key, _)| *key == "b").unwrap();
        assert_eq!(
            list.value,
            Value::List(vec![Value::Int(1), Value::from("x")])
        );
        assert_eq!(options.get::<f64>("e").unwrap(), Some(1.5));
    }
    let config = from_file("[backend.options]\nc = { d = true }").unwrap();
    let table: std::collections::BTreeMap<String, bool> =
        config.settings.options.get("c").unwrap().unwrap();
    assert_eq!(table.get("d"), Some(&true));
}

#[tokio::test]
async fn connects_to_the_configured_store() {
    let registry = crate::default_registry();
    let config = from_variables(&[("TENURE__BACKEND__URL", "memory:a")]).unwrap();
    let first = config.connect(&registry).await.unwrap();
    let second = config.connect(&registry).await.unwrap();
    let guard = first.lock("x").unwrap().acquire().await.unwrap();
    let busy = second.lock("x").unwrap().try_acquire().await.unwrap();
    assert!(busy.acquired().is_none(), "the same name is the same store");
    let other = from_variables(&[("TENURE__BACKEND__URL", "memory:b")]).unwrap();
    let other = other.connect(&registry).await.unwrap();
    let free = other.lock("x").unwrap().try_acquire().await.unwrap();
    assert!(free.acquired().is_some());
    drop(guard);

    let short = from_variables(&[
        ("TENURE__BACKEND__URL", "memory:"),
        ("TENURE__LOCK__TTL", "1ms"),
    ]);
    let error = short.unwrap().connect(&registry).await.unwrap_err();
    let wanted =
        "`lock.ttl` (variable TENURE__LOCK__TTL): the backend does not support a TTL of 1ms";
    assert!(error.to_string().contains(wanted), "{error}");

    let demanding = from_variables(&[
        ("TENURE__BACKEND__URL", "memory:"),
        ("TENURE__REQUIRE__DURABILITY", "consensus"),
    ])
    .unwrap();
    let error = demanding.connect(&registry).await.unwrap_err();
    assert!(error.to_string().contains("consensus"), "{error}");
}
