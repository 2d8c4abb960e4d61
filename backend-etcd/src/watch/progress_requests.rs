//! Whether the stream is alive: when to request progress, and when the reply is overdue.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::Instant};

/// How often the stream has to show that it is alive while a waiter depends on it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How many progress requests may be in flight. The reply to the first may be older than a later
/// caller's request; the reply to the one behind it is not.
const MAX_IN_FLIGHT: usize = 2;

/// A progress request that was sent.
struct InFlightRequest {
    id: u64,
    sent: Instant,
    waiters: Vec<oneshot::Sender<()>>,
}

/// The unanswered progress requests of one stream.
pub(super) struct ProgressRequests {
    in_flight: VecDeque<InFlightRequest>,
    /// When the stream last sent a reply of any kind.
    last_reply: Instant,
}

impl ProgressRequests {
    /// For a stream that was opened now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: VecDeque::new(),
            last_reply: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Records that the stream sent a reply.
    pub(super) fn on_reply(&mut self, now: Instant) {
        self.last_reply = now;
    }

    /// Records that a progress request was sent with this id.
    pub(super) fn send(&mut self, id: u64, now: Instant, waiters: Vec<oneshot::Sender<()>>) {
        self.in_flight.push_back(InFlightRequest {
            id,
            sent: now,
            waiters,
        });
    }

    /// Adds a waiter to the last request. Returns the waiter if another request has to be sent for
    /// it.
    pub(super) fn join_last(&mut self, waiter: oneshot::Sender<()>) -> Option<oneshot::Sender<()>> {
        let full = self.in_flight.len() >= MAX_IN_FLIGHT;
        match self.in_flight.back_mut().filter(|_| full) {
            Some(last) => last.waiters.push(waiter),
            None => return Some(waiter),
        }
        None
    }

    /// Whether a reply with this id answers a progress request. It also answers all earlier ones.
    pub(super) fn complete(&mut self, id: u64) -> bool {
        let Some(at) = self.in_flight.iter().position(|request| request.id == id) else {
            return false;
        };
        for waiter in self
            .in_flight
            .drain(..=at)
            .flat_map(|request| request.waiters)
        {
            // The waiter may have been dropped.
            let _: Result<(), ()> = waiter.send(());
        }
        true
    }

    /// When a reply is overdue, or the next request is due. Only replies move this time; requests
    /// sent in the meantime must not postpone it.
    pub(super) fn deadline(
        &self,
        watched_since: Option<Instant>,
        timeout: Duration,
    ) -> Option<Instant> {
        match self.in_flight.front() {
            // The replies to thousands of watches may come first; they show that the stream is
            // alive as well.
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
    fn w2_progress_is_requested_after_one_second_of_silence() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut requests = ProgressRequests::new(begun);
        assert_eq!(
            requests.deadline(None, TIMEOUT),
            None,
            "no waiter depends on the stream"
        );
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
    fn d2_progress_reply_reaches_only_callers_before_its_request() {
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
        assert!(
            !requests.complete(3),
            "the third caller joined the second request"
        );
        assert!(requests.complete(2));
        let replied = asked.each_mut().map(|replied| replied.try_recv().is_ok());
        assert_eq!(replied, [false, true, true]);
    }
}
