//! Authentication tokens that expire.

use tenure_core::{Client, Release, driver::ConnectionOptions, secret::Secret};
use tenure_etcd::Options;
use tenure_test_servers::etcd::Server;
use tokio::time::{Instant, sleep};

use crate::common::{
    WAIT_LIMIT, acquire_free, expect_granted, millis, seconds, spawn_acquire, store,
    wait_for_waiters,
};

async fn connect_as_alice(server: &Server, ttl: std::time::Duration) -> Client {
    let secret = Some(Secret::new("canary-secret"));
    let connection = ConnectionOptions::default().with_credentials(Some("alice".into()), secret);
    let options = Options::default().connection(connection);
    Client::builder(store(&server.url(), options))
        .ttl(ttl)
        .connect()
        .await
        .unwrap()
}

/// W2, L5: the authentication token expires every two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn w2_l5_expired_auth_tokens_are_renewed() {
    let server = Server::builder()
        .user("alice", "canary-secret", "default/")
        .flag("--auth-token-ttl=2")
        .start()
        .unwrap();
    let (first, second) = (
        connect_as_alice(&server, seconds(60)).await,
        connect_as_alice(&server, seconds(60)).await,
    );
    for _ in 0..3 {
        let guard = acquire_free(&first, "a").await;
        let waiter = spawn_acquire(&second, "a");
        wait_for_waiters(&second, "a", 1).await;
        let began = Instant::now();
        while began.elapsed() < seconds(6) {
            assert!(guard.check().is_ok());
            sleep(millis(50)).await;
        }
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        // A third of the waiter's TTL is longer.
        let next = expect_granted("W2", seconds(8), waiter).await;
        assert!(next.check().is_ok());
        let released = next.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}

/// L5: the same for keep-alives.
#[tokio::test(flavor = "multi_thread")]
async fn l5_keep_alives_continue_after_auth_token_expires() {
    let server = Server::builder()
        .user("alice", "canary-secret", "default/")
        .flag("--auth-token-ttl=2")
        .start()
        .unwrap();
    let client = connect_as_alice(&server, seconds(3)).await;
    let guard = acquire_free(&client, "a").await;
    let began = Instant::now();
    while began.elapsed() < seconds(14) {
        assert!(guard.check().is_ok(), "L5 after {:?}", began.elapsed());
        sleep(millis(20)).await;
    }
    let released = guard.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
    let again = expect_granted(
        "the client acquires again",
        WAIT_LIMIT,
        spawn_acquire(&client, "a"),
    )
    .await;
    let _ = again.release().await;
}
