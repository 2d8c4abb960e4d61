//! TLS and users keep outsiders out, and let those in for whom they were made.

use std::{fs, time::Duration};

use tenure_test_servers::{
    Certificates,
    zookeeper::{Cluster, Server},
};
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error, TlsOptions};

use crate::{BOUND, connect, create, exists};

/// How long a client tries that is not let in.
const TRIES: Duration = Duration::from_secs(10);

fn tls(trusted: &Certificates, own: Option<&Certificates>) -> TlsOptions {
    // The client takes the one that the process has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |path| fs::read_to_string(path).unwrap();
    let tls = TlsOptions::new()
        .with_pem_ca(&read(trusted.ca_file()))
        .unwrap();
    let Some(own) = own else { return tls };
    let certificate = read(own.client_certificate_file());
    let key = read(own.client_key_file());
    tls.with_pem_identity(&certificate, &key).unwrap()
}

async fn connect_with(server: &Server, tls: TlsOptions) -> Result<Client, Error> {
    let connector = Client::connector()
        .with_tls(tls)
        .with_connection_timeout(TRIES)
        .with_fail_eagerly();
    let address = server.address();
    timeout(BOUND, connector.secure_connect(&address))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_required_client_certificate_has_to_be_of_the_same_authority() {
    let server = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    assert!(server.url().starts_with("zookeepers://127.0.0.1:"));
    let own = server.certificates().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let strange = Certificates::generate(elsewhere.path()).unwrap();

    let client = connect_with(&server, tls(&own, Some(&own))).await.unwrap();
    create(&client, "/node").await.unwrap();
    let refused = async |tls| connect_with(&server, tls).await.unwrap_err();
    refused(tls(&own, None)).await;
    refused(tls(&own, Some(&strange))).await;
    refused(tls(&strange, Some(&own))).await;
    // The test itself, without any of this.
    assert!(exists(&connect(&server.plain_address()).await, "/node").await);
}

#[tokio::test]
async fn without_that_requirement_who_trusts_the_authority_is_served_by_every_member() {
    let members = Server::builder().tls();
    let cluster = Cluster::builder().members(members).start().unwrap();
    let own = cluster.certificates().unwrap();
    for server in cluster.servers() {
        let client = connect_with(server, tls(&own, None)).await.unwrap();
        assert!(exists(&client, "/zookeeper").await);
    }
}

#[tokio::test]
async fn a_super_user_reaches_what_others_are_kept_from() {
    // Of `super:secret`.
    let digest = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";
    let server = Server::builder().super_user(digest).start().unwrap();
    let owner = connect(&server.address()).await;
    owner.auth("digest", b"app:secret").await.unwrap();

    let options = CreateMode::Persistent.with_acls(Acls::creator_all());
    owner.create("/node", b"value", &options).await.unwrap();

    let other = connect(&server.address()).await;
    assert_eq!(other.get_data("/node").await.unwrap_err(), Error::NoAuth);
    other.auth("digest", b"super:secret").await.unwrap();
    assert_eq!(other.get_data("/node").await.unwrap().0, b"value");
}
