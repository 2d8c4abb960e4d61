//! A guard that goes out of scope is released in its drop, because nothing runs after the end of a
//! program (R3).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use tenure_core::{Acquisition, Client, Guard, error::Error};
use tenure_file::FileStore;

/// Runs the main function of a program on a runtime that ends with it.
fn program<T>(main: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let output = runtime.block_on(main);
    runtime.shutdown_background();
    output
}

async fn client(root: &Path) -> Client {
    Client::builder(FileStore::new(root))
        .connect()
        .await
        .unwrap()
}

async fn acquire(client: &Client) -> Guard {
    client.lock("a").unwrap().acquire().await.unwrap()
}

fn assert_free(root: &Path, after: &str) {
    let tried = program(async {
        let client = client(root).await;
        let tried = client.lock("a").unwrap().try_acquire().await.unwrap();
        let free = matches!(tried, Acquisition::Acquired(_));
        drop(tried);
        free
    });
    assert!(tried, "the lock is taken after {after}");
}

#[test]
fn r3_lock_is_free_after_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    program(async {
        let _guard = acquire(&client(root).await).await;
    });
    assert_free(root, "the end of the scope");
    let failed = program(async {
        let client = client(root).await;
        let _guard = acquire(&client).await;
        client.lock("")?;
        Ok::<_, Error>(())
    });
    assert!(failed.is_err());
    assert_free(root, "an error");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        program(async {
            let _guard = acquire(&client(root).await).await;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_free(root, "a panic");
    let outlived = program(async { acquire(&client(root).await).await });
    drop(outlived);
    assert_free(root, "a drop outside of a runtime");
}

#[test]
fn r3_waiter_is_woken_by_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    program(async {
        let guard = acquire(&client(root).await).await;
        let other = client(root).await;
        let next = tokio::spawn(async move { acquire(&other).await });
        let reader = client(root).await;
        while reader.inspect(guard.name()).await.unwrap().queue.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(guard);
        assert!(next.await.unwrap().check().is_ok());
    });
}
