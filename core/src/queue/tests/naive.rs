//! An independent model of the queue, written from the contract: one list that is normalized before
//! and after every event.

use super::*;

#[derive(Clone, Debug)]
struct Row {
    who: u128,
    ttl: u64,
    seen: (ClockId, u64),
    beat: u64,
    token: u64,
    mode: Mode,
}

#[derive(Default)]
pub(super) struct Naive {
    rows: Vec<Row>,
    high: u64,
    fences: BTreeMap<u128, (ClockId, u64, u64, u64)>,
    last_ended: Option<(u128, &'static str)>,
}

/// Whether an entry of this mode may hold the lock beside all those ahead.
fn fits(ahead: &[Row], mode: Mode) -> bool {
    let taken = |of| {
        let permits = ahead.iter().map(|row| match row.mode {
            Mode::Permits { take, of: other } if other == of => Some(u64::from(take)),
            _ => None,
        });
        permits.sum::<Option<u64>>()
    };
    // Nobody ahead may wait.
    ahead.iter().all(|row| row.token > 0)
        && match mode {
            Mode::Exclusive => ahead.is_empty(),
            Mode::Shared => ahead.iter().all(|row| row.mode == Mode::Shared),
            Mode::Permits { take, of } => {
                taken(of).is_some_and(|taken| taken + u64::from(take) <= u64::from(of))
            }
        }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap()
}

impl Naive {
    pub(super) fn rows(&self) -> Vec<(u128, u64)> {
        self.rows.iter().map(|row| (row.who, row.token)).collect()
    }

    fn tidy(&mut self, now: &Now, told: &mut Vec<String>) {
        let dead = |row: &Row| {
            row.seen.0 == now.stamp.clock && row.seen.1 + row.ttl <= micros(now.stamp.at)
        };
        let mut at = 0;
        while at < self.rows.len()
            && !self.rows[..at]
                .iter()
                .any(|row| row.mode == Mode::Exclusive)
        {
            let row = self.rows[at].clone();
            if dead(&row) {
                self.drop_row(row.who, "expired", told);
                continue;
            }
            if row.token == 0 {
                if !fits(&self.rows[..at], row.mode) {
                    break;
                }
                self.high = (self.high + 1).max(now.token_floor);
                self.rows[at].token = self.high;
                told.push(format!(
                    "{} granted {} above {}",
                    row.who, self.high, self.rows[0].token
                ));
            }
            at += 1;
        }
    }

    fn drop_row(&mut self, who: u128, why: &'static str, told: &mut Vec<String>) -> Option<bool> {
        let at = self.rows.iter().position(|row| row.who == who)?;
        let held = self.rows.remove(at).token > 0;
        if held {
            self.last_ended = Some((who, why));
            if why != "released" {
                told.push(format!("{who} lost {why}"));
            }
        }
        Some(held)
    }

    fn gone(&self, who: u128) -> String {
        let why = match self.last_ended {
            Some((ended, "expired")) if ended == who => "expired",
            Some((ended, _)) if ended == who => "evicted",
            _ if self.rows.is_empty() => "evicted",
            _ if self.rows[0].mode == Mode::Exclusive => "displaced",
            _ => "expired",
        };
        format!("gone {why}")
    }

    fn touch(&mut self, who: u128, now: &Now, told: &mut Vec<String>) -> String {
        let at = micros(now.stamp.at);
        let Some(row) = self.rows.iter_mut().find(|row| row.who == who) else {
            return self.gone(who);
        };
        if row.seen.0 == now.stamp.clock && row.seen.1 + row.ttl <= at {
            self.drop_row(who, "expired", told);
            return "gone expired".to_owned();
        }
        row.seen = (now.stamp.clock, at);
        row.beat += 1;
        self.place(who)
    }

    fn place(&self, who: u128) -> String {
        let at = self.rows.iter().position(|row| row.who == who).unwrap();
        match self.rows[at].token {
            0 => format!("waiting {at}"),
            token => format!("granted {token} above {}", self.rows[0].token),
        }
    }

