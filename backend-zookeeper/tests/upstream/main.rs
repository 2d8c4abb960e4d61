//! What the crate `zookeeper-client` lacks for a driver that keeps the contract; the page
//! `docs/zookeeper-client.md` describes each case. A test fails when its case is mended there.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

mod beats;
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;
mod fake;

mod connecting;
mod replies;
mod requests;
mod silent;
mod watches;
