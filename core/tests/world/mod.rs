//! The model: a store, its clients and the messages between them.

mod client;
mod store;

use std::{collections::BTreeSet, time::Duration};

use client::{Client, Role};
use stateright::{Model, Property};
use tenure_core::{
    clock::Instant,
    lease::{DriftBounds, Phase},
    loss::LossReason,
    mode::Mode,
    queue::Queue,
};

/// Units by which the store's clock advances in a step.
const STEP: u64 = 10;
/// Units by which the clients' clocks advance in a step.
const RATES: [u64; 3] = [9, 11, 10];
/// Maximum difference of these rates in parts per million.
const DRIFT_PPM: u32 = 100_000;

/// The rule by which clients compute deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// As the contract says.
    Sound,
    /// Wrong: a proof counts from the arrival of the answer.
    DeadlineFromReply,
    /// Wrong: all clocks are taken to run at one rate.
    NoDrift,
    /// Wrong: a pushed grant counts from its arrival.
    PushFromArrival,
    /// Wrong: a guard is exclusive until its downgrade is answered.
    SharedFromReply,
}

/// The bounds of the exploration.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) clients: usize,
    /// The modes in which the clients acquire the lock.
    pub(crate) modes: [Mode; 3],
    /// Whether exclusive holders downgrade.
    pub(crate) downgrades: bool,
    /// The TTL, in steps.
    pub(crate) ttl: u64,
    pub(crate) steps: u64,
    /// Attempts of the first client; the others have one.
    pub(crate) attempts: u8,
    /// Renewals and reports of each client.
    pub(crate) renewals: u8,
    /// Messages in flight at the same time.
    pub(crate) in_flight: usize,
    /// Duplicates, evictions and crashes in total.
    pub(crate) disturbances: u8,
    pub(crate) rule: Rule,
}

impl Bounds {
    pub(crate) const TWO: Self = Self {
        clients: 2,
        modes: [Mode::Exclusive; 3],
        downgrades: false,
        ttl: 2,
        steps: 4,
        attempts: 2,
        renewals: 1,
        in_flight: 2,
        disturbances: 1,
        rule: Rule::Sound,
    };

    pub(crate) const THREE: Self = Self {
        clients: 3,
        attempts: 1,
        renewals: 0,
        steps: 3,
        ..Self::TWO
    };

    /// A writer that downgrades, a reader and another writer.
    pub(crate) const READERS: Self = Self {
        modes: [Mode::Exclusive, Mode::Shared, Mode::Exclusive],
        downgrades: true,
        ..Self::THREE
    };

    /// Two requests for one of two permits, and one for both of them.
    pub(crate) const PERMITS: Self = Self {
        modes: [permits(1), permits(2), permits(1)],
        ..Self::THREE
    };

    /// The smallest bounds in which every wrong rule is refuted.
    pub(crate) const SMALL: Self = Self {
        steps: 2,
        renewals: 0,
        disturbances: 0,
        ..Self::TWO
    };

    /// Returns whether the bounds let clients hold the lock at the same time.
    fn has_joint_holders(&self) -> bool {
        self.downgrades || self.modes != [Mode::Exclusive; 3]
    }

    fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl * STEP)
    }

    fn drift_bounds(&self) -> DriftBounds {
        let trusting = self.rule == Rule::NoDrift;
        DriftBounds::new(if trusting { 0 } else { DRIFT_PPM }, Duration::ZERO)
    }
}

/// Some of two permits.
const fn permits(take: u32) -> Mode {
    Mode::Permits { take, of: 2 }
}

/// Returns whether guards with these modes may report at one moment that they hold the lock. Says the same as
/// the queue's rule in other words (clause M1).
fn compatible(modes: &[Mode]) -> bool {
    let all = |is: fn(&Mode) -> bool| modes.iter().all(is);
    let taken = modes.iter().map(|mode| match mode {
        Mode::Permits { take, .. } => *take,
        _ => 0,
    });
    modes.len() <= 1
        || all(|mode| matches!(mode, Mode::Shared))
        || all(|mode| matches!(mode, Mode::Permits { of: 2, .. })) && taken.sum::<u32>() <= 2
}

/// The number of an attempt.
pub(crate) type Attempt = u8;

