//! Putting an attempt into a lock's queue, and finding out where it stands.

use std::sync::Arc;

use tenure_core::{
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    request::{Enqueue, Enqueued, Grant, Holder, StoreTime, Waiting},
};

use crate::{
    core::{Core, closed},
    error::{error, of_read, of_write, unanswered},
    paths::{self, stem},
    queue::{Standing, standing},
    record,
    session::{
        Link, Session,
        book::{Ahead, Entered, Place},
        time::until,
    },
    wire::{
        conn::{Answer, Fault},
        proto::{Code, Kind, Made, Node, Request, Stat, children},
    },
};

const OPERATION: &str = "acquiring";

/// How often the parents are made, and a queue is read again because it has changed meanwhile.
const ROUNDS: usize = 16;

/// So many of ours wait: who comes then is told by its number whom it stands behind, and does not ask for
/// a list. With fewer, those that it would be told of may be gone before it comes.
const CROWD: usize = 2;

/// Where an attempt stands.
#[derive(Debug)]
pub(crate) enum Stood {
    First,
    Waiting,
    Gone,
}

/// An attempt under way.
pub(crate) struct Asking<'a> {
    pub(crate) core: &'a Core,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) link: &'a Link,
    pub(crate) attempt: AttemptId,
    /// The lock's node.
    pub(crate) lock: &'a Arc<str>,
    /// Asked for again, it is proved anew: from then on.
    pub(crate) anew: Option<Instant>,
}

/// A list of children, and the latest transaction that was known with it.
type Listing = (i64, Vec<String>);

/// Enqueues, within the time of a request.
pub(crate) async fn enqueue(core: &Core, request: &Enqueue) -> Result<Enqueued, Error> {
    let clock = &*core.settings.context.clock;
    let limit = core.settings.limit();
    let session = loop {
        let session = core
            .pool
            .locks(request.ttl)
            .ok_or_else(|| closed(OPERATION))?;
        session.want();
        match session.link(OPERATION, limit).await {
            Ok(_) => break session,
            // It ended before it was used: another one is tried, with its own reasons.
            Err(_) if session.is_over() && session.proved().is_some() => {}
            Err(error) => return Err(error),
        }
        if clock.now() >= limit {
            return Err(error(
                ErrorKind::Unavailable,
                OPERATION,
                "no session came about in time",
            ));
        }
    };
    match until(clock, limit, enter(core, &session, request)).await {
        Some(outcome) => outcome,
        None => Err(unanswered(OPERATION)),
    }
}

async fn enter(core: &Core, session: &Arc<Session>, request: &Enqueue) -> Result<Enqueued, Error> {
    let attempt = request.attempt;
    let limit = core.settings.limit();
    // An attempt belongs to the session that it was first asked for in.
    let session = &core
        .session_of(attempt)
        .unwrap_or_else(|| Arc::clone(session));
    session.want();
    let link = session.link(OPERATION, limit).await?;
    let lock: Arc<str> = core.paths.lock(&request.name).into();
    if !core.keep(attempt, session) {
        return Ok(Enqueued::Gone);
    }
    let entered = session.book().enter(attempt, &lock, &request.owner);
    let known = entered == Entered::Known;
    let asking = Asking {
        core,
        session,
        link: &link,
        attempt,
        lock: &lock,
        anew: known.then(|| core.settings.now()),
    };
    let outcome = match entered {
        Entered::New => asking.ask(request).await,
        Entered::Known => asking.again(request).await,
        Entered::Closed => Err(error(
            ErrorKind::Unavailable,
            OPERATION,
            "the session has just ended; a new one is made for what comes next",
        )),
    };
    // Nobody removes it after such an answer. What was asked for before may be in the queue.
    let over = match &outcome {
        Ok(outcome) => matches!(outcome, Enqueued::Gone),
        Err(error) => !known && error.kind().is_without_effect(),
    };
    if over {
        core.forget(attempt);
    }
    outcome
}

