//! Logs, spans and the W3C trace context that crosses hosts in `traceparent`.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tonic::{Request, Status, metadata::MetadataMap, service::Interceptor};
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to stderr, and tracing. Call once a process.
///
/// `filter` is in the syntax of `tracing_subscriber::EnvFilter`, for example `info` or
/// `cgfleet_agent=debug,info`.
pub fn init(service: &'static str, filter: &str, format: LogFormat) -> Result<(), InitError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| InitError::Filter { filter: filter.to_owned(), cause: source.to_string() })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Spans get ids of their own here; nothing exports them yet. Only ours: a library's would be made, and
    // formatted, for nobody.
    let tracer = SdkTracerProvider::builder().build().tracer(service);
    let is_ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("cg"));
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(is_ours))
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| InitError::Twice)
}

/// Whether [`init`] would take `filter`: for configurations.
pub fn is_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

/// What a filter may be, for people.
pub const FILTER_ALLOWED: &str = "a level (error, warn, info, debug, trace) or target=level,…";

/// Logging that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter cannot be read.
    #[error("log: {filter:?} is not a filter ({cause}); allowed: {FILTER_ALLOWED}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Something in this process logs already.
    #[error("logging was started twice")]
    Twice,
}

/// The span of one incoming request, a child of the caller's if it sent `traceparent`.
pub fn request_span(path: &str, headers: &HeaderMap) -> Span {
    let span = info_span!("grpc", method = path.trim_start_matches('/'), trace_id = field::Empty);
    let caller = TraceContextPropagator::new().extract(&Headers(headers));
    // Fails only for a span that is filtered out, and then there is nothing to tie.
    let _ = span.set_parent(caller);
    span.record("trace_id", field::display(span.context().span().span_context().trace_id()));
    span
}

/// Writes the current span's trace context into the metadata of every call.
#[derive(Debug, Clone, Copy)]
pub struct InjectTraceContext;

impl Interceptor for InjectTraceContext {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let context: Context = Span::current().context();
        TraceContextPropagator::new().inject_context(&context, &mut Metadata(request.metadata_mut()));
        Ok(request)
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let headers: &mut HeaderMap = self.0.as_mut();
        if let (Ok(key), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            headers.insert(key, value);
        }
    }
}
