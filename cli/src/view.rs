//! The views of a lock, its holder and its waiters, as JSON and as text.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tenure::{
    Leader,
    mode::Mode,
    name::LockName,
    request::{Holder, Listed, LockState, Owner, Since, Waiter},
};

use crate::escape::quote;

/// A lock as `status` and `watch` show it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct LockView {
    schema: &'static str,
    name: String,
    namespace: String,
    /// The holder that was granted the lock first.
    holder: Option<HolderView>,
    /// The others of a lock that several hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more_holders: Vec<HolderView>,
    queue: Vec<WaiterView>,
}

/// The holder of a lock.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct HolderView {
    foreign: bool,
    label: Option<String>,
    host: Option<String>,
    pid: Option<u32>,
    token: Option<u64>,
    granted_at: Option<String>,
    enqueued_at: Option<String>,
    expires_in_ms: Option<u64>,
    ttl_ms: Option<u64>,
    /// `exclusive`, `shared`, or taken permits of all permits, such as `1/4`.
    mode: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct WaiterView {
    foreign: bool,
    label: Option<String>,
    host: Option<String>,
    pid: Option<u32>,
    enqueued_at: Option<String>,
    mode: String,
}

/// A line of `ls`.
#[derive(Debug, Serialize)]
pub(crate) struct ListedView {
    schema: &'static str,
    name: String,
    namespace: String,
    holder: Option<HolderView>,
    holders: u64,
    waiters: u64,
    /// Why the lock's state cannot be read; the other fields then say nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

/// The leader of an election.
#[derive(Debug, Serialize)]
pub(crate) struct LeaderView {
    schema: &'static str,
    name: String,
    namespace: String,
    /// `null` if nobody leads.
    value: Option<String>,
    term: Option<u64>,
}

impl LeaderView {
    /// Creates the view.
    pub(crate) fn new(namespace: &str, name: &LockName, leader: &Leader) -> Self {
        let (value, term) = match leader {
            Leader::Leads { value, term, .. } => (Some(value.clone()), *term),
            _ => (None, None),
        };
        Self {
            schema: "tenure.leader/1",
            name: name.as_str().to_owned(),
            namespace: namespace.to_owned(),
            value,
            term: term.map(tenure::token::FencingToken::get),
        }
    }
}

impl LockView {
    /// Creates the view of a lock under the given schema.
    pub(crate) fn new(schema: &'static str, namespace: &str, state: &LockState) -> Self {
        Self {
            schema,
            name: state.name.as_str().to_owned(),
            namespace: namespace.to_owned(),
            holder: state.holder.as_ref().map(HolderView::new),
            more_holders: state.more_holders.iter().map(HolderView::new).collect(),
            queue: state.queue.iter().map(WaiterView::new).collect(),
        }
    }
}

impl ListedView {
    /// Creates the view of a listed lock.
    pub(crate) fn new(namespace: &str, listed: &Listed) -> Self {
        Self {
            schema: "tenure.ls/1",
            name: listed.name.as_str().to_owned(),
            namespace: namespace.to_owned(),
            holder: listed.holder.as_ref().map(HolderView::new),
            holders: listed.holders,
            waiters: listed.waiters,
            unreadable: listed.unreadable.clone(),
        }
    }
}

impl HolderView {
    /// Creates the view of a holder.
    pub(crate) fn new(holder: &Holder) -> Self {
        let owner = holder.owner.as_ref();
        let (granted_at, enqueued_at) = match holder.since {
            Some(Since::Granted(at)) => (Some(timestamp(at)), None),
            Some(Since::Enqueued(at)) => (None, Some(timestamp(at))),
            _ => (None, None),
        };
        Self {
            foreign: owner.is_none(),
            label: owner.map(|owner| owner.label.clone()),
            host: owner.map(|owner| owner.host.clone()),
            pid: owner.map(|owner| owner.pid),
            token: holder.token.map(tenure::token::FencingToken::get),
            granted_at,
            enqueued_at,
            expires_in_ms: holder.expires_in.map(millis),
            ttl_ms: holder.ttl.map(millis),
            mode: holder.mode.to_string(),
        }
    }
}

impl WaiterView {
    fn new(waiter: &Waiter) -> Self {
        let owner = waiter.owner.as_ref();
        Self {
            foreign: owner.is_none(),
            label: owner.map(|owner| owner.label.clone()),
            host: owner.map(|owner| owner.host.clone()),
            pid: owner.map(|owner| owner.pid),
            enqueued_at: waiter.since.map(timestamp),
            mode: waiter.mode.to_string(),
        }
    }
}

/// Converts a duration to whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(at: SystemTime) -> String {
    // A time before 1970 can only come from untrusted bytes of a store.
    if at.duration_since(SystemTime::UNIX_EPOCH).is_err() {
        return "1970-01-01T00:00:00.000Z".to_owned();
    }
    // The text form ends with the year 9999.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(at.min(end)).to_string()
}

/// Describes a client: `"label" (pid 12 on host)`.
pub(crate) fn client(owner: Option<&Owner>) -> String {
    match owner {
        Some(owner) => format!(
            "{} (pid {} on {})",
            quote(&owner.label),
            owner.pid,
            quote(&owner.host)
        ),
        None => "a program that does not use tenure".to_owned(),
    }
}

/// Describes the holder and the time of the grant, as part of a sentence.
pub(crate) fn held_by(holder: &Holder) -> String {
    let owner = client(holder.owner.as_ref());
    let mut text = match holder.mode {
        Mode::Permits { take, of } => format!("held ({take} of {of} permits) by {owner}"),
        Mode::Shared => format!("held (shared) by {owner}"),
        _ => format!("held by {owner}"),
    };
    match holder.since {
        Some(Since::Granted(at)) => text += &format!(" since {}", timestamp(at)),
        Some(Since::Enqueued(at)) => text += &format!(", which asked for it at {}", timestamp(at)),
        _ => {}
    }
    if let Some(token) = holder.token {
        text += &format!(", token {token}");
    }
    text
}

fn holder_line(holder: &Holder) -> String {
    let mut text = held_by(holder);
    if let Some(left) = holder.expires_in {
        let left = Duration::from_millis(millis(left));
        text += &format!(
            ", expires in {} unless renewed",
            humantime::format_duration(left)
        );
    }
    text.push('\n');
    text
}

/// Describes a lock as text that ends with a line break.
pub(crate) fn describe(state: &LockState) -> String {
    let mut text = format!("{}  ", quote(state.name.as_str()));
    match &state.holder {
        None => text += "free\n",
        Some(holder) => text += &holder_line(holder),
    }
    for holder in &state.more_holders {
        text += &format!("  and {}", holder_line(holder));
    }
    for (at, waiter) in state.queue.iter().enumerate() {
        text += &format!("  {}. waiting: {}", at + 1, client(waiter.owner.as_ref()));
        match waiter.mode {
            Mode::Permits { take, of } => text += &format!(" for {take} of {of} permits"),
            Mode::Shared => text += " to share it",
            _ => {}
        }
        if let Some(since) = waiter.since {
            text += &format!(" since {}", timestamp(since));
        }
        text.push('\n');
    }
    text
}
