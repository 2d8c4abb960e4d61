//! The number of allocations per acquire and release in the core, which is stable, unlike times.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "tests may")]

use std::hint::black_box;

use tenure_core::{Client, Release, memory::MemoryStore};

const ROUNDS: u64 = 100;
/// Maximum number of allocations for one acquire and release; 8 were measured. Raise it only for a
/// good reason.
const MAX_ALLOCATIONS: u64 = 12;

#[test]
fn acquire_and_release_allocate_a_bounded_number_of_times() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime
        .block_on(Client::builder(MemoryStore::new()).connect())
        .unwrap();
    let lock = client.lock("any").unwrap();
    let turns = |count| {
        runtime.block_on(async {
            for _ in 0..count {
                let guard = lock.acquire().await.unwrap();
                assert!(matches!(
                    black_box(guard).release().await,
                    Release::Released
                ));
            }
        });
    };
    // One-time allocations do not count.
    turns(ROUNDS);
    let counted = allocation_counter::measure(|| turns(ROUNDS));
    let (times, bytes) = (counted.count_total / ROUNDS, counted.bytes_total / ROUNDS);
    println!("{times} allocations of {bytes} bytes in all for each acquire and release");
    assert!(
        (1..=MAX_ALLOCATIONS).contains(&times),
        "{times} allocations"
    );
    // No memory is retained for a released lock.
    assert!(
        counted.bytes_current < 4096,
        "{} bytes kept",
        counted.bytes_current
    );
}
