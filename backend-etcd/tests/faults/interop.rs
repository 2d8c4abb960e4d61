//! `etcdctl lock` at the same locks, in both orders of arrival.

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

/// A running `etcdctl lock`, which says so when it holds, and gives back when a file is gone.
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
        let (tell, held) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut lines = output.lines();
            if let Some(Ok(key)) = lines.next() {
                let _ = tell.send(key);
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
async fn w1_etcdctl_excludes_and_is_excluded_in_order() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;

    // It comes first.
    let mut peer = EtcdctlLock::start(&server, "default/a");
    let key = peer.holds().await;
    assert!(key.starts_with("default/a/"), "{key}");
    let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
    let Acquisition::Busy(holder) = tried else {
        panic!("X1: what etcdctl holds was granted");
    };
    assert_eq!((holder.attempt, holder.owner), (None, None));
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    // And again behind us.
    let mut second = EtcdctlLock::start(&server, "default/a");
    wait_for_waiters(&client, "a", 2).await;
    let shown = client.inspect(&name("a")).await.unwrap();
    assert!(shown.queue[0].attempt.is_some() && shown.queue[1].attempt.is_none());
    peer.release();
    let guard = expect_granted("it is our turn", WAIT_LIMIT, waiter).await;
    tokio::time::sleep(millis(300)).await;
    assert!(
        second.held.try_recv().is_err(),
        "X1: etcdctl holds what we hold"
    );
    assert!(guard.check().is_ok());
    let _ = guard.release().await;
    second.holds().await;
    let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(tried, Acquisition::Busy(_)));
    second.release();
    let guard = acquire_free(&client, "a").await;

    // We come first.
    let mut third = EtcdctlLock::start(&server, "default/a");
    wait_for_waiters(&client, "a", 1).await;
    tokio::time::sleep(millis(300)).await;
    assert!(
        third.held.try_recv().is_err(),
        "X1: etcdctl holds what we hold"
    );
    let _ = guard.release().await;
    third.holds().await;
    third.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_an_etcdctl_that_dies_is_succeeded() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;
    let mut peer = EtcdctlLock::start(&server, "default/a");
    peer.holds().await;
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    peer.child.kill().unwrap();
    let guard = expect_granted("its lease expires", WAIT_LIMIT, waiter).await;
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_noise_below_a_prefix_is_no_contender() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(10)).await;
    // Another lock of etcdctl, whose name begins with ours; and anything.
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
    let guard = expect_granted("the first", WAIT_LIMIT, first).await;
    tokio::time::sleep(millis(200)).await;
    assert!(!second.is_finished(), "X1: granted twice");
    let _ = guard.release().await;
    let guard = expect_granted("the second", WAIT_LIMIT, second).await;
    let _ = guard.release().await;
    let waiting = spawn_acquire(&client, "a");
    let guard = expect_granted("nothing but noise is there", WAIT_LIMIT, waiting).await;
    drop(guard);
    wait_until("it is given back", WAIT_LIMIT, || {
        client.live_attempts() == 0
    })
    .await;
    peer.release();
}
