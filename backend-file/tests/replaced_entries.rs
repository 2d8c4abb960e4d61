//! Another member of the group replaces the entries of the directory of locks by links, FIFOs and
//! devices, before, between and during the operations of a client. Nothing outside of the directory
//! is read or changed, no operation hangs, and each error names a path.
//!
//! As root, the tests run a second time as an unprivileged user. Other users run them only as
//! themselves, without the devices and the directories of other owners.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

mod common;

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, makedev, mkfifoat, mknodat,
    renameat_with, utimensat,
};
use tenure_core::{
    error::Error,
    id::AttemptId,
    request::{List, Remove, Renewed},
};
use tenure_file::Options;

use crate::common::{Client, lock, try_connect};

const NOBODY: u32 = 65534;
const TTL: Duration = Duration::from_secs(30);
/// Limit of one case. An operation that hangs exceeds it.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Attack {
    LinkToDirectory,
    LinkToFile,
    DanglingLink,
    HardLink,
    HardLinkToFifo,
    Fifo,
    Device,
    OtherOwner,
    WritableByAll,
}

const REPLACEMENTS: [Attack; 7] = [
    Attack::LinkToDirectory,
    Attack::LinkToFile,
    Attack::DanglingLink,
    Attack::HardLink,
    Attack::HardLinkToFifo,
    Attack::Fifo,
    Attack::Device,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Tmp,
    StaleTmp,
    FifoDir,
    ClientFifo,
    Namespace,
    NamePiece,
    Lock,
    Head,
    Data,
}

const ENTRIES: [Entry; 9] = [
    Entry::Tmp,
    Entry::StaleTmp,
    Entry::FifoDir,
    Entry::ClientFifo,
    Entry::Namespace,
    Entry::NamePiece,
    Entry::Lock,
    Entry::Head,
    Entry::Data,
];

impl Entry {
    /// Returns the path of the entry, if it exists now.
    fn path(self, root: &Path) -> Option<PathBuf> {
        let first = |dir: &str, prefix: &str| {
            let mut paths: Vec<_> = std::fs::read_dir(root.join(dir))
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    name.starts_with(prefix)
                })
                .collect();
            paths.sort();
            paths.pop()
        };
        match self {
            Self::Tmp => Some(root.join(".tmp")),
            Self::StaleTmp => Some(root.join(".tmp/stale")),
            Self::FifoDir => Some(root.join(".inbox")),
            Self::ClientFifo => first(".inbox", ""),
            Self::Namespace => Some(root.join("default")),
            Self::NamePiece => Some(root.join(format!("default/{}~", "x".repeat(199)))),
            Self::Lock => Some(root.join("default/job")),
            Self::Head => first("default/job", "head."),
            Self::Data => first("default/job", "data."),
        }
    }

    fn is_directory(self) -> bool {
        !matches!(self, Self::ClientFifo | Self::Head | Self::Data)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives an entry, but not the target of a link, old times. A read changes the time of the last
/// access, because that is not later than the time of the last change.
fn set_old(path: &Path) {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let old = Timespec {
        tv_sec: i64::try_from(now).unwrap() - 3600,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: old,
        last_modification: old,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_path_buf());
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), found);
        }
    }
}

/// Everything about a file that a client could change, and the time of the last access.
fn metadata(path: &Path) -> String {
    match path.symlink_metadata() {
        Err(error) => error.to_string(),
        Ok(meta) => format!(
            "inode {} mode {:o} owner {}:{} size {} changed {}.{} read {}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.atime(),
        ),
    }
}

/// A directory of locks, and beside it files that no operation may touch.
struct Scene {
    base: tempfile::TempDir,
    root: PathBuf,
    options: Options,
    before: Vec<(PathBuf, String)>,
    /// A writer to this FIFO would succeed only because it has a reader.
    _reader: std::fs::File,
}

