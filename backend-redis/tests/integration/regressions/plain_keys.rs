//! Keys that are shared with other programs.

use tenure_core::{Client, error::ErrorKind};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{hold, store};

/// N2: a name whose plain key would be a key of another lock of ours.
#[tokio::test(flavor = "multi_thread")]
async fn n2_plain_key_with_our_prefix_is_rejected() {
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
