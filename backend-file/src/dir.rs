//! The directory of one lock: reading its head, and compare-and-swap by renaming the head (ADR
//! 0003).
//!
//! The head is an empty file whose name, `head.<generation>.<nonce>`, is the version. The state is
//! in `data.<generation>.<nonce>` (see [`data`](crate::data)), which never changes once the head
//! refers to it. To publish the next version, a process writes the next data completely and then
//! renames the head. A nonce is never reused, so the old name exists until one process renames it
//! and never afterwards. The rename of any later process fails because the name is absent, whether
//! the process is a microsecond late or was stopped for a day.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{self, AtFlags, CWD, Mode, OFlags},
    io::Errno,
};
use tenure_core::{
    cas::{Swap, Version, Versioned},
    error::{Error, ErrorKind},
};

use crate::{
    config::Options,
    data::{self, Id, Piece},
    error::{io_error, path_error, publishing_error},
    paths::TMP_DIR,
    root,
};

const READING: &str = "reading the state of a lock";
const WRITING: &str = "writing the state of a lock";
/// Maximum number of reads when the listing is inconsistent, because the head was renamed during
/// the read.
const MAX_READ_RETRIES: u32 = 200;
/// Number of reads without a pause; later reads are preceded by one.
const IMMEDIATE_READ_RETRIES: u32 = 50;
/// Maximum number of stale files that one version records for removal.
const MAX_STALE_FILES: usize = 64;

/// The head, the number of pieces and the checksum of its data, and the stale pieces that can be
/// removed once it is replaced.
#[derive(Clone, Debug)]
struct Head {
    id: Id,
    pieces: u32,
    checksum: u32,
    stale: Vec<Piece>,
}

impl Head {
    /// Encodes the head as a version: the id, the number of pieces and the checksum, then the stale
    /// pieces, separated by commas.
    fn version(&self) -> Version {
        let mut text = format!("{}+{}+{}", self.id, self.pieces, self.checksum);
        for piece in self.stale.iter().take(MAX_STALE_FILES) {
            text.push(',');
            text.push_str(&piece.to_string());
        }
        Version::new(text)
    }

    fn parse(version: &Version) -> Option<Self> {
        let (head, stale) = match version.as_str().split_once(',') {
            Some((head, stale)) => (head, Some(stale)),
            None => (version.as_str(), None),
        };
        let (id, counts) = head.split_once('+')?;
        let (pieces, checksum) = counts.split_once('+')?;
        let stale = stale.into_iter().flat_map(|text| text.split(','));
        Some(Self {
            id: Id::parse(id)?,
            pieces: pieces.parse().ok()?,
            checksum: checksum.parse().ok()?,
            stale: stale.map(Piece::parse).collect::<Option<_>>()?,
        })
    }
}

/// Reads the current version of a lock; `None` if the lock's directory is absent or empty.
pub(crate) fn read(dir: &Path) -> Result<Option<Versioned>, Error> {
    let failed = |errno| io_error(READING, dir, errno);
    let mut listed = DirListing::default();
    for attempt in 0..MAX_READ_RETRIES {
        if attempt > IMMEDIATE_READ_RETRIES {
            std::thread::sleep(Duration::from_micros(200));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::open(dir, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut listing = fs::Dir::new(fd).map_err(failed)?;
        listed = list_dir(&mut listing).map_err(failed)?;
        if listed.entries == 0 {
            return Ok(None);
        }
        let Some(mut head) = listed.head.clone() else {
            continue;
        };
        let fd = listing.fd().map_err(failed)?;
        if let Some((bytes, pieces)) = data::read(fd, dir, head.id)? {
            head.pieces = pieces;
            head.checksum = crc32fast::hash(&bytes);
            return Ok(Some(Versioned::new(head.version(), bytes)));
        }
    }
    let what = match listed.head {
        None => "it has no file `head.*`".to_owned(),
        Some(head) => format!("its `{}` is missing or incomplete", head.id.data()),
    };
    Err(path_error(
        ErrorKind::Corrupt,
        READING,
        dir,
        format!(
            "{what}; no client can hold this lock until it is restored, or the directory is \
             deleted, which frees the lock"
        ),
    ))
}

/// Returns the file that contains the current state, for messages.
pub(crate) fn data_file(dir: &Path) -> Option<PathBuf> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(dir, flags, Mode::empty()).ok()?;
    let listed = list_dir(&mut fs::Dir::new(fd).ok()?).ok()?;
    Some(dir.join(listed.head?.id.data()))
}

/// Publishes the next version if the current one is `expected`.
pub(crate) fn replace(
    dir: &Path,
    expected: &Version,
    bytes: &[u8],
    options: Options,
) -> Result<Swap, Error> {
    let Some(head) = Head::parse(expected) else {
        return Ok(Swap::Conflict);
    };
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match fs::open(dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Swap::Conflict),
        other => other.map_err(|errno| io_error(WRITING, dir, errno))?,
    };
    let old_name = head.id.head();
    // Saves a write and a sync if another process has already published a version.
    match fs::statat(&fd, &old_name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Swap::Conflict),
        other => other.map_err(|errno| io_error(WRITING, dir, errno))?,
    };
    // The data may have been damaged since it was read; a new version must not hide that.
    match data::read(fd.as_fd(), dir, head.id)? {
        Some((bytes, _)) if crc32fast::hash(&bytes) == head.checksum => {}
        _ => return Ok(Swap::Conflict),
    }
    let next = Id::after(head.id.generation)?;
    let pieces = match data::write(&fd, next, bytes, options) {
        Ok(pieces) => pieces,
        Err(errno) => {
            data::remove(&fd, next, data::MAX_PIECES);
            return match errno {
                // The directory was deleted in the meantime.
                Errno::NOENT => Ok(Swap::Conflict),
                errno => Err(io_error(WRITING, &dir.join(next.data()), errno)),
            };
        }
    };
    match fs::renameat(&fd, &old_name, &fd, next.head()) {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            data::remove(&fd, next, pieces);
            return Ok(Swap::Conflict);
        }
        Err(errno) => return Err(publishing_error(WRITING, dir, errno)),
    }
    // The data of the previous version stays: after a power loss its head may reappear.
    for piece in &head.stale {
        let _ = fs::unlinkat(&fd, piece.file(), AtFlags::empty());
    }
    let head = Head {
        id: next,
        pieces,
        checksum: crc32fast::hash(bytes),
        stale: head.id.pieces(head.pieces).collect(),
    };
    Ok(Swap::Swapped(head.version()))
}

