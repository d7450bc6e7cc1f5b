//! A [`tracing`] span per RPC, and one access-log event at its end.
//!
//! ```
//! use tower_tracer::{TracerLayer, tracers::tracing::TracingTracer};
//!
//! let layer = TracerLayer::new(TracingTracer::new());
//! # let _ = layer;
//! ```
//!
//! # The span
//!
//! Named `rpc`, level INFO, target `tower_tracer::span`. It is current wherever code of the RPC runs:
//! in the inner service, in its future, in the body of the request and of the response. Its parent
//! is the span of the record's [parent](RpcInfo::parent), else the span that is current where the
//! call is made. These are its fields; those with `otel.` are what `tracing-opentelemetry` makes the
//! OpenTelemetry span's name, kind and status of.
//!
//! | field | when | what |
//! | --- | --- | --- |
//! | `otel.name` | start | `pkg.Svc/Method`; `grpc` where the path has not that form, `HTTP` for plain HTTP |
//! | `otel.kind` | start | `client` or `server` |
//! | `rpc.system.name` | start | the protocol, such as `grpc` |
//! | `rpc.method` | start | `pkg.Svc/Method`, else `_OTHER` |
//! | `network.peer.address` | start | the peer's address, where it is known |
//! | `rpc.response.status_code` | end | a code such as `NOT_FOUND`, or an HTTP status |
//! | `otel.status_code`, `error.type` | end | `ERROR` and the status, where [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/rpc/grpc/) says that this is an error |
//! | `otel.status_description` | end | the error's text, likewise |
//!
//! # The access log
//!
//! An event with the message `rpc` and the target `tower_tracer::access`, within the span. A field
//! that is not known is left out.
//!
//! | field | what |
//! | --- | --- |
//! | `role` | `client` or `server` |
//! | `method` | `pkg.Svc/Method`, else the path as it came, 256 bytes at most |
//! | `peer` | the peer's address |
//! | `status` | a code such as `NOT_FOUND`, or an HTTP status |
//! | `ending` | how it ended, such as `trailers` or `cancelled`: see [`Ending`] |
//! | `cost_ms` | milliseconds from start to end |
//! | `request_messages`, `request_bytes` | messages, and bytes of the body, from client to server |
//! | `response_messages`, `response_bytes` | likewise from server to client |
//! | `attempt` | which attempt it was, from the second on |
//! | `error`, `panic` | their texts |
//!
//! Control characters in what a peer sent are escaped before a subscriber sees them, so that no peer
//! writes lines of its own into a log, whatever the subscriber does.
//!
//! Either of the two is turned off by its target, as in `RUST_LOG=info,tower_tracer::span=off`.

use std::{borrow::Cow, fmt, fmt::Write as _, sync::Arc};

use ::tracing::{Level, Span, event, field::Empty, info_span};

use crate::{Code, Ending, Protocol, RequestParts, Role, RpcInfo, Scope, Status, Tracer};

const SPAN: &str = "tower_tracer::span";
const ACCESS: &str = "tower_tracer::access";

type LevelOf = dyn Fn(&RpcInfo) -> Option<Level> + Send + Sync;
type OnSpan = dyn Fn(&Span, &RpcInfo, &mut RequestParts<'_>) + Send + Sync;

/// A span and an access-log event per RPC; see the [module](self).
pub struct TracingTracer {
    level_of: Box<LevelOf>,
    on_span: Option<Box<OnSpan>>,
}

impl TracingTracer {
    /// A tracer that logs at [`level_of`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            level_of: Box::new(|rpc| Some(level_of(rpc))),
            on_span: None,
        }
    }

    /// Chooses the level of the access-log event from an RPC that is over; `None` is no event.
    ///
    /// ```
    /// use tower_tracer::tracers::tracing::{TracingTracer, level_of};
    ///
    /// // Successes at DEBUG, the rest as by default.
    /// let tracer = TracingTracer::new().level_of(|rpc| match rpc.stats().failed() {
    ///     false => Some(tracing::Level::DEBUG),
    ///     true => Some(level_of(rpc)),
    /// });
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn level_of(
        mut self,
        choose: impl Fn(&RpcInfo) -> Option<Level> + Send + Sync + 'static,
    ) -> Self {
        self.level_of = Box::new(choose);
        self
    }

    /// Calls this with each span that is made, before the request goes on: the place to take a remote
    /// parent from a server's request, and to put this span's context into a client's. With
    /// `tracing-opentelemetry` that is `set_parent` and `context`.
    #[must_use]
    pub fn on_span(
        mut self,
        hook: impl Fn(&Span, &RpcInfo, &mut RequestParts<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_span = Some(Box::new(hook));
        self
    }
}

