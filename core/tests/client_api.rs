//! The small parts of the client's API: texts for names, runs with a time limit, the end of a guard.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Client, NotHeld, error::ErrorKind, loss::LossReason, memory::MemoryStore, request::Evicted,
    token::FencingToken,
};

/// Names and namespaces are texts wherever a user gives them, and an invalid one is an error and no
/// panic.
#[tokio::test]
async fn n1_names_and_namespaces_are_texts() {
    let store = MemoryStore::new();
    let builder = || Client::builder(store.clone());
    let client = builder().namespace("billing").connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    let state = client.inspect("a").await.unwrap();
    assert_eq!(state.holder.unwrap().token, Some(guard.token()));
    let evicted = client.evict("a", guard.token()).await.unwrap();
    assert!(matches!(evicted, Evicted::Evicted));
    let error = client.inspect("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName);
    let error = builder().namespace("a\0b").connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(
        text.contains("the namespace: it has a NUL byte at offset 1"),
        "{text}"
    );
}

#[tokio::test]
async fn a5_run_names_the_holder_of_a_busy_lock() {
    let client = Client::builder(MemoryStore::new())
        .label("first")
        .connect()
        .await
        .unwrap();
    let lock = client.lock("a").unwrap();
    assert_eq!(lock.try_run(async |_| 7).await.unwrap(), 7);
    let budget = Duration::from_millis(20);
    assert_eq!(lock.run_within(budget, async |_| 7).await.unwrap(), 7);
    let guard = lock.acquire().await.unwrap();
    for busy in [
        lock.try_run(async |_| ()).await,
        lock.run_within(budget, async |_| ()).await,
    ] {
        let error = busy.unwrap_err().to_string();
        assert!(
            error.starts_with("the lock is held by \"first\" (pid "),
            "{error}"
        );
        assert!(
            error.ends_with(&format!(", token {}", guard.token())),
            "{error}"
        );
    }
}

/// A task that watches a guard ends with it.
#[tokio::test]
async fn l1_watching_task_ends_with_the_guard() {
    let client = Client::builder(MemoryStore::new()).connect().await.unwrap();
    let guard = Arc::new(client.lock("a").unwrap().acquire().await.unwrap());
    let watched = Arc::clone(&guard);
    let watch = tokio::spawn(async move { watched.ended().await });
    let _ = guard.release().await;
    assert_eq!(watch.await.unwrap(), NotHeld::Released);
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    client.evict("a", guard.token()).await.unwrap();
    assert_eq!(guard.ended().await, NotHeld::Lost(LossReason::Evicted));
}

#[test]
fn t1_token_is_a_signed_number_for_databases() {
    assert_eq!(FencingToken::new(42).get_i64(), 42);
    assert_eq!(FencingToken::MAX.get_i64(), (1 << 62) - 1);
    assert_eq!(FencingToken::new(u64::MAX).get_i64(), i64::MAX);
}
