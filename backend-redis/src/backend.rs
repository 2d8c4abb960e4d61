//! The driver: each request of the core is one run of a script.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::Value;
use tenure_core::{
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, EventSink},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    name::{LockName, Namespace},
    request::{
        Enqueue, Enqueued, Evicted, Grant, Holder, List, LockState, Page, Remove, Removed, Renewal,
        Renewed, StoreTime, Waiting,
    },
    settings::StoreUrl,
    token::FencingToken,
};

use crate::{
    address::Address,
    config::{Durability as Kept, Options},
    confirm::Confirming,
    error::{error, from_fault, unexpected},
    keys::{KeySpace, LockKeys, inbox},
    record::{read_holder, read_message, reason},
    renewal,
    reply::Reply,
    scripts::{self, LAST_TOKEN_TTL, Scripts},
    transport::{CallResult, Listener, OpenParams, ScriptCall, Transport},
    view,
};

/// For how long an attempt is fenced off at least: a request may lie about for longer than a short
/// TTL, on a connection that hangs.
const FENCE_TTL: Duration = Duration::from_secs(600);

/// A store of locks on Redis, not yet connected.
#[derive(Clone, Debug)]
pub struct RedisStore {
    target: Address,
    options: Options,
}

impl RedisStore {
    /// The store at this address, by the schemes that [`RedisFactory`](crate::RedisFactory) lists.
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] says what is wrong with the address, or with an option for it.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let target = Address::new(url, &options)?;
        if let Some(template) = &options.plain_key {
            KeySpace::plain(&Namespace::default(), template)?;
        }
        Ok(Self { target, options })
    }
}

#[async_trait]
impl Connect for RedisStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("redis", self.target.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let keys = match &self.options.plain_key {
            Some(template) => KeySpace::plain(&context.namespace, template)?,
            None => KeySpace::new(&context.namespace),
        };
        let confirming = (self.options.min_replicas > 0).then(Arc::<Confirming>::default);
        let listener = Arc::new(Inbox {
            events: context.events.clone(),
            confirming: confirming.clone(),
        });
        let opening = OpenParams {
            inbox: (!context.observer).then(|| inbox(context.client)),
            scripts: Scripts::get().all().to_vec(),
            request_timeout: context.request_timeout,
            clock: Arc::clone(&context.clock),
            listener,
        };
        let link = Transport::open(self.target.clone(), self.options.clone(), opening).await?;
        tracing::debug!(facts = ?link.deployment_info(), "connected");
        let core = Arc::new(Shared {
            link,
            keys,
            options: self.options.clone(),
            context,
            confirming,
        });
        if let Some(confirming) = &core.confirming {
            confirming.begin(Arc::downgrade(&core));
        }
        if let Err(lacking) = core.check_rights().await {
            core.link.close().await;
            return Err(lacking);
        }
        Ok(Arc::new(RedisBackend {
            info: self.info(),
            core,
        }))
    }
}

/// Takes what the connection reports to the core.
#[derive(Debug)]
struct Inbox {
    events: EventSink,
    confirming: Option<Arc<Confirming>>,
}

impl Listener for Inbox {
    fn on_message(&self, payload: &[u8]) {
        match (read_message(payload), &self.confirming) {
            (Some(BackendEvent::Granted(grant)), Some(confirming)) => {
                confirming.confirm(grant, self.events.clone());
            }
            (Some(event), _) => self.events.send(event),
            (None, _) => {
                tracing::debug!("a message that is none of ours came on the inbox channel")
            }
        }
    }

    fn on_disconnected(&self) {
        self.events.send(BackendEvent::Suspect);
    }

    fn on_reconnected(&self) {
        self.events.send(BackendEvent::Reconnected);
    }
}

/// One client's way to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct RedisBackend {
    info: BackendInfo,
    core: Arc<Shared>,
}

