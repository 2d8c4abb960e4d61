//! Properties of every sequence of events, clause by clause, and a comparison with an independent
//! model.

mod modes;
mod naive;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ATTEMPTS: u128 = 6;
const MICRO: Duration = Duration::from_micros(1);

/// An operation. Attempts are numbered; each has its own TTL and client.
#[derive(Clone, Debug)]
enum Op {
    Enqueue(u128, bool),
    Renew(u128),
    /// Downgrades the attempt's grant, or names another token.
    Downgrade(u128, bool),
    Remove(u128, bool),
    /// Evicts the holder's token, or another one.
    Evict(bool),
    /// An observer's report about the current or an earlier state.
    Lapse(u128, bool),
    Adopt(u128),
}

/// An operation that the host with this clock executes after a pause.
#[derive(Clone, Debug)]
struct Act {
    op: Op,
    pause: u64,
    clock: u128,
    floor: u64,
    /// The mode of an enqueue.
    mode: Mode,
}

/// One step of a history.
#[derive(Clone, Debug)]
struct Moment {
    before: Queue,
    event: Event,
    now: Now,
    step: Step,
    after: Queue,
}

/// The answer to an exclusive holder.
fn granted_alone(token: FencingToken) -> Answer {
    Answer::Granted {
        token,
        floor: token,
    }
}

fn attempt(who: u128) -> AttemptId {
    AttemptId::from_u128(who + 1)
}

fn ttl(who: u128) -> Duration {
    Duration::from_micros([30, 50, 70, 100, 100, 160][usize::try_from(who % ATTEMPTS).unwrap()])
}

fn now(real: u64, clock: u128, floor: u64) -> Now {
    // The second clock belongs to another host and has another origin.
    let origin = if clock == 0 { 1_000 } else { 77_000 };
    let stamp = Stamp::new(ClockId::new(clock), Duration::from_micros(origin + real));
    Now::new(stamp, real, floor)
}

fn acts(clocks: u128) -> impl Strategy<Value = Vec<Act>> {
    let who = 0..ATTEMPTS;
    let op = prop_oneof![
        4 => (who.clone(), prop::bool::weighted(0.8)).prop_map(|(who, wait)| Op::Enqueue(who, wait)),
        4 => who.clone().prop_map(Op::Renew),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, fence)| Op::Remove(who, fence)),
        1 => any::<bool>().prop_map(Op::Evict),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, fresh)| Op::Lapse(who, fresh)),
        1 => who.prop_map(Op::Adopt),
    ];
    let floor = prop_oneof![3 => Just(0), 1 => 0_u64..200];
    let act = (op, 0_u64..25, 0..clocks, floor).prop_map(|(op, pause, clock, floor)| Act {
        op,
        pause,
        clock,
        floor,
        mode: Mode::Exclusive,
    });
    prop::collection::vec(act, 1..80)
}

fn event(op: &Op, queue: &Queue) -> Event {
    match *op {
        Op::Enqueue(who, wait) => Event::Enqueue {
            attempt: attempt(who),
            client: ClientId::from_u128(who % 3),
            owner: Owner::new("job", "host", 7),
            ttl: ttl(who),
            wait,
            mode: Mode::Exclusive,
        },
        Op::Downgrade(who, present) => {
            let held = queue.entry(attempt(who)).and_then(|entry| entry.grant);
            let token = held.filter(|_| present).map(|grant| grant.token);
            Event::Downgrade {
                attempt: attempt(who),
                token: token.unwrap_or_else(|| queue.last_token()),
            }
        }
        Op::Renew(who) => Event::Renew {
            attempt: attempt(who),
        },
        Op::Remove(who, fence) => Event::Remove {
            attempt: attempt(who),
            fence: fence.then(|| ttl(who)),
        },
        Op::Evict(present) => {
            let held = queue.holder().and_then(|entry| entry.grant);
            let stale =
                FencingToken::new(queue.last_token.saturating_sub(u64::from(held.is_some())));
            let token = held.filter(|_| present).map_or(stale, |grant| grant.token);
            Event::Evict { token }
        }
        Op::Adopt(who) => Event::Adopt {
            attempt: attempt(who),
            beat: queue.entry(attempt(who)).map_or(0, |entry| entry.beat),
        },
        Op::Lapse(who, fresh) => {
            let beat = queue.entry(attempt(who)).map_or(0, |entry| entry.beat);
            Event::Lapsed {
                attempt: attempt(who),
                beat: if fresh { beat } else { beat.wrapping_sub(1) },
            }
        }
    }
}

