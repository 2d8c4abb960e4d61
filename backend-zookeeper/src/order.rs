//! The order of the contenders by the names of their nodes, and which of them hold the lock. No I/O.
//!
//! A child of a lock's node whose name ends in a sequence number is a contender, whichever program
//! created it. The servers count with 32 bits and wrap below zero, so two numbers are compared by
//! their distance.
//!
//! A contender holds the lock if everything ahead of it together with it is compatible, which
//! [`Occupancy`] decides. So the holders are the first contenders of the queue. What is ahead of a
//! contender only becomes less: nodes are deleted, or a downgrade makes an exclusive one shared.
//! That has two consequences. A contender that holds the lock in a listing holds it for as long as
//! its node exists, however old the listing is. And a waiter needs to watch only nodes of which one
//! must go before its turn comes:
//!
//! - An exclusive waiter watches the nearest node ahead, and the second nearest one to be prepared.
//! - Another waiter goes back from its own place while the contenders are compatible with it and
//!   with each other. If the contender at which that ends excludes the waiter by itself, the waiter
//!   watches this one: a reader watches the nearest writer ahead.
//! - Otherwise there are too many permits between the two, this contender's included. Then if the
//!   waiter is the first one, it watches all these holders of permits; a release by any other holder
//!   would not free enough. If it is not the first waiter, it watches the waiter directly ahead,
//!   which writes a mark to its own node when it becomes a holder. So a release of permits wakes
//!   the waiters whose turn it is and the next one.

use std::cmp::Ordering;

use tenure_core::mode::{Mode, Occupancy};

use crate::keys::mode_of;

/// Where a node stands among the contenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It is not among them.
    Missing,
    /// It holds the lock.
    Admitted {
        /// The first contender, if that is another one.
        first: Option<&'a str>,
        /// Whether the contender directly behind may wait for the mark of this one.
        mark: bool,
    },
    Behind(Behind<'a>),
}

/// The contenders ahead of a waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Behind<'a> {
    /// The nodes to watch, the nearest first.
    pub(crate) watched: Vec<&'a str>,
    /// Whether the waiter waits for the mark of the watched node.
    pub(crate) awaits_mark: bool,
    /// The first contender.
    pub(crate) first: &'a str,
    /// How many contenders are ahead.
    pub(crate) ahead: u64,
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
pub(crate) fn number_of(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = (text.len() == 10 || (text.len() == 11 && digits.len() == 10))
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole { text.parse().ok() } else { None }
}

/// A contender: the distance of its number from that of a fixed contender, and its name. Distances order
/// numbers only within half of the number range, so they are taken from one contender.
type Contender<'a> = (i32, &'a str);

/// Which of two contenders is ahead. A downgrade in Curator leaves a writer and a reader with the same
/// number for a moment: the writer is ahead.
fn compare((a, left): Contender<'_>, (b, right): Contender<'_>) -> Ordering {
    let is_shared = |name| mode_of(name) == Mode::Shared;
    a.cmp(&b)
        .then_with(|| is_shared(left).cmp(&is_shared(right)))
        .then_with(|| left.cmp(right))
}

/// The contenders in queue order.
pub(crate) fn in_order(children: &[String]) -> Vec<&str> {
    let mut contenders: Vec<Contender<'_>> = children
        .iter()
        .filter_map(|child| Some((sequence(child)?, child.as_str())))
        .collect();
    if let Some(&(pivot, _)) = contenders.first() {
        for (number, _) in &mut contenders {
            *number = number.wrapping_sub(pivot);
        }
        contenders.sort_unstable_by(|left, right| compare(*left, *right));
    }
    contenders.into_iter().map(|(_, child)| child).collect()
}

/// How many of the contenders hold the lock: the first ones.
pub(crate) fn count_holders<'a>(ordered: impl IntoIterator<Item = &'a str>) -> usize {
    let mut occupancy = Occupancy::Free;
    let admitted = ordered.into_iter().take_while(|child| {
        let mode = mode_of(child);
        let admitted = occupancy.admits(mode);
        occupancy.add(mode);
        admitted
    });
    admitted.count()
}