/// What every operation works with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Transport,
    pub(crate) keys: KeySpace,
    pub(crate) options: Options,
    pub(crate) context: Context,
    /// Present if replicas have to acknowledge what is granted.
    pub(crate) confirming: Option<Arc<Confirming>>,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    pub(crate) fn lock(&self, name: &LockName) -> Result<LockKeys, Error> {
        self.keys.lock(name, self.link.is_cluster())
    }

    /// What every new token is above, as the scripts are given it.
    pub(crate) fn floor(&self) -> String {
        self.context.token_floor.to_string()
    }

    /// Runs calls that give or prolong grants, and calls a grant given only once enough replicas
    /// have it.
    ///
    /// `each` hears of every answer with the number of replicas that are missing.
    pub(crate) async fn grant_all(
        &self,
        calls: Vec<ScriptCall>,
        each: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        let wanted = self.options.min_replicas;
        if wanted == 0 {
            self.link
                .call_all(calls, &mut |index, answer| each(index, answer, 0))
                .await;
            return;
        }
        let patience = self.options.replica_timeout;
        let answers = self.link.call_replicated(calls, wanted, patience).await;
        for (index, (answer, reached)) in answers.into_iter().enumerate() {
            each(index, answer, wanted.saturating_sub(reached));
        }
    }

    pub(crate) fn too_few_replicas(&self, operation: &'static str, missing: u32) -> Error {
        let wanted = self.options.min_replicas;
        error(
            ErrorKind::Unavailable,
            operation,
            format!(
                "{} of {wanted} replicas have acknowledged it within {}; `min_replicas` asks for \
                 all of them",
                wanted - missing,
                humantime(self.options.replica_timeout),
            ),
        )
    }

    /// Tries every right that the scripts need, on keys that nobody uses: a right that is missing would
    /// else be noticed when two want the same lock for the first time, or in the middle of a hand-over.
    async fn check_rights(&self) -> Result<(), Error> {
        const OPERATION: &str = "connecting";
        let client = self.context.client;
        let keys = self.lock(&LockName::new(format!("rights of {client}"))?)?;
        let mut call = ScriptCall::new(&Scripts::get().rights, 5, 4 * keys.room());
        keys.shown(&mut call);
        call.arg(inbox(client));
        call.arg(u8::from(self.context.observer));
        let value = match self.link.call(call).await {
            Ok(value) => value,
            Err(fault) => {
                let error = from_fault(OPERATION, fault);
                // A server that is busy or away is no matter of rights, and is told with what is
                // asked of it.
                return match error.kind() {
                    ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Err(error),
                    _ => Ok(()),
                };
            }
        };
        let lacking: Vec<String> = redis::from_redis_value(value).unwrap_or_default();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(error(
            ErrorKind::PermissionDenied,
            OPERATION,
            format!(
                "this user lacks rights that locks need: {}; compare its rights with the ACL line in \
                 docs/operations.md",
                lacking.join(" ")
            ),
        ))
    }

    /// Whether the server of these keys was started so short a while ago that nothing may be granted
    /// there yet, as an error.
    pub(crate) fn closed(&self, operation: &'static str, keys: &LockKeys) -> Option<Error> {
        let until = self.link.grants_blocked_until(&keys.holder)?;
        let left = until.since(self.now());
        (!left.is_zero()).then(|| {
            error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "the server was started a short while ago and may have forgotten locks; \
                     `restart_delay` keeps this client from taking any for another {}",
                    humantime(Duration::from_secs(left.as_secs() + 1)),
                ),
            )
        })
    }

    pub(crate) async fn remove(&self, request: &Remove) -> Result<Removed, Error> {
        const OPERATION: &str = "releasing";
        let keys = self.lock(&request.name)?;
        if let Some(confirming) = &self.confirming {
            confirming.forget(request.attempt);
        }
        let fence = if request.outcome_known {
            Duration::ZERO
        } else {
            request.ttl.max(FENCE_TTL)
        };
        let closed = self.closed(OPERATION, &keys).is_some();
        let call = scripts::remove(&keys, request.attempt, fence, &self.floor(), closed);
        let value = self.run(OPERATION, call).await?;
        match &value {
            Value::BulkString(word) if word == b"holder" => Ok(Removed::AsHolder),
            Value::BulkString(word) if word == b"waiter" => Ok(Removed::AsWaiter),
            Value::BulkString(word) if word == b"absent" => Ok(Removed::Absent),
            other => Err(unexpected(OPERATION, other)),
        }
    }

    pub(crate) async fn run(
        &self,
        operation: &'static str,
        call: ScriptCall,
    ) -> Result<Value, Error> {
        self.link
            .call(call)
            .await
            .map_err(|fault| from_fault(operation, fault))
    }
}