fn client_of(attempt: Attempt) -> usize {
    usize::from(attempt >> 4)
}

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    Request(Attempt, Instant, Request),
    /// With the moment at which the request was sent.
    Reply(Attempt, Instant, Reply),
    Push(Attempt, Push),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Request {
    Enqueue,
    Remove { fence: bool },
    Renew,
    Downgrade { token: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reply {
    Gone,
    Granted { token: u64 },
    Downgraded,
    Waiting { as_of: u64 },
}

/// A push from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Push {
    Granted { token: u64, as_of: u64 },
    Lost,
}

/// An action of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Crash(usize),
    Deliver(Message),
    /// The message arrives, and stays in flight.
    DeliverCopy(Message),
    /// A guard becomes shared.
    Downgrade(usize),
    /// An operator evicts a holder.
    Evict(Attempt),
    /// Cancels an acquire.
    GiveUp(usize),
    /// Releases a guard, whether it is lost or not.
    Release(usize),
    Renew(usize),
    Start(usize),
    Tick,
}

/// The whole state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    step: u64,
    queue: Queue,
    clients: Vec<Client>,
    net: BTreeSet<Message>,
    disturbances: u8,
    /// Attempts whose grant was evicted: X1 makes an exception of their guards.
    evicted: BTreeSet<Attempt>,
    /// An enqueue arrived after its attempt had been fenced.
    met_fence: bool,
    /// The clause that the last action violated.
    broken: Option<&'static str>,
}

impl World {
    /// Returns the current time on a client's clock.
    fn now(&self, client: usize) -> Instant {
        Instant::from_origin(Duration::from_nanos(1_000 + self.step * RATES[client]))
    }

    /// Returns the attempts whose guard reports at this moment that it is held.
    pub(crate) fn believers(&self) -> impl Iterator<Item = Attempt> {
        let held = |(index, client): (usize, &Client)| {
            let live = client.holds(self.now(index))?;
            live.then_some(client.attempt)
        };
        self.clients.iter().enumerate().filter_map(held)
    }

    /// Returns those of them whose grant was not evicted.
    fn rightful(&self) -> impl Iterator<Item = Attempt> {
        self.believers().filter(|it| !self.evicted.contains(it))
    }

    fn send(&mut self, message: Message) {
        self.net.insert(message);
    }

