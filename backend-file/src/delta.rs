//! The difference between two states of a lock, line by line.
//!
//! A state has one line for each entry of the queue, and most changes concern one of them. A delta
//! is a text of instructions: `=<first>,<count>` copies lines of the earlier state, and `+<count>`
//! is followed by that number of new lines.

/// Number of lines of the earlier state among which a line of the next one is searched. Lines that
/// left the queue are skipped within this distance.
const SEARCH_LINES: usize = 128;

/// Splits a text into lines with their line feeds; `None` if it is not UTF-8.
pub(crate) fn lines(text: &[u8]) -> Option<Vec<&str>> {
    // Searching a text for a line feed is faster than searching bytes.
    let text = std::str::from_utf8(text).ok()?;
    Some(text.split_inclusive('\n').collect())
}

/// Returns the delta that leads from one state to another, or `None` if it has more than `limit`
/// bytes.
pub(crate) fn diff(from: &[&str], to: &[&str], limit: usize) -> Option<Vec<u8>> {
    // The number of the last line that has no line feed could be read as part of the next line.
    if !to.last()?.ends_with('\n') {
        return None;
    }
    let mut delta = Delta::default();
    let mut position = 0;
    for line in to {
        let mut ahead = from[position..].iter().take(SEARCH_LINES);
        match ahead.position(|earlier| earlier == line) {
            Some(skipped) => {
                delta.copy(position + skipped);
                position += skipped + 1;
            }
            None => delta.new_line(line),
        }
        if delta.length() > limit {
            return None;
        }
    }
    let delta = delta.finish();
    (delta.len() <= limit).then_some(delta)
}

/// Applies a delta. Returns `None` if it is malformed or leads to more than `limit` bytes.
pub(crate) fn apply<'a>(from: &[&'a str], delta: &'a [u8], limit: usize) -> Option<Vec<&'a str>> {
    let mut to = Vec::with_capacity(from.len() + 1);
    let mut length = 0;
    let mut instructions = lines(delta)?.into_iter();
    while let Some(instruction) = instructions.next() {
        let text = instruction.strip_suffix('\n')?;
        let first_new = to.len();
        if let Some(range) = text.strip_prefix('=') {
            let (first, count) = range.split_once(',')?;
            let first: usize = first.parse().ok()?;
            let end = first.checked_add(count.parse().ok()?)?;
            to.extend_from_slice(from.get(first..end)?);
        } else {
            let count: usize = text.strip_prefix('+')?.parse().ok()?;
            to.extend(instructions.by_ref().take(count));
            if to.len() - first_new != count {
                return None;
            }
        }
        length += to[first_new..].iter().map(|line| line.len()).sum::<usize>();
        if length > limit {
            return None;
        }
    }
    Some(to)
}

/// A delta in the making, with the instruction that is not complete yet.
#[derive(Default)]
struct Delta<'a> {
    bytes: Vec<u8>,
    copied: std::ops::Range<usize>,
    new_lines: Vec<&'a str>,
    new_bytes: usize,
}

impl<'a> Delta<'a> {
    fn copy(&mut self, line: usize) {
        self.complete_new_lines();
        if self.copied.is_empty() || self.copied.end != line {
            self.complete_copy();
            self.copied = line..line;
        }
        self.copied.end = line + 1;
    }

    fn new_line(&mut self, line: &'a str) {
        self.complete_copy();
        self.new_lines.push(line);
        self.new_bytes += line.len();
    }

    const fn length(&self) -> usize {
        self.bytes.len() + self.new_bytes
    }

    fn finish(mut self) -> Vec<u8> {
        self.complete_copy();
        self.complete_new_lines();
        self.bytes
    }

    fn complete_copy(&mut self) {
        let copied = std::mem::take(&mut self.copied);
        if !copied.is_empty() {
            let instruction = format!("={},{}\n", copied.start, copied.len());
            self.bytes.extend_from_slice(instruction.as_bytes());
        }
    }

    fn complete_new_lines(&mut self) {
        if !self.new_lines.is_empty() {
            let instruction = format!("+{}\n", self.new_lines.len());
            self.bytes.extend_from_slice(instruction.as_bytes());
            for line in self.new_lines.drain(..) {
                self.bytes.extend_from_slice(line.as_bytes());
            }
            self.new_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn text(lines: &[u32]) -> String {
        lines.iter().map(|line| format!("line {line}\n")).collect()
    }

    fn changes(from: &str, to: &str, limit: usize) -> Option<Vec<u8>> {
        diff(&lines(from.as_bytes())?, &lines(to.as_bytes())?, limit)
    }

    fn applied(from: &str, delta: &[u8], limit: usize) -> Option<String> {
        apply(&lines(from.as_bytes())?, delta, limit).map(|lines| lines.concat())
    }

    #[test]
    fn a_change_of_one_line_is_short() {
        let before: Vec<u32> = (0..2000).collect();
        let mut joined = before.clone();
        joined[0] = 9999;
        joined.push(2000);
        let mut left = before.clone();
        left[0] = 9999;
        left.remove(1);
        let mut renewed = before.clone();
        renewed[1000] = 9999;
        for after in [joined, left, renewed] {
            let delta = changes(&text(&before), &text(&after), 60).unwrap();
            assert_eq!(applied(&text(&before), &delta, LIMIT), Some(text(&after)));
        }
        assert_eq!(changes(&text(&before), &text(&[7777; 100]), 60), None);
        assert_eq!(changes("a\n", "a\nb", LIMIT), None);
    }

    #[test]
    fn s2_malformed_deltas_are_rejected() {
        let from = text(&[1, 2, 3]);
        for delta in [
            "=0,4\n",
            "=3,1\n",
            "=18446744073709551615,1\n",
            "=0\n",
            "=0,1",
            "+2\nline 4\n",
            "+x\n",
            "line 1\n",
            "\u{fffd}\n",
        ] {
            assert_eq!(applied(&from, delta.as_bytes(), LIMIT), None, "{delta:?}");
        }
        let repeated = "=0,3\n".repeat(100);
        assert_eq!(applied(&from, repeated.as_bytes(), 1000), None);
        assert_eq!(applied(&from, b"=0,1\n\xff\n", LIMIT), None);
    }

    proptest! {
        #[test]
        fn every_delta_leads_to_the_next_state(
            from in proptest::collection::vec(0..20_u32, 0..60),
            to in proptest::collection::vec(0..20_u32, 0..60),
        ) {
            let (from, to) = (text(&from), text(&to));
            if let Some(delta) = changes(&from, &to, LIMIT) {
                prop_assert_eq!(applied(&from, &delta, LIMIT), Some(to));
            } else {
                prop_assert!(to.is_empty());
            }
        }

        #[test]
        fn s2_no_delta_causes_a_panic(delta in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = applied(&text(&[1, 2, 3]), &delta, LIMIT);
        }
    }
}