/// Where the child `own` stands.
pub(crate) fn standing<'a>(children: &'a [String], own: &str) -> Standing<'a> {
    let Some(mine) = sequence(own).filter(|_| children.iter().any(|child| child == own)) else {
        return Standing::Missing;
    };
    let others = children.iter().filter_map(|child| {
        let distance = sequence(child)?.wrapping_sub(mine);
        (child != own).then_some((distance, child.as_str()))
    });
    match mode_of(own) {
        Mode::Exclusive => of_exclusive(others, (0, own)),
        mode => of_sharing(others, (0, own), mode),
    }
}

/// One pass without sorting, because a queue may be long.
fn of_exclusive<'a>(
    others: impl Iterator<Item = Contender<'a>>,
    own: Contender<'_>,
) -> Standing<'a> {
    let before = |left, right| compare(left, right).is_lt();
    let mut ahead = 0;
    let mut next: Option<Contender<'_>> = None;
    let mut second: Option<Contender<'_>> = None;
    let mut first: Option<Contender<'_>> = None;
    for other in others.filter(|other| before(*other, own)) {
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
        (Some((_, next)), Some((_, first))) => Standing::Behind(Behind {
            watched: [next]
                .into_iter()
                .chain(second.map(|(_, name)| name))
                .collect(),
            awaits_mark: false,
            first,
            ahead,
        }),
        _ => Standing::Admitted {
            first: None,
            mark: false,
        },
    }
}

