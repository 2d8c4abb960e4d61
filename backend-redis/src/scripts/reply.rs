//! Reads the reply of a script.

use redis::Value;
use tenure_core::error::Error;

use crate::error;

/// A list reply, read element by element.
#[derive(Debug)]
pub(crate) struct Reply {
    operation: &'static str,
    parts: std::vec::IntoIter<Value>,
}

impl Reply {
    /// Reads a reply that is a list.
    pub(crate) fn new(operation: &'static str, value: Value) -> Result<Self, Error> {
        match value {
            Value::Array(parts) => Ok(Self {
                operation,
                parts: parts.into_iter(),
            }),
            other => Err(error::unexpected_reply(operation, &other)),
        }
    }

    fn next(&mut self) -> Result<Value, Error> {
        self.parts
            .next()
            .ok_or_else(|| error::unexpected_reply(self.operation, &Value::Nil))
    }

    /// The next element as text. A script may return any bytes that it read from a key; invalid
    /// UTF-8 is replaced.
    pub(crate) fn text(&mut self) -> Result<String, Error> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Value::SimpleString(text) => Ok(text),
            other => Err(error::unexpected_reply(self.operation, &other)),
        }
    }

    /// The next element as a number, which may be encoded as text.
    pub(crate) fn number(&mut self) -> Result<i64, Error> {
        let part = self.next()?;
        let number = match &part {
            Value::Int(number) => Some(*number),
            Value::BulkString(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.ok_or_else(|| error::unexpected_reply(self.operation, &part))
    }

    /// The next element as a non-negative number.
    pub(crate) fn count(&mut self) -> Result<u64, Error> {
        let number = self.number()?;
        u64::try_from(number)
            .map_err(|_| error::unexpected_reply(self.operation, &Value::Int(number)))
    }

    /// The next element as a nested list.
    pub(crate) fn list(&mut self) -> Result<Self, Error> {
        let part = self.next()?;
        Self::new(self.operation, part)
    }

    /// The elements that have not been read, as texts.
    pub(crate) fn texts(mut self) -> impl Iterator<Item = Result<String, Error>> {
        std::iter::from_fn(move || (!self.is_empty()).then(|| self.text()))
    }

    /// Whether all elements have been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.len() == 0
    }

    /// The elements that have not been read.
    pub(crate) fn rest(self) -> impl Iterator<Item = Value> {
        self.parts
    }
}
