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
    fs::{self, AtFlags},
    io::Errno,
};
use tenure_core::{
    cas::{Key, Swap, Version, Versioned},
    error::{Error, ErrorKind},
};

use crate::{
    FileStore,
    config::Options,
    data::{self, Id, Piece, Stored, StoredData},
    dir_handle::{DirHandle, make_dir},
    error::{io_error, is_absent, path_error, publishing_error},
    paths::{self, PERMIT_FILE, TMP_DIR},
    root,
};

const READING: &str = "reading the state of a lock";
pub(crate) const WRITING: &str = "writing the state of a lock";
/// Maximum number of reads when the listing is inconsistent, because the head was renamed during
/// the read.
const MAX_READ_RETRIES: u32 = 200;
/// Maximum number of tries to create a lock while other processes delete the directories above it. A try
/// fails only if such a deletion was completed meanwhile, so many failures in a row are rare.
const CREATIONS: u32 = 1_000;
/// Number of reads without a pause; later reads are preceded by one.
const IMMEDIATE_READ_RETRIES: u32 = 50;
/// Maximum number of stale files that one version records for removal.
const MAX_STALE_FILES: usize = 64;

/// The head, the checksum of its data, and the stale pieces that can be removed once it is replaced.
#[derive(Clone, Debug)]
struct Head {
    id: Id,
    checksum: u32,
    stale: Vec<Piece>,
}

impl Head {
    /// Returns the head of a version that was published in place of `replaced`.
    fn published(id: Id, stored: Stored, replaced: Option<&StoredData>) -> Self {
        let replaced = replaced.filter(|_| !stored.is_delta);
        let chain = replaced.into_iter().flat_map(|data| &data.chain);
        Self {
            id,
            checksum: stored.checksum,
            stale: chain.flat_map(|(id, pieces)| id.pieces(*pieces)).collect(),
        }
    }

    /// Encodes the head as a version: the id and the checksum, then the stale pieces, separated by
    /// commas.
    fn version(&self) -> Version {
        let mut text = format!("{}+{}", self.id, self.checksum);
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
        let (id, checksum) = head.split_once('+')?;
        let stale = stale.into_iter().flat_map(|text| text.split(','));
        Some(Self {
            id: Id::parse(id)?,
            checksum: checksum.parse().ok()?,
            stale: stale.map(Piece::parse).collect::<Option<_>>()?,
        })
    }
}

/// The answer to a read without the permit.
pub(crate) enum WithoutPermit {
    Read(Option<Versioned>),
    /// The lock has a permit, so nothing was read.
    HasPermit,
}

/// Reads the current version of a lock; `None` if the lock's directory is absent or empty.
pub(crate) fn read(store: &FileStore, key: &Key) -> Result<Option<Versioned>, Error> {
    match read_if(store, key, |_| true)? {
        WithoutPermit::Read(current) => Ok(current),
        WithoutPermit::HasPermit => Ok(None),
    }
}

/// Reads the current version of a lock, unless the lock has a permit.
pub(crate) fn read_without_permit(store: &FileStore, key: &Key) -> Result<WithoutPermit, Error> {
    read_if(store, key, |listed| !listed.has_permit)
}

