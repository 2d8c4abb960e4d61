//! Names: clauses N1 and N2.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tenure_core::{
    error::ErrorKind,
    name::{MAX_NAME_BYTES, Namespace},
    request::List,
};

use crate::{
    context::CaseContext,
    outcome::{Outcome, broken, ensure},
    wrap::{Op, Plan},
};

pub(crate) async fn bad_names_are_refused_before_any_io(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    let bad = [
        ("", "empty"),
        ("a\0b", "offset 1"),
        (long.as_str(), "513 bytes"),
    ];
    for (text, says) in bad {
        match client.lock(text) {
            Ok(_) => broken!("N1", "the name {text:?} was accepted"),
            Err(error) => {
                ensure!(
                    error.kind() == ErrorKind::InvalidName && error.to_string().contains(says),
                    "N1",
                    "the error of {text:?} should contain {says:?}: {error}"
                );
            }
        }
    }
    let asked = plan.count(Op::Enqueue) + plan.count(Op::Inspect);
    ensure!(asked == 0, "N1", "{asked} requests were sent for bad names");
    Ok(())
}

/// Names that an encoding might merge, truncate, or interpret as a path.
fn nasty() -> Vec<String> {
    let mut names: Vec<String> = [
        "a",
        "A",
        "a/b",
        "a//b",
        "a/",
        "/a",
        "/",
        "//",
        ".",
        "..",
        "...",
        "../a",
        "./a",
        "a/../b",
        "a b",
        " a",
        "a ",
        " ",
        "\t",
        "\n",
        "a\nb",
        "a\r\nb",
        "\u{1b}[31m",
        "a%2Fb",
        "a%2fb",
        "%",
        "%%",
        "%00",
        "{a}",
        "{a",
        "a}",
        "{}",
        "*",
        "?",
        "[a]",
        "a*",
        "a:b",
        "a::b",
        ":",
        ";",
        "a;b",
        "'",
        "\"",
        "`",
        "$a",
        "$(a)",
        "\\",
        "a\\b",
        "\\x00",
        "#",
        "&",
        "|",
        "~",
        "-",
        "--",
        "-a",
        "_",
        "__",
        "+",
        "=",
        "@",
        ",",
        "é",
        "e\u{301}",
        "É",
        "ß",
        "ss",
        "ſ",
        "s",
        "İ",
        "i",
        "I",
        "ı",
        "K",
        "\u{212a}",
        "日本語",
        "🔒",
        "🔒🔒",
        "👩‍👩‍👧",
        "\u{200b}",
        "a\u{200b}",
        "\u{feff}a",
        "\u{202e}a",
        "aa",
        "ab",
        "a.b",
        "a-b",
        "a_b",
        "a.lock",
        "lock",
        "con",
        "nul",
        "0",
        "00",
        "1e3",
        "true",
        "null",
        "a-0000000001",
        "_c_0-lock-0000000001",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(MAX_NAME_BYTES));
    names.push(format!("{}y", "x".repeat(MAX_NAME_BYTES - 1)));
    names.push("/".repeat(MAX_NAME_BYTES));
    names.push("🔒".repeat(MAX_NAME_BYTES / 4));
    names.push(format!("{}🔑", "🔒".repeat(MAX_NAME_BYTES / 4 - 1)));
    names.push("%2F".repeat(MAX_NAME_BYTES / 3));
    for length in [250, 251, 254, 255, 256] {
        names.push("z".repeat(length));
    }
    names
}

pub(crate) async fn different_names_stay_apart(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let ttl = context.long();
    let mut given = BTreeSet::new();
    let mut grants = Vec::new();
    for text in nasty() {
        let name = context.name(&text)?;
        match driver.try_hold(&name, ttl).await? {
            Some(grant) => grants.push((name, grant)),
            None => broken!(
                "N2",
                "{text:?} is taken without a holder; it shares its state with one of \
                 {given:?}"
            ),
        }
        given.insert(text);
    }
    for (name, grant) in &grants {
        let holder = driver.inspect(name).await?.holder;
        let seen = holder.as_ref().and_then(|holder| holder.attempt);
        ensure!(
            seen == Some(grant.attempt),
            "N2",
            "{name:?} should be held by {:?}, and is shown with {holder:?}",
            grant.attempt
        );
    }
    let listed = super::inspect_evict::list_all(&driver, List::new("", 16)).await?;
    let listed: BTreeSet<_> = listed
        .iter()
        .map(|lock| lock.name.as_str().to_owned())
        .collect();
    ensure!(
        listed == given,
        "N2",
        "the listing should contain every name unchanged; missing: {:?}, extra: {:?}",
        given.difference(&listed).collect::<Vec<_>>(),
        listed.difference(&given).collect::<Vec<_>>()
    );
    for (name, grant) in &grants {
        driver.remove(name, grant.attempt, ttl).await?;
    }
    Ok(())
}

pub(crate) async fn namespaces_stay_apart(context: Arc<CaseContext>) -> Outcome {
    let base = context.namespace();
    let pairs = [
        ("/a", "b"),
        ("", "a/b"),
        ("", "/a/b"),
        ("/a/b", "b"),
        ("%2Fa", "b"),
        (":a", "b"),
        ("", "a:b"),
        ("A", "b"),
        ("a", "b"),
        ("", "b"),
    ];
    let mut held = Vec::new();
    let mut given: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (suffix, name) in pairs {
        let text = format!("{}{suffix}", base.as_str());
        let Ok(namespace) = Namespace::new(&text) else {
            broken!("N1", "the namespace {text:?} was refused");
        };
        let driver = context.driver_in(namespace, 0).await?;
        let lock = context.name(name)?;
        match driver.try_hold(&lock, context.long()).await? {
            Some(grant) => held.push((driver, text.clone(), lock, grant)),
            None => broken!(
                "N2",
                "{name:?} in {text:?} shares its state with another pair"
            ),
        }
        given.entry(text).or_default().insert(name.to_owned());
    }
    for (driver, namespace, ..) in &held {
        let listed = super::inspect_evict::list_all(driver, List::new("", 16)).await?;
        let names: BTreeSet<_> = listed
            .iter()
            .map(|lock| lock.name.as_str().to_owned())
            .collect();
        ensure!(
            given.get(namespace) == Some(&names),
            "N2",
            "the namespace {namespace:?} should list {:?}, and lists {names:?}",
            given.get(namespace)
        );
    }
    for (driver, _, name, grant) in &held {
        driver.remove(name, grant.attempt, context.long()).await?;
    }
    Ok(())
}
