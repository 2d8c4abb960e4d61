//! A cluster whose slots move and whose nodes fail.

use std::collections::BTreeSet;

use tenure_test_servers::redis::Cluster;

use super::*;

/// Keys that are spread over all masters.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{k{n}}}")).collect()
}

/// The node that carries the inbox subscription.
fn inbox_node(cluster: &Cluster) -> &Server {
    let inbox_node = cluster.masters().iter().find(|master| {
        let line = master.text(&["PUBSUB", "NUMSUB", INBOX]).unwrap();
        line.lines().any(|line| line == "1")
    });
    inbox_node.unwrap()
}

async fn run_all(transport: &Transport, keys: &[String]) -> Vec<CallResult> {
    let calls = keys.iter().map(|key| count(key)).collect();
    let mut answers: Vec<CallResult> = keys.iter().map(|_| Ok(Value::Nil)).collect();
    transport
        .call_all(calls, None, &mut |index, answer, _| answers[index] = answer)
        .await;
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_every_node_is_used_and_scanned_and_one_carries_the_inbox() {
    let cluster = Cluster::builder().start().unwrap();
    let Opened { transport, events } = open(&cluster.url(), Options::default()).await.unwrap();
    assert!(transport.is_cluster());
    assert_eq!(transport.0.nodes().len(), 3);
    let keys = keys(300);
    for answer in run_all(&transport, &keys).await {
        assert_eq!(expect_int(answer), 1);
    }
    for (n, key) in keys.iter().enumerate().take(10) {
        assert_eq!(transport.slot(key), cluster.slot_of(key).unwrap());
        assert_eq!(expect_int(transport.call(count(key)).await), 2, "{n}");
    }
    let mut found = BTreeSet::new();
    let mut cursor = None;
    loop {
        let (page, next) = transport.scan(cursor.as_deref(), "{k*", 40).await.unwrap();
        found.extend(page);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found.len(), 300);
    let mut subscribed = 0;
    for master in cluster.masters() {
        let line = master.text(&["PUBSUB", "NUMSUB", INBOX]).unwrap();
        subscribed += line.lines().filter(|line| *line == "1").count();
        master
            .command(&["PUBLISH", INBOX, &master.address()])
            .unwrap();
    }
    assert_eq!(subscribed, 1);
    for master in cluster.masters() {
        events.until(&master.address()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reachable_seed_is_enough_and_a_single_server_url_is_rejected() {
    let cluster = Cluster::builder().start().unwrap();
    let first = &cluster.masters()[0];
    let dead = Server::builder().start().unwrap();
    dead.kill();
    let url = format!("redis+cluster://{},{}", dead.address(), first.address());
    let Opened { transport, .. } = open(&url, Options::default()).await.unwrap();
    assert_eq!(transport.0.nodes().len(), 3);
    let error = open(&first.url(), Options::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_moving_slot_is_followed_and_no_call_runs_twice() {
    let cluster = Cluster::builder().start().unwrap();
    let Opened { transport, events } = open(&cluster.url(), Options::default()).await.unwrap();
    let here: Vec<_> = (0..20).map(|n| format!("{{moves}}{n}")).collect();
    for answer in run_all(&transport, &here).await {
        assert_eq!(expect_int(answer), 1);
    }
    let slot = cluster.slot_of("{moves}").unwrap();
    let owner = cluster.owner_of_slot(slot).unwrap().port();
    let target = cluster.masters().iter().find(|node| node.port() != owner);
    let moving = cluster.slot_move(slot, target.unwrap()).unwrap();
    moving.begin().unwrap();
    assert_eq!(moving.migrate_keys(7).unwrap(), 7);
    // Half of the keys are on the target, half on the source.
    for answer in run_all(&transport, &here).await {
        assert_eq!(expect_int(answer), 2);
    }
    for key in &here {
        assert_eq!(expect_int(transport.call(count(key)).await), 3);
    }
    // A call with keys on two nodes is rejected after some retries and not executed.
    let (gone, left): (Vec<_>, Vec<_>) = here.iter().partition(|key| {
        let there = moving
            .target()
            .text(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "99"]);
        there.unwrap().lines().any(|line| line == &***key)
    });
    let mut both = count(gone[0]);
    both.key(left[0]);
    assert_eq!(rejection_code(transport.call(both).await), "TRYAGAIN");
    while moving.migrate_keys(100).unwrap() > 0 {}
    moving.finish().unwrap();
    for answer in run_all(&transport, &here).await {
        assert_eq!(expect_int(answer), 4);
    }
    for key in &here {
        assert_eq!(times_run(moving.target(), key), "4");
    }
    // The client has applied the new slot map and causes no more redirections.
    let before = moving.source().info("total_error_replies").unwrap();
    let known = async || {
        expect_int(transport.call(count(&here[0])).await);
        let now = moving.source().info("total_error_replies").unwrap();
        if now == before {
            Ok(())
        } else {
            Err((now, before.clone()))
        }
    };
    retry_until_ok("calls go directly to the new owner", known).await;
    assert_eq!(events.count("down"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_killed_node_is_replaced_by_its_replica_and_the_inbox_moves() {
    let cluster = Cluster::builder()
        .replicas(1)
        .node_timeout(Duration::from_secs(1))
        .nodes(Server::builder().config("cluster-require-full-coverage", "no"))
        .start()
        .unwrap();
    let Opened { transport, events } = open(&cluster.url(), Options::default()).await.unwrap();
    let keys = keys(100);
    for answer in run_all(&transport, &keys).await {
        assert_eq!(expect_int(answer), 1);
    }
    let inbox_node = inbox_node(&cluster);
    inbox_node.kill();
    events.until("down").await;
    events.until("up").await;
    let another = cluster
        .masters()
        .iter()
        .find(|node| node.is_running())
        .unwrap();
    another.command(&["PUBLISH", INBOX, "hello"]).unwrap();
    events.until("hello").await;
    // The slots of the other nodes are served throughout; the rest is served again once a replica
    // has become a master.
    let mut refusals = 0;
    let begun = Instant::now();
    loop {
        let answers = run_all(&transport, &keys).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        refusals += failed;
        assert!(failed < 70, "more than one node is unavailable");
        if failed == 0 {
            break;
        }
        assert!(begun.elapsed() < TEST_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(refusals > 0);
    until("the map has three connected masters", || {
        transport.0.nodes().len() == 3
    })
    .await;
    let events = events.all();
    assert_eq!(events.last().map(String::as_str), Some("up"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_stopped_node_without_requests_loses_the_inbox() {
    let cluster = Cluster::builder().start().unwrap();
    let limit = Duration::from_secs(1);
    let opened = open_within(&cluster.url(), Options::default(), limit).await;
    let Opened { events, .. } = &opened.unwrap();
    let inbox_node = inbox_node(&cluster);
    inbox_node.pause().unwrap();
    events.until("up").await;
    assert_eq!(events.all()[..2], ["down", "up"]);
    let another = cluster
        .masters()
        .iter()
        .find(|node| node.port() != inbox_node.port());
    another
        .unwrap()
        .command(&["PUBLISH", INBOX, "hello"])
        .unwrap();
    events.until("hello").await;
    inbox_node.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_rights_are_sufficient() {
    let rules = "~* &* -@all +evalsha +eval +incr +subscribe +scan +cluster|slots +asking";
    let nodes = Server::builder().acl_user("app", "secret", rules);
    let cluster = Cluster::builder().nodes(nodes).start().unwrap();
    let Opened { transport, .. } = open(&cluster.url(), user("app", "secret")).await.unwrap();
    let key = "{moves}1";
    assert_eq!(expect_int(transport.call(count(key)).await), 1);
    let slot = cluster.slot_of(key).unwrap();
    let owner = cluster.owner_of_slot(slot).unwrap().port();
    let target = cluster.masters().iter().find(|node| node.port() != owner);
    let moving = cluster.slot_move(slot, target.unwrap()).unwrap();
    moving.begin().unwrap();
    assert_eq!(moving.migrate_keys(9).unwrap(), 1);
    assert_eq!(expect_int(transport.call(count(key)).await), 2);
    moving.finish().unwrap();
    assert_eq!(expect_int(transport.call(count(key)).await), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_every_node_are_awaited_while_a_slot_moves() {
    let builder = Cluster::builder().replicas(1);
    let cluster = builder.start().unwrap();
    let options = Options::default().replicas(1, Duration::from_secs(1));
    let Opened { transport, .. } = open(&cluster.url(), options).await.unwrap();
    let timeout = Duration::from_secs(5);
    let mut keys = keys(1000);
    keys.extend((0..10).map(|n| format!("{{moves}}{n}")));
    let run = async |ran: i64| {
        let calls = keys.iter().map(|key| count(key)).collect();
        for (answer, acknowledged) in call_replicated(&transport, calls, 1, timeout).await {
            assert_eq!((expect_int(answer), acknowledged), (ran, 1));
        }
    };
    run(1).await;
    let slot = cluster.slot_of("{moves}").unwrap();
    let owner = cluster.owner_of_slot(slot).unwrap().port();
    let target = cluster.masters().iter().find(|node| node.port() != owner);
    let moving = cluster.slot_move(slot, target.unwrap()).unwrap();
    moving.begin().unwrap();
    assert_eq!(moving.migrate_keys(5).unwrap(), 5);
    run(2).await;
    while moving.migrate_keys(100).unwrap() > 0 {}
    moving.finish().unwrap();
    run(3).await;
    // No replica acknowledges, and all calls wait together.
    for replica in &cluster.nodes()[cluster.masters().len()..] {
        replica.pause().unwrap();
    }
    let begun = Instant::now();
    let calls = keys.iter().map(|key| count(key)).collect();
    for (answer, acknowledged) in call_replicated(&transport, calls, 1, timeout / 10).await {
        assert_eq!((expect_int(answer), acknowledged), (4, 0));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    for replica in &cluster.nodes()[cluster.masters().len()..] {
        replica.resume().unwrap();
    }
}
