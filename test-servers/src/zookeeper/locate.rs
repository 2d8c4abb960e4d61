//! The locations of Java and of the archives of ZooKeeper.

use std::path::{Path, PathBuf};

use crate::{Error, process};

/// The environment variable with the directory of the archives of another version and their dependencies.
const ARCHIVES_VARIABLE: &str = "TENURE_ZOOKEEPER";
/// The directory of the archives of a distribution.
const DEFAULT_DIRECTORY: &str = "/usr/share/java";
const JAVA: &str = "java";
const INSTALL_HINT: &str = "install Java and ZooKeeper 3.5 or later (Debian: apt-get install \
                       libzookeeper-java default-jre-headless), or set TENURE_ZOOKEEPER to the \
                       directory of its archives";

/// The archives that the manifest of ZooKeeper's archive does not name: logging and TLS.
const OTHER_ARCHIVES: [&str; 5] = [
    "slf4j-log4j12.jar",
    "log4j-1.2.jar",
    "netty-codec.jar",
    "netty-resolver.jar",
    "netty-transport-native-unix-common.jar",
];

pub(super) fn java() -> Result<PathBuf, Error> {
    process::find(JAVA).ok_or_else(|| missing("no `java` found"))
}

/// Finds the archives in `directory`, else in the directory of the environment or the distribution.
pub(super) fn class_path(directory: Option<&Path>) -> Result<String, Error> {
    let named = directory
        .map(Path::to_owned)
        .or_else(|| std::env::var_os(ARCHIVES_VARIABLE).map(PathBuf::from));
    if let Some(directory) = named {
        return if has_server(&directory) {
            Ok(format!("{}/*", directory.display()))
        } else {
            let directory = directory.display();
            Err(missing(&format!("no archive of ZooKeeper in {directory}")))
        };
    }
    let default = Path::new(DEFAULT_DIRECTORY);
    let server = default.join("zookeeper.jar");
    if !server.is_file() {
        return Err(missing(&format!("no {} found", server.display())));
    }
    let archives = OTHER_ARCHIVES.iter().map(|name| default.join(name));
    let all: Vec<String> = std::iter::once(server)
        .chain(archives)
        .map(|path| path.display().to_string())
        .collect();
    Ok(all.join(":"))
}

fn has_server(directory: &Path) -> bool {
    let Ok(files) = directory.read_dir() else {
        return false;
    };
    files.flatten().any(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("zookeeper")
            && Path::new(&name).extension().is_some_and(|end| end == "jar")
    })
}

fn missing(what: &str) -> Error {
    Error::new(format!(
        "cannot start a ZooKeeper server: {what}; {INSTALL_HINT}"
    ))
}
