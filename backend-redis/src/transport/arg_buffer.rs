//! The arguments of a request in one allocation.

/// A list of arguments.
///
/// A request has about ten of them, of a few dozen bytes each. One allocation per argument cost a
/// busy client a tenth of its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArgBuffer {
    text: String,
    /// The end of each argument in `text`.
    ends: Vec<usize>,
}

impl ArgBuffer {
    /// An empty list with room for `args` arguments of `bytes` bytes in total.
    pub(crate) fn with_capacity(args: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(args),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The total length of all arguments.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Adds one argument: the text that `write` appends. `write` must not change the existing text.
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
    fn arguments_are_returned_unchanged() {
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
