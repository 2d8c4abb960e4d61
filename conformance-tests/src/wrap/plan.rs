//! What a tap does to requests and messages, and the record of what it saw.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, EventHandler, EventSink},
    clock::{Clock, Instant, SystemClock},
    id::AttemptId,
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
    /// `inspect`, `list` and `evict`.
    Look,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It goes through.
    #[default]
    Pass,
    /// It goes through, after one time and before another.
    Delay {
        /// Before it is handed on.
        before: Duration,
        /// Before its answer is.
        after: Duration,
    },
    /// It gets lost, and nobody says so.
    Hang,
    /// It is carried out, and its answer gets lost, and nobody says so.
    HangReply,
    /// It gets lost, and an error says that the outcome is unknown.
    LoseRequest,
    /// It is carried out, its answer gets lost, and an error says that the outcome is unknown.
    LoseReply,
}

/// One request that was seen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// What was asked.
    pub op: Op,
    /// About which attempts; empty for [`Op::Look`].
    pub attempts: Vec<AttemptId>,
    /// When it came to the tap.
    pub at: Instant,
    /// When the driver had answered; `None` if it did not.
    pub done: Option<Instant>,
}

/// What a tap does, shared between the case and the tap. Clones are the same plan.
#[derive(Clone, Default)]
pub struct Plan(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    fates: HashMap<Op, (Fate, Option<u32>)>,
    muted: bool,
    /// Renewals under way whose answers are not to arrive, or not yet.
    withheld: u32,
    /// How many requests had another fate than to pass.
    disturbed: u64,
    calls: Vec<Call>,
    events: Vec<BackendEvent>,
    sinks: Vec<EventSink>,
}

impl Plan {
    /// Lets everything through.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what becomes of all such requests from now on.
    pub fn set(&self, op: Op, fate: Fate) {
        self.state().fates.insert(op, (fate, None));
    }

    /// Sets what becomes of the next `times` such requests; later ones go through.
    pub fn set_times(&self, op: Op, fate: Fate, times: u32) {
        self.state().fates.insert(op, (fate, Some(times)));
    }

    /// Keeps the store's messages from the core, or lets them through again. A message that came
    /// meanwhile is lost.
    pub fn mute(&self, muted: bool) {
        self.state().muted = muted;
    }

    /// Cuts the client off: every request hangs and every message is lost, as if its process had
    /// been stopped.
    pub fn silence(&self) {
        self.mute(true);
        for op in [Op::Enqueue, Op::Renew, Op::Remove, Op::Look] {
            self.set(op, Fate::Hang);
        }
    }

    /// All requests of that kind so far, in order.
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

    /// How many requests of that kind came so far.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| call.op == op)
            .count()
    }

    /// All messages of the store so far, in order, the muted ones included.
    #[must_use]
    pub fn events(&self) -> Vec<BackendEvent> {
        self.state().events.clone()
    }

    /// How many requests of that kind are lost or delayed yet to come.
    #[must_use]
    pub fn left(&self, op: Op) -> Option<u32> {
        self.state().fates.get(&op).and_then(|(_, left)| *left)
    }

    /// Sends the core a message that the store never sent.
    pub fn forge(&self, event: &BackendEvent) {
        let sinks = self.state().sinks.clone();
        for sink in sinks {
            sink.send(event.clone());
        }
    }

    /// Notes a request, and says what becomes of it. The number is for [`Plan::answered`].
    pub(super) fn admit(&self, op: Op, attempts: Vec<AttemptId>) -> (usize, Fate) {
        let mut state = self.state();
        state.calls.push(Call {
            op,
            attempts,
            at: SystemClock.now(),
            done: None,
        });
        let number = state.calls.len() - 1;
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

    /// Withholds, until the value is dropped, the messages by which a driver tells parts of a
    /// renewal's answer ahead: they come over the same wire as the answer.
    pub(super) fn withhold(&self) -> Withheld {
        self.state().withheld += 1;
        Withheld(self.clone())
    }

    /// A relay between the driver and that sink. Whoever holds it keeps messages flowing.
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

/// See [`Plan::withhold`].
pub(super) struct Withheld(Plan);

impl Drop for Withheld {
    fn drop(&mut self) {
        self.0.state().withheld -= 1;
    }
}

/// Whether a message proves a grant, as the answer to a renewal does.
fn is_proof(event: &BackendEvent) -> bool {
    matches!(event, BackendEvent::Granted(grant) if grant.proved_from.is_some())
}

struct Relay {
    plan: Plan,
    to: EventSink,
}

impl EventHandler for Relay {
    fn handle(&self, event: BackendEvent) {
        let held_back = {
            let mut state = self.plan.state();
            state.events.push(event.clone());
            state.muted || (state.withheld > 0 && is_proof(&event))
        };
        if !held_back {
            self.to.send(event);
        }
    }
}
