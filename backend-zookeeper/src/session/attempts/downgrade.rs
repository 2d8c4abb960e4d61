//! Downgrades: a reader's node takes the place of the writer's. No I/O.

use std::sync::Arc;

use tenure_core::{id::AttemptId, loss::LossReason, mode::Mode, token::FencingToken};
use zookeeper_client::Stat;

use super::{Attempt, Attempts};
use crate::{
    keys::{downgraded, mode_of},
    queue::Position,
    record::child_of,
};

/// What a downgrade has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DowngradeStep {
    /// There is no such grant.
    Gone(LossReason),
    /// It is shared already.
    Shared,
    /// Replace the first node by the second one.
    Replace(Arc<str>, Arc<str>),
}

impl Attempt {
    /// The attempt's own node, once it is known, and the one that a downgrade may have put into its place.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        let reader = self.downgrade.as_ref().map(|(reader, _)| reader);
        self.node.iter().chain(reader)
    }
}

impl Attempts {
    /// What the downgrade of a grant has to do.
    pub(crate) fn downgrade_step(&self, attempt: AttemptId, token: FencingToken) -> DowngradeStep {
        let Some(entry) = self.entries.get(&attempt) else {
            return DowngradeStep::Gone(LossReason::Evicted);
        };
        match (&entry.position, &entry.node) {
            (Position::Gone(reason), _) => DowngradeStep::Gone(*reason),
            _ if entry.removing => DowngradeStep::Gone(LossReason::Closed),
            (Position::Admitted, Some(node)) if entry.token == token => {
                let child = child_of(node);
                if mode_of(child) == Mode::Shared {
                    return DowngradeStep::Shared;
                }
                match downgraded(child, attempt, entry.czxid) {
                    Some(reader) => {
                        let reader = format!("{}/{reader}", entry.lock).into();
                        DowngradeStep::Replace(Arc::clone(node), reader)
                    }
                    None => DowngradeStep::Gone(LossReason::Displaced),
                }
            }
            _ => DowngradeStep::Gone(LossReason::Displaced),
        }
    }

    /// Notes that a downgrade is about to be sent. The request is sent under the same mutex. `false`: the
    /// attempt is no longer wanted.
    pub(crate) fn begin_downgrade(
        &mut self,
        attempt: AttemptId,
        reader: &Arc<str>,
        connection: u64,
    ) -> bool {
        let wanted = self.is_wanted(attempt);
        if wanted && let Some(entry) = self.entries.get_mut(&attempt) {
            entry.downgrade = Some((Arc::clone(reader), connection));
        }
        wanted
    }

    /// The reader's node exists, so the downgrade was carried out.
    pub(crate) fn downgraded(
        &mut self,
        attempt: AttemptId,
        reader: &Arc<str>,
        stat: &Stat,
        connection: u64,
    ) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            entry.node = Some(Arc::clone(reader));
            entry.czxid = stat.czxid;
            entry.seen_on = connection;
            entry.downgrade = None;
        }
    }

    /// The downgrade that was sent on this connection or an earlier one was not carried out, and will not
    /// be.
    pub(crate) fn end_downgrade(&mut self, attempt: AttemptId, connection: u64) {
        if let Some(entry) = self.entries.get_mut(&attempt)
            && matches!(entry.downgrade, Some((_, number)) if number <= connection)
        {
            entry.downgrade = None;
        }
    }

    /// The node that a downgrade may have put into the place of the attempt's node.
    pub(crate) fn pending_downgrade(&self, attempt: AttemptId) -> Option<Arc<str>> {
        let (reader, _) = self.entries.get(&attempt)?.downgrade.as_ref()?;
        Some(Arc::clone(reader))
    }

    /// Whether a change of this node says nothing about the attempt: a downgrade has replaced it, or one
    /// that finds out what has become of the node is under way on this connection.
    pub(crate) fn is_being_replaced(
        &self,
        attempt: AttemptId,
        node: &str,
        connection: u64,
    ) -> bool {
        let Some(entry) = self.entries.get(&attempt) else {
            return false;
        };
        let replaced = entry.node.as_ref().is_some_and(|own| **own != *node);
        replaced || matches!(entry.downgrade, Some((_, number)) if number >= connection)
    }
}
