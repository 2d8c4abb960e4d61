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
    config::{Durability as ConfiguredDurability, Options},
    error::{error, from_call_error, unexpected_reply},
    grant_confirmation::GrantConfirmation,
    inspect,
    keys::{KeySpace, LockKeys, inbox},
    record::{loss_reason, read_holder, read_message},
    renew,
    reply::Reply,
    scripts::{self, LAST_TOKEN_TTL, Scripts},
    transport::{CallResult, Listener, OpenParams, ScriptCall, Transport},
};

/// For how long an attempt is fenced off at least: a request may lie about for longer than a short
/// TTL, on a connection that hangs.
const FENCE_TTL: Duration = Duration::from_secs(600);

/// A store of locks on Redis, not yet connected.
#[derive(Clone, Debug)]
pub struct RedisStore {
    address: Address,
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
        let address = Address::new(url, &options)?;
        if let Some(template) = &options.plain_key {
            KeySpace::with_template(&Namespace::default(), template)?;
        }
        Ok(Self { address, options })
    }
}

#[async_trait]
impl Connect for RedisStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("redis", self.address.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let keys = match &self.options.plain_key {
            Some(template) => KeySpace::with_template(&context.namespace, template)?,
            None => KeySpace::new(&context.namespace),
        };
        let grant_confirmation =
            (self.options.min_replicas > 0).then(Arc::<GrantConfirmation>::default);
        let listener = Arc::new(EventForwarder {
            events: context.events.clone(),
            grant_confirmation: grant_confirmation.clone(),
        });
        let params = OpenParams {
            inbox: (!context.observer).then(|| inbox(context.client)),
            scripts: Scripts::get().all().to_vec(),
            request_timeout: context.request_timeout,
            clock: Arc::clone(&context.clock),
            listener,
        };
        let transport = Transport::open(self.address.clone(), self.options.clone(), params).await?;
        tracing::debug!(facts = ?transport.deployment_info(), "connected");
        let shared = Arc::new(Shared {
            transport,
            keys,
            options: self.options.clone(),
            context,
            grant_confirmation,
        });
        if let Some(grant_confirmation) = &shared.grant_confirmation {
            grant_confirmation.attach(Arc::downgrade(&shared));
        }
        if let Err(missing_rights) = shared.check_rights().await {
            shared.transport.close().await;
            return Err(missing_rights);
        }
        Ok(Arc::new(RedisBackend {
            info: self.info(),
            shared,
        }))
    }
}

/// Takes what the connection reports to the core.
#[derive(Debug)]
struct EventForwarder {
    events: EventSink,
    grant_confirmation: Option<Arc<GrantConfirmation>>,
}

