//! The output formats, and the escaping of foreign text.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use tenure_conformance::{
    cases,
    report::{self, Form, Mark},
};

use crate::sample::{self, FAILED, IGNORED};

#[test]
fn json_can_be_read_again() {
    let reports = sample::read(&[sample::report("a"), sample::report("b")]);
    let text = report::write(Form::Json, &reports);
    assert_eq!(text.lines().count(), 2, "an object on a line each");
    assert_eq!(report::json::read(&text).unwrap(), reports);
    for (text, what) in [
        ("", "no report"),
        ("{", "invalid JSON"),
        ("{}", "schema"),
        ("{\"schema\": \"tenure.run/1\"}", "tenure.run/1"),
        ("{\"schema\": \"tenure.conformance/1\"}", "invalid report"),
    ] {
        let error = report::json::read(text).unwrap_err();
        assert!(error.contains(what), "{text:?}: {error}");
    }
    // A later version of the suite may add fields.
    let mut later = sample::report("a");
    later["surprise"] = 1.into();
    assert_eq!(
        report::json::read(&later.to_string()).unwrap(),
        reports[..1]
    );
}

#[test]
fn text_names_each_failure_and_counts() {
    let reports = sample::read(&[sample::report("a")]);
    let text = report::write(Form::Text, &reports);
    let all = cases().len();
    let summary = format!("a: {} passed, 1 failed, 1 ignored in 4.3 s", all - 2);
    assert!(text.contains(&summary), "{text}");
    assert!(text.contains(&format!("FAILED   {FAILED}")), "{text}");
    assert!(
        text.contains("and more of it") && text.contains("left behind: "),
        "{text}"
    );
    let plain = |character: char| character == '\n' || !character.is_control();
    assert!(
        text.chars().all(plain) && !text.contains('\u{202e}'),
        "{text:?}"
    );
    assert!(!reports[0].has_passed());
    assert_eq!(reports[0].count(Mark::Ignored), 1);
}

/// Uses Python's XML parser, which accepts valid XML only.
#[test]
fn junit_is_xml_that_other_parsers_read() {
    let reports = sample::read(&[sample::report("a"), sample::report("b<&\"\u{8}")]);
    let xml = report::write(Form::JUnit, &reports);
    let script = r#"
import json, sys, xml.etree.ElementTree as tree
root = tree.fromstring(sys.stdin.buffer.read())
suites = list(root)
cases = [case for suite in suites for case in suite.iter("testcase")]
print(json.dumps({
    "root": root.tag, "names": [suite.get("name") for suite in suites],
    "tests": [int(suite.get("tests")) for suite in suites], "all": int(root.get("tests")), "cases": len(cases),
    "failures": int(root.get("failures")), "skipped": int(root.get("skipped")),
    "failed": [[case.get("name"), case.find("failure").text] for case in cases if case.find("failure") is not None],
    "ignored": [case.get("name") for case in cases if case.find("skipped") is not None],
    "children": sorted({child.tag for suite in suites for child in suite}),
    "times": all(float(case.get("time")) >= 0 for case in cases),
}))
"#;
    let mut reader = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader
        .stdin
        .take()
        .unwrap()
        .write_all(xml.as_bytes())
        .unwrap();
    let answer = reader.wait_with_output().unwrap();
    assert!(answer.status.success(), "{xml}");
    let seen: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let each = cases().len() + 1;
    assert_eq!(seen["root"], "testsuites");
    assert_eq!(
        seen["names"],
        serde_json::json!(["conformance.a", "conformance.b<&\"\\u{8}"])
    );
    assert_eq!(seen["tests"], serde_json::json!([each, each]));
    assert_eq!(
        (&seen["all"], &seen["cases"]),
        (&(2 * each).into(), &(2 * each).into())
    );
    assert_eq!(
        (&seen["failures"], &seen["skipped"]),
        (&2.into(), &2.into())
    );
    assert_eq!(seen["failed"][0][0], "rises_over_release");
    let text = seen["failed"][0][1].as_str().unwrap();
    assert!(
        text.contains("<script>")
            && text.contains("\\u{1b}[2J")
            && text.ends_with("and more of it"),
        "{text}"
    );
    assert_eq!(seen["ignored"][0], IGNORED.rsplit("::").next().unwrap());
    assert_eq!(
        seen["children"],
        serde_json::json!(["properties", "testcase"])
    );
    assert_eq!(seen["times"], true);
}

#[test]
fn markdown_matrix_lists_every_case() {
    let mut short = sample::report("short|\n<b>");
    short["cases"].as_array_mut().unwrap().truncate(3);
    let page = report::write(Form::Markdown, &sample::read(&[sample::report("a"), short]));
    for case in cases() {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", case.id)));
        assert!(
            row.is_some_and(|row| row.matches(" | ").count() == 3),
            "{}: {row:?}",
            case.id
        );
    }
    assert!(
        page.contains("**failed** | not run |") && page.contains("– (1) | not run"),
        "{page}"
    );
    assert!(page.contains("short\\| \\<b>"), "{page}");
}

#[test]
fn extension_of_a_file_selects_the_format() {
    for (name, form) in [
        ("a.json", Some(Form::Json)),
        ("a/b.XML", Some(Form::JUnit)),
        ("b.html", Some(Form::Html)),
        ("b.txt", Some(Form::Text)),
        ("b.md", Some(Form::Markdown)),
        ("json", None),
        ("a.pdf", None),
    ] {
        assert_eq!(Form::of(name.as_ref()), form, "{name}");
    }
}
