//! The data of a version, stored in the targets of symbolic links or in a file.
//!
//! A link's target and name are written in the same step, and every journaling file system
//! preserves the order of this step and of the head's rename over a power loss. Therefore no
//! `fdatasync` is needed, which takes fifty times as long on a disk as everything else together. A
//! target holds one byte that tells whether another piece follows, and 1,000 bytes of data (XFS
//! limits a target to 1,024 bytes). The pieces are `data.<id>`, `data.<id>.1`, `data.<id>.2`. Links
//! are only read, never followed.
//!
//! Creating a link is the most expensive part of a change, so data of more than one piece is stored as
//! a delta if possible: the id of the previous version, and the lines that differ. Then the cost of a
//! change does not grow with the number of waiters. The version at the end of such a chain is its
//! base, which is stored whole. A chain has at most 32 deltas; after that, a version is stored whole
//! again. Whole data of more than 32 pieces, or data that a link cannot hold, is stored in one synced
//! file.

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
    delta,
    dir_handle::PinnedEntry,
    error::{errno, io_error, path_error},
};

/// Maximum number of pieces. Larger data is stored in a file.
pub(crate) const MAX_PIECES: u32 = 32;
/// Maximum number of deltas of a chain.
const MAX_DELTAS: usize = 32;
/// Maximum size of a delta.
const MAX_DELTA_BYTES: usize = 4 * PIECE_BYTES;
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

/// The stored bytes of a chain: the base version and the changes that lead from it to a later version.
#[derive(Debug)]
pub(crate) struct StoredData {
    /// The data of the base.
    base: Vec<u8>,
    /// The changes to it, in order.
    changes: Vec<Vec<u8>>,
    /// The versions with their numbers of pieces: this one first, the base last.
    pub(crate) chain: Vec<(Id, u32)>,
}

impl StoredData {
    /// Returns the checksum of everything that is stored.
    pub(crate) fn checksum(&self) -> u32 {
        let base = crc32fast::hash(&self.base);
        self.changes
            .iter()
            .fold(base, |sum, changes| checksum(sum, changes))
    }

    /// Returns the data; `None` if a delta is malformed.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        if self.changes.is_empty() {
            return Some(self.base.clone());
        }
        self.lines().map(|lines| lines.concat().into_bytes())
    }

    fn lines(&self) -> Option<Vec<&str>> {
        let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
        let base = delta::lines(&self.base)?;
        self.changes
            .iter()
            .try_fold(base, |lines, changes| delta::apply(&lines, changes, limit))
    }

    /// Returns the changes from this version to the next one, if they can be stored as a delta.
    fn changes_to(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() <= PIECE_BYTES || self.changes.len() >= MAX_DELTAS {
            return None;
        }
        delta::diff(&self.lines()?, &delta::lines(bytes)?, MAX_DELTA_BYTES)
    }
}

/// Returns the checksum of a version that is stored as a delta.
fn checksum(previous: u32, changes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(changes);
    hasher.finalize()
}

/// How a version was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) pieces: u32,
    /// Whether it needs the versions before it.
    pub(crate) is_delta: bool,
    /// The checksum of [`StoredData::checksum`].
    pub(crate) checksum: u32,
}

/// Writes the data of the version after `previous`.
pub(crate) fn write(
    dir: BorrowedFd<'_>,
    id: Id,
    bytes: &[u8],
    previous: Option<&StoredData>,
    options: Options,
) -> Result<Stored, Errno> {
    if bytes.contains(&0) {
        return write_file(dir, id, bytes, options);
    }
    if let Some(previous) = previous
        && let Some((previous_id, _)) = previous.chain.first()
        && let Some(changes) = previous.changes_to(bytes)
    {
        let mut delta = format!("{previous_id}\n").into_bytes();
        delta.extend_from_slice(&changes);
        if let Some(pieces) = write_links(dir, id, &delta, Form::Delta)? {
            return Ok(Stored {
                pieces,
                is_delta: true,
                checksum: checksum(previous.checksum(), &changes),
            });
        }
    }
    match write_links(dir, id, bytes, Form::Whole)? {
        Some(pieces) => Ok(Stored {
            pieces,
            is_delta: false,
            checksum: crc32fast::hash(bytes),
        }),
        None => write_file(dir, id, bytes, options),
    }
}

