//! Open directories of the store, and the checks of their entries.
//!
//! Every member of the group can replace the entries of a shared directory at any moment. Therefore
//! the kernel never resolves a path below the root: a directory is opened by one name, relative to
//! the descriptor of its parent and without following a link. Its type, owner and mode are checked
//! on its own descriptor.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use tenure_core::error::{Error, ErrorKind};

use crate::{
    config::Options,
    error::{io_error, path_error},
};

const DIRECTORY_FLAGS: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory that was opened without following a link, and checked.
#[derive(Debug)]
pub(crate) struct DirHandle {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
    options: Options,
    /// The owner of the root.
    root_owner: u32,
    operation: &'static str,
}

impl DirHandle {
    /// Wraps the descriptor of the root, which the caller has checked.
    pub(crate) fn root(
        fd: OwnedFd,
        path: &Path,
        options: Options,
        root_owner: u32,
        operation: &'static str,
    ) -> Self {
        Self {
            fd,
            path: path.to_path_buf(),
            options,
            root_owner,
            operation,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory in this one to use its entries (`O_PATH`); `None` if it is absent.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Self>, Error> {
        self.open_as(name, OFlags::PATH)
    }

    /// Opens a directory in this one to list it; `None` if it is absent.
    pub(crate) fn open_listing(&self, name: &str) -> Result<Option<Self>, Error> {
        self.open_as(name, OFlags::RDONLY)
    }

    fn open_as(&self, name: &str, flags: OFlags) -> Result<Option<Self>, Error> {
        let path = self.path.join(name);
        let failed = |errno| io_error(self.operation, &path, errno);
        let fd = match fs::openat(&self.fd, name, flags | DIRECTORY_FLAGS, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(self.not_a_directory(name)),
            other => other.map_err(failed)?,
        };
        let stat = fs::fstat(&fd).map_err(failed)?;
        if !self.options.shared && stat.st_uid != self.root_owner {
            return Err(path_error(
                ErrorKind::PermissionDenied,
                self.operation,
                &path,
                format!(
                    "it belongs to user {}, but the directory of locks belongs to user {}; delete \
                     it, or set `shared` if the directory of locks is for a group",
                    stat.st_uid, self.root_owner
                ),
            ));
        }
        check_mode(&path, &stat, self.options, self.operation)?;
        Ok(Some(Self {
            fd,
            path,
            options: self.options,
            root_owner: self.root_owner,
            operation: self.operation,
        }))
    }

    /// Opens a directory in this one, and creates it if it is absent.
    pub(crate) fn open_or_create(&self, name: &str) -> Result<Self, Error> {
        if let Some(dir) = self.open(name)? {
            return Ok(dir);
        }
        let failed = |errno| io_error(self.operation, &self.path.join(name), errno);
        make_dir(self.fd.as_fd(), Path::new(name), self.options).map_err(failed)?;
        self.open(name)?.ok_or_else(|| failed(Errno::NOENT))
    }

    /// Returns whether this process could have created the directory: it has the owner and the mode.
    pub(crate) fn is_as_created(&self) -> bool {
        let mode = self.options.dir_mode() & 0o7777;
        fs::fstat(&self.fd).is_ok_and(|stat| {
            stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o7777 == mode
        })
    }

    /// Returns the names of the entries, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<CString>, Error> {
        let failed = |errno| io_error(self.operation, &self.path, errno);
        let mut names = Vec::new();
        let flags = OFlags::RDONLY | DIRECTORY_FLAGS;
        let fd = fs::openat(&self.fd, ".", flags, Mode::empty()).map_err(failed)?;
        for entry in fs::Dir::new(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    /// Turns a handle of [`DirHandle::open_listing`] into a listing.
    pub(crate) fn into_listing(self) -> Result<(fs::Dir, PathBuf), Error> {
        let listing =
            fs::Dir::new(self.fd).map_err(|errno| io_error(self.operation, &self.path, errno))?;
        Ok((listing, self.path))
    }

    fn not_a_directory(&self, name: &str) -> Error {
        let path = self.path.join(name);
        let found = match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => describe(FileType::from_raw_mode(stat.st_mode)),
            Err(_) => "not a directory",
        };
        let what = format!("it is {found} in the place of a directory; remove it");
        path_error(ErrorKind::Config, self.operation, &path, what)
    }
}

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a directory by its path, without following a link at its end.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::PATH | DIRECTORY_FLAGS, Mode::empty())
}

/// Creates one directory, unless it already exists.
pub(crate) fn make_dir(parent: BorrowedFd<'_>, name: &Path, options: Options) -> Result<(), Errno> {
    let mode = options.dir_mode();
    match fs::mkdirat(parent, name, Mode::from_raw_mode((mode & 0o777) as _)) {
        Ok(()) if options.shared => {
            // The process's umask may have removed the group's permissions.
            let flags = OFlags::RDONLY | DIRECTORY_FLAGS;
            let fd = fs::openat(parent, name, flags, Mode::empty())?;
            fs::fchmod(&fd, Mode::from_raw_mode(mode as _))
        }
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Rejects a directory to which users other than the intended ones can write.
pub(crate) fn check_mode(
    path: &Path,
    stat: &Stat,
    options: Options,
    operation: &'static str,
) -> Result<(), Error> {
    let forbidden = if options.shared { 0o002 } else { 0o022 };
    let mode = stat.st_mode & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    let (writers, advice) = if options.shared {
        ("all users", "remove the permission with `chmod o-w`")
    } else {
        (
            "other users",
            "remove the permission with `chmod go-w`, or set `shared` if the directory is \
             for a group",
        )
    };
    Err(path_error(
        ErrorKind::PermissionDenied,
        operation,
        path,
        format!("{writers} can write to it (mode {mode:o}); {advice}"),
    ))
}

/// A directory entry that is not a directory, pinned by a descriptor that can neither read nor
/// write (`O_PATH`). Opening a device or a FIFO has effects, so its type is checked before.
#[derive(Debug)]
pub(crate) struct PinnedEntry<'a> {
    dir: BorrowedFd<'a>,
    name: &'a str,
    fd: OwnedFd,
    stat: Stat,
}

impl<'a> PinnedEntry<'a> {
    /// Pins an entry, which may be of any type. A link is not followed.
    pub(crate) fn new(dir: BorrowedFd<'a>, name: &'a str) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(dir, name, flags, Mode::empty())?;
        let stat = fs::fstat(&fd)?;
        Ok(Self {
            dir,
            name,
            fd,
            stat,
        })
    }

    /// Returns why this is not an entry of the expected type that exists only here.
    pub(crate) fn refusal(&self, expected: FileType) -> Option<String> {
        let found = FileType::from_raw_mode(self.stat.st_mode);
        if found != expected {
            return Some(format!(
                "it is {} in the place of {}",
                describe(found),
                describe(expected)
            ));
        }
        (self.stat.st_nlink > 1).then(|| "it is a hard link to a file that has another name".into())
    }

    /// Opens the pinned entry itself, whatever its name refers to by now. Does not wait for the
    /// other end of a FIFO.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        use std::os::fd::AsRawFd;

        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let pinned = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        match fs::open(pinned, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::ACCESS) => {}
            opened => return opened,
        }
        // `/proc` is not mounted or not readable, so the entry is opened by its name.
        let fd = fs::openat(self.dir, self.name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != (self.stat.st_dev, self.stat.st_ino) {
            return Err(Errno::NOENT);
        }
        Ok(fd)
    }
}

const fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "an entry of unknown type",
    }
}