/// A history in which an attempt that is gone never returns, as the core guarantees: a client that
/// enqueues again uses a new attempt.
fn history(acts: &[Act]) -> Vec<Moment> {
    let mut lives = [0; 6];
    run(acts, |op, queue, now| {
        let enqueues = matches!(op, Op::Enqueue(..));
        let who = match op {
            Op::Enqueue(who, _)
            | Op::Renew(who)
            | Op::Downgrade(who, _)
            | Op::Remove(who, _)
            | Op::Lapse(who, _)
            | Op::Adopt(who) => who,
            Op::Evict(_) => return,
        };
        let life = &mut lives[usize::try_from(*who).unwrap()];
        let live = |life| {
            let entry = queue.entry(attempt(*who + ATTEMPTS * life));
            entry.is_some_and(|entry| !entry.has_lapsed(now))
        };
        if enqueues && !live(*life) {
            *life += 1;
        }
        *who += ATTEMPTS * *life;
    })
}

/// A history in which requests of attempts that are gone still arrive.
fn history_with_ghosts(acts: &[Act]) -> Vec<Moment> {
    run(acts, |_, _, _| {})
}

fn run(acts: &[Act], mut rename: impl FnMut(&mut Op, &Queue, &Now)) -> Vec<Moment> {
    let (mut queue, mut real) = (Queue::new(), 0);
    acts.iter()
        .map(|act| {
            real += act.pause;
            let now = now(real, act.clock, act.floor);
            let mut op = act.op.clone();
            rename(&mut op, &queue, &now);
            let mut event = event(&op, &queue);
            if let Event::Enqueue { mode, .. } = &mut event {
                *mode = act.mode;
            }
            let before = queue.clone();
            let step = queue.on(event.clone(), &now);
            let after = queue.clone();
            Moment {
                before,
                event,
                now,
                step,
                after,
            }
        })
        .collect()
}

impl Event {
    fn subject(&self, before: &Queue) -> Option<AttemptId> {
        match *self {
            Self::Enqueue { attempt, .. }
            | Self::Renew { attempt }
            | Self::Downgrade { attempt, .. }
            | Self::Remove { attempt, .. }
            | Self::Adopt { attempt, .. }
            | Self::Lapsed { attempt, .. } => Some(attempt),
            Self::Evict { token } => before
                .holders()
                .find(|entry| entry.grant.is_some_and(|grant| grant.token == token))
                .map(|entry| entry.attempt),
        }
    }
}

impl Moment {
    fn order(queue: &Queue) -> Vec<AttemptId> {
        queue.entries().map(|entry| entry.attempt).collect()
    }

    /// The grant that began in this step, if any.
    fn newly_granted(&self) -> Option<&Entry> {
        let token = |entry: &Entry| (entry.attempt, entry.grant);
        let old = self.before.holder().map(token);
        self.after
            .holder()
            .filter(|entry| Some(token(entry)) != old)
    }

    /// The attempt that was notified of its grant, with the token.
    fn told_granted(&self) -> Vec<(AttemptId, u64)> {
        let granted = |notice: &Notice| match notice.kind {
            NoticeKind::Granted { token, .. } => Some((notice.attempt, token.get())),
            NoticeKind::Lost(_) => None,
        };
        self.step.notices.iter().filter_map(granted).collect()
    }

    /// All grants that began in this step. The event itself may remove an attempt again that became
    /// the holder only because other entries had expired.
    fn granted(&self) -> Vec<(AttemptId, u64)> {
        let mut granted = self.told_granted();
        if let Some(entry) = self.newly_granted() {
            let grant = (entry.attempt, entry.grant.unwrap().token.get());
            if !granted.contains(&grant) {
                granted.push(grant);
            }
        }
        granted
    }
}

