//! Deleting the state of a lock that no client uses any more.

use rustix::{
    fs::{self, AtFlags},
    io::Errno,
};
use tenure_core::{
    cas::{Key, Version},
    error::Error,
};

use crate::{
    FileStore,
    dir::{self, WRITING},
    error::io_error,
    paths::{self, TMP_DIR},
    root,
};

/// Deletes the directory of a lock if its current version is `expected`, and the directories above it that
/// this store has made and that are empty then. Returns whether nothing is left.
pub(crate) fn delete(store: &FileStore, key: &Key, expected: &Version) -> Result<bool, Error> {
    let (names, name) = paths::lock_names(key);
    let (Some(head), Some(root)) = (dir::head_file(expected), root::open(store, WRITING)?) else {
        return Ok(false);
    };
    let tmp = root.open_or_create(TMP_DIR)?;
    let mut parents = vec![root];
    for name in &names {
        let Some(parent) = parents.last().and_then(|dir| dir.open(name).transpose()) else {
            return Ok(true);
        };
        parents.push(parent?);
    }
    let Some(parent) = parents.last() else {
        return Ok(false);
    };
    let Some(dir) = parent.open(&name)? else {
        return Ok(true);
    };
    // Only one process renames or deletes this head. Without a head nobody can acquire the lock, so the
    // directory that is removed next is the same one.
    match fs::unlinkat(&dir, head, AtFlags::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        other => other.map_err(|errno| io_error(WRITING, dir.path(), errno))?,
    }
    root::remove_by_renaming(parent, &name, &tmp)
        .map_err(|errno| io_error(WRITING, dir.path(), errno))?;
    for (at, name) in names.iter().enumerate().rev() {
        // One that another client is about to use is created again.
        let is_ours = parents[at + 1].is_as_created();
        if !is_ours || fs::unlinkat(&parents[at], name, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tenure_core::{
        cas::Swap,
        name::{LockName, Namespace},
    };

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(Namespace::default(), LockName::new(name).unwrap())
    }

    fn create(store: &FileStore, key: &Key) -> Version {
        match dir::create(store, key, b"1").unwrap() {
            Swap::Swapped(version) => version,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_version_and_its_directory_stay() {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let first = create(&store, &key("job"));
        let swap = dir::replace(&store, &key("job"), &first, b"2").unwrap();
        assert!(!delete(&store, &key("job"), &first).unwrap());
        assert_eq!(dir::read(&store, &key("job")).unwrap().unwrap().bytes, b"2");
        let Swap::Swapped(second) = swap else {
            panic!("{swap:?}");
        };
        assert!(delete(&store, &key("job"), &second).unwrap());
        assert!(!paths::namespace_dir(root.path(), &Namespace::default()).exists());
    }

    #[test]
    fn directory_that_somebody_else_made_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let namespace = paths::namespace_dir(root.path(), &Namespace::default());
        std::fs::create_dir(&namespace).unwrap();
        std::fs::set_permissions(&namespace, PermissionsExt::from_mode(0o710)).unwrap();
        let version = create(&store, &key("job"));
        assert!(delete(&store, &key("job"), &version).unwrap());
        assert_eq!(std::fs::read_dir(namespace).unwrap().count(), 0);
    }

    /// Each thread deletes the directories that another one is about to use.
    #[test]
    fn locks_are_created_while_the_directories_above_are_deleted() {
        const ROUNDS: u32 = 1_000;
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (store, key) = (&store, key(&format!("{}{thread}", "x".repeat(450))));
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let version = create(store, &key);
                        assert!(delete(store, &key, &version).unwrap());
                    }
                });
            }
        });
    }
}
