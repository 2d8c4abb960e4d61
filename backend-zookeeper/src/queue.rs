//! Where an attempt stands in its queue, and the order of the contenders by the names of their
//! nodes. No I/O.
//!
//! A child of a lock's node whose name ends in a sequence number is a contender, whichever program
//! created it. The servers count with 32 bits and wrap below zero, so two numbers are compared by
//! their distance.

use std::{cmp::Ordering, sync::Arc};

use tenure_core::{
    clock::Instant,
    loss::LossReason,
    request::{Holder, StoreTime, Waiting},
};
use tokio::sync::oneshot;

/// Where an attempt stands.
#[derive(Debug)]
pub(crate) enum Position {
    /// Its node is being created, or exists and was not looked up in the queue yet.
    Unknown,
    Waiting(Box<Predecessor>),
    First,
    Gone(LossReason),
}

/// The contenders ahead of a waiter, as far as the waiter knows them.
#[derive(Debug)]
pub(crate) struct Predecessor {
    /// The nearest node ahead: when it goes and was the only one, it is the waiter's turn.
    pub(crate) next: Arc<Watch>,
    /// The second nearest node ahead. When it goes, the waiter reads the queue while the nearest one
    /// still holds the lock, and so needs no read when its own turn comes.
    pub(crate) second: Option<Arc<Watch>>,
    /// How many contenders are ahead.
    pub(crate) ahead: u64,
    pub(crate) holder: Option<Holder>,
    /// The zxid of the last change of the queue when it was read.
    pub(crate) as_of: i64,
}

/// A node that a waiter watches. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) node: Arc<str>,
    /// The number of the connection that it was set on.
    pub(crate) connection: u64,
    /// Closed once the watch has fired.
    running: oneshot::Sender<()>,
}

impl Watch {
    /// A watch, and what its follower waits for beside the watch's event.
    pub(crate) fn new(node: Arc<str>, connection: u64) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (running, dropped) = oneshot::channel();
        let watch = Self {
            node,
            connection,
            running,
        };
        (Arc::new(watch), dropped)
    }

    /// Whether the watch has fired: its event was handled, or is about to be.
    pub(crate) fn has_fired(&self) -> bool {
        self.running.is_closed()
    }
}

impl Predecessor {
    /// The watches of this waiter.
    pub(crate) fn watches(&self) -> impl Iterator<Item = &Arc<Watch>> {
        [&self.next].into_iter().chain(&self.second)
    }

    /// Whether a watch has fired.
    pub(crate) fn has_fired(&self) -> bool {
        self.watches().any(|watch| watch.has_fired())
    }
}

impl Position {
    /// The answer to a waiter; `None` if its node is not known, or gone. The first attempt is a waiter until
    /// its grant is proved. `czxid` is that of its node.
    pub(crate) fn waiting(&self, czxid: i64, from: Instant) -> Option<Waiting> {
        let time = |zxid: i64| StoreTime::new(u64::try_from(zxid).unwrap_or(0));
        match self {
            Self::Waiting(predecessor) => Some(
                Waiting::new(from, time(predecessor.as_of))
                    .with_holder(predecessor.holder.clone())
                    .with_ahead(predecessor.ahead),
            ),
            Self::First => Some(Waiting::new(from, time(czxid)).with_ahead(0)),
            Self::Unknown if czxid > 0 => Some(Waiting::new(from, time(czxid))),
            Self::Unknown | Self::Gone(_) => None,
        }
    }
}

/// Where a node stands among the contenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It is not among them.
    Missing,
    First,
    Behind {
        /// The nearest contender ahead.
        next: &'a str,
        /// The second nearest contender ahead.
        second: Option<&'a str>,
        /// The first contender.
        first: &'a str,
        /// How many contenders are ahead.
        ahead: u64,
    },
}

/// The sequence number at the end of a child's name. The servers write ten digits, or a sign and nine
/// or ten digits.
pub(crate) fn sequence(child: &str) -> Option<i32> {
    // The known recipes write these marks before the number; a sign after the mark is the number's.
    for mark in ["-lock-", "__lock__", "__rlock__", "__READ__", "__WRIT__"] {
        if let Some((_, number)) = child.rsplit_once(mark)
            && let Some(number) = number_of(number)
        {
            return Some(number);
        }
    }
    let tail = |length: usize| child.get(child.len().checked_sub(length)?..);
    // A dash before ten digits belongs to the name, unless the digits need it as their sign.
    tail(10)
        .and_then(number_of)
        .or_else(|| tail(11).and_then(number_of))
}

/// Reads a 32-bit number as `%010d` writes it.
fn number_of(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = (text.len() == 10 || (text.len() == 11 && digits.len() == 10))
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole { text.parse().ok() } else { None }
}

