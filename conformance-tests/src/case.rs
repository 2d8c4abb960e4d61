//! A case of the suite.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use crate::{
    context::CaseContext,
    outcome::{Need, Outcome},
};

/// The version of the suite. It rises with a case that a correct backend may fail without additional work.
/// Such a case is a [preview](Case::is_preview) until the next version.
pub const SUITE_VERSION: u32 = 3;

/// One case of the suite.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// The id, such as `exclusion::tasks_never_overlap`.
    pub id: &'static str,
    /// The clauses of the contract that it proves.
    pub clauses: &'static [&'static str],
    /// The requirement on the environment; a case without a requirement always applies.
    pub needs: Option<Need>,
    /// The version of the suite that introduced the case. A case of the current version is a
    /// [preview](Self::is_preview).
    pub since: u32,
    /// The tested behaviour in one sentence.
    pub about: &'static str,
    /// The function of the case.
    pub(crate) run: fn(Arc<CaseContext>) -> Run,
}

/// A running case.
pub(crate) type Run = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Case {
    /// Returns whether the current version of the suite introduced the case, so that authors of backends
    /// have not had time to adapt. Unless a run is strict, a failure of a preview is shown and does not
    /// fail the run.
    #[must_use]
    pub const fn is_preview(&self) -> bool {
        self.since > 1 && self.since == SUITE_VERSION
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("id", &self.id)
            .field("clauses", &self.clauses)
            .finish_non_exhaustive()
    }
}
