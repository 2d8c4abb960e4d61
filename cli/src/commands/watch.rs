//! `tenure watch`: a line for each change of a lock.

use std::time::Duration;

use tenure::{Registry, request::LockState};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Format, Global, Watch},
    exit::{Failure, UNAVAILABLE},
    output,
    setup::{lock_name, read_only_sources, with_client_for_lock},
    view::{self, LockView},
};

/// The shortest interval between two queries of the store.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Shows the lock, and shows it again after each change of its holder or queue, until INT or TERM.
pub(super) fn watch(options: &Watch, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let name = lock_name(&options.name)?;
    with_client_for_lock(
        &name,
        &read_only_sources(global),
        registry,
        async |config, client| {
            let mut interrupt = listen(SignalKind::interrupt())?;
            let mut terminate = listen(SignalKind::terminate())?;
            let mut seen = None;
            loop {
                let state = client.inspect(&name).await?;
                let mark = mark(&state);
                if seen.as_ref() != Some(&mark) {
                    match global.output {
                        Format::Text => output::write(view::describe(&state))?,
                        Format::Json => output::write_json(&LockView::new(
                            "tenure.watch/1",
                            config.namespace.as_str(),
                            &state,
                        ))?,
                    }
                    seen = Some(mark);
                }
                tokio::select! {
                    _ = interrupt.recv() => return Err(Failure::silent(130)),
                    _ = terminate.recv() => return Err(Failure::silent(143)),
                    () = tokio::time::sleep(options.every.max(MIN_INTERVAL)) => {}
                }
            }
        },
    )
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(UNAVAILABLE, format!("catching signals: {error}")))
}

/// Returns the state without the field that changes with every renewal.
fn mark(state: &LockState) -> LockState {
    let mut mark = state.clone();
    for holder in mark.holder.iter_mut().chain(&mut mark.more_holders) {
        holder.expires_in = None;
    }
    mark
}