impl Asking<'_> {
    /// Makes the node, and tells where it stands.
    async fn ask(&self, request: &Enqueue) -> Result<Enqueued, Error> {
        let path = format!("{}/{}", self.lock, stem(self.attempt));
        let data = record::encode(request);
        for _ in 0..ROUNDS {
            let access = self.core.access;
            let create = Request::create(&path, &data, access, Kind::EphemeralSequential);
            // Behind others of ours it has no hurry, and who has just been granted may have.
            let ahead = if request.wait {
                self.session.book().waiting(self.lock)
            } else {
                0
            };
            let mut requests = vec![create];
            if ahead < CROWD {
                requests.push(Request::children(self.lock));
            }
            let conn = &self.link.conn;
            let sent = if ahead > 0 {
                conn.send_patiently(requests)
            } else {
                conn.send_all(requests)
            };
            let sent = sent.map_err(|fault| of_write(OPERATION, &path, fault))?;
            let mut answers = sent.into_iter();
            let made = answers.next().ok_or_else(|| unanswered(OPERATION))?;
            match made.get().await {
                Ok(reply) => {
                    let Ok(made) = Made::answer(&reply.body) else {
                        return Err(unanswered(OPERATION));
                    };
                    // Noted in any case, so that it can be deleted also where it cannot be listed.
                    let listing = match answers.next() {
                        Some(listed) => listing(listed).await.ok(),
                        None => None,
                    };
                    return self.made(request, &made.path, &made.stat, listing).await;
                }
                Err(Fault::Refused(Code::NoNode)) => self.make_parents().await?,
                Err(fault) => return Err(of_write(OPERATION, self.lock, fault)),
            }
        }
        Err(error(
            ErrorKind::Unavailable,
            OPERATION,
            format!("`{}` is deleted as often as it is made", self.lock),
        ))
    }

    /// The same attempt is asked for again: its node may be there, or on its way.
    async fn again(&self, request: &Enqueue) -> Result<Enqueued, Error> {
        let known = self
            .session
            .book()
            .get(self.attempt)
            .map(|entry| (matches!(entry.place, Place::Gone(_)), entry.node.clone()));
        match known {
            None | Some((true, _)) => return Ok(Enqueued::Gone),
            Some((false, Some(_))) => return self.answer(request, None).await,
            Some((false, None)) => {}
        }
        let unknown = |_| unanswered(OPERATION);
        let sent = self
            .link
            .conn
            .send_all([Request::sync(self.lock), Request::children(self.lock)]);
        let [synced, listed] = two(sent.map_err(unknown)?)?;
        synced.get().await.map_err(unknown)?;
        let found = match listing(listed).await {
            Ok((_, names)) => {
                own(&names, self.attempt).map(|child| format!("{}/{child}", self.lock))
            }
            Err(Fault::Refused(Code::NoNode)) => None,
            Err(fault) => return Err(unknown(fault)),
        };
        let Some(path) = found else {
            return self.ask(request).await;
        };
        match self.link.conn.call(Request::exists(&path, false)).await {
            Ok(reply) => {
                let stat = Stat::answer(&reply.body).map_err(|_| unanswered(OPERATION))?;
                self.made(request, &path, &stat, None).await
            }
            Err(Fault::Refused(Code::NoNode)) => Ok(Enqueued::Gone),
            Err(fault) => Err(unknown(fault)),
        }
    }

    async fn made(
        &self,
        request: &Enqueue,
        path: &str,
        stat: &Stat,
        listing: Option<Listing>,
    ) -> Result<Enqueued, Error> {
        let floor = self.core.settings.context.token_floor;
        let number = self.link.number;
        let noted = self
            .session
            .book()
            .found(self.attempt, path, stat, floor, number);
        if !noted {
            // Asked for twice at once: the later node goes.
            let gone = self.link.conn.delete(path).await;
            gone.map_err(|_| unanswered(OPERATION))?;
            return self.answer(request, None).await;
        }
        self.session.ring();
        self.answer(request, listing).await
    }

    /// Makes the lock's node, and the namespace's if need be.
    async fn make_parents(&self) -> Result<(), Error> {
        let access = self.core.access;
        let namespace = self.core.paths.namespace();
        // Both at once. To make the namespace again fails, also for want of the right to, and that
        // tells nothing.
        let sent = self.link.conn.send_all([
            Request::create(namespace, b"", access, Kind::Persistent),
            Request::create(self.lock, b"", access, Kind::Container),
        ]);
        let unsent = |fault| of_read(OPERATION, self.lock, fault);
        let [above, own] = two(sent.map_err(unsent)?)?;
        let above = above.get().await;
        match own.get().await {
            Ok(_) | Err(Fault::Refused(Code::NodeExists)) => return Ok(()),
            Err(Fault::Refused(Code::NoNode)) => {}
            Err(fault) => return Err(unsent(fault)),
        }
        match above {
            Err(Fault::Refused(Code::NoNode)) => Err(error(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "the node `{}` of the address is gone; make it again",
                    self.core.paths.root()
                ),
            )),
            Err(Fault::Refused(Code::NodeExists)) | Ok(_) => Ok(()),
            Err(fault) => Err(of_read(OPERATION, namespace, fault)),
        }
    }

    /// What there is to say of an attempt whose node is known.
    async fn answer(&self, request: &Enqueue, listing: Option<Listing>) -> Result<Enqueued, Error> {
        if !request.wait {
            return self.try_it(listing).await;
        }
        let lined_up = listing.is_none() && self.line_up().await;
        let stood = if lined_up {
            Stood::Waiting
        } else {
            match self.stand(listing, true).await {
                Ok(stood) => stood,
                // Somebody's state that we may not go past: we leave.
                Err(error) => return Err(self.leave_with(error).await),
            }
        };
        match stood {
            Stood::First => self.grant().await,
            Stood::Gone => Ok(Enqueued::Gone),
            Stood::Waiting => Ok(match self.waiting() {
                Some(Ok(waiting)) => Enqueued::Waiting(waiting),
                Some(Err(())) => return self.grant().await,
                None => Enqueued::Gone,
            }),
        }
    }

    /// Stands right behind another one of ours, if its number tells so.
    async fn line_up(&self) -> bool {
        let try_it = || {
            let mut book = self.session.book();
            book.line_up(self.attempt, self.session.ttl)
        };
        if try_it() {
            return true;
        }
        // That one may have been answered together with this one, and be about to note it.
        tokio::task::yield_now().await;
        try_it()
    }

    /// First, or out again.
    async fn try_it(&self, listing: Option<Listing>) -> Result<Enqueued, Error> {
        let (node, listing) = match (self.node(), listing) {
            (None, _) => return Ok(Enqueued::Gone),
            (Some(node), Some(listing)) => (node, listing),
            (Some(node), None) => {
                let listed = self.link.conn.send(&Request::children(self.lock));
                let listed = listed.map_err(|_| unanswered(OPERATION))?;
                match self::listing(listed).await {
                    Ok(listing) => (node, listing),
                    Err(Fault::Refused(code)) => {
                        let error = of_read(OPERATION, self.lock, Fault::Refused(code));
                        return Err(self.leave_with(error).await);
                    }
                    Err(_) => return Err(unanswered(OPERATION)),
                }
            }
        };
        let own = node.rsplit('/').next().unwrap_or_default();
        let first = match standing(&listing.1, own) {
            Standing::Missing => return Ok(Enqueued::Gone),
            Standing::First => {
                self.session.book().first(self.attempt);
                return self.grant().await;
            }
            Standing::Behind { first, .. } => format!("{}/{first}", self.lock),
        };
        self.session.book().leave(self.attempt);
        let conn = &self.link.conn;
        let shown = conn.send(&Request::get_data(&first, false));
        let shown = shown.map_err(|_| unanswered(OPERATION))?;
        let gone = conn.delete(&node).await;
        let shown = shown.get().await;
        match gone {
            Ok(_) | Err(Fault::Refused(Code::NoNode)) => {}
            Err(_) => return Err(unanswered(OPERATION)),
        }
        self.core.forget(self.attempt);
        Ok(Enqueued::Busy(
            self.read_holder(&first, shown)?.unwrap_or_default(),
        ))
    }

    /// Leaves the queue and then fails with this error.
    async fn leave_with(&self, error: Error) -> Error {
        let Some(node) = self.node() else {
            return error;
        };
        self.session.book().leave(self.attempt);
        match self.link.conn.delete(&node).await {
            Ok(_) | Err(Fault::Refused(Code::NoNode)) => error,
            Err(_) => error.with_kind(ErrorKind::OutcomeUnknown),
        }
    }

    fn node(&self) -> Option<Arc<str>> {
        let book = self.session.book();
        book.get(self.attempt)?.node.clone()
    }

    fn read_holder(
        &self,
        path: &str,
        answer: Result<crate::wire::conn::Reply, Fault>,
    ) -> Result<Option<Holder>, Error> {
        let floor = self.core.settings.context.token_floor;
        match answer {
            Ok(reply) => match Node::answer(&reply.body) {
                Ok(node) => record::holder(OPERATION, path, &node, floor).map(Some),
                Err(_) => Ok(None),
            },
            // Gone meanwhile, or nobody's business of ours.
            Err(_) => Ok(None),
        }
    }

    /// Finds out where the attempt stands, and watches what is ahead of it. With `strict`, a holder
    /// whose state cannot be read is an error.
    pub(crate) async fn stand(
        &self,
        mut listing: Option<Listing>,
        strict: bool,
    ) -> Result<Stood, Error> {
        let lost = |fault| match fault {
            Fault::Unsent | Fault::Unanswered => unanswered(OPERATION),
            fault => of_read(OPERATION, self.lock, fault),
        };
        for _ in 0..ROUNDS {
            let Some(node) = self.node() else {
                return Ok(Stood::Gone);
            };
            let (zxid, names) = match listing.take() {
                Some(listing) => listing,
                None => {
                    let listed = self.link.conn.send(&Request::children(self.lock));
                    match self::listing(listed.map_err(lost)?).await {
                        Ok(listing) => listing,
                        Err(Fault::Refused(Code::NoNode)) => (0, Vec::new()),
                        Err(fault) => return Err(lost(fault)),
                    }
                }
            };
            let own = node.rsplit('/').next().unwrap_or_default();
            let (next, first, count) = match standing(&names, own) {
                Standing::Missing => {
                    let told = self.session.book().gone(self.attempt, LossReason::Evicted);
                    self.session.tell(told);
                    return Ok(Stood::Gone);
                }
                Standing::First => {
                    self.session.book().first(self.attempt);
                    return Ok(Stood::First);
                }
                Standing::Behind { next, first, ahead } => (next, first, ahead),
            };
            let next_path: Arc<str> = format!("{}/{next}", self.lock).into();
            let alone = next == first;
            let first_path = format!("{}/{first}", self.lock);
            let (watch, known) = {
                let mut book = self.session.book();
                let known = book.holder(&first_path, self.session.ttl);
                let ahead = Ahead {
                    next: Arc::clone(&next_path),
                    count: Some(count),
                    holder: known.clone(),
                    as_of: u64::try_from(zxid).unwrap_or(0),
                    look: false,
                };
                let watch = !book.is_ours(&next_path);
                book.wait(self.attempt, ahead);
                (watch, known)
            };
            // Of attempts of this session all is known, and each request costs the server.
            let mut requests = Vec::new();
            if watch {
                requests.push(Request::get_data(&next_path, true));
            }
            let read = known.is_none() && !(alone && watch);
            if read {
                requests.push(Request::get_data(&first_path, false));
            }
            let answers = if requests.is_empty() {
                Vec::new()
            } else {
                self.link.conn.send_all(requests).map_err(lost)?
            };
            let mut answers = answers.into_iter();
            let mut shown = None;
            if watch && let Some(answer) = answers.next() {
                match answer.get().await {
                    Ok(reply) => shown = Some(Ok(reply)),
                    Err(Fault::Refused(Code::NoNode)) => continue,
                    Err(fault) => return Err(lost(fault)),
                }
            }
            if read && let Some(answer) = answers.next() {
                shown = Some(answer.get().await);
            }
            let holder = match (known, shown) {
                (Some(holder), _) => Some(holder),
                (None, None) => None,
                (None, Some(shown)) => match self.read_holder(&first_path, shown) {
                    Err(error) if strict => return Err(error),
                    holder => holder.unwrap_or_default(),
                },
            };
            let mut book = self.session.book();
            return Ok(
                match book.get_mut(self.attempt).map(|entry| &mut entry.place) {
                    None => Stood::Gone,
                    Some(Place::Gone(_)) => Stood::Gone,
                    Some(Place::First) => Stood::First,
                    Some(Place::Waiting(ahead)) => {
                        ahead.holder = holder;
                        Stood::Waiting
                    }
                    Some(Place::Asked) => Stood::Waiting,
                },
            );
        }
        // Everybody ahead leaves faster than we can look: nobody is in our way for long.
        let told = self.session.book().look(self.attempt);
        self.session.tell(told);
        Ok(Stood::Waiting)
    }

    /// The attempt is first: with a proof that is worth something, it is granted.
    async fn grant(&self) -> Result<Enqueued, Error> {
        let limit = self.core.settings.limit();
        let proof = match self.anew {
            None => self.session.wait_fresh(self.link, limit).await,
            anew => self.session.wait_proof(anew, self.link, limit).await,
        };
        let Some(from) = proof else {
            return Err(unanswered(OPERATION));
        };
        match granted(self.session, self.attempt, from) {
            Some(grant) => Ok(Enqueued::Granted(grant)),
            None => Ok(Enqueued::Gone),
        }
    }

    /// What a waiter is told; `Err` if it was granted meanwhile, `None` if it is gone.
    fn waiting(&self) -> Option<Result<Waiting, ()>> {
        // For one who waits an old proof does: the core reports it in time.
        let from = self.session.proved()?;
        let mut book = self.session.book();
        let entry = book.get_mut(self.attempt)?;
        match &entry.place {
            Place::Waiting(ahead) => Some(Ok(told(ahead, from))),
            Place::First => Some(Err(())),
            Place::Asked | Place::Gone(_) => None,
        }
    }
}

