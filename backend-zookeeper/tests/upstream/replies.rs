//! Malformed replies.

use zookeeper_client::{Client, SessionState};

use crate::{
    common::{SOON, until},
    fake::{Answer, Fake},
};

/// The first four bytes of a reply to `getData` or `exists`, and nothing after them.
fn short(_: i32) -> Answer {
    Answer::Body(vec![0; 4])
}

/// When this fails, the defect is mended upstream, and the driver may call `get_data`.
#[tokio::test]
async fn s2_a_short_reply_to_get_data_panics() {
    let server = Fake::start(short).await;
    let client = Client::connect(&server.address).await.unwrap();
    let task = tokio::spawn(async move { client.get_data("/a").await });
    assert!(task.await.unwrap_err().is_panic());
}

/// When this fails, the defect is mended upstream, and the driver may rely on `check_stat` against
/// servers that send malformed replies.
#[tokio::test]
async fn s2_a_short_reply_to_check_stat_reads_as_no_node() {
    let server = Fake::start(short).await;
    let client = Client::connect(&server.address).await.unwrap();
    assert_eq!(client.check_stat("/a").await, Ok(None));
}

/// More than the buffers of two sockets hold.
const MUCH: usize = 32 << 20;

fn long(_: i32) -> Answer {
    let mut bytes = i32::MAX.to_be_bytes().to_vec();
    bytes.resize(MUCH, 0);
    Answer::Raw(bytes)
}

/// When this fails, the defect is mended upstream; the driver has no workaround.
#[tokio::test]
async fn s2_a_frame_of_any_length_is_taken_into_memory() {
    let server = Fake::start(long).await;
    let client = Client::connect(&server.address).await.unwrap();
    let _answer = client.sync("/");
    until("all is taken", SOON, || server.answers() == 1).await;
    assert_eq!(client.state(), SessionState::SyncConnected);
}
