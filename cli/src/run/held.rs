//! The locks of a run: the named one, and those of `--also`.

use std::ops::Deref;

use tenure::{Guard, GuardAll, loss::LossReason, name::LockName};

use crate::{escape::quote, exit::print_warning, signals::Listener, time};

/// The guards of a run. All locks are held, or the run has lost its lock.
pub(super) struct Held {
    guards: GuardAll,
    name: LockName,
}

impl Held {
    /// Creates the value; `None` if the named lock is not one of the guards.
    pub(super) fn new(guards: GuardAll, name: LockName) -> Option<Self> {
        guards.get(name.as_str())?;
        Some(Self { guards, name })
    }

    /// Returns the guard of the named lock.
    pub(super) fn named(&self) -> Option<&Guard> {
        self.guards.get(self.name.as_str())
    }

    /// Returns the fencing token of the named lock.
    pub(super) fn token(&self) -> u64 {
        self.named().map_or(0, |guard| guard.token().get())
    }

    /// Returns the floor of the named lock's grant.
    pub(super) fn floor(&self) -> u64 {
        self.named().map_or(0, |guard| guard.floor().get())
    }

    /// Returns the names of all locks for a message, the named one first.
    pub(super) fn names(&self) -> String {
        names(&self.name, self.guards.guards().iter().map(Guard::name))
    }

    /// Waits until one of the locks is lost, and returns why.
    pub(super) async fn lost(&self) -> LossReason {
        self.guards.lost().await.1
    }

    /// Waits until the minimum hold is over, or the locks are lost. Returns whether they are to be released;
    /// a signal that asks for the end, now or while the command ran, leaves them to their TTL.
    pub(super) async fn keep_for_min_hold(&self, signals: &mut Listener) -> bool {
        loop {
            let left = self.min_hold_left();
            if left.is_zero() {
                return true;
            }
            if signals.has_ended() {
                break;
            }
            // The loss of a lock ends its hold, and not that of the others.
            let held = self.phase().is_live();
            tokio::select! {
                biased;
                _ = self.lost(), if held => {}
                _ = signals.ending() => break,
                () = time::sleep_until(time::now() + left) => {}
            }
        }
        let ttl = humantime::format_duration(self.ttl());
        print_warning(&format!(
            "interrupted while `--hold-at-least` kept {}; the store frees it {ttl} after the last renewal",
            self.names()
        ));
        false
    }

    /// Returns the guards.
    pub(super) fn into_guards(self) -> GuardAll {
        self.guards
    }
}

impl Deref for Held {
    type Target = GuardAll;

    fn deref(&self) -> &GuardAll {
        &self.guards
    }
}

/// Returns the names of several locks for a message: `"a"`, or `"a" with "b" and "c"`.
pub(super) fn names<'a>(first: &LockName, all: impl Iterator<Item = &'a LockName>) -> String {
    let others = all.filter(|name| *name != first);
    let others: Vec<_> = others.map(|name| quote(name.as_str())).collect();
    let first = quote(first.as_str());
    match &*others {
        [] => first,
        [one] => format!("{first} with {one}"),
        [most @ .., last] => format!("{first} with {} and {last}", most.join(", ")),
    }
}
