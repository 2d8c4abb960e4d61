//! Flaws of renewals.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tenure_core::{
    backend::RenewalAnswers,
    clock::{Clock, SystemClock},
    error::{Error, ErrorKind},
    loss::LossReason,
    name::LockName,
    request::{Enqueue, Enqueued, Owner, Remove, Renewal, Renewed},
    token::FencingToken,
};

use crate::{driver::Driver, flaw::Flaw, store::turn};

/// The time after which the flawed driver takes a missing reply for success, or for the end.
const REPLY_TIMEOUT: Duration = Duration::from_millis(50);

/// The time after which the flawed driver throws a grant away.
const LATE: Duration = Duration::from_millis(150);

impl Driver {
    /// Renews one entry with the flaw.
    pub(crate) async fn renew_one(&self, entry: &Renewal) -> Renewed {
        let from = SystemClock.now();
        if self.has(Flaw::ExistenceIsProof) && entry.token.is_some() {
            let state = self.inner.inspect(&entry.name).await.unwrap();
            let holder = state.holder.and_then(|holder| holder.attempt);
            if holder == Some(entry.attempt) {
                return Renewed::Proved { from };
            }
        }
        let believes = self.has(Flaw::BelievesTheFormerLeader) && self.has_former_leader(true);
        if believes && entry.token.is_some() {
            return Renewed::Proved { from };
        }
        if self.has(Flaw::RenewsOnce) && entry.token.is_some() && turn(&self.turned) {
            // Every later call ends here, too.
            self.turned.store(true, Ordering::SeqCst);
            return Renewed::Proved { from };
        }
        if self.has(Flaw::OneRenewsAll) {
            self.renew_all_holders(entry).await;
        }
        let batch = vec![entry.clone()];
        let asked = RenewalAnswers::collect(1, |answers| self.inner.renew(batch, answers));
        if self.has(Flaw::ReportInTwoTrips) && entry.token.is_none() {
            let both = async {
                let _ = self.inner.inspect(&entry.name).await;
                asked.await.into_iter().next()
            };
            let answer = tokio::time::timeout(self.request_timeout, both).await;
            return answer.ok().flatten().unwrap_or_else(|| {
                Renewed::Unknown(Error::new(ErrorKind::OutcomeUnknown, "renewing"))
            });
        }
        let answer = if self.has(Flaw::SuspendedTakenForHeld) && entry.token.is_some() {
            match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
                Ok(answers) => answers.into_iter().next(),
                Err(_) => Some(Renewed::Proved { from }),
            }
        } else if self.has(Flaw::ReleasesUnderTheHolder) && entry.token.is_some() {
            match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
                Ok(answers) => answers.into_iter().next(),
                Err(_) => {
                    let inner = Arc::clone(&self.inner);
                    let remove = Remove::new(entry.name.clone(), entry.attempt, entry.ttl, true);
                    tokio::spawn(async move { inner.remove(remove).await });
                    let lost = Error::new(ErrorKind::OutcomeUnknown, "renewing");
                    Some(Renewed::Unknown(lost))
                }
            }
        } else {
            asked.await.into_iter().next()
        };
        // The driver returns one reply for each entry.
        let answer = answer.unwrap();
        let late = SystemClock.now().since(from) > LATE;
        if self.has(Flaw::LateGrantThrownAway) && late && matches!(answer, Renewed::Granted(_)) {
            let lost = Error::new(ErrorKind::OutcomeUnknown, "renewing");
            return Renewed::Unknown(lost);
        }
        self.renewed(entry, answer).await
    }

    /// Applies the flaw to a reply.
    async fn renewed(&self, entry: &Renewal, answer: Renewed) -> Renewed {
        match answer {
            Renewed::Granted(mut grant) if self.has(Flaw::TokenChangesOnRenewal) => {
                grant.token = FencingToken::new(grant.token.get() + 1);
                Renewed::Granted(grant)
            }
            Renewed::Granted(grant) => Renewed::Granted(self.granted(&entry.name, grant)),
            Renewed::Unknown(_) if self.has(Flaw::ErrorIsLoss) && entry.token.is_some() => {
                Renewed::Gone(LossReason::Displaced)
            }
            Renewed::Unknown(error) => {
                if self.has(Flaw::RenewalStopsAfterError) && !self.turned.load(Ordering::SeqCst) {
                    turn(&self.turned);
                }
                Renewed::Unknown(error)
            }
            Renewed::Gone(reason) => {
                let revives = match entry.token {
                    Some(_) => self.has(Flaw::RenewalRevivesExpired),
                    None => self.has(Flaw::ReportCreates),
                };
                if self.has(Flaw::RenewalExtendsAnothers) {
                    self.renew_holder(&entry.name).await;
                }
                if !revives {
                    return Renewed::Gone(reason);
                }
                let owner = Owner::new("", "", 0);
                let again = Enqueue::new(entry.name.clone(), entry.attempt, owner, entry.ttl, true);
                match self.inner.enqueue(again).await {
                    Ok(Enqueued::Granted(grant)) => Renewed::Granted(grant),
                    Ok(Enqueued::Waiting(waiting)) => Renewed::Waiting(waiting),
                    _ => Renewed::Gone(reason),
                }
            }
            answer => answer,
        }
    }

    pub(crate) async fn renew_holder(&self, name: &LockName) {
        let state = self.inner.inspect(name).await.unwrap();
        if let Some((attempt, ttl)) = state.holder.and_then(|h| Some((h.attempt?, h.ttl?))) {
            let renewal = Renewal::new(name.clone(), attempt, ttl, None);
            let ignored = RenewalAnswers::new(|_, _| {});
            self.inner.renew(vec![renewal], ignored).await;
        }
    }
}
