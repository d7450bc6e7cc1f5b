//! A [`tracing`] span per RPC, and one access-log event at its end.
//!
//! ```
//! use tower_tracer::{TracerLayer, tracing::TracingTracer};
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
//! | `otel.name` | start | `pkg.Svc/Method` where the method is [known](#methods), else `grpc` or the like; for plain HTTP the method, such as `GET` |
//! | `otel.kind` | start | `client` or `server` |
//! | `rpc.system.name` | start | `grpc`, also for gRPC-Web, or `connectrpc` |
//! | `rpc.method` | start, or end | `pkg.Svc/Method` where the method is known, else `_OTHER` |
//! | `rpc.method_original` | likewise | the method beside `_OTHER`, where the path has that form |
//! | `http.request.method` | start | of plain HTTP, as are those down to its status; `_OTHER` where it is none of HTTP's |
//! | `http.request.method_original` | start | the method beside `_OTHER`, 64 bytes at most |
//! | `url.scheme`, `url.path` | start | on a server; of the path 1024 bytes at most |
//! | `url.full` | start | on a client, where it is known; without user, password and query |
//! | `http.route` | | for [`on_span`](TracingTracer::on_span) to record, where the route is known |
//! | `http.response.status_code` | end | a number; of gRPC if plain HTTP answered, as a proxy does with 503 |
//! | `server.address`, `server.port` | start | on a client those of the [target](crate::TracerLayer::target), else of the request's URI; on a server those that the caller named |
//! | `network.peer.address`, `network.peer.port` | start | of the connection, where it is known |
//! | `rpc.status_code` | end | a code as the protocol spells it, such as `NOT_FOUND` |
//! | `otel.status_code`, `error.type` | end | `ERROR` and the status, where [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/rpc/grpc/) says that this is an error |
//! | `otel.status_description` | end | the error's text, likewise |
//!
//! # Methods
//!
//! A span is named after its method only where that is known to exist, since on a server the
//! caller chooses it. Known are the methods that generated code calls on a client, and those of a
//! [list](TracingTracer::methods). Without a list, a method becomes known when the service has
//! answered a call of it with OK or with a message: that call's span has it as `rpc.method` at its end,
//! and later ones are named after it. 100 methods become known in this way.
//!
//! # The access log
//!
//! An event with the message `rpc` and the target `tower_tracer::access`, when the RPC is over. It belongs
//! to the program's own span around the call, not to an RPC's span, which says the same things: so a line
//! of `tracing_subscriber::fmt` says each thing once. A field that is not known is left out.
//!
//! ```text
//! 2026-11-27T01:57:20.401Z  INFO tower_tracer::access: rpc role="server" method="echo.Echo/UnaryEcho" peer="127.0.0.1:43210" status="NOT_FOUND" ending="headers_only" duration_ms=0.207 request_messages=1 request_bytes=15 response_messages=0 response_bytes=0 error="no such word"
//! ```
//!
//! The same from `tracing_subscriber::fmt().json().flatten_event(true)`:
//!
//! ```json
//! {"timestamp":"2026-11-27T01:57:20.401Z","level":"INFO","message":"rpc","role":"server","method":"echo.Echo/UnaryEcho","peer":"127.0.0.1:43210","status":"NOT_FOUND","ending":"headers_only","duration_ms":0.207,"request_messages":1,"request_bytes":15,"response_messages":0,"response_bytes":0,"error":"no such word","target":"tower_tracer::access"}
//! ```
//!
//! | field | what |
//! | --- | --- |
//! | `role` | `client` or `server` |
//! | `http_method` | the method of plain HTTP |
//! | `method` | `pkg.Svc/Method`, else the path as it came, 256 bytes at most |
//! | `peer` | the peer's address |
//! | `status` | a code such as `NOT_FOUND`, or an HTTP status |
//! | `http_status` | the HTTP status, if plain HTTP answered a gRPC request |
//! | `ending` | how it ended, such as `trailers` or `cancelled`: see [`Ending`] |
//! | `duration_ms` | milliseconds from start to end |
//! | `request_messages`, `request_bytes` | messages, and bytes of the body, from client to server |
//! | `response_messages`, `response_bytes` | likewise from server to client |
//! | `attempt` | which attempt it was, from the second on |
//! | `trace_id` | with feature `otel` that of OpenTelemetry's current context, such as of an `OtelTracer` in the same layer; else of the request's [`traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header), if it has a valid one when the tracer starts |
//! | `tags` | the record's [tags](RpcInfo::set_tag) as `key=value`, 1024 bytes at most |
//! | `error`, `panic` | their texts |
//!
//! Control characters in what a peer sent are escaped before a subscriber sees them, so that no peer
//! writes lines of its own into a log, whatever the subscriber does; so is what is invisible or turns
//! the direction of writing around.
//!
//! Either of the two is turned off by its target, as in `RUST_LOG=info,tower_tracer::span=off`.

