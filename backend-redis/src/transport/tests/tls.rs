//! TLS and its errors.

use std::path::PathBuf;

use tenure_core::settings::Tls;
use tenure_test_servers::redis::Certificates;

use super::*;

fn url(server: &Server, host: &str) -> String {
    format!("rediss://{host}:{}", server.port())
}

fn with_files(files: Tls) -> Options {
    Options::default().connection(ConnectionOptions::default().with_tls(files))
}

fn with_ca(ca: PathBuf) -> Options {
    with_files(Tls::new(Some(ca), None, None))
}

async fn error(url: &str, options: Options) -> (ErrorKind, String) {
    match open(url, options).await {
        Err(error) => (error.kind(), error.to_string()),
        Ok(_) => panic!("{url} was opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_authority_is_trusted_exclusively() {
    let server = Server::builder().tls().start().unwrap();
    let own = server.certificates().unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let opened = open(&url(&server, host), with_ca(own.ca_file())).await;
        let Opened { transport, events } = opened.unwrap();
        assert!(transport.call(count("k")).await.is_ok());
        server.command(&["PUBLISH", INBOX, "hello"]).unwrap();
        events.until("hello").await;
    }
    let (kind, shown) = error(&url(&server, "127.0.0.1"), Options::default()).await;
    assert_eq!(kind, ErrorKind::Config, "{shown}");
    assert!(shown.contains("ca_file"), "{shown}");

    let directory = server.directory().join("other");
    std::fs::create_dir(&directory).unwrap();
    let other = Certificates::generate(&directory).unwrap();
    let (kind, shown) = error(&url(&server, "127.0.0.1"), with_ca(other.ca_file())).await;
    assert_eq!(kind, ErrorKind::Config, "{shown}");
    assert!(
        shown.contains("trusted by") && shown.contains("other/ca.pem"),
        "{shown}"
    );

    // The client neither needs nor installs a process-wide crypto provider.
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());

    // 127.0.0.2 is also this machine, but the certificate does not name it.
    server
        .command(&["CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2"])
        .unwrap();
    let (kind, shown) = error(&url(&server, "127.0.0.2"), with_ca(own.ca_file())).await;
    assert_eq!(kind, ErrorKind::Config, "{shown}");
    assert!(shown.contains("another host name"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_are_used_without_a_client_restart() {
    let server = Server::builder().tls().start().unwrap();
    let ca = server.certificates().unwrap().ca_file();
    let opened = open(&url(&server, "localhost"), with_ca(ca)).await;
    let Opened { transport, events } = opened.unwrap();
    server.kill();
    events.until("down").await;
    Certificates::generate(server.directory()).unwrap();
    server.restart().unwrap();
    events.until("up").await;
    assert_eq!(expect_int(transport.call(count("k")).await), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificate_is_sent_where_required() {
    let server = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    let own = server.certificates().unwrap();
    let full = Tls::new(
        Some(own.ca_file()),
        Some(own.client_certificate_file()),
        Some(own.client_key_file()),
    );
    let url = url(&server, "127.0.0.1");
    let Opened { transport, .. } = open(&url, with_files(full)).await.unwrap();
    assert!(transport.call(count("k")).await.is_ok());
    let (kind, shown) = error(&url, with_ca(own.ca_file())).await;
    assert_eq!(kind, ErrorKind::Unauthenticated, "{shown}");
    assert!(shown.contains("cert_file"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_tls_file_is_named() {
    let server = Server::builder().tls().start().unwrap();
    let own = server.certificates().unwrap();
    let url = url(&server, "127.0.0.1");
    let empty = server.directory().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for wrong in [
        Tls::new(Some("/nowhere/ca.pem".into()), None, None),
        Tls::new(Some(empty.clone()), None, None),
        Tls::new(
            Some(own.ca_file()),
            Some(own.client_certificate_file()),
            Some(empty.clone()),
        ),
        Tls::new(
            Some(own.ca_file()),
            Some(empty.clone()),
            Some(own.client_key_file()),
        ),
        Tls::new(
            Some(own.ca_file()),
            Some(own.client_certificate_file()),
            Some(own.server_key_file()),
        ),
    ] {
        let named = format!("{wrong:?}");
        let (kind, shown) = error(&url, with_files(wrong)).await;
        assert_eq!(kind, ErrorKind::Config, "{shown}");
        assert!(shown.contains(".pem`"), "{shown}");
        assert!(!shown.contains("BEGIN"), "{named}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_mismatch_is_reported_on_both_sides() {
    let plain = Server::builder().start().unwrap();
    let secure = Server::builder().tls().start().unwrap();
    let ca = secure.certificates().unwrap().ca_file();
    let (_, shown) = error(&url(&plain, "127.0.0.1"), with_ca(ca)).await;
    assert!(shown.contains("use TLS on this port?"), "{shown}");
    let plain_url = format!("redis://{}", secure.address());
    let (_, shown) = error(&plain_url, Options::default()).await;
    assert!(shown.contains("rediss"), "{shown}");
}
