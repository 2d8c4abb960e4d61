//! What is measured, by the words of the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::contender::Failure;

const STORES: [&str; 5] = ["memory", "file", "redis", "etcd", "zookeeper"];
const PARTS: [&str; 9] = [
    "alone", "many", "one", "each", "delay", "takeover", "held", "cut", "run",
];

/// The words: stores and parts in any order, any other word is the name of the only implementation.
#[derive(Debug, Default)]
pub(crate) struct Options {
    stores: Vec<String>,
    parts: Vec<String>,
    /// The only one who is measured.
    pub(crate) only: Option<String>,
    /// Whether an implementation that is not installed ends the run.
    pub(crate) strict: bool,
    /// Where the results go as JSON.
    pub(crate) json: Option<PathBuf>,
    /// The directory where the page and its plots go.
    pub(crate) page: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a path"));
            match word.as_str() {
                "--strict" => options.strict = true,
                "--json" => options.json = Some(value()?.into()),
                "--page" => options.page = Some(value()?.into()),
                store if STORES.contains(&store) => options.stores.push(word),
                part if PARTS.contains(&part) => options.parts.push(word),
                unknown if unknown.starts_with('-') || options.only.is_some() => {
                    return Err(format!(
                        "{unknown} is none of the stores ({}) or parts ({}), nor --strict, --json FILE or \
                         --page DIRECTORY; one implementation may be named",
                        STORES.join(", "),
                        PARTS.join(", ")
                    )
                    .into());
                }
                _ => options.only = Some(word),
            }
        }
        Ok(options)
    }

    /// Makes the directories that the results go to: that one cannot be made is said before anything
    /// is measured, and not minutes later.
    pub(crate) fn make_room(&self) -> Result<(), Failure> {
        let file = self.json.as_deref();
        let beside = file
            .and_then(Path::parent)
            .filter(|p| !p.as_os_str().is_empty());
        for directory in beside.into_iter().chain(self.page.as_deref()) {
            fs::create_dir_all(directory)
                .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        }
        Ok(())
    }

    /// Whether this store is measured.
    pub(crate) fn store(&self, name: &str) -> bool {
        self.stores.is_empty() || self.stores.iter().any(|store| store == name)
    }

    /// Whether this is measured.
    pub(crate) fn part(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| part == name)
    }

    /// Whether this one is measured.
    pub(crate) fn contender(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, Failure> {
        Options::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn results_may_go_where_nothing_is_yet() {
        let place = tempfile::tempdir().unwrap();
        let new = place.path().join("a").join("b");
        let words = format!("--json {0}/c/results.json --page {0}", new.display());
        parse(&words).unwrap().make_room().unwrap();
        assert!(new.join("c").is_dir());
        std::fs::write(new.join("file"), "").unwrap();
        let words = format!("--json {}/file/results.json", new.display());
        let error = parse(&words).unwrap().make_room().unwrap_err();
        assert!(error.to_string().contains("cannot make"), "{error}");
        assert!(parse("--json here.json").unwrap().make_room().is_ok());
    }

    #[test]
    fn words_choose() {
        let all = parse("").unwrap();
        assert!(all.store("etcd") && all.part("held") && all.contender("baseline"));
        let some = parse("zookeeper held tenure --json x").unwrap();
        assert!(!some.strict && parse("zookeeper --strict").unwrap().strict);
        assert!(some.store("zookeeper") && !some.store("etcd"));
        assert!(some.part("held") && !some.part("one"));
        assert!(some.contender("tenure") && !some.contender("baseline"));
        assert_eq!(some.json, Some("x".into()));
        for wrong in ["--what", "tenure rslock", "--page"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
