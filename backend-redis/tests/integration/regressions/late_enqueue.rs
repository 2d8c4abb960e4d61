//! A request that arrives long after its client has given it up.

use tenure_test_servers::redis::Server;

use crate::common::{DelayedPath, acquire_without_reply, builder, is_unused, millis};

/// A4: a request that arrived one TTL after its removal found no fence any more.
#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_arriving_more_than_one_ttl_late_has_no_effect() {
    let server = Server::builder().start().unwrap();
    let path = DelayedPath::start(&server);
    let late = builder(&path.url())
        .ttl(millis(500))
        .connect()
        .await
        .unwrap();
    path.bypass();
    tokio::join!(
        acquire_without_reply(&server, &late, "a"),
        path.cut_after_script_sent()
    );
    tokio::time::sleep(millis(700)).await;
    path.release(&server).await;
    assert!(is_unused(&server, "a"), "a late request holds the lock");
}
