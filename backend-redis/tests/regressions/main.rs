//! Measurements on real Redis servers that take long: what a failover and a stepped clock lose.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers may panic as tests may"
)]

#[expect(dead_code, reason = "the other test binary uses more of it")]
#[path = "../integration/common.rs"]
mod common;

mod failover_losses;
mod losses;
mod promotion;
mod stepped_clock;