/// Publishes the first version of a lock whose directory is absent or empty. A temporary directory
/// is created and renamed into place; the rename fails if the place is taken.
pub(crate) fn create(
    root: &Path,
    dir: &Path,
    bytes: &[u8],
    options: Options,
) -> Result<Swap, Error> {
    let first = Id::after(0)?;
    let mut last = Errno::NOENT;
    for _ in 0..5 {
        let made = root.join(TMP_DIR).join(first.temporary_name());
        let prepared = match prepare(&made, first, bytes, options) {
            Ok(pieces) => fs::renameat(CWD, &made, CWD, dir).map(|()| pieces),
            Err(errno) => Err(errno),
        };
        match prepared {
            Ok(pieces) => {
                let head = Head {
                    id: first,
                    pieces,
                    checksum: crc32fast::hash(bytes),
                    stale: Vec::new(),
                };
                return Ok(Swap::Swapped(head.version()));
            }
            Err(Errno::NOENT | Errno::EXIST) if !dir.exists() => {
                // The parents are missing, or another process removed the temporary directory as
                // stale.
                last = Errno::NOENT;
                let _ = std::fs::remove_dir_all(&made);
                make_parents(root, dir, options)?;
            }
            Err(errno) => {
                let _ = std::fs::remove_dir_all(&made);
                return match errno {
                    Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT => Ok(Swap::Conflict),
                    errno => Err(publishing_error(WRITING, dir, errno)),
                };
            }
        }
    }
    Err(io_error(WRITING, dir, last))
}

fn prepare(made: &Path, first: Id, bytes: &[u8], options: Options) -> Result<u32, Errno> {
    root::make_dir(made, options)?;
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(made, flags, Mode::empty())?;
    let pieces = data::write(&fd, first, bytes, options)?;
    data::create_file(&fd, &first.head(), options)?;
    Ok(pieces)
}

fn make_parents(root: &Path, dir: &Path, options: Options) -> Result<(), Error> {
    let mut missing = vec![root.join(TMP_DIR)];
    let inside = dir.parent().into_iter().flat_map(Path::ancestors);
    missing.extend(
        inside
            .take_while(|path| path.starts_with(root))
            .map(Path::to_path_buf),
    );
    missing.push(root.to_path_buf());
    for path in missing.iter().rev() {
        root::make_dir(path, options).map_err(|errno| io_error(WRITING, path, errno))?;
    }
    Ok(())
}

#[derive(Default)]
struct DirListing {
    entries: usize,
    head: Option<Head>,
}