/// Which of two numbers was assigned first, if at most 2^31 lie between them.
const fn earlier(a: i32, b: i32) -> Ordering {
    let distance = a.wrapping_sub(b);
    if distance == 0 {
        Ordering::Equal
    } else if distance < 0 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

/// The contenders in queue order.
pub(crate) fn in_order(children: &[String]) -> Vec<&str> {
    let mut contenders: Vec<(i32, &str)> = children
        .iter()
        .filter_map(|child| Some((sequence(child)?, child.as_str())))
        .collect();
    // Distances order numbers only within half of the number range, so they are taken from one
    // contender.
    if let Some(&(pivot, _)) = contenders.first() {
        contenders.sort_by(|(a, left), (b, right)| {
            let (a, b) = (a.wrapping_sub(pivot), b.wrapping_sub(pivot));
            a.cmp(&b).then_with(|| left.cmp(right))
        });
    }
    contenders.into_iter().map(|(_, child)| child).collect()
}

/// Where the child `own` stands. One pass without sorting, because a queue may be long.
pub(crate) fn standing<'a>(children: &'a [String], own: &str) -> Standing<'a> {
    let Some(mine) = sequence(own).filter(|_| children.iter().any(|child| child == own)) else {
        return Standing::Missing;
    };
    let mut ahead = 0;
    let mut next: Option<(i32, &str)> = None;
    let mut second: Option<(i32, &str)> = None;
    let mut first: Option<(i32, &str)> = None;
    let before = |(a, left): (i32, &str), (b, right): (i32, &str)| {
        earlier(a, b).then_with(|| left.cmp(right)).is_lt()
    };
    for child in children {
        let Some(number) = sequence(child) else {
            continue;
        };
        let other = (number, child.as_str());
        if !before(other, (mine, own)) {
            continue;
        }
        ahead += 1;
        if next.is_none_or(|next| before(next, other)) {
            second = next.replace(other);
        } else if second.is_none_or(|second| before(second, other)) {
            second = Some(other);
        }
        if first.is_none_or(|first| before(other, first)) {
            first = Some(other);
        }
    }
    match (next, first) {
        (Some((_, next)), Some((_, first))) => Standing::Behind {
            next,
            second: second.map(|(_, second)| second),
            first,
            ahead,
        },
        _ => Standing::First,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn sequence_numbers_are_read_as_the_servers_write_them() {
        for (child, number) in [
            ("_c_x-lock-0000000007", Some(7)),
            ("_c_x-lock--000000001", Some(-1)),
            ("_c_x-lock-2147483647", Some(i32::MAX)),
            ("_c_x-lock--2147483648", Some(i32::MIN)),
            ("abc__lock__0000000012", Some(12)),
            ("abc__lock__-1000000000", Some(-1_000_000_000)),
            ("x-0000000003", Some(3)),
            ("x-2147483648", Some(i32::MIN)),
            ("0000000003", Some(3)),
            ("x000000003", None),
            ("lock", None),
            ("", None),
            ("é000000003", None),
            ("x-99999999999", None),
            ("+000000003", None),
        ] {
            assert_eq!(sequence(child), number, "{child}");
        }
    }

    #[test]
    fn w1_contenders_are_ordered_by_number_whichever_program_created_them() {
        let children = names(&[
            "z-lock-0000000001",
            "other",
            "a__lock__0000000003",
            "m-lock-0000000002",
        ]);
        assert_eq!(
            in_order(&children),
            [
                "z-lock-0000000001",
                "m-lock-0000000002",
                "a__lock__0000000003"
            ]
        );
        assert_eq!(standing(&children, "z-lock-0000000001"), Standing::First);
        assert_eq!(
            standing(&children, "a__lock__0000000003"),
            Standing::Behind {
                next: "m-lock-0000000002",
                second: Some("z-lock-0000000001"),
                first: "z-lock-0000000001",
                ahead: 2
            }
        );
        assert_eq!(standing(&children, "b-lock-0000000009"), Standing::Missing);
        assert_eq!(standing(&children, "other"), Standing::Missing);
    }

    #[test]
    fn w1_the_order_holds_where_numbers_wrap() {
        let children = names(&[
            "a-lock--2147483647",
            "a-lock-2147483646",
            "a-lock--2147483648",
            "a-lock-2147483647",
        ]);
        let ordered = [
            "a-lock-2147483646",
            "a-lock-2147483647",
            "a-lock--2147483648",
            "a-lock--2147483647",
        ];
        assert_eq!(in_order(&children), ordered);
        for (at, child) in ordered.iter().enumerate() {
            match standing(&children, child) {
                Standing::First => assert_eq!(at, 0),
                Standing::Behind {
                    next,
                    second,
                    first,
                    ahead,
                } => {
                    assert_eq!((next, first), (ordered[at - 1], ordered[0]));
                    assert_eq!(second, at.checked_sub(2).map(|second| ordered[second]));
                    assert_eq!(ahead, at as u64);
                }
                Standing::Missing => panic!("{child} is there"),
            }
        }
    }

    #[test]
    fn x1_of_two_contenders_with_one_number_one_is_first() {
        let children = names(&["b-0000000001", "a-0000000001"]);
        assert_eq!(standing(&children, "a-0000000001"), Standing::First);
        assert!(matches!(
            standing(&children, "b-0000000001"),
            Standing::Behind { .. }
        ));
    }
}