/// The level at which an RPC is logged unless chosen otherwise.
///
/// A success, and a failure that is the caller's (NOT_FOUND, CANCELLED, …, HTTP 4xx) is INFO; too
/// much work or too little time (UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED) or a method
/// that is not there (UNIMPLEMENTED) is WARN; UNKNOWN, INTERNAL, DATA_LOSS, HTTP 5xx, an HTTP
/// exchange that failed without a response and a panic are ERROR.
#[must_use]
pub fn level_of(rpc: &RpcInfo) -> Level {
    let stats = rpc.stats();
    match (stats.status(), stats.ending()) {
        (_, Some(Ending::Panic)) => Level::ERROR,
        (Some(Status::Grpc(code)), _) => match code {
            Code::Unknown | Code::Internal | Code::DataLoss => Level::ERROR,
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unimplemented => Level::WARN,
            _ => Level::INFO,
        },
        (Some(Status::Http(500..)), _) => Level::ERROR,
        (Some(Status::Http(_)), _) | (None, None | Some(Ending::Cancelled)) => Level::INFO,
        (None, Some(_)) => Level::ERROR,
    }
}

/// Whether OpenTelemetry calls this outcome an error: on a client every failure, on a server those
/// that are its own.
fn is_error(rpc: &RpcInfo) -> bool {
    let stats = rpc.stats();
    match (rpc.role(), stats.status()) {
        _ if stats.panic().is_some() => true,
        (Role::Server, Some(Status::Grpc(code))) => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
        (Role::Server, Some(Status::Http(status))) => status >= 500,
        _ => stats.failed(),
    }
}

impl Default for TracingTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TracingTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingTracer")
            .field("on_span", &self.on_span.is_some())
            .finish_non_exhaustive()
    }
}

impl Tracer for TracingTracer {
    type State = Span;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Span {
        let span = open(rpc, request);
        if span.is_none() {
            return span;
        }
        if let Some(extensions) = request.extensions_mut() {
            extensions.insert(SpanOf {
                rpc: rpc.clone(),
                span: span.clone(),
            });
        }
        if let Some(hook) = &self.on_span {
            hook(&span, rpc, request);
        }
        span
    }

    fn finish(&self, span: Span, rpc: &RpcInfo) {
        close(&span, rpc);
        if let Some(level) = (self.level_of)(rpc) {
            log(level, &span, rpc);
        }
    }

    fn scope(&self, span: &Span, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        (!span.is_none()).then(|| Arc::new(Entered(span.clone())) as Arc<dyn Scope>)
    }
}

/// Makes the span current while the RPC's code runs.
struct Entered(Span);

impl Scope for Entered {
    fn run(&self, f: &mut dyn FnMut()) {
        self.0.in_scope(f);
    }
}

/// What a request carries, for a layer further in.
#[derive(Clone)]
struct SpanOf {
    rpc: RpcInfo,
    span: Span,
}

fn open(rpc: &RpcInfo, request: &RequestParts<'_>) -> Span {
    macro_rules! span {
        ($($parent:tt)*) => {
            info_span!(
                target: SPAN,
                $($parent)*
                "rpc",
                otel.name = rpc.full_method().unwrap_or(match rpc.protocol() {
                    Protocol::Http => "HTTP",
                    _ => "grpc",
                }),
                otel.kind = rpc.role().as_str(),
                rpc.system.name = rpc.protocol().as_str(),
                rpc.method = rpc.full_method().unwrap_or("_OTHER"),
                network.peer.address = rpc.peer().socket().map(::tracing::field::display),
                rpc.response.status_code = Empty,
                otel.status_code = Empty,
                otel.status_description = Empty,
                "error.type" = Empty,
            )
        };
    }
    match carried_parent(rpc, request) {
        Some(parent) => span!(parent: parent,),
        None => span!(),
    }
}

