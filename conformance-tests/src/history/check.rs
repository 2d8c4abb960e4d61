//! The checker of histories.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tenure_core::mode::{Mode, Occupancy};

use super::{Ending, History, Tenancy};

/// The tolerances of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bounds {
    /// The takeover bound for the TTLs of the run: the time for which a dead holder may keep a lock after
    /// the last fault.
    pub takeover: Duration,
    /// The tolerance for the report of a loss and the grant of a waiter on a busy machine.
    pub slack: Duration,
}

impl Bounds {
    /// Creates the bounds.
    #[must_use]
    pub const fn new(takeover: Duration, slack: Duration) -> Self {
        Self { takeover, slack }
    }
}

/// A property of a correct history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Property {
    /// Guards of a lock that exclude each other were held at the same time.
    TwoHolders,
    /// A token was not greater than the previous token.
    TokenFell,
    /// An operation of a client that was not the holder succeeded.
    NotTheHolder,
    /// A loss was reported after the deadline.
    LateNotice,
    /// A free lock was not granted to a waiter.
    Stalled,
    /// A write was lost, or a stale write was accepted.
    LostUpdate,
}

/// One violation, with the fewest records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The violated property.
    pub property: Property,
    /// The name of the lock.
    pub lock: String,
    /// The events in order, one line for each.
    pub events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.property {
            Property::TwoHolders => "two guards were held at the same time (X1, M1)",
            Property::TokenFell => "a token did not rise (T1)",
            Property::NotTheHolder => {
                "an operation of a client that was not the holder succeeded (L4, R1)"
            }
            Property::LateNotice => "a loss was reported after the deadline (L1)",
            Property::Stalled => "a free lock was not granted to a waiter (X3, W2)",
            Property::LostUpdate => "a write was lost although the resource checks tokens (T1)",
        };
        write!(f, "{what}: lock {:?}", self.lock)?;
        for event in &self.events {
            write!(f, "\n    {event}")?;
        }
        Ok(())
    }
}

/// Returns all violations of a history, the shortest ones first.
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
        check_exclusion(lock, &grants, &mut found);
        check_tokens(lock, &grants, &mut found);
        for grant in &grants {
            check_loss(lock, grant, bounds, &mut found);
        }
        check_progress(lock, &grants, history, bounds, &mut found);
        check_writes(lock, history, &mut found);
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

fn format_time(micros: u64) -> String {
    format!("{}.{:06} s", micros / 1_000_000, micros % 1_000_000)
}

fn describe(grant: &Tenancy) -> String {
    format!(
        "worker {} with token {} ({}) was held from {} to {} ({:?})",
        grant.worker,
        grant.token,
        grant.mode,
        format_time(grant.held_from),
        format_time(grant.held_until),
        grant.ending
    )
}

/// Returns whether the grant was evicted. The guard of an evicted grant may be held for a moment longer,
/// which is the only exception of the contract.
fn was_evicted(grant: &Tenancy) -> bool {
    matches!(&grant.ending, Ending::Lost { reason, .. } if reason == "evicted")
}

/// A span of time in which a guard was held in one mode.
struct Span<'a> {
    from: u64,
    until: u64,
    mode: Mode,
    grant: &'a Tenancy,
}

/// Returns the spans of a grant: two if it was downgraded.
fn spans(grant: &Tenancy) -> Vec<Span<'_>> {
    let span = |from, until, mode| Span {
        from,
        until,
        mode,
        grant,
    };
    match grant.shared_from {
        None => vec![span(grant.held_from, grant.held_until, grant.mode)],
        Some(shared) => vec![
            span(grant.held_from, grant.held_until.min(shared), grant.mode),
            span(shared, grant.held_until.max(shared), Mode::Shared),
        ],
    }
}

