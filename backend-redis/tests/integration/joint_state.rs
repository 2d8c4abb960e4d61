//! Stored state of shared and counted locks: keys that a user deletes, that another program
//! overwrites, or that a version without modes meets.

use std::time::Duration;

use tenure_core::{
    error::ErrorKind,
    mode::Mode,
    request::{Enqueued, Removed, Renewed},
};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;
use tokio::time::{Instant, sleep};

use crate::common::{RAW_TTL, RawBackend, attempt, is_unused, key, millis, name, seconds};

fn server() -> Server {
    Server::builder().start().unwrap()
}

/// S2, X1: a user deletes some keys of a lock that readers hold. Nobody is granted the lock beside a
/// reader whose renewals succeed.
#[tokio::test(flavor = "multi_thread")]
async fn s2_missing_keys_lead_to_no_incompatible_grants() {
    const SHORT_TTL: Duration = millis(1500);
    const PARTS: [&str; 4] = ["holder", "queue", "entries", "fence"];
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    for mode in [Mode::Shared, Mode::permits(1, 3).unwrap()] {
        for deleted in 1..1_u32 << PARTS.len() {
            server.command(&["FLUSHALL"]).unwrap();
            let begun = Instant::now();
            let mut readers = Vec::new();
            for number in 1..=2 {
                let request = RawBackend::enqueue("a", attempt(number), SHORT_TTL).with_mode(mode);
                match raw.backend.enqueue(request).await.unwrap() {
                    Enqueued::Granted(grant) => readers.push(grant),
                    other => panic!("{other:?}"),
                }
            }
            let is_deleted = |part: usize| deleted & (1 << part) != 0;
            let parts: Vec<_> = (0..PARTS.len()).filter(|&part| is_deleted(part)).collect();
            let named: Vec<_> = parts.iter().map(|&part| PARTS[part]).collect();
            for part in &named {
                server.command(&["DEL", &key("a", part)]).unwrap();
            }
            let mut exclusive = RawBackend::enqueue("a", attempt(9), SHORT_TTL);
            exclusive.wait = false;
            let writer = raw.backend.enqueue(exclusive.clone()).await;
            let is_granted = matches!(writer, Ok(Enqueued::Granted(_)));
            // Without both keys, nothing says that the lock is held. On a machine that stood still, the
            // readers may have lapsed.
            assert!(
                is_granted == (is_deleted(0) && is_deleted(1)) || begun.elapsed() >= SHORT_TTL,
                "{named:?}: {writer:?}"
            );
            if let Err(error) = &writer {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{named:?}: {error}");
            }
            for (number, grant) in (1..).zip(&readers) {
                let answer = raw.renew("a", number, Some(grant.token)).await;
                if is_granted {
                    assert!(matches!(answer, Renewed::Gone(_)), "{named:?}: {answer:?}");
                }
                if is_deleted(2) || is_deleted(1) {
                    let proved = matches!(answer, Renewed::Proved { .. } | Renewed::Granted(_));
                    assert!(!proved, "{named:?}: {answer:?}");
                }
            }
            // The lock becomes free in time.
            if !is_granted {
                let begun = Instant::now();
                while !matches!(
                    raw.backend.enqueue(exclusive.clone()).await,
                    Ok(Enqueued::Granted(_))
                ) {
                    assert!(begun.elapsed() < SHORT_TTL + seconds(1), "{named:?}");
                    sleep(millis(20)).await;
                }
            }
            let _ = raw.remove("a", 9).await;
        }
    }
}

/// I1: `HOLDER` of joint holders that another program overwrites.
#[tokio::test(flavor = "multi_thread")]
async fn l1_readers_end_when_another_program_takes_the_key() {
    let server = server();
    let options = Options::default().plain_key("lock:{name}");
    let raw = RawBackend::connect(&server.url(), options).await;
    let grant = raw.granted("x", 1, Mode::Shared).await;
    let _ = raw.granted("x", 2, Mode::Shared).await;
    raw.waits("x", 3, Mode::Exclusive).await;
    server
        .command(&["SET", "lock:x", "other", "PX", "300"])
        .unwrap();
    let state = raw.backend.inspect(&name("x")).await.unwrap();
    assert_eq!(state.holders().count(), 1);
    assert_eq!(state.holder.unwrap().attempt, None);
    let answer = raw.renew("x", 1, Some(grant.token)).await;
    assert!(matches!(answer, Renewed::Gone(_)), "{answer:?}");
    sleep(millis(400)).await;
    // The second reader has not been told, and may work until its TTL ends.
    let answer = raw.renew("x", 3, None).await;
    assert!(matches!(answer, Renewed::Waiting(_)), "{answer:?}");
    assert_eq!(raw.remove("x", 2).await, Removed::AsHolder);
    let answer = raw.renew("x", 3, None).await;
    assert!(matches!(answer, Renewed::Granted(_)), "{answer:?}");
}

