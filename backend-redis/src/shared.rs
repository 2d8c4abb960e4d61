//! What every operation of one client works with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redis::Value;
use tenure_core::{
    backend::Context,
    clock::Instant,
    error::{Error, ErrorKind},
    name::LockName,
};

use crate::{
    config::Options,
    error::{error, from_call_error},
    grant_confirmation::GrantConfirmation,
    keys::{KeySpace, LockKeys},
    transport::{CallResult, ScriptCall, Transport},
};

/// What every operation works with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) keys: KeySpace,
    pub(crate) options: Options,
    pub(crate) context: Context,
    /// Present if replicas have to acknowledge what is granted.
    pub(crate) grant_confirmation: Option<Arc<GrantConfirmation>>,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    pub(crate) fn lock_keys(&self, name: &LockName) -> Result<LockKeys, Error> {
        self.keys.lock(name, self.transport.is_cluster())
    }

    /// What every new token is above, as the scripts are given it.
    pub(crate) fn token_floor(&self) -> String {
        self.context.token_floor.to_string()
    }

    /// Runs calls that give or prolong grants, and calls a grant given only once enough replicas
    /// have it.
    ///
    /// `on_answer` hears of every answer with the number of replicas that are missing.
    pub(crate) async fn call_granting(
        &self,
        calls: Vec<ScriptCall>,
        on_answer: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        let wanted = self.options.min_replicas;
        if wanted == 0 {
            self.transport
                .call_all(calls, &mut |index, answer| on_answer(index, answer, 0))
                .await;
            return;
        }
        let timeout = self.options.replica_timeout;
        let answers = self.transport.call_replicated(calls, wanted, timeout).await;
        for (index, (answer, acks)) in answers.into_iter().enumerate() {
            on_answer(index, answer, wanted.saturating_sub(acks));
        }
    }

    pub(crate) fn too_few_replicas(&self, operation: &'static str, missing_acks: u32) -> Error {
        let wanted = self.options.min_replicas;
        error(
            ErrorKind::Unavailable,
            operation,
            format!(
                "{} of {wanted} replicas have acknowledged it within {:?}; `min_replicas` asks for \
                 all of them",
                wanted - missing_acks,
                self.options.replica_timeout,
            ),
        )
    }

    /// Whether the server of these keys was started so short a while ago that nothing may be granted
    /// there yet, as an error.
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
                    "the server was started a short while ago and may have forgotten locks; \
                     `restart_delay` keeps this client from taking any for another {:?}",
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

/// Entries that may be handled by one call, as indices into a batch: those of one slot, and no more
/// than so many.
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
