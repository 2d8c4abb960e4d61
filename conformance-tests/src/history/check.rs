//! The checker: once over a history, after sorting it.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Ending, History, Tenancy};

/// What a run allows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bounds {
    /// The takeover bound for the TTLs of the run: for so long a dead holder may keep a lock after
    /// the last fault.
    pub takeover: Duration,
    /// How late a loss may be told, and a waiter be served, on a busy machine.
    pub slack: Duration,
}

impl Bounds {
    /// Those bounds.
    #[must_use]
    pub const fn new(takeover: Duration, slack: Duration) -> Self {
        Self { takeover, slack }
    }
}

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Property {
    /// Two guards of a lock said at one moment that they were held.
    TwoHolders,
    /// A token was not greater than the one before it.
    TokenFell,
    /// Something succeeded for one who was not the holder.
    NotTheHolder,
    /// A loss was told after the deadline.
    LateNotice,
    /// A free lock passed to nobody although somebody waited.
    Stalled,
    /// A write went missing, or a stale one was taken.
    LostUpdate,
}

/// One violation, with the fewest records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What was violated.
    pub property: Property,
    /// On which lock.
    pub lock: String,
    /// What happened, in the order in which it happened; a line each.
    pub events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.property {
            Property::TwoHolders => "two guards said at one moment that they were held (X1)",
            Property::TokenFell => "a token did not rise (T1)",
            Property::NotTheHolder => "something succeeded for one who was not the holder (L4, R1)",
            Property::LateNotice => "a loss was told after the deadline (L1)",
            Property::Stalled => "a free lock passed to nobody although somebody waited (X3, W2)",
            Property::LostUpdate => "a write was lost although tokens were checked (T1)",
        };
        write!(f, "{what}: lock {:?}", self.lock)?;
        for event in &self.events {
            write!(f, "\n    {event}")?;
        }
        Ok(())
    }
}

/// All violations of a history, the shortest counter-example of each lock and property first.
#[must_use]
pub fn check(history: &History, bounds: &Bounds) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut locks: BTreeMap<&str, Vec<&Tenancy>> = BTreeMap::new();
    for grant in &history.grants {
        locks.entry(&grant.lock).or_default().push(grant);
    }
    for wait in &history.waits {
        locks.entry(&wait.lock).or_default();
    }
    for (lock, mut grants) in locks {
        grants.sort_by_key(|grant| (grant.held_from, grant.token));
        one_holder(lock, &grants, &mut found);
        rising(lock, &grants, &mut found);
        for grant in &grants {
            alone(lock, grant, bounds, &mut found);
        }
        moving(lock, &grants, history, bounds, &mut found);
        kept(lock, history, &mut found);
    }
    found.sort_by_key(|violation| violation.events.len());
    found
}

fn violated(property: Property, lock: &str, events: Vec<String>) -> Violation {
    Violation {
        property,
        lock: lock.to_owned(),
        events,
    }
}

fn shown(micros: u64) -> String {
    format!("{}.{:06} s", micros / 1_000_000, micros % 1_000_000)
}

fn told(grant: &Tenancy) -> String {
    format!(
        "worker {} with token {} was held from {} to {} ({:?})",
        grant.worker,
        grant.token,
        shown(grant.held_from),
        shown(grant.held_until),
        grant.ending
    )
}

/// A grant that somebody took away by name may believe for a moment longer: the contract's one
/// exception.
fn was_taken_away(grant: &Tenancy) -> bool {
    matches!(&grant.ending, Ending::Lost { reason, .. } if reason == "evicted")
}

fn one_holder(lock: &str, grants: &[&Tenancy], found: &mut Vec<Violation>) {
    let mut longest: Option<&Tenancy> = None;
    for grant in grants {
        if let Some(earlier) = longest
            && grant.held_from < earlier.held_until
            && !was_taken_away(earlier)
        {
            let events = vec![told(earlier), told(grant)];
            found.push(violated(Property::TwoHolders, lock, events));
        }
        if longest.is_none_or(|earlier| earlier.held_until < grant.held_until) {
            longest = Some(grant);
        }
    }
}

