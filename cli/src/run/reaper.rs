//! Reaps adopted processes, if this process is process 1 of a container.

use rustix::process::{WaitOptions, getpid, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Starts to reap the processes that the kernel gives to process 1 because their parents have ended.
/// Otherwise they would stay zombies. Does nothing in any other process.
///
/// Call this function after the start of the guardian, because the standard library may wait for a
/// process that it cannot start. The guardian reaps the command.
pub(super) fn start_as_process_one() {
    if !getpid().is_init() {
        return;
    }
    // Without the handler the zombies stay, and the command still runs.
    let Ok(mut ended) = signal(SignalKind::child()) else {
        return;
    };
    tokio::spawn(async move {
        loop {
            // An interrupted call is repeated at the next signal at the latest.
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            if ended.recv().await.is_none() {
                return;
            }
        }
    });
}