mod access_log;

use std::{
    borrow::Cow,
    cell::LazyCell,
    fmt,
    sync::{Arc, Weak},
};

use ::tracing::{Level, Span, field::Empty, info_span};
use http::{Uri, header::HOST, uri::Authority};

use crate::{
    Code, Ending, RequestParts, Role, RpcInfo, Status, Tracer, address::Target, panics::contain,
    rpc::Address, trace_id::TraceId, tracer::Scope,
};
use crate::{
    method_names::{Learned, OTHER, generated_name, is_answered},
    methods::KnownMethods,
    semconv::{
        HTTP_METHOD, HTTP_METHODS, PATH, System, error_type, full_url, http_answer,
        known_http_method, original_method, scheme,
    },
    text::{bounded, escape},
};

const SPAN: &str = "tower_tracer::span";

type LevelOf = dyn Fn(&RpcInfo) -> Option<Level> + Send + Sync;
type OnEnd = dyn Fn(&Span, &RpcInfo) + Send + Sync;
type OnSpan = dyn Fn(&Span, &RpcInfo, &mut RequestParts<'_>) + Send + Sync;

/// A span and an access-log event per RPC; see the [module](self).
pub struct TracingTracer {
    methods: Methods,
    level_of: Box<LevelOf>,
    on_span: Option<Box<OnSpan>>,
    on_end: Option<Box<OnEnd>>,
    progress_level: Level,
    status_code: &'static str,
}

/// The field of the status code, by the conventions and by those before 1.45.
const STATUS_CODE: &str = "rpc.status_code";
const OLD_STATUS_CODE: &str = "rpc.response.status_code";

impl TracingTracer {
    /// A tracer that logs at [`level_of`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            methods: Methods::default(),
            level_of: Box::new(|rpc| Some(level_of(rpc))),
            on_span: None,
            on_end: None,
            progress_level: Level::INFO,
            status_code: STATUS_CODE,
        }
    }

    /// The methods that are known, on a server; a span is named after no other. Those that generated
    /// clients call are known without.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.methods.listed = Some(known);
        self
    }

    /// Chooses the level of the access-log event from an RPC that is over; `None` is no event.
    ///
    /// ```
    /// use tower_tracer::tracing::{TracingTracer, level_of};
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

    /// The level of the line about an RPC that still runs, INFO by default. There is one at each
    /// [progress](crate::TracerLayer::progress_every): an event like that of the access log, with the counts so
    /// far and the message `rpc still running`.
    #[must_use]
    pub fn progress_level(mut self, level: Level) -> Self {
        self.progress_level = level;
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

    /// Calls this with each span when its RPC is over, before the access log: the place to record more
    /// of what the record has. A field has to be declared when the span is made, so a custom field
    /// takes the extension of a subscriber, such as `set_attribute` of `tracing-opentelemetry`.
    #[must_use]
    pub fn on_end(mut self, hook: impl Fn(&Span, &RpcInfo) + Send + Sync + 'static) -> Self {
        self.on_end = Some(Box::new(hook));
        self
    }

    /// Names the field of the status code: `rpc.status_code`, or `rpc.response.status_code` for a backend
    /// that expects version 1.44 of the conventions or older.
    ///
    /// # Panics
    ///
    /// If it is neither of the two: a span has no other field for it.
    #[must_use]
    pub fn status_code_key(mut self, key: &'static str) -> Self {
        assert!(
            [STATUS_CODE, OLD_STATUS_CODE].contains(&key),
            "the key of the status code is {STATUS_CODE:?} or {OLD_STATUS_CODE:?}, not {key:?}"
        );
        self.status_code = key;
        self
    }
}

