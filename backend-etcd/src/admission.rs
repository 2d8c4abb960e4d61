//! Which entries of a queue hold the lock, and what a waiter waits for. No I/O.
//!
//! Nobody writes into the store that an entry holds the lock. Each client goes through the queue in
//! order and decides by [`Occupancy::admits`]: the holders are the longest prefix of the queue in which
//! each entry is compatible with everything ahead of it (clause M2).

use tenure_core::mode::{Mode, Occupancy};

/// The event for which a shared waiter, or a waiter for permits, waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The entry at this index of the entries ahead.
    Entry(usize, Until),
    /// The removal of any entry ahead. All of them hold permits of the lock.
    AnyRemoval,
}

/// The change of an entry after which a waiter has to read its position again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// It is removed.
    Removed,
    /// It is removed, or it becomes shared.
    RemovedOrShared,
    /// It is removed, or its key is put again, which announces that it holds the lock.
    RemovedOrPut,
}

/// Returns the number of holders in a queue of these modes.
pub(crate) fn holder_count(modes: impl IntoIterator<Item = Mode>) -> usize {
    let mut occupancy = Occupancy::Free;
    let is_admitted = |mode: &Mode| {
        let is_admitted = occupancy.admits(*mode);
        if is_admitted {
            occupancy.add(*mode);
        }
        is_admitted
    };
    modes.into_iter().take_while(is_admitted).count()
}

/// Returns what an entry of this mode waits for behind these entries, in queue order; `None` if it
/// holds the lock.
///
/// Until that change, the entry cannot hold the lock. The choice keeps needless reads of positions few (W3):
///
/// - A shared entry is blocked as long as any entry ahead is not shared. It waits for the last one of
///   them, which usually leaves last.
/// - An entry for permits that fits beside all others waits likewise for the last entry ahead that has no
///   permits of this lock.
/// - Any other entry for permits does not hold the lock before its predecessor does. So it waits for its
///   predecessor, and only the first waiter waits for the holders of permits.
pub(crate) fn awaited(mode: Mode, ahead: &[Mode]) -> Option<Awaited> {
    let holders = holder_count(ahead.iter().copied().chain([mode]));
    let last = ahead.len().checked_sub(1)?;
    if holders > ahead.len() {
        return None;
    }
    let awaited = match mode {
        Mode::Shared => {
            let blocks = |ahead: &Mode| *ahead != Mode::Shared;
            let last_blocking = ahead.iter().rposition(blocks);
            Awaited::Entry(last_blocking.unwrap_or(last), Until::RemovedOrShared)
        }
        Mode::Permits { of, .. } => {
            let taken: u64 = ahead.iter().map(|ahead| permits_of(*ahead, of)).sum();
            let fits = taken.saturating_add(permits_of(mode, of)) <= u64::from(of);
            match ahead.iter().rposition(|ahead| permits_of(*ahead, of) == 0) {
                Some(other) if fits || other == last => Awaited::Entry(other, Until::Removed),
                None if holders == ahead.len() => Awaited::AnyRemoval,
                _ => Awaited::Entry(last, Until::RemovedOrPut),
            }
        }
        _ => Awaited::Entry(last, Until::Removed),
    };
    Some(awaited)
}

/// Whether an entry of this mode waits for the announcement of a predecessor of that mode.
pub(crate) fn may_await_put(mode: Mode, predecessor: Mode) -> bool {
    match mode {
        Mode::Permits { of, .. } => permits_of(predecessor, of) > 0,
        _ => false,
    }
}

/// The number of permits that an entry takes of a lock with this number of them; 0 for another mode.
fn permits_of(mode: Mode, total: u32) -> u64 {
    match mode {
        Mode::Permits { take, of } if of == total => u64::from(take),
        _ => 0,
    }
}

/// Returns how many of the nearest entries ahead suffice to decide whether an entry of this mode holds the
/// lock; 0 if all are needed. Each entry ahead takes at least one permit, so more entries than
/// there are permits exclude the entry and its predecessor, whatever is ahead of them.
pub(crate) fn deciding_entries(mode: Mode) -> i64 {
    match mode {
        Mode::Permits { of, .. } => i64::from(of) + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
