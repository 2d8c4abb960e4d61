//! The data of a version, stored in the targets of symbolic links or in a file.
//!
//! A link's target and name are written in the same step, and every journaling file system
//! preserves the order of this step and of the head's rename over a power loss. Therefore no
//! `fdatasync` is needed, which takes fifty times as long on a disk as everything else together. A
//! target holds one byte that tells whether another piece follows, and 1,000 bytes of data (XFS
//! limits a target to 1,024 bytes). The pieces are `data.<id>`, `data.<id>.1`, `data.<id>.2`. Data
//! of more than 32 pieces, or data that a link cannot hold, is stored in one synced file. Links are
//! only read, never followed.

use std::{
    fmt,
    fs::File,
    io::Read,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use tenure_core::{
    error::{Error, ErrorKind},
    id::ClientId,
};

use crate::{
    config::Options,
    dir_handle::PinnedEntry,
    error::{errno, io_error, path_error},
};

/// Maximum number of pieces. Larger data is stored in a file.
pub(crate) const MAX_PIECES: u32 = 32;
/// Bytes of data in one piece.
const PIECE_BYTES: usize = 1000;
/// Maximum size of a state file. This backend never writes a larger one.
const MAX_FILE_BYTES: u64 = 64 << 20;
const READING: &str = "reading the state of a lock";

/// The id of a version: its generation and a unique nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) generation: u64,
    nonce: ClientId,
}

impl Id {
    pub(crate) fn after(generation: u64) -> Result<Self, Error> {
        Ok(Self {
            generation: generation.saturating_add(1),
            nonce: ClientId::random()?,
        })
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, nonce) = text.split_once('.')?;
        Some(Self {
            generation: canonical(number)?,
            nonce: ClientId::parse(nonce)?,
        })
    }

    pub(crate) fn head(self) -> String {
        format!("head.{self}")
    }

    pub(crate) fn data(self) -> String {
        format!("data.{self}")
    }

    /// Returns the name of the temporary directory of a new lock.
    pub(crate) fn temporary_name(self) -> String {
        self.nonce.to_string()
    }

    pub(crate) fn pieces(self, count: u32) -> impl Iterator<Item = Piece> {
        (0..count.min(MAX_PIECES)).map(move |index| Piece { id: self, index })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.nonce)
    }
}

/// A piece of the data of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: Id,
    index: u32,
}

impl Piece {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(id) = Id::parse(text) {
            return Some(Self { id, index: 0 });
        }
        let (id, index) = text.rsplit_once('.')?;
        Some(Self {
            id: Id::parse(id)?,
            index: u32::try_from(canonical(index)?).ok()?,
        })
    }

    pub(crate) fn file(self) -> String {
        format!("data.{self}")
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => self.id.fmt(f),
            index => write!(f, "{}.{index}", self.id),
        }
    }
}

fn canonical(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Writes the complete data of a version, and returns the number of pieces.
pub(crate) fn write(
    dir: BorrowedFd<'_>,
    id: Id,
    bytes: &[u8],
    options: Options,
) -> Result<u32, Errno> {
    let count = bytes.len().div_ceil(PIECE_BYTES);
    if count > MAX_PIECES as usize || bytes.contains(&0) {
        return write_file(dir, id, bytes, options);
    }
    for (piece, part) in id.pieces(MAX_PIECES).zip(bytes.chunks(PIECE_BYTES)) {
        let last = piece.index as usize + 1 == count;
        let mut target = vec![if last { b'.' } else { b'+' }];
        target.extend_from_slice(part);
        match fs::symlinkat(&*target, dir, piece.file()) {
            Ok(()) => {}
            // Not every file system supports links, or links of this length.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NAMETOOLONG)
                if piece.index == 0 =>
            {
                return write_file(dir, id, bytes, options);
            }
            Err(errno) => return Err(errno),
        }
    }
    u32::try_from(count).map_err(|_| Errno::FBIG)
}

/// Removes the data of a version that is not published. Pieces that cannot be removed now are
/// removed with a later version.
pub(crate) fn remove(dir: BorrowedFd<'_>, id: Id, pieces: u32) {
    for piece in id.pieces(pieces) {
        if fs::unlinkat(dir, piece.file(), AtFlags::empty()).is_err() {
            return;
        }
    }
}

/// Reads the data of a version. Returns it with the number of pieces, or `None` if a piece is
/// missing.
pub(crate) fn read(
    dir: BorrowedFd<'_>,
    path: &Path,
    id: Id,
) -> Result<Option<(Vec<u8>, u32)>, Error> {
    let mut bytes = Vec::new();
    for piece in id.pieces(MAX_PIECES) {
        let file = piece.file();
        match fs::readlinkat(dir, &file, Vec::with_capacity(PIECE_BYTES + 24)) {
            Err(Errno::NOENT) => return Ok(None),
            // The name is not a link.
            Err(Errno::INVAL) if piece.index == 0 => {
                let whole = read_file(dir, &file, &path.join(&file))?;
                return Ok(whole.map(|bytes| (bytes, 1)));
            }
            Err(errno) => return Err(io_error(READING, &path.join(&file), errno)),
            Ok(target) => {
                let target = target.as_bytes();
                let part = target.get(1..).unwrap_or_default();
                bytes.extend_from_slice(part);
                match target.first() {
                    Some(b'+') => {}
                    Some(b'.') => return Ok(Some((bytes, piece.index + 1))),
                    _ => {
                        return Err(path_error(
                            ErrorKind::Corrupt,
                            READING,
                            &path.join(&file),
                            "it is not a piece of the state of a lock; no client can hold this lock \
                             until it is restored, or its directory is deleted, which frees \
                             the lock",
                        ));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// Creates an empty file.
pub(crate) fn create_file(
    dir: BorrowedFd<'_>,
    name: &str,
    options: Options,
) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(options.file_mode() as _);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, mode)?;
    if options.shared {
        // The process's umask may have removed the group's permissions.
        fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

fn write_file(dir: BorrowedFd<'_>, id: Id, bytes: &[u8], options: Options) -> Result<u32, Errno> {
    let fd = create_file(dir, &id.data(), options)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Without this, a power loss could leave a head that refers to an empty file.
    fs::fdatasync(&fd)?;
    Ok(1)
}

fn read_file(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |errno| io_error(READING, path, errno);
    let entry = match PinnedEntry::new(dir, name) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(failed)?,
    };
    if let Some(what) = entry.refusal(FileType::RegularFile) {
        return Err(path_error(
            ErrorKind::Corrupt,
            READING,
            path,
            format!("{what}; delete its directory, which frees the lock"),
        ));
    }
    let file = File::from(entry.open(OFlags::RDONLY).map_err(failed)?);
    let mut bytes = Vec::with_capacity(1024);
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(errno(&error)))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(path_error(
            ErrorKind::Corrupt,
            READING,
            path,
            "it is too large for the state of a lock; delete its directory, which frees the lock",
        ));
    }
    Ok(Some(bytes))
}
