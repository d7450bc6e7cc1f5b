//! Spans and access-log lines of the tracing tracer.

#![cfg(all(feature = "tracing", feature = "testing", feature = "transport"))]

mod common;

use std::{
    convert::Infallible,
    fmt::{Debug, Write as _},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use common::{
    connect,
    echo::{EchoRequest, say},
    serve, soon,
};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use opentelemetry::{
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanKind, Status as OtelStatus, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_tracer::{
    Code, OpenRpc, RpcInfo, Status, TracedRequest, TracedResponse, Tracer, TracerLayer,
    tracers::{
        testing::Recorder,
        tracing::{TracingTracer, level_of},
    },
};
use tracing::{
    Level,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    layer::{Context as LayerContext, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Writes down events as `a > b: text`, with the spans that were current, and closed spans.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Makes this thread log here.
    fn install(&self) -> DefaultGuard {
        tracing_subscriber::registry()
            .with(self.clone())
            .set_default()
    }
}

/// A span's `otel.name`, and all fields of an event.
#[derive(Default)]
struct Fields {
    name: String,
    text: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        assert!(
            !value.contains(|c: char| c.is_control() || c == '\u{202e}'),
            "unescaped, for a subscriber that writes it as it is: {value:?}"
        );
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "otel.name" => self.name = format!("{value:?}").trim_matches('"').to_owned(),
            "cost_ms" => {}
            "message" => write!(self.text, "{value:?}").unwrap(),
            name => write!(self.text, " {name}={value:?}").unwrap(),
        }
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Log {
    fn on_new_span(&self, span: &span::Attributes<'_>, id: &span::Id, cx: LayerContext<'_, S>) {
        let mut fields = Fields::default();
        span.record(&mut fields);
        if fields.name.is_empty() {
            fields.name = span.metadata().name().to_owned();
        }
        cx.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: LayerContext<'_, S>) {
        let target = event.metadata().target();
        // Other libraries of this process may log too.
        if !matches!(target, "tower_tracer::access" | "test") {
            return;
        }
        let mut path: Vec<String> = Vec::new();
        for span in cx.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                path.insert(0, fields.name.clone());
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = format!("{}: {}", path.join(" > "), fields.text);
        self.0.lock().unwrap().push(line);
    }
}

/// A body that tells when it is polled and dropped.
struct Telling(&'static str, bool);

impl Body for Telling {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        tracing::info!(target: "test", "{} polled", self.0);
        if std::mem::replace(&mut self.1, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        tracing::info!(target: "test", "{} dropped", self.0);
    }
}

fn grpc_request(path: &str) -> Request<tonic::body::Body> {
    let body = tonic::body::Body::new(Telling("request", false));
    Request::builder()
        .uri(path)
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn the_span_is_current_in_the_handler_and_in_both_bodies() {
    let log = Log::default();
    let _installed = log.install();
    let service = TracerLayer::new(TracingTracer::new().level_of(|_| None))
        .server()
        .layer(service_fn(async |request: Request<tonic::body::Body>| {
            tracing::info!(target: "test", "called");
            tokio::task::yield_now().await;
            tracing::info!(target: "test", "handled");
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Telling("response", false)))
        }));
    let response = service
        .clone()
        .oneshot(grpc_request("/a.B/C"))
        .await
        .unwrap();
    tracing::info!(target: "test", "outside");
    let _ = response.into_body().collect().await;
    // One more, that is dropped before its end.
    drop(service.oneshot(grpc_request("/a.B/D")).await.unwrap());

    assert_eq!(
        log.lines(),
        [
            "a.B/C: called",
            "a.B/C: handled",
            "a.B/C: request polled",
            "a.B/C: request polled",
            "a.B/C: request dropped",
            ": outside",
            "a.B/C: response polled",
            "a.B/C: response polled",
            // Its RPC was over with the end of the body.
            ": response dropped",
            "a.B/D: called",
            "a.B/D: handled",
            "a.B/D: request polled",
            "a.B/D: request polled",
            "a.B/D: request dropped",
            "a.B/D: response dropped",
        ]
    );
}

#[tokio::test]
async fn each_end_has_a_line_with_method_peer_status_ending_and_sizes() {
    let log = Log::default();
    let _installed = log.install();
    let ends = Recorder::new();
    let layer = TracerLayer::new((ends.clone(), TracingTracer::new()));
    let uri = serve(layer).await;
    let mut echo = connect(&uri, TracerLayer::new(())).await;
    echo.unary_echo(say("hello")).await.unwrap();
    let missing = EchoRequest {
        code: 5,
        ..say("line one\nline two")
    };
    echo.unary_echo(missing).await.unwrap_err();
    let ended = soon(ends.wait_finished(2)).await;
    let peers: Vec<_> = ended
        .iter()
        .map(|rpc| rpc.caller().socket().unwrap())
        .collect();

    let [first, second] = [peers[0], peers[1]];
    assert_eq!(
        log.lines(),
        [
            format!(
                "echo.Echo/UnaryEcho: rpc role=\"server\" method=\"echo.Echo/UnaryEcho\" \
                 peer=\"{first}\" status=\"OK\" ending=\"trailers\" request_messages=1 \
                 request_bytes=12 response_messages=1 response_bytes=12"
            ),
            format!(
                "echo.Echo/UnaryEcho: rpc role=\"server\" method=\"echo.Echo/UnaryEcho\" \
                 peer=\"{second}\" status=\"NOT_FOUND\" ending=\"headers_only\" request_messages=1 \
                 request_bytes=26 response_messages=0 response_bytes=0 \
                 error=\"line one\\\\nline two\""
            ),
        ]
    );
}

/// A request of any name.
struct Named(String);
struct Done(Status);

impl TracedRequest for Named {
    fn path(&self) -> &str {
        &self.0
    }
}

impl TracedResponse for Done {
    type Traced<T: Tracer> = Self;

    fn traced<T: Tracer>(self, open: OpenRpc<T>) -> Self {
        open.finish(self.0);
        self
    }
}

/// Everything written, for `tracing_subscriber::fmt`.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs one RPC with this outcome and returns what the usual subscriber prints.
async fn printed(path: &str, tracer: TracingTracer, outcome: Result<Status, String>) -> String {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .with_max_level(Level::TRACE)
        .finish()
        .with(Log::default());
    let installed = tracing::subscriber::set_default(subscriber);
    let mut outcome = Some(outcome);
    let mut service = TracerLayer::new(tracer)
        .server()
        .layer(service_fn(move |_: Named| {
            let outcome = outcome.take().unwrap().map(Done);
            async move { outcome }
        }));
    let ready = service.ready().await.unwrap();
    let _ = ready.call(Named(path.to_owned())).await;
    drop(installed);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_level_fits_the_outcome_and_not_found_is_no_error() {
    for (outcome, level) in [
        (Status::OK, " INFO"),
        (Status::Grpc(Code::NotFound), " INFO"),
        (Status::Grpc(Code::InvalidArgument), " INFO"),
        (Status::Grpc(Code::Cancelled), " INFO"),
        (Status::Grpc(Code::Unavailable), " WARN"),
        (Status::Grpc(Code::DeadlineExceeded), " WARN"),
        (Status::Grpc(Code::Internal), "ERROR"),
        (Status::Grpc(Code::Unknown), "ERROR"),
        (Status::Http(404), " INFO"),
        (Status::Http(500), "ERROR"),
    ] {
        let line = printed("/a.B/C", TracingTracer::new(), Ok(outcome)).await;
        assert!(line.starts_with(level), "{outcome}: {line}");
    }
}

#[tokio::test]
async fn the_level_can_be_chosen_and_none_is_no_line() {
    let debug = TracingTracer::new().level_of(|_| Some(Level::DEBUG));
    let line = printed("/a.B/C", debug, Ok(Status::OK)).await;
    assert!(line.starts_with("DEBUG"), "{line}");
    for (outcome, lines) in [(Status::OK, 0), (Status::Grpc(Code::Internal), 1)] {
        let failures =
            TracingTracer::new().level_of(|rpc| rpc.stats().failed().then(|| level_of(rpc)));
        let printed = printed("/a.B/C", failures, Ok(outcome)).await;
        assert_eq!(printed.lines().count(), lines, "{printed}");
    }
}

#[tokio::test]
async fn no_peer_writes_a_line_or_moves_the_cursor() {
    let long = format!("/{}", "é".repeat(30_000));
    for path in [
        "/a\n ERROR rpc: forged",
        "/a\r\x1b[2Jb",
        "/a\"b, c=d 🦀",
        "/\u{202e}gnp",
        &long,
    ] {
        let error = format!("{path}\x07\u{9b}31m");
        let printed = printed(path, TracingTracer::new(), Err(error)).await;
        let [line] = &*printed.lines().collect::<Vec<_>>() else {
            panic!("{printed:?}")
        };
        assert!(line.starts_with("ERROR rpc{"), "{line:?}");
        assert!(
            !line.contains(|c: char| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
        assert!(line.len() < 4096, "{}", line.len());
        assert!(line.contains(r#"otel.name="grpc""#), "{line:?}");
    }
    // `Fields` asserts within a hook, where the layer contains it.
    assert_eq!(tower_tracer::contained_panics(), 0);
}

#[tokio::test]
async fn a_client_in_a_handler_is_a_child_of_the_handlers_span() {
    let log = Log::default();
    let _installed = log.install();
    let quiet = || TracingTracer::new().level_of(|_| None);
    let client = TracerLayer::new(quiet())
        .client()
        .layer(service_fn(async |_: Named| {
            tracing::info!(target: "test", "called");
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    let server = TracerLayer::new(quiet())
        .server()
        .layer(service_fn(move |_: Named| {
            client.clone().oneshot(Named("/down.B/C".to_owned()))
        }));
    let _ = server.oneshot(Named("/up.B/C".to_owned())).await;
    assert_eq!(log.lines(), ["up.B/C > down.B/C: called"]);
}

#[tokio::test]
async fn an_attempt_made_in_another_task_is_a_child_of_its_call() {
    let log = Log::default();
    let _installed = log.install();
    let quiet = || TracingTracer::new().level_of(|_| None);
    let attempts = TracerLayer::new(quiet())
        .client()
        .layer(service_fn(async |_: Request<()>| {
            tracing::info!(target: "test", "attempted");
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }));
    let call = ServiceBuilder::new()
        .layer(TracerLayer::new(quiet()).client())
        .service(service_fn(move |request: Request<()>| {
            let attempt = attempts.clone().oneshot(request);
            async move {
                // Neither the record nor the span is current in a spawned task.
                let task = tokio::spawn(async {
                    assert!(RpcInfo::current().is_none());
                    attempt.await
                });
                task.await.unwrap()
            }
        }));
    let request = Request::builder().uri("/a.B/C").body(()).unwrap();
    let response = call.oneshot(request).await.unwrap();
    drop(response);
    assert_eq!(log.lines(), ["HTTP > HTTP: attempted"]);
}

struct Headers(HeaderMap);

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::try_from(key).unwrap();
        self.0.insert(name, value.try_into().unwrap());
    }
}

impl Extractor for Headers {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[tokio::test]
async fn tracing_opentelemetry_gets_name_kind_status_and_a_parent_across_the_wire() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let bridge = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let installed = tracing_subscriber::registry().with(bridge).set_default();

    let ends = Recorder::new();
    let server = TracingTracer::new().on_span(|span, _, request| {
        let headers = Headers(request.headers().clone());
        let context = TraceContextPropagator::new().extract(&headers);
        span.set_parent(context).unwrap();
    });
    let client = TracingTracer::new().on_span(|span, _, request| {
        let mut headers = Headers(HeaderMap::new());
        TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
        request.headers_mut().unwrap().extend(headers.0);
    });
    let uri = serve(TracerLayer::new((ends.clone(), server))).await;
    let mut echo = connect(&uri, TracerLayer::new(client)).await;
    // The bridge takes a text and an event of level ERROR for an error too; the second call, of
    // level WARN and without a text, has the tracer's word alone.
    for text in ["broken", ""] {
        let fails = EchoRequest {
            code: 14,
            ..say(text)
        };
        echo.unary_echo(fails).await.unwrap_err();
        soon(ends.wait_finished(1)).await;
        ends.clear();
        // The span closes when the last of its scopes is gone, which is a moment later.
        let spans = soon(async {
            loop {
                let spans = exporter.get_finished_spans().unwrap();
                let rpcs: Vec<_> = spans
                    .into_iter()
                    .filter(|span| span.name == "echo.Echo/UnaryEcho")
                    .collect();
                if rpcs.len() == 2 {
                    return rpcs;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let of_kind = |kind| spans.iter().find(|span| span.span_kind == kind).unwrap();
        let (client, server) = (of_kind(SpanKind::Client), of_kind(SpanKind::Server));
        assert_eq!(server.parent_span_id, client.span_context.span_id());
        assert_eq!(
            server.span_context.trace_id(),
            client.span_context.trace_id()
        );
        for span in &spans {
            assert_eq!(span.status, OtelStatus::error(text));
            for (key, value) in [
                ("rpc.method", "echo.Echo/UnaryEcho"),
                ("rpc.system.name", "grpc"),
                ("rpc.response.status_code", "UNAVAILABLE"),
                ("error.type", "UNAVAILABLE"),
            ] {
                let found = span.attributes.iter().find(|a| a.key.as_str() == key);
                assert_eq!(
                    found.map(|a| a.value.to_string()).as_deref(),
                    Some(value),
                    "{key}"
                );
            }
        }
        exporter.reset();
    }
    drop(installed);
}
