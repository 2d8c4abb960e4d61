//! Where everything about a client's attempts comes together: events of the driver, answers,
//! dates, and what follows from each. It sends nothing itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::{
    book::Book,
    releaser::{Errand, Removal},
    slot::{Sent, Slot, Then},
};
use crate::{
    backend::{BackendEvent, EventHandler},
    capability::{Capabilities, TtlScope, WaitMode},
    clock::{Clock, Instant},
    error::{Error, ErrorKind},
    id::AttemptId,
    lease::Terms,
    loss::LossReason,
    name::LockName,
    request::{Enqueued, Renewal, Renewed},
    telemetry,
};

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) terms: Terms,
    pub(crate) request_timeout: Duration,
    pub(super) scheme: &'static str,
    book: Mutex<Book>,
    capabilities: Mutex<Capabilities>,
    errands: mpsc::UnboundedSender<Errand>,
    keeper: Arc<Notify>,
    closed: AtomicBool,
    pub(super) reconnected: AtomicBool,
}

/// Renewals that were handed to the driver together. What is not answered by the time this is
/// dropped counts as unknown, however that came about.
#[derive(Debug)]
pub(super) struct Batch {
    hub: Arc<Hub>,
    slots: std::vec::IntoIter<(Arc<Slot>, Sent)>,
}

impl Hub {
    pub(super) fn new(
        scheme: &'static str,
        clock: Arc<dyn Clock>,
        terms: Terms,
        request_timeout: Duration,
        errands: mpsc::UnboundedSender<Errand>,
    ) -> Self {
        Self {
            clock,
            terms,
            request_timeout,
            scheme,
            book: Mutex::default(),
            capabilities: Mutex::new(Capabilities::UNKNOWN),
            errands,
            keeper: Arc::default(),
            closed: AtomicBool::new(false),
            reconnected: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Wakes the keeper; also rung when the hub is dropped.
    pub(super) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.keeper)
    }

    pub(super) fn set_capabilities(&self, capabilities: Capabilities) {
        *self
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = capabilities;
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        *self
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an entry outlives its TTL as long as this client lives.
    pub(crate) fn is_pooled(&self) -> bool {
        self.capabilities().ttl.scope == TtlScope::Pooled
    }

    fn poll(&self) -> Option<Duration> {
        match self.capabilities().wait {
            WaitMode::Poll { every } => Some(every),
            WaitMode::Push => None,
        }
    }

    /// Registers an attempt, before anything of it is sent.
    pub(crate) fn register(&self, name: LockName, ttl: Duration) -> Result<Arc<Slot>, Error> {
        let attempt = AttemptId::random()?;
        let slot = Arc::new(Slot::new(name, attempt, ttl, self.terms));
        let mut book = self.book();
        // Under the book's mutex, so that a shutdown sees every slot or this sees the shutdown.
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "acquiring")
                .with_backend(self.scheme)
                .with_lock(slot.name.clone())
                .with_detail("it was shut down"));
        }
        book.insert(Arc::clone(&slot));
        Ok(slot)
    }

    /// The enqueue of a slot was answered: in the queue, or with the lock.
    pub(crate) fn enqueued(&self, slot: &Slot, answer: Enqueued) {
        let now = self.now();
        match answer {
            Enqueued::Granted(grant) => self.follow(slot, slot.granted(&grant, now)),
            Enqueued::Waiting(answer) => {
                self.follow(slot, slot.enqueued(answer, self.poll(), now));
            }
            Enqueued::Busy(_) | Enqueued::Gone => self.forget(slot),
        }
    }

    /// Makes a slot due now.
    pub(crate) fn hurry(&self, slot: &Slot) {
        let then = slot.hurry(self.now());
        self.follow(slot, then);
    }

    /// Looks at a slot whose deadline may have come.
    pub(crate) fn look(&self, slot: &Slot) {
        let now = self.now();
        let then = slot.tick(now);
        self.follow(slot, then);
    }

    /// Forgets a slot: from now on nothing is renewed or reported for it.
    pub(crate) fn forget(&self, slot: &Slot) {
        self.book().remove(slot.attempt);
    }

    /// Hands the removal of an attempt to the releaser. Never blocks; works on any thread.
    pub(crate) fn remove_later(&self, slot: &Arc<Slot>, outcome_known: bool) {
        self.forget(slot);
        let removal = Removal {
            name: slot.name.clone(),
            attempt: slot.attempt,
            ttl: slot.ttl,
            outcome_known,
            not_before: None,
            slot: Arc::clone(slot),
        };
        if self.errands.send(Errand::Remove(removal)).is_err() {
            // The runtime is gone. The TTL is the last resort (R3).
            telemetry::orphaned(self.scheme);
        }
    }

    pub(crate) fn errand(&self, errand: Errand) -> bool {
        self.errands.send(errand).is_ok()
    }

    /// Closes the hub to new attempts, and returns those that there are. `None` if it was closed.
    pub(super) fn close(&self) -> Option<Vec<Arc<Slot>>> {
        let book = self.book();
        (!self.closed.swap(true, Ordering::SeqCst)).then(|| book.all())
    }

    /// What is due, marked as sent, and when to come back.
    pub(super) fn collect(self: &Arc<Self>) -> (Option<(Vec<Renewal>, Batch)>, Option<Instant>) {
        let now = self.now();
        // Whatever becomes due a little later goes along, so that locks taken at different times
        // come to share their renewals.
        let horizon = |slot: &Slot| now + slot.ttl / 12;
        let candidates = self.book().take_due(now, horizon);
        let mut renewals = Vec::with_capacity(candidates.len());
        let mut slots = Vec::with_capacity(candidates.len());
        for slot in candidates {
            let due = slot.due(now, horizon(&slot));
            self.follow(&slot, due.then);
            if let Some((renewal, sent)) = due.renewal {
                renewals.push(renewal);
                slots.push((slot, sent));
            }
        }
        let alarm = self.book().set_alarm(now);
        let batch = (!slots.is_empty()).then(|| {
            (
                renewals,
                Batch {
                    hub: Arc::clone(self),
                    slots: slots.into_iter(),
                },
            )
        });
        (batch, alarm)
    }

    fn follow(&self, slot: &Slot, then: Then) {
        match then {
            Then::Look => {
                // Read again under the book's mutex: of two who change a slot at the same time,
                // the one who comes here last must not note what it has seen first.
                let mut book = self.book();
                let wakes = book.schedule(slot.attempt, slot.date());
                drop(book);
                if wakes {
                    self.keeper.notify_one();
                }
            }
            Then::Forget => self.forget(slot),
            Then::Lost(reason) => {
                // Several may find out at once; the first one takes it out of the book.
                let first = {
                    let mut book = self.book();
                    let listed = book.get(slot.attempt).map(Arc::clone);
                    book.remove(slot.attempt);
                    listed
                };
                if let Some(slot) = first {
                    self.lost(&slot, reason);
                }
            }
        }
    }

    fn lost(&self, slot: &Arc<Slot>, reason: LossReason) {
        telemetry::lost(self.scheme, &slot.name, reason);
        self.remove_later(slot, true);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.book().len()
    }
}

