//! `etcdctl lock` contends for the same locks, in both orders of arrival.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use tenure_core::Acquisition;
use tenure_test_servers::etcd::Server;
use tokio::time::timeout;

use crate::common::{
    WAIT_LIMIT, acquire_free, client, etcdctl, etcdctl_command, expect_granted, millis, name,
    seconds, spawn_acquire, wait_for_waiters, wait_until,
};

/// A running `etcdctl lock`, which reports when it holds the lock, and releases it when a file is
/// deleted.
struct EtcdctlLock {
    child: Child,
    file: PathBuf,
    held: tokio::sync::oneshot::Receiver<String>,
}

impl EtcdctlLock {
    fn start(server: &Server, lock: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = server.directory().join(format!("peer-{number}"));
        std::fs::write(&file, "").unwrap();
        let script = format!(
            "echo $ETCD_LOCK_KEY; while [ -e '{}' ]; do sleep 0.05; done",
            file.display()
        );
        let mut child = etcdctl_command(&server.address())
            .args(["lock", "--ttl=5", lock, "--", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (on_held, held) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut lines = output.lines();
            if let Some(Ok(key)) = lines.next() {
                let _ = on_held.send(key);
            }
            for _ in lines {}
        });
        Self { child, file, held }
    }

    async fn holds(&mut self) -> String {
        timeout(WAIT_LIMIT, &mut self.held).await.unwrap().unwrap()
    }

    fn release(mut self) {
        std::fs::remove_file(&self.file).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for EtcdctlLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w1_etcdctl_and_tenure_exclude_each_other_in_order() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;

    // `etcdctl` comes first.
    let mut peer = EtcdctlLock::start(&server, "default/a");
    let key = peer.holds().await;
    assert!(key.starts_with("default/a/"), "{key}");
    let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
    let Acquisition::Busy(holder) = tried else {
        panic!("X1: a lock held by etcdctl was granted");
    };
    assert_eq!((holder.attempt, holder.owner), (None, None));
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    // Another `etcdctl` behind the waiter.
    let mut second = EtcdctlLock::start(&server, "default/a");
    wait_for_waiters(&client, "a", 2).await;
    let shown = client.inspect(&name("a")).await.unwrap();
    assert!(shown.queue[0].attempt.is_some() && shown.queue[1].attempt.is_none());
    peer.release();
    let guard = expect_granted("the waiter is granted after etcdctl", WAIT_LIMIT, waiter).await;
    tokio::time::sleep(millis(300)).await;
    assert!(
        second.held.try_recv().is_err(),
        "X1: etcdctl was granted a held lock"
    );
    assert!(guard.check().is_ok());
    let _ = guard.release().await;
    second.holds().await;
    let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(tried, Acquisition::Busy(_)));
    second.release();
    let guard = acquire_free(&client, "a").await;

    // `tenure` comes first.
    let mut third = EtcdctlLock::start(&server, "default/a");
    wait_for_waiters(&client, "a", 1).await;
    tokio::time::sleep(millis(300)).await;
    assert!(
        third.held.try_recv().is_err(),
        "X1: etcdctl was granted a held lock"
    );
    let _ = guard.release().await;
    third.holds().await;
    third.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_waiter_succeeds_killed_etcdctl() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;
    let mut peer = EtcdctlLock::start(&server, "default/a");
    peer.holds().await;
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    peer.child.kill().unwrap();
    let guard = expect_granted("the lease of etcdctl expires", WAIT_LIMIT, waiter).await;
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_unrelated_keys_below_the_prefix_are_no_contenders() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;
    // A lock of `etcdctl` whose name starts with this lock's name, and an arbitrary key.
    let mut peer = EtcdctlLock::start(&server, "default/a/b");
    peer.holds().await;
    etcdctl(&server.address(), &["put", "default/a/hello", "x"]);
    let guard = acquire_free(&client, "a").await;
    let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
    let Acquisition::Busy(holder) = tried else {
        panic!("X1: granted twice");
    };
    assert_eq!(holder.attempt, Some(guard.attempt()));
    let first = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    etcdctl(&server.address(), &["put", "default/a/later", "x"]);
    let second = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 2).await;
    let _ = guard.release().await;
    let guard = expect_granted("the first waiter", WAIT_LIMIT, first).await;
    tokio::time::sleep(millis(200)).await;
    assert!(!second.is_finished(), "X1: granted twice");
    let _ = guard.release().await;
    let guard = expect_granted("the second waiter", WAIT_LIMIT, second).await;
    let _ = guard.release().await;
    let waiting = spawn_acquire(&client, "a");
    let guard = expect_granted("only unrelated keys are in front", WAIT_LIMIT, waiting).await;
    drop(guard);
    wait_until("the attempt is removed", WAIT_LIMIT, || {
        client.live_attempts() == 0
    })
    .await;
    peer.release();
}
