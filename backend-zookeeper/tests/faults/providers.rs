//! Programs in which another library uses TLS with another provider. A provider is the default of a whole
//! process, so each case is a process of its own.

use std::{process::Command, sync::Arc};

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use tenure_core::{
    Client,
    driver::ConnectionOptions,
    settings::{StoreUrl, Tls},
};
use tenure_test_servers::zookeeper::Server;
use tenure_zookeeper::{Options, ZooKeeperStore};
use tokio::{task::block_in_place, time::Instant};

use crate::common::{SOON, TICK, TTL, hold, room};

const URL: &str = "TENURE_TEST_URL";
const CA_FILE: &str = "TENURE_TEST_CA_FILE";
const CASE: &str = "TENURE_TEST_CASE";

async fn run(case: &str) {
    let _room = room().await;
    let server = Server::builder().tls().start().unwrap();
    let output = block_in_place(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "providers::a_program_with_two_providers"])
            .args(["--ignored", "--nocapture"])
            .env(URL, server.url())
            .env(CA_FILE, server.certificates().unwrap().ca_file())
            .env(CASE, case)
            .output()
            .unwrap()
    });
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {shown}");
}

/// Providers are told apart by their random number generators.
fn name_of(provider: &CryptoProvider) -> String {
    format!("{:?}", provider.secure_random)
}

async fn lock_and_release() {
    let tls = Tls::new(Some(std::env::var(CA_FILE).unwrap().into()), None, None);
    let url = StoreUrl::parse(&std::env::var(URL).unwrap()).unwrap();
    let connection = ConnectionOptions::default()
        .with_tls(tls)
        .with_connect_timeout(SOON);
    let options = Options::default().tick(TICK).connection(connection);
    let store = ZooKeeperStore::open(&url, options).unwrap();
    let begun = Instant::now();
    let client = loop {
        match Client::builder(store.clone()).ttl(TTL).connect().await {
            Ok(client) => break client,
            // A handshake takes long on a busy machine.
            Err(error) => assert!(error.is_retryable() && begun.elapsed() < SOON, "{error}"),
        }
    };
    let _ = hold(&client, "a").await.release().await;
}

#[ignore = "a part of the tests after it"]
#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_two_providers() {
    let other = Arc::new(aws_lc_rs::default_provider());
    if std::env::var(CASE).unwrap() == "a default before" {
        aws_lc_rs::default_provider().install_default().unwrap();
        lock_and_release().await;
        let default = CryptoProvider::get_default().unwrap();
        assert_eq!(name_of(default), name_of(&other), "it was replaced");
    } else {
        assert!(CryptoProvider::get_default().is_none());
        lock_and_release().await;
        let default = CryptoProvider::get_default().unwrap();
        assert_eq!(name_of(default), name_of(&ring::default_provider()));
    }
    // A library that passes its provider explicitly is not affected.
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&other))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert_eq!(name_of(config.crypto_provider()), name_of(&other));
    lock_and_release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_uses_the_default_provider_that_the_program_has_set() {
    run("a default before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_works_where_two_providers_are_linked_and_none_is_the_default() {
    run("no default").await;
}
