//! The flaws of shared and counted locks, of several locks and of elections.

use std::time::Duration;

use tenure_core::{
    backend::RenewalAnswers,
    error::Error,
    mode::Mode,
    name::LockName,
    request::{
        Downgrade, Downgraded, Enqueue, Evicted, LockState, Owner, Remove, Removed, Renewal,
    },
    token::FencingToken,
};

use crate::{driver::Driver, flaw::Flaw, store::turn};

/// A TTL that does not end within a case.
const FOR_EVER: Duration = Duration::from_secs(3600);

impl Driver {
    /// Applies the flaw to the mode and the TTL of an enqueue.
    pub(crate) async fn change_mode(&self, request: &mut Enqueue) -> Result<(), Error> {
        match request.mode {
            Mode::Permits { of, .. } if self.has(Flaw::PermitsNotSummed) => {
                request.mode = Mode::Permits { take: 1, of };
            }
            Mode::Permits { take, .. } if self.has(Flaw::OtherTotalAccepted) => {
                let state = self.inner.inspect(&request.name).await?;
                if let Some(Mode::Permits { of, .. }) = state.holder.map(|holder| holder.mode) {
                    request.mode = Mode::Permits { take, of };
                }
            }
            Mode::Exclusive if self.has(Flaw::WriterBesideReaders) => {
                let state = self.inner.inspect(&request.name).await?;
                if state
                    .holder
                    .is_some_and(|holder| holder.mode == Mode::Shared)
                {
                    request.mode = Mode::Shared;
                }
            }
            Mode::Shared if self.has(Flaw::SharedIsExclusive) => request.mode = Mode::Exclusive,
            Mode::Shared | Mode::Permits { .. } if self.has(Flaw::PermitsOfTheDead) => {
                request.ttl = FOR_EVER;
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes the waiters that the flawed store lets this attempt pass, and returns them.
    pub(crate) async fn pass(&self, request: &Enqueue) -> Result<Vec<Enqueue>, Error> {
        let passes = |waiting: Mode| match (waiting, request.mode) {
            (Mode::Exclusive, Mode::Shared) => {
                self.has(Flaw::ReadersPassWriters) && !request.wait
                    || self.has(Flaw::ReadersStarveWriters) && request.wait
            }
            (Mode::Permits { take: large, .. }, Mode::Permits { take: small, .. }) => {
                self.has(Flaw::SmallPassLarge) && small < large
            }
            _ => false,
        };
        let mut passed = Vec::new();
        let flaws = [
            Flaw::ReadersPassWriters,
            Flaw::ReadersStarveWriters,
            Flaw::SmallPassLarge,
        ];
        if !flaws.into_iter().any(|flaw| self.has(flaw)) {
            return Ok(passed);
        }
        let recorded = self.store.shared.lock().unwrap().waiting.clone();
        for waiter in self.inner.inspect(&request.name).await?.queue {
            let mut recorded = recorded.iter();
            let own = recorded.find(|(other, ..)| Some(other.attempt) == waiter.attempt);
            if let Some((other, backend, _)) = own.filter(|_| passes(waiter.mode)) {
                let remove = Remove::new(other.name.clone(), other.attempt, other.ttl, true);
                backend.remove(remove).await?;
                passed.push(other.clone());
            }
        }
        Ok(passed)
    }

    /// Puts the waiters that were passed behind the attempt that has passed them.
    pub(crate) async fn put_back(&self, passed: Vec<Enqueue>) -> Result<(), Error> {
        let recorded = self.store.shared.lock().unwrap().waiting.clone();
        for request in passed {
            let mut recorded = recorded.iter();
            let own = recorded.find(|(other, ..)| other.attempt == request.attempt);
            if let Some((_, backend, _)) = own {
                backend.enqueue(request).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn downgrade_with_flaw(
        &self,
        request: Downgrade,
    ) -> Result<Downgraded, Error> {
        if self.has(Flaw::DowngradeWithoutEffect) {
            return Ok(Downgraded::Shared);
        }
        if self.has(Flaw::DowngradeInTwoSteps) {
            let (name, attempt, ttl) = (request.name, request.attempt, request.ttl);
            let remove = Remove::new(name.clone(), attempt, ttl, true);
            self.inner.remove(remove).await?;
            let enqueue = Enqueue::new(name, attempt, Owner::new("", "", 0), ttl, true);
            self.inner.enqueue(enqueue.with_mode(Mode::Shared)).await?;
            return Ok(Downgraded::Shared);
        }
        self.inner.downgrade(request).await
    }

    /// Renews all holders of the lock.
    pub(crate) async fn renew_all_holders(&self, entry: &Renewal) {
        let Ok(state) = self.inner.inspect(&entry.name).await else {
            return;
        };
        let others = state.holders().filter_map(|holder| holder.attempt);
        let others: Vec<_> = others
            .map(|attempt| {
                let mut other = entry.clone();
                other.attempt = attempt;
                other
            })
            .collect();
        let count = others.len();
        RenewalAnswers::collect(count, |answers| self.inner.renew(others, answers)).await;
    }

    /// Revokes all grants of the lock.
    pub(crate) async fn evict_all(&self, name: &LockName) -> Result<Evicted, Error> {
        let state = self.inner.inspect(name).await?;
        let tokens: Vec<FencingToken> = state.holders().filter_map(|holder| holder.token).collect();
        for token in tokens {
            self.inner.evict(name, token).await?;
        }
        Ok(Evicted::Evicted)
    }

    /// Returns what the flawed store answers to a removal that it does not carry out.
    pub(crate) async fn ignored_removal(&self, request: &Remove) -> Result<Option<Removed>, Error> {
        let kept_after_busy = self.has(Flaw::KeepsWhatItHadBefore)
            && self.turned.swap(false, std::sync::atomic::Ordering::SeqCst);
        if !kept_after_busy && !self.has(Flaw::ResignationNeedsTwo) {
            return Ok(None);
        }
        let state = self.inner.inspect(&request.name).await?;
        let mut holders = state.holders();
        let holds = holders.any(|holder| holder.attempt == Some(request.attempt));
        let ignored = holds && (kept_after_busy || !turn(&self.turned));
        Ok(ignored.then_some(Removed::AsHolder))
    }

    /// Applies the flaw to a state that is shown.
    pub(crate) fn shown_state(&self, mut state: LockState) -> LockState {
        if self.has(Flaw::TermNotShown)
            && let Some(holder) = &mut state.holder
        {
            holder.token = None;
        }
        if self.has(Flaw::ShowsAnOldLeader) {
            let mut shared = self.store.shared.lock().unwrap();
            let name = state.name.clone();
            return shared.shown.entry(name).or_insert(state).clone();
        }
        state
    }
}
