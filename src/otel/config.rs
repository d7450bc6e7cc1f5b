//! The settings of an `OtelTracer`.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use opentelemetry::{
    metrics::{Meter, MeterProvider},
    propagation::TextMapPropagator,
    trace::{self, SpanKind, TracerProvider},
};

use super::{
    address::Authorities,
    conventions::{Conventions, GrpcMetrics},
    custom::Custom,
    headers::{AllowedHeader, Place},
    http::HttpSettings,
    live::Live,
    methods::Methods,
    propagation::Propagation,
    scope,
    series::{TargetFilter, Wording},
    span::Spans,
};
use crate::{RequestParts, methods::KnownMethods};

/// Emits OpenTelemetry's spans and metrics; made by [`OtelTracer::new`].
pub struct OtelTracer {
    /// Without and with the schema of the conventions, which may be chosen later.
    pub(super) spans: Option<[Arc<dyn Spans>; 2]>,
    pub(super) meter: Option<[Meter; 2]>,
    pub(super) propagation: Propagation,
    pub(super) wording: Wording,
    pub(super) methods: Methods,
    pub(super) request_headers: Vec<AllowedHeader>,
    pub(super) response_headers: Vec<AllowedHeader>,
    pub(super) response_trailers: Vec<AllowedHeader>,
    pub(super) http: HttpSettings,
    pub(super) http_body_sizes: bool,
    pub(super) authorities: Authorities,
    pub(super) custom: Custom,
    pub(super) left_out: Vec<&'static str>,
    pub(super) grpc_metrics: Option<GrpcMetrics>,
    pub(super) attempt_span_kind: SpanKind,
    pub(super) public_endpoint: Option<Box<PublicIf>>,
    pub(super) trust_forwarded: bool,
    pub(super) message_events: bool,
    pub(super) timeline: bool,
    pub(super) in_flight: bool,
    pub(super) bound: bool,
    pub(super) live: OnceLock<Live>,
}

