//! The Lua scripts that run on the server, one for each operation of the driver.
//!
//! They implement the core's queue machine ([`tenure_core::queue`]); the test module `model`
//! compares the two. `records.lua` describes what they store. Each script is assembled from
//! constants, the clock, the common functions, and its own source. A fast path comes before the common functions, so that a run that ends there
//! does not even define them: defining a function costs time in each run, as does every argument
//! and every command.
//!
//! The scripts that enqueue and remove attempts are batchable: one run handles several calls of a
//! client that are pending at the same time.

mod reply;

use std::{fmt::Write, sync::LazyLock, time::Duration};

use tenure_core::{
    id::{AttemptId, ClientId},
    request::Enqueue,
};

pub(crate) use self::reply::Reply;
use crate::{
    keys::{INBOX_PREFIX, LockKeys},
    record::attempt_fields,
    transport::{Script, ScriptCall},
};

/// The TTL of the last-token record of a free lock. The server's clock alone keeps tokens rising;
/// this record keeps them rising if the clock is set back by less than this.
pub(crate) const LAST_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The interval at which a waiter checks a foreign holder, which sends no message when it releases
/// the lock.
pub(crate) const FOREIGN_RECHECK_INTERVAL: Duration = Duration::from_millis(200);

const CLOCK: &str = include_str!("clock.lua");
const NOW: &str = include_str!("now.lua");
const MIN_TOKEN: &str = include_str!("min_token.lua");
/// Read-only scripts grant no token.
const NO_MIN_TOKEN: &str = "local min_token\n";
const TOKEN: &str = include_str!("token.lua");
const SCORES: &str = include_str!("scores.lua");
const RECORDS: &str = include_str!("records.lua");
const LIVE_MEMBERS: &str = include_str!("live_members.lua");
const JOINT: &str = include_str!("joint.lua");
const COMMON: &str = include_str!("common.lua");

/// All scripts of the driver.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) discard: Script,
    pub(crate) downgrade: Script,
    pub(crate) enqueue: Script,
    pub(crate) evict: Script,
    pub(crate) inspect: Script,
    pub(crate) list: Script,
    pub(crate) remove: Script,
    pub(crate) renew: Script,
    pub(crate) renew_joint: Script,
    pub(crate) report: Script,
    pub(crate) rights: Script,
}

impl Scripts {
    /// The scripts with another source for the clock.
    pub(crate) fn with_clock(clock: &str) -> Self {
        let constants = lua_constants();
        let text = |parts: &[&str]| {
            let mut text = constants.clone();
            parts.iter().for_each(|part| text.push_str(part));
            text
        };
        let script = |parts: &[&str]| Script::new(text(parts));
        let batchable = |parts: &[&str]| Script::batchable(text(parts));
        Self {
            discard: Script::new(include_str!("discard.lua").to_owned()),
            downgrade: script(&[
                "local floor = ARGV[3]\n",
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                JOINT,
                COMMON,
                include_str!("downgrade.lua"),
            ]),
            enqueue: batchable(&[
                include_str!("enqueue_args.lua"),
                clock,
                MIN_TOKEN,
                include_str!("enqueue_fast_path.lua"),
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                JOINT,
                COMMON,
                include_str!("enqueue.lua"),
            ]),
            evict: script(&[
                "local floor = ARGV[2]\n",
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                JOINT,
                COMMON,
                include_str!("evict.lua"),
            ]),
            inspect: script(&[
                NO_MIN_TOKEN,
                clock,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                LIVE_MEMBERS,
                include_str!("inspect.lua"),
            ]),
            list: script(&[
                NO_MIN_TOKEN,
                clock,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                LIVE_MEMBERS,
                include_str!("list.lua"),
            ]),
            remove: batchable(&[
                include_str!("remove_args.lua"),
                include_str!("remove_fast_path.lua"),
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                JOINT,
                COMMON,
                include_str!("remove.lua"),
            ]),
            renew: script(&[clock, NOW, include_str!("renew.lua")]),
            renew_joint: script(&[clock, NOW, SCORES, include_str!("renew_joint.lua")]),
            report: script(&[
                "local floor = ARGV[1]\n",
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                SCORES,
                RECORDS,
                JOINT,
                COMMON,
                include_str!("report.lua"),
            ]),
            rights: Script::new(include_str!("rights.lua").to_owned()),
        }
    }

    /// The scripts with the server's clock.
    pub(crate) fn get() -> &'static Self {
        static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts::with_clock(CLOCK));
        &SCRIPTS
    }

    /// The scripts that are loaded on connecting.
    pub(crate) fn all(&self) -> [&Script; 9] {
        [
            &self.downgrade,
            &self.enqueue,
            &self.evict,
            &self.inspect,
            &self.list,
            &self.remove,
            &self.renew,
            &self.renew_joint,
            &self.report,
        ]
    }
}

/// The call that enqueues an attempt.
pub(crate) fn enqueue_call(
    keys: &LockKeys,
    request: &Enqueue,
    client: ClientId,
    floor: &str,
) -> ScriptCall {
    let mut call = ScriptCall::new(&Scripts::get().enqueue);
    keys.push_all(&mut call);
    call.key(keys.fence(request.attempt));
    call.arg(format_args!("{floor} {}", u8::from(request.wait)));
    call.arg(request.attempt);
    call.arg(attempt_fields(request, client));
    if request.mode.is_exclusive() {
        call.arg(request.ttl.as_millis());
    } else {
        call.arg("");
    }
    call
}

/// The call that removes an attempt and fences it off for `fence`, unless that is zero. While
/// `grants_blocked` is set, nobody is granted the lock.
pub(crate) fn remove_call(
    keys: &LockKeys,
    attempt: AttemptId,
    fence: Duration,
    floor: &str,
    grants_blocked: bool,
) -> ScriptCall {
    let mut call = ScriptCall::new(&Scripts::get().remove);
    keys.push_all(&mut call);
    call.key(keys.fence(attempt));
    let grants_blocked = u8::from(grants_blocked);
    call.arg(format_args!(
        "{} {floor} {grants_blocked}",
        fence.as_micros()
    ));
    call.arg(attempt);
    call
}

fn lua_constants() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "local INBOX_PREFIX = '{INBOX_PREFIX}'");
    let _ = writeln!(
        text,
        "local LAST_TOKEN_TTL_MS = '{}'",
        LAST_TOKEN_TTL.as_millis()
    );
    let _ = writeln!(
        text,
        "local FOREIGN_RECHECK_US = {}",
        FOREIGN_RECHECK_INTERVAL.as_micros()
    );
    text
}

#[cfg(test)]
mod tests;
