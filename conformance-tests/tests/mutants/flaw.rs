//! The flaws: for each one its source, the clause that it violates, and the case that must find it.

/// A backend that is broken in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutant {
    pub(crate) flaw: Flaw,
    /// The description of the flaw.
    pub(crate) what: &'static str,
    /// The software with this flaw; `docs/mutants.md` explains the short names.
    pub(crate) source: &'static str,
    pub(crate) clause: &'static str,
    /// The case that must find the flaw.
    pub(crate) case: &'static str,
}

/// Declares the flaws and their table.
macro_rules! mutants {
    ($($flaw:ident [$clause:ident] $case:literal $source:literal $what:literal;)+) => {
        /// A flaw of a backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Flaw {
            $(#[doc = $what] $flaw,)+
        }

        /// All flaws in the order of their numbers; append new ones.
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
        "The token of an expired grant is used again.";
    ReleaseWithoutOwnerCheck [R1] "releasing::stale_one_frees_nobody" "etcd v3lock `Unlock`; ShedLock `EtcdLockProvider`"
        "A release ends the grant of any holder.";
    RenewalRevivesExpired [K2] "renewing::never_revives_the_expired" "libkv 31"
        "A late renewal restores an expired grant.";
    RenewalExtendsAnothers [K2] "renewing::never_extends_anothers" "libkv 31; distributed-lock-rs"
        "A stale renewal extends the current holder's grant.";
    GrantNeverPushed [W2] "waiting::message_wakes_the_waiter" "libkv 141; Redisson 6150"
        "A waiter gets no message of its grant.";
    BusyLeavesAnEntry [A5] "acquiring::busy_leaves_nothing" "tooz `etcd3gw`: failed tries leave leases"
        "An attempt that does not wait stays in the queue.";
    EvictWithoutTokenCheck [I2] "inspect_evict::eviction_needs_the_token" "ours; Terraform's `force-unlock` takes an id to prevent it"
        "An eviction ends the grant of any holder.";
    DiscardsAHeldLock [R4] "releasing::discard_needs_a_free_lock" "ours"
        "A discard does not check whether the lock is free.";
    ReportCreates [W5] "waiting::report_never_creates" "ours"
        "The renewal of an unknown entry creates one.";
    ReleaseWakesAll [W3] "waiting::release_wakes_the_next_alone" "Redisson `LockPubSub`"
        "A release sends every waiter the message of a grant.";
    WaiterCutsIn [W1] "waiting::grants_follow_the_queue" "python-redis-lock: the signal reserves nothing"
        "A new waiter is placed before the last one.";
    Reentrant [X2] "exclusion::one_client_is_not_reentrant" "etcd `concurrency.Mutex` on one session"
        "A client that holds a lock is granted it again.";
    EvictionNotPushed [L2] "loss::eviction_is_noticed_as_declared" "distributed-lock-rs: its monitor does nothing"
        "A holder gets no message of its eviction, although the backend declares it.";
    NamesFoldCase [N2] "names::different_names_stay_apart" "DistributedLock has a test for it; file systems do it"
        "Names that differ in case only are one lock.";
    InspectRenews [I1] "inspect_evict::changes_nothing" "ours"
        "An inspection renews the holder.";
    NoFencing [A4] "acquiring::fenced_attempt_never_enters" "ours: 60 of 400 late enqueues on etcd"
        "A removal after an unknown outcome leaves no tombstone, although entries outlive their attempt.";
    HalfTheTtl [X3] "exclusion::silent_holder_keeps_its_ttl" "Redisson `lockAndGetToken` ignores its lease time"
        "The store keeps grants for half of their TTL only.";
    NoExclusion [X1] "exclusion::tasks_never_overlap" "KeyDB with two active masters"
        "There is no mutual exclusion.";
    LeaksSecret [S1] "secrets::show_nowhere" "ours"
        "A debug text contains the password.";
    ReleaseDoesNothing [R2] "releasing::acknowledged_one_frees_at_once" "rslock: a dropped guard; Curator 678"
        "A release does not free the lock, but reports success.";
    TokenChangesOnRenewal [T2] "token::comes_with_the_grant" "Redisson: the token rises on re-entry"
        "The token changes with a renewal.";
    TokenResetOnRelease [T1] "token::rises_over_release" "DistributedLock `MongoDistributedLock`"
        "The token is stored in the lock's record, which the release deletes, so that tokens restart.";
    WaiterLifeIsAnother [W5] "deadline::pushed_grant_expires_with_the_entry" "tooz `etcd3gw`: the wait's time-out is the lease's TTL"
        "The entry of a waiter has another TTL than the requested one.";
    OneIdPerClient [R1] "releasing::stale_one_of_the_same_client_frees_nobody" "distributed-lock-rs; Spring Integration"
        "All attempts of a client on a lock have the same id.";
    DeletionNotPushed [L2] "loss::deletion_is_noticed_as_declared" "distributed-lock-rs; ShedLock 27"
        "A holder gets no message of the deletion of its state, although the backend declares it.";
    RenewalStopsAfterError [L5] "faults::broken_connections_end_no_grant" "Redisson 775; ShedLock `KeepAliveLockProvider`"
        "After a failed renewal no further renewal is sent.";
    RenewalAfterRelease [K3] "renewing::nothing_comes_back_after_the_release" "Redisson 7272"
        "A renewal in flight during the release restores the grant.";
    GrantToLapsed [W4] "waiting::lapsed_waiter_is_never_granted" "etcd 11456"
        "A waiter is granted the lock although its entry has expired.";
    GetThenPut [X1] "exclusion::tasks_never_overlap" "the plugin example of py-sherlock"
        "A read checks that the lock is free, and a separate write takes it.";
    ProvedFromTheReply [D1] "faults::slow_store_counts_against_the_holder" "DistributedLock `LeaseMonitor`; etcd's Go client"
        "A proof counts from its reply.";
    SuspendedTakenForHeld [L1] "faults::holder_in_a_black_hole_is_succeeded" "tooz: heartbeats continue without a report of the loss"
        "A client without a connection continues to prove its grants.";
    LostReplyLeavesAGhost [A3] "acquiring::unknown_outcome_is_an_error" "kazoo 732; zookeeper-client 0.11 `lock`"
        "An attempt whose reply was lost is not removed from the queue.";
    CancelledKeepsItsPlace [W3] "waiting::leaving_disturbs_nobody" "Redisson 4456; Curator 315"
        "A waiter that leaves stays in the queue.";
    WakeUpLost [W3] "waiting::leaving_loses_nobodys_message" "Redisson 3004; Curator 644"
        "When a waiter leaves, the next message is lost.";
    NamesAreJoined [N2] "names::namespaces_stay_apart" "ours"
        "Namespace and name are concatenated without encoding.";
    SecretInAnError [S1] "faults::refused_client_goes_on_by_itself" "ours: an address with its user information in an error"
        "The error of an unreachable store contains the password.";
    PushFromBefore [D4] "deadline::messages_are_dated_after_the_answers" "ours: replies and messages overtake each other on one connection"
        "A message has no store time, so that it cannot be ordered against the last reply.";
    ExistenceIsProof [K1] "renewing::keeps_the_lock_beyond_its_ttl" "etcd: a live lease does not prove that the key exists"
        "A renewal only checks that the entry exists, and counts this as a proof.";
    LosesWhatItAcknowledged [X1] "renewing::keeps_the_lock_beyond_its_ttl" "Redisson 5256: a replica that acknowledged something else"
        "An acknowledged grant is lost, as in a failover to a replica without it.";
    ReleasesUnderTheHolder [X1] "faults::holder_that_hears_nothing_is_succeeded" "ours: `tenure run` released a lock under a command that it could not stop"
        "When a renewal is not answered, the driver releases the lock, and the holder is not told.";
    ErrorIsLoss [L5] "faults::broken_connections_end_no_grant" "distributed-lock-rs: any error means lost at once"
        "A failed renewal is reported as a loss.";
    SameAttemptNewToken [T3] "token::same_attempt_same_grant" "Redisson: the token rises on re-entry"
        "A repeated request for the same attempt returns another token.";
    WrongReason [L3] "loss::eviction_is_noticed_as_declared" "DistributedLock 160: a loss without its cause"
        "A loss is reported with a wrong reason.";
    TryWaits [A1] "acquiring::try_does_not_wait" "tooz `etcd3gw`: `acquire(timeout)` waits forever"
        "A try waits for the lock.";
    RepeatTakesTheLastPlace [A2] "acquiring::requests_can_be_repeated" "libkv 186: an ambiguous write that is repeated"
        "A repeated enqueue moves to the end of the queue.";
    BusyWithoutHolder [A5] "acquiring::busy_says_who" "Redisson 2116; Dapr 6062"
        "The reply about a taken lock does not contain the holder.";
    QueueShownBackwards [I1] "inspect_evict::shows_holder_and_queue" "ours"
        "The queue is shown in another order than the order of the grants.";
    LeavesAnEntry [R4] "releasing::nothing_stays_after_many_cycles" "etcd pull request 10117: leases without an owner"
        "Each release leaves an entry.";
    CapabilitiesChange [C1] "capabilities::make_sense" "ours"
        "The declared capabilities change with each request.";
    TokensEndWithTheServer [T1] "servers::killed_for_a_moment" "ours: a server without a disk loses its counter"
        "The tokens restart with the server.";
    StaysWithTheDead [W2] "servers::stopped_past_the_ttl" "ours: a connection is kept until it is closed"
        "After a request to a stopped server, a client waits for this connection forever.";
    OwnersEndWithTheServer [R1] "servers::killed_past_the_ttl" "ours: a server without a disk loses the record of the owner"
        "After a restart of the server, any client can release.";
    AwayIsBusy [A3] "servers::killed_past_the_ttl" "ours: a failed try is reported as busy"
        "A try on an unreachable store reports the lock as taken.";
    ReportInTwoTrips [W2] "faults::slow_waiter_keeps_its_place" "ours: a waiter's report on ZooKeeper was up to four requests in a row"
        "A report first asks who holds the lock, and gives up unless both round trips end within the time limit of one request.";
    LateGrantThrownAway [W2] "faults::slow_client_stops_nobody" "ours: a waiter on ZooKeeper that was first found that out anew with each report"
        "A grant that a waiter's report finds too late is not reported, and no message announces it.";
    GivesUpAfterATimeout [W2] "faults::wait_outlives_an_unanswered_enqueue" "ours: an acquire ended with its first request that timed out"
        "An enqueue without an answer is an error that no later attempt can mend.";
    StaysWithTheKilled [W2] "servers::failover" "ours: a driver must have more than one address"
        "A client whose server has ended asks no other server.";
    StaysWithTheSlow [W2] "servers::slow_server_is_left" "ours: on ZooKeeper any answer counted as a sign of life"
        "A client stays with a server that answers every request too late.";
    StaysWithTheIsolated [W2] "servers::partition" "etcd's Go client: an endpoint that accepts connections counts as healthy"
        "A client stays with a server that is cut off from the others.";
    BelievesTheFormerLeader [X1] "servers::partition" "etcd 3.4: a leader without followers answers keep-alives"
        "An answer of a leader that is cut off from the others counts as a proof.";
    FenceAfterARefusal [R4] "faults::refused_client_goes_on_by_itself" "ours: 4,043 refused acquires left 4,059 keys in a Redis server without memory"
        "An enqueue that was refused is fenced off, although it had no effect.";
    TakesOverLate [X3] "exclusion::silent_holder_is_succeeded" "ours: an adapter's author declared 13 s, where a late waiter took 15.4 s"
        "A silent holder's lock is granted again later than the takeover bound that is declared.";
    SharedIsExclusive [M1] "modes::readers_share_and_writers_exclude" "ours"
        "A backend declares shared locks, and grants them to one holder at a time.";
    WriterBesideReaders [M1] "modes::readers_share_and_writers_exclude" "ours"
        "A writer is granted the lock beside readers.";
    ReleaseOfOneIsOfAll [M1] "modes::readers_share_and_writers_exclude" "Redisson: a read lock whose key is deleted by one reader"
        "The release of one reader ends the grants of all.";
    PermitsNotSummed [M1] "modes::permits_are_counted" "ours"
        "Each holder of permits counts as one.";
    OtherTotalAccepted [M6] "modes::permits_are_counted" "Curator: the number of leases is each client's own"
        "An attempt that names another number of permits is counted by the holders' number.";
    ReadersPassWriters [M2] "modes::readers_do_not_pass_a_waiting_writer" "etcd's recipe of a reader-writer lock"
        "A reader that does not wait passes a waiting writer.";
    ReadersStarveWriters [M2] "modes::readers_do_not_starve_a_writer" "reader-writer locks that prefer readers"
        "Readers that keep coming are granted the lock before a writer that waits.";
    SmallPassLarge [M2] "modes::small_requests_do_not_pass_a_large_one" "semaphores without a queue"
        "A small request for permits passes a large one.";
    OnlyTheFirstIsWoken [W2] "modes::one_release_admits_all_whose_turn_it_is" "kazoo 649"
        "Of several waiters that one release admits, only the first gets a message.";
    PermitsNotPushed [W2] "modes::last_of_several_wakes_the_next" "ours: a waiter that watches only the entry ahead of it"
        "A waiter for permits gets no message of its grant.";
    PermitsOfTheDead [X3] "modes::dead_reader_delays_by_its_ttl" "Redisson 2045: the permits of a dead host never return"
        "The permits of a holder that has died are not granted again.";
    OneRenewsAll [K2] "modes::renewal_extends_one_of_several" "Redisson 7098"
        "The renewal of one reader extends the grants of all.";
    EvictsAllReaders [I2] "modes::eviction_names_one_of_several" "ours"
        "The eviction of one reader ends the grants of all.";
    FloorIsTheToken [M3] "modes::floor_is_the_lowest_live_token" "ours"
        "The floor of a reader is its own token, so that a resource refuses the readers before it.";
    ReadersHaveOneToken [M3] "modes::floor_is_the_lowest_live_token" "ours"
        "All readers have the token of the first one.";
    DowngradeInTwoSteps [M4] "modes::downgrade_is_one_step" "Curator 1138; Curator 796"
        "A downgrade releases the lock and acquires it again.";
    DowngradeWithoutEffect [M4] "modes::downgrade_is_one_step" "ours"
        "A downgrade is acknowledged and changes nothing.";
    KeepsWhatItHadBefore [M8] "kinds::several_locks_are_all_held_or_none" "ours"
        "After a lock was found taken, the next release does nothing.";
    TermNotShown [E1] "kinds::term_of_a_leader_is_its_token" "ours"
        "An inspection does not show the token of the holder, so that a leader has no term.";
    ResignationNeedsTwo [E2] "kinds::term_of_a_leader_is_its_token" "etcd 22123"
        "A release is acknowledged, and carried out only when it is repeated.";
    ShowsAnOldLeader [E3] "kinds::observer_is_told_of_each_leader" "Kubernetes 124588"
        "An inspection shows what the first one has shown.";
    RenewsOnce [H1] "kinds::minimum_hold_outlasts_the_guard" "ours"
        "The first renewal of a grant extends it, and later ones are answered without an effect.";
}