/// The level at which an RPC is logged unless chosen otherwise.
///
/// An RPC that did not [fail](crate::Stats::failed) is INFO. A failure is ERROR if something is broken:
/// UNKNOWN, INTERNAL, DATA_LOSS, HTTP 5xx, an HTTP exchange without a response, a panic. Every other
/// failure is WARN.
#[must_use]
pub fn level_of(rpc: &RpcInfo) -> Level {
    let stats = rpc.stats();
    if !stats.failed() {
        return Level::INFO;
    }
    match (stats.status(), stats.ending()) {
        (_, Some(Ending::Panic))
        | (Some(Status::Grpc(Code::Unknown | Code::Internal | Code::DataLoss)), _)
        | (Some(Status::Http(500..)), _)
        | (None, _) => Level::ERROR,
        (Some(_), _) => Level::WARN,
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
            .field("methods", &self.methods)
            .field("on_span", &self.on_span.is_some())
            .field("on_end", &self.on_end.is_some())
            .finish_non_exhaustive()
    }
}

/// An RPC that runs, as the tracer keeps it.
#[derive(Debug)]
pub struct Running {
    /// `Span::none()` if it is off.
    span: Arc<Span>,
    /// The program's span around the call, which the access log belongs to.
    around: Span,
    /// Whether its method may turn out to be known when it ends.
    undecided: bool,
    /// That of the request's `traceparent`.
    trace_id: Option<TraceId>,
}

impl Tracer for TracingTracer {
    type State = Running;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Running {
        let running = self.open(rpc, request);
        let span = &running.span;
        if span.is_none() {
            return running;
        }
        if let Some(extensions) = request.extensions_mut() {
            extensions.insert(SpanOf {
                rpc: rpc.clone(),
                span: Arc::downgrade(span),
            });
        }
        if let Some(hook) = &self.on_span {
            contain::<Self, _>("on_span", || hook(span, rpc, request));
        }
        running
    }

    fn finish(&self, running: Running, rpc: &RpcInfo) {
        if running.undecided {
            self.decide(&running.span, rpc);
        }
        close(&running.span, rpc, self.status_code);
        if let Some(hook) = self.on_end.as_ref().filter(|_| !running.span.is_none()) {
            contain::<Self, _>("on_end", || hook(&running.span, rpc));
        }
        if let Some(level) = (self.level_of)(rpc) {
            access_log::write(level, &running.around, running.trace_id, rpc);
        }
    }

    fn progress(&self, running: &mut Running, rpc: &RpcInfo) {
        access_log::write(self.progress_level, &running.around, running.trace_id, rpc);
    }

    fn scope(&self, running: &Running, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        let span = &running.span;
        (!span.is_none()).then(|| {
            Arc::new(Entered {
                span: Arc::downgrade(span),
                around: running.around.clone(),
            }) as Arc<dyn Scope>
        })
    }
}

