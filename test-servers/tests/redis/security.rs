//! TLS and users.

use std::{fs, time::Duration};

use redis::{ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use redis::{RedisResult, TlsCertificates};
use tenure_test_servers::redis::{Certificates, Server};

use crate::{BOUND, choose_cryptography};

fn ping(server: &Server, trusted: Option<&Certificates>, own: Option<&Certificates>) -> Answer {
    let tls = TlsCertificates {
        client_tls: own.map(|own| ClientTlsConfig {
            client_cert: fs::read(own.client_certificate_file()).unwrap(),
            client_key: fs::read(own.client_key_file()).unwrap(),
        }),
        root_cert: trusted.map(|trusted| fs::read(trusted.ca_file()).unwrap()),
    };
    choose_cryptography();
    ask(redis::Client::build_with_tls(server.url(), tls), &["PING"])
}

type Answer = Result<String, String>;

fn ask(client: RedisResult<redis::Client>, command: &[&str]) -> Answer {
    let ask = || {
        let mut connection = client?.get_connection_with_timeout(BOUND)?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = redis::Cmd::new();
        for word in command {
            request.arg(*word);
        }
        request.query::<String>(&mut connection)
    };
    ask().map_err(|error: redis::RedisError| error.to_string())
}

fn as_user(server: &Server, user: Option<(&str, &str)>, command: &[&str]) -> Answer {
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some((name, password)) = user {
        settings = settings.set_username(name).set_password(password);
    }
    let address: ConnectionInfo = server.url().into_connection_info().unwrap();
    ask(
        redis::Client::open(address.set_redis_settings(settings)),
        command,
    )
}

#[test]
fn tls_serves_those_who_trust_its_authority_and_nobody_in_plain_text() {
    let server = Server::builder().tls().start().unwrap();
    let strangers = Server::builder().tls().start().unwrap();
    let (own, strange) = (
        server.certificates().unwrap(),
        strangers.certificates().unwrap(),
    );
    assert!(server.url().starts_with("rediss://127.0.0.1:"));

    assert_eq!(ping(&server, Some(&own), None).unwrap(), "PONG");
    ping(&server, Some(&strange), None).unwrap_err();
    ping(&server, None, None).unwrap_err();
    let plain = format!("redis://{}", server.address());
    ask(redis::Client::open(plain), &["PING"]).unwrap_err();
    // The name of the server is verified as well.
    let by_name = format!("rediss://localhost:{}", server.port());
    let tls = TlsCertificates {
        client_tls: None,
        root_cert: Some(fs::read(own.ca_file()).unwrap()),
    };
    let client = redis::Client::build_with_tls(by_name, tls);
    assert_eq!(ask(client, &["PING"]).unwrap(), "PONG");
    // Administration by the test works as well, without TLS and users.
    assert_eq!(server.text(&["PING"]).unwrap(), "PONG");
}

#[test]
fn client_certificate_of_another_authority_is_refused() {
    let server = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    let strangers = Server::builder().tls().start().unwrap();
    let (own, strange) = (
        server.certificates().unwrap(),
        strangers.certificates().unwrap(),
    );

    assert_eq!(ping(&server, Some(&own), Some(&own)).unwrap(), "PONG");
    ping(&server, Some(&own), None).unwrap_err();
    ping(&server, Some(&own), Some(&strange)).unwrap_err();
}

#[test]
fn users_have_their_rights_and_no_others() {
    let server = Server::builder()
        .acl_user("app", "secret", "~app:* +get +set +ping")
        .start()
        .unwrap();
    let app = Some(("app", "secret"));
    assert_eq!(
        as_user(&server, app, &["SET", "app:key", "value"]).unwrap(),
        "OK"
    );
    for (user, command, expected) in [
        (None, ["GET", "app:key"], "NOAUTH"),
        (Some(("app", "wrong")), ["GET", "app:key"], "WRONGPASS"),
        (Some(("default", "")), ["GET", "app:key"], "WRONGPASS"),
        (app, ["GET", "other:key"], "NOPERM"),
        (app, ["DEL", "app:key"], "NOPERM"),
    ] {
        let refused = as_user(&server, user, &command).unwrap_err().to_lowercase();
        let known = match expected {
            "NOAUTH" => refused.contains("noauth") || refused.contains("authentication required"),
            "WRONGPASS" => refused.contains("authentication failed"),
            _ => refused.contains("noperm") || refused.contains("no permissions"),
        };
        assert!(known, "{user:?} {command:?}: {refused}");
    }
    assert_eq!(server.text(&["GET", "app:key"]).unwrap(), "value");
}

#[test]
fn tls_and_users_go_together_and_with_replicas() {
    let settings = || Server::builder().acl_user("app", "secret", "~* &* +@all");
    let master = settings().start().unwrap();
    let replica = settings().replica_of(&master).start().unwrap();
    master.command(&["SET", "key", "value"]).unwrap();
    replica.wait_until_in_step(&master).unwrap();
    assert_eq!(replica.text(&["GET", "key"]).unwrap(), "value");

    let both = settings().require_client_certificate().start().unwrap();
    let own = both.certificates().unwrap();
    let refused = ping(&both, Some(&own), Some(&own))
        .unwrap_err()
        .to_lowercase();
    assert!(
        refused.contains("noauth") || refused.contains("authentication"),
        "{refused}"
    );
}
