//! Lock names and namespaces, and the table by which they are encoded (clauses N1 and N2).
//!
//! | byte | written as |
//! |---|---|
//! | `A-Z a-z 0-9 . _ -` | itself |
//! | any other byte of the UTF-8 text | `%XX`, two upper-case hexadecimal digits |
//! | a text that is `.` or `..` as a whole | every dot as `%2E` |
//!
//! Namespace and name are encoded separately, so that no part of the one can be mistaken for a part
//! of the other.

use std::{fmt, str::FromStr, sync::Arc};

/// Maximum length of a name or namespace in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// The defect of an invalid name (clause N1). Detected before any I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidName {
    /// The text is empty.
    Empty,
    /// The text contains a NUL byte.
    Nul {
        /// Offset of the first NUL, in bytes.
        at: usize,
    },
    /// The text is not UTF-8.
    NotUtf8 {
        /// Offset of the first byte that is not UTF-8, in bytes.
        at: usize,
    },
    /// The text is longer than [`MAX_NAME_BYTES`].
    TooLong {
        /// The length in bytes.
        bytes: usize,
    },
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty; a name has 1 to {MAX_NAME_BYTES} bytes"),
            Self::Nul { at } => write!(f, "it has a NUL byte at offset {at}"),
            Self::NotUtf8 { at } => write!(f, "it is not UTF-8 at offset {at}"),
            Self::TooLong { bytes } => {
                write!(
                    f,
                    "it is {bytes} bytes long; a name has 1 to {MAX_NAME_BYTES} bytes"
                )
            }
        }
    }
}

impl std::error::Error for InvalidName {}

fn checked(bytes: &[u8]) -> Result<&str, InvalidName> {
    if bytes.is_empty() {
        return Err(InvalidName::Empty);
    }
    if bytes.len() > MAX_NAME_BYTES {
        return Err(InvalidName::TooLong { bytes: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| InvalidName::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    match text.find('\0') {
        Some(at) => Err(InvalidName::Nul { at }),
        None => Ok(text),
    }
}

/// Encodes a text by the table of this module.
#[must_use]
pub fn encode(text: &str) -> String {
    let dots = text == "." || text == "..";
    encode_where(text, |_, byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && !dots)
    })
}

/// Decodes a text that [`encode`] wrote. Returns `None` for a text that `encode` cannot have
/// written.
#[must_use]
pub fn decode(encoded: &str) -> Option<String> {
    decode_where(encoded, encode)
}

/// Encodes a text for a store that permits fewer bytes than the table. A byte for which `plain`
/// returns `true`, given its offset and value, is written unchanged, every other byte as `%XX`.
/// `plain` must return `false` for `%` and for non-ASCII bytes.
pub fn encode_where(text: &str, plain: impl Fn(usize, u8) -> bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for (offset, byte) in text.bytes().enumerate() {
        if plain(offset, byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// Decodes a text that `encode` wrote by means of [`encode_where`]. Returns `None` for any other
/// text.
pub fn decode_where(encoded: &str, encode: impl Fn(&str) -> String) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (encode(&text) == encoded).then_some(text)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a text and creates the name.
            ///
            /// # Errors
            ///
            /// [`InvalidName`], with the defect and its position.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                checked(text.as_ref().as_bytes()).map(|text| Self(Arc::from(text)))
            }

            /// Validates bytes, such as a command-line argument, and creates the name.
            ///
            /// # Errors
            ///
            /// [`InvalidName`], with the defect and its position.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidName> {
                checked(bytes).map(|text| Self(Arc::from(text)))
            }

            /// Returns the text as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the text, encoded by the table of the module [`name`](crate::name).
            #[must_use]
            pub fn encoded(&self) -> String {
                encode(&self.0)
            }

            /// Decodes a text that [`encoded`](Self::encoded) wrote; `None` for any other text.
            #[must_use]
            pub fn from_encoded(encoded: &str) -> Option<Self> {
                decode(encoded).and_then(|text| Self::new(text).ok())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }
    };
}

name_type! {
    /// The name of a lock: 1 to 512 bytes of UTF-8 without NUL. Cheap to clone.
    LockName
}

name_type! {
    /// A namespace: separates the locks of several applications in one store. The rules for its
    /// text are those of a [`LockName`].
    Namespace
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn n1_error_names_defect_and_position() {
        assert_eq!(LockName::new(""), Err(InvalidName::Empty));
        assert_eq!(LockName::new("a\0b"), Err(InvalidName::Nul { at: 1 }));
        assert_eq!(
            LockName::new("é".repeat(257)),
            Err(InvalidName::TooLong { bytes: 514 })
        );
        assert_eq!(
            LockName::from_bytes(b"ab\xff"),
            Err(InvalidName::NotUtf8 { at: 2 })
        );
        assert!(LockName::new("x".repeat(512)).is_ok());
    }

    #[test]
    fn n2_dots_alone_are_escaped() {
        assert_eq!(encode("."), "%2E");
        assert_eq!(encode(".."), "%2E%2E");
        assert_eq!(encode("..."), "...");
        assert_eq!(encode("a/b%2F c{}"), "a%2Fb%252F%20c%7B%7D");
    }

    #[test]
    fn decode_accepts_only_canonical_text() {
        for foreign in [
            "%2e", "%41", "a/b", "%", "%2", "%zz", "%FF", ".", "..", "%+1",
        ] {
            assert_eq!(decode(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn n2_every_name_round_trips(text in "\\PC{1,40}|[./%a-zA-Z]{1,12}") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(
                |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'%')));
            prop_assert_eq!(decode(&encoded), Some(text));
        }

        #[test]
        fn n2_distinct_names_stay_distinct(a in "[./%aA2F]{1,6}", b in "[./%aA2F]{1,6}") {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }
    }
}