proptest! {
    #[test]
    fn x1_only_the_first_entry_holds(acts in acts(2)) {
        for Moment { after, .. } in history_with_ghosts(&acts) {
            let held: Vec<_> = after.entries().map(|entry| entry.grant.is_some()).collect();
            prop_assert!(held.iter().filter(|held| **held).count() <= 1);
            prop_assert!(held.first() != Some(&false), "somebody waits and nobody holds");
            prop_assert_eq!(after.validate(), Ok(()));
        }
    }

    #[test]
    fn t1_tokens_increase_after_every_kind_of_ending(acts in acts(2)) {
        let mut highest = 0;
        for moment in history(&acts) {
            for (_, token) in moment.granted() {
                prop_assert!(token > highest, "{token} after {highest}");
                prop_assert!(token >= moment.now.token_floor);
                highest = token;
            }
            prop_assert_eq!(moment.after.last_token().get(), highest);
        }
    }

    #[test]
    fn t3_repeated_enqueue_returns_same_grant_and_full_expiry(acts in acts(2)) {
        for moment in history(&acts) {
            let asked = match moment.event {
                Event::Enqueue { attempt, .. } | Event::Renew { attempt } => attempt,
                _ => continue,
            };
            let fenced = moment.before.fenced.iter().any(|fenced| fenced.attempt == asked);
            let Some(entry) = moment.before.entry(asked) else { continue };
            if entry.has_lapsed(&moment.now) || fenced {
                continue;
            }
            let after = moment.after.entry(asked).unwrap();
            prop_assert_eq!(after.refreshed, moment.now.stamp);
            if let Some(grant) = entry.grant {
                prop_assert_eq!(moment.step.answer, granted_alone(grant.token));
                prop_assert_eq!(after.grant, entry.grant);
            }
        }
    }

    #[test]
    fn k2_w5_renewal_creates_and_revives_nothing(acts in acts(2)) {
        for moment in history(&acts) {
            let Event::Renew { attempt } = moment.event else { continue };
            let live = moment.before.entry(attempt).is_some_and(|e| !e.has_lapsed(&moment.now));
            prop_assert_eq!(live, moment.after.entry(attempt).is_some());
            prop_assert_eq!(!live, matches!(moment.step.answer, Answer::Gone(_)));
            for entry in moment.after.entries().filter(|entry| entry.attempt != attempt) {
                let before = moment.before.entry(entry.attempt).expect("nobody joins by renewing");
                prop_assert_eq!(before.refreshed, entry.refreshed, "somebody else was extended");
            }
        }
    }

    #[test]
    fn w1_grants_follow_the_order_of_enqueueing(acts in acts(2)) {
        let mut places = BTreeMap::new();
        let mut next_place = 0;
        for moment in history(&acts) {
            for entry in moment.after.entries() {
                if moment.before.entry(entry.attempt).is_none() {
                    next_place += 1;
                    places.insert(entry.attempt, next_place);
                }
            }
            let order: Vec<_> = Moment::order(&moment.after).iter().map(|who| places[who]).collect();
            prop_assert!(order.is_sorted(), "{order:?}");
            // An attempt that was skipped had expired, or was removed by this event.
            if let Some(granted) = moment.newly_granted() {
                let subject = moment.event.subject(&moment.before);
                for entry in moment.before.entries() {
                    if entry.attempt == granted.attempt {
                        break;
                    }
                    prop_assert!(entry.has_lapsed(&moment.now) || Some(entry.attempt) == subject);
                }
            }
        }
    }

    #[test]
    fn w3_leaving_disturbs_no_entry_and_wakes_one(acts in acts(2)) {
        for moment in history(&acts) {
            let (before, after) = (Moment::order(&moment.before), Moment::order(&moment.after));
            let stayed: Vec<_> = before.iter().filter(|who| after.contains(who)).collect();
            let kept: Vec<_> = after.iter().filter(|who| before.contains(who)).collect();
            prop_assert_eq!(stayed, kept);
            // One notice to the new holder, unless the answer contains the grant.
            let sender = match moment.event {
                Event::Enqueue { attempt, .. } if moment.before.entry(attempt).is_none() => Some(attempt),
                _ => None,
            };
            let mut granted = moment.granted();
            granted.retain(|(who, _)| Some(*who) != sender);
            prop_assert_eq!(&moment.told_granted(), &granted);
            let subject = moment.event.subject(&moment.before);
            granted.retain(|(who, _)| Some(*who) != subject || moment.after.entry(*who).is_some());
            prop_assert!(granted.len() <= 1, "{granted:?} were woken");
            let holds = moment.newly_granted().map(|entry| entry.attempt);
            prop_assert_eq!(granted.first().map(|(who, _)| *who), holds.filter(|who| Some(*who) != sender));
            if matches!(moment.step.answer, Answer::RemovedWaiter) && !moment.before.holder().unwrap().has_lapsed(&moment.now) {
                prop_assert!(moment.step.notices.is_empty());
            }
        }
    }

    #[test]
    fn w4_expired_waiter_is_not_granted(acts in acts(2)) {
        for moment in history(&acts) {
            if let Some(entry) = moment.newly_granted() {
                prop_assert!(!entry.has_lapsed(&moment.now));
            }
        }
    }

    #[test]
    fn i2_eviction_revokes_only_that_token(acts in acts(2)) {
        for moment in history(&acts) {
            let Event::Evict { token } = moment.event else { continue };
            let hit = moment.before.holder().filter(|entry| {
                entry.grant.unwrap().token == token && !entry.has_lapsed(&moment.now)
            });
            let answer = if hit.is_some() { Answer::Evicted } else { Answer::Nothing };
            prop_assert_eq!(moment.step.answer, answer);
            for entry in moment.before.entries() {
                let gone = moment.after.entry(entry.attempt).is_none();
                let evicted = hit.is_some_and(|hit| hit.attempt == entry.attempt);
                prop_assert!(!gone || evicted || entry.has_lapsed(&moment.now));
                prop_assert!(gone || !evicted);
            }
        }
    }

    #[test]
    fn d4_pushed_grant_keeps_expiry_of_waiter(acts in acts(2)) {
        for moment in history(&acts) {
            for (who, _) in moment.told_granted() {
                let asked_itself = matches!(
                    moment.event,
                    Event::Renew { attempt } | Event::Enqueue { attempt, .. } if attempt == who
                );
                let waited = moment.before.entry(who).unwrap();
                let Some(holds) = moment.after.entry(who) else { continue };
                let foreign = waited.refreshed.clock != moment.now.stamp.clock;
                let adopted = foreign
                    && matches!(moment.event, Event::Adopt { attempt, .. } if attempt == who);
                let anew = asked_itself || adopted;
                let expected = if anew { moment.now.stamp } else { waited.refreshed };
                prop_assert_eq!(holds.refreshed, expected);
                prop_assert_eq!(holds.ttl, waited.ttl);
            }
        }
    }

    #[test]
    fn a2_repeated_event_changes_nothing(acts in acts(2)) {
        for moment in history(&acts) {
            let mut queue = moment.after.clone();
            let step = queue.on(moment.event.clone(), &moment.now);
            prop_assert!(step.notices.is_empty(), "{:?}", step.notices);
            match moment.event {
                Event::Enqueue { .. } | Event::Renew { .. } => {
                    prop_assert_eq!(
                        std::mem::discriminant(&step.answer),
                        std::mem::discriminant(&moment.step.answer)
                    );
                    for (once, twice) in moment.after.entries().zip(queue.entries()) {
                        let beat = twice.beat;
                        prop_assert_eq!(&Entry { beat, ..once.clone() }, twice);
                    }
                    prop_assert_eq!(moment.after.entries().len(), queue.entries().len());
                }
                _ => prop_assert_eq!(&queue, &moment.after),
            }
        }
    }

    #[test]
    fn a2_late_repeated_removals_change_no_other_entry(
        acts in acts(2), late in 0..ATTEMPTS, fence in any::<bool>(),
    ) {
        for moment in history_with_ghosts(&acts).into_iter().filter(|m| m.after.entry(attempt(late)).is_none()) {
            let mut queue = moment.after.clone();
            let fence = fence.then(|| ttl(late));
            queue.on(Event::Remove { attempt: attempt(late), fence }, &moment.now);
            prop_assert_eq!(queue.entries, moment.after.entries);
        }
    }

    #[test]
    fn a4_fenced_attempt_cannot_enqueue(
        acts in acts(2), who in 0..ATTEMPTS, after in 0_u64..200, clock in 0_u128..2,
    ) {
        let history = history_with_ghosts(&acts);
        let mut queue = history.last().unwrap().after.clone();
        let real = history.last().unwrap().now.wall_us;
        queue.on(event(&Op::Remove(who, true), &queue), &now(real, 0, 0));
        queue.on(event(&Op::Remove(who, true), &queue), &now(real, 0, 0));
        let fences = queue.fenced.iter().filter(|fenced| fenced.attempt == attempt(who));
        prop_assert_eq!(fences.count(), 1, "a repeated removal piles up fences");
        // On either clock: the other one can decide only by the wall clock.
        let step = queue.on(event(&Op::Enqueue(who, true), &queue), &now(real + after, clock, 0));
        let stands = Duration::from_micros(after) < ttl(who);
        prop_assert_eq!(matches!(step.answer, Answer::Gone(_)), stands);
        prop_assert_eq!(queue.entry(attempt(who)).is_none(), stands);
    }

    #[test]
    fn r4_idle_queue_keeps_only_the_last_token(acts in acts(2)) {
        let history = history(&acts);
        let last = history.last().unwrap();
        let mut queue = last.after.clone();
        for attempt in Moment::order(&last.after) {
            queue.on(Event::Remove { attempt, fence: None }, &last.now);
        }
        let later = now(last.now.wall_us + 1_000, 1, 0);
        prop_assert!(queue.is_idle());
        prop_assert!(queue.is_blank(&later));
        prop_assert!(queue.last_token() >= last.after.last_token());
    }

    #[test]
    fn every_change_is_reported_and_state_round_trips(acts in acts(2)) {
        for moment in history_with_ghosts(&acts) {
            prop_assert!(moment.step.changed || moment.before == moment.after);
            let text = serde_json::to_string(&moment.after).unwrap();
            let read: Queue = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read, moment.after);
        }
    }
}

