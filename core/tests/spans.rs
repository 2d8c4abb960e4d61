//! The spans have the fields that `telemetry` promises.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod captured_log;

use captured_log::log_of;
use tenure_core::{Client, memory::MemoryStore};
use tracing::Level;

#[test]
fn spans_name_attempt_token_and_outcome() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut fields = String::new();
    let text = log_of(Level::DEBUG, || {
        runtime.block_on(async {
            let client = Client::builder(MemoryStore::new()).connect().await.unwrap();
            let lock = client.lock("a").unwrap();
            let guard = lock.acquire().await.unwrap();
            let _ = lock.try_acquire().await.unwrap();
            fields = format!(
                "lock.name=a lock.backend=\"memory\" lock.attempt={} lock.token={}",
                guard.attempt(),
                guard.token()
            );
            let _ = guard.release().await;
        });
    });
    for span in [
        format!("tenure.acquire{{{fields} outcome=\"acquired\"}}"),
        "tenure.acquire{lock.name=a lock.backend=\"memory\" outcome=\"busy\"}".to_owned(),
        format!("tenure.release{{{fields} outcome=\"released\"}}"),
    ] {
        assert!(text.contains(&span), "{span} is missing:\n{text}");
    }
}
