//! Random identifiers of attempts and clients.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind};

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Creates a random id.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Unavailable`] if the operating system provides no randomness.
            pub fn random() -> Result<Self, Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(|source| {
                    Error::new(ErrorKind::Unavailable, "drawing a random id")
                        .with_detail("the operating system provides no randomness")
                        .with_source(source)
                })?;
                Ok(Self(u128::from_le_bytes(bytes)))
            }

            /// Creates the id with this number, for ids that a store returns and for tests.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// Returns the number.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// Parses the 32 hexadecimal digits that `Display` writes.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let canonical = text.len() == 32
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if canonical { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text)
                    .ok_or_else(|| serde::de::Error::custom("not 32 hexadecimal digits"))
            }
        }
    };
}

random_id! {
    /// The id of an attempt: one entry in a lock's queue.
    ///
    /// The core draws and registers the id before it sends a request, so that every request is
    /// idempotent and can be cleaned up. An attempt that is gone never returns.
    AttemptId
}

random_id! {
    /// The id of a connected client: the address to which a store sends messages about the client's
    /// attempts.
    ClientId
}