#[test]
fn x3_holder_expires_no_sooner_than_its_ttl() {
    let mut queue = Queue::new();
    queue.on(event(&Op::Enqueue(0, true), &queue), &now(0, 0, 0));
    queue.on(event(&Op::Enqueue(3, true), &queue), &now(10, 0, 0));
    let renew = |queue: &mut Queue, real| {
        queue
            .on(event(&Op::Renew(3), queue), &now(real, 0, 0))
            .answer
    };
    assert_eq!(renew(&mut queue, 29), Answer::Waiting { ahead: 1 });
    assert_eq!(renew(&mut queue, 30), granted_alone(FencingToken::new(2)));
}

#[test]
fn x3_clock_of_another_host_ends_no_grant() {
    let mut queue = Queue::new();
    queue.on(event(&Op::Enqueue(0, true), &queue), &now(0, 0, 0));
    queue.on(event(&Op::Enqueue(3, true), &queue), &now(0, 1, 0));
    let later = now(1_000_000, 1, 0);
    assert!(!queue.holder().unwrap().has_lapsed(&later));
    let step = queue.on(event(&Op::Lapse(0, true), &queue), &later);
    assert_eq!(step.answer, Answer::RemovedHolder);
    // The waiter had expired as well, by its own clock, and is not granted the lock (W4).
    assert!(queue.is_idle());
}

