//! The flaws: for each of them who shipped it, the clause that it breaks, and the case that was named
//! beforehand to find it.

/// A backend that is broken in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutant {
    pub(crate) flaw: Flaw,
    /// What is wrong with it.
    pub(crate) what: &'static str,
    /// Where that was shipped; see `docs/mutants.md` for what the short names stand for.
    pub(crate) source: &'static str,
    pub(crate) clause: &'static str,
    /// Who must find it.
    pub(crate) case: &'static str,
}

/// Declares the flaws and their table in one.
macro_rules! mutants {
    ($($flaw:ident [$clause:ident] $case:literal $source:literal $what:literal;)+) => {
        /// One way in which a backend can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Flaw {
            $(#[doc = $what] $flaw,)+
        }

        /// All of them, in the order of their numbers: a new one goes to the end.
        pub(crate) const MUTANTS: &[Mutant] = &[$(Mutant {
            flaw: Flaw::$flaw,
            what: $what,
            source: $source,
            clause: stringify!($clause),
            case: $case,
        },)+];
    };
}

mutants! {
    TokenRepeatsAfterExpiry [T1] "token::rises_over_expiry" "dlock 0.2"
        "The token of a grant that expired is given again.";
    ReleaseWithoutOwnerCheck [R1] "releasing::stale_one_frees_nobody" "etcd v3lock `Unlock`; ShedLock `EtcdLockProvider`"
        "A release takes the lock from whoever holds it.";
    RenewalRevivesExpired [K2] "renewing::never_revives_the_expired" "libkv 31"
        "A renewal that comes too late makes the grant anew.";
    RenewalExtendsAnothers [K2] "renewing::never_extends_anothers" "libkv 31; distributed-lock-rs"
        "A stale renewal renews the present holder.";
    GrantNeverPushed [W2] "waiting::message_wakes_the_waiter" "libkv 141; Redisson 6150"
        "Nobody tells a waiter of its grant.";
    BusyLeavesAnEntry [A5] "acquiring::busy_leaves_nothing" "tooz `etcd3gw`: failed tries leave leases"
        "An attempt that does not want to wait stays in the queue.";
    EvictWithoutTokenCheck [I2] "inspect_evict::eviction_needs_the_token" "ours; what Terraform's `force-unlock` has its id for"
        "An eviction takes whoever holds the lock.";
    ReportCreates [W5] "waiting::report_never_creates" "ours"
        "A report of an unknown entry makes one.";
    ReleaseWakesAll [W3] "waiting::release_wakes_the_next_alone" "Redisson `LockPubSub`"
        "A release tells every waiter that it holds the lock.";
    WaiterCutsIn [W1] "waiting::grants_follow_the_queue" "python-redis-lock: the signal reserves nothing"
        "A waiter that comes later goes before the last one.";
    Reentrant [X2] "exclusion::one_client_is_not_reentrant" "etcd `concurrency.Mutex` on one session"
        "The client that holds a lock gets it again.";
    EvictionNotPushed [L2] "loss::eviction_is_noticed_as_declared" "distributed-lock-rs: an empty monitor"
        "Nobody tells a holder of its eviction, though that is declared.";
    NamesFoldCase [N2] "names::different_names_stay_apart" "DistributedLock has a test for it; file systems do it"
        "Names that differ in case are one lock.";
    InspectRenews [I1] "inspect_evict::changes_nothing" "ours"
        "Inspecting renews the holder.";
    NoFencing [A4] "acquiring::fenced_attempt_never_enters" "ours: 60 of 400 late enqueues on etcd"
        "A removal after an unknown outcome fences nothing off, although entries outlive their attempt.";
    HalfTheTtl [X3] "exclusion::silent_holder_keeps_its_ttl" "Redisson `lockAndGetToken` ignores its lease time"
        "The store keeps grants for half of the TTL that it states.";
    NoExclusion [X1] "exclusion::tasks_never_overlap" "KeyDB with two active masters"
        "There is no exclusion.";
    LeaksSecret [S1] "secrets::show_nowhere" "ours"
        "The password shows in a debug text.";
    ReleaseDoesNothing [R2] "releasing::acknowledged_one_frees_at_once" "rslock: a dropped guard; Curator 678"
        "A release frees nobody, and says that it did.";
    TokenChangesOnRenewal [T2] "token::comes_with_the_grant" "Redisson: the token rises on re-entry"
        "The token changes with a renewal.";
    TokenResetOnRelease [T1] "token::rises_over_release" "DistributedLock `MongoDistributedLock`"
        "The token lives in the lock's record, and begins anew when that is deleted with the release.";
    WaiterLifeIsAnother [W5] "deadline::pushed_grant_expires_with_the_entry" "tooz `etcd3gw`: the wait's time-out is the lease's TTL"
        "What waits has another time to live than the TTL that was asked for.";
    OneIdPerClient [R1] "releasing::stale_one_of_the_same_client_frees_nobody" "distributed-lock-rs; Spring Integration"
        "All attempts of a client at a lock have one id.";
    DeletionNotPushed [L2] "loss::deletion_is_noticed_as_declared" "distributed-lock-rs; ShedLock 27"
        "Nobody tells a holder that its state was deleted, though that is declared.";
    RenewalStopsAfterError [L5] "faults::broken_connections_end_no_grant" "Redisson 775; ShedLock `KeepAliveLockProvider`"
        "After one renewal that fails no other is sent.";
    RenewalAfterRelease [K3] "renewing::nothing_comes_back_after_the_release" "Redisson 7272"
        "A renewal that was on its way when the lock was released takes it again.";
    GrantToLapsed [W4] "waiting::lapsed_waiter_is_never_granted" "etcd 11456"
        "A waiter is granted the lock though its own entry has lapsed meanwhile.";
    GetThenPut [X1] "exclusion::tasks_never_overlap" "py-sherlock's example of a plugin"
        "Whether the lock is free is read first, and then it is written.";
    ProvedFromTheReply [D1] "faults::slow_store_counts_against_the_holder" "DistributedLock `LeaseMonitor`; etcd's Go client"
        "A proof counts from its answer.";
    SuspendedTakenForHeld [L1] "faults::holder_in_a_black_hole_is_succeeded" "tooz: the heart beats on, and nobody is told"
        "A client that reaches nobody goes on proving its grants.";
    LostReplyLeavesAGhost [A3] "acquiring::unknown_outcome_is_an_error" "kazoo 732; zookeeper-client 0.11 `lock`"
        "An attempt whose answer was lost is not taken out of the queue.";
    CancelledKeepsItsPlace [W3] "waiting::leaving_disturbs_nobody" "Redisson 4456; Curator 315"
        "A waiter that leaves stays in the queue.";
    WakeUpLost [W3] "waiting::leaving_loses_nobodys_message" "Redisson 3004; Curator 644"
        "The next message is lost when a waiter has left.";
    NamesAreJoined [N2] "names::namespaces_stay_apart" "ours"
        "Namespace and name are joined without encoding.";
    SecretInAnError [S1] "faults::refused_client_goes_on_by_itself" "ours: an address with its user information in an error"
        "The error of a store that cannot be reached shows the password.";
    PushFromBefore [D4] "deadline::messages_are_dated_after_the_answers" "ours: replies and messages overtake each other on one connection"
        "A message is not dated, so that one from before the last answer cannot be told from one after it.";
    ExistenceIsProof [K1] "renewing::keeps_the_lock_beyond_its_ttl" "etcd: a lease that lives says nothing of the key"
        "A renewal looks whether the entry is there, and takes that for a proof.";
    LosesWhatItAcknowledged [X1] "renewing::keeps_the_lock_beyond_its_ttl" "Redisson 5256: a replica that acknowledged something else"
        "What was acknowledged is lost, as in a failover to a replica that had it not.";
    ErrorIsLoss [L5] "faults::broken_connections_end_no_grant" "distributed-lock-rs: any error means lost at once"
        "A renewal that fails is told as a loss.";
    SameAttemptNewToken [T3] "token::same_attempt_same_grant" "Redisson: the token rises on re-entry"
        "Asking again for the same attempt gives another token.";
    WrongReason [L3] "loss::eviction_is_noticed_as_declared" "DistributedLock 160: a loss without its cause"
        "A loss is told with another reason.";
    TryWaits [A1] "acquiring::try_does_not_wait" "tooz `etcd3gw`: `acquire(timeout)` waits for ever"
        "A try waits for the lock.";
    RepeatTakesTheLastPlace [A2] "acquiring::requests_can_be_repeated" "libkv 186: an ambiguous write that is repeated"
        "An enqueue that is repeated goes to the end of the queue.";
    BusyWithoutHolder [A5] "acquiring::busy_says_who" "Redisson 2116; Dapr 6062"
        "A taken lock does not say who has it.";
    QueueShownBackwards [I1] "inspect_evict::shows_holder_and_queue" "ours"
        "The queue is shown in another order than that of the turns.";
    LeavesAnEntry [R4] "releasing::nothing_stays_after_many_cycles" "etcd pull request 10117: leases without an owner"
        "Each release leaves an entry behind.";
    CapabilitiesChange [C1] "capabilities::make_sense" "ours"
        "What is declared is another thing each time.";
    TokensEndWithTheServer [T1] "servers::killed_for_a_moment" "ours: a counter that a server without a disk forgets"
        "A server that was killed and started again begins its tokens anew.";
    StaysWithTheDead [W2] "servers::stopped_past_the_ttl" "ours: a connection that is kept for as long as nobody closes it"
        "A client that asked a server that stood still goes on waiting for that connection.";
    OwnersEndWithTheServer [R1] "servers::killed_past_the_ttl" "ours: a record of the owner that a server without a disk forgets"
        "A server that was killed and started again lets anybody release.";
    AwayIsBusy [A3] "servers::killed_past_the_ttl" "ours: a failed try that is made a plain no"
        "A try that cannot reach the store says that the lock is taken.";
}