fn list_dir(listing: &mut fs::Dir) -> Result<DirListing, Errno> {
    let mut listed = DirListing::default();
    let mut highest: Option<Id> = None;
    let mut data = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            listed.entries += 1;
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        listed.entries += 1;
        if let Some(id) = name.strip_prefix("head.").and_then(Id::parse) {
            // A listing can contain both names of a head that is being renamed.
            highest = highest.max(Some(id));
        } else if let Some(piece) = name.strip_prefix("data.").and_then(Piece::parse) {
            data.push(piece);
        }
    }
    listed.head = highest.map(|id| Head {
        id,
        pieces: 0,
        checksum: 0,
        // Pieces that are not newer than the head and do not belong to it can never be published.
        stale: data
            .into_iter()
            .filter(|other| other.id.generation <= id.generation && other.id != id)
            .collect(),
    });
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(root: &Path) -> std::path::PathBuf {
        root::make_dir(&root.join(TMP_DIR), Options::default()).unwrap();
        root.join("default").join("job")
    }

    fn swapped(swap: Swap) -> Version {
        match swap {
            Swap::Swapped(version) => version,
            other => panic!("{other:?}"),
        }
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.rsplit_once('.').unwrap().0.to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn one_of_two_swaps_wins_and_the_other_conflicts() {
        let root = tempfile::tempdir().unwrap();
        let (root, options) = (root.path(), Options::default());
        let dir = some(root);
        assert!(read(&dir).unwrap().is_none());
        let first = swapped(create(root, &dir, b"1", options).unwrap());
        assert_eq!(create(root, &dir, b"x", options).unwrap(), Swap::Conflict);
        let second = swapped(replace(&dir, &first, b"2", options).unwrap());
        assert_eq!(
            replace(&dir, &first, b"x", options).unwrap(),
            Swap::Conflict
        );
        assert_eq!(read(&dir).unwrap().unwrap().bytes, b"2");
        assert_eq!(files(&dir), ["data.1", "data.2", "head.2"]);
        swapped(replace(&dir, &second, b"3", options).unwrap());
        assert_eq!(files(&dir), ["data.2", "data.3", "head.3"]);
        assert_eq!(std::fs::read_dir(root.join(TMP_DIR)).unwrap().count(), 0);
    }

    #[test]
    fn unfinished_proposal_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let (root, options) = (root.path(), Options::default());
        let dir = some(root);
        swapped(create(root, &dir, b"1", options).unwrap());
        std::fs::write(dir.join(format!("data.2.{:032x}", 5)), b"x").unwrap();
        for _ in 0..2 {
            let version = read(&dir).unwrap().unwrap().version;
            swapped(replace(&dir, &version, b"y", options).unwrap());
        }
        assert_eq!(files(&dir), ["data.2", "data.3", "head.3"]);
    }

    #[test]
    fn higher_of_two_heads_is_read_and_missing_head_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (root, options) = (root.path(), Options::default());
        let dir = some(root);
        let first = swapped(create(root, &dir, b"1", options).unwrap());
        swapped(replace(&dir, &first, b"2", options).unwrap());
        let old_head = dir.join(Head::parse(&first).unwrap().id.head());
        std::fs::write(&old_head, b"").unwrap();
        assert_eq!(read(&dir).unwrap().unwrap().bytes, b"2");
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("head.") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let error = read(&dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(read(&dir).unwrap().is_none());
        // A swap that expects a version of the deleted directory fails as well.
        assert_eq!(
            replace(&dir, &first, b"x", options).unwrap(),
            Swap::Conflict
        );
        std::fs::create_dir(&dir).unwrap();
        assert!(read(&dir).unwrap().is_none());
        swapped(create(root, &dir, b"again", options).unwrap());
        // It has the same generation as the deleted version, but a different nonce.
        assert_eq!(
            replace(&dir, &first, b"x", options).unwrap(),
            Swap::Conflict
        );
        assert_eq!(read(&dir).unwrap().unwrap().bytes, b"again");
    }

    #[test]
    fn data_of_every_size_round_trips_and_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let (root, options) = (root.path(), Options::default());
        let dir = some(root);
        let mut version = swapped(create(root, &dir, b"1", options).unwrap());
        for length in [1, 999, 1000, 1001, 5000, 31_999, 32_000, 32_001, 200_000, 1] {
            let bytes = vec![b'x'; length];
            // Both with the version from a read and with the version that the last swap returned.
            for from_read in [false, true] {
                if from_read {
                    version = read(&dir).unwrap().unwrap().version;
                }
                version = swapped(replace(&dir, &version, &bytes, options).unwrap());
                assert!(read(&dir).unwrap().unwrap().bytes == bytes, "{length}");
            }
            let most = 1 + 2 * length.div_ceil(1000).min(32);
            assert!(std::fs::read_dir(&dir).unwrap().count() <= most, "{length}");
        }
        // Data that a link cannot hold is preserved as well.
        swapped(replace(&dir, &version, b"a\0b", options).unwrap());
        assert_eq!(read(&dir).unwrap().unwrap().bytes, b"a\0b");
    }

    #[test]
    fn missing_data_file_is_an_error_with_its_name() {
        let root = tempfile::tempdir().unwrap();
        let (root, options) = (root.path(), Options::default());
        let dir = some(root);
        let first = swapped(create(root, &dir, b"1", options).unwrap());
        let data = Head::parse(&first).unwrap().id.data();
        std::fs::remove_file(dir.join(&data)).unwrap();
        let error = read(&dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&data), "{error}");
    }
}