impl Scene {
    async fn new(shared: bool) -> Self {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("locks");
        let options = Options::default().shared(shared).inline(true);
        let client = try_connect(&root, options).await.unwrap();
        for name in ["job", &"x".repeat(300)] {
            let held = client.acquire(&lock(name), TTL).await;
            client.remove(&lock(name), held.attempt).await;
        }
        let outside = base.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "precious").unwrap();
        let fifo = outside.join("fifo");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        let reader = std::fs::File::options().read(true).write(true).open(fifo);
        Self {
            base,
            root,
            options,
            before: Vec::new(),
            _reader: reader.unwrap(),
        }
    }

    /// Creates a stale temporary directory, which the next client that connects removes.
    fn make_stale(&self) {
        let stale = self.root.join(".tmp/stale");
        std::fs::create_dir(&stale).unwrap();
        std::fs::set_permissions(&stale, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(stale.join("data"), "x").unwrap();
        set_old(&stale);
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.base.path().join("outside").join(name)
    }

    /// Creates at `at` what takes the place of an entry.
    fn place(&self, attack: Attack, original: Option<&Path>, at: &Path) {
        match attack {
            Attack::LinkToDirectory => {
                // A copy of the original, which a client that follows the link takes for it.
                let target = self.outside("directory");
                match original.filter(|original| original.is_dir()) {
                    Some(original) => common::copy(original, &target),
                    None => std::fs::create_dir(&target).unwrap(),
                }
                std::fs::create_dir_all(target.join("tree/below")).unwrap();
                std::fs::write(target.join("tree/below/file"), "precious").unwrap();
                let fifo = target.join("stale-fifo");
                mkfifoat(CWD, fifo, Mode::RUSR | Mode::WUSR).unwrap();
                symlink(target, at).unwrap();
            }
            Attack::LinkToFile => symlink(self.outside("file"), at).unwrap(),
            Attack::DanglingLink => symlink(self.outside("absent"), at).unwrap(),
            Attack::HardLink => std::fs::hard_link(self.outside("file"), at).unwrap(),
            Attack::HardLinkToFifo => std::fs::hard_link(self.outside("fifo"), at).unwrap(),
            Attack::Fifo => mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR).unwrap(),
            // `/dev/zero`, which can be read for ever.
            Attack::Device => mknodat(
                CWD,
                at,
                FileType::CharacterDevice,
                Mode::RUSR | Mode::WUSR,
                makedev(1, 5),
            )
            .unwrap(),
            Attack::OtherOwner | Attack::WritableByAll => unreachable!("they replace nothing"),
        }
        set_old(at);
    }

    /// Replaces or changes an entry.
    fn attack(&mut self, attack: Attack, entry: Entry) -> PathBuf {
        self.make_stale();
        let path = entry.path(&self.root).unwrap();
        match attack {
            Attack::OtherOwner => chown(&path, Some(NOBODY), None).unwrap(),
            Attack::WritableByAll => {
                let mode = std::fs::Permissions::from_mode(0o777);
                std::fs::set_permissions(&path, mode).unwrap();
            }
            _ => {
                let moved = self.base.path().join("moved");
                std::fs::rename(&path, &moved).unwrap();
                self.place(attack, Some(&moved), &path);
            }
        }
        self.record();
        path
    }

    fn record(&mut self) {
        let mut paths = Vec::new();
        walk(&self.base.path().join("outside"), &mut paths);
        for path in &paths {
            set_old(path);
        }
        self.before = paths
            .into_iter()
            .map(|path| (path.clone(), metadata(&path)))
            .collect();
    }

    fn expect_unchanged(&self, case: &str) {
        for (path, before) in &self.before {
            assert_eq!(&metadata(path), before, "{case}: {}", path.display());
        }
    }

    async fn connect(&self) -> Result<Client, Error> {
        try_connect(&self.root, self.options).await
    }
}

/// Calls every operation, whether the ones before succeed or not, and returns the errors.
async fn operate(scene: &Scene, holder: Option<&Client>) -> Vec<Error> {
    let mut errors = Vec::new();
    let (name, long) = (lock("job"), lock(&"x".repeat(300)));
    let fresh = lock(&format!("fresh {}", AttemptId::random().unwrap()));
    let other = scene.connect().await.map_err(|error| errors.push(error));
    let other = other.ok();
    for client in holder.into_iter().chain(&other) {
        for name in [&name, &long, &fresh] {
            let attempt = AttemptId::random().unwrap();
            errors.extend(client.enqueue(name, attempt, TTL, true).await.err());
            if let Renewed::Unknown(error) = client.renew(name, attempt, None).await {
                errors.push(error);
            }
            errors.extend(client.backend.inspect(name).await.err());
        }
        match client.backend.list(List::new("", 100)).await {
            Ok(page) => drop(page),
            Err(error) => errors.push(error),
        }
    }
    // The removals grant the locks to the waiters of the other client, and wake it.
    for client in holder.into_iter().chain(&other) {
        for name in [&name, &long, &fresh] {
            let state = client.backend.inspect(name).await;
            let attempt = state.ok().and_then(|state| state.holder?.attempt);
            if let Some(attempt) = attempt {
                let remove = Remove::new(name.clone(), attempt, TTL, true);
                errors.extend(client.backend.remove(remove).await.err());
            }
        }
    }
    if let Some(other) = other {
        other.backend.close().await;
    }
    errors
}

/// Runs a case in a thread of its own, and fails if it hangs.
fn within_limit<F: Future<Output = ()>>(case: &str, run: impl FnOnce() -> F + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let started = Instant::now();
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(run());
        let _ = done.send(());
    });
    let hangs = finished.recv_timeout(CASE_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "{case}: it hangs for {:?}", started.elapsed());
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test of this file as an unprivileged user, too.
fn also_as_nobody(test: &str) {
    if !is_root() {
        println!("ran as this user only, which is not root: no devices, no other owners");
        return;
    }
    let copy = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = copy.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new(&program)
        .args(["--exact", test])
        .current_dir("/")
        .gid(NOBODY)
        .uid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "as user {NOBODY}: {text}");
    assert!(text.contains("1 passed"), "{text}");
}