type PublicIf = dyn Fn(&RequestParts<'_>) -> bool + Send + Sync;

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
                status_code: "rpc.status_code",
                grpc_targets: None,
            },
            methods: Methods::default(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            response_trailers: Vec::new(),
            http: HttpSettings::default(),
            http_body_sizes: false,
            authorities: Authorities::default(),
            custom: Custom::default(),
            left_out: Vec::new(),
            grpc_metrics: None,
            attempt_span_kind: SpanKind::Internal,
            public_endpoint: None,
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
        let spans = |c| Arc::new(provider.tracer_with_scope(scope(c))) as Arc<dyn Spans>;
        self.spans = Some([Conventions::Both, Conventions::New].map(spans));
        self
    }

    /// Makes metrics with this provider instead of the global one.
    #[must_use]
    pub fn meter_provider(mut self, provider: &dyn MeterProvider) -> Self {
        let meter = |c| provider.meter_with_scope(scope(c));
        self.meter = Some([Conventions::Both, Conventions::New].map(meter));
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
    pub fn public_endpoint(self) -> Self {
        self.public_endpoint_if(|_| true)
    }

    /// The same, decided for each request: for a server that the public and other services call.
    ///
    /// ```
    /// use tower_tracer::otel::OtelTracer;
    ///
    /// // The gateway adds this header to what it lets in.
    /// let tracer = OtelTracer::new()
    ///     .public_endpoint_if(|request| request.headers().contains_key("x-from-outside"));
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn public_endpoint_if(
        mut self,
        is_public: impl Fn(&RequestParts<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.public_endpoint = Some(Box::new(is_public));
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
    /// The address of a configured [callee](crate::TracerLayer::callee) still comes first.
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

    /// Names the attribute of the status code: `rpc.status_code`, or `rpc.response.status_code` for a
    /// backend that expects version 1.44 of the conventions or older.
    #[must_use]
    pub fn status_code_key(mut self, key: &'static str) -> Self {
        self.wording.status_code = key;
        self
    }

    /// Puts these headers of the request into its span, as `rpc.request.header.<header>`, or
    /// `http.request.header.<header>` for plain HTTP. No others are. Values marked as sensitive are
    /// left out, and 16 values of 1 KiB are kept. Binary metadata is in base64.
    ///
    /// # Panics
    ///
    /// If one of them cannot be the name of a header.
    #[must_use]
    pub fn request_headers<'a>(mut self, headers: impl IntoIterator<Item = &'a str>) -> Self {
        AllowedHeader::add(&mut self.request_headers, headers, Place::RequestHeader);
        self
    }

    /// The same for headers of the response, `rpc.response.header.<header>`. They are seen as
    /// [events](crate::Tracer::on_event), which take a lock for each message.
    ///
    /// # Panics
    ///
    /// If one of them cannot be the name of a header.
    #[must_use]
    pub fn response_headers<'a>(mut self, headers: impl IntoIterator<Item = &'a str>) -> Self {
        AllowedHeader::add(&mut self.response_headers, headers, Place::ResponseHeader);
        self
    }

    /// The same for the trailers of a gRPC response, `rpc.response.trailer.<trailer>`: of HTTP/2, not
    /// those in the body of gRPC-Web. A response that has an error in its headers has its trailers
    /// there.
    ///
    /// # Panics
    ///
    /// If one of them cannot be the name of a header.
    #[must_use]
    pub fn response_trailers<'a>(mut self, trailers: impl IntoIterator<Item = &'a str>) -> Self {
        AllowedHeader::add(
            &mut self.response_trailers,
            trailers,
            Place::ResponseTrailer,
        );
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
        self.http.route = Some(Box::new(find));
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
        self.http.methods = known.into_iter().collect();
        self
    }

    /// Finds the template of the URL that a plain HTTP client calls, `/users/{id}`: it becomes
    /// `url.template` and a part of the span's name, so there must be few of them.
    #[must_use]
    pub fn url_template(
        mut self,
        find: impl Fn(&RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.http.url_template = Some(Box::new(find));
        self
    }

    /// Adds the query to the spans of plain HTTP: `url.query` on a server, within `url.full` on a
    /// client. Of the seven parameters that the conventions name as credentials, such as
    /// `X-Amz-Signature`, the value is `REDACTED`; other secrets are not.
    #[must_use]
    pub fn url_query(mut self) -> Self {
        self.http.url_query = true;
        self
    }

    /// Measures the bodies of plain HTTP: `http.{client,server}.{request,response}.body.size`, in bytes
    /// as they passed the layer, compressed where they are.
    #[must_use]
    pub fn http_body_sizes(mut self) -> Self {
        self.http_body_sizes = true;
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
    /// level to [`Level::Detailed`](crate::Level::Detailed).
    #[must_use]
    pub fn rpc_events(mut self) -> Self {
        self.timeline = true;
        self
    }

    /// Counts the RPCs in flight: `tower_tracer.{client,server}.active_calls`, which the conventions do
    /// not have, and their `http.{client,server}.active_requests`.
    #[must_use]
    pub fn in_flight(mut self) -> Self {
        self.in_flight = true;
        self
    }

    /// Adds gRPC's own metrics, `grpc.client.*` and `grpc.server.*`, of
    /// [A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md) and
    /// [A96](https://github.com/grpc/proposal/blob/master/A96-retry-otel-stats.md). Their target is
    /// that of the [layer](crate::TracerLayer::target), else of the request's URI, in the form
    /// `dns:///host:port` that other implementations have. Retries, their delay and hedges are
    /// measured if the [attempts](GrpcMetrics::Attempts) have a layer of their own. A call that
    /// starts before its method is known, see [Methods](crate::otel#methods), starts as `other`.
    ///
    /// Sizes are in bytes (`By`), compressed and without prefixes. The size of the response is recorded
    /// with each duration, and is 0 if there was no message: also if a proxy answered with a page of
    /// its own, or there was no answer. The size of a request whose body the layer cannot count is
    /// unknown, and is not recorded.
    #[must_use]
    pub fn grpc_metrics(mut self, what: GrpcMetrics) -> Self {
        self.grpc_metrics = Some(what);
        self
    }

    /// Leaves metrics out, by their names.
    ///
    /// # Panics
    ///
    /// If there is no metric of this name.
    ///
    /// ```
    /// use tower_tracer::otel::{GrpcMetrics, OtelTracer};
    ///
    /// let tracer = OtelTracer::new()
    ///     .grpc_metrics(GrpcMetrics::CallsAndAttempts)
    ///     .without_metrics(["grpc.client.attempt.started", "grpc.server.call.started"]);
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn without_metrics(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        for name in names {
            assert!(
                super::metrics::NAMES.contains(&name),
                "{name:?} is not a metric of this tracer, which has {:?}",
                super::metrics::NAMES
            );
            self.left_out.push(name);
        }
        self
    }

    /// Chooses the targets that `grpc.target` names; others are `other`, as the draft of gRFC
    /// A109 proposes. The target is in its canonical form,
    /// such as `dns:///shop:50051`.
    #[must_use]
    pub fn grpc_targets(mut self, is_named: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.wording.grpc_targets = Some(TargetFilter(Arc::new(is_named)));
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
            .field("request_headers", &self.request_headers)
            .field("response_headers", &self.response_headers)
            .field("response_trailers", &self.response_trailers)
            .field("grpc_metrics", &self.grpc_metrics)
            .field("attempt_span_kind", &self.attempt_span_kind)
            .field("public_endpoint", &self.public_endpoint.is_some())
            .field("custom", &self.custom)
            .field("trust_forwarded", &self.trust_forwarded)
            .field("message_events", &self.message_events)
            .field("timeline", &self.timeline)
            .field("in_flight", &self.in_flight)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}