/// S3: the scripts of the last version without modes.
#[tokio::test(flavor = "multi_thread")]
async fn s3_version_without_modes_refuses_and_changes_nothing() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let old = |text: &str, number: u128, args: &[&str]| {
        let text = text.replace("-- COMMON\n", include_str!("format_1/common.lua"));
        let fence = key("a", &format!("fenced:{}", attempt(number)));
        let keys = ["holder", "fence", "queue", "entries"].map(|part| key("a", part));
        let id = attempt(number).to_string();
        let script = server.text(&["SCRIPT", "LOAD", &text]).unwrap();
        let mut command = vec!["EVALSHA", &script, "5"];
        command.extend(keys.iter().map(String::as_str));
        command.extend([fence.as_str(), args[0], &id]);
        command.extend(&args[1..]);
        format!("{:?}", server.command(&command))
    };
    let fields = format!("60000000 {} a/b/1", "c".repeat(32));
    let enqueue = |number| {
        let text = include_str!("format_1/enqueue.lua");
        old(text, number, &["0 1", &fields, "60000"])
    };
    let remove = |number| old(include_str!("format_1/remove.lua"), number, &["0 0 0"]);
    let dump = || {
        let parts = ["holder", "fence", "queue", "entries"].map(|part| key("a", part));
        parts.map(|part| format!("{:?}", server.command(&["DUMP", &part]).unwrap()))
    };
    let refused = |answer: String| assert!(answer.contains(r#"TENURE_NEWER\": 2"#), "{answer}");

    // A reader waits behind an exclusive holder.
    let _ = raw.granted("a", 1, Mode::Exclusive).await;
    raw.waits("a", 2, Mode::Shared).await;
    let before = dump();
    refused(enqueue(7));
    refused(remove(1));
    assert_eq!(dump(), before);
    // Readers hold the lock.
    let _ = raw.remove("a", 1).await;
    let reader = raw.renew("a", 2, None).await;
    assert!(matches!(reader, Renewed::Granted(_)), "{reader:?}");
    let before = dump();
    refused(enqueue(7));
    refused(remove(2));
    assert_eq!(dump(), before);
    server.command(&["DEL", &key("a", "holder")]).unwrap();
    refused(enqueue(7));
    // An exclusive waiter succeeds them, and both versions understand the lock again.
    raw.waits("a", 3, Mode::Exclusive).await;
    let _ = raw.remove("a", 2).await;
    let waits = enqueue(7);
    assert!(waits.contains("waiting"), "{waits}");
    let removed = remove(3);
    assert!(removed.contains("holder"), "{removed}");
    let held = server.text(&["GET", &key("a", "holder")]).unwrap();
    let expected = format!("tenure/1 {}", attempt(7));
    assert!(held.starts_with(&expected), "{held}");
}

/// S2, S3: records of joint holders that no script writes.
#[tokio::test(flavor = "multi_thread")]
async fn s2_malformed_joint_records_are_refused() {
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let newer = ("tenure/3 shared 1 1", ErrorKind::NewerFormat);
    let malformed = [
        "tenure/2 shared",
        "tenure/2 shared 0 1",
        "tenure/2 shared x 1",
        "tenure/2 exclusive 1 1",
        "tenure/2 3/2 1 1",
        "tenure/2 1/99999999999 1 1",
        // The queue has no such holders.
        "tenure/2 shared 1 1",
        "tenure/2 shared 9007199254740991 1",
    ];
    let malformed = malformed.map(|record| (record, ErrorKind::Corrupt));
    for (record, kind) in malformed.into_iter().chain([newer]) {
        server
            .command(&["SET", &key("a", "holder"), record])
            .unwrap();
        for mode in [Mode::Exclusive, Mode::Shared] {
            let request = RawBackend::enqueue("a", attempt(1), RAW_TTL).with_mode(mode);
            let error = raw.backend.enqueue(request).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{record}: {error}");
        }
        let error = raw.backend.inspect(&name("a")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{record}: {error}");
    }
}

/// X3, R4: one run ends a bounded number of lapsed grants, also after the holder key has expired.
#[tokio::test(flavor = "multi_thread")]
async fn x3_many_lapsed_holders_are_ended_by_several_runs() {
    const HOLDERS: u128 = 1200;
    const SHORT_TTL: Duration = seconds(2);
    let server = server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let all = Mode::permits(1200, 1200).unwrap();
    for number in 0..HOLDERS {
        let request = RawBackend::enqueue("a", attempt(10 + number), SHORT_TTL);
        let request = request.with_mode(Mode::permits(1, 1200).unwrap());
        let answer = raw.backend.enqueue(request).await.unwrap();
        assert!(matches!(answer, Enqueued::Granted(_)), "{answer:?}");
    }
    raw.waits("a", 1, all).await;
    sleep(SHORT_TTL + millis(50)).await;
    let mut runs = 0;
    while !matches!(raw.renew("a", 1, None).await, Renewed::Granted(_)) {
        runs += 1;
        assert!(runs < 5, "{runs} reports");
        let ttl = server.text(&["PTTL", &key("a", "holder")]).unwrap();
        assert_ne!(ttl, "-1", "r4: the holder key never expires");
    }
    assert!(runs >= 1, "the bound was not reached");
    let state = raw.backend.inspect(&name("a")).await.unwrap();
    assert_eq!(state.holders().count(), 1);
    assert_eq!(raw.remove("a", 1).await, Removed::AsHolder);
    assert!(is_unused(&server, "a"));
}
