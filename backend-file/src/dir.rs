//! One lock's directory: reading its head, and compare-and-swap by renaming the head (ADR 0003).
//!
//! The head is an empty file whose name, `head.<generation>.<nonce>`, is the version; the state
//! is in `data.<generation>.<nonce>`, which never changes once the head names it. To publish the
//! next version a process writes the next data file whole, syncs it, and renames the head. A nonce
//! is never used again, so the name that is renamed exists until one process has renamed it and
//! never after: whoever comes later, by a microsecond or after having been stopped for a day, is
//! told that it is not there.

use std::{
    fmt,
    fs::File,
    io::Read,
    os::fd::OwnedFd,
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
    id::ClientId,
};

use crate::{
    config::Options,
    error::{errno, found, perhaps_published, unpublished},
    paths::TMP,
    root,
};

const READING: &str = "reading the state of a lock";
const WRITING: &str = "writing the state of a lock";
/// A state beyond this size was not written by us.
const MOST_BYTES: u64 = 64 << 20;
/// How often to look again when what was seen does not fit together, because the head was renamed
/// while it was looked for.
const LOOKS: u32 = 200;
/// Looks in quick succession before the others take some time.
const QUICK_LOOKS: u32 = 50;
/// Files to clear away that one version remembers.
const MOST_LITTER: usize = 64;

/// One version: the generation and the nonce that nobody else draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    generation: u64,
    nonce: ClientId,
}

impl Id {
    fn after(generation: u64) -> Result<Self, Error> {
        Ok(Self {
            generation: generation.saturating_add(1),
            nonce: ClientId::random()?,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, nonce) = text.split_once('.')?;
        let generation: u64 = number.parse().ok()?;
        (generation.to_string() == number).then_some(Self {
            generation,
            nonce: ClientId::parse(nonce)?,
        })
    }

    fn head(self) -> String {
        format!("head.{self}")
    }

    fn data(self) -> String {
        format!("data.{self}")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.nonce)
    }
}

/// The head, and the data files that nobody needs once it is replaced.
#[derive(Clone, Debug)]
struct Head {
    id: Id,
    litter: Vec<Id>,
}

impl Head {
    /// As a version: the ids, with commas between them, the head's first.
    fn version(&self) -> Version {
        let mut text = self.id.to_string();
        for id in self.litter.iter().take(MOST_LITTER) {
            text.push(',');
            text.push_str(&id.to_string());
        }
        Version::new(text)
    }

    fn parse(version: &Version) -> Option<Self> {
        let mut ids = version.as_str().split(',').map(Id::parse);
        let id = ids.next()??;
        Some(Self {
            id,
            litter: ids.collect::<Option<_>>()?,
        })
    }
}

/// Reads the present version of a lock; `None` if the lock has no directory, or an empty one.
pub(crate) fn read(dir: &Path) -> Result<Option<Versioned>, Error> {
    let failed = |errno| unpublished(READING, dir, errno);
    let mut seen = Seen::default();
    for look in 0..LOOKS {
        if look > QUICK_LOOKS {
            std::thread::sleep(Duration::from_micros(200));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::open(dir, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let listing = fs::Dir::new(fd).map_err(failed)?;
        seen = look_through(listing).map_err(failed)?;
        if seen.entries == 0 {
            return Ok(None);
        }
        let Some(head) = seen.head.clone() else {
            continue;
        };
        let path = dir.join(head.id.data());
        match open_data(&path) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(unpublished(READING, &path, errno)),
            Ok(file) => {
                let bytes = read_whole(file, &path)?;
                return Ok(Some(Versioned::new(head.version(), bytes)));
            }
        }
    }
    let what = match seen.head {
        None => "it has no file `head.*`".to_owned(),
        Some(head) => format!("its file `{}` is missing", head.id.data()),
    };
    Err(found(
        ErrorKind::Corrupt,
        READING,
        dir,
        format!(
            "{what}; nobody can hold this lock until that is restored, or the directory is \
             deleted, which frees the lock"
        ),
    ))
}

/// The file that has the state at present, for messages.
pub(crate) fn data_file(dir: &Path) -> Option<PathBuf> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(dir, flags, Mode::empty()).ok()?;
    let seen = look_through(fs::Dir::new(fd).ok()?).ok()?;
    Some(dir.join(seen.head?.id.data()))
}

/// Publishes the next version if the present one is `expected`.
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
        other => other.map_err(|errno| unpublished(WRITING, dir, errno))?,
    };
    let old_name = head.id.head();
    // Spares a write and a sync when it is plain already that somebody was faster.
    match fs::statat(&fd, &old_name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Swap::Conflict),
        other => other.map_err(|errno| unpublished(WRITING, dir, errno))?,
    };
    let next = Id::after(head.id.generation)?;
    let data = next.data();
    let discard = || {
        // A failure leaves a file that is cleared away with a later version.
        let _ = fs::unlinkat(&fd, &data, AtFlags::empty());
    };
    if let Err(errno) = write_data(&fd, &data, bytes, options) {
        discard();
        return match errno {
            // The directory was deleted under our feet.
            Errno::NOENT => Ok(Swap::Conflict),
            errno => Err(unpublished(WRITING, &dir.join(&data), errno)),
        };
    }
    match fs::renameat(&fd, &old_name, &fd, next.head()) {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            discard();
            return Ok(Swap::Conflict);
        }
        Err(errno) => return Err(perhaps_published(WRITING, dir, errno)),
    }
    // The data of the version before stays: after a loss of power its head may be back.
    for id in &head.litter {
        let _ = fs::unlinkat(&fd, id.data(), AtFlags::empty());
    }
    let head = Head {
        id: next,
        litter: vec![head.id],
    };
    Ok(Swap::Swapped(head.version()))
}

