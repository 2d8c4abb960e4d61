//! A request that arrives long after its client has given it up.

use tenure_core::error::ErrorKind;
use tenure_test_servers::redis::Server;

use crate::common::{
    DelayedPath, OPERATION_TIMEOUT, builder, is_unused, key, keys, millis, wait_until,
};

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
    let lock = late.lock("a").unwrap();
    let (outcome, ()) = tokio::join!(
        lock.acquire_within(OPERATION_TIMEOUT),
        path.cut_after_script_sent()
    );
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let fenced = key("a", "fenced:*");
    wait_until("the attempt is fenced off", OPERATION_TIMEOUT, || {
        !keys(&server, &fenced).is_empty()
    })
    .await;
    tokio::time::sleep(millis(700)).await;
    path.release(&server).await;
    assert!(is_unused(&server, "a"), "a late request holds the lock");
}
