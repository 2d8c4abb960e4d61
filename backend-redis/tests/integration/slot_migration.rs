//! A cluster slot moves to another node while its locks are held and waited for.

use std::{collections::BTreeMap, time::Duration};

use tenure_core::{Acquisition, Guard, error::ErrorKind};
use tenure_test_servers::redis::Cluster;
use tokio::time::sleep;

use crate::common::{
    OPERATION_TIMEOUT, acquire, client, expect_granted, hold_all, key, millis, seconds, wait_until,
};

const LOCKS: usize = 100;

/// The slot of a hash tag, as a cluster computes it (CRC16, XMODEM).
fn slot(tag: &str) -> u16 {
    let step = |crc: u16, byte: u8| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            }
        })
    };
    tag.bytes().fold(0, step) % 16_384
}

/// The first slot that `count` locks of the default namespace share, and the names of these locks.
fn locks_in_one_slot(count: usize) -> (u16, Vec<String>) {
    let mut slots: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for index in 0.. {
        let name = format!("n{index}");
        let slot = slot(&format!("default:{name}"));
        // A few slots are enough.
        if slot >= 64 {
            continue;
        }
        let names = slots.entry(slot).or_default();
        names.push(name);
        if names.len() == count {
            return (slot, names.clone());
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_slot_migration_loses_no_lease_and_grants_every_waiter() {
    const TTL: Duration = seconds(6);
    let cluster = Cluster::builder().start().unwrap();
    let (slot, mut names) = locks_in_one_slot(LOCKS + 1);
    let spare = names.pop().unwrap();
    assert_eq!(cluster.slot_of(&key(&names[0], "holder")).unwrap(), slot);
    let holder = client(&cluster.url(), TTL).await;
    let guards = hold_all(&holder, &names).await;
    // A waiter's report needs all four keys of its lock on one node, and the waiter's entry may
    // lapse before they are.
    let waiting = client(&cluster.url(), TTL).await;
    let waiters: Vec<_> = names.iter().map(|name| acquire(&waiting, name)).collect();
    let source = cluster.owner_of_slot(slot).unwrap();
    wait_until("all waiters are queued", OPERATION_TIMEOUT, || {
        let count = source
            .text(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
            .unwrap();
        // Each lock has a holder, a last token, a queue and entries.
        count.parse() == Ok(4 * LOCKS)
    })
    .await;

    let target = cluster
        .masters()
        .iter()
        .find(|node| node.port() != source.port())
        .unwrap();
    let moving = cluster.slot_move(slot, target).unwrap();
    let all_held = |when: &str| {
        let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
        assert_eq!(lost, 0, "l5: locks lost {when}");
    };
    let renewed_before: Vec<_> = guards.iter().map(Guard::valid_until).collect();
    moving.begin().unwrap();
    let (mut steps, mut acquired, mut refused) = (0, 0, 0);
    loop {
        all_held(&format!("step {steps}"));
        match holder.lock(&spare).unwrap().try_acquire().await {
            Ok(Acquisition::Acquired(guard)) => {
                acquired += 1;
                drop(guard);
            }
            // Only the guard of the previous step, which is being released, can hold the lock.
            Ok(Acquisition::Busy(_)) => assert!(acquired > 0),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(error.is_retryable());
            }
        }
        // The steps take more than one TTL in total, so every lease and every entry has to be
        // renewed.
        if moving.migrate_keys(12).unwrap() == 0 {
            break;
        }
        steps += 1;
        sleep(millis(250)).await;
    }
    assert!(steps >= 4 * LOCKS / 12, "{steps}");
    assert!(acquired + refused > 0);
    all_held("before the move ends");
    moving.finish().unwrap();
    for (guard, before) in guards.iter().zip(renewed_before) {
        assert!(guard.valid_until() > before, "k1");
    }
    wait_until("the target owns the slot", OPERATION_TIMEOUT, || {
        cluster
            .owner_of_slot(slot)
            .is_ok_and(|owner| owner.port() == target.port())
    })
    .await;
    let spare = holder.lock(&spare).unwrap();
    let spare = spare
        .acquire_within(OPERATION_TIMEOUT)
        .await
        .unwrap()
        .acquired()
        .unwrap();
    spare.check().unwrap();
    all_held("after the move");

    let tokens: Vec<_> = guards.iter().map(Guard::token).collect();
    for guard in &guards {
        let _ = guard.release().await;
    }
    for (waiter, before) in waiters.into_iter().zip(tokens) {
        let guard = expect_granted("the waiter is granted", TTL, waiter).await;
        assert!(guard.token() > before, "t1");
    }
}
