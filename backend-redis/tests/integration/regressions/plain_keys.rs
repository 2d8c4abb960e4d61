//! Keys that other programs use, too.

use tenure_core::{Client, error::ErrorKind};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{hold, store};

/// N2: a name whose plain key would be another lock's key of ours.
#[tokio::test(flavor = "multi_thread")]
async fn n2_no_plain_key_is_one_of_ours() {
    let server = Server::builder().start().unwrap();
    let options = Options::default().plain_key("{name}");
    let client = Client::builder(store(&server.url(), options))
        .connect()
        .await
        .unwrap();
    let _guard = hold(&client, "x").await;
    let other = client.lock("tenure:{x}:default:x:fence").unwrap();
    let error = other.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
