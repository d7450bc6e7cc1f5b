#![doc = include_str!("otel.md")]

mod address;
mod after_the_end;
mod attempts;
mod config;
#[cfg(feature = "connection")]
mod connections;
mod conventions;
mod custom;
mod end;
mod forwarded;
mod grpc_metrics;
mod headers;
mod http;
mod live;
mod measured;
mod meters;
mod methods;
mod metrics;
mod parent;
mod propagation;
mod series;
mod span;
mod start;

use std::{net::IpAddr, sync::Arc};

use ::http::HeaderMap;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    metrics::Meter,
    trace::{SpanBuilder, TraceContextExt as _},
};

#[cfg(feature = "connection")]
pub use self::connections::OpenConnection;
use self::{
    attempts::Attempts,
    forwarded::Forwarded,
    headers::AllowedHeader,
    live::Live,
    metrics::{Counted, Instruments},
    series::{Key, Series},
    span::{Attempt, What},
    start::peer_attributes,
};
pub use self::{
    config::OtelTracer,
    conventions::{Conventions, GrpcMetrics},
};
use crate::{
    Level, RequestParts, Role, RpcInfo, Tracer,
    semconv::System,
    time::system_time,
    tracer::{Candidate, Scope, StreamEvent, StreamEventKind},
};

/// An RPC that runs, as the tracer keeps it.
#[derive(Debug)]
pub struct Running(Arc<span::Running>, Option<Counted>, Option<Attempt>);

impl Tracer for OtelTracer {
    type State = Running;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Running {
        // The record's `start_time` is a moment earlier, and reads the monotonic clock as well.
        let started = system_time();
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
        for header in &self.request_headers {
            let (headers, protocol) = (request.headers(), rpc.protocol());
            let values = header.of(headers, protocol, self.wording.conventions);
            start.attributes.extend(values);
        }
        self.custom.at_start(rpc, request, &mut start.attributes);
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
            attempts: Attempts::default(),
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
            What::Rpc(series) => {
                let custom = self.grpc_metrics.and_then(|_| self.custom.grpc_label(rpc));
                instruments.rpc_started(series, rpc.role(), custom)
            }
            What::Http(exchange) => instruments.http_started(rpc.role(), &exchange.in_flight),
        };
        let attempt = match self.grpc_metrics {
            Some(GrpcMetrics::Attempts) => Attempt::start(rpc),
            _ => None,
        };
        Running(Arc::new(running), counted, attempt)
    }

    fn finish(&self, Running(running, _counted, _attempt): Running, rpc: &RpcInfo) {
        let instruments = self.live().instruments();
        match &running.what {
            What::Rpc(series) => self.finish_rpc(&running, series, rpc),
            What::Http(exchange) => {
                let outcome = exchange.end(rpc);
                self.end_span(&running, rpc, outcome.failed, &outcome.at_end);
                instruments.http_finished(rpc, outcome.measured, self.custom.of_metrics(rpc));
            }
        }
    }

    /// A span that was started is exported: at least it ends here.
    fn discard(&self, Running(running, _counted, _attempt): Running) {
        running.context.span().end();
    }

    fn level(&self) -> Level {
        match self.timeline {
            true => Level::Detailed,
            false => Level::Base,
        }
    }

    fn wants_events(&self) -> bool {
        self.message_events
            || !self.response_headers.is_empty()
            || !self.response_trailers.is_empty()
    }

    fn on_event(&self, Running(running, ..): &mut Running, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        match event.kind {
            StreamEventKind::RequestMessage(message) if self.message_events => {
                running.message(rpc, event.at, message, true);
            }
            StreamEventKind::ResponseMessage(message) if self.message_events => {
                running.message(rpc, event.at, message, false);
            }
            StreamEventKind::ResponseHeaders(headers) => {
                self.record_headers(running, rpc, &self.response_headers, headers);
                // If gRPC ends a response with its headers, they are its trailers too.
                if headers.contains_key("grpc-status") {
                    self.record_headers(running, rpc, &self.response_trailers, headers);
                }
            }
            StreamEventKind::Trailers(trailers) => {
                self.record_headers(running, rpc, &self.response_trailers, trailers);
            }
            _ => {}
        }
    }

    fn scope(&self, Running(running, ..): &Running, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
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
    fn record_headers(
        &self,
        running: &span::Running,
        rpc: &RpcInfo,
        allowed: &[AllowedHeader],
        headers: &HeaderMap,
    ) {
        if let Some(span) = running.span() {
            let (protocol, conventions) = (rpc.protocol(), self.wording.conventions);
            let values = allowed
                .iter()
                .flat_map(|header| header.of(headers, protocol, conventions));
            span.set_attributes(values);
        }
    }

    fn live(&self) -> &Live {
        self.live.get_or_init(|| {
            let conventions = self.wording.conventions;
            let with_schema = usize::from(conventions.schema_url().is_some());
            let spans = self.spans.as_ref().map(|s| Arc::clone(&s[with_schema]));
            let meter = self.meter.as_ref().map(|m| m[with_schema].clone());
            Live::new(scope(conventions), spans, meter, self.make_instruments())
        })
    }

    fn make_instruments(&self) -> impl Fn(&Meter, bool) -> Instruments {
        |meter, may_be_bound| Instruments::new(meter, self, may_be_bound)
    }

    fn make_series(&self) -> impl Fn(&'static str, Key<'_>) -> Series {
        |method, key| Series::new(&self.wording, method, key)
    }
}

/// Who emits, and by which version of the conventions.
fn scope(conventions: Conventions) -> InstrumentationScope {
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"));
    match conventions.schema_url() {
        Some(url) => scope.with_schema_url(url).build(),
        None => scope.build(),
    }
}