fn read_if(
    store: &FileStore,
    key: &Key,
    condition: impl Fn(&DirListing) -> bool,
) -> Result<WithoutPermit, Error> {
    let (parents, name) = paths::lock_names(key);
    let Some(parent) = root::open_below(store, &parents, READING)? else {
        return Ok(WithoutPermit::Read(None));
    };
    let mut listed = DirListing::default();
    for attempt in 0..MAX_READ_RETRIES {
        if attempt > IMMEDIATE_READ_RETRIES {
            std::thread::sleep(Duration::from_micros(200));
        }
        // Opened anew each time: the directory may have been deleted and created again.
        let Some(dir) = parent.open_listing(&name)? else {
            return Ok(WithoutPermit::Read(None));
        };
        let (mut listing, path) = dir.into_listing()?;
        let failed = |errno| io_error(READING, &path, errno);
        listed = list_dir(&mut listing).map_err(failed)?;
        if listed.entries == 0 {
            return Ok(WithoutPermit::Read(None));
        }
        if !condition(&listed) {
            return Ok(WithoutPermit::HasPermit);
        }
        let Some(mut head) = listed.head.clone() else {
            continue;
        };
        let fd = listing.fd().map_err(failed)?;
        if let Some(data) = data::read(fd, &path, head.id)? {
            head.checksum = data.checksum();
            head.stale
                .retain(|piece| data.chain.iter().all(|(id, _)| piece.id != *id));
            let corrupt = || data::corrupt_piece(&path.join(head.id.data()));
            let bytes = data.bytes().ok_or_else(corrupt)?;
            let current = Versioned::new(head.version(), bytes);
            return Ok(WithoutPermit::Read(Some(current)));
        }
    }
    let what = match listed.head {
        None => "it has no file `head.*`".to_owned(),
        Some(head) => format!("its `{}` is missing or incomplete", head.id.data()),
    };
    Err(path_error(
        ErrorKind::Corrupt,
        READING,
        &parent.path().join(name),
        format!(
            "{what}; no client can hold this lock until it is restored, or the directory is \
             deleted, which frees the lock"
        ),
    ))
}

/// Returns the name of the head of a version; `None` for a text that is no version.
pub(crate) fn head_file(version: &Version) -> Option<String> {
    Head::parse(version).map(|head| head.id.head())
}

/// Returns the file that contains the current state, for messages.
pub(crate) fn data_file(store: &FileStore, key: &Key) -> Option<PathBuf> {
    let (parents, name) = paths::lock_names(key);
    let parent = root::open_below(store, &parents, READING).ok()??;
    let (mut listing, path) = parent.open_listing(&name).ok()??.into_listing().ok()?;
    let listed = list_dir(&mut listing).ok()?;
    Some(path.join(listed.head?.id.data()))
}

/// Publishes the next version if the current one is `expected`.
pub(crate) fn replace(
    store: &FileStore,
    key: &Key,
    expected: &Version,
    bytes: &[u8],
) -> Result<Swap, Error> {
    let Some(head) = Head::parse(expected) else {
        return Ok(Swap::Conflict);
    };
    let Some(dir) = root::open_below(store, &paths::dir_names(key), WRITING)? else {
        return Ok(Swap::Conflict);
    };
    let (fd, path) = (dir.as_fd(), dir.path());
    let old_name = head.id.head();
    // Saves a write and a sync if another process has already published a version.
    match fs::statat(fd, &old_name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Swap::Conflict),
        other => other.map_err(|errno| io_error(WRITING, path, errno))?,
    };
    // The data may have been damaged since it was read; a new version must not hide that.
    let current = match data::read(fd, path, head.id)? {
        Some(data) if data.checksum() == head.checksum => data,
        _ => return Ok(Swap::Conflict),
    };
    let next = Id::after(head.id.generation)?;
    let stored = match data::write(fd, next, bytes, Some(&current), store.options) {
        Ok(stored) => stored,
        Err(errno) => {
            data::remove(fd, next, data::MAX_PIECES);
            return match errno {
                // The directory was deleted in the meantime.
                Errno::NOENT => Ok(Swap::Conflict),
                errno => Err(io_error(WRITING, &path.join(next.data()), errno)),
            };
        }
    };
    match fs::renameat(fd, &old_name, fd, next.head()) {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            data::remove(fd, next, stored.pieces);
            return Ok(Swap::Conflict);
        }
        Err(errno) => return Err(publishing_error(WRITING, path, errno)),
    }
    // The data of the previous version stays: after a power loss its head may reappear.
    for piece in &head.stale {
        let _ = fs::unlinkat(fd, piece.file(), AtFlags::empty());
    }
    let head = Head::published(next, stored, Some(&current));
    Ok(Swap::Swapped(head.version()))
}

