//! OpenTelemetry's spans, metrics and propagation.
//!
//! A complete set-up, from the resource to the shutdown, with the crates `opentelemetry`,
//! `opentelemetry_sdk` and `opentelemetry-otlp` (its feature `grpc-tonic`):
//!
//! ```no_run
//! use opentelemetry::global;
//! use opentelemetry_otlp::{MetricExporter, SpanExporter};
//! use opentelemetry_sdk::{
//!     Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
//!     trace::SdkTracerProvider,
//! };
//! use tower_tracer::{TracerLayer, otel::OtelTracer};
//!
//! # type Failure = Box<dyn std::error::Error>;
//! # async fn serve<L>(_: L) {}
//! #[tokio::main]
//! async fn main() -> Result<(), Failure> {
//!     // Who reports.
//!     let resource = Resource::builder().with_service_name("shop").build();
//!
//!     // Where to: the standard endpoint, or `OTEL_EXPORTER_OTLP_ENDPOINT`.
//!     let spans = SdkTracerProvider::builder()
//!         .with_resource(resource.clone())
//!         .with_batch_exporter(SpanExporter::builder().with_tonic().build()?)
//!         .build();
//!     let metrics = SdkMeterProvider::builder()
//!         .with_resource(resource)
//!         .with_periodic_exporter(MetricExporter::builder().with_tonic().build()?)
//!         .build();
//!     global::set_tracer_provider(spans.clone());
//!     global::set_meter_provider(metrics.clone());
//!     global::set_text_map_propagator(TraceContextPropagator::new());
//!
//!     // On a client and on a server alike.
//!     serve(TracerLayer::new(OtelTracer::new())).await;
//!
//!     // Send what is left.
//!     spans.shutdown()?;
//!     metrics.shutdown()?;
//!     Ok(())
//! }
//! ```
//!
//! The example [`otel`](https://docs.rs/crate/tower-tracer/latest/source/examples/otel.rs) runs two
//! services and a client with it. For spans of `tracing` in the same trace, see
//! [`tracing_opentelemetry_or_both`](crate::guide::tracing_opentelemetry_or_both).
//!
//! `OtelTracer::new()` uses the global providers and the global propagator. A program sets them before its first
//! RPC: those that it sets later are used from then on, and RPCs before have neither spans nor metrics.
//! Once a provider that emits was found, it stays. After 1000 RPCs without a provider, a tracer looks
//! for one every 100 ms. They can also be given, and there are settings for the rest:
//!
//! ```
//! use opentelemetry_sdk::{
//!     metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
//! };
//! use tower_tracer::{TracerLayer, otel};
//!
//! let spans = SdkTracerProvider::builder().build();
//! let metrics = SdkMeterProvider::builder().build();
//! let layer = TracerLayer::new(
//!     otel::OtelTracer::new()
//!         .tracer_provider(&spans)
//!         .meter_provider(&metrics)
//!         .propagator(TraceContextPropagator::new())
//!         .request_metadata(["tenant"])
//!         .message_events(),
//! );
//! # let _ = layer;
//! ```
//!
//! A simple span processor exports within the call that ends the span, so its exporter's client must
//! not be traced by this tracer: each export would make a span to export.
//!
//! # What it emits
//!
//! A span and a duration for each RPC, named and described as OpenTelemetry's
//! [conventions for RPC](https://opentelemetry.io/docs/specs/semconv/rpc/) say, with the same
//! duration in both. The two are independent: an RPC whose span is not sampled is measured too.
//!
//! | | span | metric |
//! | --- | --- | --- |
//! | gRPC, gRPC-Web, Connect, and custom requests | `pkg.Svc/Method` | `rpc.client.call.duration`, `rpc.server.call.duration` |
//! | plain HTTP | `GET /route` | `http.client.request.duration`, `http.server.request.duration` |
//!
//! An RPC's span has `rpc.system.name`, `rpc.method`, `server.address`, `server.port` and the request's
//! metadata that was [asked for](OtelTracer::request_metadata) from its start, where samplers see them
//! (the method where it is [known](#methods) by then), then `network.peer.address` and
//! `network.peer.port`, and at its end `rpc.response.status_code` and, for a failure, `error.type`:
//! the code. On a client each code but OK is a failure; on a server UNKNOWN, DEADLINE_EXCEEDED,
//! UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are, the others being the caller's own. The
//! metric has the same, without the metadata and the peer. What a handler
//! [tags](crate::RpcInfo::set_tag) or [records](crate::RpcInfo::record) becomes attributes and events
//! of the span.
//!
//! A span of plain HTTP has `http.request.method`, `url.scheme` and `url.path` on a server, `url.full` on
//! a client, `http.route`, `server.address`, `server.port`, `http.response.status_code` and, for a
//! failure, `error.type`: the status, or where there was none how it [ended](crate::Ending), such as
//! `cancelled` or `service_error`. A query may hold secrets and is left out.
//!
//! Under a retry layer, the span of each attempt has its number, counted from 0. A gRPC attempt has
//! `previous-rpc-attempts`, as gRPC's
//! [A72](https://github.com/grpc/proposal/blob/master/A72-open-telemetry-tracing.md) defines it, and a
//! resent HTTP request has `http.request.resend_count`, which the conventions for HTTP define and
//! which the first one lacks. This takes a layer outside of the retry layer and one inside. The span
//! of the call is `CLIENT`, the [attempts' spans](OtelTracer::attempt_span_kind) are `INTERNAL`. Of
//! two layers on one server, the inner one's span is `INTERNAL` too.
//!
//! The server's address is that of the [callee](crate::TracerLayer::callee) that the layer was told,
//! else what the request's URI has on a client. A server's own socket is not what its clients call,
//! and not told; of plain HTTP its span has the host that the caller named. Behind a reverse proxy,
//! [`trust_forwarded`](OtelTracer::trust_forwarded) takes scheme, host and client from its headers.
//!
//! # Context
//!
//! On a server the caller's context is extracted from the headers, on a client the current one is
//! injected, also where the span is not sampled. The span's context is current in the handler, in
//! both bodies and in their drops, so that a client called in a handler makes a child span. A task
//! that a handler spawns inherits nothing; give it the context with OpenTelemetry's `FutureExt`. A
//! request's body that is neither tonic's nor axum's has it only where the handler reads it.
//!
//! A request that passes several layers, or that a server's handler hands on to a client, is in one
//! trace also if a buffer or a task is between them: it carries its record.
//!
//! What a caller sends is bounded by W3C's limits. A `tracestate` of more than 512 characters is cut
//! by members, as [Trace Context](https://www.w3.org/TR/trace-context/#tracestate-limits) (3.3.1.5) says:
//! those of more than 128 characters go first, the longest of them before the others, then those at
//! the end. One of more than 32 members is ignored, and so is baggage of more than 64 members or 8192
//! bytes.
//!
//! Where telemetry is suppressed, as in an exporter's own calls, this tracer takes no part.
//!
//! A span that has started is exported, also where [`finish_if`](crate::Tracer::finish_if),
//! [`slower_than`](crate::Tracer::slower_than) or [`only_failed`](crate::Tracer::only_failed) leave its end out: it lacks what is
//! known only then, and there is no duration. Choose spans with OpenTelemetry's samplers.
//!
//! # Methods
//!
//! A method's name becomes a label only where it is known to exist, since on a server it is a
//! stranger's word. Known are the methods that generated code calls on a client, and those of a
//! [list or a descriptor set](OtelTracer::methods). Without one, a
//! method becomes known when the service has answered a call of it with OK or with a message; until
//! then it is `_OTHER`, as is one that is only ever UNIMPLEMENTED. 100 methods become known in this
//! way, which a service that answers to any name uses up. One tracer keeps 2000 combinations of an
//! RPC's method, side, protocol and address at most.
//!
//! Of plain HTTP, a method that is not known is `_OTHER`, and in a client's metric a status that is
//! not registered is the first of its class, 477 a 400: the span has it as it came. Routes and the
//! addresses that a client calls are the program's own, and bounded by the SDK alone.
//!
//! # Cost
//!
//! Attributes are prebuilt for each method and code. Of a span that is not sampled nothing is built
//! but what the sampler sees.

