//! Slow networks: every request takes a part of its time limit, and requests time out. Nobody may lose
//! a place, a turn or a grant for that (clauses W1, W2, W5, D4, L5).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::{Acquisition, Client, Release, clock::Instant, error::Error, name::LockName};
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    context::{CaseContext, release},
    driver::Driver,
    fault::{Fault, Faulty},
    outcome::{Failure, Need, Outcome, Stop, broken, ensure},
};

/// The parts of its time limit that a request takes, in percent.
const SHARES: [u32; 3] = [10, 40, 90];
/// Turns of each client.
const TURNS: u32 = 3;
/// A situation that the store was too slow for is tried again with twice the time limit, up to this factor.
const MAX_FACTOR: u32 = 4;
/// The pause between two requests that measure the store.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// What is slow in a situation, and by how much.
#[derive(Clone, Copy)]
struct Situation {
    /// The time limit of a request.
    limit: Duration,
    /// The part of it that the network takes, in percent.
    share: u32,
    /// Whether the network of all clients is slow, or that of one.
    all: bool,
}

impl Situation {
    /// Half of the network's part, because a request passes it twice.
    fn delay(self) -> Duration {
        self.limit * self.share / 200
    }

    /// The time that remains for the store.
    fn rest(self) -> Duration {
        self.limit * (100 - self.share) / 100
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, share, all } = self;
        let whose = if *all { "all clients" } else { "one client" };
        write!(f, "requests of {whose} take {share} % of {limit:?}")
    }
}

/// Clients of one store; all of them, or one, on a slow network.
struct Slow {
    what: Situation,
    faulty: Faulty,
    clients: Vec<Client>,
    ttl: Duration,
}

impl Slow {
    /// Connects the clients, and makes the network slow once each of them has its session.
    async fn new(context: &CaseContext, what: Situation, clients: usize) -> Result<Self, Stop> {
        let Situation { limit, share, all } = what;
        let faulty = context.env().faulty().await?;
        let faulty = faulty.ok_or(Stop::Ignored(Need::Faults))?;
        let ttl = context.possible_ttl(limit * 20 / 3);
        let mut slow = Self {
            what,
            faulty,
            clients: Vec::new(),
            ttl,
        };
        for number in 0..clients {
            let connector = if all || number == 0 {
                slow.faulty.connector()
            } else {
                context.env().connector()
            };
            let client = context
                .client_on(connector, |builder| builder.ttl(ttl).request_timeout(limit))
                .await?;
            // The session and the parents of the lock are created before the network is slow.
            let warm = client.lock(format!("warm {share} {all} {number}"))?;
            release(&warm.acquire().await?).await?;
            slow.clients.push(client);
        }
        slow.faulty.line().set(Fault::Delay(what.delay()));
        Ok(slow)
    }
}

/// Runs a check for each share, with one slow client and with all of them slow, side by side.
async fn in_each_situation<F>(
    context: &Arc<CaseContext>,
    check: fn(Arc<CaseContext>, Situation) -> F,
) -> Outcome
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut running = JoinSet::new();
    for share in SHARES {
        for all in [false, true] {
            running.spawn(in_one_situation(Arc::clone(context), share, all, check));
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Runs a check. If it fails while the store itself took a good part of the time that was left for it,
/// requests were probably not answered in time: then it runs again with twice the time limit.
async fn in_one_situation<F>(
    context: Arc<CaseContext>,
    share: u32,
    all: bool,
    check: fn(Arc<CaseContext>, Situation) -> F,
) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let mut factor = 1;
    loop {
        let limit = context.over_limit() * factor;
        let what = Situation { limit, share, all };
        let driver = context.driver().await?;
        let name = context.name(&format!("probe {what}"))?;
        let longest = Mutex::new(Duration::ZERO);
        let outcome = tokio::select! {
            outcome = check(Arc::clone(&context), what) => outcome,
            failed = measure(&context, &driver, &name, &longest) => Err(failed),
        };
        let longest = longest.into_inner().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(Stop::Failed(_)) if longest > what.rest() / 2 && factor < MAX_FACTOR => factor *= 2,
            Err(Stop::Failed(failure)) => {
                let note = format!("meanwhile the store took up to {longest:?} for a request");
                return Err(failure.with_note(note).into());
            }
            outcome => return outcome,
        }
    }
}

