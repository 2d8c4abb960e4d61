//! The spans of a run, exported by OTLP over HTTP: the whole run, the wait, and the time for which
//! the lock is held.
//!
//! A thread of the SDK sends the spans, so that the collector delays neither renewals nor the
//! release. The standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others) configure the export.

use std::{
    env,
    ffi::OsString,
    io::Read,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer, TracerProvider,
    },
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan},
};
use tenure::name::LockName;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{
    held::Held,
    status_file::{Outcome, StatusFile},
    trace_context::{self, TraceParent},
};
use crate::exit::print_warning;

/// How long the program waits at its end for the export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit of one request to the collector.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer of the collector is read.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];

/// The spans of a run; none if no endpoint is configured.
pub(super) struct Spans(Option<Exported>);

struct Exported {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    last_error: LastError,
    attributes: Vec<KeyValue>,
    run: SdkSpan,
    wait: Option<SdkSpan>,
    hold: Option<SdkSpan>,
    /// Whether the command gets a new `TRACEPARENT`. An invalid one is left as it is.
    sets_parent: bool,
}

impl Spans {
    /// Starts the spans of the run and of its wait.
    pub(super) fn start(
        name: &LockName,
        namespace: &str,
        backend: &'static str,
        parent: Option<TraceParent>,
    ) -> Self {
        let Some(endpoint) = endpoint() else {
            return Self(None);
        };
        if let Some(protocol) = first_variable(PROTOCOLS)
            && protocol != "http/protobuf"
        {
            print_warning(&format!(
                "the OTLP protocol {protocol:?} is not supported, and http/protobuf is used"
            ));
        }
        let last_error = LastError::default();
        let client = Client::new(&endpoint, last_error.clone());
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            // The time at the end is too short for another try.
            .with_retry_policy(RetryPolicy::disabled())
            .build();
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                print_warning(&format!("no spans are exported: {error}"));
                return Self(None);
            }
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        let tracer = provider.tracer("tenure");
        let attributes = vec![
            KeyValue::new("lock.name", name.as_str().to_owned()),
            KeyValue::new("lock.namespace", namespace.to_owned()),
            KeyValue::new("lock.backend", backend),
        ];
        let above = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(remote_context(parent))
        });
        let run = start_span(&tracer, "tenure.run", &attributes, &above);
        let wait = start_span(&tracer, "tenure.wait", &attributes, &below(&run));
        Self(Some(Exported {
            provider,
            tracer,
            last_error,
            attributes,
            run,
            wait: Some(wait),
            hold: None,
            sets_parent: parent.is_some() || env::var_os(trace_context::VARIABLE).is_none(),
        }))
    }

    /// Ends the span of the wait, and starts that of the held lock.
    pub(super) fn acquired(&mut self, guard: &Held) {
        let Some(spans) = &mut self.0 else { return };
        if let Some(mut wait) = spans.wait.take() {
            wait.set_attribute(KeyValue::new("outcome", "acquired"));
            wait.end();
        }
        let under = below(&spans.run);
        let mut hold = start_span(&spans.tracer, "tenure.hold", &spans.attributes, &under);
        let token = token(guard.token());
        hold.set_attribute(token.clone());
        spans.run.set_attribute(token);
        spans.hold = Some(hold);
    }

    /// Returns the variable with which the spans of the command become children of the span of the
    /// held lock.
    pub(super) fn environment(&self) -> Option<(&'static str, OsString)> {
        let spans = self.0.as_ref().filter(|spans| spans.sets_parent)?;
        let context = spans.hold.as_ref()?.span_context();
        let parent = TraceParent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        };
        Some((trace_context::VARIABLE, parent.to_string().into()))
    }

    /// Ends all spans, and waits until they are exported, for at most [`EXPORT_TIMEOUT`].
    pub(super) fn end(self, status: &StatusFile) {
        let Some(spans) = self.0 else { return };
        let failed = status.exit_code != 0 || status.outcome == Outcome::Lost;
        for mut span in [spans.wait, spans.hold, Some(spans.run)]
            .into_iter()
            .flatten()
        {
            span.set_attribute(KeyValue::new("outcome", status.outcome.as_str()));
            span.set_attribute(KeyValue::new(
                "process.exit.code",
                i64::from(status.exit_code),
            ));
            if failed {
                span.set_status(Status::error(status.outcome.as_str()));
            }
            span.end();
        }
        let exported = spans.provider.shutdown_with_timeout(EXPORT_TIMEOUT);
        let error = spans.last_error.take().or_else(|| {
            exported
                .is_err()
                .then(|| format!("no answer within {}s", EXPORT_TIMEOUT.as_secs()))
        });
        if let Some(error) = error {
            print_warning(&format!("spans could not be exported: {error}"));
        }
    }
}