fn possible(attack: Attack) -> bool {
    is_root() || !matches!(attack, Attack::Device | Attack::OtherOwner)
}

fn run(attack: Attack, entry: Entry, shared: bool, connected: bool) {
    let when = if connected { "between" } else { "before" };
    let case = format!("{attack:?} of {entry:?}, shared: {shared}, {when}");
    within_limit(&case.clone(), move || async move {
        let mut scene = Scene::new(shared).await;
        // The entry is its FIFO, so that it is connected in any case.
        let client = match connected || entry == Entry::ClientFifo {
            true => Some(scene.connect().await.unwrap()),
            false => None,
        };
        let path = scene.attack(attack, entry);
        let errors = operate(&scene, client.as_ref()).await;
        drop(client);
        scene.expect_unchanged(&case);
        for error in &errors {
            let text = error.to_string();
            assert!(
                text.contains(scene.root.to_str().unwrap()),
                "{case}: {text}"
            );
        }
        let is_harmless = match entry {
            // A head is never opened, a foreign entry is not removed, and waiters do not depend on
            // messages.
            Entry::Head | Entry::ClientFifo | Entry::StaleTmp => true,
            _ => attack == Attack::OtherOwner && shared,
        };
        let named = errors.iter().any(|error| {
            let text = error.to_string();
            text.contains(path.to_str().unwrap()) && text.contains("it ")
        });
        assert_eq!(named, !is_harmless, "{case}: {errors:?}");
    });
}

#[test]
fn replaced_entries_touch_nothing_outside() {
    expect_access_times();
    for attack in REPLACEMENTS.into_iter().filter(|attack| possible(*attack)) {
        for entry in ENTRIES {
            // A link is the regular form of the data, and is only read.
            let is_link = matches!(
                attack,
                Attack::LinkToDirectory | Attack::LinkToFile | Attack::DanglingLink
            );
            for connected in [false, true] {
                if entry == Entry::Data && is_link {
                    continue;
                }
                run(attack, entry, true, connected);
            }
        }
    }
    also_as_nobody("replaced_entries_touch_nothing_outside");
}

#[test]
fn directories_of_others_are_rejected() {
    for attack in [Attack::OtherOwner, Attack::WritableByAll] {
        for entry in ENTRIES {
            if !possible(attack) || !entry.is_directory() || entry == Entry::StaleTmp {
                continue;
            }
            for (shared, connected) in [(false, false), (false, true), (true, false), (true, true)]
            {
                run(attack, entry, shared, connected);
            }
        }
    }
    also_as_nobody("directories_of_others_are_rejected");
}

/// A thread exchanges an entry for its replacement and back, for as long as the operations run.
#[test]
fn entries_replaced_during_operations_touch_nothing_outside() {
    for attack in REPLACEMENTS.into_iter().filter(|attack| possible(*attack)) {
        for entry in ENTRIES {
            let case = format!("{attack:?} of {entry:?}, during");
            within_limit(&case.clone(), move || async move {
                let mut scene = Scene::new(true).await;
                let client = scene.connect().await.unwrap();
                let replacement = scene.base.path().join("replacement");
                scene.make_stale();
                let original = entry.path(&scene.root);
                scene.place(attack, original.as_deref(), &replacement);
                scene.record();
                let stop = Arc::new(AtomicBool::new(false));
                let (root, stopped) = (scene.root.clone(), Arc::clone(&stop));
                let (flipped, first_flip) = mpsc::channel();
                let flipper = std::thread::spawn(move || {
                    while !stopped.load(Ordering::Relaxed) {
                        let Some(path) = entry.path(&root) else {
                            continue;
                        };
                        let flags = RenameFlags::EXCHANGE;
                        if renameat_with(CWD, &path, CWD, &replacement, flags).is_ok() {
                            // Nothing waits for any but the first.
                            let _ = flipped.send(());
                        }
                    }
                });
                first_flip.recv().unwrap();
                for error in operate(&scene, Some(&client)).await {
                    let text = error.to_string();
                    assert!(
                        text.contains(scene.root.to_str().unwrap()),
                        "{case}: {text}"
                    );
                }
                stop.store(true, Ordering::Relaxed);
                flipper.join().unwrap();
                drop(client);
                scene.expect_unchanged(&case);
            });
        }
    }
    also_as_nobody("entries_replaced_during_operations_touch_nothing_outside");
}

/// Checks that a read shows in the time of the last access.
fn expect_access_times() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    set_old(&file);
    let before = metadata(&file);
    std::fs::read(&file).unwrap();
    if metadata(&file) == before {
        println!("the file system keeps no times of access: reads outside are not detected");
    }
}
