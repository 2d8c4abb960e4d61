//! The interface that the author of a backend implements: the suite's access to the store.

use std::sync::Arc;

use async_trait::async_trait;
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
    name::{LockName, Namespace},
};

use crate::{fault::Faulty, servers::DedicatedStore};

/// A store on which the suite can run.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Returns the name of the store in messages.
    fn name(&self) -> &str;

    /// Creates an environment for one case: a namespace that no other client uses. Cases run
    /// concurrently, each in its own environment.
    ///
    /// # Errors
    ///
    /// An error that makes the store unusable; the case fails with this error.
    async fn start(&self) -> Result<Arc<dyn Env>, Error>;

    /// Joins, from another process, the environment of the given [`Env::ticket`]. Required only if
    /// environments have tickets.
    ///
    /// # Errors
    ///
    /// An error that makes the store unusable; the case fails with this error.
    async fn join(&self, _ticket: &str) -> Result<Arc<dyn Env>, Error> {
        Err(
            Error::new(ErrorKind::Unsupported, "joining a conformance run")
                .with_detail("this harness gives out tickets but does not implement `join`"),
        )
    }

    /// Returns the version of the store's servers for reports; `None` if it is unknown. The suite calls
    /// this method after the cases.
    fn store_version(&self) -> Option<String> {
        None
    }

    /// Returns the cases that do not apply here: pairs of a case id and a reason. `faults::*` stands for
    /// all cases that need a connection on which faults can be injected, and `servers::*` for all cases
    /// that need servers that can be stopped. `modes::*` stands for all cases that need shared locks or
    /// permits.
    /// With `CONFORMANCE_STRICT=1` any other case that does not apply fails.
    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
}

/// Where one case runs.
///
/// Only [`connector`](Self::connector) is required. Each of the other methods makes more cases apply;
/// the remaining cases are shown as ignored, with the reason.
#[async_trait]
pub trait Env: Send + Sync + 'static {
    /// Returns the connector to the store. Every connection that it makes is a separate client.
    fn connector(&self) -> Arc<dyn Connect>;

    /// Returns the namespace of the case. Cases also use namespaces with this prefix.
    fn namespace(&self) -> Namespace {
        Namespace::default()
    }

    /// Returns the text by which [`Harness::join`] finds this environment from another process; `None`
    /// if the store exists only inside this process.
    fn ticket(&self) -> Option<String> {
        None
    }

    /// Starts a connector to the same store on which the suite can inject faults: usually a connector to
    /// the addresses of new [`Proxies`](crate::fault::Proxies). Its clients are equivalent to those of
    /// [`connector`](Self::connector). Returns `None` if this harness does not support faults.
    ///
    /// # Errors
    ///
    /// An error of the start; the case fails with this error.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        Ok(None)
    }

    /// Starts a store for this case only, whose servers can be killed and stopped without affecting other
    /// cases. Returns `None` if this harness does not support it.
    ///
    /// # Errors
    ///
    /// An error of the start; the case fails with this error.
    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        Ok(None)
    }

    /// Called with the name of a lock that another process of the case is about to use.
    fn note_lock_of_worker(&self, _name: &LockName) {}

    /// Returns the configured passwords and keys of the connector. They must not appear anywhere (S1).
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Deletes the whole state of this lock in the environment's namespace, as an operator with the
    /// store's own tools might. Returns `false` if this harness does not support it.
    ///
    /// # Errors
    ///
    /// An error of the store; the case fails with this error.
    async fn delete_state(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// Overwrites the state of this lock with bytes that no client writes (S2). Returns `false` if this
    /// harness does not support it.
    ///
    /// # Errors
    ///
    /// An error of the store; the case fails with this error.
    async fn corrupt(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// Replaces the state of this lock by state of a later version of the format (S3). Returns `false` if
    /// this harness does not support it.
    ///
    /// # Errors
    ///
    /// An error of the store; the case fails with this error.
    async fn write_newer_format(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns the number of locks of the environment's namespace that have any state in the store,
    /// including fencing state and tombstones (R4). Returns `None` if this harness does not support it.
    ///
    /// # Errors
    ///
    /// An error of the store; the case fails with this error.
    async fn residue(&self) -> Result<Option<usize>, Error> {
        Ok(None)
    }

    /// Cleans up after the case, whether it passed or not.
    async fn finish(&self) {}
}
