//! Faults above a driver, for stores without a network.

use std::time::Duration;

use super::{Fault, Line};
use crate::wrap::{Fate, Op, Plan};

/// Requests that are refused are lost, and those into a black hole hang; there are no connections that
/// could be reset.
impl Line for Plan {
    fn set(&self, fault: Fault) {
        let (fate, muted) = match fault {
            Fault::None => (Fate::Pass, false),
            Fault::Refuse => (Fate::LoseRequest, true),
            Fault::BlackHole => (Fate::Hang, true),
            Fault::HoldRequests => (Fate::Hang, false),
            Fault::HoldReplies => (Fate::HangReply, true),
            Fault::LoseReplies => (Fate::LoseReply, false),
            // A driver reads the clock after whatever comes before it.
            Fault::Delay(delay) => (
                Fate::Delay {
                    before: Duration::ZERO,
                    after: delay * 2,
                },
                false,
            ),
        };
        self.mute(muted);
        for op in [Op::Enqueue, Op::Renew, Op::Remove, Op::Look] {
            Self::set(self, op, fate);
        }
    }

    fn reset(&self) {}

    fn effects(&self) -> u64 {
        self.disturbed()
    }
}
