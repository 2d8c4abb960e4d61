//! Reading what a script answered.

use redis::Value;
use tenure_core::error::Error;

use crate::error;

/// The parts of one answer, read one after the other.
#[derive(Debug)]
pub(crate) struct Reply {
    operation: &'static str,
    parts: std::vec::IntoIter<Value>,
}

impl Reply {
    /// An answer that is a list.
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

    /// The next part, as a text. What a script read from a key may be any bytes; those that are no
    /// text are shown as such.
    pub(crate) fn text(&mut self) -> Result<String, Error> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Value::SimpleString(text) => Ok(text),
            other => Err(error::unexpected_reply(self.operation, &other)),
        }
    }

    /// The next part, as a number that may be written as a text.
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

    /// The next part, as a count or a moment: not negative.
    pub(crate) fn count(&mut self) -> Result<u64, Error> {
        let number = self.number()?;
        u64::try_from(number)
            .map_err(|_| error::unexpected_reply(self.operation, &Value::Int(number)))
    }

    /// The next part, as a list of its own.
    pub(crate) fn list(&mut self) -> Result<Self, Error> {
        let part = self.next()?;
        Self::new(self.operation, part)
    }

    /// The parts that have not been read.
    pub(crate) fn rest(self) -> impl Iterator<Item = Value> {
        self.parts
    }
}
