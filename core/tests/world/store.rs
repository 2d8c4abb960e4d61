//! The store of the model: the queue applies the requests that arrive, and its invariants are
//! checked.

use std::time::Duration;

use tenure_core::{
    id::{AttemptId, ClientId},
    queue::{Answer, ClockId, Entry, Event, NoticeKind, Now, Queue, Stamp, Step},
    request::Owner,
    token::FencingToken,
};

use super::{Attempt, Bounds, Message, Push, Reply, Request, STEP, World, client_of};

pub(super) fn id(attempt: Attempt) -> AttemptId {
    AttemptId::from_u128(u128::from(attempt))
}

pub(super) fn attempt(id: AttemptId) -> Attempt {
    Attempt::try_from(id.as_u128()).expect("an attempt of ours")
}

impl World {
    pub(super) fn store_now(&self) -> Now {
        let at = Duration::from_nanos(self.step * STEP);
        Now::new(Stamp::new(ClockId::new(0), at), 0, 0)
    }

    /// The store's logical time. It advances only with a grant, the coarsest permitted resolution.
    fn as_of(&self) -> u64 {
        self.queue.last_token().get()
    }

    fn take(&mut self, event: Event) -> Step {
        let before = self.queue.clone();
        let step = self.queue.on(event.clone(), &self.store_now());
        self.check(&before, &event, &step);
        for notice in &step.notices {
            let what = match notice.kind {
                NoticeKind::Granted { token, .. } => Push::Granted {
                    token: token.get(),
                    as_of: token.get(),
                },
                _ => Push::Lost,
            };
            self.send(Message::Push(attempt(notice.attempt), what));
        }
        step
    }

    fn check(&mut self, before: &Queue, event: &Event, step: &Step) {
        // T1: the token of every new grant is greater than all earlier tokens.
        let mut highest = before.last_token();
        let before_it = |entry: &Entry| before.entry(entry.attempt).and_then(|entry| entry.grant);
        let new = |entry: &&Entry| entry.grant.is_some() && entry.grant != before_it(entry);
        let tokens = |entry: &Entry| Some(entry.grant?.token);
        for token in self.queue.entries().filter(new).filter_map(tokens) {
            if token <= highest {
                self.broken = Some("T1");
            }
            highest = token;
        }
        // M3: the floor is the lowest token among the grants that are alive at the moment of the grant. An event
        // can grant the lock to a waiter and then remove it, before or after another grant.
        let now = self.store_now();
        let pushed = step.notices.iter().filter_map(|notice| match notice.kind {
            NoticeKind::Granted { token, floor, .. } => Some((notice.attempt, token, floor)),
            _ => None,
        });
        let alive = self.queue.holders().filter(|entry| !entry.has_lapsed(&now));
        let after = alive.filter_map(tokens).min();
        let during = pushed.clone().map(|(_, token, _)| token).chain(after).min();
        let answered = match (&step.answer, event) {
            (
                Answer::Granted { token, floor },
                Event::Enqueue { attempt, .. }
                | Event::Renew { attempt }
                | Event::Downgrade { attempt, .. },
            ) => Some((*attempt, *token, *floor)),
            _ => None,
        };
        for (attempt, token, floor) in pushed.chain(answered) {
            let granted = self.queue.entry(attempt).and_then(tokens);
            if granted.is_some_and(|granted| granted != token) {
                self.broken = Some("T1");
            }
            if after.is_some_and(|after| floor > after) || Some(floor) < during {
                self.broken = Some("M3");
            }
        }
        // K2: an entry that was absent or expired is absent after a renewal.
        if let Event::Renew { attempt } = *event {
            let now = self.store_now();
            let live = before
                .entry(attempt)
                .is_some_and(|entry| !entry.has_lapsed(&now));
            let gone = matches!(step.answer, Answer::Gone(_));
            if live == gone || live != self.queue.entry(attempt).is_some() {
                self.broken = Some("K2");
            }
        }
    }

    pub(super) fn evict(&mut self, who: Attempt) {
        let Some(grant) = self.queue.entry(id(who)).and_then(|entry| entry.grant) else {
            return;
        };
        let step = self.take(Event::Evict { token: grant.token });
        if step.answer == Answer::Evicted {
            self.evicted.insert(who);
        }
    }

    pub(super) fn deliver(&mut self, bounds: &Bounds, message: Message) {
        match message {
            Message::Request(attempt, sent, request) => {
                let answer = match request {
                    Request::Enqueue => self.take_enqueue(bounds, attempt),
                    Request::Renew => {
                        self.take(Event::Renew {
                            attempt: id(attempt),
                        })
                        .answer
                    }
                    Request::Downgrade { token } => {
                        self.take(Event::Downgrade {
                            attempt: id(attempt),
                            token: FencingToken::new(token),
                        })
                        .answer
                    }
                    Request::Remove { fence } => {
                        let fence = fence.then(|| bounds.ttl());
                        self.take(Event::Remove {
                            attempt: id(attempt),
                            fence,
                        });
                        if self.queue.entry(id(attempt)).is_some() {
                            self.broken = Some("A4");
                        }
                        return;
                    }
                };
                let as_of = self.as_of();
                let downgrades = matches!(request, Request::Downgrade { .. });
                let reply = match answer {
                    Answer::Granted { .. } if downgrades => Reply::Downgraded,
                    Answer::Granted { token, .. } => Reply::Granted { token: token.get() },
                    Answer::Waiting { .. } => Reply::Waiting { as_of },
                    _ => Reply::Gone,
                };
                self.send(Message::Reply(attempt, sent, reply));
            }
            Message::Reply(attempt, sent, reply) => self.on_reply(bounds, attempt, sent, reply),
            Message::Push(attempt, push) => self.on_push(bounds, attempt, push),
        }
    }

    fn take_enqueue(&mut self, bounds: &Bounds, attempt: Attempt) -> Answer {
        let fresh = self.queue.entry(id(attempt)).is_none();
        let client = u128::try_from(client_of(attempt)).expect("a small number");
        let enqueue = Event::Enqueue {
            attempt: id(attempt),
            client: ClientId::from_u128(client),
            owner: Owner::default(),
            ttl: bounds.ttl(),
            wait: true,
            mode: bounds.modes[client_of(attempt)],
        };
        let answer = self.take(enqueue).answer;
        self.met_fence |= fresh && matches!(answer, Answer::Gone(_));
        answer
    }
}
