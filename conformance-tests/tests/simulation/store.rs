//! The simulated store: the queue machine, with optional flaws.

use std::{collections::BTreeMap, time::Duration};

use tenure_core::{
    backend::EventSink,
    id::{AttemptId, ClientId},
    loss::LossReason,
    mode::Mode,
    queue::{Answer, ClockId, Entry, Event, NoticeKind, Now, Queue, Stamp, Step},
    request::{Owner, StoreTime},
    token::FencingToken,
};

/// A flaw of the store or the driver. The oracle must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The renewal of an expired grant succeeds.
    RenewalRevivesExpired,
    /// The removal of an unknown attempt removes the holder.
    ReleaseWithoutOwnerCheck,
    /// The renewal of an unknown entry creates one.
    ReportCreates,
    /// A removal leaves no tombstone, so that a late enqueue takes effect.
    NoFencing,
    /// A repeated enqueue of a holder is granted anew.
    RepeatGrantsAnew,
    /// Entries expire after half of their TTL.
    HalfTheTtl,
    /// Every attempt is granted the lock.
    NoExclusion,
    /// The token of an ended grant is used again.
    TokenRepeats,
    /// A new waiter is placed before the last one.
    WaiterCutsIn,
    /// A removal removes nothing, but reports success.
    ReleaseDoesNothing,
    /// The driver counts a proof from the arrival of the reply.
    ProofFromReply,
    /// The driver counts a pushed grant from its arrival.
    PushFromArrival,
    /// The store forgets all queues when it restarts.
    ForgetsInRestart,
    /// A grant without renewals never ends.
    NeverExpires,
    /// A reader is placed before all waiters.
    ReaderOvertakesWriters,
    /// Each holder of permits counts as one, however many it takes.
    PermitsCountHolders,
    /// The floor of each grant is its own token.
    FloorIsToken,
    /// A downgrade is answered, and changes nothing.
    DowngradeDoesNothing,
}

impl Flaw {
    pub(crate) const ALL: [Self; 18] = [
        Self::RenewalRevivesExpired,
        Self::ReleaseWithoutOwnerCheck,
        Self::ReportCreates,
        Self::NoFencing,
        Self::RepeatGrantsAnew,
        Self::HalfTheTtl,
        Self::NoExclusion,
        Self::TokenRepeats,
        Self::WaiterCutsIn,
        Self::ReleaseDoesNothing,
        Self::ProofFromReply,
        Self::PushFromArrival,
        Self::ForgetsInRestart,
        Self::NeverExpires,
        Self::ReaderOvertakesWriters,
        Self::PermitsCountHolders,
        Self::FloorIsToken,
        Self::DowngradeDoesNothing,
    ];
}

pub(crate) struct Store {
    pub(crate) flaw: Option<Flaw>,
    pub(crate) queues: Vec<Queue>,
    /// The recipients of messages about each client's attempts.
    pub(crate) clients: BTreeMap<ClientId, (usize, EventSink)>,
    pub(crate) down_until: u64,
    /// The number of restarts, each of which ends all connections.
    pub(crate) restarts: u64,
    time: u64,
    last_token: u64,
    /// The grants, for the flaws.
    granted: BTreeMap<AttemptId, FencingToken>,
}

/// The outcome of an event.
pub(crate) struct Taken {
    pub(crate) step: Step,
    pub(crate) as_of: StoreTime,
}

