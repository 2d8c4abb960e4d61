//! Where Java and the archives of ZooKeeper are.

use std::path::{Path, PathBuf};

use crate::{Error, process};

/// The environment variable that names a directory of another version's archives, with what they
/// need beside them.
const ARCHIVES_VARIABLE: &str = "TENURE_ZOOKEEPER";
/// Where a distribution puts them.
const DEFAULT_DIRECTORY: &str = "/usr/share/java";
const JAVA: &str = "java";
const INSTALL_HINT: &str = "install Java and ZooKeeper 3.5 or later (Debian: apt-get install \
                       libzookeeper-java default-jre-headless), or say with TENURE_ZOOKEEPER in \
                       which directory its archives are";

/// Beside ZooKeeper's own archive, which names most of the rest in its manifest: what writes the
/// log, and what TLS needs.
const OTHER_ARCHIVES: [&str; 5] = [
    "slf4j-log4j12.jar",
    "log4j-1.2.jar",
    "netty-codec.jar",
    "netty-resolver.jar",
    "netty-transport-native-unix-common.jar",
];

/// What has to be started.
#[derive(Clone, Debug)]
pub(super) struct JavaLaunch {
    pub(super) java: PathBuf,
    pub(super) class_path: String,
}

/// Finds them in `directory`, else where the environment or the distribution has them.
pub(super) fn locate(directory: Option<&Path>) -> Result<JavaLaunch, Error> {
    let java = process::find(JAVA).ok_or_else(|| missing("no `java` found"))?;
    let named = directory
        .map(Path::to_owned)
        .or_else(|| std::env::var_os(ARCHIVES_VARIABLE).map(PathBuf::from));
    let class_path = match named {
        Some(directory) => {
            if !has_server(&directory) {
                return Err(missing(&format!(
                    "no archive of ZooKeeper in {}",
                    directory.display()
                )));
            }
            format!("{}/*", directory.display())
        }
        None => {
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
            all.join(":")
        }
    };
    Ok(JavaLaunch { java, class_path })
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