mod forwarded;
mod http;
mod live;
mod methods;
mod metrics;
mod propagation;
mod series;
mod span;

use std::{
    borrow::Cow,
    env, fmt, iter,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    metrics::{Meter, MeterProvider},
    propagation::TextMapPropagator,
    trace::{self, Link, SpanBuilder, SpanKind, TraceContextExt as _, TraceId, TracerProvider},
};

use self::{
    forwarded::Forwarded,
    http::HttpExchange,
    live::Live,
    methods::Methods,
    metrics::{Counted, Instruments},
    propagation::Propagation,
    series::{AllowedHeader, Key, Series, Target, Wording},
    span::{Spans, What},
};
use crate::{
    Event, Level, RequestParts, Role, RpcInfo, Status, Tracer,
    methods::{KnownMethods, generated_name, is_answered},
    rpc::Address,
    semconv::{HTTP_METHODS, System, http_answer, original_method},
    tracer::{Candidate, Scope, StreamEvent, StreamEventKind},
};

/// Emits OpenTelemetry's spans and metrics; made by [`OtelTracer::new`].
pub struct OtelTracer {
    spans: Option<Arc<dyn Spans>>,
    meter: Option<Meter>,
    propagation: Propagation,
    wording: Wording,
    methods: Methods,
    request_metadata: Vec<AllowedHeader>,
    response_metadata: Vec<AllowedHeader>,
    http_route: Option<Box<RouteOf>>,
    http_methods: Vec<&'static str>,
    grpc_metrics: Option<GrpcMetrics>,
    attempt_span_kind: SpanKind,
    public_endpoint: bool,
    trust_forwarded: bool,
    message_events: bool,
    timeline: bool,
    in_flight: bool,
    bound: bool,
    live: OnceLock<Live>,
}

