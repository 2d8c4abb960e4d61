//! A master that sentinels name and replace.

use tenure_test_servers::redis::Sentinel;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_master_is_found_after_the_old_one_is_killed() {
    let group = Sentinel::builder().start().unwrap();
    group.wait_until_settled().unwrap();
    let Opened { transport, events } = open(&group.url(), Options::default()).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    let master = tokio::task::block_in_place(|| group.kill_master()).unwrap();
    events.until("up").await;
    assert_eq!(events.all()[0], "down");
    retry_until_ok("the server answers", async || {
        transport.call(count("n")).await
    })
    .await;
    assert_ne!(times_run(master, "n"), "");
    master.command(&["PUBLISH", INBOX, "hello"]).unwrap();
    events.until("hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_demoted_master_is_left_for_the_new_one() {
    let group = Sentinel::builder().start().unwrap();
    group.wait_until_settled().unwrap();
    let Opened { transport, events } = open(&group.url(), Options::default()).await.unwrap();
    let old = group.master().unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    let master = tokio::task::block_in_place(|| group.failover()).unwrap();
    assert_ne!(old.port(), master.port());
    // Until the old master is reconfigured, it accepts writes that it will lose.
    events.until("up").await;
    retry_until_ok("the server answers", async || {
        transport.call(count("n")).await
    })
    .await;
    assert_eq!(times_run(master, "n"), "1", "no call was repeated");
    master.command(&["PUBLISH", INBOX, "hello"]).unwrap();
    events.until("hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_queried_in_turn_and_their_errors_reported() {
    let group = Sentinel::builder().sentinels(2).start().unwrap();
    let dead = Server::builder().start().unwrap();
    dead.kill();
    let [first, second] = group.sentinels() else {
        panic!("two sentinels");
    };
    let url = format!(
        "redis+sentinel://{},{},{}/{}",
        dead.address(),
        first.address(),
        second.address(),
        group.name()
    );
    let Opened { transport, .. } = open(&url, Options::default()).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);

    let unknown = format!("redis+sentinel://{}/nobody", first.address());
    let error = open(&unknown, Options::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("\"nobody\""), "{error}");

    let none = format!("redis+sentinel://{}/{}", dead.address(), group.name());
    let error = open(&none, Options::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&dead.address()), "{error}");

    let master = group.master().unwrap();
    let server = format!("redis+sentinel://{}/x", master.address());
    let error = open(&server, Options::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("not a sentinel"), "{error}");
    let sentinel = format!("redis://{}", first.address());
    let error = open(&sentinel, Options::default()).await.err().unwrap();
    assert!(error.to_string().contains("redis+sentinel://"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_isolated_master_is_left_for_the_new_one() {
    let group = Sentinel::builder().start().unwrap();
    group.wait_until_settled().unwrap();
    let Opened { transport, events } = open(&group.url(), Options::default()).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    // The sentinels cannot see that this master still runs: they are told that another server is
    // the master.
    let [sentinel] = group.sentinels() else {
        panic!("one sentinel");
    };
    let other = Server::builder().start().unwrap();
    let (name, port) = (group.name(), other.port().to_string());
    sentinel.command(&["SENTINEL", "REMOVE", name]).unwrap();
    sentinel
        .command(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port, "1"])
        .unwrap();
    events.until("up").await;
    assert_eq!(events.all(), ["down", "up"]);
    assert_eq!(expect_int(transport.call(count("n")).await), 1);
    assert_eq!(times_run(&other, "n"), "1");
}

/// A killed master that restarts empty reports itself as master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_master_replaced_during_connecting_is_left() {
    let builder = Sentinel::builder().down_after(TEST_TIMEOUT * 4);
    let group = builder.start().unwrap();
    group.wait_until_settled().unwrap();
    let [sentinel] = group.sentinels() else {
        panic!("one sentinel");
    };
    let old = group.master().unwrap();
    let other = Server::builder().start().unwrap();
    // The sentinel names the old master, which does not answer until the sentinel names the other
    // server.
    old.pause().unwrap();
    let asked = || {
        let clients = sentinel.text(&["CLIENT", "LIST"]).unwrap();
        clients.contains("cmd=sentinel|get-master-addr-by-name")
    };
    assert!(!asked());
    let url = group.url();
    let params =
        tokio::spawn(async move { open_within(&url, Options::default(), TEST_TIMEOUT).await });
    until("the sentinel is queried", asked).await;
    let (name, port) = (group.name(), other.port().to_string());
    sentinel.command(&["SENTINEL", "REMOVE", name]).unwrap();
    sentinel
        .command(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port, "1"])
        .unwrap();
    old.resume().unwrap();
    let Opened { transport, events } = params.await.unwrap().unwrap();
    assert_eq!(expect_int(transport.call(count("n")).await), 1);
    assert_eq!(
        times_run(&other, "n"),
        "1",
        "the call goes to the other server"
    );
    assert!(events.all().is_empty(), "{:?}", events.all());
}