impl TracingTracer {
    fn open(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> Running {
        // Worked out only if a subscriber listens. Numbers are `i64`, as OpenTelemetry has them.
        let about = LazyCell::new(|| self.describe(rpc, request));
        let http = LazyCell::new(|| about.system.is_none().then(|| Http::of(rpc, request)));
        let server = LazyCell::new(|| server(rpc, request));
        let peer = rpc.peer().socket();
        macro_rules! span {
            ($($parent:tt)*) => {
                info_span!(
                    target: SPAN,
                    $($parent)*
                    "rpc",
                    otel.name = about.name,
                    otel.kind = rpc.role().as_str(),
                    rpc.system.name = about.system.map(System::name),
                    rpc.method = about.method,
                    rpc.method_original = about.original.as_deref(),
                    http.request.method = http.as_ref().map(|http| http.method),
                    http.request.method_original = http.as_ref().and_then(|http| http.original),
                    url.scheme = http.as_ref().and_then(|http| http.scheme),
                    url.path = http.as_ref().and_then(|http| http.path.as_deref()),
                    url.full = http.as_ref().and_then(|http| http.url.as_deref()),
                    http.route = Empty,
                    network.peer.address = peer.map(|peer| ::tracing::field::display(peer.ip())),
                    network.peer.port = peer.map(|peer| i64::from(peer.port())),
                    server.address = server.as_ref().map(|(host, _)| &**host),
                    server.port = server.as_ref().and_then(|(_, port)| port.map(i64::from)),
                    rpc.status_code = Empty,
                    rpc.response.status_code = Empty,
                    http.response.status_code = Empty,
                    otel.status_code = Empty,
                    otel.status_description = Empty,
                    "error.type" = Empty,
                )
            };
        }
        let parent = carried_parent(rpc, request);
        let span = match &parent {
            Some(parent) => span!(parent: &**parent,),
            None => span!(),
        };
        // With `tracing/log`, a span that is off still has a name, and would be logged.
        let span = match span.is_disabled() {
            true => Span::none(),
            false => span,
        };
        let undecided = !span.is_none() && about.undecided;
        Running {
            span: Arc::new(span),
            around: around(rpc, parent.is_some()),
            undecided,
            trace_id: TraceId::of_request(request),
        }
    }

    fn describe<'a>(&self, rpc: &'a RpcInfo, request: &RequestParts<'_>) -> About<'a> {
        let Some(system) = System::of(rpc.protocol()) else {
            let method = rpc.http_method();
            let method = method.and_then(|method| known_http_method(method, &HTTP_METHODS));
            return About {
                name: method.unwrap_or("HTTP"),
                ..About::default()
            };
        };
        let about = About {
            name: system.span_name(),
            system: Some(system),
            ..About::default()
        };
        let listed = || self.methods.listed.as_ref()?.find(rpc.path());
        if let Some(method) = generated_name(rpc, request).or_else(listed) {
            return About {
                name: method,
                method: Some(method),
                ..about
            };
        }
        let Some(method) = rpc.full_method() else {
            return About {
                method: Some(OTHER),
                original: Some(escape(original_method(rpc), PATH)),
                ..about
            };
        };
        match self.methods.known(method) {
            Some(true) => About {
                name: method,
                method: Some(method),
                ..about
            },
            Some(false) => About {
                method: Some(OTHER),
                original: Some(method.into()),
                ..about
            },
            None => About {
                undecided: true,
                ..about
            },
        }
    }

    /// Puts into the span which method it was, as its end has shown.
    fn decide(&self, span: &Span, rpc: &RpcInfo) {
        let method = rpc.full_method().unwrap_or_default();
        if is_answered(rpc) && self.methods.learned.learn(method).is_some() {
            span.record("otel.name", method);
            span.record("rpc.method", method);
        } else {
            span.record("rpc.method", OTHER);
            span.record("rpc.method_original", method);
        }
    }
}

/// What names a span.
#[derive(Default)]
struct About<'a> {
    name: &'a str,
    /// `None` for plain HTTP.
    system: Option<System>,
    method: Option<&'a str>,
    original: Option<Cow<'a, str>>,
    undecided: bool,
}

/// What a span tells of a request of plain HTTP.
struct Http<'a> {
    method: &'static str,
    original: Option<&'a str>,
    scheme: Option<&'static str>,
    path: Option<Cow<'a, str>>,
    url: Option<String>,
}

impl<'a> Http<'a> {
    fn of(rpc: &'a RpcInfo, request: &RequestParts<'_>) -> Self {
        let method = rpc.http_method();
        let known = method.and_then(|method| known_http_method(method, &HTTP_METHODS));
        let unknown = method.filter(|_| known.is_none());
        let serves = rpc.role() == Role::Server;
        let uri = request.uri();
        let url = uri.filter(|_| !serves).and_then(full_url);
        Self {
            method: known.unwrap_or(OTHER),
            original: unknown.map(|method| bounded(method.as_str(), HTTP_METHOD)),
            scheme: serves.then(|| scheme(uri)),
            path: serves.then(|| escape(rpc.path(), PATH)),
            url: url.map(|url| escape(&url, PATH).into_owned()),
        }
    }
}

