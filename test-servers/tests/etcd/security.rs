//! TLS and users keep outsiders out, and let those in for whom they were made.

use std::fs;

use etcd_client::{Certificate, ConnectOptions, Error, Identity, TlsOptions};
use tenure_test_servers::{
    Certificates,
    etcd::{Cluster, Server},
};

use crate::connect_with;

fn tls(trusted: &Certificates, own: Option<&Certificates>) -> ConnectOptions {
    let ca = Certificate::from_pem(fs::read(trusted.ca_file()).unwrap());
    let mut tls = TlsOptions::new().ca_certificate(ca);
    if let Some(own) = own {
        let certificate = fs::read(own.client_certificate_file()).unwrap();
        let key = fs::read(own.client_key_file()).unwrap();
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    ConnectOptions::new().with_tls(tls)
}

async fn put(server: &Server, key: &str, options: ConnectOptions) -> Result<(), Error> {
    let address = if server.certificates().is_some() {
        format!("https://{}", server.address())
    } else {
        server.address()
    };
    let mut client = connect_with(address, options).await?;
    client.put(key, "value", None).await.map(|_| ())
}

#[tokio::test]
async fn a_required_client_certificate_has_to_be_of_the_same_authority() {
    let server = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    assert!(server.url().starts_with("etcds://127.0.0.1:"));
    let own = server.certificates().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let strange = Certificates::generate(elsewhere.path()).unwrap();

    put(&server, "key", tls(&own, Some(&own))).await.unwrap();
    put(&server, "a", tls(&own, None)).await.unwrap_err();
    put(&server, "a", tls(&own, Some(&strange)))
        .await
        .unwrap_err();
    put(&server, "a", tls(&strange, Some(&own)))
        .await
        .unwrap_err();
    let mut plain = connect_with(server.address(), ConnectOptions::new())
        .await
        .unwrap();
    plain.get("key", None).await.unwrap_err();
    // And the test itself.
    assert_eq!(server.etcdctl(&["get", "key"]).unwrap(), "key\nvalue\n");
    assert_eq!(server.etcdctl(&["get", "a"]).unwrap(), "");
}

#[tokio::test]
async fn without_that_requirement_who_trusts_the_authority_is_served() {
    let server = Server::builder().tls().start().unwrap();
    let own = server.certificates().unwrap();
    put(&server, "key", tls(&own, None)).await.unwrap();
}

#[tokio::test]
async fn a_user_needs_the_password_and_reaches_his_keys_only() {
    let cluster = Cluster::builder()
        .members(
            Server::builder()
                .require_client_certificate()
                .user("app", "secret", "app/"),
        )
        .start()
        .unwrap();
    let own = cluster.certificates().unwrap();
    let of = |name: &str, password: &str| tls(&own, Some(&own)).with_user(name, password);
    for server in cluster.servers() {
        put(server, "app/key", of("app", "secret")).await.unwrap();
    }
    let server = cluster.server(1);
    put(server, "other", of("app", "secret")).await.unwrap_err();
    put(server, "app/key", of("app", "wrong"))
        .await
        .unwrap_err();
    // The certificate's name is no user's.
    put(server, "app/key", tls(&own, Some(&own)))
        .await
        .unwrap_err();
    assert_eq!(
        server.etcdctl(&["get", "--prefix", ""]).unwrap(),
        "app/key\nvalue\n"
    );
}

#[tokio::test]
async fn users_are_there_again_after_a_restart_and_after_a_wipe() {
    let server = Server::builder()
        .user("app", "secret", "app/")
        .start()
        .unwrap();
    let app = || ConnectOptions::new().with_user("app", "secret");
    server.restart().unwrap();
    put(&server, "app/key", app()).await.unwrap();
    server.wipe().unwrap();
    put(&server, "app/key", app()).await.unwrap();
    put(&server, "app/key", ConnectOptions::new())
        .await
        .unwrap_err();
}

#[test]
fn a_command_that_is_refused_says_why_and_not_what_it_was_given() {
    let server = Server::builder().start().unwrap();
    let refused = server.etcdctl(&["user", "delete", "nobody"]).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("user name not found"), "{refused}");
}
