//! The proof that a session lives: a chain of heartbeats. No I/O.
//!
//! An answer from a server alone proves nothing. A follower answers reads and pings by itself until
//! it notices that it lost the leader. A follower reports live sessions to the leader only in its
//! answers to the leader's pings, every half tick, and the leader alone decides when a session
//! ends. So each heartbeat is a `sync`, which goes through the leader, and a read after it, and the
//! next heartbeat is sent at least 0.6 ticks after the answer to the one before. When the third of
//! a chain is answered, the leader has pinged the follower after the first one. The follower's
//! answer to that ping reached the leader before the `sync` of the third, because every connection
//! keeps its order. So the leader has counted the session as alive at a moment not before the first
//! heartbeat was sent.
//!
//! The handshake that resumes a session counts as the first of a chain: the leader has validated the session
//! by then, and counted it as alive.
//!
//! A chain belongs to one connection. On another connection another server may answer, and a server
//! that was stopped and still believes itself the leader answers too, for up to a tick: three
//! heartbeats of a new chain take longer.

use std::{collections::VecDeque, time::Duration};

use tenure_core::clock::Instant;

/// The chain of heartbeats of one connection.
#[derive(Clone, Debug)]
pub(crate) struct HeartbeatProof {
    gap: Duration,
    /// When the answered heartbeats that have proved nothing yet were sent; two at most.
    sent: VecDeque<Instant>,
    /// When the latest heartbeat was answered.
    answered: Option<Instant>,
}

impl HeartbeatProof {
    /// An empty chain, for servers with this tick.
    pub(crate) fn new(tick: Duration) -> Self {
        Self {
            gap: tick * 6 / 10,
            sent: VecDeque::with_capacity(3),
            answered: None,
        }
    }

    /// The earliest moment for the next heartbeat; `None`: now.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.answered.map(|answered| answered + self.gap)
    }

    /// Notes that the heartbeat sent at `sent` was answered at `now`. Returns the moment from which the
    /// session is proved to live, if this answer proves one.
    pub(crate) fn answered(&mut self, sent: Instant, now: Instant) -> Option<Instant> {
        if self.earliest().is_some_and(|earliest| sent < earliest) {
            // Too early: the leader may not have pinged in between. The answer does not count.
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
    fn d1_the_third_answer_proves_the_sending_of_the_first_heartbeat() {
        let mut chain = HeartbeatProof::new(TICK);
        assert_eq!(chain.earliest(), None);
        assert_eq!(chain.answered(at(0), at(5)), None);
        assert_eq!(chain.earliest(), Some(at(65)));
        assert_eq!(chain.answered(at(65), at(70)), None);
        assert_eq!(chain.answered(at(130), at(135)), Some(at(0)));
        assert_eq!(chain.answered(at(200), at(900)), Some(at(65)));
        assert_eq!(chain.answered(at(960), at(961)), Some(at(130)));
    }

    #[test]
    fn d2_a_heartbeat_that_is_sent_too_early_does_not_count() {
        let mut chain = HeartbeatProof::new(TICK);
        assert_eq!(chain.answered(at(0), at(5)), None);
        for sent in [6, 30, 64] {
            assert_eq!(chain.answered(at(sent), at(sent)), None);
        }
        assert_eq!(chain.answered(at(65), at(66)), None);
        assert_eq!(chain.answered(at(125), at(125)), None);
        assert_eq!(chain.answered(at(126), at(126)), Some(at(0)));
    }

    /// A model of the servers: the leader pings a follower every half tick, at any phase, over
    /// connections that keep their order and delay messages at random, until the follower is cut off.
    /// The leader must have counted whatever is proved.
    #[test]
    fn x1_the_leader_has_counted_what_is_proved() {
        let random = fastrand::Rng::with_seed(4);
        let mut random = random;
        let mut proved = 0;
        for _ in 0..3000 {
            let mut chain = HeartbeatProof::new(TICK);
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
