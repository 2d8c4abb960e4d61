//! The words of a request, one after the other in one piece of memory.

/// Words, in order.
///
/// A request has some ten of them, of a few dozen bytes. Each in memory of its own, making and freeing
/// them cost a busy client a tenth of its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArgBuffer {
    text: String,
    /// Where in the text each of them ends.
    ends: Vec<usize>,
}

impl ArgBuffer {
    /// None yet, and room for so many, of so many bytes together.
    pub(crate) fn with_capacity(args: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(args),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// One more: what is written to the end of that text, which is not to be changed else.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }

    pub(crate) fn get(&self, index: usize) -> Option<&str> {
        let to = *self.ends.get(index)?;
        let from = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(from..to)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut from = 0;
        self.ends.iter().map(move |&to| {
            let arg = self.text.get(from..to).unwrap_or_default();
            from = to;
            arg
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_as_they_went_in() {
        let mut args = ArgBuffer::with_capacity(1, 1);
        assert_eq!((args.len(), args.iter().next()), (0, None));
        for arg in ["one", "", "drei \u{e9}", ""] {
            args.push_with(|text| text.push_str(arg));
        }
        assert_eq!(
            args.iter().collect::<Vec<_>>(),
            ["one", "", "drei \u{e9}", ""]
        );
        assert_eq!((args.len(), args.bytes()), (4, 10));
        let got: Vec<_> = (0..5).map(|index| args.get(index)).collect();
        assert_eq!(
            got,
            [Some("one"), Some(""), Some("drei \u{e9}"), Some(""), None]
        );
    }
}
