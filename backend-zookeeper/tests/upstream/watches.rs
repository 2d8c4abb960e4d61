//! Watches that are set again on a new connection.

use tenure_test_servers::wire::Proxy;
use tokio::time::timeout;
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, EventType, OneshotWatcher, SessionState,
};

use crate::common::{LONG, SOON, TTL, millis, room, server, until, within};

/// Watches nodes that are not there, with names of 1,000 bytes.
async fn watch(client: &Client, count: usize) -> Vec<OneshotWatcher> {
    let mut watchers = Vec::with_capacity(count);
    for at in 0..count {
        let path = format!("/{at:0>999}");
        let (_, watcher) = client.check_and_watch_stat(&path).await.unwrap();
        watchers.push(watcher);
    }
    watchers
}

/// When this fails, the defect is mended upstream, and the driver need not set its own watches again.
#[tokio::test(flavor = "multi_thread")]
async fn l5_with_many_watches_one_broken_connection_ends_the_session() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    // The crate sends up to 128 KiB of paths in one request.
    for (count, is_kept) in [(100, true), (200, false)] {
        let connector = Client::connector().with_session_timeout(TTL);
        let client = connector.connect(&proxy.address()).await.unwrap();
        let mut state = client.state_watcher();
        let watchers = watch(&client, count).await;
        let before = proxy.connections_made();
        proxy.cut().unwrap();
        if is_kept {
            within("the cut", SOON, state.changed()).await;
            within("the connection", SOON, state.changed()).await;
            within("an answer", SOON, client.sync("/")).await.unwrap();
        } else {
            until("the end", SOON, || client.state() == SessionState::Expired).await;
        }
        let made = proxy.connections_made() - before;
        let sets = proxy.commands().into_iter();
        let sets = sets.filter(|command| command.name == "setWatches");
        let sets: Vec<usize> = sets.map(|command| command.arguments[0].len()).collect();
        println!("{count} watches, {made} connections, requests of these lengths: {sets:?}");
        assert_eq!(made == 1, is_kept);
        drop(watchers);
    }
}

/// When this fails, the defect is mended upstream, and the driver may use persistent watches.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_persistent_watch_ends_with_its_connection() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let connector = Client::connector().with_session_timeout(LONG);
    let client = connector.connect(&proxy.address()).await.unwrap();
    let plain = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client.create("/a", b"", &plain).await.unwrap();
    let mut watcher = client.watch("/a", AddWatchMode::Persistent).await.unwrap();
    client.set_data("/a", b"1", None).await.unwrap();
    within("the first change", SOON, watcher.changed()).await;
    proxy.cut().unwrap();
    // Each attempt to connect that fails is an event of its own.
    loop {
        let event = within("the connection", SOON, watcher.changed()).await;
        assert_eq!(event.event_type, EventType::Session, "{event:?}");
        if event.session_state == SessionState::SyncConnected {
            break;
        }
    }
    client.set_data("/a", b"2", None).await.unwrap();
    let told = timeout(millis(500), watcher.changed()).await;
    assert!(told.is_err(), "{told:?}");
    assert_eq!(proxy.count("setWatches2"), 0);
}