type RouteOf = dyn Fn(&RequestParts<'_>) -> Option<String> + Send + Sync;

/// Which of OpenTelemetry's conventions for RPC are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Conventions {
    /// Those of 2025 and later: `rpc.system.name`, `rpc.{client,server}.call.duration` in seconds.
    #[default]
    New,
    /// Those before: `rpc.system`, `rpc.service`, `rpc.grpc.status_code`,
    /// `rpc.{client,server}.duration` in milliseconds.
    Legacy,
    /// Both. `rpc.method`, which has two meanings, has the new one on spans.
    Both,
}

impl Conventions {
    fn from_env() -> Self {
        let asked = env::var("OTEL_SEMCONV_STABILITY_OPT_IN").unwrap_or_default();
        match asked
            .split(',')
            .any(|category| category.trim() == "rpc/dup")
        {
            true => Self::Both,
            false => Self::New,
        }
    }

    fn has_new(self) -> bool {
        !matches!(self, Self::Legacy)
    }

    fn has_old(self) -> bool {
        !matches!(self, Self::New)
    }
}

/// What a client's layer counts in gRPC's own metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrpcMetrics {
    /// Each RPC is a call and its one attempt: for a client without a retry layer.
    CallsAndAttempts,
    /// Each RPC is a call: for the layer outside of a retry layer. It knows the retries where there
    /// is a layer inside, too, with a tracer of its own for the [attempts](Self::Attempts).
    Calls,
    /// Each RPC is an attempt: for the layer inside of a retry layer. It measures no
    /// `rpc.client.call.duration`, which is the call's; its spans are children of the call's, of the
    /// kind that [`attempt_span_kind`](OtelTracer::attempt_span_kind) sets.
    Attempts,
}

impl GrpcMetrics {
    fn calls(self) -> bool {
        !matches!(self, Self::Attempts)
    }

    fn attempts(self) -> bool {
        !matches!(self, Self::Calls)
    }
}