impl EventHandler for Hub {
    fn handle(&self, event: BackendEvent) {
        let now = self.now();
        let (attempt, event) = match event {
            BackendEvent::Granted(grant) => (grant.attempt, BackendEvent::Granted(grant)),
            BackendEvent::Look { attempt }
            | BackendEvent::Lost { attempt, .. }
            | BackendEvent::Proved { attempt, .. } => (attempt, event),
            BackendEvent::Suspect => {
                let slots = self.book().all();
                for slot in slots {
                    let then = slot.doubt(now);
                    self.follow(&slot, then);
                }
                return;
            }
            BackendEvent::Reconnected => {
                self.reconnected.store(true, Ordering::SeqCst);
                let slots = self.book().all();
                for slot in slots {
                    let then = slot.hurry(now);
                    self.follow(&slot, then);
                }
                self.keeper.notify_one();
                return;
            }
        };
        let Some(slot) = self.book().get(attempt).map(Arc::clone) else {
            return;
        };
        let then = match event {
            BackendEvent::Granted(grant) => slot.pushed(grant, now),
            BackendEvent::Look { .. } => slot.hurry(now),
            BackendEvent::Lost { reason, .. } => slot.gone(reason, now),
            BackendEvent::Proved { from, .. } => slot.proved(from, now),
            BackendEvent::Reconnected | BackendEvent::Suspect => return,
        };
        self.follow(&slot, then);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.keeper.notify_one();
    }
}

impl Batch {
    pub(super) fn answered(mut self, answers: Vec<Renewed>) {
        for answer in answers {
            let Some((slot, sent)) = self.slots.next() else {
                break;
            };
            self.hand(&slot, sent, answer);
        }
    }

    fn hand(&self, slot: &Slot, sent: Sent, answer: Renewed) {
        if let Renewed::Unknown(error) = &answer {
            telemetry::renewal_failed(self.hub.scheme, &slot.name, error);
        }
        let poll = self.hub.poll();
        let then = slot.answered(answer, sent, poll, self.hub.now());
        self.hub.follow(slot, then);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        while let Some((slot, sent)) = self.slots.next() {
            let error = Error::new(ErrorKind::OutcomeUnknown, "renewing")
                .with_detail("the store gave no answer");
            self.hand(&slot, sent, Renewed::Unknown(error));
        }
    }
}