fn start_span(
    tracer: &SdkTracer,
    name: &'static str,
    attributes: &[KeyValue],
    parent: &Context,
) -> SdkSpan {
    let builder = tracer.span_builder(name);
    let builder = builder.with_attributes(attributes.iter().cloned());
    builder.start_with_context(tracer, parent)
}

/// Returns the context of the children of a span.
fn below(span: &SdkSpan) -> Context {
    Context::new().with_remote_span_context(span.span_context().clone())
}

fn remote_context(parent: TraceParent) -> SpanContext {
    let state = env::var("TRACESTATE").ok();
    let state = state.and_then(|state| state.parse::<TraceState>().ok());
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        TraceFlags::new(parent.flags),
        true,
        state.unwrap_or_default(),
    )
}

/// Attributes have signed numbers; a token that does not fit becomes text.
fn token(token: u64) -> KeyValue {
    match i64::try_from(token) {
        Ok(token) => KeyValue::new("lock.token", token),
        Err(_) => KeyValue::new("lock.token", token.to_string()),
    }
}

/// Returns the endpoint that the environment names, unless it turns the export off.
fn endpoint() -> Option<String> {
    let is = |name: &str, value: &str| {
        env::var(name).is_ok_and(|present| present.eq_ignore_ascii_case(value))
    };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    first_variable(ENDPOINTS)
}

/// Returns the first value that is not empty.
fn first_variable(names: [&str; 2]) -> Option<String> {
    let values = names.into_iter().filter_map(|name| env::var(name).ok());
    values.into_iter().find(|value| !value.is_empty())
}

/// Returns what the environment says about this service; its name is `tenure` by default.
fn resource() -> Resource {
    let resource = Resource::builder().build();
    let name = resource.get(&"service.name".into());
    if name.is_some_and(|name| !name.as_str().starts_with("unknown_service")) {
        return resource;
    }
    Resource::builder().with_service_name("tenure").build()
}

/// The error of the last request. The SDK itself reports no reason.
#[derive(Clone, Debug, Default)]
struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    fn set(&self, error: String) {
        if let Ok(mut last) = self.0.lock() {
            *last = Some(error);
        }
    }

    fn take(&self) -> Option<String> {
        self.0.lock().ok()?.take()
    }
}

/// A client that blocks the thread of the SDK.
#[derive(Debug)]
struct Client {
    /// Made by the thread of the SDK, because reading the system's certificates takes time.
    agent: OnceLock<ureq::Agent>,
    uses_tls: bool,
    last_error: LastError,
}

impl Client {
    fn new(endpoint: &str, last_error: LastError) -> Self {
        Self {
            agent: OnceLock::new(),
            uses_tls: endpoint.starts_with("https:"),
            last_error,
        }
    }

    fn agent(&self) -> &ureq::Agent {
        self.agent.get_or_init(|| {
            let mut config = ureq::Agent::config_builder()
                .timeout_global(Some(REQUEST_TIMEOUT))
                .http_status_as_error(false)
                .max_redirects(0);
            if self.uses_tls {
                config = config.tls_config(tls());
            }
            config.build().new_agent()
        })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.agent().run(Request::from_parts(parts, &*body))?;
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        let mut body = body.into_reader().take(MAX_RESPONSE_BYTES);
        body.read_to_end(&mut bytes)?;
        Ok(Response::from_parts(parts, bytes.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The user information of an address may be a secret.
        let uri = request.uri();
        let server = format!(
            "{}:{}",
            uri.host().unwrap_or_default(),
            uri.port_u16()
                .map_or_else(|| "default port".to_owned(), |port| port.to_string())
        );
        let response = self.send(request);
        match &response {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self
                .last_error
                .set(format!("{server}: {}", response.status())),
            Err(error) => self.last_error.set(format!("{server}: {error}")),
        }
        response
    }
}

/// Returns the authorities of the system, with the same cryptography as the stores have.
fn tls() -> TlsConfig {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let certificates = certificates.iter();
    let roots = certificates.map(|certificate| Certificate::from_der(certificate).to_owned());
    TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}