impl OtelTracer {
    /// A tracer with the global providers and propagator, by the conventions that
    /// `OTEL_SEMCONV_STABILITY_OPT_IN` asks for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            spans: None,
            meter: None,
            propagation: Propagation::default(),
            wording: Wording {
                conventions: Conventions::from_env(),
                status_code: "rpc.response.status_code",
            },
            methods: Methods::default(),
            request_metadata: Vec::new(),
            response_metadata: Vec::new(),
            http_route: None,
            http_methods: HTTP_METHODS.to_vec(),
            grpc_metrics: None,
            attempt_span_kind: SpanKind::Internal,
            public_endpoint: false,
            trust_forwarded: false,
            message_events: false,
            timeline: false,
            in_flight: false,
            bound: false,
            live: OnceLock::new(),
        }
    }

    /// Makes spans with this provider instead of the global one.
    #[must_use]
    pub fn tracer_provider<P>(mut self, provider: &P) -> Self
    where
        P: TracerProvider<Tracer: Send + Sync + 'static>,
        <P::Tracer as trace::Tracer>::Span: Send + Sync + 'static,
    {
        self.spans = Some(Arc::new(provider.tracer_with_scope(scope())));
        self
    }

    /// Makes metrics with this provider instead of the global one.
    #[must_use]
    pub fn meter_provider(mut self, provider: &dyn MeterProvider) -> Self {
        self.meter = Some(provider.meter_with_scope(scope()));
        self
    }

    /// Extracts and injects with this propagator instead of the global one.
    #[must_use]
    pub fn propagator(
        mut self,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        self.propagation = Propagation::new(propagator);
        self
    }

    /// The server is open to the public: a caller's context is not continued. Each of its spans is
    /// the root of a trace and linked to the caller's; its baggage is dropped. Values that are in the
    /// context which is current already stay, unless a span is.
    #[must_use]
    pub fn public_endpoint(mut self) -> Self {
        self.public_endpoint = true;
        self
    }

    /// The server is behind a reverse proxy, and what that says of the request it received is true.
    ///
    /// As the [conventions for HTTP](https://opentelemetry.io/docs/specs/semconv/http/http-spans/)
    /// say, a server's span and metrics then have the `url.scheme` that the client used, and the span
    /// has the client's own `server.address` and `server.port`, and its `client.address`:
    ///
    /// | attribute | first | then | else |
    /// | --- | --- | --- | --- |
    /// | `url.scheme` | `Forwarded` (`proto`) | `X-Forwarded-Proto` | the request's scheme |
    /// | `server.address`, `server.port` | `Forwarded` (`host`) | `X-Forwarded-Host` | the request's authority, then `Host` |
    /// | `client.address` | `Forwarded` (`for`) | `X-Forwarded-For` | the connection's peer |
    ///
    /// The address of a [callee](crate::TracerLayer::callee) that the layer was told still goes first.
    /// The span of an RPC has the addresses too, but no scheme, and its `server.address` comes from the
    /// callee or the two headers alone.
    ///
    /// Where several proxies have added to a list, the first entry counts: the one of the proxy
    /// nearest to the client. `Forwarded` is read by
    /// [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239), up to 64 parameters. A value that is not
    /// valid counts as missing: a scheme other than `http` and `https`, a host that is not a name of
    /// up to 255 bytes or an IP address, a client that is not an IP address.
    ///
    /// **Only for a server that clients cannot reach past the proxy**, whose outermost proxy removes or
    /// replaces these headers of its clients: anybody can send them.
    ///
    /// ```
    /// use tower_tracer::{TracerLayer, otel};
    ///
    /// let layer = TracerLayer::new(otel::OtelTracer::new().trust_forwarded()).server();
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn trust_forwarded(mut self) -> Self {
        self.trust_forwarded = true;
        self
    }

    /// The methods that are known, on a server; others are `_OTHER`. Those that generated clients
    /// call are known without.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.methods.list(known);
        self
    }

    /// Chooses the conventions, instead of `OTEL_SEMCONV_STABILITY_OPT_IN`.
    #[must_use]
    pub fn conventions(mut self, conventions: Conventions) -> Self {
        self.wording.conventions = conventions;
        self
    }

    /// Names the attribute of the status code: `rpc.response.status_code`, unless told otherwise,
    /// or `rpc.status_code`, which comes after version 1.44 of the conventions.
    #[must_use]
    pub fn status_code_key(mut self, key: &'static str) -> Self {
        self.wording.status_code = key;
        self
    }

    /// Puts these headers of the request into its span, as `rpc.request.metadata.<header>`, or
    /// `http.request.header.<header>` for plain HTTP. No others are. Values marked as sensitive are
    /// left out, and 16 values of 1 KiB are kept.
    #[must_use]
    pub fn request_metadata<'a>(mut self, headers: impl IntoIterator<Item = &'a str>) -> Self {
        AllowedHeader::add(&mut self.request_metadata, headers, "request");
        self
    }

    /// The same for headers of the response, `rpc.response.metadata.<header>`. They are seen as
    /// events, which takes a lock for each message.
    #[must_use]
    pub fn response_metadata<'a>(mut self, headers: impl IntoIterator<Item = &'a str>) -> Self {
        AllowedHeader::add(&mut self.response_metadata, headers, "response");
        self
    }

    /// Finds the route of a plain HTTP request on a server, `/users/{id}`: it becomes `http.route`
    /// and a part of the span's name, so there must be few of them.
    ///
    /// ```
    /// use axum::extract::MatchedPath;
    /// use tower_tracer::{TracerLayer, otel};
    ///
    /// let tracer = otel::OtelTracer::new().http_route(|request| {
    ///     let route = request.extensions()?.get::<MatchedPath>()?;
    ///     Some(route.as_str().to_owned())
    /// });
    /// // As a route layer, which is inside of the routing and knows the route:
    /// let app: axum::Router = axum::Router::new()
    ///     .route("/users/{id}", axum::routing::get(async || "a user"))
    ///     .route_layer(TracerLayer::new(tracer).server());
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn http_route(
        mut self,
        find: impl Fn(&RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.http_route = Some(Box::new(find));
        self
    }

    /// The methods of HTTP that plain HTTP requests are named after, instead of those of
    /// [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#name-methods), PATCH and QUERY: any other
    /// one is `_OTHER`.
    ///
    /// ```
    /// use tower_tracer::{TracerLayer, otel};
    ///
    /// let webdav = ["GET", "PUT", "DELETE", "PROPFIND", "MKCOL", "COPY", "MOVE"];
    /// let layer = TracerLayer::new(otel::OtelTracer::new().http_methods(webdav));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn http_methods(mut self, known: impl IntoIterator<Item = &'static str>) -> Self {
        self.http_methods = known.into_iter().collect();
        self
    }

    /// Adds an event to the span for each message, as gRPC's
    /// [A72](https://github.com/grpc/proposal/blob/master/A72-open-telemetry-tracing.md) has them.
    /// A message that came or goes compressed has its compressed size alone: a layer does not see
    /// the other one.
    #[must_use]
    pub fn message_events(mut self) -> Self {
        self.message_events = true;
        self
    }

    /// Adds the [predefined events](crate::Event::PREDEFINED) of the RPC to its span. It raises the
    /// level to [`Level::Detailed`].
    #[must_use]
    pub fn rpc_events(mut self) -> Self {
        self.timeline = true;
        self
    }

    /// Counts the RPCs in flight: `rpc.{client,server}.active_calls`, and
    /// `http.{client,server}.active_requests`.
    #[must_use]
    pub fn in_flight(mut self) -> Self {
        self.in_flight = true;
        self
    }

    /// Adds gRPC's own metrics, `grpc.client.*` and `grpc.server.*`, of
    /// [A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md) and
    /// [A96](https://github.com/grpc/proposal/blob/master/A96-retry-otel-stats.md). Their target is
    /// the address of the callee that the layer was told, else that of the request's URI. A call that
    /// starts before its method is known, see [Methods](self#methods), starts as `other`.
    ///
    /// Sizes are in bytes (`By`), compressed and without prefixes. The size of the response is recorded
    /// with each duration, and is 0 if there was no message: also if a proxy answered with a page of
    /// its own, or nobody answered. The size of a request whose body the layer cannot count is
    /// unknown, and is not recorded.
    #[must_use]
    pub fn grpc_metrics(mut self, what: GrpcMetrics) -> Self {
        self.grpc_metrics = Some(what);
        self
    }

    /// The kind of an attempt's span under the span of its call: `INTERNAL` by default.
    ///
    /// The layer outside of a retry layer makes the `CLIENT` span of the call, the layer inside one
    /// span for each attempt. If those were `CLIENT` too, metrics and service graphs that a backend
    /// derives from spans would count a call once more for each attempt. Set [`SpanKind::Client`]
    /// for a backend that pairs each server's span with the `CLIENT` span directly above it. An
    /// attempt whose call has no span keeps the kind `CLIENT`.
    #[must_use]
    pub fn attempt_span_kind(mut self, kind: SpanKind) -> Self {
        self.attempt_span_kind = kind;
        self
    }

    /// Measures the durations of RPCs with bound instruments: a series is looked up once for each
    /// method and code, and not at each RPC by all of its attributes.
    ///
    /// They are an experiment of OpenTelemetry's, which the feature `otel-bound` turns on in its SDK
    /// too. **With a meter provider other than the SDK's, nothing is measured** unless it knows them.
    /// A series that is first seen when the SDK keeps no more stays in its overflow for good.
    #[cfg(feature = "otel-bound")]
    #[cfg_attr(docsrs, doc(cfg(feature = "otel-bound")))]
    #[must_use]
    pub fn bound_instruments(mut self) -> Self {
        self.bound = true;
        self
    }

    fn live(&self) -> &Live {
        self.live.get_or_init(|| {
            let (spans, meter) = (self.spans.clone(), self.meter.clone());
            Live::new(spans, meter, self.make_instruments())
        })
    }

    fn make_instruments(&self) -> impl Fn(&Meter, bool) -> Instruments {
        |meter, may_be_bound| {
            Instruments::new(
                meter,
                self.wording.conventions,
                self.in_flight,
                self.bound && may_be_bound,
                self.grpc_metrics,
            )
        }
    }

    fn make_series(&self) -> impl Fn(&'static str, Key<'_>) -> Series {
        |method, key| Series::new(&self.wording, method, key)
    }

    /// What a span starts in.
    fn parent(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> Parent {
        let current = Context::current();
        // An outer layer has read the headers of this request; between the two there may be a buffer or
        // a task, where its span is not current. So it may be where a server's request is passed on.
        let from = match (rpc.same_request_parent(), rpc.role()) {
            (None, Role::Client) => rpc.parent().filter(|parent| {
                let running = RpcInfo::current();
                running.is_none_or(|running| !running.ptr_eq(parent))
            }),
            (outer, _) => outer,
        };
        if let Some(context) = from.and_then(context_of) {
            let is_within = trace_of(&context) == trace_of(&current);
            return Parent {
                is_of_same_rpc: rpc.same_request_parent().is_some(),
                ..Parent::from(if is_within { current } else { context })
            };
        }
        if rpc.role() == Role::Client {
            return current.into();
        }
        let extracted = self.propagation.extract(&current, request.headers());
        if !self.public_endpoint {
            return extracted.into();
        }
        let caller = extracted.span().span_context().clone();
        let link = caller.is_valid().then(|| Link::with_context(caller));
        // The process's own values stay; a context cannot be rid of a span alone.
        let root = match current.has_active_span() {
            true => Context::new(),
            false => current,
        };
        Parent {
            link,
            ..Parent::from(root)
        }
    }

    /// Of two spans of one RPC on one side, the outer one alone is the RPC's for whoever counts them.
    fn span_kind(&self, role: Role, parent: &Parent) -> SpanKind {
        match (role, parent.is_of_same_rpc) {
            (Role::Client, false) => SpanKind::Client,
            (Role::Client, true) => self.attempt_span_kind.clone(),
            (Role::Server, false) => SpanKind::Server,
            (Role::Server, true) => SpanKind::Internal,
        }
    }

    fn start_rpc(
        &self,
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        system: System,
        forwarded: Option<&Forwarded>,
    ) -> Start {
        let key = key(rpc, request.uri(), system);
        let generated = || generated_name(rpc, request);
        let make = self.make_series();
        let series = self.methods.of(rpc, generated, key, &make);
        let mut attributes = Vec::with_capacity(series.at_start.len() + AT_END);
        attributes.extend_from_slice(&series.at_start);
        if series.is_other() {
            attributes.push(original(rpc));
        }
        if series.is_grpc()
            && let (Role::Client, Some(_)) = (rpc.role(), rpc.same_request_parent())
        {
            attributes.push(KeyValue::new(
                "previous-rpc-attempts",
                earlier_attempts(rpc),
            ));
        }
        if let Some(host) = forwarded.and_then(|forwarded| forwarded.host.as_ref())
            && !matches!(rpc.callee().address(), Some(Address::Named(_)))
        {
            attributes.extend(series::server(Target::Authority(host.as_str())));
        }
        Start {
            name: series.span_name.into(),
            attributes,
            what: What::Rpc(series),
        }
    }

    fn start_http(
        &self,
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        forwarded: Option<&Forwarded>,
    ) -> Start {
        let route = match rpc.role() {
            Role::Server => self.http_route.as_ref().and_then(|find| find(request)),
            Role::Client => None,
        };
        let (exchange, attributes) =
            HttpExchange::start(rpc, request, route, &self.http_methods, forwarded);
        Start {
            name: exchange.span_name.clone(),
            attributes,
            what: What::Http(Box::new(exchange)),
        }
    }
}

