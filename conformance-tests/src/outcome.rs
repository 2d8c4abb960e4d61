//! The outcome of a case: passed, failed with an observation, or not applicable.

use std::fmt;

use tenure_core::error::Error;

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
    /// The backend has shared locks.
    Shared,
    /// The backend has locks with several permits.
    Permits,
    /// A secret is configured.
    Secrets,
    /// Faults can be injected on the connections to the store ([`Env::faulty`](crate::Env::faulty)).
    Faults,
    /// Faults can be injected on the connections to one server of several
    /// ([`Line::set_on`](crate::fault::Line::set_on)).
    SeveralServers,
    /// The servers can be stopped ([`Env::dedicated_store`](crate::Env::dedicated_store)).
    Servers,
    /// Another server takes over from the one that leads, which can be killed
    /// ([`ServerAction::FailOver`](crate::servers::ServerAction::FailOver)).
    FailOver,
    /// The server that leads can be cut off from the others
    /// ([`ServerAction::Partition`](crate::servers::ServerAction::Partition)).
    Partition,
}

impl Need {
    /// Whether the case needs a store for itself, whose servers obey the suite.
    pub(crate) const fn is_about_servers(self) -> bool {
        matches!(
            self,
            Self::Servers | Self::SeveralServers | Self::FailOver | Self::Partition
        )
    }

    /// Whether the case is about a mode that a backend need not offer.
    pub(crate) const fn is_about_modes(self) -> bool {
        matches!(self, Self::Shared | Self::Permits)
    }

    /// Explains why a case does not apply without this property.
    #[must_use]
    pub const fn missing(self) -> &'static str {
        match self {
            Self::Processes => "no other process can reach this store",
            Self::Push => "this store cannot send messages to waiters",
            Self::OwnTtl => {
                "the locks of a client share a session, so that one lock alone cannot expire"
            }
            Self::DeleteState => "the harness cannot delete a lock's state",
            Self::Corrupt => "the harness cannot corrupt a lock's state",
            Self::NewerFormat => "the harness cannot write state of a newer format",
            Self::Lack => "this backend has every capability that can be required",
            Self::Shared => "this backend has no shared locks",
            Self::Permits => "this backend has no locks with several permits",
            Self::Secrets => "no secret is configured",
            Self::Faults => "the harness cannot inject faults on connections to the store",
            Self::SeveralServers => "a client of this store has one server",
            Self::Servers => "the harness has no servers that it can stop",
            Self::FailOver => "the harness has no server that takes over from another one",
            Self::Partition => "the harness cannot cut one server off from the others",
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
        let mut text = format!("unexpected error of the backend: {error}");
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
        Failure::new(
            None,
            format!("this machine could not run the case: {error}"),
        )
        .into()
    }
}

impl From<tokio::task::JoinError> for Stop {
    fn from(error: tokio::task::JoinError) -> Self {
        Failure::new(None, format!("a task of the case failed: {error}")).into()
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $clause:literal, $($text:tt)+) => {
        if !$holds {
            return Err($crate::outcome::Failure::new(Some($clause), format!($($text)+)).into());
        }
    };
}

/// Fails the case.
macro_rules! broken {
    ($clause:literal, $($text:tt)+) => {
        return Err($crate::outcome::Failure::new(Some($clause), format!($($text)+)).into())
    };
}

pub(crate) use {broken, ensure};