impl Store {
    pub(crate) fn new(locks: usize, flaw: Option<Flaw>) -> Self {
        Self {
            flaw,
            queues: (0..locks).map(|_| Queue::new()).collect(),
            clients: BTreeMap::new(),
            down_until: 0,
            restarts: 0,
            time: 0,
            last_token: 0,
            granted: BTreeMap::new(),
        }
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn moment(&self, now: u64) -> Now {
        let floor = if self.has(Flaw::TokenRepeats) {
            0
        } else {
            self.last_token + 1
        };
        let at = if self.has(Flaw::NeverExpires) { 0 } else { now };
        Now::new(
            Stamp::new(ClockId::new(0), Duration::from_nanos(at)),
            now / 1000,
            floor,
        )
    }

    pub(crate) fn now(&self, now: u64) -> Now {
        self.moment(now)
    }

    pub(crate) fn take(&mut self, lock: usize, mut event: Event, now: u64) -> Taken {
        self.time += 1;
        let moment = self.moment(now);
        let flaw = self.flaw;
        let queue = &mut self.queues[lock];
        match (&mut event, flaw) {
            (Event::Enqueue { ttl, .. }, Some(Flaw::HalfTheTtl)) => *ttl /= 2,
            (Event::Remove { fence, .. }, Some(Flaw::NoFencing)) => *fence = None,
            (
                Event::Enqueue {
                    mode: Mode::Permits { take, .. },
                    ..
                },
                Some(Flaw::PermitsCountHolders),
            ) => *take = 1,
            (Event::Remove { attempt, .. }, Some(Flaw::ReleaseWithoutOwnerCheck)) => {
                let holder = queue.holder().map(|entry| entry.attempt);
                if let Some(holder) = holder.filter(|_| queue.entry(*attempt).is_none()) {
                    *attempt = holder;
                }
            }
            _ => {}
        }
        let mut step = match (event, flaw) {
            (Event::Remove { attempt, .. }, Some(Flaw::ReleaseDoesNothing)) => {
                let answer = match queue.entry(attempt) {
                    Some(entry) if entry.grant.is_some() => Answer::RemovedHolder,
                    Some(_) => Answer::RemovedWaiter,
                    None => Answer::Gone(LossReason::Evicted),
                };
                let token = FencingToken::new(0);
                let mut step = queue.on(Event::Evict { token }, &moment);
                step.answer = answer;
                step
            }
            (event, _) => queue.on(event, &moment),
        };
        if self.has(Flaw::FloorIsToken) {
            if let Answer::Granted { token, floor } = &mut step.answer {
                *floor = *token;
            }
            for notice in &mut step.notices {
                if let NoticeKind::Granted { token, floor, .. } = &mut notice.kind {
                    *floor = *token;
                }
            }
        }
        self.note(lock);
        let last = self.queues[lock].last_token().get();
        self.last_token = self.last_token.max(last);
        if self.has(Flaw::TokenRepeats) && self.queues[lock].is_idle() {
            self.queues[lock] = Queue::new();
        }
        Taken {
            step,
            as_of: StoreTime::new(self.time),
        }
    }

    /// Records grants for the flaws.
    fn note(&mut self, lock: usize) {
        if let Some(entry) = self.queues[lock].holder()
            && let Some(grant) = entry.grant
        {
            self.granted.insert(entry.attempt, grant.token);
        }
    }

    /// Handles a renewal.
    pub(crate) fn renew(
        &mut self,
        lock: usize,
        attempt: AttemptId,
        now: u64,
        ttl: Duration,
        client: ClientId,
    ) -> Taken {
        let known = self.queues[lock].entry(attempt).is_some();
        if !known && self.has(Flaw::ReportCreates) {
            let event = Event::Enqueue {
                attempt,
                client,
                owner: Owner::default(),
                ttl,
                wait: true,
                mode: Mode::Exclusive,
            };
            return self.take(lock, event, now);
        }
        let mut taken = self.take(lock, Event::Renew { attempt }, now);
        if let Answer::Gone(LossReason::Expired | LossReason::Displaced) = taken.step.answer
            && self.has(Flaw::RenewalRevivesExpired)
            && let Some(token) = self.granted.get(&attempt)
        {
            let (token, floor) = (*token, *token);
            taken.step.answer = Answer::Granted { token, floor };
        }
        taken
    }

    /// Handles a downgrade.
    pub(crate) fn downgrade(&mut self, lock: usize, event: Event, now: u64) -> Taken {
        if let Event::Downgrade { attempt, .. } = event
            && self.has(Flaw::DowngradeDoesNothing)
        {
            return self.take(lock, Event::Renew { attempt }, now);
        }
        self.take(lock, event, now)
    }

    /// Handles an enqueue.
    pub(crate) fn enqueue(&mut self, lock: usize, event: Event, now: u64) -> Taken {
        let Event::Enqueue {
            attempt,
            wait,
            mode,
            ..
        } = event
        else {
            unreachable!("an enqueue");
        };
        let queue = &self.queues[lock];
        let is_sole_entry = queue.entries().count() == 1
            && queue.holder().is_some_and(|entry| entry.attempt == attempt);
        if is_sole_entry && self.has(Flaw::RepeatGrantsAnew) {
            let fence = None;
            self.take(lock, Event::Remove { attempt, fence }, now);
        }
        let mut taken = self.take(lock, event, now);
        let waits = matches!(taken.step.answer, Answer::Waiting { ahead } if ahead > 0);
        if waits && self.has(Flaw::NoExclusion) {
            self.last_token += 1;
            let token = FencingToken::new(self.last_token);
            let floor = token;
            taken.step.answer = Answer::Granted { token, floor };
        }
        if waits && mode == Mode::Shared && self.has(Flaw::ReaderOvertakesWriters) {
            let entries = self.queues[lock].entries();
            let others = entries.filter(|entry| entry.grant.is_none() && entry.attempt != attempt);
            for other in others.cloned().collect::<Vec<_>>() {
                self.enter_again(lock, &other, now);
            }
        }
        if let Answer::Waiting { ahead } = taken.step.answer
            && ahead >= 2
            && wait
            && self.has(Flaw::WaiterCutsIn)
        {
            self.cut_in(lock, attempt, now);
        }
        taken
    }

    /// Swaps the last two entries: the earlier one leaves and enters again.
    fn cut_in(&mut self, lock: usize, attempt: AttemptId, now: u64) {
        let before: Vec<_> = self.queues[lock].entries().rev().take(2).cloned().collect();
        let [last, victim] = &before[..] else { return };
        if last.attempt != attempt || victim.grant.is_some() {
            return;
        }
        self.enter_again(lock, victim, now);
    }

    /// Lets an entry leave, and enter again behind the others.
    fn enter_again(&mut self, lock: usize, entry: &Entry, now: u64) {
        let moment = self.moment(now);
        let queue = &mut self.queues[lock];
        queue.on(
            Event::Remove {
                attempt: entry.attempt,
                fence: None,
            },
            &moment,
        );
        queue.on(
            Event::Enqueue {
                attempt: entry.attempt,
                client: entry.client,
                owner: entry.owner.clone(),
                ttl: entry.ttl,
                wait: true,
                mode: entry.mode,
            },
            &moment,
        );
    }

    pub(crate) fn restart(&mut self) {
        self.restarts += 1;
        if self.has(Flaw::ForgetsInRestart) {
            for queue in &mut self.queues {
                *queue = Queue::new();
            }
        }
    }
}