/// The methods that spans are named after.
#[derive(Debug, Default)]
struct Methods {
    /// Where there is a list, no other method is known, but for those of generated clients.
    listed: Option<KnownMethods>,
    learned: Learned<()>,
}

impl Methods {
    /// Whether a method that is not listed is known; `None` where that may turn out.
    fn known(&self, method: &str) -> Option<bool> {
        if self.listed.is_some() {
            return Some(false);
        }
        self.learned.get(method).map(|()| true)
    }
}

/// The server's host and port: a client's target, else the host that the request names.
fn server(rpc: &RpcInfo, request: &RequestParts<'_>) -> Option<(String, Option<u16>)> {
    let named = request.uri().and_then(Uri::authority);
    let header = || request.headers().get(HOST)?.to_str().ok();
    let target = match rpc.callee().address() {
        Some(Address::Named(target)) => Target::Configured(target),
        _ => {
            let authority = named.map(Authority::as_str).or_else(header)?;
            let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
            Target::Authority(host)
        }
    };
    target.with_host_and_port(|host, port| (escape(host, HOST_NAME).into_owned(), port))
}

/// How much of a host's name a span keeps, which is as much as DNS allows.
const HOST_NAME: usize = 255;

/// Makes the span current while the RPC's code runs.
/// Does not hold the span: it is to close with its RPC, and a body can be kept for longer.
struct Entered {
    span: Weak<Span>,
    around: Span,
}

impl Scope for Entered {
    fn run(&self, f: &mut dyn FnMut()) {
        match self.span.upgrade() {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }
}

/// What a request carries, for a layer further in.
#[derive(Clone)]
struct SpanOf {
    rpc: RpcInfo,
    /// Weak: who keeps the request must not keep the span open.
    span: Weak<Span>,
}

/// The span of an outer layer's record where it is not current on this thread, which it mostly is:
/// a buffer or a spawned task between the two layers takes the request elsewhere.
fn carried_parent(rpc: &RpcInfo, request: &RequestParts<'_>) -> Option<Arc<Span>> {
    let parent = rpc.parent()?;
    let carried: &SpanOf = request.extensions()?.get()?;
    let is_current = || RpcInfo::current().is_some_and(|current| current.ptr_eq(parent));
    let applies = carried.rpc.ptr_eq(parent) && !is_current();
    applies.then(|| carried.span.upgrade()).flatten()
}

/// The program's own span around a call: the current one. If that is an RPC's, it is the one around that.
fn around(rpc: &RpcInfo, under_outer_layer: bool) -> Span {
    let current = Span::current();
    let is_rpcs = current.metadata().is_some_and(|span| span.target() == SPAN);
    if !is_rpcs && !under_outer_layer {
        return current;
    }
    let above = rpc
        .parent()
        .map(|rpc| rpc.with_scope(|scope: &Entered| scope.around.clone()));
    above.flatten().unwrap_or_else(Span::none)
}

/// Puts into the span how its RPC ended.
fn close(span: &Span, rpc: &RpcInfo, status_code: &str) {
    if span.is_none() {
        return;
    }
    let stats = rpc.stats();
    match (stats.status(), System::of(rpc.protocol())) {
        (Some(Status::Grpc(code)), system) => {
            let code = system.unwrap_or(System::Grpc).code(code);
            span.record(status_code, code);
            if let Some(http) = http_answer(rpc) {
                span.record("http.response.status_code", i64::from(http));
            }
        }
        (Some(Status::Http(status)), _) => {
            span.record("http.response.status_code", i64::from(status));
        }
        (None, _) => {}
    }
    if let Some(error) = error_type(rpc) {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", &*error);
        if let Some(text) = stats.error().or(stats.panic()) {
            span.record("otel.status_description", &*escape(text, TEXT));
        }
    }
}

/// How much of a text a span keeps, in bytes.
const TEXT: usize = 1024;
