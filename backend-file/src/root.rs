//! The root directory: created if it is absent, rejected if other users can write to it or other
//! hosts can access it.

use std::{
    fs::Metadata,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::io::Errno;
use tenure_core::{
    error::{Error, ErrorKind},
    id::ClientId,
};

use crate::{
    config::Options,
    error::{errno, io_error, path_error},
    paths::{FIFO_DIR, TMP_DIR},
};

const OPENING: &str = "opening the directory of locks";
/// Age from which a temporary directory is stale.
const STALE_TMP_AGE: Duration = Duration::from_secs(60);

/// Creates or validates the root, and removes the leftovers of dead processes.
pub(crate) fn prepare(root: &Path, options: Options) -> Result<(), Error> {
    create_or_validate(root, options)?;
    refuse_network(root, options)?;
    for inner in [TMP_DIR, FIFO_DIR] {
        make_dir(&root.join(inner), options)
            .map_err(|errno| io_error(OPENING, &root.join(inner), errno))?;
    }
    remove_stale_tmp(&root.join(TMP_DIR));
    Ok(())
}

/// Validates the root for a read-only client. Creates nothing; an absent root is a store without
/// locks. The superuser may inspect the roots of all users.
pub(crate) fn inspect(root: &Path, options: Options) -> Result<(), Error> {
    match std::fs::symlink_metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(OPENING, root, errno(&error))),
        Ok(meta) => {
            validate(root, &meta, options, rustix::process::geteuid().is_root())?;
            refuse_network(root, options)
        }
    }
}

/// Creates one directory, unless it already exists.
pub(crate) fn make_dir(path: &Path, options: Options) -> Result<(), Errno> {
    let mode = options.dir_mode();
    let made = std::fs::DirBuilder::new().mode(mode & 0o777).create(path);
    match made {
        Ok(()) if options.shared => {
            // The process's umask may have removed the group's permissions.
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, permissions).map_err(|error| errno(&error))
        }
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(errno(&error)),
    }
}

fn create_or_validate(root: &Path, options: Options) -> Result<(), Error> {
    let failed = |error: std::io::Error| io_error(OPENING, root, errno(&error));
    let meta = match std::fs::symlink_metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = root.parent() {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(parent)
                    .map_err(failed)?;
            }
            make_dir(root, options).map_err(|errno| io_error(OPENING, root, errno))?;
            std::fs::symlink_metadata(root).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    validate(root, &meta, options, false)
}

/// Validates owner, mode and type of a root. `allow_other_owner` permits a root of another user.
fn validate(
    root: &Path,
    meta: &Metadata,
    options: Options,
    allow_other_owner: bool,
) -> Result<(), Error> {
    if meta.is_symlink() {
        return Err(path_error(
            ErrorKind::Config,
            OPENING,
            root,
            "it is a symbolic link, which another user could change; use the path of the \
             directory itself",
        ));
    }
    if !meta.is_dir() {
        return Err(path_error(
            ErrorKind::Config,
            OPENING,
            root,
            "it is not a directory; choose another path",
        ));
    }
    let us = rustix::process::geteuid().as_raw();
    if !options.shared && !allow_other_owner && meta.uid() != us {
        return Err(path_error(
            ErrorKind::PermissionDenied,
            OPENING,
            root,
            format!(
                "it belongs to user {}, but this process runs as user {us}; run this as that user, \
                 choose another directory, or set `shared` if the directory is for a group",
                meta.uid()
            ),
        ));
    }
    let forbidden = if options.shared { 0o002 } else { 0o022 };
    let mode = meta.mode() & 0o7777;
    if mode & forbidden != 0 {
        let (writers, advice) = if options.shared {
            ("all users", "remove the permission with `chmod o-w`")
        } else {
            (
                "other users",
                "remove the permission with `chmod go-w`, or set `shared` if the directory is \
                 for a group",
            )
        };
        return Err(path_error(
            ErrorKind::PermissionDenied,
            OPENING,
            root,
            format!("{writers} can write to it (mode {mode:o}); {advice}"),
        ));
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn refuse_network(root: &Path, options: Options) -> Result<(), Error> {
    if options.allow_network {
        return Ok(());
    }
    let stat = rustix::fs::statfs(root).map_err(|errno| io_error(OPENING, root, errno))?;
    // The width of the type differs between architectures; the magic numbers have 32 bits.
    match network_kind(stat.f_type as u32) {
        None => Ok(()),
        Some(kind) => Err(path_error(
            ErrorKind::Config,
            OPENING,
            root,
            format!(
                "it is on a file system of type {kind}, which other hosts can share; choose a \
                 local directory, or set `allow_network` if its `rename` is atomic for all of them"
            ),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_root: &Path, _options: Options) -> Result<(), Error> {
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
/// one.
fn remove_stale_tmp(tmp: &Path) {
    let Ok(entries) = std::fs::read_dir(tmp) else {
        return;
    };
    for entry in entries.flatten() {
        let age = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_none_or(|age| age < STALE_TMP_AGE) {
            continue;
        }
        let Ok(nonce) = ClientId::random() else {
            return;
        };
        let trash = tmp.join(format!("trash.{nonce}"));
        if std::fs::rename(entry.path(), &trash).is_ok() {
            // Another process may remove it concurrently; leftovers are removed at the next
            // connect.
            let _ = std::fs::remove_dir_all(&trash);
        }
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
        let tmp = tempfile::tempdir().unwrap();
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
        remove_stale_tmp(tmp.path());
        let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(new.join("data.1.0").exists());
    }
}
