//! Whether the stream lives: when to ask it, and when it has been silent for too long.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::Instant};

/// How often the stream has to show that it lives while somebody waits on it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// So many pulses are under way at most. The answer to the first may be of before somebody asked; the
/// one behind it is not.
const MAX_IN_FLIGHT: usize = 2;

/// A pulse that was sent.
struct InFlightRequest {
    id: u64,
    sent: Instant,
    waiters: Vec<oneshot::Sender<()>>,
}

/// The pulses of one stream that are not answered yet.
pub(super) struct ProgressRequests {
    in_flight: VecDeque<InFlightRequest>,
    /// When the stream has answered last, whatever it was.
    last_reply: Instant,
}

impl ProgressRequests {
    /// Those of a stream that was opened now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: VecDeque::new(),
            last_reply: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The stream has answered something.
    pub(super) fn on_reply(&mut self, now: Instant) {
        self.last_reply = now;
    }

    /// A pulse is sent under that number.
    pub(super) fn send(&mut self, id: u64, now: Instant, waiters: Vec<oneshot::Sender<()>>) {
        self.in_flight.push_back(InFlightRequest {
            id,
            sent: now,
            waiters,
        });
    }

    /// Tells somebody of the last pulse; gives it back if another one has to be sent for it.
    pub(super) fn join_last(&mut self, waiter: oneshot::Sender<()>) -> Option<oneshot::Sender<()>> {
        let full = self.in_flight.len() >= MAX_IN_FLIGHT;
        match self.in_flight.back_mut().filter(|_| full) {
            Some(last) => last.waiters.push(waiter),
            None => return Some(waiter),
        }
        None
    }

    /// Whether that was the answer to a pulse. It answers those before it too.
    pub(super) fn complete(&mut self, id: u64) -> bool {
        let Some(at) = self.in_flight.iter().position(|request| request.id == id) else {
            return false;
        };
        for waiter in self
            .in_flight
            .drain(..=at)
            .flat_map(|request| request.waiters)
        {
            // Whoever asked may have gone.
            let _: Result<(), ()> = waiter.send(());
        }
        true
    }

    /// When a pulse is overdue, or another one due. It moves with what is heard alone: what is asked of
    /// the stream meanwhile must not put it off.
    pub(super) fn deadline(
        &self,
        watched_since: Option<Instant>,
        timeout: Duration,
    ) -> Option<Instant> {
        match self.in_flight.front() {
            // Thousands of watches may be in front of it, and their answers show as much.
            Some(request) => Some(request.sent.max(self.last_reply) + timeout),
            None => watched_since.map(|since| since.max(self.last_reply) + PROGRESS_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    #[test]
    fn w2_it_is_asked_a_second_after_it_was_heard_and_given_up_when_silent() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut requests = ProgressRequests::new(begun);
        assert_eq!(requests.deadline(None, TIMEOUT), None, "nobody waits");
        assert_eq!(requests.deadline(Some(begun), TIMEOUT), Some(at(1_000)));
        assert_eq!(requests.deadline(Some(at(500)), TIMEOUT), Some(at(1_500)));
        requests.on_reply(at(700));
        assert_eq!(requests.deadline(Some(begun), TIMEOUT), Some(at(1_700)));
        requests.send(1, at(1_700), Vec::new());
        assert_eq!(requests.deadline(Some(begun), TIMEOUT), Some(at(4_700)));
        requests.on_reply(at(2_000));
        assert_eq!(requests.deadline(None, TIMEOUT), Some(at(5_000)));
        assert!(requests.complete(1) && !requests.complete(1) && requests.is_empty());
    }

    #[test]
    fn d2_an_answer_is_told_to_those_who_asked_before_its_pulse_was_sent() {
        let now = Instant::now();
        let mut requests = ProgressRequests::new(now);
        let ask = |requests: &mut ProgressRequests, id| {
            let (waiter, replied) = oneshot::channel();
            if let Some(waiter) = requests.join_last(waiter) {
                requests.send(id, now, vec![waiter]);
            }
            replied
        };
        let mut asked = [1, 2, 3].map(|id| ask(&mut requests, id));
        assert!(requests.complete(1));
        let replied = asked.each_mut().map(|replied| replied.try_recv().is_ok());
        assert_eq!(replied, [true, false, false]);
        assert!(!requests.complete(3), "it went with the second");
        assert!(requests.complete(2));
        let replied = asked.each_mut().map(|replied| replied.try_recv().is_ok());
        assert_eq!(replied, [false, true, true]);
    }
}