/// Room for the attributes that a span gets after its start.
const AT_END: usize = 6;

/// What a span starts in.
struct Parent {
    context: Context,
    /// Whether its span is that of an outer layer, which sees the same RPC.
    is_of_same_rpc: bool,
    /// To the caller's span.
    link: Option<Link>,
}

impl From<Context> for Parent {
    fn from(context: Context) -> Self {
        Self {
            context,
            is_of_same_rpc: false,
            link: None,
        }
    }
}

/// What a span starts with.
struct Start {
    name: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    what: What,
}

/// An RPC that runs, as the tracer keeps it.
#[derive(Debug)]
pub struct Running(Arc<span::Running>, Option<Counted>);

impl Tracer for OtelTracer {
    type State = Running;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Running {
        // The record's `start_time` is a moment earlier, and reads the monotonic clock as well.
        let started = SystemTime::now();
        let forwarded = (self.trust_forwarded && rpc.role() == Role::Server)
            .then(|| Forwarded::read(request.headers()));
        let mut start = match System::of(rpc.protocol()) {
            Some(system) => self.start_rpc(rpc, request, system, forwarded.as_ref()),
            None => self.start_http(rpc, request, forwarded.as_ref()),
        };
        if let Some(forwarded) = forwarded {
            let peer = || rpc.peer().socket().map(|peer| peer.ip());
            let client = forwarded.client.or_else(peer);
            let address = |client: IpAddr| KeyValue::new("client.address", client.to_string());
            start.attributes.extend(client.map(address));
        }
        for header in &self.request_metadata {
            let (headers, protocol) = (request.headers(), rpc.protocol());
            let values = header.of(headers, protocol, self.wording.conventions);
            start.attributes.extend(values);
        }
        let parent = self.parent(rpc, request);
        let builder = SpanBuilder {
            span_kind: Some(self.span_kind(rpc.role(), &parent)),
            start_time: Some(started),
            attributes: Some(start.attributes),
            links: parent.link.map(|link| vec![link]),
            ..SpanBuilder::from_name(start.name)
        };
        let live = self.live();
        let (context, records) = live.start_span(builder, &parent.context, started);
        let running = span::Running {
            context,
            records,
            started,
            what: start.what,
        };
        if let Some(span) = running.span()
            && let Some(peer) = rpc.peer().socket()
        {
            span.set_attributes(peer_attributes(peer));
        }
        if let (Role::Client, Some(headers)) = (rpc.role(), request.headers_mut()) {
            self.propagation.inject(&running.context, headers);
        }
        // Last: what panics before, such as a sampler, leaves nothing that is counted and never ends.
        let instruments = live.instruments_at_start(started, self.make_instruments());
        let counted = match &running.what {
            What::Rpc(series) => instruments.rpc_started(series, rpc.role()),
            What::Http(exchange) => instruments.http_started(rpc.role(), &exchange.in_flight),
        };
        Running(Arc::new(running), counted)
    }

