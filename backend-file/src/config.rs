//! The options of a directory of locks.

use tenure_core::queue::ClockId;

/// The options of a [`FileStore`](crate::FileStore). All are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Whether several users of one group share the directory. Files in it are then writable by the
    /// group (modes 2770 and 660), and the directory may belong to another user. Every member of
    /// the group can take and break every lock in it. No member can make a client read or change
    /// anything outside of it: links are not followed.
    pub shared: bool,
    /// Whether the directory may be on a network or FUSE file system. `rename` must be atomic there
    /// for all its users, and must report its outcome correctly. Processes of other hosts have a
    /// different clock, and the FIFOs do not reach them: their waiters learn of their grants from
    /// their reports.
    pub allow_network: bool,
    pub(crate) clock: Option<ClockId>,
    pub(crate) inline: bool,
}

impl Options {
    /// The names of the options in a configuration.
    pub const KEYS: &'static [&'static str] = &["allow_network", "shared"];

    /// Sets whether several users of one group share the directory.
    #[must_use]
    pub const fn shared(mut self, yes: bool) -> Self {
        self.shared = yes;
        self
    }

    /// Sets whether the directory may be on a network or FUSE file system.
    #[must_use]
    pub const fn allow_network(mut self, yes: bool) -> Self {
        self.allow_network = yes;
        self
    }

    /// For tests: pretends that this process runs under another boot of the machine.
    #[doc(hidden)]
    #[must_use]
    pub const fn clock_identity(mut self, clock: ClockId) -> Self {
        self.clock = Some(clock);
        self
    }

    /// For tests: makes every system call in the calling thread.
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
