//! Start-up checks: the user's permissions, and the shortest TTL that the servers grant.

use std::time::Duration;

use etcd_client::GetOptions;
use tenure_core::error::{Error, ErrorKind};

use crate::{error::RequestError, keys::range_end, shared::Shared, txn};

const OPERATION: &str = "connecting";

impl Shared {
    /// Checks that the user has every permission that locks need.
    pub(crate) async fn check_access(&self, user: Option<&str>) -> Result<(), Error> {
        self.check_rights().await.map_err(|error| {
            let error = error.into_read_error(OPERATION);
            if error.kind() != ErrorKind::PermissionDenied {
                return error;
            }
            let subject = match user {
                Some(user) => format!("the user {user:?}"),
                None => "an unauthenticated client".to_owned(),
            };
            let prefix = self.keys.namespace_prefix();
            error.with_detail(format!(
                "{subject} may not read and write the keys that begin with {prefix:?}; grant `readwrite` \
                 on that prefix, or correct `namespace`"
            ))
        })
    }

    /// The shortest TTL that the servers grant: at least one and a half times their election
    /// timeout. Only a grant reveals it; the lease of this grant is left to expire.
    pub(crate) async fn probe_min_ttl(&self) -> Result<Duration, Error> {
        let granted = self.leases.request_grant(1).await;
        Ok(granted.map_err(|error| error.into_read_error(OPERATION))?.1)
    }

    /// Tests every permission that locks need without changing anything; otherwise a missing one
    /// would first show in the middle of a hand-over. The reply also shows that the cluster has a
    /// majority.
    async fn check_rights(&self) -> Result<(), RequestError> {
        let all = self.keys.namespace_prefix();
        if self.context.read_only {
            let options = GetOptions::new()
                .with_range(range_end(&all))
                .with_count_only();
            self.get(all, options).await?;
        } else {
            self.txn(txn::probe_rights(&all, &self.absent_key)).await?;
        }
        Ok(())
    }
}
