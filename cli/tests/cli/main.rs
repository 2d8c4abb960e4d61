//! Tests of the command, with real processes and real stores.
//!
//! `TENURE_TEST_STORE` selects the store: `file` (the default), `redis`, `etcd` or `zookeeper`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod commands;
mod config;
#[cfg(feature = "conformance")]
mod conformance;
mod counter;
mod deploy;
mod guardian;
mod journal;
mod kinds;
mod metrics_file;
mod outage;
mod pages;
mod pid_namespace;
mod privileges;
mod run;
mod store_wait;
mod support;
mod terminal;
mod tracing;
