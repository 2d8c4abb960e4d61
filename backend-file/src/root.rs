//! The root directory: created if it is absent, rejected if other users can write to it or other
//! hosts can access it.

use std::{
    os::unix::fs::DirBuilderExt,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType},
    io::Errno,
};
use tenure_core::{
    error::{Error, ErrorKind},
    id::ClientId,
};

use crate::{
    FileStore,
    dir_handle::{self, DirHandle, check_mode, make_dir},
    error::{errno, io_error, path_error},
    paths::{FIFO_DIR, TMP_DIR},
};

const OPENING: &str = "opening the directory of locks";
/// Age from which a temporary directory is stale.
const STALE_TMP_AGE: Duration = Duration::from_secs(60);

/// Creates or validates the root, removes the leftovers of dead processes, and returns the
/// directory of the FIFOs.
pub(crate) fn prepare(store: &FileStore) -> Result<DirHandle, Error> {
    let root = open_or_create(store, OPENING)?;
    refuse_network(&root, store)?;
    remove_stale_tmp(&root.open_or_create(TMP_DIR)?);
    root.open_or_create(FIFO_DIR)
}

/// Validates the root for a read-only client. Creates nothing; an absent root is a store without
/// locks.
pub(crate) fn inspect(store: &FileStore) -> Result<(), Error> {
    match open(store, OPENING)? {
        None => Ok(()),
        Some(root) => refuse_network(&root, store),
    }
}

/// Opens and validates the root; `None` if it is absent. The root is opened anew for each
/// operation, so that all processes use the directory that now has this path.
pub(crate) fn open(store: &FileStore, operation: &'static str) -> Result<Option<DirHandle>, Error> {
    let root = store.root();
    let failed = |errno| io_error(operation, root, errno);
    let fd = match dir_handle::open_path(root) {
        Err(Errno::NOENT) => return Ok(None),
        Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
            return Err(not_a_directory(store, operation).unwrap_or_else(|| failed(errno)));
        }
        other => other.map_err(failed)?,
    };
    let stat = fs::fstat(&fd).map_err(failed)?;
    let us = rustix::process::geteuid();
    // The superuser may inspect the roots of all users.
    let allow_other_owner = store.options.shared || (store.read_only && us.is_root());
    if !allow_other_owner && stat.st_uid != us.as_raw() {
        return Err(path_error(
            ErrorKind::PermissionDenied,
            operation,
            root,
            format!(
                "it belongs to user {}, but this process runs as user {us}; run this as that user, \
                 choose another directory, or set `shared` if the directory is for a group",
                stat.st_uid
            ),
        ));
    }
    check_mode(root, &stat, store.options, operation)?;
    Ok(Some(DirHandle::root(
        fd,
        root,
        store.options,
        stat.st_uid,
        operation,
    )))
}

/// Opens and validates the root, and creates it with its parents if it is absent.
pub(crate) fn open_or_create(
    store: &FileStore,
    operation: &'static str,
) -> Result<DirHandle, Error> {
    if let Some(root) = open(store, operation)? {
        return Ok(root);
    }
    let failed = |errno| io_error(operation, store.root(), errno);
    if let Some(parent) = store.root().parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|error| failed(errno(&error)))?;
    }
    make_dir(CWD, store.root(), store.options).map_err(failed)?;
    open(store, operation)?.ok_or_else(|| failed(Errno::NOENT))
}

/// Opens the directory that a sequence of names leads to from the root; `None` if it is absent.
pub(crate) fn open_below(
    store: &FileStore,
    names: &[String],
    operation: &'static str,
) -> Result<Option<DirHandle>, Error> {
    let mut dir = open(store, operation)?;
    for name in names {
        let Some(parent) = dir else { break };
        dir = parent.open(name)?;
    }
    Ok(dir)
}

