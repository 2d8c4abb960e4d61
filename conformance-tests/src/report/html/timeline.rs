//! The drawing of a history: a lane for each worker with its grants, and the faults as bands behind them.

use std::fmt::Write as _;

use super::escape;
use crate::history::{Ending, Fault, History, Tenancy, Wait};

/// The width of a strip without the names of the lanes.
const WIDTH: f64 = 1_000.0;
const NAMES: f64 = 84.0;
const LANE: f64 = 30.0;
const AXIS: f64 = 22.0;
const TENTH_US: u64 = 100_000;
/// The shortest duration of a strip. Strips are longer if there would be more than [`MAX_STRIPS`].
const MIN_STRIP_US: u64 = 1_000_000;
const MAX_STRIPS: u64 = 8;
/// The maximum number of rows with names of faults.
const MAX_FAULT_ROWS: usize = 4;
const FAULT_ROW: f64 = 16.0;
/// The minimum width of a grant with a visible token.
const MIN_LABEL_WIDTH: f64 = 34.0;
/// The number of colours of locks. Further locks repeat the colours; the title contains the name.
const COLOURS: usize = 6;

/// The data of all strips.
struct Drawing<'a> {
    history: &'a History,
    workers: Vec<u32>,
    locks: Vec<&'a str>,
}

/// Draws the history into the page.
pub(super) fn draw(page: &mut String, number: usize, history: &History) {
    let mut workers: Vec<u32> = history.grants.iter().map(|grant| grant.worker).collect();
    workers.extend(history.waits.iter().map(|wait| wait.worker));
    workers.sort_unstable();
    workers.dedup();
    let mut locks: Vec<&str> = history
        .grants
        .iter()
        .map(|grant| grant.lock.as_str())
        .collect();
    locks.extend(history.waits.iter().map(|wait| wait.lock.as_str()));
    locks.sort_unstable();
    locks.dedup();
    if workers.is_empty() {
        return;
    }
    let drawing = Drawing {
        history,
        workers,
        locks,
    };
    let end = drawing.end();
    // All strips have the same length in tenths of a second, so that no strip is almost empty.
    let strips = end.div_ceil(MIN_STRIP_US).clamp(1, MAX_STRIPS);
    let strip = end.div_ceil(strips).next_multiple_of(TENTH_US);
    let _ = writeln!(
        page,
        "<h3 id=\"t{number}\">Grants by worker</h3>\n<p class=\"legend\">{} workers, {} s. Each worker has a lane. A filled span is a \
         grant, from the first to the last check of its guard that reported it as held, with the last digits \
         of its token. The line before it is the wait.",
        drawing.workers.len(),
        seconds(end, 1),
    );
    for (index, lock) in drawing.locks.iter().enumerate() {
        let _ = write!(
            page,
            " <span class=\"key k{}\">{}</span>",
            index % COLOURS,
            escape(lock)
        );
    }
    if !history.faults.is_empty() {
        page.push_str(" <span class=\"key fault\">a fault</span>");
    }
    page.push_str("</p>\n");
    let mut from = 0;
    while from < end {
        drawing.strip(page, from, from + strip);
        from += strip;
    }
    faults(page, &history.faults);
}

fn faults(page: &mut String, faults: &[Fault]) {
    if faults.is_empty() {
        return;
    }
    page.push_str("<h4>Faults</h4>\n<ul class=\"faults\">\n");
    for fault in faults {
        let _ = writeln!(
            page,
            "<li>{} to {} s: {}</li>",
            seconds(fault.from, 3),
            seconds(fault.until, 3),
            escape(&fault.what)
        );
    }
    page.push_str("</ul>\n");
}

fn seconds(micros: u64, digits: usize) -> String {
    format!("{:.digits$}", micros as f64 / 1e6)
}

