//! The span of an RPC: what it says at its start and at its end.

use std::{
    borrow::Cow,
    cell::LazyCell,
    sync::{Arc, Weak},
};

use ::tracing::{Span, field::Empty, info_span};
use http::{Uri, header::HOST, uri::Authority};

use crate::{
    RequestParts, Role, RpcInfo, Status,
    address::Target,
    method_names::{Learned, OTHER, generated_name, is_answered},
    methods::KnownMethods,
    rpc::Address,
    semconv::{
        HTTP_METHOD, HTTP_METHODS, PATH, System, error_type, full_url, http_answer,
        known_http_method, original_method, scheme,
    },
    text::{bounded, escape},
    trace_id::TraceId,
    tracer::Scope,
};

const SPAN: &str = "tower_tracer::span";

/// An RPC that runs, as the tracer keeps it.
#[derive(Debug)]
pub struct Running {
    pub(super) spans: Arc<Spans>,
    /// Whether its method may turn out to be known when it ends.
    pub(super) undecided: bool,
    /// That of the request's `traceparent`.
    pub(super) trace_id: Option<TraceId>,
}

/// The spans that are held open while an RPC runs, and no longer.
#[derive(Debug)]
pub(super) struct Spans {
    /// Its own; `Span::none()` if it is off.
    pub(super) own: Span,
    /// The program's span around the call, which the access log belongs to.
    pub(super) around: Span,
}

impl Methods {
    pub(super) fn open(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> Running {
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
            Some(parent) => span!(parent: &parent.own,),
            None => span!(),
        };
        // With `tracing/log`, a span that is off still has a name, and would be logged.
        let span = match span.is_disabled() {
            true => Span::none(),
            false => span,
        };
        let undecided = !span.is_none() && about.undecided;
        Running {
            spans: Arc::new(Spans {
                own: span,
                around: around(rpc, parent.is_some()),
            }),
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
        let listed = || self.listed.as_ref()?.find(rpc.path());
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
        match self.known(method) {
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
    pub(super) fn decide(&self, span: &Span, rpc: &RpcInfo) {
        let method = rpc.full_method().unwrap_or_default();
        if is_answered(rpc) && self.learned.learn(method).is_some() {
            span.record("otel.name", method);
            #[cfg(feature = "otel")]
            rename(span, method);
            span.record("rpc.method", method);
        } else {
            span.record("rpc.method", OTHER);
            span.record("rpc.method_original", method);
        }
    }
}

/// Names the span in OpenTelemetry. The layer of tracing-opentelemetry takes no `otel.name` once a span was
/// entered. It makes the span current there, so the name can be set from within.
#[cfg(feature = "otel")]
fn rename(span: &Span, name: &str) {
    use opentelemetry::{Context, trace::TraceContextExt as _};

    // Without that layer nothing is current inside, and no other span gets the name.
    let _nothing = Context::new().attach();
    span.in_scope(|| Context::current().span().update_name(name.to_owned()));
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
pub(super) struct Methods {
    /// Where there is a list, no other method is known, but for those of generated clients.
    pub(super) listed: Option<KnownMethods>,
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
/// Does not hold the spans: they are to close with their RPC, and a body can be kept for longer.
pub(super) struct Entered(pub(super) Weak<Spans>);

impl Scope for Entered {
    fn run(&self, f: &mut dyn FnMut()) {
        match self.0.upgrade() {
            Some(spans) => spans.own.in_scope(f),
            None => f(),
        }
    }
}

/// What a request carries, for a layer further in.
#[derive(Clone)]
pub(super) struct SpanOf {
    pub(super) rpc: RpcInfo,
    /// Weak: who keeps the request must not keep them open.
    pub(super) spans: Weak<Spans>,
}

/// The span of an outer layer's record where it is not current on this thread, which it mostly is:
/// a buffer or a spawned task between the two layers takes the request elsewhere.
fn carried_parent(rpc: &RpcInfo, request: &RequestParts<'_>) -> Option<Arc<Spans>> {
    let parent = rpc.parent()?;
    let carried: &SpanOf = request.extensions()?.get()?;
    let is_current = || RpcInfo::current().is_some_and(|current| current.ptr_eq(parent));
    let applies = carried.rpc.ptr_eq(parent) && !is_current();
    applies.then(|| carried.spans.upgrade()).flatten()
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
        .and_then(|rpc| rpc.with_scope(|scope: &Entered| scope.0.upgrade()));
    above
        .flatten()
        .map_or_else(Span::none, |spans| spans.around.clone())
}

/// Runs code outside of an RPC's span, if it is the current one: subscribers that write every current span would
/// say what it says twice.
pub(super) fn outside<R>(span: &Span, f: impl FnOnce() -> R) -> R {
    struct Enter<'a>(&'a Span);

    impl Drop for Enter<'_> {
        fn drop(&mut self) {
            self.0
                .with_subscriber(|(id, subscriber)| subscriber.enter(id));
        }
    }

    if span.id().is_none() || Span::current().id() != span.id() {
        return f();
    }
    span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
    let _again = Enter(span);
    f()
}

/// Puts into the span how its RPC ended.
pub(super) fn close(span: &Span, rpc: &RpcInfo, status_code: &str) {
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
