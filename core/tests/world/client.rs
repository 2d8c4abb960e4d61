//! The clients of the model, which use the real lease types.

use tenure_core::{
    clock::Instant,
    lease::{Input, Lease, Phase, WaiterLease},
    loss::LossReason,
    mode::Mode,
    request::{StoreTime, Waiting},
};

use super::{Attempt, Bounds, Message, Push, Reply, Request, Rule, World, client_of};

/// The state of a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Idle,
    /// The enqueue is not answered. A grant that arrives before the answer is kept.
    Enqueuing {
        early: Option<(u64, u64)>,
    },
    Waiting {
        waiter_lease: WaiterLease,
    },
    /// The client has a guard, which may be lost.
    Holding {
        lease: Lease,
        token: u64,
        pushed: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) attempt: Attempt,
    /// What the client takes its guard for.
    pub(crate) mode: Mode,
    pub(crate) role: Role,
    pub(crate) attempts: u8,
    pub(crate) renewals: u8,
}

impl Client {
    pub(crate) fn new(index: usize, bounds: &Bounds) -> Self {
        Self {
            attempt: Attempt::try_from(index << 4).expect("few clients"),
            mode: bounds.modes[index],
            role: Role::Idle,
            attempts: if index == 0 { bounds.attempts } else { 1 },
            renewals: bounds.renewals,
        }
    }

    /// Returns whether the guard, if any, reports that it is held.
    pub(crate) fn holds(&self, now: Instant) -> Option<bool> {
        match &self.role {
            Role::Holding { lease, .. } => Some(lease.check(now).is_live()),
            _ => None,
        }
    }

    pub(crate) fn token(&self) -> Option<u64> {
        match self.role {
            Role::Holding { token, .. } => Some(token),
            _ => None,
        }
    }

    pub(crate) fn can_downgrade(&self, now: Instant) -> bool {
        self.mode == Mode::Exclusive && self.holds(now) == Some(true)
    }

    pub(crate) fn can_renew(&self, now: Instant) -> bool {
        let due = matches!(self.role, Role::Waiting { .. }) || self.holds(now) == Some(true);
        self.renewals > 0 && due
    }
}

impl World {
    pub(super) fn start(&mut self, bounds: &Bounds, index: usize) {
        let now = self.now(index);
        let client = &mut self.clients[index];
        client.mode = bounds.modes[index];
        client.attempts -= 1;
        client.attempt += 1;
        client.role = Role::Enqueuing { early: None };
        let request = Message::Request(client.attempt, now, Request::Enqueue);
        self.send(request);
    }

    pub(super) fn renew(&mut self, index: usize) {
        let now = self.now(index);
        let client = &mut self.clients[index];
        client.renewals -= 1;
        let request = Message::Request(client.attempt, now, Request::Renew);
        self.send(request);
    }

    /// Sends a downgrade. Before it is sent, the guard counts as shared (M4).
    pub(super) fn downgrade(&mut self, bounds: &Bounds, index: usize) {
        let now = self.now(index);
        let client = &mut self.clients[index];
        let Some(token) = client.token() else { return };
        if bounds.rule != Rule::SharedFromReply {
            client.mode = Mode::Shared;
        }
        let request = Message::Request(client.attempt, now, Request::Downgrade { token });
        self.send(request);
    }

    /// Sends a removal: release, cancellation and clean-up are one request.
    pub(super) fn leave(&mut self, index: usize) {
        let now = self.now(index);
        let client = &mut self.clients[index];
        // Only an enqueue that was not answered can still create something.
        let fence = matches!(client.role, Role::Enqueuing { .. });
        if let Role::Holding { lease, .. } = &mut client.role {
            lease.on(Input::Release, now);
            if lease.check(now).is_live() {
                self.broken = Some("L4");
            }
        }
        client.role = Role::Idle;
        let request = Message::Request(client.attempt, now, Request::Remove { fence });
        self.send(request);
    }

    /// Creates a guard for a grant, or removes the attempt if the deadline has already passed (W4).
    fn become_holder(
        &mut self,
        bounds: &Bounds,
        index: usize,
        from: Instant,
        token: u64,
        pushed: bool,
    ) {
        let now = self.now(index);
        let lease = if pushed {
            Lease::pushed(bounds.drift_bounds(), bounds.ttl(), from, now)
        } else {
            Lease::new(bounds.drift_bounds(), bounds.ttl(), from)
        };
        let lapsed = !lease.check(now).is_live();
        let lease = same(bounds, &lease);
        self.clients[index].role = Role::Holding {
            lease,
            token,
            pushed,
        };
        if lapsed {
            self.leave(index);
        }
    }

