//! Writes a file of a run in one step, and checks at the start that this will be possible.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::NamedTempFile;

use crate::exit::{Failure, USAGE};

/// Replaces the file atomically: a reader finds the whole new content or the previous content.
///
/// The temporary file beside it has the mode 0600 and a name without an extension, so that no
/// collector reads it.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // Replace the target of a link, not the link. A device or a FIFO is written in place.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if path.exists() && !path.is_file() {
        return OpenOptions::new()
            .write(true)
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
