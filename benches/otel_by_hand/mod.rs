//! The least that a layer of OpenTelemetry's can do which ends its span with the RPC, written by
//! hand for one method that succeeds: what the API and the SDK cost themselves. A span, its context
//! current around the call, its future and the response's body, and a duration, both with the
//! attributes that the conventions ask for. It keeps no record, counts nothing, and knows no
//! cancellation, no failure, no panic and no request's body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use opentelemetry::{
    Context as Telemetry, KeyValue, global,
    metrics::{BoundHistogram, Histogram, Meter},
    propagation::{Extractor, Injector},
    trace::{SpanBuilder, SpanKind, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::SdkTracer;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_tracer::Role;

/// Emits for all RPCs.
#[derive(Clone, Debug)]
pub struct ByHandLayer(Arc<Emitter>);

#[derive(Debug)]
struct Emitter {
    role: Role,
    tracer: SdkTracer,
    duration: Duration,
    at_start: Vec<KeyValue>,
    measured: Vec<KeyValue>,
}

#[derive(Debug)]
enum Duration {
    Default(Histogram<f64>),
    Bound(BoundHistogram<f64>),
}

impl ByHandLayer {
    pub fn new(role: Role, tracer: SdkTracer, meter: &Meter, bound: bool) -> Self {
        let status = KeyValue::new("rpc.status_code", "OK");
        let method = KeyValue::new("rpc.method", "echo.Echo/UnaryEcho");
        let system = KeyValue::new("rpc.system.name", "grpc");
        let measured = vec![method.clone(), status, system.clone()];
        let histogram = meter.f64_histogram("rpc.call.duration").build();
        Self(Arc::new(Emitter {
            role,
            tracer,
            duration: match bound {
                true => Duration::Bound(histogram.bind(&measured)),
                false => Duration::Default(histogram),
            },
            at_start: vec![system, method],
            measured,
        }))
    }
}

impl Emitter {
    fn start(&self, request: &mut Request<Body>) -> Telemetry {
        let parent = match self.role {
            Role::Client => Telemetry::current(),
            Role::Server => global::get_text_map_propagator(|propagator| {
                propagator.extract(&Extracted(request.headers()))
            }),
        };
        let mut builder = SpanBuilder::from_name("echo.Echo/UnaryEcho")
            .with_kind(match self.role {
                Role::Client => SpanKind::Client,
                Role::Server => SpanKind::Server,
            })
            .with_start_time(SystemTime::now());
        // With room for the one that comes at the end.
        let mut attributes = Vec::with_capacity(3);
        attributes.extend_from_slice(&self.at_start);
        builder.attributes = Some(attributes);
        let context = parent.with_span(self.tracer.build_with_context(builder, &parent));
        if self.role == Role::Client {
            global::get_text_map_propagator(|propagator| {
                propagator.inject_context(&context, &mut Injected(request.headers_mut()));
            });
        }
        context
    }

    fn end(&self, context: &Telemetry, start: Instant) {
        let span = context.span();
        span.set_attribute(KeyValue::new("rpc.status_code", "OK"));
        span.end();
        let seconds = start.elapsed().as_secs_f64();
        match &self.duration {
            Duration::Default(histogram) => histogram.record(seconds, &self.measured),
            Duration::Bound(histogram) => histogram.record(seconds),
        }
    }
}

struct Extracted<'a>(&'a HeaderMap);

impl Extractor for Extracted<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Injected<'a>(&'a mut HeaderMap);

impl Injector for Injected<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(key.as_bytes()),
            HeaderValue::try_from(value),
        ) {
            self.0.insert(name, value);
        }
    }
}

impl<S> Layer<S> for ByHandLayer {
    type Service = ByHand<S>;

    fn layer(&self, inner: S) -> ByHand<S> {
        ByHand {
            inner,
            emitter: Arc::clone(&self.0),
        }
    }
}

#[derive(Clone, Debug)]
pub struct ByHand<S> {
    inner: S,
    emitter: Arc<Emitter>,
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let start = Instant::now();
        let context = self.emitter.start(&mut request);
        let current = context.clone().attach();
        let inner = self.inner.call(request);
        drop(current);
        ResponseFuture {
            inner,
            rpc: Some(Rpc {
                emitter: Arc::clone(&self.emitter),
                context,
                start,
            }),
        }
    }
}

struct Rpc {
    emitter: Arc<Emitter>,
    context: Telemetry,
    start: Instant,
}

pin_project! {
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        rpc: Option<Rpc>,
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<ResponseBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let current = this.rpc.as_ref().map(|rpc| rpc.context.clone().attach());
        let polled = this.inner.poll(cx);
        drop(current);
        let response = ready!(polled)?;
        let rpc = this.rpc.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, rpc })))
    }
}

pub struct ResponseBody {
    inner: Body,
    rpc: Option<Rpc>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let current = self.rpc.as_ref().map(|rpc| rpc.context.clone().attach());
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        drop(current);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && frame.is_trailers()
            && let Some(rpc) = self.rpc.take()
        {
            rpc.emitter.end(&rpc.context, rpc.start);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