    pub(super) fn on(&mut self, event: &Event, now: &Now) -> (String, Vec<String>) {
        let mut told = Vec::new();
        let (wall, at, clock) = (now.wall_us, micros(now.stamp.at), now.stamp.clock);
        self.fences.retain(|_, (by, since, wall_since, ttl)| {
            if *by == clock {
                at < *since + *ttl
            } else {
                wall < *wall_since + *ttl
            }
        });
        self.tidy(now, &mut told);
        let ended = |held| match held {
            None => None,
            Some(true) => Some("removed holder".to_owned()),
            Some(false) => Some("removed waiter".to_owned()),
        };
        let answer = match event {
            Event::Enqueue {
                attempt,
                ttl,
                wait,
                mode,
                ..
            } => {
                let who = attempt.as_u128();
                if self.fences.contains_key(&who) {
                    "gone evicted".to_owned()
                } else if self.rows.iter().any(|row| row.who == who) {
                    self.touch(who, now, &mut told)
                } else if *wait || fits(&self.rows, *mode) {
                    let ttl = micros(*ttl);
                    self.rows.push(Row {
                        who,
                        ttl,
                        seen: (clock, at),
                        beat: 0,
                        token: 0,
                        mode: *mode,
                    });
                    // The sender learns of its own grant from the answer.
                    self.tidy(now, &mut Vec::new());
                    self.place(who)
                } else {
                    "busy".to_owned()
                }
            }
            Event::Renew { attempt } => self.touch(attempt.as_u128(), now, &mut told),
            Event::Remove { attempt, fence } => {
                let who = attempt.as_u128();
                if let Some(ttl) = fence {
                    self.fences.insert(who, (clock, at, wall, micros(*ttl)));
                }
                let held = self.drop_row(who, "released", &mut told);
                ended(held).unwrap_or_else(|| self.gone(who))
            }
            Event::Evict { token } => {
                let hit = self.rows.iter().find(|row| row.token == token.get());
                let hit = hit.filter(|row| row.token > 0).cloned();
                hit.map_or_else(
                    || "nothing".to_owned(),
                    |row| {
                        self.drop_row(row.who, "evicted", &mut told);
                        "evicted".to_owned()
                    },
                )
            }
            Event::Downgrade { attempt, token } => {
                let who = attempt.as_u128();
                match self.rows.iter_mut().find(|row| row.who == who) {
                    None => self.gone(who),
                    Some(row) if row.token == 0 || row.token != token.get() => "nothing".to_owned(),
                    Some(row) => {
                        if row.mode == Mode::Exclusive {
                            row.mode = Mode::Shared;
                        }
                        self.place(who)
                    }
                }
            }
            Event::Adopt { attempt, beat } => {
                let who = attempt.as_u128();
                let adopted =
                    |row: &&mut Row| row.who == who && row.beat == *beat && row.seen.0 != clock;
                if let Some(row) = self.rows.iter_mut().find(adopted) {
                    row.seen = (clock, at);
                }
                "nothing".to_owned()
            }
            Event::Lapsed { attempt, beat } => {
                let who = attempt.as_u128();
                let unchanged = self
                    .rows
                    .iter()
                    .any(|row| row.who == who && row.beat == *beat);
                let held = if unchanged {
                    self.drop_row(who, "expired", &mut told)
                } else {
                    None
                };
                ended(held).unwrap_or_else(|| "nothing".to_owned())
            }
        };
        self.tidy(now, &mut told);
        (answer, told)
    }
}

pub(super) fn rows_of(queue: &Queue) -> Vec<(u128, u64)> {
    let token = |entry: &Entry| entry.grant.map_or(0, |grant| grant.token.get());
    let rows = queue
        .entries()
        .map(|entry| (entry.attempt.as_u128(), token(entry)));
    rows.collect()
}

pub(super) fn show(answer: &Answer) -> String {
    match answer {
        Answer::Busy => "busy".to_owned(),
        Answer::Evicted => "evicted".to_owned(),
        Answer::Gone(reason) => format!("gone {}", reason.as_str()),
        Answer::Granted { token, floor } => format!("granted {token} above {floor}"),
        Answer::Nothing => "nothing".to_owned(),
        Answer::RemovedHolder => "removed holder".to_owned(),
        Answer::RemovedWaiter => "removed waiter".to_owned(),
        Answer::Waiting { ahead } => format!("waiting {ahead}"),
    }
}

pub(super) fn show_notice(notice: &Notice) -> String {
    let who = notice.attempt.as_u128();
    match notice.kind {
        NoticeKind::Granted { token, floor, .. } => format!("{who} granted {token} above {floor}"),
        NoticeKind::Lost(reason) => format!("{who} lost {}", reason.as_str()),
    }
}
