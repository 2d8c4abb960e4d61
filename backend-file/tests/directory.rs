//! The file backend through the driver trait: valid and invalid directories.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod common;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tenure_core::{
    backend::BackendEvent,
    capability::WaitMode,
    clock::{Clock, SystemClock},
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    queue::ClockId,
    request::{Enqueued, Evicted, List, Removed, Renewed},
};
use tenure_file::{FileStore, Options};

use crate::common::{Client, connect, lock, try_connect};

const TTL: Duration = Duration::from_secs(30);

fn root() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("locks");
    (dir, root)
}

fn attempt() -> AttemptId {
    AttemptId::random().unwrap()
}

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(prefix)
        })
        .collect();
    found.sort();
    found
}

/// Replaces a state with other bytes.
fn put(data: &Path, bytes: &[u8], as_file: bool) {
    use std::os::unix::ffi::OsStrExt;

    let _ = std::fs::remove_file(data);
    if as_file {
        std::fs::write(data, bytes).unwrap();
    } else {
        symlink(std::ffi::OsStr::from_bytes(bytes), data).unwrap();
    }
}

async fn refused(root: &Path, options: Options) -> Error {
    let error = try_connect(root, options)
        .await
        .err()
        .expect("it is refused");
    assert!(
        error.to_string().contains(root.to_str().unwrap()),
        "{error}"
    );
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_waiter_is_woken_by_a_message() {
    let (_dir, root) = root();
    let a = connect(&root).await;
    let mut b = connect(&root).await;
    let capabilities = b.backend.capabilities().await.unwrap();
    assert_eq!(capabilities.wait, WaitMode::Push);
    let name = lock("hand over");
    let mut took = Vec::new();
    for _ in 0..21 {
        let held = a.acquire(&name, TTL).await;
        let waiter = attempt();
        let waiting = b.wait(&name, waiter, TTL).await;
        let started = SystemClock.now();
        assert_eq!(a.remove(&name, held.attempt).await, Removed::AsHolder);
        let BackendEvent::Granted(grant) = b.event().await else {
            panic!()
        };
        took.push(SystemClock.now().since(started));
        assert_eq!(grant.attempt, waiter);
        assert!(grant.token > held.token && grant.as_of > waiting.as_of);
        assert_eq!(grant.proved_from, None);
        assert_eq!(b.remove(&name, waiter).await, Removed::AsHolder);
    }
    took.sort();
    // Polling would take 50 ms, half of that on average.
    assert!(took[took.len() / 2] < Duration::from_millis(25), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_eviction_is_announced_by_a_message() {
    let (_dir, root) = root();
    let mut a = connect(&root).await;
    let b = connect(&root).await;
    let name = lock("evicted");
    let held = a.acquire(&name, TTL).await;
    let evicted = b.backend.evict(&name, held.token).await.unwrap();
    assert_eq!(evicted, Evicted::Evicted);
    let reason = LossReason::Evicted;
    let attempt = held.attempt;
    assert_eq!(a.event().await, BackendEvent::Lost { attempt, reason });
    assert!(b.acquire(&name, TTL).await.token > held.token);
}

#[tokio::test]
async fn n2_unusual_names_stay_distinct_and_are_listed_as_given() {
    let (_dir, root) = root();
    let client = connect(&root).await;
    let mut names = vec![
        "\u{1f512}".repeat(128),
        "x".repeat(512),
        "X".repeat(512),
        format!("{}..", "a".repeat(398)),
    ];
    names.extend(
        [
            "a", "A", "a/b", "a%2Fb", "é", "e\u{301}", ".", "..", ".tmp", "a~", "~a", "{x}", " ",
            "\n",
        ]
        .map(String::from),
    );
    for name in &names {
        client.acquire(&lock(name), TTL).await;
    }
    let mut listed = Vec::new();
    let mut cursor = None;
    loop {
        let request = List::new("", 5).at(cursor);
        let page = client.backend.list(request).await.unwrap();
        for entry in page.locks {
            assert!(entry.holder.unwrap().token.is_some());
            listed.push(entry.name.to_string());
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn s2_truncated_or_overwritten_state_is_an_error_with_its_file() {
    let (_dir, root) = root();
    let holder = connect(&root).await;
    let other = connect(&root).await;
    let name = lock("job");
    let held = holder.acquire(&name, TTL).await;
    let waiter = attempt();
    holder.wait(&name, waiter, TTL).await;
    let dir = root.join("default/job");
    let head = files(&dir, "head.").remove(0);
    let version = head.to_str().unwrap().rsplit_once("head.").unwrap().1;
    let data = dir.join(format!("data.{version}"));
    let target = std::fs::read_link(&data).unwrap().into_os_string();
    let target = target.into_encoded_bytes();
    // As a link, and as a file in place of the link.
    for as_file in [false, true] {
        let whole = &target[usize::from(as_file)..];
        let first = usize::from(!as_file);
        let mut bad: Vec<Vec<u8>> = (first..whole.len())
            .map(|end| whole[..end].to_vec())
            .collect();
        for at in 0..whole.len() {
            let mut scribbled = whole.to_vec();
            scribbled[at] ^= 0x15;
            bad.push(scribbled);
        }
        bad.push(vec![b'0'; whole.len()]);
        for bytes in bad {
            put(&data, &bytes, as_file);
            let enqueued = other.enqueue(&name, attempt(), TTL, true).await;
            let error = enqueued.unwrap_err();
            let kind = error.kind();
            assert!(
                matches!(kind, ErrorKind::Corrupt | ErrorKind::NewerFormat),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains(data.to_str().unwrap()), "{error}");
            assert!(text.contains("directory"), "{error}");
        }
    }
    let error = other.backend.inspect(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // The holder, which has cached the previous state, does not hide the damage either.
    let renewed = holder.renew(&name, held.attempt, Some(held.token)).await;
    assert!(matches!(renewed, Renewed::Unknown(_)), "{renewed:?}");
    // After the state is restored, nothing is lost. The content of the head does not matter.
    put(&data, &target, false);
    std::fs::write(&head, "scribble").unwrap();
    let state = other.backend.inspect(&name).await.unwrap();
    assert_eq!(state.holder.unwrap().token, Some(held.token));
    assert_eq!(state.queue.len(), 1);
    std::fs::remove_file(&head).unwrap();
    let error = other.backend.inspect(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn s2_unreadable_locks_do_not_hide_the_others() {
    let (_dir, root) = root();
    let client = connect(&root).await;
    for name in ["a", "b", "c", "d", "e"] {
        client.acquire(&lock(name), TTL).await;
    }
    let data = files(&root.join("default/b"), "data.").remove(0);
    put(&data, b".scribble", false);
    let foreign_mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(root.join("default/c"), foreign_mode).unwrap();
    std::fs::remove_dir_all(root.join("default/d")).unwrap();
    symlink("elsewhere", root.join("default/d")).unwrap();
    let page = client.backend.list(List::new("", 100)).await.unwrap();
    let found: Vec<_> = page
        .locks
        .iter()
        .map(|lock| (lock.name.as_str(), lock.unreadable.is_some()))
        .collect();
    let expected = [
        ("a", false),
        ("b", true),
        ("c", true),
        ("d", true),
        ("e", false),
    ];
    assert_eq!(found, expected);
    for (listed, dir) in page.locks[1..4].iter().zip(["b", "c", "d"]) {
        let text = listed.unreadable.as_deref().unwrap();
        let dir = root.join("default").join(dir);
        assert!(text.contains(dir.to_str().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn t1_lock_deleted_by_hand_is_free_and_tokens_increase() {
    let (_dir, root) = root();
    let client = connect(&root).await;
    let name = lock("job");
    let held = client.acquire(&name, TTL).await;
    std::fs::remove_dir_all(root.join("default/job")).unwrap();
    let renewed = client.renew(&name, held.attempt, Some(held.token)).await;
    assert!(
        matches!(renewed, Renewed::Gone(LossReason::Evicted)),
        "{renewed:?}"
    );
    let again = client.acquire(&name, TTL).await;
    assert!(again.token > held.token);
    // Also if the whole directory is deleted.
    std::fs::remove_dir_all(&root).unwrap();
    assert!(client.acquire(&name, TTL).await.token > again.token);
}

#[tokio::test]
async fn x3_lease_of_another_boot_expires_after_unchanged_for_its_ttl() {
    let (_dir, root) = root();
    let ttl = Duration::from_millis(400);
    let clock = SystemClock;
    let options = Options::default().clock_identity(ClockId::new(5));
    let before = try_connect(&root, options).await.unwrap();
    let name = lock("job");
    let old = before.acquire(&name, ttl).await;
    // By the stamp alone the entry is dead, but another clock made the stamp.
    tokio::time::sleep(ttl).await;
    let client = connect(&root).await;
    let waiter = attempt();
    let seen = clock.now();
    let waiting = client.wait(&name, waiter, ttl).await;
    assert_eq!(waiting.holder.unwrap().expires_in, Some(ttl));
    let grant = client.granted(&name, waiter, Duration::from_secs(10)).await;
    let took = clock.now().since(seen);
    assert!(grant.unwrap().token > old.token);
    assert!(took >= ttl, "after {took:?}");
    assert!(
        took < ttl + ttl / 2 + Duration::from_secs(1),
        "after {took:?}"
    );
}

#[tokio::test]
async fn x3_try_acquire_gets_lock_of_another_boot() {
    let (_dir, root) = root();
    let ttl = Duration::from_millis(600);
    let clock = SystemClock;
    let options = Options::default().clock_identity(ClockId::new(5));
    let before = try_connect(&root, options).await.unwrap();
    let name = lock("job");
    let old = before.acquire(&name, ttl).await;
    let begun = clock.now();
    // As in a scheduled job: each try is a client of its own that disconnects.
    let token = loop {
        let client = connect(&root).await;
        match client.enqueue(&name, attempt(), ttl, false).await.unwrap() {
            Enqueued::Granted(grant) => break grant.token,
            Enqueued::Busy(_) => tokio::time::sleep(ttl / 10).await,
            other => panic!("{other:?}"),
        }
        assert!(clock.now().since(begun) < ttl * 10, "it is busy for ever");
    };
    assert!(clock.now().since(begun) >= ttl);
    assert!(token > old.token);
}

#[tokio::test]
async fn r4_thousand_cycles_leave_three_files() {
    let (_dir, root) = root();
    let client = try_connect(&root, Options::default().inline(true))
        .await
        .unwrap();
    let name = lock("job");
    let mut last = None;
    for _ in 0..1000 {
        let held = client.acquire(&name, TTL).await;
        assert!(Some(held.token) > last);
        last = Some(held.token);
        client.remove(&name, held.attempt).await;
    }
    let dir = root.join("default/job");
    assert_eq!(files(&dir, "").len(), 3);
    let bytes: u64 = files(&dir, "data.")
        .iter()
        .map(|path| path.symlink_metadata().unwrap().len())
        .sum();
    assert!(bytes < 1000, "{bytes}");
    assert_eq!(files(&root.join(".tmp"), ""), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn client_removes_its_fifo_and_stale_ones() {
    let (_dir, root) = root();
    let client = connect(&root).await;
    let inbox = root.join(".inbox");
    assert_eq!(files(&inbox, "").len(), 1);
    client.backend.close().await;
    drop(client);
    for _ in 0..1000 {
        if files(&inbox, "").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", files(&inbox, ""));
}

#[tokio::test]
async fn root_writable_by_others_is_rejected() {
    let (dir, root) = root();
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&root, permissions).unwrap();
    };
    drop(connect(&root).await);
    assert_eq!(root.metadata().unwrap().mode() & 0o7777, 0o700);
    mode(0o770);
    let error = refused(&root, Options::default()).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    drop(
        try_connect(&root, Options::default().shared(true))
            .await
            .unwrap(),
    );
    mode(0o777);
    let error = refused(&root, Options::default().shared(true)).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    mode(0o700);
    let link = dir.path().join("link");
    symlink(&root, &link).unwrap();
    let error = refused(&link, Options::default()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refused(&file, Options::default()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = refused(&file.join("below"), Options::default()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn shared_directory_is_shared_only_with_the_group() {
    let (_dir, root) = root();
    let client = try_connect(&root, Options::default().shared(true))
        .await
        .unwrap();
    client.acquire(&lock("job"), TTL).await;
    let mut seen = 0;
    let mut pending = vec![root];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        let mode = meta.mode() & 0o7777;
        if meta.is_dir() {
            assert_eq!(mode, 0o2770, "{}", path.display());
            pending.extend(files(&path, ""));
        } else if !meta.is_symlink() {
            assert_eq!(mode, 0o660, "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 6);
}

#[test]
fn default_root_belongs_to_the_user() {
    let root = FileStore::default_root();
    let text = root.to_str().unwrap().strip_prefix("/var/tmp/tenure-");
    assert!(text.unwrap().parse::<u32>().is_ok());
}

#[tokio::test]
async fn directory_without_permissions_is_permission_denied() {
    if nix::unistd::geteuid().is_root() {
        // Permissions do not restrict this user; another user runs the same test.
        let copy = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let program = copy.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let output = std::os::unix::process::CommandExt::uid(
            std::process::Command::new(&program)
                .args([
                    "--exact",
                    "directory_without_permissions_is_permission_denied",
                ])
                .current_dir("/"),
            65534,
        )
        .output()
        .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        // A directory of another user is rejected, even if this user could use it.
        let (_dir, root) = root();
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, Some(65534), None).unwrap();
        let error = refused(&root, Options::default()).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        return;
    }
    let (_dir, root) = root();
    let client = connect(&root).await;
    let name = lock("job");
    let held = client.acquire(&name, TTL).await;
    let dir = root.join("default/job");
    let mode = |path: &Path, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    mode(&dir, 0o500);
    let other = connect(&root).await;
    let error = other
        .enqueue(&name, attempt(), TTL, true)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    assert!(other.backend.inspect(&name).await.unwrap().holder.is_some());
    mode(&dir, 0o000);
    let error = other.backend.inspect(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    mode(&dir, 0o700);
    assert_eq!(client.remove(&name, held.attempt).await, Removed::AsHolder);
    mode(&root, 0o500);
    std::fs::remove_dir(root.join(".tmp")).unwrap_err();
    let error = refused(&root.join("below"), Options::default()).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    mode(&root, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_dropped_enqueue_leaves_nothing_after_removal() {
    let (_dir, root) = root();
    let client = connect(&root).await;
    let name = lock("job");
    for micros in (0..2000).step_by(20) {
        let dropped = attempt();
        let enqueue = client.enqueue(&name, dropped, TTL, true);
        let _ = tokio::time::timeout(Duration::from_micros(micros), enqueue).await;
        let request = tenure_core::request::Remove::new(name.clone(), dropped, TTL, false);
        client.backend.remove(request).await.unwrap();
        expect_free(&client, &name, micros).await;
    }
}

async fn expect_free(client: &Client, name: &tenure_core::name::LockName, micros: u64) {
    for _ in 0..3 {
        let state = client.backend.inspect(name).await.unwrap();
        assert_eq!(state.holder, None, "after {micros} µs");
    }
    let held = attempt();
    match client.enqueue(name, held, TTL, false).await.unwrap() {
        Enqueued::Granted(_) => {}
        other => panic!("after {micros} µs: {other:?}"),
    }
    assert_eq!(client.remove(name, held).await, Removed::AsHolder);
}
