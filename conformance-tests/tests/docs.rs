//! The docs: the matrix contains all cases and no failure, the guide contains the example's CI file, the summary lists
//! all pages, and links lead somewhere, also in the built site.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tenure_conformance::{
    SUITE_VERSION, cases,
    report::{self, Form, Report},
};

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance-matrix.md")
}

/// Reads all reports of a directory, in the order of the file names.
fn reports(directory: &Path) -> Vec<Report> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    let read =
        |path: &PathBuf| report::json::read(&std::fs::read_to_string(path).unwrap()).unwrap();
    paths.iter().flat_map(read).collect()
}

/// With `CONFORMANCE_MATRIX=DIRECTORY` this test generates the page, and an HTML page in the directory.
#[test]
fn matrix_in_the_docs_lists_every_case_without_failures() {
    if let Some(directory) = std::env::var_os("CONFORMANCE_MATRIX") {
        let reports = reports(Path::new(&directory));
        let all = Path::new(&directory).join("all.html");
        std::fs::write(all, report::write(Form::Html, &reports)).unwrap();
        std::fs::write(page(), report::write(Form::Markdown, &reports)).unwrap();
    }
    let text = std::fs::read_to_string(page()).unwrap_or_default();
    let again = "docs/conformance-matrix.md is stale; run `make matrix`";
    assert!(
        text.contains(&format!("Version {SUITE_VERSION} of the suite")),
        "{again}"
    );
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(id, _)| id).collect();
    let table: Vec<&str> = cases().iter().map(|case| case.id).collect();
    assert_eq!(listed, table, "{again}");
    assert!(
        !text.contains("**failed**"),
        "the matrix contains a failed case"
    );
    // The matrix contains each store.
    let stores: BTreeSet<&str> = (text.lines())
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1))
        .collect();
    for store in ["etcd", "file", "memory", "redis", "zookeeper"] {
        assert!(stores.contains(store), "{store} is missing; {again}");
    }
}

/// The guide contains the steps of the example's file unchanged, and the file runs the suite.
#[test]
fn guide_contains_the_ci_file_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let file = read("examples/backend-on-trait/ci/github-workflow.yml");
    let steps = &file[file.find("    env:").unwrap()..];
    assert!(
        steps.contains("- run: cargo test --test conformance\n"),
        "{steps}"
    );
    let guide = read("docs/plugin-guide.md");
    assert!(
        guide.contains(&format!("```yaml\n{steps}```")),
        "the guide does not contain:\n{steps}"
    );
    assert!(guide.contains("CONFORMANCE_REPORT") && guide.contains("CONFORMANCE_STRICT"));
}

/// The guide's skeleton is the example that is built and tested.
#[test]
fn guide_contains_the_example_on_the_adapter() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let code = read("examples/backend-on-cas/src/lib.rs");
    let expected = format!("```rust,ignore\n{code}```");
    assert!(read("docs/plugin-guide.md").contains(&expected));
}

/// The Markdown files below a directory, without what is built or hidden.
fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    files(directory, ".md", found);
}

fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Returns whether a relative link of a page names a file, and its anchor a place in that file.
fn leads(page: &Path, link: &str, has_anchor: impl Fn(&str, &str) -> bool) -> bool {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.with_file_name("").join(file),
    };
    let text = || std::fs::read_to_string(&target);
    target.exists() && (anchor.is_empty() || text().is_ok_and(|text| has_anchor(&text, anchor)))
}

/// Each link of a page leads to a file of the repository, and to a heading in it.
#[test]
fn links_of_the_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    pages(&root, &mut found);
    assert!(found.len() > 20, "{found:?}");
    let mut wrong = Vec::new();
    for page in &found {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', ' ', '\n']).next().unwrap_or_default();
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            if !leads(page, link, |text, anchor| anchors(text).contains(anchor)) {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The summary of the site contains every page of `docs` once.
#[test]
fn summary_lists_every_page() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let links = summary.split("](").skip(1);
    let mut listed: Vec<&str> = links
        .filter_map(|link| Some(link.split_once(')')?.0))
        .collect();
    listed.retain(|link| !link.starts_with("../"));
    listed.sort_unstable();
    let mut found = Vec::new();
    pages(&docs, &mut found);
    let relative = |path: &PathBuf| path.strip_prefix(&docs).unwrap().display().to_string();
    let mut found: Vec<String> = found.iter().map(relative).collect();
    found.retain(|page| page != "SUMMARY.md");
    found.sort_unstable();
    assert_eq!(listed, found);
}

/// The values of an attribute in a page of HTML.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let pieces = html.split(&*start).skip(1);
    let value = |piece: &'a str| Some(piece.split_once('"')?.0);
    pieces.filter_map(value).collect()
}

/// With `DOCS_SITE=DIRECTORY`, every relative link of the HTML pages there leads to a file, and to an anchor in it.
#[test]
fn links_of_the_site_lead_somewhere() {
    let Some(site) = std::env::var_os("DOCS_SITE") else {
        return;
    };
    let mut found = Vec::new();
    files(Path::new(&site), ".html", &mut found);
    let mut wrong = Vec::new();
    for page in &found {
        let html = std::fs::read_to_string(page).unwrap();
        for link in [values(&html, "href"), values(&html, "src")].concat() {
            if link.contains(':') || link.starts_with('/') {
                continue;
            }
            if !leads(page, link, |html, anchor| {
                values(html, "id").contains(&anchor)
            }) {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The tables of clauses in the backends' crates name files, and functions in the file before them.
#[test]
fn tables_of_clauses_name_files_and_functions_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for backend in ["etcd", "file", "redis", "zookeeper"] {
        let own = root.join(format!("backend-{backend}/src"));
        let text = std::fs::read_to_string(own.join("lib.rs")).unwrap();
        let rows: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("//! | "))
            .skip_while(|row| !row.starts_with("clause | kept in"))
            .skip(1)
            .collect();
        assert!(rows.len() > 9, "{backend}: {rows:?}");
        for row in rows {
            let mut source = String::new();
            for word in row.split('`').skip(1).step_by(2) {
                if !word.contains(['.', '/']) {
                    let definitions = [
                        format!("fn {word}"),
                        format!("function {word}("),
                        format!(".{word}("),
                    ];
                    let is_defined = definitions.iter().any(|text| source.contains(text));
                    let is_name = word.starts_with(char::is_lowercase);
                    assert!(!is_name || is_defined, "{backend}: no {word} there: {row}");
                    continue;
                }
                let mut paths = [&own, &root.join("core/src")]
                    .map(|src| src.join(word))
                    .into_iter();
                let path = paths.find(|path| path.exists());
                let path = path.unwrap_or_else(|| panic!("{backend}: no file {word}: {row}"));
                source = std::fs::read_to_string(path).unwrap_or_default();
            }
        }
    }
}
