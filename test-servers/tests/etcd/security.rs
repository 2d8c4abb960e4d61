//! TLS and users.

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
async fn client_certificate_of_another_authority_is_refused() {
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
    // Administration by the test works as well.
    assert_eq!(server.etcdctl(&["get", "key"]).unwrap(), "key\nvalue\n");
    assert_eq!(server.etcdctl(&["get", "a"]).unwrap(), "");
}

#[tokio::test]
async fn client_without_a_certificate_is_served_unless_it_is_required() {
    let server = Server::builder().tls().start().unwrap();
    let own = server.certificates().unwrap();
    put(&server, "key", tls(&own, None)).await.unwrap();
}

#[tokio::test]
async fn user_needs_the_password_and_has_rights_to_own_keys_only() {
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
    // The common name of the certificate is not a user.
    put(server, "app/key", tls(&own, Some(&own)))
        .await
        .unwrap_err();
    assert_eq!(
        server.etcdctl(&["get", "--prefix", ""]).unwrap(),
        "app/key\nvalue\n"
    );
}

#[tokio::test]
async fn users_exist_after_a_restart_and_after_a_wipe() {
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
fn error_of_a_command_contains_the_reason_but_no_arguments() {
    let server = Server::builder().start().unwrap();
    let refused = server.etcdctl(&["user", "delete", "nobody"]).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("user name not found"), "{refused}");
}
