//! Conversion of system errors to errors with advice.

use std::path::Path;

use rustix::io::Errno;
use tenure_core::error::{Error, ErrorKind};

/// Returns the error of a failed system call before which nothing was published.
pub(crate) fn io_error(operation: &'static str, path: &Path, errno: Errno) -> Error {
    let (kind, advice) = match errno {
        Errno::ACCESS | Errno::PERM => (
            ErrorKind::PermissionDenied,
            "this user needs read and write permission",
        ),
        Errno::ROFS => (
            ErrorKind::PermissionDenied,
            "choose a directory on a writable file system",
        ),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
            (ErrorKind::Exhausted, "free some space and try again")
        }
        Errno::MFILE | Errno::NFILE => (
            ErrorKind::Unavailable,
            "raise the limit of open files (`ulimit -n`) and try again",
        ),
        Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NAMETOOLONG | Errno::INVAL => (
            ErrorKind::Config,
            "the path is not usable; remove what is there or choose another directory",
        ),
        _ => (ErrorKind::Unavailable, "check the disk"),
    };
    let source = std::io::Error::from(errno);
    Error::new(kind, operation)
        .with_detail(format!("{}: {source}; {advice}", path.display()))
        .with_source(source)
}

/// Returns the error of a failed system call that may have published a version.
pub(crate) fn publishing_error(operation: &'static str, path: &Path, errno: Errno) -> Error {
    let error = io_error(operation, path, errno);
    match error.kind() {
        ErrorKind::Unavailable => error.with_kind(ErrorKind::OutcomeUnknown),
        _ => error,
    }
}

/// Returns an error about a path that no failed system call caused.
pub(crate) fn path_error(
    kind: ErrorKind,
    operation: &'static str,
    path: &Path,
    what: impl std::fmt::Display,
) -> Error {
    Error::new(kind, operation).with_detail(format!("{}: {what}", path.display()))
}

/// Returns the number of an I/O error; `EIO` if it has none.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Returns whether the error says that a file or directory is absent.
pub(crate) fn is_absent(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| errno(source) == Errno::NOENT)
}
