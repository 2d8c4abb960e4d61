//! What can be set about a directory of locks.

use tenure_core::queue::ClockId;

/// The options of a [`FileStore`](crate::FileStore). All are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Several users of one group share the directory: what is made in it can be written by its
    /// group (modes 2770 and 660), and it may belong to somebody else. Whoever is in that group
    /// may take and break every lock in it.
    pub shared: bool,
    /// The directory may be on a network or FUSE file system. `rename` must be atomic there for
    /// all who use it, and what it answers must be true. Processes of other hosts do not share
    /// our clock, and the FIFOs do not reach them: their waiters find out by their reports.
    pub allow_network: bool,
    pub(crate) clock: Option<ClockId>,
    pub(crate) inline: bool,
}

impl Options {
    /// The names under which a configuration may set them.
    pub const KEYS: &'static [&'static str] = &["allow_network", "shared"];

    /// The directory is for several users of one group.
    #[must_use]
    pub const fn shared(mut self, yes: bool) -> Self {
        self.shared = yes;
        self
    }

    /// The directory may be on a network or FUSE file system.
    #[must_use]
    pub const fn allow_network(mut self, yes: bool) -> Self {
        self.allow_network = yes;
        self
    }

    /// For tests: as if this process ran under another boot of the machine.
    #[doc(hidden)]
    #[must_use]
    pub const fn clock_identity(mut self, clock: ClockId) -> Self {
        self.clock = Some(clock);
        self
    }

    /// For tests: make every system call in the thread that asks.
    #[doc(hidden)]
    #[must_use]
    pub const fn inline(mut self, yes: bool) -> Self {
        self.inline = yes;
        self
    }

    pub(crate) const fn dir_mode(self) -> u32 {
        if self.shared { 0o2770 } else { 0o700 }
    }

    pub(crate) const fn file_mode(self) -> u32 {
        if self.shared { 0o660 } else { 0o600 }
    }
}