/// Publishes the first version of a lock whose directory is absent or empty. A temporary directory
/// is created and renamed into place; the rename fails if the place is taken.
pub(crate) fn create(store: &FileStore, key: &Key, bytes: &[u8]) -> Result<Swap, Error> {
    let (parents, name) = paths::lock_names(key);
    for _ in 0..CREATIONS {
        let opened = root::open_or_create(store, WRITING).and_then(|root| {
            let tmp = root.open_or_create(TMP_DIR)?;
            let mut parent = root;
            for name in &parents {
                parent = parent.open_or_create(name)?;
            }
            Ok((tmp, parent))
        });
        let (tmp, parent) = match opened {
            // A directory that another process had just deleted.
            Err(error) if is_absent(&error) => continue,
            opened => opened?,
        };
        let first = Id::after(0)?;
        let temporary = first.temporary_name();
        let published = match prepare(&tmp, first, bytes, store.options)? {
            Some(stored) => fs::renameat(&tmp, &temporary, &parent, &name).map(|()| stored),
            None => Err(Errno::NOENT),
        };
        let errno = match published {
            Ok(stored) => {
                let head = Head::published(first, stored, None);
                return Ok(Swap::Swapped(head.version()));
            }
            Err(errno) => errno,
        };
        discard(&tmp, first);
        match errno {
            // Another process removed the temporary directory as stale, or a parent was deleted.
            Errno::NOENT => {}
            Errno::EXIST | Errno::NOTEMPTY => return Ok(Swap::Conflict),
            errno => {
                // An entry that is not a directory gets an error that says so.
                parent.open(&name)?;
                return Err(publishing_error(WRITING, &parent.path().join(name), errno));
            }
        }
    }
    Err(io_error(
        WRITING,
        &paths::lock_dir(store.root(), key),
        Errno::NOENT,
    ))
}

/// Creates a temporary directory with a version; `None` if another process has removed it as stale.
fn prepare(
    tmp: &DirHandle,
    first: Id,
    bytes: &[u8],
    options: Options,
) -> Result<Option<Stored>, Error> {
    let name = first.temporary_name();
    match make_dir(tmp.as_fd(), Path::new(&name), options) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|errno| io_error(WRITING, &tmp.path().join(&name), errno))?,
    }
    let Some(made) = tmp.open(&name)? else {
        return Ok(None);
    };
    let written = data::write(made.as_fd(), first, bytes, None, options).and_then(|stored| {
        data::create_file(made.as_fd(), &first.head(), options)?;
        Ok(stored)
    });
    match written {
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => {
            discard(tmp, first);
            Err(io_error(WRITING, made.path(), errno))
        }
        Ok(stored) => Ok(Some(stored)),
    }
}

/// Removes a temporary directory. A later connect removes it if this fails.
fn discard(tmp: &DirHandle, first: Id) {
    let name = first.temporary_name();
    if let Ok(Some(dir)) = tmp.open(&name) {
        data::remove(dir.as_fd(), first, data::MAX_PIECES);
        let _ = fs::unlinkat(&dir, first.head(), AtFlags::empty());
        let _ = fs::unlinkat(tmp, &name, AtFlags::REMOVEDIR);
    }
}

