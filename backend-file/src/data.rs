//! Where the bytes of a version are: in the targets of symbolic links, or in a file.
//!
//! A link's target is written in the same step as the link's name, and every journaling file
//! system keeps the order of the two and of the head's renaming over a loss of power. So it needs
//! no `fdatasync`, which on a disk takes fifty times as long as all the rest. A target holds 1,000
//! bytes (XFS takes 1,024), after one byte that says whether another piece follows: the pieces are
//! `data.<id>`, `data.<id>.1`, `data.<id>.2`. More than 32 pieces, and what a link cannot hold,
//! are one synced file. The links are only ever read, never followed.

use std::{
    fmt,
    fs::File,
    io::Read,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};
use tenure_core::{
    error::{Error, ErrorKind},
    id::ClientId,
};

use crate::{
    config::Options,
    error::{errno, io_error, path_error},
};

/// More than this is a file.
pub(crate) const MAX_PIECES: u32 = 32;
/// Bytes of one piece.
const PIECE_BYTES: usize = 1000;
/// A state beyond this size was not written by us.
const MAX_FILE_BYTES: u64 = 64 << 20;
const READING: &str = "reading the state of a lock";

/// One version: the generation and the nonce that nobody else draws.
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

    /// The name of a directory in the making.
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

/// One piece of the data of a version.
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

/// Writes the data of a version whole, and returns of how many pieces it is.
pub(crate) fn write(dir: &OwnedFd, id: Id, bytes: &[u8], options: Options) -> Result<u32, Errno> {
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
            // Not every file system has links, or links of that length.
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

/// Removes the data of a version that will not be published. What cannot be removed is cleared
/// away with a later version.
pub(crate) fn remove(dir: &OwnedFd, id: Id, pieces: u32) {
    for piece in id.pieces(pieces) {
        if fs::unlinkat(dir, piece.file(), AtFlags::empty()).is_err() {
            return;
        }
    }
}

/// Reads the data of a version, and of how many pieces it is; `None` if a piece is missing.
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
            // Not a link.
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
                            "it is not a piece of the state of a lock; nobody can hold this lock \
                             until that is restored, or its directory is deleted, which frees \
                             the lock",
                        ));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// Makes an empty file.
pub(crate) fn create_file(dir: &OwnedFd, name: &str, options: Options) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(options.file_mode() as _);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, mode)?;
    if options.shared {
        // The process's mask may have taken the group's rights away.
        fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

fn write_file(dir: &OwnedFd, id: Id, bytes: &[u8], options: Options) -> Result<u32, Errno> {
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
    // Without this a loss of power could leave a head that names an empty file.
    fs::fdatasync(&fd)?;
    Ok(1)
}

fn read_file(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    // Not blocking: something else than a file could have been put in its place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other.map_err(|errno| io_error(READING, path, errno))?),
    };
    let mut bytes = Vec::with_capacity(1024);
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| io_error(READING, path, errno(&error)))?;
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