impl Listener for EventForwarder {
    fn on_message(&self, payload: &[u8]) {
        match (read_message(payload), &self.grant_confirmation) {
            (Some(BackendEvent::Granted(grant)), Some(grant_confirmation)) => {
                grant_confirmation.confirm(grant, self.events.clone());
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
    shared: Arc<Shared>,
}

/// What every operation works with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) keys: KeySpace,
    pub(crate) options: Options,
    pub(crate) context: Context,
    /// Present if replicas have to acknowledge what is granted.
    pub(crate) grant_confirmation: Option<Arc<GrantConfirmation>>,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    pub(crate) fn lock_keys(&self, name: &LockName) -> Result<LockKeys, Error> {
        self.keys.lock(name, self.transport.is_cluster())
    }

    /// What every new token is above, as the scripts are given it.
    pub(crate) fn token_floor(&self) -> String {
        self.context.token_floor.to_string()
    }

    /// Runs calls that give or prolong grants, and calls a grant given only once enough replicas
    /// have it.
    ///
    /// `on_answer` hears of every answer with the number of replicas that are missing.
    pub(crate) async fn call_granting(
        &self,
        calls: Vec<ScriptCall>,
        on_answer: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        let wanted = self.options.min_replicas;
        if wanted == 0 {
            self.transport
                .call_all(calls, &mut |index, answer| on_answer(index, answer, 0))
                .await;
            return;
        }
        let timeout = self.options.replica_timeout;
        let answers = self.transport.call_replicated(calls, wanted, timeout).await;
        for (index, (answer, acks)) in answers.into_iter().enumerate() {
            on_answer(index, answer, wanted.saturating_sub(acks));
        }
    }

    pub(crate) fn too_few_replicas(&self, operation: &'static str, missing_acks: u32) -> Error {
        let wanted = self.options.min_replicas;
        error(
            ErrorKind::Unavailable,
            operation,
            format!(
                "{} of {wanted} replicas have acknowledged it within {}; `min_replicas` asks for \
                 all of them",
                wanted - missing_acks,
                humantime(self.options.replica_timeout),
            ),
        )
    }

    /// Tries every right that the scripts need, on keys that nobody uses: a right that is missing would
    /// else be noticed when two want the same lock for the first time, or in the middle of a hand-over.
    async fn check_rights(&self) -> Result<(), Error> {
        const OPERATION: &str = "connecting";
        let client = self.context.client;
        let keys = self.lock_keys(&LockName::new(format!("rights of {client}"))?)?;
        let mut call = ScriptCall::new(&Scripts::get().rights, 5, 4 * keys.max_key_len());
        keys.push_for_inspect(&mut call);
        call.arg(inbox(client));
        call.arg(u8::from(self.context.observer));
        let value = match self.transport.call(call).await {
            Ok(value) => value,
            Err(error) => {
                let error = from_call_error(OPERATION, error);
                // A server that is busy or away is no matter of rights, and is told with what is
                // asked of it.
                return match error.kind() {
                    ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Err(error),
                    _ => Ok(()),
                };
            }
        };
        let missing_rights: Vec<String> = redis::from_redis_value(value).unwrap_or_default();
        if missing_rights.is_empty() {
            return Ok(());
        }
        Err(error(
            ErrorKind::PermissionDenied,
            OPERATION,
            format!(
                "this user lacks rights that locks need: {}; compare its rights with the ACL line in \
                 docs/operations.md",
                missing_rights.join(" ")
            ),
        ))
    }

    /// Whether the server of these keys was started so short a while ago that nothing may be granted
    /// there yet, as an error.
    pub(crate) fn restart_delay_error(
        &self,
        operation: &'static str,
        keys: &LockKeys,
    ) -> Option<Error> {
        let until = self.transport.grants_blocked_until(&keys.holder)?;
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
        let keys = self.lock_keys(&request.name)?;
        if let Some(grant_confirmation) = &self.grant_confirmation {
            grant_confirmation.remove(request.attempt);
        }
        let fence = if request.outcome_known {
            Duration::ZERO
        } else {
            request.ttl.max(FENCE_TTL)
        };
        let grants_blocked = self.restart_delay_error(OPERATION, &keys).is_some();
        let call = scripts::remove_call(
            &keys,
            request.attempt,
            fence,
            &self.token_floor(),
            grants_blocked,
        );
        let value = self.run(OPERATION, call).await?;
        match &value {
            Value::BulkString(word) if word == b"holder" => Ok(Removed::AsHolder),
            Value::BulkString(word) if word == b"waiter" => Ok(Removed::AsWaiter),
            Value::BulkString(word) if word == b"absent" => Ok(Removed::Absent),
            other => Err(unexpected_reply(OPERATION, other)),
        }
    }

    pub(crate) async fn run(
        &self,
        operation: &'static str,
        call: ScriptCall,
    ) -> Result<Value, Error> {
        self.transport
            .call(call)
            .await
            .map_err(|error| from_call_error(operation, error))
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
        Ok(capabilities(&self.shared.options))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        const OPERATION: &str = "acquiring";
        let shared = &*self.shared;
        let keys = shared.lock_keys(&request.name)?;
        if let Some(error) = shared.restart_delay_error(OPERATION, &keys) {
            return Err(error);
        }
        let from = shared.now();
        let call = scripts::enqueue_call(
            &keys,
            &request,
            shared.context.client,
            &shared.token_floor(),
        );
        let Some(grant_confirmation) = &shared.grant_confirmation else {
            let value = shared.run(OPERATION, call).await?;
            return parse_enqueued(OPERATION, &request, from, value);
        };
        let mut outcome = None;
        shared
            .call_granting(vec![call], &mut |_, answer, missing_acks| {
                outcome = Some((answer, missing_acks));
            })
            .await;
        let (answer, missing_acks) =
            outcome.ok_or_else(|| error(ErrorKind::OutcomeUnknown, OPERATION, "no answer"))?;
        let value = answer.map_err(|error| from_call_error(OPERATION, error))?;
        let answer = parse_enqueued(OPERATION, &request, from, value)?;
        if matches!(answer, Enqueued::Waiting(_)) {
            grant_confirmation.add(request.attempt, request.name.clone(), request.ttl);
        }
        if missing_acks == 0 || !matches!(answer, Enqueued::Granted(_)) {
            return Ok(answer);
        }
        // Undone: a failover could give it to somebody else.
        let removal = Remove::new(request.name, request.attempt, request.ttl, true);
        let too_few = shared.too_few_replicas(OPERATION, missing_acks);
        match shared.remove(&removal).await {
            Ok(_) => Err(too_few),
            Err(_) => Err(too_few.with_kind(ErrorKind::OutcomeUnknown)),
        }
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        renew::renew(&self.shared, &entries).await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.shared.remove(&request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        inspect::inspect(&self.shared, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        inspect::list(&self.shared, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        const OPERATION: &str = "evicting";
        let shared = &*self.shared;
        let keys = shared.lock_keys(name)?;
        let mut call = ScriptCall::new(&Scripts::get().evict, 6, 5 * keys.max_key_len());
        keys.push_all(&mut call);
        call.arg(token);
        call.arg(shared.token_floor());
        let mut reply = Reply::new(OPERATION, shared.run(OPERATION, call).await?)?;
        if reply.text()? == "evicted" {
            return Ok(Evicted::Evicted);
        }
        let now = reply.count()?;
        let raw = reply.text()?;
        Ok(Evicted::NotHeld(read_holder(&raw, now, reply.number()?)?))
    }

    async fn close(&self) {
        self.shared.transport.close().await;
    }
}

/// What an answer says of an attempt that asked to be enqueued.
fn parse_enqueued(
    operation: &'static str,
    request: &Enqueue,
    from: Instant,
    value: Value,
) -> Result<Enqueued, Error> {
    // The common case: the token alone.
    if let Value::BulkString(token) = &value {
        let token = std::str::from_utf8(token).ok();
        let token = token.and_then(|token| token.parse().ok());
        let token = FencingToken::new(token.ok_or_else(|| unexpected_reply(operation, &value))?);
        let grant = Grant::proved(request.attempt, token, request.ttl, from);
        return Ok(Enqueued::Granted(grant));
    }
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Enqueued::Granted(parse_granted(
            &mut reply,
            request.attempt,
            from,
        )?)),
        "waiting" => Ok(Enqueued::Waiting(parse_waiting(&mut reply, from)?)),
        "busy" => {
            let now = reply.count()?;
            let raw = reply.text()?;
            let holder = holder_or_default(&raw, now, reply.number()?);
            Ok(Enqueued::Busy(holder.unwrap_or_default()))
        }
        "gone" => Ok(Enqueued::Gone),
        _ => Err(unexpected_reply(operation, &Value::Nil)),
    }
}

/// A holder that is only to be shown. The script has done its work by now: that somebody scribbled
/// over what is shown of another must not look like a failure without effect.
fn holder_or_default(raw: &str, now: u64, foreign_ms: i64) -> Option<Holder> {
    read_holder(raw, now, foreign_ms).unwrap_or_else(|_| Some(Holder::default()))
}

/// Reads the rest of "granted".
pub(crate) fn parse_granted(
    reply: &mut Reply,
    attempt: AttemptId,
    from: Instant,
) -> Result<Grant, Error> {
    let token = FencingToken::new(reply.count()?);
    let ttl = Duration::from_micros(reply.count()?);
    Ok(Grant::proved(attempt, token, ttl, from))
}

/// Reads the rest of "waiting".
pub(crate) fn parse_waiting(reply: &mut Reply, from: Instant) -> Result<Waiting, Error> {
    let as_of = StoreTime::new(reply.count()?);
    let now = reply.count()?;
    let ahead = reply.count()?;
    let within = Duration::from_micros(reply.count()?);
    let raw = reply.text()?;
    let holder = holder_or_default(&raw, now, reply.number()?);
    Ok(Waiting::new(from, as_of)
        .with_ahead(ahead)
        .with_holder(holder)
        .with_recheck(Some(within)))
}

/// Reads the answer to one report.
pub(crate) fn parse_report(
    operation: &'static str,
    attempt: AttemptId,
    from: Instant,
    value: Value,
) -> Result<Renewed, Error> {
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Renewed::Granted(parse_granted(&mut reply, attempt, from)?)),
        "waiting" => Ok(Renewed::Waiting(parse_waiting(&mut reply, from)?)),
        "gone" => Ok(Renewed::Gone(loss_reason(&reply.text()?))),
        _ => Err(unexpected_reply(operation, &Value::Nil)),
    }
}

fn capabilities(options: &Options) -> Capabilities {
    let durability = match (options.min_replicas, options.durability) {
        (1.., _) => Durability::Replicated,
        (0, ConfiguredDurability::Local) => Durability::Local,
        (0, ConfiguredDurability::Volatile) => Durability::Volatile,
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
pub(crate) fn group_by_slot(
    slots: impl Iterator<Item = (usize, u16)>,
    max_len: usize,
) -> Vec<Vec<usize>> {
    let mut by_slot: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, slot) in slots {
        by_slot.entry(slot).or_default().push(index);
    }
    by_slot
        .into_values()
        .flat_map(|indices| {
            indices
                .chunks(max_len)
                .map(<[usize]>::to_vec)
                .collect::<Vec<_>>()
        })
        .collect()
}
