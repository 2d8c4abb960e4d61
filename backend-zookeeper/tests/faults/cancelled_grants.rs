//! Acquires that are cancelled at the moment at which the server answers them.

use std::time::Duration;

use tokio::{
    task::{JoinSet, yield_now},
    time::Instant,
};

use crate::common::{LONG, SOON, client_for, hold, millis, room, server};

/// Locks that are taken side by side, each by one task after the other.
const LANES: u32 = 4;
const CANCELLATIONS: u32 = 2_000;

/// The removal begins while the enqueue finds out that the attempt is first: it is not granted any more,
/// and its node must be deleted all the same. Once in some 15,000 cancellations the enqueue forgot the
/// attempt just after the removal had begun, and the removal then took it for absent. (With a pause of
/// 0.1 ms between the two steps, as they were, this test failed at once.)
#[tokio::test(flavor = "multi_thread")]
async fn a4_acquire_that_is_cancelled_at_its_grant_leaves_no_node() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let client = client.clone();
        lanes.spawn(async move {
            let name = format!("lane-{lane}");
            let lock = client.lock(&name).unwrap();
            let mut usual = millis(1);
            let mut cancelled = 0;
            while cancelled < CANCELLATIONS {
                let begun = Instant::now();
                // From half of the time of an acquire to one and a half of it.
                let share = 50 + cancelled * 37 % 100;
                let patience = usual * share / 100;
                // The timer of the runtime is too coarse.
                let patience_ends = async {
                    while begun.elapsed() < patience {
                        yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    () = patience_ends => cancelled += 1,
                    guard = lock.acquire() => {
                        usual = (usual * 7 + begun.elapsed()) / 8;
                        let _ = guard.unwrap().release().await;
                    }
                }
                // A node that was left is in front of every later one.
                assert!(begun.elapsed() < SOON, "{name}: a node was left");
            }
            name
        });
    }
    let other = client_for(&server.url(), LONG).await;
    let limit: Duration = SOON;
    while let Some(name) = lanes.join_next().await {
        let name = name.unwrap();
        let acquired = other.lock(&name).unwrap().acquire_within(limit).await;
        let guard = acquired.unwrap().acquired();
        assert!(guard.is_some(), "{name}: a node was left");
    }
    drop(hold(&client, "last").await);
}
