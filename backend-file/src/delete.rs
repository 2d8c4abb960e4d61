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