fn humantime(span: Duration) -> String {
    format!("{span:?}")
}

#[async_trait]
impl Backend for RedisBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(capabilities(&self.core.options))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        const OPERATION: &str = "acquiring";
        let core = &*self.core;
        let keys = core.lock(&request.name)?;
        if let Some(closed) = core.closed(OPERATION, &keys) {
            return Err(closed);
        }
        let from = core.now();
        let call = scripts::enqueue(&keys, &request, core.context.client, &core.floor());
        let Some(confirming) = &core.confirming else {
            let value = core.run(OPERATION, call).await?;
            return standing(OPERATION, &request, from, value);
        };
        let mut outcome = None;
        core.grant_all(vec![call], &mut |_, answer, missing| {
            outcome = Some((answer, missing));
        })
        .await;
        let (answer, missing) =
            outcome.ok_or_else(|| error(ErrorKind::OutcomeUnknown, OPERATION, "no answer"))?;
        let value = answer.map_err(|fault| from_fault(OPERATION, fault))?;
        let answer = standing(OPERATION, &request, from, value)?;
        if matches!(answer, Enqueued::Waiting(_)) {
            confirming.add(request.attempt, request.name.clone(), request.ttl);
        }
        if missing == 0 || !matches!(answer, Enqueued::Granted(_)) {
            return Ok(answer);
        }
        // Undone: a failover could give it to somebody else.
        let removal = Remove::new(request.name, request.attempt, request.ttl, true);
        let short = core.too_few_replicas(OPERATION, missing);
        match core.remove(&removal).await {
            Ok(_) => Err(short),
            Err(_) => Err(short.with_kind(ErrorKind::OutcomeUnknown)),
        }
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        renewal::renew(&self.core, &entries).await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.core.remove(&request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        view::inspect(&self.core, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        view::list(&self.core, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        const OPERATION: &str = "evicting";
        let core = &*self.core;
        let keys = core.lock(name)?;
        let mut call = ScriptCall::new(&Scripts::get().evict, 6, 5 * keys.room());
        keys.all(&mut call);
        call.arg(token);
        call.arg(core.floor());
        let mut reply = Reply::new(OPERATION, core.run(OPERATION, call).await?)?;
        if reply.text()? == "evicted" {
            return Ok(Evicted::Evicted);
        }
        let now = reply.count()?;
        let raw = reply.text()?;
        Ok(Evicted::NotHeld(read_holder(&raw, now, reply.number()?)?))
    }

    async fn close(&self) {
        self.core.link.close().await;
    }
}

/// What an answer says of an attempt that asked to be enqueued.
fn standing(
    operation: &'static str,
    request: &Enqueue,
    from: Instant,
    value: Value,
) -> Result<Enqueued, Error> {
    // The common case: the token alone.
    if let Value::BulkString(token) = &value {
        let token = std::str::from_utf8(token).ok();
        let token = token.and_then(|token| token.parse().ok());
        let token = FencingToken::new(token.ok_or_else(|| unexpected(operation, &value))?);
        let grant = Grant::proved(request.attempt, token, request.ttl, from);
        return Ok(Enqueued::Granted(grant));
    }
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Enqueued::Granted(granted(
            &mut reply,
            request.attempt,
            from,
        )?)),
        "waiting" => Ok(Enqueued::Waiting(waiting(&mut reply, from)?)),
        "busy" => {
            let now = reply.count()?;
            let raw = reply.text()?;
            let holder = shown_holder(&raw, now, reply.number()?);
            Ok(Enqueued::Busy(holder.unwrap_or_default()))
        }
        "gone" => Ok(Enqueued::Gone),
        _ => Err(unexpected(operation, &Value::Nil)),
    }
}

