//! Faults above a driver, for stores without a network.

use std::time::Duration;

use super::{Fault, Line};
use crate::wrap::{Fate, Op, Plan};

/// Requests into a black hole hang. There are no connections to reset.
impl Line for Plan {
    fn set(&self, fault: Fault) {
        let (fate, muted) = match fault {
            Fault::None => (Fate::Pass, false),
            Fault::Refuse => (Fate::Refuse, true),
            Fault::BlackHole => (Fate::Hang, true),
            Fault::HoldRequests => (Fate::Hang, false),
            Fault::HoldReplies => (Fate::HangReply, true),
            Fault::LoseReplies => (Fate::LoseReply, false),
            // A driver reads the clock after a delay of its request, so that the delay of the reply counts.
            Fault::Delay(delay) => (
                Fate::Delay {
                    before: Duration::ZERO,
                    after: delay * 2,
                },
                false,
            ),
        };
        self.mute(muted);
        for op in Op::ALL {
            Self::set(self, op, fate);
        }
    }

    fn reset(&self) {}

    fn effects(&self) -> u64 {
        self.disturbed()
    }
}