#[test]
fn s2_impossible_state_is_rejected() {
    let mut queue = Queue::new();
    for who in 0..3 {
        queue.on(event(&Op::Enqueue(who, true), &queue), &now(0, 0, 0));
    }
    assert_eq!(queue.validate(), Ok(()));
    let broken = |change: fn(&mut Queue)| {
        let mut queue = queue.clone();
        change(&mut queue);
        queue.validate().unwrap_err().to_string()
    };
    let texts = [
        broken(|queue| queue.entries[1].grant = queue.entries[0].grant),
        broken(|queue| queue.entries[2].grant = queue.entries[0].grant),
        broken(|queue| queue.entries[2].mode = Mode::Permits { take: 2, of: 1 }),
        broken(|queue| {
            for entry in queue.entries.iter_mut().take(2) {
                entry.mode = Mode::Shared;
            }
            queue.entries[1].grant = queue.entries[0].grant;
        }),
        broken(|queue| queue.entries[2].attempt = queue.entries[1].attempt),
        broken(|queue| queue.entries[0].grant = None),
        broken(|queue| queue.last_token = 0),
        broken(|queue| queue.last_token = u64::MAX),
    ];
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), texts.len(), "{texts:?}");
}

#[test]
fn s2_untrusted_renewal_count_does_not_overflow() {
    let mut queue = Queue::new();
    queue.on(event(&Op::Enqueue(0, true), &queue), &now(0, 0, 0));
    queue.entries[0].beat = u64::MAX;
    let step = queue.on(event(&Op::Renew(0), &queue), &now(1, 0, 0));
    assert_eq!(step.answer, granted_alone(FencingToken::new(1)));
    assert_eq!(queue.entries[0].refreshed.at, Duration::from_micros(1_001));
    assert_eq!(queue.entries[0].expires_in(&now(1, 0, 0)), Some(30 * MICRO));
}