/// The grant of an attempt that is first; `None` if it is not any more.
pub(crate) fn granted(session: &Session, attempt: AttemptId, from: Instant) -> Option<Grant> {
    let mut book = session.book();
    let entry = book.get_mut(attempt)?;
    if !matches!(entry.place, Place::First) {
        return None;
    }
    entry.told = Some(from);
    Some(Grant::proved(attempt, entry.token, session.ttl, from))
}

/// What a waiter is told.
pub(crate) fn told(ahead: &Ahead, from: Instant) -> Waiting {
    let waiting = Waiting::new(from, StoreTime::new(ahead.as_of)).with_holder(ahead.holder.clone());
    match ahead.count {
        Some(count) => waiting.with_ahead(count),
        None => waiting,
    }
}

/// The child that is this attempt's node.
pub(crate) fn own(names: &[String], attempt: AttemptId) -> Option<&String> {
    names
        .iter()
        .find(|name| paths::attempt(name) == Some(attempt))
}

/// Reads the answer to a list.
pub(crate) async fn listing(answer: Answer) -> Result<Listing, Fault> {
    let reply = answer.get().await?;
    Ok((reply.zxid, children(&reply.body)?))
}

/// As many answers as requests.
pub(crate) fn two(answers: Vec<Answer>) -> Result<[Answer; 2], Error> {
    <[Answer; 2]>::try_from(answers).map_err(|_| unanswered(OPERATION))
}