    /// Removes messages that can have no effect, so that states that differ only in them are equal.
    fn clean(&mut self) {
        let clients = &self.clients;
        let current = |attempt: &Attempt| {
            let client = &clients[client_of(*attempt)];
            client.attempt == *attempt && !matches!(client.role, Role::Idle)
        };
        let asked = |message: &Message| match message {
            Message::Request(attempt, _, Request::Enqueue) => Some(*attempt),
            _ => None,
        };
        let asking: BTreeSet<_> = self.net.iter().filter_map(asked).collect();
        let queue = &self.queue;
        self.net.retain(|message| match message {
            Message::Reply(attempt, ..) | Message::Push(attempt, _) => current(attempt),
            // A request that removes or renews an entry that does not and will not exist.
            Message::Request(attempt, _, Request::Remove { .. }) => {
                asking.contains(attempt) || queue.entry(store::id(*attempt)).is_some()
            }
            Message::Request(attempt, _, Request::Renew | Request::Downgrade { .. }) => {
                current(attempt)
                    || asking.contains(attempt)
                    || queue.entry(store::id(*attempt)).is_some()
            }
            Message::Request(..) => true,
        });
        self.evicted.retain(current);
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            step: 0,
            queue: Queue::new(),
            clients: (0..self.clients)
                .map(|index| Client::new(index, self))
                .collect(),
            net: BTreeSet::new(),
            disturbances: self.disturbances,
            evicted: BTreeSet::new(),
            met_fence: false,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.step < self.steps {
            actions.push(Action::Tick);
        }
        if world.disturbances > 0 {
            let holders = world.queue.holders();
            actions.extend(holders.map(|entry| Action::Evict(store::attempt(entry.attempt))));
        }
        for message in &world.net {
            actions.push(Action::Deliver(message.clone()));
            if world.disturbances > 0 {
                actions.push(Action::DeliverCopy(message.clone()));
            }
        }
        for (index, client) in world.clients.iter().enumerate() {
            match client.role {
                Role::Idle if client.attempts > 0 => actions.push(Action::Start(index)),
                Role::Idle => continue,
                Role::Enqueuing { .. } => actions.push(Action::GiveUp(index)),
                Role::Waiting { .. } => actions.push(Action::GiveUp(index)),
                Role::Holding { .. } => actions.push(Action::Release(index)),
            }
            if self.downgrades && client.can_downgrade(world.now(index)) {
                actions.push(Action::Downgrade(index));
            }
            if client.can_renew(world.now(index)) {
                actions.push(Action::Renew(index));
            }
            if world.disturbances > 0 && !matches!(client.role, Role::Idle) {
                actions.push(Action::Crash(index));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Tick => world.step += 1,
            Action::Evict(attempt) => {
                world.disturbances -= 1;
                world.evict(attempt);
            }
            Action::Downgrade(client) => world.downgrade(self, client),
            Action::Deliver(message) => {
                world.net.remove(&message);
                world.deliver(self, message);
            }
            Action::DeliverCopy(message) => {
                world.disturbances -= 1;
                world.deliver(self, message);
            }
            Action::Crash(client) => {
                world.disturbances -= 1;
                world.clients[client].role = Role::Idle;
            }
            Action::Start(client) => world.start(self, client),
            Action::Renew(client) => world.renew(client),
            Action::Release(client) | Action::GiveUp(client) => world.leave(client),
        }
        world.clean();
        (world != *before).then_some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.net.len() <= self.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("X1, M1", |_, world: &World| {
                let modes: Vec<_> = world
                    .rightful()
                    .map(|attempt| world.clients[client_of(attempt)].mode)
                    .collect();
                compatible(&modes)
            }),
            Property::always("X1, in the store", |_, world: &World| {
                // The attempts that rightfully hold are among those that the store records as holders.
                world.rightful().all(|attempt| {
                    let mut holders = world.queue.holders();
                    holders.any(|entry| {
                        entry.attempt == store::id(attempt) && !entry.has_lapsed(&world.store_now())
                    })
                })
            }),
            Property::always("T1", |_, world: &World| world.broken != Some("T1")),
            Property::always("T2", |_, world: &World| {
                world.rightful().all(|attempt| {
                    let token = world.clients[client_of(attempt)].token();
                    world
                        .queue
                        .entry(store::id(attempt))
                        .and_then(|entry| entry.grant)
                        .map(|grant| grant.token.get())
                        == token
                })
            }),
            Property::always("M3", |_, world: &World| world.broken != Some("M3")),
            Property::always("K2", |_, world: &World| world.broken != Some("K2")),
            Property::always("L4", |_, world: &World| world.broken != Some("L4")),
            Property::always("A4", |_, world: &World| world.broken != Some("A4")),
            Property::always("S2", |_, world: &World| world.queue.validate().is_ok()),
            Property::sometimes("a hand-over by push", |_, world: &World| {
                world.clients.iter().enumerate().any(|(index, client)| {
                    matches!(client.role, Role::Holding { pushed: true, .. })
                        && client.holds(world.now(index)) == Some(true)
                })
            }),
            Property::sometimes("a push overtakes the answer", |_, world: &World| {
                let early =
                    |client: &Client| matches!(client.role, Role::Enqueuing { early: Some(_) });
                world.clients.iter().any(early)
            }),
            Property::sometimes("a loss by the deadline", |_, world: &World| {
                world.any_lost(LossReason::Expired)
            }),
            Property::sometimes("a loss by eviction", |_, world: &World| {
                world.any_lost(LossReason::Evicted)
            }),
            Property::sometimes(
                "a renewed grant outlives its TTL",
                |bounds, world: &World| {
                    let early = world.step * STEP > bounds.ttl * STEP + STEP;
                    let shown = early
                        && world.queue.last_token().get() == 1
                        && world.rightful().count() == 1;
                    bounds.renewals == 0 || shown
                },
            ),
            Property::sometimes(
                "an evicted guard believes beside the next one",
                |_, world: &World| world.believers().count() > 1,
            ),
            Property::sometimes("holders share the lock", |bounds, world: &World| {
                !bounds.has_joint_holders() || world.rightful().count() > 1
            }),
            Property::sometimes(
                "another joins a downgraded holder",
                |bounds, world: &World| {
                    let downgraded = |attempt: Attempt| {
                        let index = client_of(attempt);
                        world.clients[index].mode != bounds.modes[index]
                    };
                    !bounds.downgrades
                        || world.rightful().count() > 1 && world.rightful().any(downgraded)
                },
            ),
            Property::sometimes("a late enqueue meets its fence", |_, world: &World| {
                world.met_fence
            }),
        ]
    }
}

impl World {
    fn any_lost(&self, reason: LossReason) -> bool {
        let lost = |client: &Client| match &client.role {
            Role::Holding { lease, .. } => lease.phase() == Phase::Lost(reason),
            _ => false,
        };
        self.clients.iter().any(lost)
    }
}
