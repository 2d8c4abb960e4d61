//! Discarding the state of a lock beside clients that use it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{path::Path, time::Duration};

use tenure_core::{
    Acquisition, Client, Release,
    clock::{Clock, SystemClock},
};
use tenure_file::FileStore;

async fn client(root: &Path) -> Client {
    let builder = Client::builder(FileStore::new(root));
    builder.connect().await.unwrap()
}

/// Takes turns until the time is up; returns the number of grants, of grants beside another guard that was held,
/// and of releases that did not find the lock held.
async fn take_turns(client: Client, other: Client, until: Duration) -> (u32, u32, u32) {
    let (mut grants, mut beside, mut lost) = (0, 0, 0);
    let deadline = SystemClock.now() + until;
    while SystemClock.now() < deadline {
        let Acquisition::Acquired(guard) = client.lock("job").unwrap().try_acquire().await.unwrap()
        else {
            continue;
        };
        grants += 1;
        tokio::time::sleep(Duration::from_micros(300)).await;
        // While this guard is held, the store must not grant the lock.
        if let Acquisition::Acquired(second) =
            other.lock("job").unwrap().try_acquire().await.unwrap()
        {
            beside += u32::from(guard.check().is_ok() && second.check().is_ok());
            let _ = second.release().await;
        }
        lost += u32::from(!matches!(guard.release().await, Release::Released));
    }
    (grants, beside, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_discard_beside_use_frees_no_held_lock() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("locks");
    let discarding = client(&root).await;
    let user = take_turns(
        client(&root).await,
        client(&root).await,
        Duration::from_secs(3),
    );
    let user = tokio::spawn(user);
    let mut deleted = 0;
    while !user.is_finished() {
        let kept = discarding.discard("job").await.unwrap();
        deleted += u32::from(kept == Some(Duration::ZERO));
    }
    let (grants, beside, lost) = user.await.unwrap();
    assert!(
        grants > 20 && deleted > 20,
        "{grants} grants, {deleted} deletions"
    );
    assert_eq!((beside, lost), (0, 0), "of {grants} grants");
}
