//! The end of a program: a scope releases what is held, and the log names what is left.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod captured_log;
mod faulty_store;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use captured_log::log_of;
use faulty_store::{Faults, FaultyStore};
use tenure_core::{
    Client,
    error::{Error, ErrorKind},
    memory::MemoryStore,
    name::{LockName, Namespace},
};
use tracing::Level;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn is_free(store: &MemoryStore, lock: &str) -> bool {
    let name = LockName::new(lock).unwrap();
    store.token(&Namespace::default(), &name).is_none()
}

/// A store whose answers to removals are late, so that only somebody who waits gets them.
fn slow(store: &MemoryStore) -> FaultyStore {
    let faults = Faults {
        removal_delay: Duration::from_millis(50),
        ..Faults::default()
    };
    FaultyStore(store.clone(), faults)
}

#[test]
fn r5_scope_releases_what_was_dropped_and_what_is_held() {
    let store = MemoryStore::new();
    let leaked = runtime().block_on(async {
        let scope = Client::builder(slow(&store)).scope(async |client| {
            drop(client.lock("dropped")?.acquire().await?);
            client.lock("held")?.acquire().await
        });
        scope.await.unwrap()
    });
    assert!(is_free(&store, "dropped"));
    assert!(is_free(&store, "held"));
    assert!(leaked.check().is_err());
}

#[test]
fn r5_scope_releases_after_an_error_and_after_a_panic() {
    let store = MemoryStore::new();
    let failed = runtime().block_on(Client::builder(slow(&store)).scope(async |client| {
        let _guard = client.lock("a")?.acquire().await?;
        client.lock("")?;
        Ok::<_, Error>(())
    }));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidName);
    assert!(is_free(&store, "a"), "after an error");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let scope = Client::builder(slow(&store)).scope(async |client| {
            let _guard = client.lock("a")?.acquire().await?;
            if client.live_attempts() > 0 {
                panic!("on purpose");
            }
            Ok::<_, Error>(())
        });
        runtime().block_on(scope)
    }));
    assert_eq!(
        *panicked.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
    assert!(is_free(&store, "a"), "after a panic");
}

/// The text that is logged if a program ends with a guard that was dropped: after the removal has begun,
/// or before, or after a shutdown.
fn logged_at_the_end(begins: bool, waits: bool) -> String {
    log_of(Level::INFO, || {
        let runtime = runtime();
        runtime.block_on(async {
            let store = slow(&MemoryStore::new());
            let client = Client::builder(store).connect().await.unwrap();
            drop(client.lock("a").unwrap().acquire().await.unwrap());
            if begins {
                tokio::task::yield_now().await;
            }
            if waits {
                client.shutdown(Duration::from_secs(20)).await;
            }
        });
    })
}

#[test]
fn r3_log_names_releases_that_the_end_of_the_runtime_cuts_off() {
    for begins in [false, true] {
        let text = logged_at_the_end(begins, false);
        let expected = "while locks were being released";
        assert!(text.contains(expected), "begins {begins}: {text}");
        assert_eq!(logged_at_the_end(begins, true), "");
    }
}
