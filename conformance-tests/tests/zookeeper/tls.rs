//! The suite on one ZooKeeper server over TLS with certificates of its clients, as a user who may do
//! no more than the documentation asks for.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

mod site;

use std::{fs, net::TcpListener, process::ExitCode};

use site::{Access, Deployment, ZooKeeper};
use tempfile::TempDir;
use tenure_test_servers::{Certificates, zookeeper::Server};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";
/// The servers' administrator, whom no right is refused.
const OPERATOR: (&str, &str) = ("super", "canary-super-11");
const OPERATOR_DIGEST: &str = "super:4gPCatsF03pavPprbxKvo5lV8Zw=";
const ROOT: &str = "/locks";

struct Secured {
    server: Server,
    secure_port: u16,
    certificates: Certificates,
    _directory: TempDir,
}

impl Secured {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = Certificates::generate(directory.path()).expect("certificates");
        let key_store = directory.path().join("server-both.pem");
        let key = fs::read_to_string(certificates.server_key_file()).expect("a key");
        let own =
            fs::read_to_string(certificates.server_certificate_file()).expect("a certificate");
        fs::write(&key_store, format!("{key}{own}")).expect("a key store");
        let trust_store = directory.path().join("trust.pem");
        fs::copy(certificates.ca_file(), &trust_store).expect("a trust store");
        let secure_port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let server = Server::builder()
            .config("maxSessionTimeout", "60000")
            .config("secureClientPort", &secure_port.to_string())
            .config("secureClientPortAddress", "127.0.0.1")
            .property(
                "zookeeper.serverCnxnFactory",
                "org.apache.zookeeper.server.NettyServerCnxnFactory",
            )
            .property(
                "zookeeper.ssl.keyStore.location",
                &key_store.display().to_string(),
            )
            .property(
                "zookeeper.ssl.trustStore.location",
                &trust_store.display().to_string(),
            )
            .property("zookeeper.ssl.hostnameVerification", "false")
            .property("zookeeper.ssl.clientAuth", "need")
            .property(
                "zookeeper.DigestAuthenticationProvider.superDigest",
                OPERATOR_DIGEST,
            )
            .start()
            .expect("a ZooKeeper server");
        let secured = Self {
            server,
            secure_port,
            certificates,
            _directory: directory,
        };
        let address = secured.server.address();
        // The runtime of the suite may not be blocked upon.
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new()
                .expect("a runtime")
                .block_on(give_rights(&address));
        })
        .join()
        .expect("the rights are given");
        secured
    }
}

/// The right to make nodes below the root of the locks, and none besides.
async fn give_rights(address: &str) {
    let connector = Client::connector();
    let secret = format!("{USER}:{PASSWORD}");
    let client = connector
        .with_auth("digest", secret.as_bytes())
        .connect(address)
        .await
        .expect("a connection");
    let create = [Acl::new(Permission::CREATE, AuthId::authed())];
    client
        .create(
            ROOT,
            b"",
            &CreateMode::Persistent.with_acls(Acls::new(&create)),
        )
        .await
        .expect("the root of the locks");
    let nobody = [Acl::new(
        Permission::ADMIN,
        AuthId::new("digest", "nobody:at-all"),
    )];
    client
        .set_acl("/", &nobody, None)
        .await
        .expect("nobody may do anything else");
}

impl Deployment for Secured {
    fn access(&self) -> Access {
        Access {
            url: format!("zookeepers://127.0.0.1:{}{ROOT}", self.secure_port),
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ca_file: Some(self.certificates.ca_file()),
            cert_file: Some(self.certificates.client_certificate_file()),
            key_file: Some(self.certificates.client_key_file()),
        }
    }

    fn plain(&self) -> String {
        self.server.address()
    }

    fn root(&self) -> &'static str {
        ROOT
    }

    fn operator(&self) -> Option<(&'static str, &'static str)> {
        Some(OPERATOR)
    }
}

fn main() -> ExitCode {
    let ignored = &[
        (
            "exclusion::silent_holder_is_succeeded",
            "locks of one client share a session",
        ),
        (
            "waiting::dead_waiter_delays_patient_ones_no_more",
            "locks of one client share a session",
        ),
        (
            "capabilities::requirements_are_checked",
            "it has all that can be required",
        ),
    ];
    tenure_conformance::main(ZooKeeper::new(
        "zookeeper with TLS and ACL",
        Secured::start,
        ignored,
    ))
}
