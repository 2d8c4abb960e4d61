//! The thread of a client ends after the client. Alone in its program, because it counts threads.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, thread, time::Duration};

use tenure_core::{Client, blocking, memory::MemoryStore};

/// The number of threads of this program that a client has started.
fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    let names = tasks.filter_map(|task| name(task.ok()?).ok());
    names.filter(|name| name.trim() == "tenure").count()
}

#[test]
fn thread_ends_after_its_client() {
    let store = MemoryStore::new();
    assert_eq!(client_threads(), 0);
    let client = blocking::Client::connect(Client::builder(store)).unwrap();
    let guard = client.lock("a").unwrap().acquire().unwrap();
    drop(client);
    assert!(guard.check().is_ok(), "the guard keeps its client");
    assert_eq!(client_threads(), 1);
    drop(guard);
    for _ in 0..2_000 {
        if client_threads() == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the thread is still there");
}
