//! The flaws, and for each the case that was named beforehand to find it.

/// One way in which a backend can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The token of a grant that expired is given again.
    TokenRepeatsAfterExpiry,
    /// A release takes the lock from whoever holds it.
    ReleaseWithoutOwnerCheck,
    /// A renewal that comes too late makes the grant anew.
    RenewalRevivesExpired,
    /// A stale renewal renews the present holder.
    RenewalExtendsAnothers,
    /// Nobody tells a waiter of its grant.
    GrantNeverPushed,
    /// An attempt that does not want to wait stays in the queue.
    BusyLeavesAnEntry,
    /// An eviction takes whoever holds the lock.
    EvictWithoutTokenCheck,
    /// A report of an unknown entry makes one.
    ReportCreates,
    /// A release tells every waiter that it holds the lock.
    ReleaseWakesAll,
    /// A waiter that comes later goes before the last one.
    WaiterCutsIn,
    /// The client that holds a lock gets it again.
    Reentrant,
    /// Nobody tells a holder of its eviction, though that is declared.
    EvictionNotPushed,
    /// Names that differ in case are one lock.
    NamesFoldCase,
    /// Inspecting renews the holder.
    InspectRenews,
    /// A removal after an unknown outcome fences nothing off, although entries outlive their
    /// attempt.
    NoFencing,
    /// The store keeps grants for half of the TTL that it states.
    HalfTheTtl,
    /// There is no exclusion.
    NoExclusion,
    /// The password shows in a debug text.
    LeaksSecret,
    /// A release frees nobody, and says that it did.
    ReleaseDoesNothing,
    /// The token changes with a renewal.
    TokenChangesOnRenewal,
}

/// Every flaw, the case that must find it, and the clause that this case must name.
pub(crate) const FLAWS: &[(Flaw, &str, &str)] = {
    use Flaw::*;
    &[
        (TokenRepeatsAfterExpiry, "token::rises_over_expiry", "T1"),
        (
            ReleaseWithoutOwnerCheck,
            "releasing::stale_one_frees_nobody",
            "R1",
        ),
        (
            RenewalRevivesExpired,
            "renewing::never_revives_the_expired",
            "K2",
        ),
        (
            RenewalExtendsAnothers,
            "renewing::never_extends_anothers",
            "K2",
        ),
        (GrantNeverPushed, "waiting::message_wakes_the_waiter", "W2"),
        (BusyLeavesAnEntry, "acquiring::busy_leaves_nothing", "A5"),
        (
            EvictWithoutTokenCheck,
            "looking::eviction_needs_the_token",
            "I2",
        ),
        (ReportCreates, "waiting::report_never_creates", "W5"),
        (
            ReleaseWakesAll,
            "waiting::release_wakes_the_next_alone",
            "W3",
        ),
        (WaiterCutsIn, "waiting::grants_follow_the_queue", "W1"),
        (Reentrant, "exclusion::one_client_is_not_reentrant", "X2"),
        (
            EvictionNotPushed,
            "loss::eviction_is_noticed_as_declared",
            "L2",
        ),
        (NamesFoldCase, "names::different_names_stay_apart", "N2"),
        (InspectRenews, "looking::changes_nothing", "I1"),
        (NoFencing, "acquiring::fenced_attempt_never_enters", "A4"),
        (HalfTheTtl, "exclusion::silent_holder_keeps_its_ttl", "X3"),
        (NoExclusion, "exclusion::tasks_never_overlap", "X1"),
        (LeaksSecret, "secrets::show_nowhere", "S1"),
        (
            ReleaseDoesNothing,
            "releasing::acknowledged_one_frees_at_once",
            "R2",
        ),
        (TokenChangesOnRenewal, "token::comes_with_the_grant", "T2"),
    ]
};