/// The span of an outer layer's record where it is not current on this thread, which it mostly is:
/// a buffer or a spawned task between the two layers takes the request elsewhere.
fn carried_parent<'a>(rpc: &RpcInfo, request: &'a RequestParts<'_>) -> Option<&'a Span> {
    let parent = rpc.parent()?;
    let carried: &SpanOf = request.extensions()?.get()?;
    let is_current = || RpcInfo::current().is_some_and(|current| current.same(parent));
    (carried.rpc.same(parent) && !is_current()).then_some(&carried.span)
}

/// Puts into the span how its RPC ended.
fn close(span: &Span, rpc: &RpcInfo) {
    if span.is_none() {
        return;
    }
    let stats = rpc.stats();
    let status = stats.status().map(status_text);
    if let Some(status) = &status {
        span.record("rpc.response.status_code", &**status);
    }
    if is_error(rpc) {
        let ending = || stats.ending().map_or("_OTHER", Ending::as_str);
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_deref().unwrap_or_else(ending));
        if let Some(text) = stats.error().or(stats.panic()) {
            span.record("otel.status_description", &*escape(text, LONGEST_TEXT));
        }
    }
}

fn status_text(status: Status) -> Cow<'static, str> {
    match status {
        Status::Grpc(code) => code.as_str().into(),
        Status::Http(status) => status.to_string().into(),
    }
}

const LONGEST_PATH: usize = 256;
const LONGEST_TEXT: usize = 1024;

fn log(level: Level, span: &Span, rpc: &RpcInfo) {
    let stats = rpc.stats();
    let (sent, answered) = (stats.request(), stats.response());
    macro_rules! log {
        ($level:expr) => {
            // The fields are worked out only where somebody listens.
            event!(
                target: ACCESS,
                parent: span,
                $level,
                role = rpc.role().as_str(),
                method = &*rpc
                    .full_method()
                    .map_or_else(|| escape(rpc.path(), LONGEST_PATH), Cow::Borrowed),
                peer = rpc
                    .peer()
                    .address()
                    .map(|peer| escape(&peer.to_string(), LONGEST_PATH).into_owned()),
                status = stats.status().map(status_text).as_deref(),
                ending = stats.ending().map(Ending::as_str),
                cost_ms = stats.cost().map(|cost| cost.as_micros() as f64 / 1000.0),
                request_messages = sent.messages(),
                request_bytes = sent.wire_bytes(),
                response_messages = answered.messages(),
                response_bytes = answered.wire_bytes(),
                attempt = Some(rpc.attempt()).filter(|attempt| *attempt > 1),
                error = stats.error().map(|text| escape(text, LONGEST_TEXT)).as_deref(),
                panic = stats.panic().map(|text| escape(text, LONGEST_TEXT)).as_deref(),
                "rpc"
            )
        };
    }
    match level {
        Level::ERROR => log!(Level::ERROR),
        Level::WARN => log!(Level::WARN),
        Level::INFO => log!(Level::INFO),
        Level::DEBUG => log!(Level::DEBUG),
        Level::TRACE => log!(Level::TRACE),
    }
}

/// The text up to `longest` bytes, with what could move the cursor, end the line or turn it around
/// escaped.
fn escape(text: &str, longest: usize) -> Cow<'_, str> {
    let head = match text
        .char_indices()
        .find(|(at, c)| at + c.len_utf8() > longest)
    {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    };
    if !head.contains(is_unprintable) {
        return Cow::Borrowed(head);
    }
    let mut escaped = String::with_capacity(head.len() + 16);
    for c in head.chars() {
        if is_unprintable(c) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_moves_the_cursor_is_escaped_and_the_rest_stays() {
        for (text, expected) in [
            ("", ""),
            (
                "plain \"text\", emoji 🦀, é\\",
                "plain \"text\", emoji 🦀, é\\",
            ),
            ("a\nb\r\t\0", "a\\nb\\r\\t\\u{0}"),
            ("\u{1b}[31mred\u{9b}", "\\u{1b}[31mred\\u{9b}"),
            ("\u{2028}\u{202e}\u{2066}", "\\u{2028}\\u{202e}\\u{2066}"),
        ] {
            assert_eq!(escape(text, 100), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        assert_eq!(escape("aé🦀b", 8), "aé🦀b");
        assert_eq!(escape("aé🦀b", 7), "aé🦀");
        assert_eq!(escape("aé🦀b", 6), "aé");
        assert_eq!(escape("aé", 0), "");
        assert_eq!(escape(&"x".repeat(60_000), 256).len(), 256);
    }
}