    /// Handles an answer. `sent` is when the request was sent, by the client's own clock.
    pub(super) fn on_reply(
        &mut self,
        bounds: &Bounds,
        attempt: Attempt,
        sent: Instant,
        reply: Reply,
    ) {
        let index = client_of(attempt);
        let now = self.now(index);
        let was_lost = self.clients[index].holds(now) == Some(false);
        let late = bounds.rule == Rule::DeadlineFromReply;
        let from = if late { now } else { sent };
        let answer = |as_of| Waiting::new(from, StoreTime::new(as_of));
        let client = &mut self.clients[index];
        match (&mut client.role, reply) {
            (Role::Enqueuing { early }, Reply::Waiting { as_of }) => {
                let early = *early;
                // The schedule of reports does not matter here: they are sent at any time.
                let waiter_lease = WaiterLease::new(bounds.ttl(), &answer(as_of), None, from);
                client.role = Role::Waiting { waiter_lease };
                if let Some((token, as_of)) = early {
                    self.on_push(bounds, attempt, Push::Granted { token, as_of });
                }
            }
            (Role::Enqueuing { .. } | Role::Waiting { .. }, Reply::Granted { token }) => {
                self.become_holder(bounds, index, from, token, false);
            }
            (Role::Enqueuing { .. } | Role::Waiting { .. }, Reply::Gone) => {
                client.role = Role::Idle
            }
            (Role::Waiting { waiter_lease }, Reply::Waiting { as_of }) => {
                waiter_lease.on_waiting(&answer(as_of), None, from);
            }
            (
                Role::Holding {
                    lease, token: held, ..
                },
                Reply::Granted { token },
            ) => {
                // Another token means another grant: this attempt's enqueue arrived twice, and the
                // guard's grant ended in between.
                lease.on(
                    if token == *held {
                        Input::Proved { from }
                    } else {
                        Input::Gone(LossReason::Displaced)
                    },
                    now,
                );
                *lease = same(bounds, lease);
            }
            (Role::Holding { lease, .. }, Reply::Gone) => {
                lease.on(Input::Gone(LossReason::Evicted), now);
                *lease = same(bounds, lease);
            }
            (Role::Holding { .. }, Reply::Downgraded) => client.mode = Mode::Shared,
            // The answer to a report that was sent before the grant was pushed.
            (Role::Holding { .. }, Reply::Waiting { .. })
            | (Role::Idle, _)
            | (_, Reply::Downgraded) => {}
        }
        if was_lost && self.clients[index].holds(now) == Some(true) {
            self.broken = Some("L4");
        }
    }

    /// Handles a push from the store.
    pub(super) fn on_push(&mut self, bounds: &Bounds, attempt: Attempt, push: Push) {
        let index = client_of(attempt);
        let now = self.now(index);
        match (&mut self.clients[index].role, push) {
            (Role::Enqueuing { early }, Push::Granted { token, as_of }) => {
                *early = Some((token, as_of));
            }
            (Role::Waiting { waiter_lease }, Push::Granted { token, as_of }) => {
                let accepted = waiter_lease.accept_push(StoreTime::new(as_of));
                let wrong = bounds.rule == Rule::PushFromArrival;
                if let Some(from) = accepted.map(|from| if wrong { now } else { from }) {
                    self.become_holder(bounds, index, from, token, true);
                }
            }
            (Role::Holding { lease, .. }, Push::Lost) => {
                lease.on(Input::Gone(LossReason::Evicted), now);
                *lease = same(bounds, lease);
            }
            _ => {}
        }
    }
}

/// Returns the lease with a normalized schedule, so that states that differ only in it are equal.
fn same(bounds: &Bounds, lease: &Lease) -> Lease {
    let from = lease.proved_from();
    let mut same = Lease::new(bounds.drift_bounds(), bounds.ttl(), from);
    if let Phase::Lost(reason) = lease.phase() {
        same.on(Input::Gone(reason), from);
    }
    assert_eq!(same.phase(), lease.phase());
    same
}
