//! The command line: the stores, parts and implementation to measure, and the files to write.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::implementation::Failure;

const STORES: [&str; 5] = ["memory", "file", "redis", "etcd", "zookeeper"];
const PARTS: [&str; 11] = [
    "uncontended",
    "independent",
    "contended",
    "kinds",
    "one-client",
    "processes",
    "delay",
    "takeover",
    "held",
    "reconnect",
    "run",
];

/// The stores and parts to measure; empty lists select all of them.
#[derive(Debug, Default)]
pub(crate) struct Options {
    stores: Vec<String>,
    parts: Vec<String>,
    /// The name of the only implementation to measure.
    only: Option<String>,
    /// Whether a missing implementation or a missed ratio is a failure.
    pub(crate) strict: bool,
    /// The file for all results as JSON.
    pub(crate) json: Option<PathBuf>,
    /// The directory for the page and its plots.
    pub(crate) page: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut path = || {
                let path = arguments.next();
                path.ok_or_else(|| format!("{argument} needs a path"))
            };
            match argument.as_str() {
                "--strict" => options.strict = true,
                "--json" => options.json = Some(path()?.into()),
                "--page" => options.page = Some(path()?.into()),
                store if STORES.contains(&store) => options.stores.push(argument),
                part if PARTS.contains(&part) => options.parts.push(argument),
                unknown if unknown.starts_with('-') || options.only.is_some() => {
                    return Err(format!(
                        "unknown argument {unknown}: stores are {}; parts are {}; options are \
                         --strict, --json FILE and --page DIRECTORY; at most one implementation may \
                         be named",
                        STORES.join(", "),
                        PARTS.join(", ")
                    )
                    .into());
                }
                _ => options.only = Some(argument),
            }
        }
        Ok(options)
    }

    /// Creates the directories of the results, so that a failure is reported before the measurements.
    pub(crate) fn create_directories(&self) -> Result<(), Failure> {
        let file = self.json.as_deref();
        let parent = file
            .and_then(Path::parent)
            .filter(|parent| !parent.as_os_str().is_empty());
        for directory in parent.into_iter().chain(self.page.as_deref()) {
            fs::create_dir_all(directory)
                .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
        }
        Ok(())
    }

    /// Returns whether to measure this store.
    pub(crate) fn store(&self, name: &str) -> bool {
        self.stores.is_empty() || self.stores.iter().any(|store| store == name)
    }

    /// Returns whether to measure this part.
    pub(crate) fn part(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| part == name)
    }

    /// Returns whether to measure this implementation.
    pub(crate) fn implementation(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, Failure> {
        Options::parse(arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn missing_directories_of_the_results_are_created() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a").join("b");
        let arguments = format!("--json {0}/c/results.json --page {0}", new.display());
        parse(&arguments).unwrap().create_directories().unwrap();
        assert!(new.join("c").is_dir());
        std::fs::write(new.join("file"), "").unwrap();
        let arguments = format!("--json {}/file/results.json", new.display());
        let refused = parse(&arguments).unwrap().create_directories();
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("cannot create"), "{error}");
        let here = parse("--json here.json").unwrap();
        assert!(here.create_directories().is_ok());
    }

    #[test]
    fn arguments_select_stores_parts_and_one_implementation() {
        let all = parse("").unwrap();
        assert!(all.store("etcd") && all.part("held") && all.implementation("baseline"));
        let some = parse("zookeeper held tenure --json x").unwrap();
        assert!(!some.strict && parse("zookeeper --strict").unwrap().strict);
        assert!(some.store("zookeeper") && !some.store("etcd"));
        assert!(some.part("held") && !some.part("contended"));
        assert!(some.implementation("tenure") && !some.implementation("baseline"));
        assert_eq!(some.json, Some("x".into()));
        for wrong in ["--what", "tenure rslock", "--page"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
