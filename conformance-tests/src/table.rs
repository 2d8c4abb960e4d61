//! The one table of cases. Both runners and the list in `docs/conformance-cases.md` come from it.

use crate::case::{Case, Need};

/// Hands the whole table to a macro: `$crate::__each_case! { [path::to::macro] }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_case {
    ([$($callback:tt)+]) => {
        $($callback)+! {
            names {
                bad_names_are_refused_before_any_io [N1]
                    "Empty, too long and NUL names are refused with what is wrong and where, and nothing is asked of the store.";
                different_names_stay_apart [N2]
                    "Names that are hard to encode, or look alike, are all held at once and are listed as they were given.";
                namespaces_stay_apart [N2]
                    "Pairs of namespace and name that read the same when joined do not share a lock.";
            }
            exclusion {
                tasks_never_overlap [X1 X2]
                    "Tasks of three clients that take turns are never inside together.";
                processes_never_overlap [X1 T1 W1] needs Processes
                    "Four processes count under one lock; none meets another inside, no count is lost, tokens rise with it.";
                one_client_is_not_reentrant [X2]
                    "A client that holds a lock finds it taken when it tries again.";
                silent_holder_keeps_its_ttl [X3]
                    "A lock is not granted again before one TTL has passed since the holder's last proof.";
                silent_holder_is_succeeded [X3 W2] needs OwnTtl
                    "After a holder falls silent a waiting client holds the lock within the takeover bound.";
                killed_process_is_succeeded [X3] needs Processes
                    "After the holder's process is killed a waiting client holds the lock, not early and within the takeover bound.";
            }
            token {
                rises_over_release [T1]
                    "Each of fifty holders one after the other has a higher token than the one before.";
                rises_over_expiry [T1]
                    "The token rises when a grant has expired.";
                rises_over_eviction [T1 I2]
                    "The token rises when a grant was evicted, with a waiter and without.";
                rises_over_deletion [T1] needs DeleteState
                    "The token rises when the lock's state was deleted by hand.";
                rises_over_a_thousand_hand_overs [T1]
                    "The token rises over a thousand hand-overs that mix every way of ending.";
                comes_with_the_grant [T2]
                    "Taking a free lock is one request to the driver, and renewal does not change the token.";
                same_attempt_same_grant [T3 A2]
                    "Asking again for the same attempt gives the same token, and the full TTL anew.";
                floor_lifts_tokens [T1]
                    "With a configured floor every token is above it.";
            }
            deadline {
                counts_from_before_the_request [D1]
                    "The deadline counts from before the request, however late the answer comes.";
                only_proof_moves_it [D2]
                    "A renewal moves the deadline on; a lost or late answer moves it nowhere.";
                clock_that_jumps_ends_the_lease [D3]
                    "When the client's clock jumps past the deadline, as after a suspension, the guard says so at once.";
                pushed_grant_counts_from_last_report [D4] needs Push
                    "A grant by message counts from the waiter's last answered report, and is renewed at once.";
                pushed_grant_expires_with_the_entry [D4]
                    "A grant to a waiter that has died expires when its entry would have.";
                messages_are_dated_after_the_answers [D4 W2] needs Push since 2
                    "A message of a grant is later, by the store's own time, than every answer \"still waiting\" before it.";
                overtaken_push_is_dropped [D4]
                    "A message that is older than the last answer \"still waiting\" makes nobody the holder.";
            }
            loss {
                comes_by_the_deadline_while_renewal_hangs [L1 L3]
                    "The guard is lost at its deadline, for the reason expired, although the renewal hangs and nobody polls.";
                eviction_is_noticed_as_declared [L2 L3]
                    "The holder learns of its eviction as fast as the backend declares, and why.";
                deletion_is_noticed_as_declared [L2] needs DeleteState
                    "The holder learns that its state was deleted as fast as the backend declares.";
                own_release_is_no_loss [L2]
                    "Evidence that comes after the own release does not make the guard lost.";
                is_final [L4]
                    "A lost guard stays lost, and its release is not held; the attempt is removed from the store all the same.";
                two_lost_renewals_are_none [L5 K4]
                    "Two renewals in a row that fail end nothing; the next one is tried in time.";
            }
            acquiring {
                try_does_not_wait [A1]
                    "A try of a taken lock comes back long before the lock could be free.";
                try_has_a_time_limit [A1]
                    "A try of a store that does not answer fails within the request's time limit.";
                budget_is_kept [A1]
                    "Waiting within a budget ends with it, not before and not long after.";
                budget_counts_the_network [A1]
                    "A store that does not answer uses up the budget and no more.";
                requests_can_be_repeated [A2]
                    "Repeated enqueues, renewals and removals change no more than one of each.";
                unknown_outcome_is_an_error [A3]
                    "A lost answer is neither success nor busy, and the attempt is taken out.";
                cancelled_try_leaves_nothing [A4]
                    "A try that is dropped at any point leaves no entry behind.";
                cancelled_waiting_leaves_nothing [A4 W3]
                    "A waiting acquire that is dropped at any point leaves no entry behind, and the next contender gets the lock.";
                fenced_attempt_never_enters [A4]
                    "An enqueue that is cut off anywhere and removed leaves nothing; one that comes after its removal has no effect, or none beyond its TTL.";
                busy_says_who [A5]
                    "A taken lock is a value with the holder, since when, and an upper bound of the time left.";
                busy_leaves_nothing [A5]
                    "An attempt that did not want to wait leaves no entry behind.";
            }
            waiting {
                grants_follow_the_queue [W1]
                    "Eight waiters of four clients get the lock in the order in which they came.";
                dead_waiter_delays_by_its_ttl [W1]
                    "A waiter that has died is passed over once its TTL has run out.";
                dead_waiter_delays_patient_ones_no_more [W1] needs OwnTtl
                    "However long the TTL of those behind it, a dead waiter delays by its own.";
                leaving_disturbs_nobody [W3]
                    "When a waiter in the middle leaves, the others keep their order.";
                release_wakes_the_next_alone [W3]
                    "A release makes the first waiter the holder and tells nobody else.";
                message_wakes_the_waiter [W2] needs Push
                    "A waiter that never asks is told by message that it holds the lock.";
                leaving_loses_nobodys_message [W2 W3] needs Push since 2
                    "When the first waiter leaves, before its turn or just then, the next one is told of its own.";
                lost_message_is_made_up_for [W2]
                    "A waiter whose message was lost holds the lock within the takeover bound.";
                lapsed_waiter_is_never_granted [W4]
                    "A waiter whose entry lapsed while it waited is never told that it holds the lock.";
                report_never_creates [W5]
                    "A report of an entry that the store does not know says that it is gone, and makes none.";
                forgotten_waiter_goes_on [W5]
                    "An acquire whose entry vanished goes on with a new attempt, and gets the lock.";
            }
            renewing {
                keeps_the_lock_beyond_its_ttl [K1]
                    "A lock is held for many times its TTL without anybody doing anything.";
                comes_every_third_of_the_ttl [K1]
                    "Between two renewals of a lock there is no more than a third of its TTL.";
                many_locks_share_it [K1]
                    "A hundred locks of one client are renewed in few requests.";
                never_revives_the_expired [K2]
                    "A renewal that comes after the expiry is told so and brings nothing back.";
                never_extends_anothers [K2]
                    "A stale renewal after a re-grant does not lengthen the new holder's grant.";
                has_stopped_before_the_release [K3]
                    "No renewal of an attempt is sent once its removal was.";
                nothing_comes_back_after_the_release [K3] since 2
                    "A lock that was renewed and released stays free.";
            }
            releasing {
                says_what_it_did [R1]
                    "A release says whether it freed the lock, also when it is asked for again.";
                stale_one_frees_nobody [R1]
                    "A release after the lock was granted again leaves the new holder alone.";
                stale_one_of_the_same_client_frees_nobody [R1] since 2
                    "The release of a grant that the same client had before leaves its present one alone.";
                unanswered_one_is_found_out [R1]
                    "When the answer to a release is lost, finding the entry absent is a release.";
                hanging_one_is_unknown [R1]
                    "A release of which nothing is heard is unknown, and says so in time.";
                acknowledged_one_frees_at_once [R2]
                    "Once a release is acknowledged the lock is free, or the next waiter has it, whatever becomes of the releaser.";
                dropped_guard_releases [R3]
                    "A guard that is dropped inside of a runtime, outside of one, or in a panic releases in the background.";
                nothing_stays_after_many_cycles [R4]
                    "After up to ten thousand cycles nothing is shown for any name, and the last cycle is no slower than the first allowed.";
                shutdown_releases_all [R5]
                    "Shutting a client down releases what it holds, and names what it could not release.";
            }
            inspect_evict {
                shows_holder_and_queue [I1]
                    "Inspecting shows the holder with label, host, process and token, and the queue in order.";
                changes_nothing [I1]
                    "Inspecting and listing neither keep a grant alive nor end one.";
                lists_by_pages [I1]
                    "Listing gives every held name once, by pages and by prefix.";
                eviction_needs_the_token [I2]
                    "Evicting removes the grant with the token that was seen, and no other.";
            }
            capabilities {
                make_sense [C1]
                    "What the backend declares is consistent, and is the same when asked again.";
                ttl_out_of_range_is_refused [C2]
                    "A TTL that cannot be given is an error, or is clamped where that was asked for, and the guard says so.";
                requirements_are_checked [C3] needs Lack
                    "A backend that lacks a required capability is refused with both sides named.";
            }
            secrets {
                show_nowhere [S1] needs Secrets
                    "No configured secret shows in any debug text, message or error.";
                malformed_state_is_an_error [S2] needs Corrupt
                    "State that was scribbled over is an error and never a free lock.";
                newer_state_is_refused [S3] needs NewerFormat
                    "State of a newer format is refused as such.";
            }
            faults {
                lost_answer_of_an_acquire_leaves_no_ghost [A3 A4 X1] needs Faults since 2
                    "An enqueue that is carried out and not answered is neither success nor busy, and leaves nothing behind.";
                lost_answer_of_a_release_frees_the_lock [R1 R2] needs Faults since 2
                    "A release that is carried out and not answered is released or unknown, and frees the lock.";
                broken_connections_end_no_grant [L5] needs Faults since 2
                    "Connections that are reset, with answers lost, three times within a TTL end no grant.";
                holder_in_a_black_hole_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "A holder that is cut off is told by its deadline, and the next one holds the lock within the bound and not before.";
                holder_that_nobody_hears_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "The same where nothing that the holder sends arrives.";
                holder_that_hears_nothing_is_succeeded [X1 X3 L1 L4 T1] needs Faults since 2
                    "The same where what the holder sends arrives, and no answer comes back.";
                waiter_that_was_cut_off_gets_its_turn [W2 W5] needs Faults since 2
                    "A waiter that is cut off, for a moment or for longer than its entry lives, is in the queue afterwards and gets the lock.";
                refused_client_goes_on_by_itself [A1 A3 W2 S1] needs Faults since 2
                    "Refused connections are errors within the time-out, and afterwards the same client locks again.";
                slow_store_counts_against_the_holder [D1 L5] needs Faults since 2
                    "Where each request and each answer takes its time, the deadline counts from before the request, and no grant ends for that.";
                stopped_process_finds_its_lock_lost [X1 X3 L4 T1] needs Processes since 2
                    "A process that is stopped past its TTL never says again that it holds the lock, and leaves the next holder alone.";
            }
            servers {
                stopped_past_the_ttl [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "Servers that stand still past the TTL: the holder is told by its deadline, requests fail in time, and afterwards every waiter has its turn alone, the lost guard frees nobody, and both clients go on.";
                killed_past_the_ttl [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "The same where the servers are killed and started again.";
                killed_for_a_moment [X1 L1 L4 L5 A1 A3 W2 K1 R1 T1] needs Servers since 2
                    "Servers that are killed and started at once: where the store keeps grants, the holder holds or is told at its deadline; the token rises in any case.";
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

/// All cases of the suite, in the order of the contract.
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
];

/// The names of all clauses of the contract.
#[must_use]
pub fn clauses() -> Vec<String> {
    let mut all = Vec::new();
    for (letter, count) in CLAUSES {
        all.extend((1..=*count).map(|number| format!("{letter}{number}")));
    }
    all
}

/// Clauses that no case proves, and why not.
pub const EXEMPT: &[(&str, &str)] = &[];
