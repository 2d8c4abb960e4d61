//! Round trips: how long a lock takes on a way on which each reply is delayed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::clock::{Clock, SystemClock};
use tenure_load::Spread;

use crate::{
    contender::{Contender, Failure, Store},
    measure::{clients, work},
    options::Options,
    program::Program,
    results::{Results, Work},
    way::Way,
};

/// What each reply waits, and each message that the server sends by itself.
const DELAY: Duration = Duration::from_millis(5);
const ROUNDS: usize = 3;
/// Turns of one client in each round.
const TURNS: usize = 20;
const SPAN: Duration = Duration::from_secs(1);
/// With fewer, the lock may be free when it is released, as those who asked again are on their way.
const WAITERS: usize = 4;

const ACQUIRE: Work = work("5 ms of delay: acquire a free lock", "ms", "");
const RELEASE: Work = work("5 ms of delay: release", "ms", "");
const TURN: Work = work("5 ms of delay: acquire + release, alone", "ms", "");
const HAND: Work = work(
    "5 ms of delay: hand-over to one of 4 waiters with a client each",
    "ms",
    "",
);

/// One that is measured, with its clients connected to the delayed way.
enum Implementation {
    Library(&'static str, Vec<Arc<dyn Contender>>),
    Program(Box<Program>),
}

/// Measures all implementations that can be connected by URL, in alternating rounds.
pub(crate) async fn delay(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let Some((scheme, server)) = store.url.split_once("://") else {
        return Ok(());
    };
    let way = Way::start(server, DELAY).await?;
    let url = format!("{scheme}://{}", way.address);
    let mut all = Vec::new();
    for contender in &store.contenders {
        if options.contender(contender.name())
            && let Some(clients) = clients(contender, &url, WAITERS).await?
        {
            all.push(Implementation::Library(contender.name(), clients));
        }
    }
    for launch in store.launches.iter().filter(|l| options.contender(l.name)) {
        let program = launch.start(&way.address).await?;
        all.push(Implementation::Program(Box::new(program)));
    }
    for round in 0..=ROUNDS {
        for implementation in &mut all {
            let (who, measured) = implementation.measure().await?;
            // The first round warms up.
            if round > 0 {
                measured.add(name, who, results);
            }
        }
    }
    for implementation in all {
        implementation.end().await?;
    }
    Ok(())
}

/// What one round gave.
struct Measured {
    acquires: Spread,
    releases: Spread,
    turns: Spread,
    hand_overs: Option<Spread>,
}

impl Measured {
    fn add(&self, name: &str, who: &str, results: &mut Results) {
        let mut add = |work, spread: &Spread| {
            results.add(name, work, who, 1, spread.median().as_secs_f64() * 1e3);
        };
        add(ACQUIRE, &self.acquires);
        add(RELEASE, &self.releases);
        add(TURN, &self.turns);
        if let Some(hand_overs) = &self.hand_overs {
            add(HAND, hand_overs);
        }
    }
}

impl Implementation {
    async fn measure(&mut self) -> Result<(&'static str, Measured), Failure> {
        match self {
            Self::Library(who, clients) => Ok((who, library(clients).await?)),
            Self::Program(program) => {
                let alone = program.measure(1, "alone", SPAN / 2).await?;
                let each = program.measure(WAITERS, "each", SPAN).await?;
                let measured = Measured {
                    acquires: alone.acquires,
                    releases: alone.releases,
                    turns: alone.fight.waits,
                    hand_overs: Some(each.fight.hand_over),
                };
                Ok((program.name, measured))
            }
        }
    }

    async fn end(self) -> Result<(), Failure> {
        match self {
            Self::Library(_, clients) => {
                for client in clients {
                    client.close().await;
                }
                Ok(())
            }
            Self::Program(program) => program.end().await,
        }
    }
}

async fn library(clients: &[Arc<dyn Contender>]) -> Result<Measured, Failure> {
    let (mut acquires, mut releases, mut turns) = (Vec::new(), Vec::new(), Vec::new());
    let Some(first) = clients.first() else {
        return Err("no clients".into());
    };
    // What is made when a lock is taken for the first time is not counted.
    first.turn("alone", &|| ()).await?;
    for _ in 0..TURNS {
        let asked = SystemClock.now();
        let got = Mutex::new(asked);
        let held = || *got.lock().unwrap_or_else(PoisonError::into_inner) = SystemClock.now();
        first.turn("alone", &held).await?;
        let done = SystemClock.now();
        let got = got.into_inner().unwrap_or_else(PoisonError::into_inner);
        acquires.push(got.since(asked));
        releases.push(done.since(got));
        turns.push(done.since(asked));
    }
    let hand_overs = if first.waits() {
        let fight = tenure_load::each(clients, "each", SPAN).await?;
        Some(fight.hand_over)
    } else {
        None
    };
    Ok(Measured {
        acquires: Spread::new(acquires),
        releases: Spread::new(releases),
        turns: Spread::new(turns),
        hand_overs,
    })
}
