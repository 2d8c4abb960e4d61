//! The permit to prepare a swap: a lock of the kernel (`flock`) on an empty file in the lock's
//! directory.
//!
//! Of a thousand clients that change one lock, only one can publish the next version, and the work
//! of the others is lost. Therefore they read and swap one after the other: each waits for the
//! permit before it reads. The permit decides nothing else: a swap without it is as valid (ADR
//! 0003). The first conflict at a lock creates the file, so a lock without contention has none.
//!
//! A process that was stopped may have the permit, or may be the next in the kernel's queue for it.
//! Each client that gets the permit sets the time of the file. If the time does not change for
//! [`STALL_TIMEOUT`], a waiting client removes the file. A new file is a new permit. The waits of a
//! client add up, because each of them may be shorter than that.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
};
use tenure_core::{
    cas::{Key, Versioned},
    error::Error,
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    FileStore, data,
    dir::{self, WithoutPermit},
    dir_handle::PinnedEntry,
    error::io_error,
    paths::{self, PERMIT_FILE},
    root,
};

const WAITING: &str = "waiting to change a lock";
/// Time without progress after which a waiting client replaces the permit. On a busy machine a
/// client that runs can need a second between two system calls.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A lock's current version, and the permit with which it was read, if any.
pub(crate) type ReadToSwap = (Option<Versioned>, Option<OwnedFd>);

/// The answer to a try to read with the permit.
#[derive(Debug)]
pub(crate) enum TryRead {
    Done(ReadToSwap),
    /// Another client has the permit.
    Busy(BusyPermit),
}

/// Reads the current version of a lock, with the permit if it is free. A lock that never had a
/// conflict is read without it.
pub(crate) fn try_read(store: &FileStore, key: &Key, conflicted: bool) -> Result<TryRead, Error> {
    if !conflicted {
        match dir::read_without_permit(store, key)? {
            WithoutPermit::Read(current) => return Ok(TryRead::Done((current, None))),
            WithoutPermit::HasPermit => {}
        }
    }
    let permit = match try_acquire(store, key) {
        Ok(TryPermit::Busy(busy)) => return Ok(TryRead::Busy(busy)),
        Ok(TryPermit::Acquired(fd)) => Some(fd),
        Ok(TryPermit::Unavailable) => None,
        Err(error) => {
            tracing::debug!(%error, "changing a lock without the permit");
            None
        }
    };
    Ok(TryRead::Done((dir::read(store, key)?, permit)))
}

/// The answer to a try to get the permit.
#[derive(Debug)]
pub(crate) enum TryPermit {
    /// This client has the permit until the descriptor is closed.
    Acquired(OwnedFd),
    /// Another client has it.
    Busy(BusyPermit),
    /// The file cannot be used.
    Unavailable,
}

/// The open file of a permit that another client has.
#[derive(Debug)]
pub(crate) struct BusyPermit {
    fd: OwnedFd,
    pub(crate) last_grant: LastGrant,
}

/// The device and the inode of a file.
type FileId = (i128, i128);

/// A permit file, and the time when a client got the permit last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastGrant {
    file: FileId,
    at: (i128, i128),
}

impl LastGrant {
    fn of(stat: &Stat) -> Self {
        // The types of the fields differ between platforms.
        Self {
            file: (i128::from(stat.st_dev), i128::from(stat.st_ino)),
            at: (i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)),
        }
    }
}

