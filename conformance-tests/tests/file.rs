//! The suite on the file backend.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use async_trait::async_trait;
use tenure_conformance::{Env, Harness, fault::Faulty};
use tenure_core::{
    backend::Connect,
    cas::Key,
    error::{Error, ErrorKind},
    name::{LockName, Namespace},
};
use tenure_file::{FileStore, paths};

struct Files;

struct Fresh {
    root: PathBuf,
    /// Deletes the directory when dropped; `None` in a process that joined.
    _directory: Option<tempfile::TempDir>,
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "preparing a directory").with_source(error)
}

#[async_trait]
impl Harness for Files {
    fn name(&self) -> &str {
        "file"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let directory = tempfile::tempdir().map_err(failed)?;
        Ok(Arc::new(Fresh {
            root: directory.path().join("locks"),
            _directory: Some(directory),
        }))
    }

    async fn join(&self, ticket: &str) -> Result<Arc<dyn Env>, Error> {
        Ok(Arc::new(Fresh {
            root: PathBuf::from(ticket),
            _directory: None,
        }))
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[
            ("secrets::show_nowhere", "the store knows no secret"),
            ("servers::*", "the store has no server"),
        ]
    }
}

impl Fresh {
    fn lock(&self, name: &LockName) -> PathBuf {
        paths::lock_dir(&self.root, &Key::new(Namespace::default(), name.clone()))
    }

    /// Replaces the content of every version of a lock's state.
    fn rewrite(&self, name: &LockName, change: impl Fn(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
        let mut rewritten = 0;
        for entry in std::fs::read_dir(self.lock(name))? {
            let path = entry?.path();
            if is_data(&path) {
                // A state may stand in the target of a link, after a byte that says whether it goes
                // on; the store reads a file in its place just as well.
                let state = match std::fs::read_link(&path) {
                    Ok(target) => target.as_os_str().as_bytes()[1..].to_vec(),
                    Err(_) => std::fs::read(&path)?,
                };
                std::fs::remove_file(&path)?;
                std::fs::write(&path, change(&state))?;
                rewritten += 1;
            }
        }
        match rewritten {
            0 => Err(std::io::Error::other("the lock has no state to rewrite")),
            _ => Ok(()),
        }
    }
}

fn is_data(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("data."))
}

#[async_trait]
impl Env for Fresh {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(FileStore::new(&self.root))
    }

    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        Ok(Some(Faulty::above(self.connector())))
    }

    fn ticket(&self) -> Option<String> {
        Some(self.root.to_string_lossy().into_owned())
    }

    async fn delete_state(&self, name: &LockName) -> Result<bool, Error> {
        std::fs::remove_dir_all(self.lock(name)).map_err(failed)?;
        Ok(true)
    }

    async fn corrupt(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, |state| {
            let mut state = state.to_vec();
            let middle = state.len() / 2;
            state[middle] ^= 0x20;
            state
        })
        .map_err(failed)?;
        Ok(true)
    }

    async fn write_newer_format(&self, name: &LockName) -> Result<bool, Error> {
        self.rewrite(name, |state| {
            let text = String::from_utf8_lossy(state);
            text.replacen("tenure 2 ", "tenure 4 ", 1).into_bytes()
        })
        .map_err(failed)?;
        Ok(true)
    }
}

fn main() -> ExitCode {
    tenure_conformance::main(Files)
}
