//! The scripts that run on the server, one for each operation of the driver.
//!
//! They are the core's queue machine ([`tenure_core::queue`]) in Lua, and a differential test holds
//! the one to the other. Each script is put together from the same parts: its constants, the clock,
//! the common functions, and its own text. A script that has a fast path has it in front of the
//! common functions, which then are not even defined: making a function costs at each run, as does
//! every word that a script is given and every command that it calls.
//!
//! What takes an attempt in or out is a script of items: a client that asks several at once has them
//! answered by one run.

use std::{fmt::Write, sync::LazyLock, time::Duration};

use tenure_core::{
    id::{AttemptId, ClientId},
    request::Enqueue,
};

use crate::{
    keys::{INBOX_PREFIX, LockKeys},
    record::write_attempt_fields,
    transport::{Script, ScriptCall},
};

/// For how long the fencing state of a free lock is kept. The server's clock keeps tokens rising
/// all by itself; this keeps them rising when that clock is set back by less.
pub(crate) const LAST_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// How soon a foreign holder is looked at again: it tells nobody when it goes.
pub(crate) const FOREIGN_RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes that the usual arguments of a call take together.
const TYPICAL_ARGS_LEN: usize = 160;

/// How a floor is written that lifts nothing.
const NO_TOKEN_FLOOR: &str = "0";
/// What is asked of a removal that fences nothing off, where there is no floor and the store is open.
const DEFAULT_REMOVE_OPTIONS: &str = "0";

const CLOCK: &str = include_str!("clock.lua");
const NOW: &str = include_str!("now.lua");
const MIN_TOKEN: &str = include_str!("min_token.lua");
/// Whoever only looks gives no token.
const NO_MIN_TOKEN: &str = "local min_token\n";
const TOKEN: &str = include_str!("token.lua");
const COMMON: &str = include_str!("common.lua");

/// All scripts of the driver.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) enqueue: Script,
    pub(crate) evict: Script,
    pub(crate) inspect: Script,
    pub(crate) list: Script,
    pub(crate) remove: Script,
    pub(crate) renew: Script,
    pub(crate) report: Script,
    pub(crate) rights: Script,
}

impl Scripts {
    /// The scripts with another text in the place of the server's clock.
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
            enqueue: batchable(&[
                include_str!("enqueue_args.lua"),
                clock,
                MIN_TOKEN,
                include_str!("enqueue_fast_path.lua"),
                NOW,
                TOKEN,
                COMMON,
                include_str!("enqueue.lua"),
            ]),
            evict: script(&[
                "local floor = ARGV[2]\n",
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                COMMON,
                include_str!("evict.lua"),
            ]),
            inspect: script(&[
                NO_MIN_TOKEN,
                clock,
                NOW,
                TOKEN,
                COMMON,
                include_str!("inspect.lua"),
            ]),
            list: script(&[
                NO_MIN_TOKEN,
                clock,
                NOW,
                TOKEN,
                COMMON,
                include_str!("list.lua"),
            ]),
            remove: batchable(&[
                include_str!("remove_args.lua"),
                include_str!("remove_fast_path.lua"),
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                COMMON,
                include_str!("remove.lua"),
            ]),
            renew: script(&[clock, NOW, include_str!("renew.lua")]),
            report: script(&[
                "local floor = ARGV[1]\n",
                clock,
                MIN_TOKEN,
                NOW,
                TOKEN,
                COMMON,
                include_str!("report.lua"),
            ]),
            rights: Script::new(include_str!("rights.lua").to_owned()),
        }
    }

    /// The scripts as they run.
    pub(crate) fn get() -> &'static Self {
        static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts::with_clock(CLOCK));
        &SCRIPTS
    }

    /// Each of them.
    pub(crate) fn all(&self) -> [&Script; 7] {
        [
            &self.enqueue,
            &self.evict,
            &self.inspect,
            &self.list,
            &self.remove,
            &self.renew,
            &self.report,
        ]
    }
}

/// What takes an attempt in. What is as usual is left out: each word costs the server.
pub(crate) fn enqueue_call(
    keys: &LockKeys,
    request: &Enqueue,
    client: ClientId,
    floor: &str,
) -> ScriptCall {
    let mut call = ScriptCall::new(
        &Scripts::get().enqueue,
        10,
        5 * keys.max_key_len() + TYPICAL_ARGS_LEN,
    );
    keys.push_all(&mut call);
    keys.push_fence(request.attempt, &mut call);
    call.arg_with(|text| {
        text.push_str(floor);
        if !request.wait {
            text.push_str(" once");
        }
    });
    call.arg(request.attempt);
    call.arg_with(|text| write_attempt_fields(request, client, text));
    call.arg(request.ttl.as_millis());
    call
}

/// What takes an attempt out, and fences it off for that long unless that is zero. While the store is
/// `closed`, what has lapsed is given to nobody.
pub(crate) fn remove_call(
    keys: &LockKeys,
    attempt: AttemptId,
    fence: Duration,
    floor: &str,
    grants_blocked: bool,
) -> ScriptCall {
    let mut call = ScriptCall::new(
        &Scripts::get().remove,
        9,
        5 * keys.max_key_len() + TYPICAL_ARGS_LEN,
    );
    keys.push_all(&mut call);
    if !fence.is_zero() {
        keys.push_fence(attempt, &mut call);
    }
    call.arg_with(|text| {
        // Writing to a text does not fail.
        let _ = if fence.is_zero() && floor == NO_TOKEN_FLOOR && !grants_blocked {
            text.write_str(DEFAULT_REMOVE_OPTIONS)
        } else {
            let grants_blocked = u8::from(grants_blocked);
            write!(text, "{} {floor} {grants_blocked}", fence.as_micros())
        };
    });
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
mod batching;
#[cfg(test)]
mod last_token;
#[cfg(test)]
mod model;