/// Gets the permit if no other client has it.
pub(crate) fn try_acquire(store: &FileStore, key: &Key) -> Result<TryPermit, Error> {
    let Some(dir) = root::open_below(store, &paths::dir_names(key), WAITING)? else {
        return Ok(TryPermit::Unavailable);
    };
    let failed = |errno| io_error(WAITING, &dir.path().join(PERMIT_FILE), errno);
    let fd = match PinnedEntry::new(dir.as_fd(), PERMIT_FILE) {
        Ok(entry) if entry.refusal(FileType::RegularFile).is_some() => {
            return Ok(TryPermit::Unavailable);
        }
        Ok(entry) => entry.open(OFlags::RDONLY).map_err(failed)?,
        Err(Errno::NOENT) => {
            data::create_file(dir.as_fd(), PERMIT_FILE, store.options).map_err(failed)?
        }
        Err(errno) => return Err(failed(errno)),
    };
    match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            record_grant(&fd);
            Ok(TryPermit::Acquired(fd))
        }
        Err(Errno::WOULDBLOCK) => {
            let stat = fs::fstat(&fd).map_err(failed)?;
            let last_grant = LastGrant::of(&stat);
            Ok(TryPermit::Busy(BusyPermit { fd, last_grant }))
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// The permits for which this client waits. A file has at most one thread that waits for it.
#[derive(Debug, Default)]
pub(crate) struct PermitWaits(Mutex<HashMap<FileId, PermitWait>>);

/// The wait for the permit of one file. It lasts until the thread gets the permit and no call waits
/// for it any more, so a stall adds up over several calls.
#[derive(Debug)]
struct PermitWait {
    last_grant: LastGrant,
    /// When the permit counts as stalled.
    stalled_at: Instant,
    calls: VecDeque<WaitingCall>,
}

/// A call that waits for the permit.
#[derive(Debug)]
struct WaitingCall {
    fd: OwnedFd,
    /// Closed if the call no longer waits.
    reply_to: oneshot::Sender<Result<ReadToSwap, Error>>,
}

impl PermitWaits {
    /// Waits for a permit in a thread that then reads the current version, and returns the receiver
    /// of both. The receiver is closed if the thread cannot wait.
    ///
    /// `flock` has no time limit. If no call waits any more, the thread returns the permit as soon
    /// as it gets it. It is no blocking task of the runtime, which would wait for it at its end.
    pub(crate) fn wait(
        self: &Arc<Self>,
        busy: BusyPermit,
        store: &Arc<FileStore>,
        key: &Key,
    ) -> oneshot::Receiver<Result<ReadToSwap, Error>> {
        let (reply_to, receiver) = oneshot::channel();
        let file = busy.last_grant.file;
        let fd = busy.fd;
        let mut waits = self.lock();
        let has_thread = waits.contains_key(&file);
        let wait = waits.entry(file).or_insert_with(|| PermitWait {
            last_grant: busy.last_grant,
            stalled_at: Instant::now() + STALL_TIMEOUT,
            calls: VecDeque::new(),
        });
        wait.calls.retain(|call| !call.reply_to.is_closed());
        wait.calls.push_back(WaitingCall { fd, reply_to });
        if !has_thread {
            let (this, store, key) = (Arc::clone(self), Arc::clone(store), key.clone());
            let serve = move || this.serve(file, &store, &key);
            let builder = std::thread::Builder::new().name("tenure-permit".to_owned());
            if builder.spawn(serve).is_err() {
                waits.remove(&file);
            }
        }
        receiver
    }

    /// Returns when a permit counts as stalled if it is not granted again.
    pub(crate) fn stalled_at(&self, last_grant: LastGrant) -> Instant {
        let new = Instant::now() + STALL_TIMEOUT;
        match self.lock().get_mut(&last_grant.file) {
            Some(wait) if wait.last_grant == last_grant => wait.stalled_at,
            Some(wait) => {
                wait.last_grant = last_grant;
                wait.stalled_at = new;
                new
            }
            None => new,
        }
    }

    /// Gets the permit for one waiting call after the other.
    fn serve(&self, file: FileId, store: &FileStore, key: &Key) {
        while let Some(WaitingCall { fd, mut reply_to }) = self.next_call(file) {
            while let Err(errno) = fs::flock(&fd, FlockOperation::LockExclusive) {
                if errno != Errno::INTR {
                    self.lock().remove(&file);
                    return;
                }
            }
            // A call that no longer waits leaves its permit to the next one.
            while reply_to.is_closed() {
                match self.next_call(file) {
                    Some(next) => reply_to = next.reply_to,
                    None => return,
                }
            }
            record_grant(&fd);
            let read = dir::read(store, key).map(|current| (current, Some(fd)));
            // On an error the receiver is gone, and the permit is returned.
            let _ = reply_to.send(read);
        }
    }

    /// Takes the next call that waits for a file. Without one, the wait has ended.
    fn next_call(&self, file: FileId) -> Option<WaitingCall> {
        let mut waits = self.lock();
        let next = waits.get_mut(&file)?.calls.pop_front();
        if next.is_none() {
            waits.remove(&file);
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, PermitWait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the last grant of the permit if it is another one than `seen`. Otherwise removes the file
/// and returns `None`.
pub(crate) fn replace_stalled(
    store: &FileStore,
    key: &Key,
    seen: LastGrant,
) -> Result<Option<LastGrant>, Error> {
    let Some(dir) = root::open_below(store, &paths::dir_names(key), WAITING)? else {
        return Ok(None);
    };
    let Ok(stat) = fs::statat(&dir, PERMIT_FILE, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(None);
    };
    let last_grant = LastGrant::of(&stat);
    if last_grant.file != seen.file {
        // Another client has replaced it.
        return Ok(None);
    }
    if last_grant != seen {
        return Ok(Some(last_grant));
    }
    // If the file was replaced since, this removes the new one. Then two clients have a permit at
    // the same time, which costs a conflict.
    let _ = fs::unlinkat(&dir, PERMIT_FILE, AtFlags::empty());
    Ok(None)
}

/// Sets the time of the file, which shows the others that the permit was granted.
fn record_grant(fd: &OwnedFd) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: fs::UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    // Without it, the permit is replaced sooner than necessary.
    let _ = fs::futimens(fd, &times);
}

#[cfg(test)]
mod tests {
    use tenure_core::name::{LockName, Namespace};

    use super::*;

    fn locked_store() -> (tempfile::TempDir, FileStore, Key) {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let key = Key::new(Namespace::default(), LockName::new("job").unwrap());
        dir::create(&store, &key, b"1").unwrap();
        (root, store, key)
    }

    fn acquired(store: &FileStore, key: &Key) -> OwnedFd {
        match try_acquire(store, key).unwrap() {
            TryPermit::Acquired(fd) => fd,
            other => panic!("{other:?}"),
        }
    }

    fn busy(store: &FileStore, key: &Key) -> BusyPermit {
        match try_acquire(store, key).unwrap() {
            TryPermit::Busy(busy) => busy,
            other => panic!("{other:?}"),
        }
    }

    async fn granted(store: &FileStore, key: &Key) -> ReadToSwap {
        match try_read(store, key, true).unwrap() {
            TryRead::Done(read) => read,
            TryRead::Busy(busy) => {
                let waits = Arc::<PermitWaits>::default();
                let granted = waits.wait(busy, &Arc::new(store.clone()), key);
                granted.await.unwrap().unwrap()
            }
        }
    }

    #[tokio::test]
    async fn one_client_has_the_permit_and_the_next_reads_what_it_published() {
        let (_root, store, key) = locked_store();
        let (current, first) = granted(&store, &key).await;
        let waits = Arc::<PermitWaits>::default();
        let wait = |busy: BusyPermit| waits.wait(busy, &Arc::new(store.clone()), &key);
        let second = wait(busy(&store, &key));
        drop(wait(busy(&store, &key)));
        let version = current.unwrap().version;
        dir::replace(&store, &key, &version, b"2").unwrap();
        drop(first);
        let (current, second) = second.await.unwrap().unwrap();
        assert_eq!(current.unwrap().bytes, b"2");
        drop(second);
        // The thread whose receiver was dropped returns the permit.
        assert!(granted(&store, &key).await.1.is_some());
    }

    #[test]
    fn only_a_conflict_creates_the_file() {
        let (_root, store, key) = locked_store();
        let try_read = |conflicted| match try_read(&store, &key, conflicted).unwrap() {
            TryRead::Done((_, permit)) => permit.is_some(),
            TryRead::Busy(_) => panic!("no other client has the permit"),
        };
        assert!(!try_read(false));
        assert!(try_read(true));
        assert!(try_read(false));
    }

    #[test]
    fn permit_is_replaced_only_if_it_was_not_granted_since() {
        let (_root, store, key) = locked_store();
        let _stalled = acquired(&store, &key);
        let seen = busy(&store, &key).last_grant;
        let earlier = LastGrant { at: (0, 0), ..seen };
        assert_eq!(replace_stalled(&store, &key, earlier).unwrap(), Some(seen));
        assert_eq!(replace_stalled(&store, &key, seen).unwrap(), None);
        let _new = acquired(&store, &key);
        // The file that was seen is gone; the new one stays.
        assert_eq!(replace_stalled(&store, &key, seen).unwrap(), None);
        busy(&store, &key);
    }

    #[test]
    fn replaced_file_gives_no_permit_and_is_not_touched() {
        use std::os::unix::fs::{MetadataExt, symlink};

        let (root, store, key) = locked_store();
        let permit = paths::lock_dir(root.path(), &key).join(PERMIT_FILE);
        let outside = tempfile::tempdir().unwrap();
        let (file, fifo) = (outside.path().join("file"), outside.path().join("fifo"));
        std::fs::write(&file, "precious").unwrap();
        fs::mkfifoat(fs::CWD, &fifo, fs::Mode::RUSR | fs::Mode::WUSR).unwrap();
        let absent = outside.path().join("absent");
        let changed = || {
            let meta = file.metadata().unwrap();
            (meta.mtime(), meta.mtime_nsec(), meta.atime_nsec())
        };
        let before = changed();
        let attacks: [(&str, &dyn Fn()); 6] = [
            ("link", &|| symlink(&file, &permit).unwrap()),
            ("dangling link", &|| symlink(&absent, &permit).unwrap()),
            ("link to a FIFO", &|| symlink(&fifo, &permit).unwrap()),
            ("hard link", &|| std::fs::hard_link(&file, &permit).unwrap()),
            ("FIFO", &|| std::fs::hard_link(&fifo, &permit).unwrap()),
            ("directory", &|| std::fs::create_dir(&permit).unwrap()),
        ];
        for (attack, place) in attacks {
            place();
            let tried = try_acquire(&store, &key).unwrap();
            assert!(
                matches!(tried, TryPermit::Unavailable),
                "{attack}: {tried:?}"
            );
            assert!(!absent.exists(), "{attack}");
            assert_eq!(changed(), before, "{attack}");
            let _ = std::fs::remove_file(&permit);
        }
        std::fs::remove_dir(&permit).unwrap();
        acquired(&store, &key);
    }

    #[test]
    fn lock_without_a_directory_has_no_permit() {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        let key = Key::new(Namespace::default(), LockName::new("job").unwrap());
        let tried = try_acquire(&store, &key).unwrap();
        assert!(matches!(tried, TryPermit::Unavailable), "{tried:?}");
    }
}
