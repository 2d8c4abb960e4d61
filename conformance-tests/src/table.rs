//! The one table of cases. Both runners and the list in `docs/conformance-cases.md` come from it.

use crate::{case::Case, outcome::Need};

/// Passes the whole table to a macro: `$crate::__each_case! { [path::to::macro] }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_case {
    ([$($callback:tt)+]) => {
        $($callback)+! {
            names {
                bad_names_are_refused_before_any_io [N1]
                    "Empty names, long names and names with NUL are refused with the reason and the position, and without a request to the store.";
                different_names_stay_apart [N2]
                    "Names that are hard to encode or look alike are all held at the same time, and are listed unchanged.";
                namespaces_stay_apart [N2]
                    "Pairs of namespace and name whose concatenations are equal do not share a lock.";
            }
            exclusion {
                tasks_never_overlap [X1 X2]
                    "Tasks of three clients that compete for a lock are never in the critical section at the same time.";
                processes_never_overlap [X1 T1 W1] needs Processes
                    "Four processes increment a counter under one lock: they never overlap, no increment is lost, and tokens rise with the counter.";
                one_client_is_not_reentrant [X2]
                    "A client that holds a lock and tries it again finds it taken.";
                silent_holder_keeps_its_ttl [X3]
                    "A lock is not granted again within one TTL of the holder's last proof.";
                silent_holder_is_succeeded [X3 W2] needs OwnTtl
                    "When a holder stops renewing, a waiting client holds the lock within the takeover bound, also if it comes just before the TTL ends.";
                killed_process_is_succeeded [X3] needs Processes
                    "When the holder's process is killed, a waiting client holds the lock within the takeover bound and not early.";
            }
            token {
                rises_over_release [T1]
                    "Each of fifty consecutive holders has a higher token than the previous holder.";
                rises_over_expiry [T1]
                    "The token rises after a grant expired.";
                rises_over_eviction [T1 I2]
                    "The token rises after a grant was evicted, with a waiter and without.";
                rises_over_deletion [T1] needs DeleteState
                    "The token rises after the lock's state was deleted manually.";
                rises_over_a_thousand_hand_overs [T1]
                    "The token rises over a thousand hand-overs that mix all ways in which a grant ends.";
                comes_with_the_grant [T2]
                    "Acquiring a free lock is one request to the driver, and renewal does not change the token.";
                same_attempt_same_grant [T3 A2]
                    "A repeated request for the same attempt returns the same token and a full TTL.";
                floor_lifts_tokens [T1]
                    "Every token is above a configured floor.";
            }
            deadline {
                counts_from_before_the_request [D1]
                    "The deadline counts from before the request, however late the reply arrives.";
                only_proof_moves_it [D2]
                    "A renewal extends the deadline; a lost or late reply does not.";
                clock_that_jumps_ends_the_lease [D3]
                    "When the client's clock jumps past the deadline, as after a suspension, the guard is lost at once.";
                pushed_grant_counts_from_last_report [D4] needs Push
                    "A pushed grant counts from the waiter's last answered renewal, and is renewed at once.";
                pushed_grant_expires_with_the_entry [D4]
                    "A grant to a dead waiter expires when its queue entry would have expired.";
                messages_are_dated_after_the_answers [D4 W2] needs Push since 2
                    "By the store's own time, the message of a grant is later than every earlier reply \"still waiting\".";
                overtaken_push_is_dropped [D4]
                    "A message that is older than the last reply \"still waiting\" grants nothing.";
            }
            loss {
                comes_by_the_deadline_while_renewal_hangs [L1 L3]
                    "While a renewal hangs, the guard is lost at its deadline with the reason `expired`, without polling.";
                eviction_is_noticed_as_declared [L2 L3]
                    "The holder learns of its eviction, with the reason, as fast as the backend declares.";
                deletion_is_noticed_as_declared [L2] needs DeleteState
                    "The holder learns of the deletion of its state as fast as the backend declares.";
                own_release_is_no_loss [L2]
                    "Evidence that arrives after the guard's own release does not make the guard lost.";
                is_final [L4]
                    "A lost guard stays lost, and its release reports `not held`; the attempt is still removed from the store.";
                two_lost_renewals_are_none [L5 K4]
                    "Two consecutive failed renewals do not end the grant; the next renewal is sent in time.";
            }
            acquiring {
                try_does_not_wait [A1]
                    "A try of a taken lock returns long before the lock can become free.";
                try_has_a_time_limit [A1]
                    "A try on a store that does not answer fails within the request's time limit.";
                budget_is_kept [A1]
                    "An acquire with a time budget ends when the budget ends: not earlier and not much later.";
                budget_counts_the_network [A1]
                    "An acquire on a store that does not answer takes its time budget and no more.";
                requests_can_be_repeated [A2]
                    "A repeated enqueue, renewal or removal has the effect of a single one.";
                unknown_outcome_is_an_error [A3]
                    "A lost reply is neither success nor busy, and the attempt is removed.";
                cancelled_try_leaves_nothing [A4]
                    "A try that is cancelled at any point leaves no entry.";
                cancelled_waiting_leaves_nothing [A4 W3]
                    "A waiting acquire that is cancelled at any point leaves no entry, and the next contender gets the lock.";
                fenced_attempt_never_enters [A4]
                    "An enqueue that is interrupted at any point and removed leaves nothing; an enqueue that arrives after its removal has no effect, or none beyond its TTL.";
                busy_says_who [A5]
                    "A try of a taken lock returns the holder, the time of its grant, and an upper bound of the remaining time.";
                busy_leaves_nothing [A5]
                    "An attempt that does not wait leaves no entry.";
            }
            waiting {
                grants_follow_the_queue [W1]
                    "Eight waiters of four clients get the lock in the order of their arrival.";
                dead_waiter_delays_by_its_ttl [W1]
                    "A dead waiter is skipped when its TTL ends.";
                dead_waiter_delays_patient_ones_no_more [W1] needs OwnTtl
                    "A dead waiter delays the next waiters by its own TTL, however long theirs are.";
                leaving_disturbs_nobody [W3]
                    "When a waiter in the middle of the queue leaves, the others keep their order.";
                release_wakes_the_next_alone [W3]
                    "A release makes the first waiter the holder and notifies no other waiter.";
                message_wakes_the_waiter [W2] needs Push
                    "A waiter that sends no request learns by message that it holds the lock.";
                leaving_loses_nobodys_message [W2 W3] needs Push since 2
                    "When the first waiter leaves, before or at the time of its grant, the next waiter still gets its message.";
                lost_message_is_made_up_for [W2]
                    "A waiter whose message is lost holds the lock within the takeover bound.";
                lapsed_waiter_is_never_granted [W4]
                    "A waiter whose entry expired is never granted the lock.";
                report_never_creates [W5]
                    "The renewal of an entry that the store does not know reports that it is gone, and creates none.";
                forgotten_waiter_goes_on [W5]
                    "An acquire whose entry disappeared continues with a new attempt, and gets the lock.";
            }
            renewing {
                keeps_the_lock_beyond_its_ttl [K1]
                    "A lock is held for many times its TTL without any action of the user.";
                comes_every_third_of_the_ttl [K1]
                    "The interval between two renewals of a lock is at most a third of its TTL.";
                many_locks_share_it [K1]
                    "A hundred locks of one client are renewed in few requests.";
                never_revives_the_expired [K2]
                    "A renewal after the expiry reports the expiry and does not restore the grant.";
                never_extends_anothers [K2]
                    "A stale renewal does not extend the grant of the next holder.";
                has_stopped_before_the_release [K3]
                    "No renewal of an attempt is sent after its removal was sent.";
                nothing_comes_back_after_the_release [K3] since 2
                    "A lock that was renewed and released stays free.";
            }
            releasing {
                says_what_it_did [R1]
                    "A release reports whether it freed the lock, also when it is repeated.";
                stale_one_frees_nobody [R1]
                    "A stale release does not affect the next holder.";
                stale_one_of_the_same_client_frees_nobody [R1] since 2
                    "The release of an earlier grant of the same client does not affect its current grant.";
                unanswered_one_is_found_out [R1]
                    "When the reply to a release is lost and the entry is found absent, the lock counts as released.";
                hanging_one_is_unknown [R1]
                    "A release without a reply reports an unknown outcome within its time limit.";
                acknowledged_one_frees_at_once [R2]
                    "After an acknowledged release, the lock is free or the next waiter holds it, even if the client that released it dies.";
                dropped_guard_releases [R3]
                    "A guard that is dropped inside a runtime, outside a runtime or in a panic releases in the background.";
                nothing_stays_after_many_cycles [R4]
                    "After up to ten thousand cycles no name has any state, and the last cycles are not slower than the first ones.";
                discard_needs_a_free_lock [R4] since 2
                    "Discarding deletes the state of a free lock, and nothing of a lock with a holder or a waiter.";
                shutdown_releases_all [R5]
                    "The shutdown of a client releases its locks, and names those that it could not release.";
            }
            inspect_evict {
                shows_holder_and_queue [I1]
                    "An inspection shows the holder with label, host, process and token, and the queue in order.";
                changes_nothing [I1]
                    "Inspections and listings neither extend nor end a grant.";
                lists_by_pages [I1]
                    "A listing contains every held name once, by pages and by prefix.";
                eviction_needs_the_token [I2]
                    "An eviction removes the grant with the given token, and no other.";
            }
            modes {
                readers_share_and_writers_exclude [M1 I1 R2] needs Shared since 3
                    "Readers hold a lock together, and exclude a writer; a writer excludes everybody; an inspection shows all holders.";
                permits_are_counted [M1 M6 R2] needs Permits since 3
                    "Three permits are held in parts and never more than three; the whole lock, and another number of permits, wait for all of them.";
                mixed_tasks_never_overlap [M1 M3 M4] needs Permits since 3
                    "Readers, writers that downgrade, and permits of three numbers that compete for one lock never hold it together unless their modes allow it.";
                readers_do_not_pass_a_waiting_writer [M2 M1] needs Shared since 3
                    "A reader that comes after a waiting writer holds the lock after it.";
                readers_do_not_starve_a_writer [M2] needs Shared since 3
                    "A writer gets its turn while overlapping readers keep coming.";
                small_requests_do_not_pass_a_large_one [M2 M1] needs Permits since 3
                    "A request for one free permit waits behind a request for all permits.";
                one_release_admits_all_whose_turn_it_is [M2 M1 W2] needs Shared since 3
                    "When a writer leaves, all readers behind it are granted the lock, each by a message, up to the next writer.";
                last_of_several_wakes_the_next [W2 M1] needs Permits since 3
                    "A waiter is told of its grant when the last of three holders leaves, in whatever order they leave.";
                leaving_writer_lets_readers_join [M2 M3] needs Shared since 3
                    "When a waiting writer leaves, the readers behind it join the reader ahead of it.";
                dead_reader_delays_by_its_ttl [X3 K2] needs Permits since 3
                    "The permits of a holder that stops renewing are granted again within the takeover bound and not early, though others hold the rest.";
                dead_writer_does_not_keep_readers_apart [W1] needs Shared since 3
                    "A dead writer in the queue keeps readers apart for no longer than its TTL.";
                renewal_extends_one_of_several [K2 K1] needs Shared since 3
                    "A reader's renewals keep its own grant, and do not extend that of a silent one.";
                eviction_names_one_of_several [I2 R1] needs Shared since 3
                    "An eviction ends the grant with the token, and the grants beside it continue.";
                floor_is_the_lowest_live_token [M3] needs Shared since 3
                    "Each reader has its own rising token and a floor, which is the lowest live token and never falls.";
                downgrade_is_one_step [M4 M2 M3 R1] needs Shared since 3
                    "A downgraded writer keeps its token, the readers right behind it join, and a queued writer is not overtaken; a repeated downgrade changes nothing.";
                downgrade_without_an_answer_is_repeated [M4] needs Shared since 3
                    "A downgrade whose reply is lost, or does not come, is repeated until it is answered.";
                cancelled_downgrade_releases [M4] needs Shared since 3
                    "A downgrade that is cancelled releases the lock.";
                upgrade_is_refused [M5] needs Shared since 3
                    "An upgrade is refused without a request, and the error says what to do instead.";
                impossible_permits_are_refused [M6] needs Permits since 3
                    "A request for no permits, or for more than exist, is refused without a request.";
                missing_mode_is_refused [M7] since 3
                    "A mode that the backend does not declare is refused without a request, and can be required by the configuration.";
            }
            kinds {
                several_locks_never_block_each_other [M8] since 3
                    "Two clients that acquire the same two locks together, in opposite orders, never wait for each other.";
                several_locks_are_all_held_or_none [M8] since 3
                    "If one of several locks is taken, the others are free again; the loss of one is the loss of all.";
                term_of_a_leader_is_its_token [E1 E2] since 3
                    "The term of each leader is higher than the term before, a leader that is lost does not lead by its own check, and a resignation can be repeated.";
                unanswered_resignation_is_unknown [E2] since 3
                    "A resignation without a reply is unknown, and can be repeated.";
                observer_is_told_of_each_leader [E3 E2] since 3
                    "An observer is told of each leader and each vacancy, and that the leader is unknown while the store is silent.";
                minimum_hold_outlasts_the_guard [H1] since 3
                    "A lock with a minimum hold is granted to nobody before its end, though the guard is dropped or released.";
                minimum_hold_is_named_at_shutdown [H1 R5] since 3
                    "A shutdown waits for a minimum hold within its bound, and names the grant that it leaves to its TTL.";
            }
            capabilities {
                make_sense [C1]
                    "The declared capabilities are consistent and do not change between two requests.";
                ttl_out_of_range_is_refused [C2]
                    "An unsupported TTL is an error, or is clamped on request, and the guard reports the TTL in use.";
                requirements_are_checked [C3] needs Lack
                    "A backend without a required capability is refused with an error that names what is required and what it has.";
            }
            secrets {
                show_nowhere [S1] needs Secrets
                    "No configured secret appears in a debug text, message or error.";
                malformed_state_is_an_error [S2] needs Corrupt
                    "Corrupt state is an error and never a free lock.";
                newer_state_is_refused [S3] needs NewerFormat
                    "State of a newer format is refused with that reason.";
            }
            faults {
                lost_answer_of_an_acquire_leaves_no_ghost [A3 A4 X1] needs Faults since 2
                    "An enqueue that is executed without a reply is neither success nor busy, and leaves nothing.";
                lost_answer_of_a_release_frees_the_lock [R1 R2] needs Faults since 2
                    "A release that is executed without a reply is `released` or `unknown`, and frees the lock.";
                broken_connections_end_no_grant [L5] needs Faults since 2
                    "Three connection resets with lost replies within a TTL do not end a grant.";
                holder_in_a_black_hole_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "A disconnected holder is lost by its deadline, and the next waiter holds the lock within the takeover bound and not before.";
                holder_that_nobody_hears_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "The same when the holder's requests do not arrive.";
                holder_that_hears_nothing_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "The same when the holder's requests arrive and no reply returns.";
                waiter_that_was_cut_off_gets_its_turn [W2 W5] needs Faults since 2
                    "A waiter that is disconnected, briefly or for longer than its entry lives, is in the queue afterwards and gets the lock.";
                refused_client_goes_on_by_itself [A1 A3 W2 R4 S1] needs Faults since 2
                    "Refused connections are errors within the time-out and leave nothing in the store, and afterwards the same client acquires again.";
                slow_store_counts_against_the_holder [D1 L5] needs Faults since 2
                    "With delayed requests and replies, the deadline counts from before the request, and no grant ends.";
                slow_waiter_keeps_its_place [W1 W2 W5 T1 L5] needs Faults since 2
                    "When a request takes 10, 40 or 90 % of its time limit, for one client or for all, waiters keep their places, get the lock in order, and hold it beyond their TTL.";
                slow_client_stops_nobody [W2] needs Faults since 2
                    "In the same six situations four clients that take turns on one lock all have turns, and none waits for longer than two takeover bounds.";
                wait_outlives_an_unanswered_enqueue [W2 A3 A4] needs Faults since 2
                    "An acquire whose first requests are not answered, or refused, enters the queue when the store answers again, once, and gets the lock.";
                stopped_process_finds_its_lock_lost [X1 X3 L4 T1] needs Processes since 2
                    "A process that was stopped past its TTL never reports the lock as held again, and does not affect the next holder.";
            }
            servers {
                stopped_past_the_ttl [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "Servers are stopped past the TTL: the holder is lost by its deadline, and requests fail in time. Afterwards waiters are granted one at a time, the release of the lost guard has no effect, and both clients continue.";
                killed_past_the_ttl [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "The same when the servers are killed and restarted.";
                killed_for_a_moment [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "Servers are killed and restarted at once: where the store keeps grants, the holder keeps its lock or is lost at its deadline; the token rises in any case.";
                slow_server_is_left [W2 L5] needs SeveralServers since 2
                    "When one server takes twice the time limit for each answer, its clients turn to another server, acquire there, and keep what they hold.";
                failover [X1 L1 L4 L5 W1 W2 K1 T1] needs FailOver since 2
                    "The leading server is killed and another one leads: the holder keeps its lock or is lost at its deadline, waiters continue, and the same clients acquire again. Where durability is `consensus`, nobody else holds the lock in the meantime, tokens rise, and waiters that were not interrupted for long keep their order.";
                partition [X1 D2 L1 L4 L5 W1 W2 K1 T1] needs Partition since 2
                    "The same when the leading server is cut off from the others and clients keep their connections to it: no answer of this server is a proof, and the clients acquire before and after the partition ends.";
            }
        }
    };
}

macro_rules! define_table {
    ($($module:ident {
        $($case:ident [$($clause:ident)+] $(needs $need:ident)? $(since $since:literal)? $about:literal;)+
    })+) => {
        const TABLE: &[Case] = &[$($(Case {
            id: concat!(stringify!($module), "::", stringify!($case)),
            clauses: &[$(stringify!($clause)),+],
            needs: define_table!(@need $($need)?),
            since: define_table!(@since $($since)?),
            about: $about,
            run: |context| Box::pin(crate::cases::$module::$case(context)),
        },)+)+];
    };
    (@need) => { None };
    (@need $need:ident) => { Some(Need::$need) };
    (@since) => { 1 };
    (@since $since:literal) => { $since };
}

__each_case! { [define_table] }

/// Returns all cases of the suite, in the order of the contract.
#[must_use]
pub fn cases() -> Vec<Case> {
    TABLE.to_vec()
}

/// The clauses of the contract.
const CLAUSES: &[(&str, u32)] = &[
    ("N", 2),
    ("X", 3),
    ("T", 3),
    ("D", 4),
    ("L", 5),
    ("A", 5),
    ("W", 5),
    ("K", 4),
    ("R", 5),
    ("I", 2),
    ("C", 3),
    ("S", 3),
    ("M", 8),
    ("E", 3),
    ("H", 1),
];

/// Returns the names of all clauses of the contract.
#[must_use]
pub fn clauses() -> Vec<String> {
    let mut all = Vec::new();
    for (letter, count) in CLAUSES {
        all.extend((1..=*count).map(|number| format!("{letter}{number}")));
    }
    all
}

/// Clauses that no case proves, with the reason.
pub const EXEMPT: &[(&str, &str)] = &[];