impl Drawing<'_> {
    fn end(&self) -> u64 {
        let grants = self.history.grants.iter().map(until);
        let waits = self.history.waits.iter().map(|wait| wait.ended);
        let faults = self.history.faults.iter().map(|fault| fault.until);
        grants.chain(waits).chain(faults).max().unwrap_or(0).max(1)
    }

    fn strip(&self, page: &mut String, from: u64, until: u64) {
        let faults: Vec<&Fault> = (self.history.faults.iter())
            .filter(|fault| fault.from < until && from < fault.until)
            .collect();
        let rows = faults.len().min(MAX_FAULT_ROWS);
        let top = rows as f64 * FAULT_ROW;
        let lanes = self.workers.len() as f64 * LANE;
        let height = top + lanes + AXIS;
        let _ = writeln!(
            page,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"timeline from {0} to {1} s\">\n\
             <svg class=\"timeline\" viewBox=\"0 0 {2} {height}\" role=\"img\" aria-label=\"holders of the locks \
             from {0} to {1} s\">",
            seconds(from, 1),
            seconds(until, 1),
            NAMES + WIDTH,
        );
        let x = |at: u64| {
            let at = at.clamp(from, until) - from;
            NAMES + at as f64 / (until - from) as f64 * WIDTH
        };
        for (row, fault) in faults.iter().enumerate() {
            let (left, right) = (x(fault.from), x(fault.until));
            let what = escape(&fault.what);
            let _ = writeln!(
                page,
                "<g class=\"band\"><title>{what}</title><rect x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" \
                 height=\"{:.1}\"/>",
                (right - left).max(2.0),
                top + lanes,
            );
            if row < MAX_FAULT_ROWS {
                // Near the right edge, the name ends at the end of the band.
                let (anchor, at) = if left > NAMES + WIDTH * 0.6 {
                    ("end", right - 4.0)
                } else {
                    ("start", left + 4.0)
                };
                let _ = write!(
                    page,
                    "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{what}</text>",
                    (row as f64 + 1.0) * FAULT_ROW - 4.0
                );
            }
            page.push_str("</g>\n");
        }
        for (lane, worker) in self.workers.iter().enumerate() {
            let y = top + lane as f64 * LANE;
            let _ = writeln!(
                page,
                "<g class=\"lane\" data-worker=\"{worker}\"><text class=\"name\" x=\"0\" y=\"{:.1}\">worker {worker}</text>\
                 <line class=\"base\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/>",
                y + LANE * 0.64,
                NAMES + WIDTH,
                y + LANE,
            );
            let seen = |begin: u64, end: u64| begin < until && from <= end;
            for wait in self
                .history
                .waits
                .iter()
                .filter(|wait| wait.worker == *worker)
            {
                if seen(wait.asked, wait.ended) {
                    self.wait(page, wait, y, &x);
                }
            }
            for grant in self
                .history
                .grants
                .iter()
                .filter(|grant| grant.worker == *worker)
            {
                if seen(grant.held_from, self::until(grant)) {
                    self.grant(page, grant, y, &x);
                }
            }
            page.push_str("</g>\n");
        }
        let step = (until - from) / 10;
        for tick in 0..=10 {
            let at = from + step * tick;
            let _ = writeln!(
                page,
                "<text class=\"tick\" x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"{3}\">{2} s</text>",
                x(at),
                height - 6.0,
                seconds(at, 2),
                match tick {
                    0 => "start",
                    10 => "end",
                    _ => "middle",
                }
            );
        }
        page.push_str("</svg>\n</div>\n");
    }

    fn colour(&self, lock: &str) -> usize {
        self.locks
            .iter()
            .position(|known| *known == lock)
            .unwrap_or(0)
            % COLOURS
    }

    fn wait(&self, page: &mut String, wait: &Wait, y: f64, x: &impl Fn(u64) -> f64) {
        let _ = writeln!(
            page,
            "<line class=\"wait k{}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{3:.1}\" y2=\"{3:.1}\"><title>waited for {4} from \
             {5} to {6} s: {7}</title></line>",
            self.colour(&wait.lock),
            x(wait.asked),
            x(wait.ended),
            y + LANE * 0.5,
            escape(&wait.lock),
            seconds(wait.asked, 3),
            seconds(wait.ended, 3),
            wait.token.map_or_else(
                || escape(wait.error.as_deref().unwrap_or("no grant")),
                |token| format!("granted token {token}")
            ),
        );
    }

    fn grant(&self, page: &mut String, grant: &Tenancy, y: f64, x: &impl Fn(u64) -> f64) {
        let (left, right) = (x(grant.held_from), x(grant.held_until));
        let width = (right - left).max(1.5);
        let (how, lost) = match &grant.ending {
            Ending::Released { held, .. } => (
                match held {
                    Some(true) => "released".to_owned(),
                    Some(false) => "released, but no longer held".to_owned(),
                    None => "released, with an unknown outcome".to_owned(),
                },
                None,
            ),
            Ending::Lost { told, reason, .. } => (format!("lost: {}", escape(reason)), Some(*told)),
            Ending::Open => ("held at the end of the run".to_owned(), None),
        };
        let _ = write!(
            page,
            "<g class=\"grant k{}\"><title>{} held by worker {} with token {} from {} to {} s, {how}</title>\
             <rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            self.colour(&grant.lock),
            escape(&grant.lock),
            grant.worker,
            grant.token,
            seconds(grant.held_from, 3),
            seconds(grant.held_until, 3),
            y + 5.0,
            LANE - 10.0,
        );
        if width >= MIN_LABEL_WIDTH {
            let _ = write!(
                page,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                left + width / 2.0,
                y + LANE * 0.64,
                short(grant.token)
            );
        }
        if let Some(told) = lost {
            let _ = write!(
                page,
                "<line class=\"lost\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
                x(told),
                y + 1.0,
                y + LANE - 1.0
            );
        }
        page.push_str("</g>\n");
    }
}

/// Returns the end of the drawing of a grant.
fn until(grant: &Tenancy) -> u64 {
    match &grant.ending {
        Ending::Lost { told, .. } => grant.held_until.max(*told),
        _ => grant.held_until,
    }
}

/// Returns the last digits of a token, which differ between grants.
fn short(token: u64) -> String {
    match token {
        0..100_000 => token.to_string(),
        _ => format!("…{:03}", token % 1_000),
    }
}
