//! A case of the suite and its outcomes.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use tenure_core::error::Error;

use crate::context::CaseContext;

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
        self.since > 1 && self.since == crate::SUITE_VERSION
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

/// A property of an environment or a backend that a case requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Need {
    /// Other processes can reach the store ([`Env::ticket`](crate::Env::ticket)).
    Processes,
    /// The store sends messages to waiters.
    Push,
    /// Each lock has its own TTL, so that the renewal of one lock can stop while its client lives.
    OwnTtl,
    /// The lock's state can be deleted manually.
    DeleteState,
    /// The lock's state can be corrupted.
    Corrupt,
    /// The lock's state can be made to look newer.
    NewerFormat,
    /// There is a capability that the backend lacks.
    Lack,
    /// A secret is configured.
    Secrets,
    /// Faults can be injected on the connections to the store ([`Env::faulty`](crate::Env::faulty)).
    Faults,
    /// The servers can be stopped ([`Env::dedicated_store`](crate::Env::dedicated_store)).
    Servers,
}

impl Need {
    /// Explains why a case does not apply without this property.
    #[must_use]
    pub const fn missing(self) -> &'static str {
        match self {
            Self::Processes => "no other process can reach this store",
            Self::Push => "this store cannot send messages to waiters",
            Self::OwnTtl => "locks share a session here; one alone cannot fall silent",
            Self::DeleteState => "the harness cannot delete a lock's state by hand",
            Self::Corrupt => "the harness cannot scribble over a lock's state",
            Self::NewerFormat => "the harness cannot write state of a newer format",
            Self::Lack => "this backend has every capability that can be required",
            Self::Secrets => "no secret is configured",
            Self::Faults => "the harness has no way to the store that could be broken",
            Self::Servers => "the harness has no servers that could be stopped",
        }
    }
}

/// The outcome of a case.
pub type Outcome = Result<(), Stop>;

/// Why a case did not pass.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stop {
    /// The backend violated the contract, or the store was unusable.
    Failed(Failure),
    /// The case does not apply here.
    Ignored(Need),
}

/// An observation that contradicts the contract.
#[derive(Clone, Debug)]
pub struct Failure {
    clause: Option<&'static str>,
    text: String,
}

impl Failure {
    /// Creates a violation of the given clause; `None` stands for an error that prevented the case from
    /// running.
    #[must_use]
    pub fn new(clause: Option<&'static str>, text: impl Into<String>) -> Self {
        Self {
            clause,
            text: text.into(),
        }
    }

    pub(crate) fn with_note(mut self, note: impl fmt::Display) -> Self {
        self.text.push_str(&format!(" ({note})"));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.clause {
            Some(clause) => write!(f, "clause {clause} is broken: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let mut text = format!("the backend failed where it should not: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Failure::new(None, text).into()
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Failure::new(None, format!("this machine failed the case: {error}")).into()
    }
}

impl From<tokio::task::JoinError> for Stop {
    fn from(error: tokio::task::JoinError) -> Self {
        Failure::new(None, format!("a task of the case ended badly: {error}")).into()
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $clause:literal, $($text:tt)+) => {
        if !$holds {
            return Err($crate::case::Failure::new(Some($clause), format!($($text)+)).into());
        }
    };
}

/// Fails the case.
macro_rules! broken {
    ($clause:literal, $($text:tt)+) => {
        return Err($crate::case::Failure::new(Some($clause), format!($($text)+)).into())
    };
}

pub(crate) use {broken, ensure};
