//! Computes the slot of a key in a cluster.

/// The number of slots.
pub(super) const SLOT_COUNT: u16 = 16384;

/// The slot of a key: that of its hash tag (the text between the first `{` and the next `}`) if
/// there is one and it is not empty, otherwise that of the whole key.
pub(super) fn key_slot(key: &str) -> u16 {
    let key = key.as_bytes();
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let length = rest.iter().position(|b| *b == b'}')?;
        (length > 0).then(|| &rest[..length])
    });
    crc16(tag.unwrap_or(key)) % SLOT_COUNT
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc16_matches_the_published_check_value() {
        // The check value in the cluster specification.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slot_matches_the_server() {
        // The expected values are the replies of `CLUSTER KEYSLOT`.
        for (key, expected) in [("", 0), ("a", 15495), ("foo", 12182), ("bar", 5061)] {
            assert_eq!(key_slot(key), expected, "{key}");
        }
    }

    #[test]
    fn only_the_first_complete_hash_tag_counts() {
        assert_eq!(key_slot("x{foo}y"), key_slot("foo"));
        assert_eq!(key_slot("{foo}{bar}"), key_slot("foo"));
        assert_eq!(key_slot("{{bar}}zap"), key_slot("{bar"));
        // An empty tag does not count, and neither does an unterminated one.
        assert_ne!(key_slot("{}foo"), key_slot(""));
        assert_eq!(key_slot("{}foo"), crc16(b"{}foo") % SLOT_COUNT);
        assert_eq!(key_slot("{foo"), crc16(b"{foo") % SLOT_COUNT);
    }
}
