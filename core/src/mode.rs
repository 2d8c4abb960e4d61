//! The mode of an attempt: how it may share its lock (clauses M1 and M2).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// The mode that an attempt requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Mode {
    /// The whole lock. Nobody else holds it at the same time.
    #[default]
    Exclusive,
    /// The lock together with other shared holders, as readers have it.
    Shared,
    /// Some of the lock's permits.
    Permits {
        /// The number of permits that the attempt takes: from 1 to `of`.
        take: u32,
        /// The number of permits that exist. Attempts that name different numbers exclude each other.
        of: u32,
    },
}

/// `exclusive`, `shared`, or, for two of ten permits, `2/10`. Every store writes a mode in this form.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Shared => f.write_str("shared"),
            Self::Permits { take, of } => write!(f, "{take}/{of}"),
        }
    }
}

impl Mode {
    /// Creates the mode that takes `take` of `of` permits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if `take` is zero or greater than `of` (clause M6).
    pub fn permits(take: u32, of: u32) -> Result<Self, Error> {
        let mode = Self::Permits { take, of };
        if mode.is_valid() {
            return Ok(mode);
        }
        let detail = match take {
            0 => "at least one permit must be requested".to_owned(),
            _ => format!("{take} permits were requested, and only {of} exist"),
        };
        Err(Error::new(ErrorKind::Config, "requesting permits").with_detail(detail))
    }

    /// Parses the text that [`Display`](fmt::Display) writes. Returns `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mode = match text {
            "exclusive" => Self::Exclusive,
            "shared" => Self::Shared,
            _ => {
                let (take, of) = text.split_once('/')?;
                let (take, of) = (take.parse().ok()?, of.parse().ok()?);
                Self::Permits { take, of }
            }
        };
        // Another spelling of a number, such as "02", is not what `Display` writes.
        (mode.is_valid() && mode.to_string() == text).then_some(mode)
    }

    /// Returns whether the mode is [`Exclusive`](Self::Exclusive).
    #[must_use]
    pub const fn is_exclusive(&self) -> bool {
        matches!(self, Self::Exclusive)
    }

    /// Returns whether the number of permits is in range.
    pub(crate) const fn is_valid(&self) -> bool {
        match *self {
            Self::Exclusive | Self::Shared => true,
            Self::Permits { take, of } => take >= 1 && take <= of,
        }
    }
}

/// The combined modes of a lock's holders. Decides whether another attempt may join them.
///
/// Every backend decides as [`admits`](Self::admits) does; the Redis scripts repeat it and are tested against
/// it. A backend goes through the queue in order, adds each holder, and grants the lock to the next entry as
/// long as it is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Occupancy {
    /// There is no holder.
    #[default]
    Free,
    /// There is an exclusive holder.
    Exclusive,
    /// There are shared holders.
    Shared,
    /// There are holders of permits.
    Permits {
        /// The number of permits that they have together.
        taken: u64,
        /// The number of permits that exist.
        of: u32,
    },
}

impl Occupancy {
    /// Returns whether an attempt of this mode may hold the lock beside the holders.
    #[must_use]
    pub fn admits(&self, mode: Mode) -> bool {
        match (*self, mode) {
            (Self::Free, _) | (Self::Shared, Mode::Shared) => true,
            (Self::Permits { taken, of }, Mode::Permits { take, of: other }) => {
                of == other && taken.saturating_add(u64::from(take)) <= u64::from(of)
            }
            _ => false,
        }
    }

    /// Adds a holder, which was [admitted](Self::admits).
    pub fn add(&mut self, mode: Mode) {
        *self = match (*self, mode) {
            (_, Mode::Exclusive) => Self::Exclusive,
            (_, Mode::Shared) => Self::Shared,
            (Self::Permits { taken, .. }, Mode::Permits { take, of }) => Self::Permits {
                taken: taken.saturating_add(u64::from(take)),
                of,
            },
            (_, Mode::Permits { take, of }) => Self::Permits {
                taken: u64::from(take),
                of,
            },
        };
    }
}

/// The modes that a backend offers (clause M7). Every backend offers exclusive locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Modes {
    /// Whether it offers [`Mode::Shared`], with the downgrade of an exclusive grant.
    pub shared: bool,
    /// Whether it offers [`Mode::Permits`].
    pub permits: bool,
}

impl Modes {
    /// Exclusive locks alone. This is what a backend offers that declares nothing.
    pub const EXCLUSIVE: Self = Self {
        shared: false,
        permits: false,
    };
    /// All modes.
    pub const ALL: Self = Self {
        shared: true,
        permits: true,
    };

    /// Returns whether the mode is offered.
    #[must_use]
    pub const fn offer(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => true,
            Mode::Shared => self.shared,
            Mode::Permits { .. } => self.permits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(take: u32, of: u32) -> Mode {
        Mode::Permits { take, of }
    }

    #[test]
    fn m1_m6_only_compatible_modes_are_admitted_together() {
        let all = [
            Mode::Exclusive,
            Mode::Shared,
            permits(1, 2),
            permits(2, 2),
            permits(1, 3),
        ];
        for first in all {
            let mut occupancy = Occupancy::Free;
            assert!(occupancy.admits(first));
            occupancy.add(first);
            for second in all {
                let expected = matches!(
                    (first, second),
                    (Mode::Shared, Mode::Shared)
                        | (
                            Mode::Permits { take: 1, of: 2 },
                            Mode::Permits { take: 1, of: 2 }
                        )
                        | (
                            Mode::Permits { take: 1, of: 3 },
                            Mode::Permits { take: 1, of: 3 }
                        )
                );
                assert_eq!(occupancy.admits(second), expected, "{first}, {second}");
            }
        }
    }

    #[test]
    fn m1_no_sum_of_permits_exceeds_their_number() {
        let mut occupancy = Occupancy::Free;
        for _ in 0..3 {
            assert!(occupancy.admits(permits(3, 10)));
            occupancy.add(permits(3, 10));
        }
        assert!(occupancy.admits(permits(1, 10)));
        assert!(!occupancy.admits(permits(2, 10)));
        occupancy.add(permits(u32::MAX, u32::MAX));
        assert!(!occupancy.admits(permits(u32::MAX, u32::MAX)));
    }

    #[test]
    fn m6_a_number_of_permits_out_of_range_is_refused() {
        assert_eq!(Mode::permits(2, 3).unwrap(), permits(2, 3));
        for (take, of, part) in [
            (0, 3, "at least one"),
            (4, 3, "only 3 exist"),
            (1, 0, "only 0"),
        ] {
            let error = Mode::permits(take, of).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn s2_a_text_is_parsed_only_in_the_form_that_is_written() {
        for mode in [
            Mode::Exclusive,
            Mode::Shared,
            permits(1, 1),
            permits(2, u32::MAX),
        ] {
            assert_eq!(Mode::parse(&mode.to_string()), Some(mode));
        }
        for text in [
            "",
            "Shared",
            "0/3",
            "4/3",
            "01/3",
            "1/+3",
            "1/",
            "1/4294967296",
            "1/2/3",
        ] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }
}