#[derive(Default)]
struct DirListing {
    entries: usize,
    head: Option<Head>,
    has_permit: bool,
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
        } else if name == PERMIT_FILE {
            listed.has_permit = true;
        }
    }
    listed.head = highest.map(|id| Head {
        id,
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
    use tenure_core::name::{LockName, Namespace};

    use super::*;

    fn some() -> (tempfile::TempDir, FileStore, Key, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let key = Key::new(Namespace::default(), LockName::new("job").unwrap());
        let dir = paths::lock_dir(root.path(), &key);
        (root, store, key, dir)
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
        let (_root, store, key, dir) = some();
        assert!(read(&store, &key).unwrap().is_none());
        let first = swapped(create(&store, &key, b"1").unwrap());
        assert_eq!(create(&store, &key, b"x").unwrap(), Swap::Conflict);
        let second = swapped(replace(&store, &key, &first, b"2").unwrap());
        assert_eq!(replace(&store, &key, &first, b"x").unwrap(), Swap::Conflict);
        assert_eq!(read(&store, &key).unwrap().unwrap().bytes, b"2");
        assert_eq!(files(&dir), ["data.1", "data.2", "head.2"]);
        swapped(replace(&store, &key, &second, b"3").unwrap());
        assert_eq!(files(&dir), ["data.2", "data.3", "head.3"]);
        assert_eq!(
            std::fs::read_dir(store.root().join(TMP_DIR))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn unfinished_proposal_is_removed() {
        let (_root, store, key, dir) = some();
        swapped(create(&store, &key, b"1").unwrap());
        std::fs::write(dir.join(format!("data.2.{:032x}", 5)), b"x").unwrap();
        for _ in 0..2 {
            let version = read(&store, &key).unwrap().unwrap().version;
            swapped(replace(&store, &key, &version, b"y").unwrap());
        }
        assert_eq!(files(&dir), ["data.2", "data.3", "head.3"]);
    }

    #[test]
    fn higher_of_two_heads_is_read_and_missing_head_is_an_error() {
        let (_root, store, key, dir) = some();
        let first = swapped(create(&store, &key, b"1").unwrap());
        swapped(replace(&store, &key, &first, b"2").unwrap());
        let old_head = dir.join(Head::parse(&first).unwrap().id.head());
        std::fs::write(&old_head, b"").unwrap();
        assert_eq!(read(&store, &key).unwrap().unwrap().bytes, b"2");
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("head.") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let error = read(&store, &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(read(&store, &key).unwrap().is_none());
        // A swap that expects a version of the deleted directory fails as well.
        assert_eq!(replace(&store, &key, &first, b"x").unwrap(), Swap::Conflict);
        std::fs::create_dir(&dir).unwrap();
        assert!(read(&store, &key).unwrap().is_none());
        swapped(create(&store, &key, b"again").unwrap());
        // It has the same generation as the deleted version, but a different nonce.
        assert_eq!(replace(&store, &key, &first, b"x").unwrap(), Swap::Conflict);
        assert_eq!(read(&store, &key).unwrap().unwrap().bytes, b"again");
    }

    #[test]
    fn data_of_every_size_round_trips_and_is_removed() {
        let (_root, store, key, dir) = some();
        let mut version = swapped(create(&store, &key, b"1").unwrap());
        for length in [1, 999, 1000, 1001, 5000, 31_999, 32_000, 32_001, 200_000, 1] {
            let bytes = vec![b'x'; length];
            // Both with the version from a read and with the version that the last swap returned.
            for from_read in [false, true] {
                if from_read {
                    version = read(&store, &key).unwrap().unwrap().version;
                }
                version = swapped(replace(&store, &key, &version, &bytes).unwrap());
                assert!(
                    read(&store, &key).unwrap().unwrap().bytes == bytes,
                    "{length}"
                );
            }
            let most = 1 + 2 * length.div_ceil(1000).min(32);
            assert!(std::fs::read_dir(&dir).unwrap().count() <= most, "{length}");
        }
        // Data that a link cannot hold is preserved as well.
        swapped(replace(&store, &key, &version, b"a\0b").unwrap());
        assert_eq!(read(&store, &key).unwrap().unwrap().bytes, b"a\0b");
    }

    /// A state with a header and a line for each entry, as the adapter writes it.
    fn state(generation: u64, entries: std::ops::Range<u32>) -> Vec<u8> {
        let mut text = format!("tenure {generation}\nheader of {entries:?}\n");
        for entry in entries {
            text.push_str(&format!("{entry:>180}\n"));
        }
        text.into_bytes()
    }

    /// Returns the names and sizes of the data of all versions but the given ones.
    fn data_files(dir: &Path) -> Vec<(String, u64)> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(Result::unwrap)
            .map(|entry| {
                let size = entry.path().symlink_metadata().unwrap().len();
                (entry.file_name().into_string().unwrap(), size)
            })
            .filter(|(name, _)| name.starts_with("data."))
            .collect()
    }

    #[test]
    fn cost_of_a_change_does_not_grow_with_the_number_of_entries() {
        let (_root, store, key, dir) = some();
        let mut version = swapped(create(&store, &key, &state(0, 0..1)).unwrap());
        let mut written = [0, 0];
        let mut most_files = 0;
        // A thousand entries join at the end, then all leave at the front.
        for step in 1..2000_u32 {
            let entries = step.saturating_sub(1000)..step.min(1000);
            let bytes = state(u64::from(step), entries);
            let before: std::collections::HashSet<_> = data_files(&dir).into_iter().collect();
            // Both with the version from a read and with the version that the last swap returned.
            if step % 3 == 0 {
                version = read(&store, &key).unwrap().unwrap().version;
            }
            version = swapped(replace(&store, &key, &version, &bytes).unwrap());
            let after = data_files(&dir);
            most_files = most_files.max(after.len());
            let new = after.iter().filter(|file| !before.contains(*file));
            written[usize::from(step > 200)] += new.map(|(_, size)| size).sum::<u64>();
            assert!(
                read(&store, &key).unwrap().unwrap().bytes == bytes,
                "{step}"
            );
        }
        // Whole states would be 180,000 bytes long at most, and 90,000 on average.
        assert!(written[1] / 1800 < 12_000, "{written:?}");
        assert!(most_files < 140, "{most_files} files");
        let version = read(&store, &key).unwrap().unwrap().version;
        let version = swapped(replace(&store, &key, &version, b"1").unwrap());
        let last = swapped(replace(&store, &key, &version, b"2").unwrap());
        swapped(replace(&store, &key, &last, b"3").unwrap());
        assert!(data_files(&dir).len() <= 3, "{:?}", data_files(&dir));
    }

    #[test]
    fn s2_delta_without_its_base_is_an_error() {
        let (_root, store, key, dir) = some();
        let first = swapped(create(&store, &key, &state(0, 0..100)).unwrap());
        let base = Head::parse(&first).unwrap().id;
        swapped(replace(&store, &key, &first, &state(1, 0..101)).unwrap());
        let delta = read(&store, &key).unwrap().unwrap();
        assert!(delta.bytes == state(1, 0..101));
        // The base of the head stays through any number of versions.
        let mut version = delta.version;
        for step in 2..5 {
            version = swapped(replace(&store, &key, &version, &state(step, 0..101)).unwrap());
            assert!(dir.join(base.data()).symlink_metadata().is_ok(), "{step}");
        }
        let head = Head::parse(&version).unwrap().id.data();
        for damage in ["no base\n=0,1\n", "d", "dx\n", "d1.0\n"] {
            std::fs::remove_file(dir.join(&head)).unwrap();
            std::os::unix::fs::symlink(damage, dir.join(&head)).unwrap();
            let error = read(&store, &key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
            assert!(error.to_string().contains(&head), "{error}");
        }
        // A base that is itself a delta is not followed.
        let own = head.strip_prefix("data.").unwrap();
        std::fs::remove_file(dir.join(&head)).unwrap();
        std::os::unix::fs::symlink(format!("d{own}\n=0,1\n"), dir.join(&head)).unwrap();
        let error = read(&store, &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        std::fs::remove_file(dir.join(base.data())).unwrap();
        std::fs::remove_file(dir.join(&head)).unwrap();
        std::os::unix::fs::symlink(format!("d{base}\n=0,1\n"), dir.join(&head)).unwrap();
        let error = read(&store, &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn missing_data_file_is_an_error_with_its_name() {
        let (_root, store, key, dir) = some();
        let first = swapped(create(&store, &key, b"1").unwrap());
        let data = Head::parse(&first).unwrap().id.data();
        std::fs::remove_file(dir.join(&data)).unwrap();
        let error = read(&store, &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&data), "{error}");
    }
}