fn not_a_directory(store: &FileStore, operation: &'static str) -> Option<Error> {
    let stat = fs::lstat(store.root()).ok()?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            "it is a symbolic link, which another user could change; use the path of the \
             directory itself"
        }
        _ => "it is not a directory; choose another path",
    };
    Some(path_error(ErrorKind::Config, operation, store.root(), what))
}

#[cfg(target_os = "linux")]
fn refuse_network(root: &DirHandle, store: &FileStore) -> Result<(), Error> {
    if store.options.allow_network {
        return Ok(());
    }
    let stat = fs::fstatfs(root).map_err(|errno| io_error(OPENING, root.path(), errno))?;
    // The width of the type differs between architectures; the magic numbers have 32 bits.
    match network_kind(stat.f_type as u32) {
        None => Ok(()),
        Some(kind) => Err(path_error(
            ErrorKind::Config,
            OPENING,
            root.path(),
            format!(
                "it is on a file system of type {kind}, which other hosts can share; choose a \
                 local directory, or set `allow_network` if its `rename` is atomic for all of them"
            ),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_root: &DirHandle, _store: &FileStore) -> Result<(), Error> {
    Ok(())
}

/// Returns the name of a file system type that several kernels can write to.
#[cfg(target_os = "linux")]
const fn network_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x6573_5546 => "FUSE or virtiofs",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x786f_4256 => "VirtualBox shared folder",
        0x1983_0326 => "BeeGFS",
        _ => return None,
    })
}

/// Removes stale temporary directories. Each is renamed before it is emptied. So a creator that was
/// only slow finds the directory missing and creates another one, and never publishes an incomplete
/// one. A temporary directory contains no directories, so nothing is removed recursively.
fn remove_stale_tmp(tmp: &DirHandle) {
    let Ok(names) = tmp.names() else {
        return;
    };
    for name in names {
        if !fs::statat(tmp, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_stale_dir(&stat))
        {
            continue;
        }
        let Ok(name) = name.into_string() else {
            continue;
        };
        // Another process may remove it concurrently; leftovers are removed at a later connect.
        let _ = remove_by_renaming(tmp, &name, tmp);
    }
}

/// Renames a directory to one below `tmp`, and removes it with its entries, none of which is a
/// directory. Only the rename can fail.
pub(crate) fn remove_by_renaming(
    parent: &DirHandle,
    name: &str,
    tmp: &DirHandle,
) -> Result<(), Errno> {
    let nonce = ClientId::random().map_err(|_| Errno::AGAIN)?;
    let trash = format!("trash.{nonce}");
    fs::renameat(parent, name, tmp, &trash)?;
    empty(tmp, &trash);
    let _ = fs::unlinkat(tmp, &trash, AtFlags::REMOVEDIR);
    Ok(())
}

fn is_stale_dir(stat: &fs::Stat) -> bool {
    let modified = u64::try_from(stat.st_mtime).unwrap_or_default();
    let age =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(modified));
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && age.is_ok_and(|age| age >= STALE_TMP_AGE)
}

/// Removes the entries of a directory that are not directories.
fn empty(parent: &DirHandle, name: &str) {
    let Ok(Some(dir)) = parent.open(name) else {
        return;
    };
    for entry in dir.names().unwrap_or_default() {
        let _ = fs::unlinkat(&dir, &entry, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn network_file_systems_are_recognized() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xff53_4d42), Some("SMB"));
        // ext, xfs, btrfs, tmpfs, overlay
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(network_kind(local), None);
        }
    }

    #[test]
    fn only_stale_directories_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let tmp = open_or_create(&store, OPENING).unwrap();
        let tmp = tmp.open_or_create(TMP_DIR).unwrap();
        let old = tmp.path().join("old");
        let new = tmp.path().join("new");
        for dir in [&old, &new] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("data.1.0"), "x").unwrap();
        }
        let past = SystemTime::now() - 2 * STALE_TMP_AGE;
        std::fs::File::open(&old)
            .unwrap()
            .set_modified(past)
            .unwrap();
        remove_stale_tmp(&tmp);
        let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(new.join("data.1.0").exists());
    }
}
