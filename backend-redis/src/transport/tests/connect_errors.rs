//! Errors about servers that cannot be used.

use tenure_core::error::ErrorKind;

use super::*;
use crate::config::{Durability, Eviction};

async fn open_error(url: &str, options: Options) -> Error {
    match open(url, options).await {
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.contains('\n'), "{shown}");
            assert!(!format!("{shown}{error:?}").contains("canary"), "{error:?}");
            error
        }
        Ok(_) => panic!("{url} was opened"),
    }
}

#[track_caller]
fn assert_error(error: &Error, kind: ErrorKind, hints: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for hint in hints {
        assert!(error.to_string().contains(hint), "{hint}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_server_is_unavailable_and_named() {
    let server = Server::builder().start().unwrap();
    server.kill();
    let address = server.address();
    let error = open_error(&server.url(), Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Unavailable,
        &[&address, "nothing listens there"],
    );
    let error = open_error("redis://no-such-host.invalid", Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Unavailable,
        &["no-such-host.invalid:6379"],
    );
    let error = open_error("redis+unix:/nowhere/redis.sock", Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Unavailable,
        &["/nowhere/redis.sock", "no such socket"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_server_is_unavailable_within_the_connect_timeout() {
    let server = Server::builder().start().unwrap();
    server.pause().unwrap();
    let begun = Instant::now();
    let options = Options::default()
        .connection(ConnectionOptions::default().with_connect_timeout(Duration::from_millis(200)));
    let error = open_error(&server.url(), options).await;
    assert_error(&error, ErrorKind::Unavailable, &["no answer within 200ms"]);
    assert!(begun.elapsed() < Duration::from_secs(4));
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_wrong_credentials_are_reported_without_showing_them() {
    let server = Server::builder()
        .acl_user("app", "secret", "~* &* +@all")
        .start()
        .unwrap();
    let error = open_error(&server.url(), Options::default()).await;
    assert_error(&error, ErrorKind::Unauthenticated, &["password_file"]);
    let error = open_error(&server.url(), user("app", "canary")).await;
    assert_error(&error, ErrorKind::Unauthenticated, &["wrong"]);
    let Opened { transport, .. } = open(&server.url(), user("app", "secret")).await.unwrap();
    let error = format!("{transport:?}");
    assert!(
        error.contains("redis://") && !error.contains("secret"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_right_names_the_command() {
    let rules = "&* ~* -@all +eval +evalsha +incr";
    let builder = Server::builder()
        .acl_user("none", "secret", "-@all")
        .acl_user(
            "deaf",
            "secret",
            &format!("resetchannels {rules} +subscribe").replace("&* ", ""),
        )
        .acl_user("mute", "secret", rules)
        .acl_user("least", "secret", &format!("{rules} +subscribe"));
    let server = builder.start().unwrap();
    let url = server.url();
    for name in ["none", "deaf", "mute"] {
        let error = open_error(&url, user(name, "secret")).await;
        assert_error(
            &error,
            ErrorKind::PermissionDenied,
            &["SUBSCRIBE", "docs/backends/redis.md"],
        );
    }
    let least = || user("least", "secret");
    // A user without the right to run INFO and SCRIPT LOAD can connect ...
    let Opened { transport, .. } = open(&url, least()).await.unwrap();
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
    // ... unless an option depends on them.
    let error = open_error(&url, least().durability(Durability::Local)).await;
    assert_error(
        &error,
        ErrorKind::PermissionDenied,
        &["durability", "+info"],
    );
    let error = open_error(&url, least().restart_delay(Duration::from_secs(1))).await;
    assert_error(
        &error,
        ErrorKind::PermissionDenied,
        &["restart_delay", "+info"],
    );
    let error = open_error(&url, least().replicas(1, Duration::from_secs(1))).await;
    assert_error(&error, ErrorKind::PermissionDenied, &["WAIT"]);
    let error = open_error(&url, least().database(1)).await;
    assert_error(&error, ErrorKind::PermissionDenied, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_server_that_may_evict_is_rejected_unless_allowed() {
    let builder = Server::builder()
        .config("maxmemory", "100mb")
        .config("maxmemory-policy", "allkeys-lru");
    let server = builder.start().unwrap();
    let error = open_error(&server.url(), Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Config,
        &["allkeys-lru", "noeviction", "eviction"],
    );
    let options = Options::default().eviction(Eviction::Warn);
    assert!(open(&server.url(), options).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_durability_local_requires_the_append_only_file() {
    let local = || Options::default().durability(Durability::Local);
    let server = Server::builder().start().unwrap();
    let error = open_error(&server.url(), local()).await;
    assert_error(&error, ErrorKind::Config, &["appendonly"]);
    server
        .command(&["CONFIG", "SET", "appendonly", "yes"])
        .unwrap();
    assert!(open(&server.url(), local()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_or_wrong_mode_is_reported() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    let error = open_error(&replica.url(), Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Unavailable,
        &["replica", "redis+sentinel://"],
    );
    let cluster = master.url().replace("redis:", "redis+cluster:");
    let error = open_error(&cluster, Options::default()).await;
    assert_error(
        &error,
        ErrorKind::Config,
        &["not in cluster mode", "redis://"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_database_is_reported() {
    let server = Server::builder().start().unwrap();
    let error = open_error(&server.url(), Options::default().database(16)).await;
    assert_error(&error, ErrorKind::Config, &["database"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_of_another_protocol_is_reported() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = open_error(&format!("redis://{address}"), Options::default()).await;
    assert_error(&error, ErrorKind::Unavailable, &["does not speak"]);
}
