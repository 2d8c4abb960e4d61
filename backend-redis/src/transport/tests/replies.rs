//! Rejections by servers and how they are reported.

use super::*;

static SET: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('SET', KEYS[1], ARGV[1])".to_owned()));
static BUSY_LOOP: LazyLock<Script> = LazyLock::new(|| Script::new("while true do end".to_owned()));
static CUSTOM_ERROR: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.error_reply('NEWER 7 of us')".to_owned()));

#[track_caller]
fn script_failure(answer: CallResult) -> (String, String) {
    match answer {
        Err(CallError::ScriptFailed { code, detail }) => (code, detail),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_flushed_script_is_resent_with_its_source_once() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    let mut answers = Vec::new();
    let calls = vec![count("k"), count("k"), call(&ECHO, "k", &["x"])];
    transport
        .call_all(calls, None, &mut |index, answer, _| {
            answers.push((index, answer.is_ok()))
        })
        .await;
    answers.sort_unstable();
    assert_eq!(answers, [(0, true), (1, true), (2, true)]);
    assert_eq!(times_run(&server, "k"), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_error_is_a_failure_with_its_code() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    server.command(&["LPUSH", "list", "1"]).unwrap();
    assert_eq!(
        script_failure(transport.call(count("list")).await).0,
        "WRONGTYPE"
    );
    let (code, detail) = script_failure(transport.call(call(&CUSTOM_ERROR, "k", &[])).await);
    assert_eq!((&*code, &*detail), ("NEWER", "7 of us"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_full_server_rejects_and_changes_nothing() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .unwrap();
    assert_eq!(
        rejection_code(transport.call(call(&SET, "k", &["1"])).await),
        "OOM"
    );
    server
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .unwrap();
    assert_eq!(times_run(&server, "k"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_server_rejects() {
    let server = Server::builder()
        .config("busy-reply-threshold", "50")
        .start();
    let server = server.unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    let endless = tokio::spawn({
        let transport = Arc::clone(&transport);
        async move { transport.call(call(&BUSY_LOOP, "k", &[])).await }
    });
    // On the same connection, a call would be queued behind the endless one. A second transport has
    // a connection of its own.
    let begun = Instant::now();
    let other = loop {
        match open(&server.url(), Options::default()).await {
            Ok(_) => assert!(begun.elapsed() < TEST_TIMEOUT, "the server is not busy"),
            Err(error) => break error,
        }
    };
    assert_eq!(other.kind(), ErrorKind::Unavailable, "{other}");
    assert!(other.to_string().contains("BUSY"), "{other}");
    server.command(&["SCRIPT", "KILL"]).unwrap();
    let (code, _) = script_failure(endless.await.unwrap());
    assert_eq!(code, "ERR");
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    assert_eq!(events.count("down"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_right_is_a_rejection() {
    let server = Server::builder()
        .acl_user("app", "secret", "~* &* +@all")
        .start()
        .unwrap();
    let Opened { transport, .. } = open(&server.url(), user("app", "secret")).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    let set = |rule| server.command(&["ACL", "SETUSER", "app", rule]).unwrap();
    set("-evalsha");
    assert_eq!(rejection_code(transport.call(count("k")).await), "NOPERM");
    set("+evalsha");
    // Inside a script, an earlier command may already have changed something.
    set("-incr");
    let (code, _) = script_failure(transport.call(count("k")).await);
    assert!(matches!(&*code, "ERR" | "NOPERM"), "{code}");
    set("+incr");
    assert_eq!(expect_int(transport.call(count("k")).await), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_demoted_server_is_left_and_no_call_is_repeated() {
    let server = Server::builder().start().unwrap();
    let other = Server::builder().start().unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    let port = other.port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    assert_eq!(rejection_code(transport.call(count("k")).await), "READONLY");
    events.until("down").await;
    // The URL names one server, so no other master can be found.
    assert_eq!(rejection_code(transport.call(count("k")).await), "-");
    assert_eq!(events.count("up"), 0);
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    events.until("up").await;
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
}
