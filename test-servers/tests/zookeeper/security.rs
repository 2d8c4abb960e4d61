//! TLS and users.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tenure_test_servers::{
    Certificates,
    zookeeper::{Cluster, Server},
};
use zookeeper_client::{Acls, CreateMode, Error};

use crate::{BOUND, connect};

/// Requests a session over TLS and returns its id. Without the client crate, whose TLS feature needs another
/// cryptography provider.
fn session(
    server: &Server,
    trusted: &Certificates,
    own: Option<&Certificates>,
) -> Result<u64, io::Error> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(trusted.ca_file()).unwrap() {
        roots.add(ca.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::pem_file_iter(own.client_certificate_file()).unwrap();
            let key = PrivateKeyDer::from_pem_file(own.client_key_file()).unwrap();
            config
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address())?;
    socket.set_read_timeout(Some(BOUND))?;
    let mut stream = StreamOwned::new(tls, socket);
    // Version, last transaction, timeout, session, password, read-only.
    let mut request = Vec::new();
    request.extend([0; 12]);
    request.extend(1_000_i32.to_be_bytes());
    request.extend([0; 8]);
    request.extend(16_i32.to_be_bytes());
    request.extend([0; 17]);
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes())?;
    stream.write_all(&request)?;
    stream.flush()?;
    // Length, version, timeout, session.
    let mut answer = [0; 20];
    stream.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer[12..].try_into().unwrap()))
}

#[test]
fn client_certificate_of_another_authority_is_refused() {
    let server = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    assert!(server.url().starts_with("zookeepers://127.0.0.1:"));
    let own = server.certificates().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let strange = Certificates::generate(elsewhere.path()).unwrap();

    assert_ne!(session(&server, &own, Some(&own)).unwrap(), 0);
    session(&server, &own, None).unwrap_err();
    session(&server, &own, Some(&strange)).unwrap_err();
    session(&server, &strange, Some(&own)).unwrap_err();
    // Administration by the test works without TLS.
    let plain = server.four_letters("ruok");
    assert_eq!(plain.unwrap().trim(), "imok");
}

#[test]
fn without_that_requirement_who_trusts_the_authority_is_served_by_every_member() {
    let members = Server::builder().tls();
    let cluster = Cluster::builder().members(members).start().unwrap();
    let own = cluster.certificates().unwrap();
    for server in cluster.servers() {
        assert_ne!(session(server, &own, None).unwrap(), 0);
    }
}

#[tokio::test]
async fn super_user_has_rights_to_all_nodes() {
    // The digest of `super:secret`.
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
