//! The files of the store, and the encoding of names in their paths (clause N2).
//!
//! ```text
//! <root>/.inbox/<client>                           one FIFO for each connected client
//! <root>/.tmp/<nonce>/                             a lock's directory that is being made
//! <root>/<namespace>/<name>/head.<generation>.<nonce>    empty; its name is the version
//! <root>/<namespace>/<name>/data.<generation>.<nonce>    the state of that version: a symbolic
//!                                                  link to nowhere, with the state as target
//! <root>/<namespace>/<name>/permit                 empty; its kernel lock is the permit to prepare
//!                                                  a swap, which clients that met a conflict use
//! ```
//!
//! Namespace and name are encoded separately, by the table of [`tenure_core::name`] with three
//! differences, because file systems are more restrictive:
//!
//! | what | written as | because |
//! |---|---|---|
//! | `A-Z` | `%41` to `%5A` | some file systems treat `A` and `a` as equal |
//! | a dot at the beginning | `%2E` | names that begin with a dot are reserved for the store |
//! | more than 200 bytes after encoding | split into pieces of 199 bytes, as nested directories: each but the last ends in `~`, the last begins with `~` | file names are limited to 255 bytes, on some file systems to fewer |
//!
//! `~` occurs nowhere else. Nothing is hashed: each path can be decoded, and no two names have the
//! same path. A root of up to 900 bytes leaves room for every name within the 4,096 bytes of a
//! path.
//!
//! Deleting a lock's directory frees the lock. Its tokens continue to increase, based on the wall
//! clock.

use std::path::{Path, PathBuf};

use tenure_core::{
    cas::Key,
    name::{LockName, Namespace, decode_where, encode_where},
};

/// Maximum length of an encoded text that is one file name.
const MAX_FILE_NAME_BYTES: usize = 200;
/// Length of the pieces of a longer text.
const NAME_PIECE_BYTES: usize = 199;

/// The directory of the clients' FIFOs.
pub(crate) const FIFO_DIR: &str = ".inbox";
/// The directory of temporary directories.
pub(crate) const TMP_DIR: &str = ".tmp";
/// The file in a lock's directory whose kernel lock is the permit to prepare a swap.
pub(crate) const PERMIT_FILE: &str = "permit";

/// Returns the directory of a lock.
#[must_use]
pub fn lock_dir(root: &Path, key: &Key) -> PathBuf {
    let mut path = namespace_dir(root, &key.namespace);
    path.extend(split(encode(key.name.as_str())));
    path
}

/// Returns the directory of a namespace.
#[must_use]
pub fn namespace_dir(root: &Path, namespace: &Namespace) -> PathBuf {
    let mut path = root.to_path_buf();
    path.extend(namespace_names(namespace));
    path
}

/// Returns the names of the directories from the root to the one that contains a lock's directory,
/// and the name of the lock's directory.
pub(crate) fn lock_names(key: &Key) -> (Vec<String>, String) {
    let mut parents = namespace_names(&key.namespace);
    let mut names = split(encode(key.name.as_str()));
    let last = names.pop().unwrap_or_default();
    parents.append(&mut names);
    (parents, last)
}

/// Returns the names of the directories from the root to that of a lock.
pub(crate) fn dir_names(key: &Key) -> Vec<String> {
    let (mut names, name) = lock_names(key);
    names.push(name);
    names
}

/// Returns the names of the directories from the root to that of a namespace.
pub(crate) fn namespace_names(namespace: &Namespace) -> Vec<String> {
    split(encode(namespace.as_str()))
}

/// Encodes a text by the table of this module, without splitting it.
#[must_use]
pub fn encode(text: &str) -> String {
    encode_where(text, |offset, byte| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'_' | b'-')
            || (byte == b'.' && offset > 0)
    })
}

/// Decodes a text that [`encode`] wrote; `None` for any other text.
#[must_use]
pub fn decode(encoded: &str) -> Option<String> {
    decode_where(encoded, encode)
}

/// The kind of a directory entry below a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// The directory of a lock.
    Lock(LockName),
    /// A piece of longer names, with the text up to and including it.
    Piece(String),
    /// A foreign entry.
    Other,
}

/// Classifies an entry of the directory of a namespace (`prefix` is empty) or of a piece.
pub(crate) fn classify(prefix: &str, entry: &str) -> EntryKind {
    if let Some(piece) = entry.strip_suffix('~') {
        return EntryKind::Piece(format!("{prefix}{piece}"));
    }
    let whole = match entry.strip_prefix('~') {
        Some(last) if !prefix.is_empty() => format!("{prefix}{last}"),
        None if prefix.is_empty() => entry.to_owned(),
        _ => return EntryKind::Other,
    };
    let name = decode(&whole).and_then(|text| LockName::new(text).ok());
    name.map_or(EntryKind::Other, EntryKind::Lock)
}

/// Splits an encoded text into file names.
fn split(encoded: String) -> Vec<String> {
    if encoded.len() <= MAX_FILE_NAME_BYTES {
        return vec![encoded];
    }
    let mut names = Vec::new();
    let mut rest = encoded.as_str();
    while rest.len() > NAME_PIECE_BYTES {
        // Encoded text is ASCII, so every offset is a character boundary.
        let (piece, more) = rest.split_at(NAME_PIECE_BYTES);
        names.push(format!("{piece}~"));
        rest = more;
    }
    names.push(format!("~{rest}"));
    names
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(Namespace::default(), LockName::new(name).unwrap())
    }

    fn decode_path(name: &str) -> EntryKind {
        let dir = lock_dir(Path::new("/"), &key(name));
        let mut prefix = String::new();
        for part in dir.strip_prefix("/default").unwrap() {
            match classify(&prefix, part.to_str().unwrap()) {
                EntryKind::Piece(text) => prefix = text,
                kind => return kind,
            }
        }
        EntryKind::Other
    }

    #[test]
    fn n2_unusual_names_stay_distinct_and_fit() {
        let dots = format!("{}..", "a".repeat(398));
        let longest = "\u{1f512}".repeat(128);
        let hard = [
            "a",
            "A",
            "a/b",
            "a%2Fb",
            "a b",
            ".",
            "..",
            "...",
            ".tmp",
            ".inbox",
            "a~",
            "~a",
            "a{}",
            "é",
            "e\u{301}",
            "\u{1f512}",
            "aux",
            "head.1.0",
            &longest,
            &dots,
            &"x".repeat(200),
            &"x".repeat(201),
            &"x".repeat(512),
            &"X".repeat(512),
            &".".repeat(512),
        ];
        let mut seen: HashMap<String, &str> = HashMap::new();
        for name in hard {
            let dir = lock_dir(Path::new("/root"), &key(name));
            for part in &dir {
                let part = part.to_str().unwrap();
                assert!(
                    part.len() <= MAX_FILE_NAME_BYTES && part != "." && part != "..",
                    "{part}"
                );
            }
            assert!(dir.as_os_str().len() < 1700, "{name}");
            // The path as a case-insensitive file system sees it.
            let folded = dir.to_str().unwrap().to_lowercase();
            assert_eq!(seen.insert(folded, name), None, "{name}");
            assert_eq!(decode_path(name), EntryKind::Lock(key(name).name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn n2_every_name_round_trips(name in "\\PC{1,120}|[.~%A-Ba-b]{1,12}|[.]{190,210}") {
            prop_assume!(name.len() <= 512);
            prop_assert_eq!(decode_path(&name), EntryKind::Lock(key(&name).name));
        }
    }
}
