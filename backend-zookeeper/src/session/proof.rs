//! How long a session is certain to live: a chain of heartbeats. Pure.
//!
//! That a server answers proves nothing: a follower counts a session's life by itself, answers for
//! as long as it has not noticed that it was cut off from the leader, and tells the leader of it only
//! with its answer to the leader's own ping, every half tick. The leader alone decides when a session
//! ends. So each heartbeat is a `sync`, which goes through the leader, and a read after it; the next
//! one is sent at least 0.6 ticks after the answer to the one before. When the third of a row is
//! answered, the leader's ping after the first one, and what the follower said to it, have reached
//! the leader before the `sync` of the third, because each link keeps its order: the leader has
//! counted the session as alive at a moment not before the first was sent.
//!
//! A row is of one connection. On another one, another server may answer, and one that was stopped
//! for a while and believes itself the leader would too, for up to a tick: three heartbeats of a new
//! row take longer.

use std::{collections::VecDeque, time::Duration};

use tenure_core::clock::Instant;

/// The heartbeats of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    gap: Duration,
    /// When those were sent that were answered and have not proved anything yet; two at most.
    sent: VecDeque<Instant>,
    /// When the latest was answered.
    answered: Option<Instant>,
}

impl Chain {
    /// A row that has not begun, for servers with this tick.
    pub(crate) fn new(tick: Duration) -> Self {
        Self {
            gap: tick * 6 / 10,
            sent: VecDeque::with_capacity(3),
            answered: None,
        }
    }

    /// When the next heartbeat may be sent; `None`: at once.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.answered.map(|answered| answered + self.gap)
    }

    /// A heartbeat that was sent then was answered now. Returns from when on the session is proved
    /// to live, if this proves anything.
    pub(crate) fn answered(&mut self, sent: Instant, now: Instant) -> Option<Instant> {
        if self.earliest().is_some_and(|earliest| sent < earliest) {
            // Too early: the leader may not have asked in between. It counts for nothing.
            return None;
        }
        self.answered = Some(now);
        self.sent.push_back(sent);
        if self.sent.len() < 3 {
            return None;
        }
        self.sent.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn d1_the_third_answer_in_a_row_proves_the_first_sending() {
        let mut chain = Chain::new(TICK);
        assert_eq!(chain.earliest(), None);
        assert_eq!(chain.answered(at(0), at(5)), None);
        assert_eq!(chain.earliest(), Some(at(65)));
        assert_eq!(chain.answered(at(65), at(70)), None);
        assert_eq!(chain.answered(at(130), at(135)), Some(at(0)));
        assert_eq!(chain.answered(at(200), at(900)), Some(at(65)));
        assert_eq!(chain.answered(at(960), at(961)), Some(at(130)));
    }

    #[test]
    fn d2_a_heartbeat_too_early_counts_for_nothing() {
        let mut chain = Chain::new(TICK);
        assert_eq!(chain.answered(at(0), at(5)), None);
        for sent in [6, 30, 64] {
            assert_eq!(chain.answered(at(sent), at(sent)), None);
        }
        assert_eq!(chain.answered(at(65), at(66)), None);
        assert_eq!(chain.answered(at(125), at(125)), None);
        assert_eq!(chain.answered(at(126), at(126)), Some(at(0)));
    }

    /// The servers as the rule sees them: a follower that the leader asks every half tick, at any
    /// phase, over links that keep their order and delay as they like, and that is cut off at some
    /// moment. What is proved must have been counted by the leader.
    #[test]
    fn x1_what_is_proved_was_counted_by_the_leader() {
        let random = fastrand::Rng::with_seed(4);
        let mut random = random;
        let mut proved = 0;
        for _ in 0..3000 {
            let mut chain = Chain::new(TICK);
            let phase = random.u64(0..50);
            // To the leader and back; constant per run, which keeps the order.
            let (up, down) = (random.u64(0..40), random.u64(0..40));
            let cut = random.u64(0..800);
            let mut touched = Vec::new();
            // The latest touch that the leader counts, by when it has reached it.
            let counted_at = |touched: &[u64], limit: u64| {
                let pings = (0..).map(|n| phase + 50 * n);
                pings
                    .take_while(|ping| ping + down + up <= limit && ping + down < cut)
                    .filter_map(|ping| touched.iter().copied().filter(|t| *t <= ping + down).max())
                    .max()
            };
            let mut now = random.u64(0..60);
            for _ in 0..8 {
                let sent = now;
                touched.push(sent);
                if sent >= cut {
                    break;
                }
                let at_leader = sent + up;
                now = at_leader + down;
                if let Some(from) = chain.answered(at(sent), at(now)) {
                    proved += 1;
                    let from = u64::try_from(from.since_origin().as_millis()).unwrap();
                    let counted = counted_at(&touched, at_leader);
                    assert!(counted >= Some(from), "{from} {counted:?} {touched:?}");
                }
                now += 60 + random.u64(0..20);
            }
        }
        assert!(proved > 3000, "{proved}");
    }
}
