//! What the author of a backend implements: how the suite gets at the store.

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
    /// What the store is called in messages.
    fn name(&self) -> &str;

    /// Makes an environment for one case: a namespace that nobody else uses. Cases run at the
    /// same time, each in its own environment.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from being used; the case fails with it.
    async fn start(&self) -> Result<Arc<dyn Env>, Error>;

    /// Enters, in another process, the environment whose [`Env::ticket`] is given. Needed only if
    /// environments have tickets.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from being used; the case fails with it.
    async fn join(&self, _ticket: &str) -> Result<Arc<dyn Env>, Error> {
        Err(
            Error::new(ErrorKind::Unsupported, "joining a conformance run")
                .with_detail("this harness gives out tickets but does not implement `join`"),
        )
    }

    /// Which version the store's servers have, for reports; `None` if that is not known. Asked after
    /// the cases.
    fn store_version(&self) -> Option<String> {
        None
    }

    /// The cases that are known not to apply here, and why: pairs of a case's id and a reason.
    /// `faults::*` stands for all that need a way to the store that can be broken, and `servers::*`
    /// for all that need servers that can be stopped.
    /// With `CONFORMANCE_STRICT=1` any other case that does not apply fails.
    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
}

/// Where one case runs.
///
/// Only [`connector`](Self::connector) is needed. Each of the others lets more cases apply; what
/// is not offered shows as ignored, with the reason.
#[async_trait]
pub trait Env: Send + Sync + 'static {
    /// The way to the store. Every connection that it makes is a client of its own.
    fn connector(&self) -> Arc<dyn Connect>;

    /// The namespace of the case. Cases also use namespaces that begin with it.
    fn namespace(&self) -> Namespace {
        Namespace::default()
    }

    /// By what [`Harness::join`] finds this environment from another process; `None` if the store
    /// lives inside of this one.
    fn ticket(&self) -> Option<String> {
        None
    }

    /// A way to the same store that the suite can break: mostly a connector to the addresses of
    /// [`Proxies`](crate::fault::Proxies), which are started for that. Its clients are as those of
    /// [`connector`](Self::connector). `None` if this harness has none.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being made; the case fails with it.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        Ok(None)
    }

    /// A store of the case's own, whose servers can be killed and stopped without harm to other
    /// cases; started for that. `None` if this harness has none.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being started; the case fails with it.
    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        Ok(None)
    }

    /// Passwords and keys that the connector was configured with. They must show nowhere (S1).
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Deletes all that the store holds for this lock in the environment's namespace, as somebody
    /// with the store's own tools might. Returns `false` if this harness cannot do that.
    ///
    /// # Errors
    ///
    /// Whatever kept it from happening; the case fails with it.
    async fn delete_state(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// Scribbles over what the store holds for this lock (S2). Returns `false` if this harness
    /// cannot do that.
    ///
    /// # Errors
    ///
    /// Whatever kept it from happening; the case fails with it.
    async fn corrupt(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// Makes what the store holds for this lock look as if a later version of the format had
    /// written it (S3). Returns `false` if this harness cannot do that.
    ///
    /// # Errors
    ///
    /// Whatever kept it from happening; the case fails with it.
    async fn write_newer_format(&self, _name: &LockName) -> Result<bool, Error> {
        Ok(false)
    }

    /// How many locks of the environment's namespace have any state in the store, fencing state
    /// and what is fenced off included (R4); `None` if this harness cannot tell.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being counted; the case fails with it.
    async fn residue(&self) -> Result<Option<usize>, Error> {
        Ok(None)
    }

    /// Cleans up after the case, whether it passed or not.
    async fn finish(&self) {}
}
