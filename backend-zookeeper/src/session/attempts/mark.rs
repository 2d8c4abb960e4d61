//! Marks: a holder of permits writes its own node once more, with the same data. The waiter behind, which
//! watches that node, learns that it is the first one. No I/O.

use std::sync::Arc;

use tenure_core::id::AttemptId;

use super::Attempts;
use crate::queue::Position;

/// The mark of an attempt that takes permits.
#[derive(Debug)]
pub(super) struct Mark {
    data: Box<[u8]>,
    state: MarkState,
    /// The version of the node after it was written.
    version: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkState {
    NotNeeded,
    Due,
    /// It was sent on the connection with this number.
    Sent(u64),
    Written,
}

impl Mark {
    /// The mark of a node with this data, which is not needed yet.
    pub(super) const fn new(data: Box<[u8]>) -> Self {
        Self {
            data,
            state: MarkState::NotNeeded,
            version: 0,
        }
    }

    pub(super) const fn set_due(&mut self) {
        self.state = MarkState::Due;
    }
}

impl Attempts {
    /// Begins to write the mark of a holder on this connection, and returns its node and data; `None` if
    /// none is due. One that was sent on an earlier connection and not answered is due again.
    pub(crate) fn begin_mark(
        &mut self,
        attempt: AttemptId,
        connection: u64,
    ) -> Option<(Arc<str>, Box<[u8]>)> {
        let entry = self.entries.get_mut(&attempt)?;
        let (node, mark) = (entry.node.as_ref()?, entry.mark.as_mut()?);
        let is_gone = matches!(entry.position, Position::Gone(_));
        let is_due = match mark.state {
            MarkState::Due => true,
            MarkState::Sent(number) => number < connection,
            MarkState::NotNeeded | MarkState::Written => false,
        };
        if !is_due || entry.removing || is_gone {
            return None;
        }
        mark.state = MarkState::Sent(connection);
        Some((Arc::clone(node), mark.data.clone()))
    }

    /// Notes the version of a node whose mark was written; `None` if it may not have been, so that it is
    /// due again.
    pub(crate) fn end_mark(&mut self, attempt: AttemptId, version: Option<i32>) {
        let entry = self.entries.get_mut(&attempt);
        if let Some(mark) = entry.and_then(|entry| entry.mark.as_mut()) {
            match version {
                Some(version) => {
                    mark.state = MarkState::Written;
                    mark.version = version;
                }
                None => mark.state = MarkState::Due,
            }
        }
    }

    /// Whether the client itself has written this version of an attempt's node.
    pub(crate) fn is_own_version(&self, attempt: AttemptId, version: i32) -> bool {
        let mark = self
            .entries
            .get(&attempt)
            .and_then(|entry| entry.mark.as_ref());
        mark.map_or(0, |mark| mark.version) == version
    }

    /// Whether the client itself has written to an attempt's node, or is about to.
    pub(crate) fn has_marked(&self, attempt: AttemptId) -> bool {
        let mark = self
            .entries
            .get(&attempt)
            .and_then(|entry| entry.mark.as_ref());
        mark.is_some_and(|mark| matches!(mark.state, MarkState::Sent(_) | MarkState::Written))
    }
}
