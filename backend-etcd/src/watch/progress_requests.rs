//! Whether the stream lives: when to ask it, and when it has been silent for too long.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::Instant};

/// How often the stream has to show that it lives while somebody waits on it.
const PULSE: Duration = Duration::from_secs(1);

/// So many pulses are under way at most. The answer to the first may be of before somebody asked; the
/// one behind it is not.
const MOST: usize = 2;

/// A pulse that was sent.
struct KeepAliveReply {
    number: u64,
    sent: Instant,
    tell: Vec<oneshot::Sender<()>>,
}

/// The pulses of one stream that are not answered yet.
pub(super) struct Pulses {
    beats: VecDeque<KeepAliveReply>,
    /// When the stream has answered last, whatever it was.
    heard: Instant,
}

impl Pulses {
    /// Those of a stream that was opened now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            beats: VecDeque::new(),
            heard: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.beats.is_empty()
    }

    /// The stream has answered something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A pulse is sent under that number.
    pub(super) fn send(&mut self, number: u64, now: Instant, tell: Vec<oneshot::Sender<()>>) {
        self.beats.push_back(KeepAliveReply {
            number,
            sent: now,
            tell,
        });
    }

    /// Tells somebody of the last pulse; gives it back if another one has to be sent for it.
    pub(super) fn join(&mut self, tell: oneshot::Sender<()>) -> Option<oneshot::Sender<()>> {
        let full = self.beats.len() >= MOST;
        match self.beats.back_mut().filter(|_| full) {
            Some(last) => last.tell.push(tell),
            None => return Some(tell),
        }
        None
    }

    /// Whether that was the answer to a pulse. It answers those before it too.
    pub(super) fn answered(&mut self, number: u64) -> bool {
        let Some(at) = self.beats.iter().position(|beat| beat.number == number) else {
            return false;
        };
        for tell in self.beats.drain(..=at).flat_map(|beat| beat.tell) {
            // Whoever asked may have gone.
            let _: Result<(), ()> = tell.send(());
        }
        true
    }

    /// When a pulse is overdue, or another one due. It moves with what is heard alone: what is asked of
    /// the stream meanwhile must not put it off.
    pub(super) fn ring(
        &self,
        waited_for_since: Option<Instant>,
        patience: Duration,
    ) -> Option<Instant> {
        match self.beats.front() {
            // Thousands of watches may be in front of it, and their answers show as much.
            Some(beat) => Some(beat.sent.max(self.heard) + patience),
            None => waited_for_since.map(|since| since.max(self.heard) + PULSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[test]
    fn w2_it_is_asked_a_second_after_it_was_heard_and_given_up_when_silent() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut pulses = Pulses::new(begun);
        assert_eq!(pulses.ring(None, PATIENCE), None, "nobody waits");
        assert_eq!(pulses.ring(Some(begun), PATIENCE), Some(at(1_000)));
        assert_eq!(pulses.ring(Some(at(500)), PATIENCE), Some(at(1_500)));
        pulses.heard(at(700));
        assert_eq!(pulses.ring(Some(begun), PATIENCE), Some(at(1_700)));
        pulses.send(1, at(1_700), Vec::new());
        assert_eq!(pulses.ring(Some(begun), PATIENCE), Some(at(4_700)));
        pulses.heard(at(2_000));
        assert_eq!(pulses.ring(None, PATIENCE), Some(at(5_000)));
        assert!(pulses.answered(1) && !pulses.answered(1) && pulses.is_empty());
    }

    #[test]
    fn d2_an_answer_is_told_to_those_who_asked_before_its_pulse_was_sent() {
        let now = Instant::now();
        let mut pulses = Pulses::new(now);
        let ask = |pulses: &mut Pulses, number| {
            let (tell, told) = oneshot::channel();
            if let Some(tell) = pulses.join(tell) {
                pulses.send(number, now, vec![tell]);
            }
            told
        };
        let mut asked = [1, 2, 3].map(|number| ask(&mut pulses, number));
        assert!(pulses.answered(1));
        let told = asked.each_mut().map(|told| told.try_recv().is_ok());
        assert_eq!(told, [true, false, false]);
        assert!(!pulses.answered(3), "it went with the second");
        assert!(pulses.answered(2));
        let told = asked.each_mut().map(|told| told.try_recv().is_ok());
        assert_eq!(told, [false, true, true]);
    }
}