/// Publishes the first version of a lock that has no directory, or an empty one: made aside, and
/// renamed into its place, which fails if something is there.
pub(crate) fn create(
    root: &Path,
    dir: &Path,
    bytes: &[u8],
    options: Options,
) -> Result<Swap, Error> {
    let first = Id::after(0)?;
    let mut last = Errno::NOENT;
    for _ in 0..5 {
        let made = root.join(TMP).join(first.nonce.to_string());
        let prepared = match prepare(&made, first, bytes, options) {
            Ok(()) => fs::renameat(CWD, &made, CWD, dir),
            Err(errno) => Err(errno),
        };
        match prepared {
            Ok(()) => {
                let litter = Vec::new();
                return Ok(Swap::Swapped(Head { id: first, litter }.version()));
            }
            Err(Errno::NOENT | Errno::EXIST) if !dir.exists() => {
                // The parents are missing, or somebody took ours for left behind.
                last = Errno::NOENT;
                let _ = std::fs::remove_dir_all(&made);
                make_parents(root, dir, options)?;
            }
            Err(errno) => {
                let _ = std::fs::remove_dir_all(&made);
                return match errno {
                    Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT => Ok(Swap::Conflict),
                    errno => Err(perhaps_published(WRITING, dir, errno)),
                };
            }
        }
    }
    Err(unpublished(WRITING, dir, last))
}

fn prepare(made: &Path, first: Id, bytes: &[u8], options: Options) -> Result<(), Errno> {
    root::make_dir(made, options)?;
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(made, flags, Mode::empty())?;
    write_data(&fd, &first.data(), bytes, options)?;
    create_file(&fd, &first.head(), options).map(drop)
}

fn make_parents(root: &Path, dir: &Path, options: Options) -> Result<(), Error> {
    let mut missing = vec![root.join(TMP)];
    let inside = dir.parent().into_iter().flat_map(Path::ancestors);
    missing.extend(
        inside
            .take_while(|path| path.starts_with(root))
            .map(Path::to_path_buf),
    );
    missing.push(root.to_path_buf());
    for path in missing.iter().rev() {
        root::make_dir(path, options).map_err(|errno| unpublished(WRITING, path, errno))?;
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    entries: usize,
    head: Option<Head>,
}

fn look_through(mut listing: fs::Dir) -> Result<Seen, Errno> {
    let mut seen = Seen::default();
    let mut highest: Option<Id> = None;
    let mut data = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            seen.entries += 1;
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        seen.entries += 1;
        if let Some(id) = name.strip_prefix("head.").and_then(Id::parse) {
            // Both names of a head that is being renamed may be seen.
            highest = highest.max(Some(id));
        } else if let Some(id) = name.strip_prefix("data.").and_then(Id::parse) {
            data.push(id);
        }
    }
    seen.head = highest.map(|id| Head {
        id,
        // What is not newer than the head and not its own can never be published any more.
        litter: data
            .into_iter()
            .filter(|other| other.generation <= id.generation && *other != id)
            .collect(),
    });
    Ok(seen)
}

fn open_data(path: &Path) -> Result<File, Errno> {
    // Not blocking: something else than a file could have been put in its place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map(File::from)
}

fn read_whole(file: File, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(1024);
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unpublished(READING, path, errno(&error)))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(found(
            ErrorKind::Corrupt,
            READING,
            path,
            "it is too large for the state of a lock; delete its directory, which frees the lock",
        ));
    }
    Ok(bytes)
}

fn create_file(dir: &OwnedFd, name: &str, options: Options) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(options.file_mode() as _);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, mode)?;
    if options.shared {
        // The process's mask may have taken the group's rights away.
        fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

fn write_data(dir: &OwnedFd, name: &str, bytes: &[u8], options: Options) -> Result<(), Errno> {
    let fd = create_file(dir, name, options)?;
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
    fs::fdatasync(&fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(root: &Path) -> std::path::PathBuf {
        root::make_dir(&root.join(TMP), Options::default()).unwrap();
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
    fn one_of_two_wins_and_the_loser_is_told() {
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
        assert_eq!(std::fs::read_dir(root.join(TMP)).unwrap().count(), 0);
    }

    #[test]
    fn a_proposal_that_nobody_finished_is_cleared_away() {
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
    fn with_two_heads_the_higher_one_is_read_and_without_one_it_is_an_error() {
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
        // Whoever remembers a version of the deleted directory is told as well.
        assert_eq!(
            replace(&dir, &first, b"x", options).unwrap(),
            Swap::Conflict
        );
        std::fs::create_dir(&dir).unwrap();
        assert!(read(&dir).unwrap().is_none());
        swapped(create(root, &dir, b"again", options).unwrap());
    }

    #[test]
    fn a_missing_data_file_is_an_error_that_names_it() {
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
