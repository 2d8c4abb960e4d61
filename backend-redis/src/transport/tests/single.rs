//! One server that is killed, stopped or unreachable.

use tenure_test_servers::wire::Proxy;

use super::*;

const SHORT_TIMEOUT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_messages_share_one_connection() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { transport, events } = open(&proxy.url(), Options::default()).await.unwrap();
    proxy.reset();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    assert_eq!(expect_int(transport.call(count("k")).await), 2);
    server.command(&["PUBLISH", INBOX, "hello"]).unwrap();
    events.until("hello").await;
    assert_eq!(proxy.requests(), 2);
    assert_eq!(proxy.count("EVALSHA"), 2);
    assert_eq!(proxy.connections_made(), 1);
    assert_eq!(events.all(), ["hello"]);

    assert_eq!(transport.0.nodes().len(), 1);
    assert_eq!(transport.grants_blocked_until("k"), None);

    transport.close();
    assert_eq!(rejection_code(transport.call(count("k")).await), "-");
    until("the connection is closed", || proxy.connections_open() == 0).await;
    assert_eq!(events.all(), ["hello"], "closing is not a failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_socket_with_a_database_is_supported() {
    let server = Server::builder().start().unwrap();
    let url = format!("redis+unix:{}", server.unix_socket().display());
    let options = Options::default().database(3);
    let Opened { transport, .. } = open(&url, options).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    assert!(server.info("db3").unwrap().is_some());
    assert!(server.info("db0").unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_closes_with_the_last_reference() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { transport, .. } = open(&proxy.url(), Options::default()).await.unwrap();
    let clone = Arc::clone(&transport);
    drop(transport);
    assert_eq!(expect_int(clone.call(count("k")).await), 1);
    drop(clone);
    until("the connection is closed", || proxy.connections_open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_killed_server_is_reconnected_and_the_inbox_resubscribed() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    server.kill();
    events.until("down").await;
    // The call is rejected immediately and not sent later.
    let answer = tokio::time::timeout(SHORT_TIMEOUT, transport.call(count("k"))).await;
    assert_eq!(rejection_code(answer.unwrap()), "-");
    server.restart().unwrap();
    events.until("up").await;
    assert_eq!(events.all(), ["down", "up"]);
    assert_eq!(
        expect_int(transport.call(count("k")).await),
        1,
        "the server is empty"
    );
    server.command(&["PUBLISH", INBOX, "hello"]).unwrap();
    events.until("hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_request_with_a_lost_reply_has_unknown_outcome_and_is_not_resent() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { transport, events } = open(&proxy.url(), Options::default()).await.unwrap();
    proxy.drop_reply_of_and_cut("EVALSHA");
    let answer = transport.call(count("k")).await;
    assert!(
        matches!(answer, Err(CallError::OutcomeUnknown(_))),
        "{answer:?}"
    );
    events.until("up").await;
    assert_eq!(events.all(), ["down", "up"]);
    assert_eq!(times_run(&server, "k"), "1");
    proxy.reset();
    assert_eq!(expect_int(transport.call(count("k")).await), 2);
    assert_eq!(proxy.count("EVALSHA"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_batch_with_lost_replies_has_unknown_outcome_and_is_not_resent() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { transport, .. } = open(&proxy.url(), Options::default()).await.unwrap();
    proxy.drop_reply_of_and_cut("EVALSHA");
    let calls: Vec<_> = (0..3).map(|n| count(&format!("k{n}"))).collect();
    let mut unanswered = 0;
    transport
        .call_all(calls, None, &mut |_, answer, _| {
            assert!(
                matches!(answer, Err(CallError::OutcomeUnknown(_))),
                "{answer:?}"
            );
            unanswered += 1;
        })
        .await;
    assert_eq!(unanswered, 3);
    until("the connection is back", || {
        transport.0.nodes()[0].connection().is_some()
    })
    .await;
    for n in 0..3 {
        assert_eq!(times_run(&server, &format!("k{n}")), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_dropped_connection_is_reported_and_resubscribed() {
    let server = Server::builder().start().unwrap();
    let Opened { events, .. } = &open(&server.url(), Options::default()).await.unwrap();
    for round in 0..3 {
        events.clear();
        server
            .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .unwrap();
        events.until("up").await;
        let message = format!("hello {round}");
        server.command(&["PUBLISH", INBOX, &message]).unwrap();
        events.until(&message).await;
        assert_eq!(events.all(), ["down", "up", &*message]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_server_is_abandoned_and_reconnected_without_a_connection_storm() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let options = Options::default()
        .connection(ConnectionOptions::default().with_connect_timeout(SHORT_TIMEOUT));
    let opened = open_within(&proxy.url(), options, SHORT_TIMEOUT)
        .await
        .unwrap();
    let Opened { transport, events } = opened;
    server.pause().unwrap();
    let begun = Instant::now();
    // The caller is cancelled; the missing reply is noticed nevertheless.
    let waited = tokio::time::timeout(Duration::from_millis(20), transport.call(count("k"))).await;
    assert!(waited.is_err());
    events.until("down").await;
    assert!(begun.elapsed() >= SHORT_TIMEOUT, "disconnected too early");
    assert_eq!(rejection_code(transport.call(count("k")).await), "-");
    tokio::time::sleep(SHORT_TIMEOUT * 6).await;
    let made = proxy.connections_made();
    assert!((2..=20).contains(&made), "{made} connections");
    server.resume().unwrap();
    events.until("up").await;
    retry_until_ok("the server answers", async || {
        transport.call(call(&ECHO, "k", &["x"])).await
    })
    .await;
    // The call in flight was executed at most once.
    assert_eq!(times_run(&server, "k"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_drops_new_connections_is_retried_with_backoff() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { events, .. } = &open(&proxy.url(), Options::default()).await.unwrap();
    server.kill();
    events.until("down").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let made = proxy.connections_made();
    // Twelve on average with backoff; thousands without it.
    assert!((3..=60).contains(&made), "{made} connections");
    server.restart().unwrap();
    events.until("up").await;
    assert_eq!(events.all(), ["down", "up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_stays_open() {
    let server = Server::builder().start().unwrap();
    let limit = Duration::from_millis(50);
    let opened = open_within(&server.url(), Options::default(), Duration::from_secs(1)).await;
    drop(opened.unwrap());
    let opened = retry_until_ok("the transport opens", async || {
        open_within(&server.url(), Options::default(), limit).await
    });
    let Opened { transport, events } = opened.await;
    retry_until_ok("the server answers", async || {
        transport.call(count("k")).await
    })
    .await;
    events.clear();
    server.pause().unwrap();
    tokio::time::sleep(limit * 10).await;
    assert_eq!(
        events.all(),
        [""; 0],
        "no request was sent, so no reply is missing"
    );
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reply_is_awaited_while_other_bytes_arrive() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let opened = open_within(&proxy.url(), Options::default(), SHORT_TIMEOUT).await;
    let Opened { transport, events } = opened.unwrap();
    // The reply is late, but pushed messages show that the peer is alive.
    let until = Instant::now() + SHORT_TIMEOUT * 4;
    while Instant::now() < until {
        server.command(&["PUBLISH", INBOX, "tick"]).unwrap();
        assert!(transport.call(count("k")).await.is_ok());
        tokio::time::sleep(SHORT_TIMEOUT / 10).await;
    }
    assert_eq!(events.count("down"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_restarted_server_blocks_grants_for_the_restart_delay() {
    let server = Server::builder().start().unwrap();
    let options = Options::default().restart_delay(Duration::from_secs(3600));
    let Opened { transport, .. } = open(&server.url(), options).await.unwrap();
    let left = transport.grants_blocked_until("k").unwrap();
    let left = left.since(tenure_core::clock::Clock::now(&SystemClock));
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600));
    let options = Options::default().restart_delay(Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let Opened { transport, .. } = open(&server.url(), options).await.unwrap();
    assert_eq!(transport.grants_blocked_until("k"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_disconnected_server_counts_as_just_started() {
    let server = Server::builder().start().unwrap();
    let options = Options::default().restart_delay(Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let Opened { transport, events } = open(&server.url(), options).await.unwrap();
    assert_eq!(transport.grants_blocked_until("k"), None);
    server.kill();
    events.until("down").await;
    assert!(transport.grants_blocked_until("k").is_some());
    server.restart().unwrap();
    events.until("up").await;
    assert!(transport.grants_blocked_until("k").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_server_is_awaited() {
    let builder = Server::builder()
        .config("appendonly", "yes")
        .config("appendfsync", "always")
        .config("loading-process-events-interval-bytes", "1024")
        .config("key-load-delay", "500");
    let server = builder.start().unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    let fill = "for i = 1, 2000 do redis.call('SET', 'k' .. i, i) end";
    server.command(&["EVAL", fill, "0"]).unwrap();
    server.command(&["BGREWRITEAOF"]).unwrap();
    let rewritten = || server.info("aof_rewrite_in_progress").unwrap().as_deref() == Some("0");
    until("the log is rewritten", rewritten).await;
    events.clear();
    std::thread::scope(|scope| {
        scope.spawn(|| server.restart().unwrap());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                let begun = Instant::now();
                loop {
                    match open(&server.url(), Options::default()).await {
                        Err(error) if error.to_string().contains("loading") => {
                            assert_eq!(error.kind(), ErrorKind::Unavailable);
                            break;
                        }
                        _ => assert!(begun.elapsed() < TEST_TIMEOUT, "loading was never observed"),
                    }
                }
            });
        });
    });
    events.until("up").await;
    assert_eq!(events.all(), ["down", "up"]);
    assert_eq!(expect_int(transport.call(count("k7")).await), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_calls_are_sent_in_writes_of_one_hundred() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let Opened { transport, .. } = open(&proxy.url(), Options::default()).await.unwrap();
    proxy.reset();
    let calls: Vec<_> = (0..1000).map(|n| count(&format!("k{n}"))).collect();
    let mut answers = BTreeMap::new();
    transport
        .call_all(calls, None, &mut |index, answer, _| {
            assert!(answers.insert(index, expect_int(answer)).is_none());
        })
        .await;
    assert_eq!(answers.len(), 1000);
    assert!(answers.values().all(|times_run| *times_run == 1));
    assert_eq!(proxy.count("EVALSHA"), 1000);
    assert!(proxy.requests() <= 10, "{} writes", proxy.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_scan_returns_every_key_in_pages() {
    let server = Server::builder().start().unwrap();
    for n in 0..300 {
        server.command(&["SET", &format!("a:{n}"), "1"]).unwrap();
    }
    server.command(&["SET", "b:1", "1"]).unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    let mut cursor = None;
    loop {
        let (keys, next) = transport.scan(cursor.as_deref(), "a:*", 50).await.unwrap();
        found.extend(keys);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found.len(), 300);
    assert!(transport.scan(Some("rubbish"), "*", 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_awaited_on_a_separate_connection() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    let options = Options::default().replicas(1, Duration::from_millis(300));
    let Opened { transport, .. } = open(&master.url(), options).await.unwrap();
    let timeout = Duration::from_secs(5);
    let answers = call_replicated(&transport, vec![count("a"), count("b")], 1, timeout).await;
    let answers: Vec<_> = answers
        .into_iter()
        .map(|(a, n)| (expect_int(a), n))
        .collect();
    assert_eq!(answers, [(1, 1), (1, 1)]);
    assert_eq!(times_run(&replica, "a"), "1");
    // A replica that does not answer delays no other call.
    replica.pause().unwrap();
    let late = tokio::spawn({
        let transport = Arc::clone(&transport);
        let timeout = Duration::from_millis(600);
        async move { call_replicated(&transport, vec![count("a")], 1, timeout).await }
    });
    let server = &master;
    until("the call was executed", || times_run(server, "a") == "2").await;
    assert_eq!(expect_int(transport.call(count("c")).await), 1);
    assert!(!late.is_finished());
    let late = late.await.unwrap();
    assert_eq!((expect_int(late[0].0.clone()), late[0].1), (2, 0));
    replica.resume().unwrap();
    let (before, now) = (clients(&master), || clients(&master));
    transport.close();
    until("both connections are closed", || now() + 2 <= before).await;
}

fn clients(server: &Server) -> usize {
    let list = server.text(&["CLIENT", "LIST"]).unwrap();
    list.lines().count()
}
