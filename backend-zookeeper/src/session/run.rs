//! The task of a session: connects, serves, connects again, until the session ends.

use std::{sync::Arc, time::Duration};

use tenure_core::{backend::BackendEvent, error::ErrorKind, loss::LossReason};

use super::{
    Closing, Ear, Link, Session, State, Use,
    beat::End,
    time::{silence, until},
};
use tokio::sync::watch;

use crate::wire::{
    open::{Greeting, Opened, Place, Trouble, open},
    proto::{Pass, Request},
};

/// A session that was never connected is given up after so long.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The pause after a round through all servers: from here, doubling, to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What a round through all servers came to.
enum Round {
    Connected(Opened, tenure_core::clock::Instant),
    /// The servers say that the session is gone.
    Gone,
    Failed(Trouble),
}

pub(super) async fn run(session: Arc<Session>) {
    let clock = Arc::clone(&session.settings.context.clock);
    let began = clock.now();
    let mut pass = Pass::NEW;
    let mut seen = 0;
    let mut number = 0;
    let mut pause = FIRST_PAUSE;
    let mut closing = session.closing.subscribe();
    let mut last_up = began;
    let mut places = session.settings.target.places.clone();
    fastrand::shuffle(&mut places);
    loop {
        // To take it up again prolongs it, so that this has to be wanted, too.
        let lapsed = last_up + 2 * (session.granted() + session.settings.options.tick);
        let again = async {
            if pass.id != 0
                && until(&*clock, lapsed, session.until_wanted())
                    .await
                    .is_none()
            {
                return Round::Gone;
            }
            round(&session, &mut places, pass, seen).await
        };
        let round = tokio::select! {
            round = again => round,
            () = asked_to_end(&mut closing) => return session.lost(LossReason::Closed),
        };
        let (opened, asked) = match round {
            Round::Connected(opened, asked) => (opened, asked),
            Round::Gone => return session.lost(LossReason::SessionLost),
            Round::Failed(trouble) => {
                let new = pass.id == 0;
                let late = clock.now().since(began) > GIVE_UP;
                if new && (late || trouble.kind != ErrorKind::Unavailable) {
                    return session.end(Some(trouble), LossReason::SessionLost);
                }
                // By now it has expired, unless no server was up to notice; then its nodes lapse
                // when one is. Going on with it could be refused for ever: servers that were set up
                // anew know less than we have seen.
                let granted = session.granted();
                if !new
                    && clock.now().since(last_up) > 2 * (granted + session.settings.options.tick)
                {
                    return session.lost(LossReason::SessionLost);
                }
                tracing::debug!(why = trouble.detail, "no server could be reached");
                session.state.send_replace(State::Down(trouble));
                let jitter = Duration::from_millis(fastrand::u64(0..20));
                clock.sleep_until(clock.now() + pause + jitter).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let welcome = opened.welcome;
        if pass.id == 0 {
            if session.purpose == Use::Locks {
                if welcome.timeout != session.ttl {
                    let trouble = wrong_ttl(session.ttl, welcome.timeout);
                    let _ = opened.conn.send(&Request::close());
                    return session.end(Some(trouble), LossReason::SessionLost);
                }
                // A majority has agreed to the session after it was asked for.
                session.prove(asked);
            }
            session.granted.send_replace(welcome.timeout);
        } else if pass.id != welcome.pass.id {
            // Some servers make a new session without a word.
            return session.lost(LossReason::SessionLost);
        } else if session.purpose == Use::Locks && welcome.timeout < session.ttl {
            // A server that is set up otherwise: by having taken it up with a shorter life it has
            // cut short what was proved before, too. The other servers give no more back.
            tracing::warn!(
                given = ?welcome.timeout,
                wanted = ?session.ttl,
                "a server gives the session a shorter life than it had; compare the servers' \
                 `maxSessionTimeout` and `tickTime`",
            );
            session.lost(LossReason::SessionLost);
            let bye = opened.conn.call(Request::close());
            let _ = until(&*clock, session.settings.limit(), bye).await;
            return;
        }
        pass = welcome.pass;
        number += 1;
        let link = Link {
            conn: Arc::new(opened.conn),
            number,
            owner: pass.id,
        };
        tracing::debug!(number, "connected");
        session.state.send_replace(State::Up(link.clone()));
        let mut ending = session.closing.subscribe();
        let end = tokio::select! {
            () = link.conn.over() => End::Broken,
            end = session.beats(&link) => end,
            end = session.watch(&link) => end,
            end = session.check_once(&link) => end,
            () = asked_to_end(&mut ending) => End::Idle,
        };
        seen = link.conn.zxid();
        last_up = clock.now();
        match end {
            End::Broken => {}
            End::Expired => {
                link.conn.close();
                return session.lost(LossReason::SessionLost);
            }
            End::Idle => {
                if *session.closing.borrow() != Closing::Silently {
                    let bye = link.conn.call(Request::close());
                    let _ = until(&*clock, session.settings.limit(), bye).await;
                }
                link.conn.close();
                return session.lost(LossReason::Closed);
            }
        }
        let trouble = Trouble::new(
            ErrorKind::Unavailable,
            "the connection was lost and is being made again",
        );
        session.state.send_replace(State::Down(trouble));
        link.conn.close();
        if session.book().len() > 0 {
            session.tell([BackendEvent::Suspect]);
        }
    }
}

async fn asked_to_end(closing: &mut watch::Receiver<Closing>) {
    let _ = closing.wait_for(|closing| *closing != Closing::No).await;
}

/// Tries each server once. Each that is tried goes to the end, whether it serves for a while or not
/// at all: one that has fallen silent is not asked again before all the others.
async fn round(session: &Arc<Session>, places: &mut [Place], pass: Pass, seen: i64) -> Round {
    let settings = &session.settings;
    let clock = &*settings.context.clock;
    let mut last = Trouble::new(ErrorKind::Unavailable, "no server was tried");
    for _ in 0..places.len() {
        places.rotate_left(1);
        let Some(place) = places.last() else { break };
        let asked = clock.now();
        let hello = Greeting {
            pass,
            timeout: session.ttl,
            seen,
        };
        let mut patience = settings.options.connect_timeout;
        if pass.id != 0 {
            // Others have to be tried in its time, too.
            let share = silence(session.granted()).max(Duration::from_millis(200));
            patience = patience.min(share);
        }
        let ear = Arc::new(Ear(Arc::downgrade(session)));
        let secure = settings.target.secure;
        let opening = open(place, secure, &settings.options, hello, ear);
        last = match until(clock, asked + patience, opening).await {
            Some(Ok(Some(opened))) => return Round::Connected(opened, asked),
            Some(Ok(None)) if pass.id != 0 => return Round::Gone,
            Some(Ok(None)) => Trouble::new(
                ErrorKind::Unavailable,
                format!("{place}: it gave us no session"),
            ),
            Some(Err(trouble)) => trouble,
            None => {
                let hint = if secure {
                    ""
                } else {
                    "; does it want TLS (`zookeepers://`)?"
                };
                Trouble::new(
                    ErrorKind::Unavailable,
                    format!("{place}: no answer within {patience:?}{hint}"),
                )
            }
        };
        // One server that is set up otherwise does not speak for the others.
    }
    Round::Failed(last)
}

fn wrong_ttl(wanted: Duration, given: Duration) -> Trouble {
    Trouble::new(
        ErrorKind::Config,
        format!(
            "the servers give a session of {given:?} where {wanted:?} was asked for; choose a TTL \
             between their `minSessionTimeout` and `maxSessionTimeout`, and compare the option \
             `tick` with their `tickTime`"
        ),
    )
}
