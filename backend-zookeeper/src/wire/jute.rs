//! The store's encoding: big-endian numbers, and texts with their length before them.

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Writes one record.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn int(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn long(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn flag(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Self {
        // Nothing of ours comes near that size.
        let mut this = self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        this.0.extend_from_slice(value);
        this
    }

    pub(crate) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Reads one record. It may have been written by anybody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if self.0.len() < count {
            return Err(Malformed);
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(i32::from_be_bytes(bytes))
    }

    pub(crate) fn long(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(i64::from_be_bytes(bytes))
    }

    /// A length of -1 stands for "none", which is read as empty.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::default()
            .int(-2)
            .long(1 << 40)
            .text("é")
            .bytes(b"\xff")
            .flag(true)
            .done();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.int(), Ok(-2));
        assert_eq!(reader.long(), Ok(1 << 40));
        assert_eq!(reader.text(), Ok("é"));
        assert_eq!(reader.bytes(), Ok(&b"\xff"[..]));
        assert_eq!(reader.take(1), Ok(&[1][..]));
    }

    #[test]
    fn s2_no_bytes_are_trusted() {
        for wrong in [&b""[..], b"\0\0\0", b"\0\0\0\x05abcd", b"\xff\xff\xff\xfe"] {
            assert_eq!(Reader::new(wrong).bytes(), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(Reader::new(b"\0\0\0\x01\xff").text(), Err(Malformed));
        assert_eq!(Reader::new(b"\xff\xff\xff\xff").bytes(), Ok(&[][..]));
        assert_eq!(Reader::new(b"\0\0").long(), Err(Malformed));
    }
}
