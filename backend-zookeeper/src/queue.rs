//! The order of a lock's contenders, from the names of its node's children. Pure.
//!
//! A child that ends in a sequence number is a contender, whoever made it. The servers count with 32
//! bits and begin again below zero, so that two numbers are compared by their distance.

use std::cmp::Ordering;

/// Where somebody stands among the contenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It is not among them.
    Missing,
    First,
    Behind {
        /// The nearest one ahead.
        next: &'a str,
        /// Who is first.
        first: &'a str,
        /// How many are ahead.
        ahead: u64,
    },
}

/// The sequence number at the end of a child's name, as the servers write it: ten digits, or a sign
/// and nine or ten.
pub(crate) fn sequence(child: &str) -> Option<i32> {
    // What the known recipes write before the number; a sign after it is the number's.
    for mark in ["-lock-", "__lock__", "__rlock__", "__READ__", "__WRIT__"] {
        if let Some((_, number)) = child.rsplit_once(mark)
            && let Some(number) = number_of(number)
        {
            return Some(number);
        }
    }
    let tail = |length: usize| child.get(child.len().checked_sub(length)?..);
    // A dash before ten digits is taken for a part of the name, unless they are too large without
    // being a sign.
    tail(10)
        .and_then(number_of)
        .or_else(|| tail(11).and_then(number_of))
}

/// Reads what `%010d` writes of a 32-bit number.
fn number_of(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = (text.len() == 10 || (text.len() == 11 && digits.len() == 10))
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole { text.parse().ok() } else { None }
}

/// Which of two numbers was given first, if no more than 2^31 lie between them.
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

/// The contenders in the order of their turns.
pub(crate) fn in_order(children: &[String]) -> Vec<&str> {
    let mut contenders: Vec<(i32, &str)> = children
        .iter()
        .filter_map(|child| Some((sequence(child)?, child.as_str())))
        .collect();
    // Distances order only what lies within half of the circle: they are taken from one of them.
    if let Some(&(pivot, _)) = contenders.first() {
        contenders.sort_by(|(a, left), (b, right)| {
            let (a, b) = (a.wrapping_sub(pivot), b.wrapping_sub(pivot));
            a.cmp(&b).then_with(|| left.cmp(right))
        });
    }
    contenders.into_iter().map(|(_, child)| child).collect()
}

/// Where this child stands. One pass, without sorting: a queue may be long.
pub(crate) fn standing<'a>(children: &'a [String], own: &str) -> Standing<'a> {
    let Some(mine) = sequence(own).filter(|_| children.iter().any(|child| child == own)) else {
        return Standing::Missing;
    };
    let mut ahead = 0;
    let mut next: Option<(i32, &str)> = None;
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
            next = Some(other);
        }
        if first.is_none_or(|first| before(other, first)) {
            first = Some(other);
        }
    }
    match (next, first) {
        (Some((_, next)), Some((_, first))) => Standing::Behind { next, first, ahead },
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
    fn w1_contenders_stand_in_the_order_of_their_numbers_whoever_made_them() {
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
                first: "z-lock-0000000001",
                ahead: 2
            }
        );
        assert_eq!(standing(&children, "b-lock-0000000009"), Standing::Missing);
        assert_eq!(standing(&children, "other"), Standing::Missing);
    }

    #[test]
    fn w1_the_order_goes_on_where_numbers_wrap() {
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
                Standing::Behind { next, first, ahead } => {
                    assert_eq!((next, first), (ordered[at - 1], ordered[0]));
                    assert_eq!(ahead, at as u64);
                }
                Standing::Missing => panic!("{child} is there"),
            }
        }
    }

    #[test]
    fn x1_of_two_with_one_number_just_one_is_first() {
        let children = names(&["b-0000000001", "a-0000000001"]);
        assert_eq!(standing(&children, "a-0000000001"), Standing::First);
        assert!(matches!(
            standing(&children, "b-0000000001"),
            Standing::Behind { .. }
        ));
    }
}