    fn finish(&self, Running(running, _counted): Running, rpc: &RpcInfo) {
        let instruments = self.live().instruments();
        match &running.what {
            What::Rpc(series) => self.finish_rpc(&running, series, rpc),
            What::Http(exchange) => {
                let outcome = exchange.end(rpc);
                end_span(
                    &running,
                    rpc,
                    self.timeline,
                    outcome.failed,
                    &outcome.at_end,
                );
                instruments.http_finished(rpc, &outcome.measured);
            }
        }
    }

    /// A span that was started is exported: at least it ends here.
    fn discard(&self, Running(running, _counted): Running) {
        running.context.span().end();
    }

    fn level(&self) -> Level {
        match self.timeline {
            true => Level::Detailed,
            false => Level::Base,
        }
    }

    fn wants_events(&self) -> bool {
        self.message_events || !self.response_metadata.is_empty()
    }

    fn on_event(&self, Running(running, _): &mut Running, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        match event.kind {
            StreamEventKind::RequestMessage(message) if self.message_events => {
                running.message(rpc, event.at, message, true);
            }
            StreamEventKind::ResponseMessage(message) if self.message_events => {
                running.message(rpc, event.at, message, false);
            }
            StreamEventKind::ResponseHeaders(headers) => {
                if let Some(span) = running.span() {
                    let (protocol, conventions) = (rpc.protocol(), self.wording.conventions);
                    let allowed = self.response_metadata.iter();
                    let values = allowed.flat_map(|h| h.of(headers, protocol, conventions));
                    span.set_attributes(values);
                }
            }
            _ => {}
        }
    }

