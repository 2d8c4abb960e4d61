//! The HTML page, also in a real browser.

use tenure_conformance::{
    cases, clauses,
    report::{self, Form},
};

use crate::{
    browser,
    sample::{self, FAILED},
};

/// A script that inspects the page.
const MEASURE: &str = include_str!("measure.js");

/// An external image: the request for it shows that requests are recorded.
const CONTROL: &str = "<img id='control' src='http://control.test/i'>";

fn page() -> String {
    let reports = [sample::report("one"), sample::report("two <b>")];
    report::write(Form::Html, &sample::read(&reports))
}

#[test]
fn page_is_self_contained() {
    let page = page();
    for (attribute, allowed) in [
        ("src=", None),
        ("url(", None),
        ("@import", None),
        ("href=", Some(["\"#", "\"data:,\""])),
    ] {
        for (at, _) in page.match_indices(attribute) {
            let rest = &page[at + attribute.len()..];
            // The one text with `src=` is the hostile one, which is escaped.
            let escaped = page[..at].ends_with("&lt;img ");
            let fits =
                allowed.is_some_and(|allowed| allowed.iter().any(|start| rest.starts_with(start)));
            assert!(
                escaped || fits,
                "{attribute}{}",
                rest.chars().take(40).collect::<String>()
            );
        }
    }
    assert!(!page.contains("<script") && page.contains("default-src 'none'"));
    // Every failure that a cell points to is there.
    for target in page
        .split("href=\"#")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(
            page.contains(&format!("id=\"{target}\"")),
            "nothing is at #{target}"
        );
    }
}

#[test]
fn browser_shows_the_matrix_the_failures_and_the_timeline() {
    let Some(program) = browser::find() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let policy = page()
        .find("<meta http-equiv")
        .map(|at| at..page()[at..].find('>').unwrap() + at + 1)
        .unwrap();
    // Without the policy a script that got out of its place would run, and so does ours.
    let mut open = page();
    open.replace_range(policy, "");
    for (width, dark, control) in [(1280, false, true), (500, true, false)] {
        let path = directory.path().join(format!("{width}.html"));
        let extra = if control { CONTROL } else { "" };
        std::fs::write(
            &path,
            open.replace(
                "</body>",
                &format!("{extra}<script>{MEASURE}</script></body>"),
            ),
        )
        .unwrap();
        let shown = browser::show(program, &path, width, dark);
        let seen = |what: &str| -> String {
            let start = format!("data-seen-{what}=\"");
            let at = shown.dom.find(&start).map(|at| at + start.len());
            let rest = &shown.dom
                [at.unwrap_or_else(|| panic!("{what} was not measured: {}", shown.dom))..];
            rest[..rest.find('"').unwrap()].to_owned()
        };
        assert_eq!(seen("clauses"), clauses().join(" "));
        assert_eq!(seen("cases"), cases().len().to_string());
        assert_eq!(
            seen("cells"),
            (clauses().len() * 2).to_string(),
            "a cell for each backend"
        );
        assert_eq!(
            (seen("failures"), seen("failure")),
            ("2".to_owned(), "true".to_owned())
        );
        assert!(shown.dom.contains(FAILED));
        // Three workers in three strips, for each of two backends.
        assert_eq!(seen("lanes"), "18");
        assert!(
            seen("spans").parse::<usize>().unwrap() >= 6,
            "{}",
            seen("spans")
        );
        assert!(seen("bands").parse::<usize>().unwrap() >= 2);
        assert!(
            seen("tokens").contains("11") && seen("tokens").contains("…789"),
            "{}",
            seen("tokens")
        );
        assert_eq!(
            seen("overflow"),
            "false",
            "the page itself does not scroll sideways at {width}"
        );
        assert_eq!(
            (seen("scripts"), seen("images")),
            ("1".to_owned(), "0".to_owned()),
            "ours alone"
        );
        assert!(
            seen("title").starts_with("Conformance of 2"),
            "{}",
            seen("title")
        );
        assert_eq!(seen("dark"), dark.to_string());
        assert!(
            seen("contrast").parse::<f64>().unwrap() >= 4.5,
            "{} at {width}",
            seen("contrast")
        );
        let asked = |host: &str| shown.requests.iter().any(|line| line.contains(host));
        assert_eq!(asked("control.test"), control, "{:?}", shown.requests);
        assert!(!asked("evil.test"), "{:?}", shown.requests);
    }
}
