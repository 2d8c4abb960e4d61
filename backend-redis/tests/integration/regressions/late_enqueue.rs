//! A request that arrives long after its client has given it up.

use tenure_core::error::ErrorKind;
use tenure_test_servers::redis::Server;

use crate::common::{Detour, SOON, builder, is_idle, key, keys, millis, until};

/// A4: what arrives one TTL after its removal finds no fence any more.
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_arrives_later_than_one_ttl_has_no_effect() {
    let server = Server::builder().start().unwrap();
    let detour = Detour::start(&server);
    let late = builder(&detour.url())
        .ttl(millis(500))
        .connect()
        .await
        .unwrap();
    detour.bypass();
    let lock = late.lock("a").unwrap();
    let (outcome, ()) = tokio::join!(lock.acquire_within(SOON), detour.cut_off());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let fenced = key("a", "fenced:*");
    until("it is fenced off", SOON, || {
        !keys(&server, &fenced).is_empty()
    })
    .await;
    tokio::time::sleep(millis(700)).await;
    detour.let_go(&server).await;
    assert!(is_idle(&server, "a"), "a ghost holds the lock");
}