fn of_sharing<'a>(
    others: impl Iterator<Item = Contender<'a>>,
    own: Contender<'_>,
    mode: Mode,
) -> Standing<'a> {
    let (mut ahead, mut next_behind) = (Vec::new(), None);
    for other in others {
        if compare(other, own).is_lt() {
            ahead.push(other);
        } else if next_behind.is_none_or(|next| compare(other, next).is_lt()) {
            next_behind = Some(other);
        }
    }
    ahead.sort_unstable_by(|left, right| compare(*left, *right));
    let ahead: Vec<(Mode, &str)> = ahead
        .into_iter()
        .map(|(_, name)| (mode_of(name), name))
        .collect();
    let first = ahead.first().map(|(_, name)| *name);
    let names = ahead.iter().map(|(_, name)| *name);
    let holders = count_holders(names.chain([own.1]));
    let mut own_alone = Occupancy::Free;
    own_alone.add(mode);
    let Some(first) = first.filter(|_| holders <= ahead.len()) else {
        // A waiter that this contender excludes by itself watches the end of its node.
        let mark = mode != Mode::Shared
            && next_behind.is_some_and(|(_, name)| own_alone.admits(mode_of(name)));
        return Standing::Admitted { first, mark };
    };
    // Going back from the own place: the nearest contender that is not compatible with those behind it.
    let mut occupancy = own_alone;
    let blocker = ahead.iter().rposition(|(other, _)| {
        let admitted = occupancy.admits(*other);
        occupancy.add(*other);
        !admitted
    });
    let blocker = blocker.unwrap_or(0);
    let excludes = |(other, _): &&(Mode, &str)| !own_alone.admits(*other);
    let (watched, awaits_mark) = if let Some((_, name)) = ahead.get(blocker).filter(excludes) {
        (vec![*name], false)
    } else if holders == ahead.len() {
        let holders = ahead.iter().skip(blocker).rev();
        (holders.map(|(_, name)| *name).collect(), false)
    } else {
        let nearest = ahead.last().map(|(_, name)| *name);
        (nearest.into_iter().collect(), true)
    };
    Standing::Behind(Behind {
        watched,
        awaits_mark,
        first,
        ahead: u64::try_from(ahead.len()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use tenure_core::id::AttemptId;

    use super::*;
    use crate::keys::node_prefix;

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
        assert_eq!(standing(&children, "z-lock-0000000001"), FIRST);
        assert_eq!(
            standing(&children, "a__lock__0000000003"),
            Standing::Behind(Behind {
                watched: vec!["m-lock-0000000002", "z-lock-0000000001"],
                awaits_mark: false,
                first: "z-lock-0000000001",
                ahead: 2
            })
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
                Standing::Admitted { .. } => assert_eq!(at, 0),
                Standing::Behind(behind) => {
                    let nearest: Vec<_> = ordered[..at].iter().rev().take(2).copied().collect();
                    assert_eq!((behind.watched, behind.first), (nearest, ordered[0]));
                    assert_eq!(behind.ahead, at as u64);
                }
                Standing::Missing => panic!("{child} is there"),
            }
        }
    }

    #[test]
    fn x1_of_two_contenders_with_one_number_one_is_first() {
        let children = names(&["b-0000000001", "a-0000000001"]);
        assert_eq!(standing(&children, "a-0000000001"), FIRST);
        assert!(matches!(
            standing(&children, "b-0000000001"),
            Standing::Behind { .. }
        ));
    }

    #[test]
    fn m4_a_writer_is_ahead_of_a_reader_with_its_number() {
        let children = names(&["a__READ__0000000001", "b__WRIT__0000000001"]);
        assert_eq!(
            in_order(&children),
            ["b__WRIT__0000000001", "a__READ__0000000001"]
        );
        assert_eq!(standing(&children, "b__WRIT__0000000001"), FIRST);
    }

    const FIRST: Standing<'static> = Standing::Admitted {
        first: None,
        mark: false,
    };

    /// A queue in short: `w` is a writer, `r` a reader, and `2/10` takes two of ten permits.
    fn queue(texts: &str) -> Vec<String> {
        let name = |(number, text): (usize, &str)| {
            let id = AttemptId::from_u128(number as u128 + 1);
            let mode = match text {
                "w" => Mode::Exclusive,
                "r" => Mode::Shared,
                permits => Mode::parse(permits).unwrap(),
            };
            format!("{}{number:010}", node_prefix(id, mode, true))
        };
        texts.split(' ').enumerate().map(name).collect()
    }

    /// The place of the contender at `at`: how many hold the lock, and what it watches.
    fn place(queue: &[String], at: usize) -> String {
        let place = |name: &str| queue.iter().position(|child| child == name).unwrap();
        match standing(queue, &queue[at]) {
            Standing::Missing => "missing".to_owned(),
            Standing::Admitted { first, mark } => {
                assert_eq!(first.map(place), (at > 0).then_some(0));
                (if mark { "holds, marks" } else { "holds" }).to_owned()
            }
            Standing::Behind(behind) => {
                assert_eq!((place(behind.first), behind.ahead), (0, at as u64));
                let watched: Vec<_> = behind.watched.into_iter().map(place).collect();
                let what = if behind.awaits_mark {
                    "mark of"
                } else {
                    "end of"
                };
                format!("{what} {watched:?}")
            }
        }
    }

    fn places(texts: &str) -> Vec<String> {
        let queue = queue(texts);
        (0..queue.len()).map(|at| place(&queue, at)).collect()
    }

    #[test]
    fn m2_readers_share_and_a_reader_behind_a_waiting_writer_waits_for_it() {
        assert_eq!(places("r r r"), ["holds", "holds", "holds"]);
        assert_eq!(
            places("r r w r r w r"),
            [
                "holds",
                "holds",
                "end of [1, 0]",
                "end of [2]",
                "end of [2]",
                "end of [4, 3]",
                "end of [5]"
            ]
        );
        assert_eq!(places("w r r"), ["holds", "end of [0]", "end of [0]"]);
    }

    #[test]
    fn m1_m6_permits_are_counted_and_other_totals_and_modes_exclude_each_other() {
        assert_eq!(
            places("1/3 2/3 1/3"),
            ["holds, marks", "holds, marks", "end of [1, 0]"]
        );
        assert_eq!(places("1/3 1/2 1/3"), ["holds", "end of [0]", "end of [1]"]);
        assert_eq!(places("r 1/3"), ["holds", "end of [0]"]);
        assert_eq!(places("1/3 r r"), ["holds", "end of [0]", "end of [0]"]);
        assert_eq!(places("2/3 2/3"), ["holds", "end of [0]"]);
    }

    #[test]
    fn m2_small_requests_do_not_overtake_a_large_one() {
        assert_eq!(
            places("1/4 1/4 3/4 1/4 1/4"),
            [
                "holds, marks",
                "holds, marks",
                // Two of the four remain free until one of these ends.
                "end of [1, 0]",
                "mark of [2]",
                "mark of [3]"
            ]
        );
    }

    #[test]
    fn w3_a_waiter_for_permits_watches_as_many_holders_as_exclude_it_and_no_more() {
        // The waiter needs one permit. As long as the nearest three hold theirs, it has to wait.
        assert_eq!(place(&queue("1/3 1/3 1/3 1/3"), 3), "end of [2, 1, 0]");
        // It needs two, so two of three are enough.
        assert_eq!(place(&queue("1/3 1/3 1/3 2/3"), 3), "end of [2, 1]");
        // Those behind it are woken by the one ahead of them, one after the other.
        assert_eq!(place(&queue("1/3 1/3 1/3 2/3 1/3 1/3"), 5), "mark of [4]");
        // All that fit at once wait for the end of what excludes them, the next one for a mark.
        assert_eq!(
            places("w 1/2 1/2 1/2 1/2"),
            [
                "holds",
                "end of [0]",
                "end of [0]",
                "mark of [2]",
                "mark of [3]"
            ]
        );
    }

    #[test]
    fn s3_foreign_contenders_are_exclusive() {
        let mut children = queue("r r");
        children.push("x-0000000002".to_owned());
        children.push(queue("r r r r").pop().unwrap());
        assert_eq!(place(&children, 1), "holds");
        assert_eq!(place(&children, 3), "end of [2]");
        assert_eq!(count_holders(in_order(&children)), 2);
    }

    /// Random queues: what each contender finds out by itself is what going through the queue says, and
    /// as long as the watched nodes of a waiter exist it is not its turn.
    #[test]
    fn m1_m2_w2_every_contender_finds_its_place() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..300 {
            let count = random.usize(1..9);
            let texts: Vec<String> = (0..count)
                .map(|_| match random.u8(0..5) {
                    0 => "w".to_owned(),
                    1 => "r".to_owned(),
                    2 => "1/2".to_owned(),
                    _ => format!("{}/4", random.u8(1..5)),
                })
                .collect();
            let mut queue = queue(&texts.join(" "));
            random.shuffle(&mut queue);
            let ordered: Vec<String> = in_order(&queue).into_iter().map(str::to_owned).collect();
            let holders = count_holders(ordered.iter().map(String::as_str));
            for (at, own) in ordered.iter().enumerate() {
                let behind = match standing(&queue, own) {
                    Standing::Behind(behind) => behind,
                    other => {
                        assert!(at < holders, "{ordered:?} {at} {other:?}");
                        continue;
                    }
                };
                assert!(at >= holders, "{ordered:?} {at} {behind:?}");
                // Whatever else goes, it is not the turn of the waiter, or the watched waiter is a holder
                // by then, and marks that.
                for gone in 0..(1_u32 << at) {
                    let left: Vec<String> = (0..ordered.len())
                        .filter(|&other| {
                            let watched = behind.watched.contains(&ordered[other].as_str());
                            watched || other >= at || gone & (1 << other) == 0
                        })
                        .map(|other| ordered[other].clone())
                        .collect();
                    let admitted =
                        |name: &str| matches!(standing(&left, name), Standing::Admitted { .. });
                    if admitted(own) {
                        assert!(behind.awaits_mark, "{ordered:?} {at} {behind:?} {left:?}");
                        let marked = standing(&left, behind.watched[0]);
                        let expected = matches!(marked, Standing::Admitted { mark: true, .. });
                        assert!(expected, "{ordered:?} {at} {left:?}");
                    }
                }
            }
        }
    }
}
