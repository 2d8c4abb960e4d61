//! Servers that answer late, each time.

use tenure_core::Release;
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::{Instant, sleep};

use crate::common::{SOON, acquire, client, granted, millis, seconds, until_waiting};

/// L5, R1: a round trip takes longer than the patience with one server, and less than a third of the TTL.
#[tokio::test(flavor = "multi_thread")]
async fn l5_r1_a_distant_server_is_slow_and_no_more() {
    for (ttl, delay) in [(seconds(2), millis(450)), (seconds(9), millis(1300))] {
        let server = Server::builder().start().unwrap();
        let proxy = Proxy::for_etcd(server.address()).unwrap();
        let near = client(&server.url(), seconds(60)).await;
        let away = client(&proxy.url(), ttl).await;
        proxy.delay_replies(delay);
        let guard = granted("it is free", SOON, acquire(&away, "a")).await;
        let waiter = acquire(&near, "a");
        let began = Instant::now();
        let before = proxy.connections_made();
        while began.elapsed() < ttl * 4 {
            assert!(guard.check().is_ok(), "L5: {delay:?} {:?}", began.elapsed());
            sleep(millis(10)).await;
        }
        eprintln!(
            "{delay:?}: {} connections in {:?}",
            proxy.connections_made() - before,
            began.elapsed()
        );
        let began = Instant::now();
        let released = guard.release().await;
        eprintln!("{delay:?}: {released:?} after {:?}", began.elapsed());
        assert!(matches!(released, Release::Released), "R1: {released:?}");
        let next = granted("R2", SOON, waiter).await;
        // And as a waiter.
        let waiter = acquire(&away, "a");
        until_waiting(&near, "a", 1).await;
        sleep(ttl * 2).await;
        let _ = next.release().await;
        let next = granted("it is its turn", SOON, waiter).await;
        assert!(next.check().is_ok());
    }
}
