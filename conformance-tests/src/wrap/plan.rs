//! The faults that a tap injects, and the record of its requests and messages.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, EventHandler, EventSink},
    capability::Capabilities,
    clock::{Clock, Instant, SystemClock},
    id::AttemptId,
    mode::Modes,
    name::{LockName, Namespace},
};

/// An operation of the driver trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// `enqueue`.
    Enqueue,
    /// `renew`.
    Renew,
    /// `remove`.
    Remove,
    /// `downgrade`.
    Downgrade,
    /// `inspect`, `list` and `evict`.
    Inspect,
}

impl Op {
    /// All operations.
    pub const ALL: [Self; 5] = [
        Self::Enqueue,
        Self::Renew,
        Self::Remove,
        Self::Downgrade,
        Self::Inspect,
    ];
}

/// The fault of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// The request passes.
    #[default]
    Pass,
    /// The request and its reply are delayed.
    Delay {
        /// The delay of the request.
        before: Duration,
        /// The delay of the reply.
        after: Duration,
    },
    /// The request is lost, without an error.
    Hang,
    /// The request is executed and its reply is lost, without an error.
    HangReply,
    /// The request is not sent, with an error that says so.
    Refuse,
    /// The request is lost, with an error that the outcome is unknown.
    LoseRequest,
    /// The request is executed and its reply is lost, with an error that the outcome is unknown.
    LoseReply,
}

/// A recorded request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The operation.
    pub op: Op,
    /// The attempts of the request; empty for [`Op::Inspect`].
    pub attempts: Vec<AttemptId>,
    /// The time at which the request arrived.
    pub at: Instant,
    /// The time of the driver's reply; `None` if there was none.
    pub done: Option<Instant>,
}

/// Names of locks, by namespace.
pub(crate) type UsedNames = BTreeMap<Namespace, BTreeSet<LockName>>;

/// The plan of a tap, shared between the case and the tap. Clones are the same plan.
#[derive(Clone, Default)]
pub struct Plan(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    fates: HashMap<Op, (Fate, Option<u32>)>,
    muted: bool,
    /// The number of requests that did not simply pass.
    disturbed: u64,
    /// Neither requests nor messages are recorded.
    unrecorded: bool,
    /// The driver appears to offer exclusive locks alone.
    modes_hidden: bool,
    /// The locks of enqueues, by namespace, if they are wanted.
    names: Option<UsedNames>,
    calls: Vec<Call>,
    events: Vec<BackendEvent>,
    sinks: Vec<EventSink>,
}

impl Plan {
    /// Creates a plan without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`new`](Self::new), but for long runs: requests and messages are not recorded, so that the plan
    /// does not grow.
    pub(crate) fn unrecorded() -> Self {
        let plan = Self::default();
        plan.state().unrecorded = true;
        plan
    }

    /// As [`unrecorded`](Self::unrecorded), but the names of the locks that are used are recorded.
    pub(crate) fn of_names() -> Self {
        let plan = Self::unrecorded();
        plan.state().names = Some(UsedNames::new());
        plan
    }

    /// From now on, the driver appears to offer exclusive locks alone.
    pub(crate) fn hide_modes(&self) {
        self.state().modes_hidden = true;
    }

    /// Returns the capabilities that the driver appears to have.
    pub(crate) fn shown(&self, capabilities: Capabilities) -> Capabilities {
        if self.state().modes_hidden {
            return capabilities.with_modes(Modes::EXCLUSIVE);
        }
        capabilities
    }

    /// Records a name, if names are recorded.
    pub(crate) fn use_name(&self, namespace: &Namespace, name: &LockName) {
        if let Some(names) = &mut self.state().names {
            let names = names.entry(namespace.clone()).or_default();
            names.insert(name.clone());
        }
    }

    /// Returns the names recorded so far, and forgets them.
    pub(crate) fn take_names(&self) -> UsedNames {
        let mut state = self.state();
        state.names.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sets the fault of all such requests from now on.
    pub fn set(&self, op: Op, fate: Fate) {
        self.state().fates.insert(op, (fate, None));
    }

    /// Sets the fault of the next `times` such requests; later requests pass.
    pub fn set_times(&self, op: Op, fate: Fate, times: u32) {
        self.state().fates.insert(op, (fate, Some(times)));
    }

    /// Drops the store's messages, or passes them again. A dropped message is lost.
    pub fn mute(&self, muted: bool) {
        self.state().muted = muted;
    }

    /// Disconnects the client: every request hangs and every message is lost, as if its process were
    /// stopped.
    pub fn silence(&self) {
        self.mute(true);
        for op in Op::ALL {
            self.set(op, Fate::Hang);
        }
    }

    /// Returns all requests with this operation so far, in order.
    #[must_use]
    pub fn calls(&self, op: Op) -> Vec<Call> {
        let state = self.state();
        state
            .calls
            .iter()
            .filter(|call| call.op == op)
            .cloned()
            .collect()
    }

    /// Returns the number of requests with this operation so far.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| call.op == op)
            .count()
    }

    /// Returns all messages of the store so far, in order, including dropped ones.
    #[must_use]
    pub fn events(&self) -> Vec<BackendEvent> {
        self.state().events.clone()
    }

    /// Returns the number of further requests that get the fault; `None` without a limit.
    #[must_use]
    pub fn left(&self, op: Op) -> Option<u32> {
        self.state().fates.get(&op).and_then(|(_, left)| *left)
    }

    /// Sends the core a message that the store did not send.
    pub fn forge(&self, event: &BackendEvent) {
        let sinks = self.state().sinks.clone();
        for sink in sinks {
            sink.send(event.clone());
        }
    }

    /// Records a request and returns its fault. The number is for [`Plan::answered`].
    pub(super) fn admit(&self, op: Op, attempts: Vec<AttemptId>) -> (usize, Fate) {
        let mut state = self.state();
        let number = state.calls.len();
        if !state.unrecorded {
            state.calls.push(Call {
                op,
                attempts,
                at: SystemClock.now(),
                done: None,
            });
        }
        let fate = match state.fates.get_mut(&op) {
            None | Some((_, Some(0))) => Fate::Pass,
            Some((fate, None)) => *fate,
            Some((fate, Some(left))) => {
                *left -= 1;
                *fate
            }
        };
        state.disturbed += u64::from(fate != Fate::Pass);
        (number, fate)
    }

    pub(crate) fn disturbed(&self) -> u64 {
        self.state().disturbed
    }

    pub(super) fn answered(&self, number: usize) {
        if let Some(call) = self.state().calls.get_mut(number) {
            call.done = Some(SystemClock.now());
        }
    }

    /// Returns the relay between the driver and the given sink. Messages pass until it is dropped.
    pub(super) fn relay(&self, to: EventSink) -> Arc<dyn EventHandler> {
        self.state().sinks.push(to.clone());
        Arc::new(Relay {
            plan: self.clone(),
            to,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan")
    }
}

struct Relay {
    plan: Plan,
    to: EventSink,
}

impl EventHandler for Relay {
    fn handle(&self, event: BackendEvent) {
        let held_back = {
            let mut state = self.plan.state();
            if !state.unrecorded {
                state.events.push(event.clone());
            }
            state.muted
        };
        if !held_back {
            self.to.send(event);
        }
    }
}
