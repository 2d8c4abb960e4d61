//! Errors of a client that cannot connect.

use tenure_core::{Client, driver::ConnectionOptions, error::ErrorKind, secret::Secret};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{keys, store};

fn with_credentials(username: &str, password: &str) -> Options {
    let password = Some(Secret::new(password));
    let connection = ConnectionOptions::default();
    Options::default().connection(connection.with_credentials(Some(username.into()), password))
}

/// W2, C3: a missing right is reported by name at start-up, not in the middle of a hand-over.
#[tokio::test(flavor = "multi_thread")]
async fn w2_missing_rights_are_named_at_startup() {
    for (rights, named) in [
        ("~tenure:* &tenure:inbox:* +@all -publish", "+publish"),
        ("~tenure:* &tenure:inbox:* +@all -zadd -hget", "+hget +zadd"),
        ("~other:* &tenure:inbox:* +@all", "one of the keys"),
    ] {
        let server = Server::builder().acl_user("tenure", "pw", rights);
        let server = server.start().unwrap();
        let options = with_credentials("tenure", "pw");
        let connected = Client::builder(store(&server.url(), options))
            .connect()
            .await;
        let error = connected.map(|_| ()).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "{rights}: {error}"
        );
        assert!(error.to_string().contains(named), "{rights}: {error}");
        // The check leaves nothing behind.
        assert!(keys(&server, "*").is_empty());
    }
}

/// S1: a server that does not know HELLO (a command renamed by a managed service, or a proxy)
/// quotes the arguments of the unknown command.
#[tokio::test(flavor = "multi_thread")]
async fn s1_error_of_a_server_without_hello_hides_the_password() {
    let server = Server::builder()
        .config("rename-command", "HELLO \"\"")
        .start();
    let server = server.unwrap();
    let options = with_credentials("alice", "canary-secret");
    let error = Client::builder(store(&server.url(), options))
        .connect()
        .await
        .unwrap_err();
    eprintln!("{error}\n{error:?}");
    assert!(!error.to_string().contains("canary-secret"), "{error}");
    assert!(!format!("{error:?}").contains("canary-secret"), "{error:?}");
}

/// S1: the same for a sentinel.
#[tokio::test(flavor = "multi_thread")]
async fn s1_error_of_a_sentinel_hides_the_password() {
    let server = Server::builder()
        .config("rename-command", "AUTH \"\"")
        .start()
        .unwrap();
    let options = Options::default()
        .sentinel_credentials(Some("bob".into()), Some(Secret::new("canary-secret")));
    let url = format!("redis+sentinel://{}/main", server.address());
    let error = Client::builder(store(&url, options))
        .connect()
        .await
        .unwrap_err();
    eprintln!("{error}\n{error:?}");
    assert!(
        !format!("{error} {error:?}").contains("canary-secret"),
        "{error}"
    );
}
