//! What is found out about the servers before anything is locked.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    error::{Error, ErrorKind},
};

use crate::{
    core::{Core, closed},
    error::{error, of_read},
    session::{
        Session, Settings, Use,
        time::{pace, shortest},
    },
    wire::{
        conn::Fault,
        proto::{Code, Kind, Request},
    },
};

const OPERATION: &str = "connecting";

/// What life the servers give to sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    min: Duration,
    max: Duration,
}

impl Limits {
    /// Asks the servers, and holds the answer against the option `tick`.
    pub(crate) async fn learn(core: &Core) -> Result<Self, Error> {
        let settings = &core.settings;
        let looking = core.pool.looking().ok_or_else(|| closed(OPERATION))?;
        looking.link(OPERATION, settings.limit()).await?;
        let max = looking.granted();
        if settings.context.observer {
            return Ok(Self {
                min: Duration::ZERO,
                max,
            });
        }
        // One that asks for nothing shows the least; it is ended at once.
        let least = Session::begin(settings, Duration::from_millis(1), Use::Looking);
        let linked = least.link(OPERATION, settings.limit()).await;
        let min = least.granted();
        // So short a life may be over before this is looked at; that it began is enough.
        if min.is_zero() {
            linked?;
        }
        least.leave();
        let limits = Self { min, max };
        limits.check(settings)?;
        Ok(limits)
    }

    fn check(&self, settings: &Settings) -> Result<(), Error> {
        let tick = settings.options.tick;
        let show = humantime;
        // The least is two ticks, unless it was set otherwise.
        if self.min > 2 * tick {
            return Err(error(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "the servers' shortest session is {}, so that their `tickTime` may be {}; set \
                     the option `tick`, which is {}, to it (a longer tick than theirs is safe, a \
                     shorter one is not)",
                    show(self.min),
                    show(self.min / 2),
                    show(tick)
                ),
            ));
        }
        if self.max < shortest(tick) {
            return Err(error(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "the servers' longest session is {}, and the shortest that can be relied upon \
                     is {} for ticks of {}; set the option `tick` to their `tickTime`",
                    show(self.max),
                    show(shortest(tick)),
                    show(tick)
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn capabilities(&self, settings: &Settings) -> Capabilities {
        let tick = settings.options.tick;
        let min = shortest(tick).max(self.min).min(self.max);
        // Counted from the last proof that the holder was told: a third of a TTL may pass before it
        // asks, and three heartbeats more (a twentieth of the TTL each, or 0.6 ticks). Then the
        // servers count the TTL, to the end of a tick.
        let late = 3 * pace(min, tick) + tick;
        Capabilities::new(
            Durability::Consensus,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::Push),
            TtlRange::new(min, self.max, Duration::from_millis(1), TtlScope::Pooled),
            TakeoverBound::new(150, 0, late + Duration::from_millis(500)),
        )
        .with_residue(Some(Duration::ZERO))
    }
}

fn humantime(span: Duration) -> String {
    format!("{span:?}")
}

/// Makes the node that the address names, if it is not there. An observer makes nothing.
pub(crate) async fn prepare(core: &Arc<Core>) -> Result<(), Error> {
    let root = core.paths.root();
    if root.is_empty() || core.settings.context.observer {
        return Ok(());
    }
    let link = core.looking(OPERATION).await?;
    match link.conn.call(Request::exists(root, false)).await {
        Ok(_) => return Ok(()),
        Err(Fault::Refused(Code::NoNode)) => {}
        Err(fault) => return Err(of_read(OPERATION, root, fault)),
    }
    for (at, _) in root.match_indices('/').skip(1).chain([(root.len(), "")]) {
        let path = root.get(..at).unwrap_or(root);
        let create = Request::create(path, b"", core.access, Kind::Persistent);
        match link.conn.call(create).await {
            Ok(_) | Err(Fault::Refused(Code::NodeExists)) => {}
            // The right to make it may be missing although it is there.
            Err(Fault::Refused(Code::NoAuth)) if path != root => {}
            Err(Fault::Refused(Code::NoAuth)) => {
                return Err(error(
                    ErrorKind::PermissionDenied,
                    OPERATION,
                    format!(
                        "the node `{root}` of the address is not there, and this user may not make \
                         it; make it, or give the user the right to"
                    ),
                ));
            }
            Err(fault) => return Err(of_read(OPERATION, path, fault)),
        }
    }
    Ok(())
}