    fn scope(&self, Running(running, _): &Running, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        Some(Arc::clone(running) as Arc<dyn Scope>)
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Running> {
        if Context::is_current_telemetry_suppressed() {
            return None;
        }
        candidate.start(self)
    }
}

impl OtelTracer {
    fn finish_rpc(&self, running: &span::Running, started: &Arc<Series>, rpc: &RpcInfo) {
        let stats = rpc.stats();
        let decided;
        let series = if started.is_undecided() {
            decided = self.decide(rpc, started, is_answered(rpc));
            if let Some(span) = running.span() {
                if decided.is_known() {
                    span.update_name(decided.span_name);
                }
                span.set_attributes(decided.method_attributes(|| original(rpc)));
            }
            &decided
        } else {
            started
        };
        if let (Some(http), Some(span)) = (http_answer(rpc), running.span()) {
            let http = i64::from(http);
            span.set_attribute(KeyValue::new("http.response.status_code", http));
        }
        let without_code;
        let outcome = match stats.status().and_then(Status::code) {
            Some(code) => series.outcome(code),
            None => {
                let failed = stats.ending().filter(|_| stats.failed());
                without_code = series.outcome_without_code(failed);
                &without_code
            }
        };
        end_span(running, rpc, self.timeline, outcome.failed, &outcome.at_end);
        let instruments = self.live().instruments();
        instruments.rpc_finished(started, outcome, rpc);
    }

