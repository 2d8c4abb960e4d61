//! The scripts that run on the server, one for each operation of the driver.
//!
//! They are the core's queue machine ([`tenure_core::queue`]) in Lua, and a differential test holds
//! the one to the other. Each script is put together from the same parts: its constants, the clock,
//! the common functions, and its own text. A script that has a fast path has it in front of the
//! common functions, which then are not even defined.

use std::{fmt::Write, sync::LazyLock, time::Duration};

use crate::{keys::INBOX, link::Script};

/// For how long the fencing state of a free lock is kept. The server's clock keeps tokens rising
/// all by itself; this keeps them rising when that clock is set back by less.
pub(crate) const FENCE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How soon a foreign holder is looked at again: it tells nobody when it goes.
pub(crate) const FOREIGN_RECHECK: Duration = Duration::from_millis(200);

const CLOCK: &str = include_str!("clock.lua");
const TOKEN: &str = include_str!("token.lua");
const COMMON: &str = include_str!("common.lua");

/// All scripts of the driver.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) enqueue: Script,
    pub(crate) evict: Script,
    pub(crate) inspect: Script,
    pub(crate) peek: Script,
    pub(crate) remove: Script,
    pub(crate) renew: Script,
    pub(crate) report: Script,
    pub(crate) rights: Script,
}

impl Scripts {
    /// The scripts with another text in the place of the server's clock.
    pub(crate) fn with_clock(clock: &str) -> Self {
        let constants = constants();
        let script = |parts: &[&str]| {
            let mut text = constants.clone();
            text.push_str(clock);
            parts.iter().for_each(|part| text.push_str(part));
            Script::new(text)
        };
        Self {
            enqueue: script(&[
                TOKEN,
                include_str!("enqueue_free.lua"),
                COMMON,
                include_str!("enqueue.lua"),
            ]),
            evict: script(&[TOKEN, COMMON, include_str!("evict.lua")]),
            inspect: script(&[TOKEN, COMMON, include_str!("inspect.lua")]),
            peek: script(&[TOKEN, COMMON, include_str!("peek.lua")]),
            remove: script(&[
                include_str!("remove_held.lua"),
                TOKEN,
                COMMON,
                include_str!("remove.lua"),
            ]),
            renew: script(&[include_str!("renew.lua")]),
            report: script(&[TOKEN, COMMON, include_str!("report.lua")]),
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
            &self.peek,
            &self.remove,
            &self.renew,
            &self.report,
        ]
    }
}

fn constants() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "local INBOX = '{INBOX}'");
    let _ = writeln!(text, "local FENCE_LIFE = '{}'", FENCE_LIFE.as_millis());
    let _ = writeln!(
        text,
        "local FOREIGN_RECHECK = {}",
        FOREIGN_RECHECK.as_micros()
    );
    text
}

#[cfg(test)]
mod differential;