/// Acquires and removes a free lock on a fast network again and again, and keeps the longest time that the
/// store took for a request. Ends with an error.
async fn measure(
    context: &CaseContext,
    driver: &Driver,
    name: &LockName,
    longest: &Mutex<Duration>,
) -> Stop {
    let record = |begun: Instant| {
        let took = context.now().since(begun);
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = took.max(*longest);
    };
    loop {
        let begun = context.now();
        let grant = match driver.hold(name, context.long()).await {
            Ok(grant) => grant,
            Err(stop) => return stop,
        };
        record(begun);
        let begun = context.now();
        if let Err(error) = driver.remove(name, grant.attempt, context.long()).await {
            return error.into();
        }
        record(begun);
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

/// A waiter, and a signal that it is in the queue.
fn enqueue(client: &Client, name: &str) -> Result<Waiter, Stop> {
    let lock = client.lock(name)?;
    let (tell, queued) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let acquiring = tokio::spawn(async move {
        let told = |_: &_| {
            if let Some(tell) = tell.take() {
                let _ = tell.send(());
            }
        };
        lock.acquire_observed(None, told).await
    });
    Ok(Waiter { acquiring, queued })
}

struct Waiter {
    acquiring: JoinHandle<Result<Acquisition, Error>>,
    queued: tokio::sync::oneshot::Receiver<()>,
}

pub(crate) async fn slow_waiter_keeps_its_place(context: Arc<CaseContext>) -> Outcome {
    in_each_situation(&context, keeps_its_place).await
}

async fn keeps_its_place(context: Arc<CaseContext>, what: Situation) -> Outcome {
    let slow = Slow::new(&context, what, 2).await?;
    let ttl = slow.ttl;
    let driver = context.driver().await?;
    let text = format!("slow {what}");
    let name = context.name(&text)?;
    let held = driver.hold(&name, context.long()).await?;
    let bound = context.takeover(ttl, ttl);
    let mut waiters = Vec::new();
    for client in &slow.clients {
        let waiter = enqueue(client, &text)?;
        if tokio::time::timeout(bound, waiter.queued).await.is_err() {
            broken!("W2", "a waiter is not in the queue after {bound:?}: {what}");
        }
        waiters.push(waiter.acquiring);
    }
    let queue = || async {
        let queue = driver.inspect(&name).await?.queue;
        Ok::<_, Stop>(
            queue
                .into_iter()
                .map(|waiter| waiter.attempt)
                .collect::<Vec<_>>(),
        )
    };
    let before = queue().await?;
    // Longer than an entry lives without reports.
    context.sleep_until(context.now() + ttl * 3 / 2).await;
    let after = queue().await?;
    ensure!(
        before == after,
        "W5",
        "waiters lost their places: {before:?} became {after:?}: {what}"
    );
    driver.remove(&name, held.attempt, context.long()).await?;
    let mut last = held.token;
    for acquiring in waiters {
        let Ok(acquired) = tokio::time::timeout(bound, acquiring).await else {
            broken!("W2", "the next waiter has no turn after {bound:?}: {what}");
        };
        let Acquisition::Acquired(guard) = acquired?? else {
            broken!(
                "W2",
                "an acquire without a time limit ended as busy: {what}"
            );
        };
        ensure!(guard.token() > last, "T1", "the token did not rise: {what}");
        last = guard.token();
        context.sleep_until(context.now() + ttl).await;
        ensure!(
            guard.check().is_ok(),
            "L5",
            "a grant ended although every request was answered in time: {what}"
        );
        release(&guard).await?;
    }
    slow.faulty.line().set(Fault::None);
    Ok(())
}

pub(crate) async fn slow_client_stops_nobody(context: Arc<CaseContext>) -> Outcome {
    in_each_situation(&context, stops_nobody).await
}

async fn stops_nobody(context: Arc<CaseContext>, what: Situation) -> Outcome {
    let slow = Slow::new(&context, what, 4).await?;
    let bound = context.takeover(slow.ttl, slow.ttl);
    let text = format!("turns {what}");
    let mut running = JoinSet::new();
    for client in &slow.clients {
        let (context, lock) = (Arc::clone(&context), client.lock(&text)?);
        running.spawn(async move {
            let mut worst = Duration::ZERO;
            for _ in 0..TURNS {
                let begun = context.now();
                let guard = lock.acquire().await?;
                worst = worst.max(context.now().since(begun));
                // A release may time out, and is then repeated in the background.
                let _ = guard.release().await;
            }
            Ok::<_, Error>(worst)
        });
    }
    let turns = async {
        let mut worst = Duration::ZERO;
        while let Some(done) = running.join_next().await {
            worst = worst.max(done??);
        }
        Ok::<_, Stop>(worst)
    };
    // Each of the others may have a turn in between.
    let limit = bound * u32::try_from(slow.clients.len()).unwrap_or(u32::MAX);
    match tokio::time::timeout(limit, turns).await {
        Err(_) => {
            let text = format!(
                "after {limit:?} not every client has had {TURNS} turns: {}",
                slow.what
            );
            Err(Failure::new(Some("W2"), text).into())
        }
        Ok(worst) => {
            let worst = worst?;
            ensure!(
                worst <= bound * 2,
                "W2",
                "a client waited {worst:?} for its turn, with a takeover bound of {bound:?}: {}",
                slow.what
            );
            slow.faulty.line().set(Fault::None);
            Ok(())
        }
    }
}

pub(crate) async fn slow_server_is_left(context: Arc<CaseContext>) -> Outcome {
    let faulty = context.env().faulty().await?;
    let faulty = faulty.ok_or(Stop::Ignored(Need::SeveralServers))?;
    let line = faulty.line();
    if line.servers() < 2 {
        return Err(Stop::Ignored(Need::SeveralServers));
    }
    let ttl = context.possible_ttl(context.over_limit() * 20 / 3);
    let client = context.client_over(&faulty, ttl).await?;
    let held = client.lock("held")?.acquire().await?;
    let lock = client.lock("free")?;
    release(&lock.acquire().await?).await?;
    let bound = context.takeover(ttl, ttl);
    for server in 0..line.servers() {
        line.set_on(server, Fault::Delay(context.over_limit()));
        let deadline = context.now() + bound;
        // An acquire that waits outlives the requests that were not answered.
        let Ok(acquired) = tokio::time::timeout(bound, lock.acquire()).await else {
            broken!(
                "W2",
                "no acquire within {bound:?} while server {server} is slow"
            );
        };
        let guard = acquired?;
        while !matches!(guard.release().await, Release::Released) {
            ensure!(
                context.now() < deadline,
                "W2",
                "no release within {bound:?} while server {server} is slow"
            );
        }
        if let Err(lost) = held.check() {
            broken!(
                "L5",
                "the lock was lost while server {server} was slow: {lost}"
            );
        }
        line.set_on(server, Fault::None);
    }
    release(&held).await
}

pub(crate) async fn wait_outlives_an_unanswered_enqueue(context: Arc<CaseContext>) -> Outcome {
    let faulty = context.env().faulty().await?;
    let faulty = faulty.ok_or(Stop::Ignored(Need::Faults))?;
    let ttl = context.steady();
    let client = context.client_over(&faulty, ttl).await?;
    release(&client.lock("warm")?.acquire().await?).await?;
    let driver = context.driver().await?;
    for fault in [Fault::BlackHole, Fault::HoldReplies, Fault::Refuse] {
        let text = format!("unanswered {fault:?}");
        let name = context.name(&text)?;
        let held = driver.hold(&name, context.long()).await?;
        faulty.line().set(fault);
        let waiter = enqueue(&client, &text)?;
        // Longer than the time limit of several requests.
        let silent_until: Instant = context.now() + context.over_limit() * 3;
        context.sleep_until(silent_until).await;
        if waiter.acquiring.is_finished() {
            let outcome = waiter.acquiring.await?;
            broken!(
                "W2",
                "an acquire without a time limit ended because requests were not answered \
                 ({fault:?}): {outcome:?}"
            );
        }
        faulty.line().set(Fault::None);
        let bound = context.takeover(ttl, ttl) + ttl;
        if tokio::time::timeout(bound, waiter.queued).await.is_err() {
            broken!(
                "W2",
                "{bound:?} after requests were answered again ({fault:?}), the waiter is not in the queue"
            );
        }
        // The attempts whose enqueue was not answered are removed (A3).
        context
            .until_waiting_within(&driver, &name, 1, bound)
            .await?;
        driver.remove(&name, held.attempt, context.long()).await?;
        let Ok(acquired) = tokio::time::timeout(bound, waiter.acquiring).await else {
            broken!("W2", "the waiter has no turn after {bound:?} ({fault:?})");
        };
        match acquired?? {
            Acquisition::Acquired(guard) => release(&guard).await?,
            other => broken!("W2", "an acquire without a time limit returned {other:?}"),
        }
        context.until_idle(&driver, &name, bound, "A4").await?;
    }
    Ok(())
}