fn rising(lock: &str, grants: &[&Tenancy], found: &mut Vec<Violation>) {
    for pair in grants.windows(2) {
        let [before, after] = pair else { continue };
        if after.token <= before.token {
            let events = vec![told(before), told(after)];
            found.push(violated(Property::TokenFell, lock, events));
        }
    }
}

fn alone(lock: &str, grant: &Tenancy, bounds: &Bounds, found: &mut Vec<Violation>) {
    let Ending::Lost {
        told: at,
        due,
        afterwards,
        ..
    } = &grant.ending
    else {
        return;
    };
    if *at > due.saturating_add(micros(bounds.slack)) {
        let late = format!("due at {}, told at {}", shown(*due), shown(*at));
        let events = vec![told(grant), late];
        found.push(violated(Property::LateNotice, lock, events));
    }
    if !afterwards.is_empty() {
        let after = format!("once lost, these succeeded: {}", afterwards.join(", "));
        let events = vec![told(grant), after];
        found.push(violated(Property::NotTheHolder, lock, events));
    }
}

/// Looks at each time in which nobody held the lock and somebody waited.
fn moving(
    lock: &str,
    grants: &[&Tenancy],
    history: &History,
    bounds: &Bounds,
    found: &mut Vec<Violation>,
) {
    let allowed = micros(bounds.takeover).saturating_add(micros(bounds.slack));
    let faults = Spans::new(history.faults.iter().map(|f| (f.from, f.until)));
    let held = Spans::new(grants.iter().map(|g| (g.held_from, g.held_until)));
    for wait in history.waits.iter().filter(|wait| wait.lock == lock) {
        if faults.cover(wait.ended) || held.cover(wait.ended) {
            continue;
        }
        // The last moment before the end of this wait at which something else explains it: its own
        // begin, the begin or the end of a tenancy, the end of a fault.
        let explained = [faults.last_before(wait.ended), held.last_before(wait.ended)];
        let since = explained.into_iter().flatten().fold(wait.asked, u64::max);
        if wait.ended.saturating_sub(since) > allowed {
            let got = match (&wait.token, &wait.error) {
                (Some(token), _) => format!("token {token}"),
                (None, Some(error)) => error.clone(),
                (None, None) => "nothing".to_owned(),
            };
            let events = vec![
                format!("free and whole since {}", shown(since)),
                format!(
                    "worker {} waited from {} to {} and got {got}",
                    wait.worker,
                    shown(wait.asked),
                    shown(wait.ended),
                ),
            ];
            found.push(violated(Property::Stalled, lock, events));
        }
    }
}

/// Spans of time, to be asked about moments.
struct Spans {
    /// Begins, rising, each with the latest end of the spans up to it.
    begins: Vec<(u64, u64)>,
    /// All begins and ends, rising.
    edges: Vec<u64>,
}

impl Spans {
    fn new(spans: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut begins: Vec<_> = spans.collect();
        begins.sort_unstable();
        let mut edges: Vec<_> = begins.iter().flat_map(|span| [span.0, span.1]).collect();
        edges.sort_unstable();
        let mut latest = 0;
        for (_, until) in &mut begins {
            latest = latest.max(*until);
            *until = latest;
        }
        Self { begins, edges }
    }

    fn cover(&self, moment: u64) -> bool {
        let count = self.begins.partition_point(|(from, _)| *from < moment);
        let last = count.checked_sub(1).and_then(|at| self.begins.get(at));
        last.is_some_and(|(_, until)| moment <= *until)
    }

    fn last_before(&self, moment: u64) -> Option<u64> {
        let count = self.edges.partition_point(|edge| *edge < moment);
        count
            .checked_sub(1)
            .and_then(|at| self.edges.get(at))
            .copied()
    }
}

fn kept(lock: &str, history: &History, found: &mut Vec<Violation>) {
    let mut writes: Vec<_> = history
        .writes
        .iter()
        .filter(|write| write.lock == lock && write.accepted)
        .collect();
    writes.sort_by_key(|write| write.at);
    for pair in writes.windows(2) {
        let [before, after] = pair else { continue };
        // The number that is there after `before` is one more than it read.
        if after.read != before.read + 1 || after.token < before.token {
            let events = vec![format!("{before:?}"), format!("{after:?}")];
            found.push(violated(Property::LostUpdate, lock, events));
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