fn check_exclusion(lock: &str, grants: &[&Tenancy], found: &mut Vec<Violation>) {
    let mut all: Vec<_> = grants.iter().flat_map(|grant| spans(grant)).collect();
    all.sort_by_key(|span| span.from);
    let mut active: Vec<Span<'_>> = Vec::new();
    for span in all {
        active.retain(|earlier| span.from < earlier.until);
        let others = active.iter().filter(|earlier| {
            !was_evicted(earlier.grant) && !std::ptr::eq(earlier.grant, span.grant)
        });
        let mut occupancy = Occupancy::Free;
        let mut events = Vec::new();
        for other in others {
            occupancy.add(other.mode);
            events.push(describe(other.grant));
        }
        if !occupancy.admits(span.mode) {
            events.push(describe(span.grant));
            found.push(violated(Property::TwoHolders, lock, events));
        }
        active.push(span);
    }
}

/// Two grants that exclude each other follow one another, so the later one has the higher token. Grants
/// that share the lock may be observed in another order than that of their tokens.
fn check_tokens(lock: &str, grants: &[&Tenancy], found: &mut Vec<Violation>) {
    // The earlier grant with the highest token, for each kind of mode.
    let mut highest: BTreeMap<&str, &Tenancy> = BTreeMap::new();
    let mut seen: BTreeMap<u64, &Tenancy> = BTreeMap::new();
    for grant in grants {
        let kind = kind_of(grant.mode);
        let same = seen.insert(grant.token, grant);
        let excluded = highest
            .iter()
            .filter(|(other, _)| kind == "exclusive" || **other != kind);
        let before = excluded
            .map(|(_, other)| *other)
            .max_by_key(|other| other.token);
        let before = same.or_else(|| before.filter(|before| grant.token <= before.token));
        if let Some(before) = before {
            let events = vec![describe(before), describe(grant)];
            found.push(violated(Property::TokenFell, lock, events));
        }
        let known = highest.entry(kind).or_insert(grant);
        if known.token < grant.token {
            *known = grant;
        }
    }
}

const fn kind_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Permits { .. } => "permits",
        _ => "exclusive",
    }
}

fn check_loss(lock: &str, grant: &Tenancy, bounds: &Bounds, found: &mut Vec<Violation>) {
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
        let late = format!(
            "due at {}, reported at {}",
            format_time(*due),
            format_time(*at)
        );
        let events = vec![describe(grant), late];
        found.push(violated(Property::LateNotice, lock, events));
    }
    if !afterwards.is_empty() {
        let after = format!("after the loss, these succeeded: {}", afterwards.join(", "));
        let events = vec![describe(grant), after];
        found.push(violated(Property::NotTheHolder, lock, events));
    }
}

/// Checks each period in which a worker waited for the free lock.
fn check_progress(
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
        // The last event before the end of this wait that explains the wait: its own start, the start or
        // the end of a grant, or the end of a fault.
        let explained = [faults.last_before(wait.ended), held.last_before(wait.ended)];
        let since = explained.into_iter().flatten().fold(wait.asked, u64::max);
        if wait.ended.saturating_sub(since) > allowed {
            let got = match (&wait.token, &wait.error) {
                (Some(token), _) => format!("token {token}"),
                (None, Some(error)) => error.clone(),
                (None, None) => "nothing".to_owned(),
            };
            let events = vec![
                format!("free and without faults since {}", format_time(since)),
                format!(
                    "worker {} waited from {} to {} and got {got}",
                    wait.worker,
                    format_time(wait.asked),
                    format_time(wait.ended),
                ),
            ];
            found.push(violated(Property::Stalled, lock, events));
        }
    }
}

/// A set of time spans.
struct Spans {
    /// The starts in order, each with the latest end of the spans up to it.
    begins: Vec<(u64, u64)>,
    /// All starts and ends in order.
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

fn check_writes(lock: &str, history: &History, found: &mut Vec<Violation>) {
    let mut writes: Vec<_> = history
        .writes
        .iter()
        .filter(|write| write.lock == lock && write.accepted)
        .collect();
    writes.sort_by_key(|write| write.at);
    for pair in writes.windows(2) {
        let [before, after] = pair else { continue };
        // `before` wrote the number after the one that it read.
        if after.read != before.read + 1 || after.token < before.token {
            let events = vec![format!("{before:?}"), format!("{after:?}")];
            found.push(violated(Property::LostUpdate, lock, events));
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