    fn decide(&self, rpc: &RpcInfo, started: &Series, answered: bool) -> Arc<Series> {
        let method = rpc.full_method();
        let make = self.make_series();
        self.methods.decide(method, answered, started.key(), &make)
    }
}

/// Ends the span with all that is known now.
fn end_span(
    running: &span::Running,
    rpc: &RpcInfo,
    timeline: bool,
    failed: bool,
    at_end: &[KeyValue],
) {
    let stats = rpc.stats();
    let end = running.time(stats.elapsed());
    let Some(span) = running.span() else {
        // Also what does not record ends, for those who wait for it.
        running.context.span().end_with_timestamp(end);
        return;
    };
    // The span is locked for each of these calls.
    match at_end {
        [only] => span.set_attribute(only.clone()),
        several => span.set_attributes(several.iter().cloned()),
    }
    let tags = rpc.tags();
    if !tags.is_empty() {
        let tag = |(key, value): (Cow<'static, str>, Cow<'static, str>)| KeyValue::new(key, value);
        span.set_attributes(tags.into_iter().map(tag));
    }
    if failed {
        let message = stats.error().or(stats.panic()).unwrap_or_default();
        span.set_status(trace::Status::error(message.to_owned()));
    }
    let events = match timeline {
        true => stats.events(),
        false => stats.user_events(),
    };
    for recorded in events {
        if recorded.event != Event::RPC_START && recorded.event != Event::RPC_FINISH {
            running.recorded(&span, recorded);
        }
    }
    span.end_with_timestamp(end);
}

/// Who emits.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// The context that a tracer of this kind made for an RPC that runs: for its own layer, or for one
/// further out.
fn context_of(rpc: &RpcInfo) -> Option<Context> {
    let context = |rpc: &RpcInfo| rpc.with_scope(|own: &span::Running| own.context.clone());
    iter::successors(Some(rpc), |rpc| rpc.same_request_parent())
        .find_map(context)
        .filter(is_local)
}

fn trace_of(context: &Context) -> TraceId {
    context.span().span_context().trace_id()
}

/// Whether a context has a span of this process.
fn is_local(context: &Context) -> bool {
    let span = context.span();
    let span = span.span_context();
    span.is_valid() && !span.is_remote()
}

fn peer_attributes(peer: SocketAddr) -> [KeyValue; 2] {
    [
        KeyValue::new("network.peer.address", peer.ip().to_string()),
        KeyValue::new("network.peer.port", i64::from(peer.port())),
    ]
}

/// How many attempts of its call were made before this one.
fn earlier_attempts(rpc: &RpcInfo) -> i64 {
    rpc.attempt().saturating_sub(1).into()
}

/// The method as the caller named it.
fn original(rpc: &RpcInfo) -> KeyValue {
    KeyValue::new("rpc.method_original", original_method(rpc).to_owned())
}

/// What tells the RPC's series from others of its method.
fn key<'a>(rpc: &'a RpcInfo, uri: Option<&'a ::http::Uri>, system: System) -> Key<'a> {
    let role = rpc.role();
    let address = match (rpc.callee().address(), role) {
        (Some(Address::Named(told)), _) => Some(Target::Told(told)),
        (_, Role::Client) => uri.and_then(::http::Uri::authority).map(|authority| {
            let authority = authority.as_str();
            // A user and a password are nobody's business.
            let host = authority.rsplit_once('@').map(|(_, host)| host);
            Target::Authority(host.unwrap_or(authority))
        }),
        // What the connection has is not what clients call.
        (_, Role::Server) => None,
    };
    Key {
        role,
        system,
        address,
    }
}

impl Default for OtelTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OtelTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtelTracer")
            .field("propagation", &self.propagation)
            .field("wording", &self.wording)
            .field("request_metadata", &self.request_metadata)
            .field("response_metadata", &self.response_metadata)
            .field("grpc_metrics", &self.grpc_metrics)
            .field("attempt_span_kind", &self.attempt_span_kind)
            .field("public_endpoint", &self.public_endpoint)
            .field("trust_forwarded", &self.trust_forwarded)
            .field("message_events", &self.message_events)
            .field("timeline", &self.timeline)
            .field("in_flight", &self.in_flight)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}