/// A holder that is only to be shown. The script has done its work by now: that somebody scribbled
/// over what is shown of another must not look like a failure without effect.
fn shown_holder(raw: &str, now: u64, foreign_ms: i64) -> Option<Holder> {
    read_holder(raw, now, foreign_ms).unwrap_or_else(|_| Some(Holder::default()))
}

/// Reads the rest of "granted".
pub(crate) fn granted(
    reply: &mut Reply,
    attempt: AttemptId,
    from: Instant,
) -> Result<Grant, Error> {
    let token = FencingToken::new(reply.count()?);
    let ttl = Duration::from_micros(reply.count()?);
    Ok(Grant::proved(attempt, token, ttl, from))
}

/// Reads the rest of "waiting".
pub(crate) fn waiting(reply: &mut Reply, from: Instant) -> Result<Waiting, Error> {
    let as_of = StoreTime::new(reply.count()?);
    let now = reply.count()?;
    let ahead = reply.count()?;
    let within = Duration::from_micros(reply.count()?);
    let raw = reply.text()?;
    let holder = shown_holder(&raw, now, reply.number()?);
    Ok(Waiting::new(from, as_of)
        .with_ahead(ahead)
        .with_holder(holder)
        .with_recheck(Some(within)))
}

/// Reads the answer to one report.
pub(crate) fn reported(
    operation: &'static str,
    attempt: AttemptId,
    from: Instant,
    value: Value,
) -> Result<Renewed, Error> {
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Renewed::Granted(granted(&mut reply, attempt, from)?)),
        "waiting" => Ok(Renewed::Waiting(waiting(&mut reply, from)?)),
        "gone" => Ok(Renewed::Gone(reason(&reply.text()?))),
        _ => Err(unexpected(operation, &Value::Nil)),
    }
}

fn capabilities(options: &Options) -> Capabilities {
    let durability = match (options.min_replicas, options.durability) {
        (1.., _) => Durability::Replicated,
        (0, Kept::Local) => Durability::Local,
        (0, Kept::Volatile) => Durability::Volatile,
    };
    Capabilities::new(
        durability,
        WaitMode::Push,
        LossEvidence::new(Evidence::Push, Evidence::NextRenewal),
        TtlRange::new(
            Duration::from_millis(100),
            // Beyond it, the server's clock would be all that keeps tokens rising.
            LAST_TOKEN_TTL,
            Duration::from_millis(1),
            TtlScope::Lock,
        ),
        // A report when the holder's grant runs out; half of the waiter's TTL and the constant are
        // for one that has to be repeated.
        TakeoverBound::new(100, 50, Duration::from_millis(500)),
    )
    .with_residue(Some(LAST_TOKEN_TTL))
}

/// Entries that may be handled by one call, as indices into a batch: those of one slot, and no more
/// than so many.
pub(crate) fn grouped(slots: impl Iterator<Item = (usize, u16)>, most: usize) -> Vec<Vec<usize>> {
    let mut by_slot: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, slot) in slots {
        by_slot.entry(slot).or_default().push(index);
    }
    by_slot
        .into_values()
        .flat_map(|indices| {
            indices
                .chunks(most)
                .map(<[usize]>::to_vec)
                .collect::<Vec<_>>()
        })
        .collect()
}
