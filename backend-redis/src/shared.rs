//! The state that all operations of one client share.

use std::{collections::BTreeMap, time::Duration};

use redis::Value;
use tenure_core::{
    backend::Context,
    clock::Instant,
    error::{Error, ErrorKind},
    name::LockName,
};

use crate::{
    attempts::Attempts,
    config::Options,
    error::{error, from_call_error},
    keys::{KeySpace, LockKeys},
    transport::{CallResult, ReplicaAck, ScriptCall, Transport},
};

/// The state that all operations of one client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) keys: KeySpace,
    pub(crate) options: Options,
    pub(crate) context: Context,
    /// Kept only if replicas have to acknowledge grants.
    pub(crate) waiting: Attempts,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    pub(crate) fn lock_keys(&self, name: &LockName) -> Result<LockKeys, Error> {
        self.keys.lock(name, self.transport.is_cluster())
    }

    /// The token floor as the scripts take it. Every new token is above it.
    pub(crate) fn token_floor(&self) -> String {
        self.context.token_floor.to_string()
    }

    /// Runs calls that grant or renew locks. A grant counts only after enough replicas have
    /// acknowledged it.
    ///
    /// `on_answer` receives each result with the number of missing replica acknowledgements.
    pub(crate) async fn call_granting(
        &self,
        calls: Vec<ScriptCall>,
        on_answer: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        let wanted = self.options.min_replicas;
        let replicas = (wanted > 0).then_some(ReplicaAck {
            count: wanted,
            timeout: self.options.replica_timeout,
        });
        let on_reply = &mut |index, answer, acks| {
            on_answer(index, answer, wanted.saturating_sub(acks));
        };
        self.transport.call_all(calls, replicas, on_reply).await;
    }

    pub(crate) fn too_few_replicas(&self, operation: &'static str, missing_acks: u32) -> Error {
        let wanted = self.options.min_replicas;
        error(
            ErrorKind::Unavailable,
            operation,
            format!(
                "{} of {wanted} replicas acknowledged the write within {:?}; `min_replicas` \
                 requires all of them",
                wanted - missing_acks,
                self.options.replica_timeout,
            ),
        )
    }

    /// An error if the server of these keys started so recently that `restart_delay` still blocks
    /// grants.
    pub(crate) fn restart_delay_error(
        &self,
        operation: &'static str,
        keys: &LockKeys,
    ) -> Option<Error> {
        let until = self.transport.grants_blocked_until(&keys.holder)?;
        let left = until.since(self.now());
        (!left.is_zero()).then(|| {
            error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "the server started recently and may have forgotten locks; `restart_delay` \
                     blocks grants for another {:?}",
                    Duration::from_secs(left.as_secs() + 1),
                ),
            )
        })
    }

    pub(crate) async fn run(
        &self,
        operation: &'static str,
        call: ScriptCall,
    ) -> Result<Value, Error> {
        self.transport
            .call(call)
            .await
            .map_err(|error| from_call_error(operation, error))
    }
}

/// Groups batch indices so that one call can handle each group: the entries of a group share a
/// slot, and there are at most `max_len` of them.
pub(crate) fn group_by_slot(
    slots: impl Iterator<Item = (usize, u16)>,
    max_len: usize,
) -> Vec<Vec<usize>> {
    let mut by_slot: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, slot) in slots {
        by_slot.entry(slot).or_default().push(index);
    }
    by_slot
        .into_values()
        .flat_map(|indices| {
            indices
                .chunks(max_len)
                .map(<[usize]>::to_vec)
                .collect::<Vec<_>>()
        })
        .collect()
}