/// Writes data to links, and returns their number; `None` if links cannot hold it.
fn write_links(
    dir: BorrowedFd<'_>,
    id: Id,
    bytes: &[u8],
    form: Form,
) -> Result<Option<u32>, Errno> {
    let count = bytes.len().div_ceil(PIECE_BYTES);
    if count > MAX_PIECES as usize {
        return Ok(None);
    }
    for (piece, part) in id.pieces(MAX_PIECES).zip(bytes.chunks(PIECE_BYTES)) {
        let mark = Mark {
            form: if piece.index == 0 { form } else { Form::Whole },
            last: piece.index as usize + 1 == count,
        };
        let mut target = vec![mark.byte()];
        target.extend_from_slice(part);
        match fs::symlinkat(&*target, dir, piece.file()) {
            Ok(()) => {}
            // Not every file system supports links, or links of this length.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NAMETOOLONG)
                if piece.index == 0 =>
            {
                return Ok(None);
            }
            Err(errno) => return Err(errno),
        }
    }
    u32::try_from(count).map(Some).map_err(|_| Errno::FBIG)
}

/// Whether the pieces of a version contain its whole data, or the changes to the version before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Delta,
}

/// The first byte of a piece.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The form of the version; later pieces do not repeat it.
    form: Form,
    last: bool,
}

impl Mark {
    const fn byte(self) -> u8 {
        match (self.form, self.last) {
            (Form::Whole, true) => b'.',
            (Form::Whole, false) => b'+',
            (Form::Delta, true) => b'd',
            (Form::Delta, false) => b'D',
        }
    }

    fn parse(byte: u8) -> Option<Self> {
        let (form, last) = match byte {
            b'.' => (Form::Whole, true),
            b'+' => (Form::Whole, false),
            b'd' => (Form::Delta, true),
            b'D' => (Form::Delta, false),
            _ => return None,
        };
        Some(Self { form, last })
    }
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

/// Reads what is stored of a version. Returns `None` if a piece of its chain is missing.
pub(crate) fn read(dir: BorrowedFd<'_>, path: &Path, id: Id) -> Result<Option<StoredData>, Error> {
    let mut changes = Vec::new();
    let mut chain = Vec::new();
    let mut next = id;
    loop {
        let Some((mut bytes, pieces, form)) = read_stored(dir, path, next)? else {
            return Ok(None);
        };
        chain.push((next, pieces));
        if form == Form::Whole {
            changes.reverse();
            return Ok(Some(StoredData {
                base: bytes,
                changes,
                chain,
            }));
        }
        let corrupt = || corrupt_piece(&path.join(next.data()));
        let end = bytes.iter().position(|byte| *byte == b'\n');
        changes.push(bytes.split_off(end.ok_or_else(corrupt)? + 1));
        let previous = std::str::from_utf8(&bytes).ok().map(str::trim_end);
        let previous = previous.and_then(Id::parse).ok_or_else(corrupt)?;
        if changes.len() > MAX_DELTAS {
            return Err(corrupt());
        }
        next = previous;
    }
}

/// Reads what a version itself has stored, and the number of its pieces. Returns `None` if a piece
/// is missing.
fn read_stored(
    dir: BorrowedFd<'_>,
    path: &Path,
    id: Id,
) -> Result<Option<(Vec<u8>, u32, Form)>, Error> {
    let mut bytes = Vec::new();
    let mut form = Form::Whole;
    for piece in id.pieces(MAX_PIECES) {
        let file = piece.file();
        match fs::readlinkat(dir, &file, Vec::with_capacity(PIECE_BYTES + 24)) {
            Err(Errno::NOENT) => return Ok(None),
            // The name is not a link.
            Err(Errno::INVAL) if piece.index == 0 => {
                let whole = read_file(dir, &file, &path.join(&file))?;
                return Ok(whole.map(|bytes| (bytes, 1, Form::Whole)));
            }
            Err(errno) => return Err(io_error(READING, &path.join(&file), errno)),
            Ok(target) => {
                let target = target.as_bytes();
                bytes.extend_from_slice(target.get(1..).unwrap_or_default());
                let mark = target.first().copied().and_then(Mark::parse);
                let mark = mark.ok_or_else(|| corrupt_piece(&path.join(&file)))?;
                if piece.index == 0 {
                    form = mark.form;
                }
                if mark.last {
                    return Ok(Some((bytes, piece.index + 1, form)));
                }
            }
        }
    }
    Ok(None)
}

pub(crate) fn corrupt_piece(path: &Path) -> Error {
    path_error(
        ErrorKind::Corrupt,
        READING,
        path,
        "it is not a piece of the state of a lock; no client can hold this lock until it is \
         restored, or its directory is deleted, which frees the lock",
    )
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

fn write_file(
    dir: BorrowedFd<'_>,
    id: Id,
    bytes: &[u8],
    options: Options,
) -> Result<Stored, Errno> {
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
    Ok(Stored {
        pieces: 1,
        is_delta: false,
        checksum: crc32fast::hash(bytes),
    })
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
