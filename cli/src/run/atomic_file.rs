//! Writes a file of a run in one step, and checks at the start that this will be possible.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::exit::{Failure, USAGE};

/// Replaces the file atomically: a reader finds the whole new content or the previous content.
///
/// The temporary file beside it has the mode 0600 and a name without an extension, so that no
/// collector reads it.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // A file that other programs have open is written in place.
    if is_open_file(path) {
        return OpenOptions::new()
            .append(true)
            .open(path)?
            .write_all(content);
    }
    // Replace the target of a link, not the link. A device or a FIFO is written in place.
    let target = match fs::canonicalize(path) {
        Err(_) if path.is_symlink() => return fs::write(path, content),
        resolved => resolved.unwrap_or_else(|_| path.to_owned()),
    };
    let path = &target;
    if path.exists() && !path.is_file() {
        // A FIFO that nobody reads must not stop the run.
        return OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?
            .write_all(content);
    }
    let mut file = NamedTempFile::new_in(parent_dir(path))?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Returns whether the path names a file that a process has open, such as `/dev/stdout`. To replace that
/// file would lose what others write to it.
fn is_open_file(path: &Path) -> bool {
    let target = fs::read_link(path).unwrap_or_else(|_| path.to_owned());
    fs::canonicalize(parent_dir(&target)).is_ok_and(|dir| dir.starts_with("/proc"))
}

/// Refuses at the start a file that could not be written at the end. `what` names the file in the
/// message.
pub(super) fn check_writable(path: &Path, what: &str) -> Result<(), Failure> {
    let refuse = |why: String| {
        let path = path.display().to_string();
        Failure::new(
            USAGE,
            format!("the {what} {path:?} cannot be written: {why}"),
        )
    };
    if path.is_dir() {
        return Err(refuse("it is a directory".to_owned()));
    }
    if is_open_file(path) {
        return Ok(());
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if path.exists() && !path.is_file() {
        return Ok(());
    }
    NamedTempFile::new_in(parent_dir(path)).map_err(|error| {
        // The message omits the name of the temporary file, which does not help the user.
        refuse(io::Error::from(error.kind()).to_string())
    })?;
    Ok(())
}

fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::symlink};

    use super::*;

    /// `/dev/stdout` is a link to `/proc/self/fd/1`, which a redirection makes a link to a file.
    #[test]
    fn file_that_is_open_elsewhere_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = fs::File::create(dir.path().join("out")).unwrap();
        let link = dir.path().join("stdout");
        symlink(format!("/proc/self/fd/{}", out.as_raw_fd()), &link).unwrap();
        check_writable(&link, "file").unwrap();
        out.write_all(b"of the command\n").unwrap();
        write(&link, b"1\n").unwrap();
        write(&link, b"2\n").unwrap();
        assert!(link.is_symlink());
        let text = fs::read_to_string(dir.path().join("out")).unwrap();
        assert_eq!(text, "of the command\n1\n2\n");
    }

    #[test]
    fn target_of_a_link_is_created() {
        let dir = tempfile::tempdir().unwrap();
        symlink(dir.path().join("target"), dir.path().join("link")).unwrap();
        write(&dir.path().join("link"), b"1\n").unwrap();
        assert_eq!(fs::read(dir.path().join("target")).unwrap(), b"1\n");
    }

    #[test]
    fn fifo_without_a_reader_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(write(&fifo, b"1\n").is_err());
    }
}
