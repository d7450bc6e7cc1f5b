//! Spans and access-log lines of the tracing tracer.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    fmt::{Debug, Write as _},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use crate::support::custom::{Done, Named};
use crate::support::tcp::{
    connect,
    echo::{EchoRequest, say},
    serve, soon,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty};
use opentelemetry::{
    Value,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanKind, Status as OtelStatus, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_tracer::{
    Code, RpcInfo, Status, Tracer, TracerLayer,
    methods::KnownMethods,
    testing::RecordingTracer,
    tracing::{TracingTracer, level_of},
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

/// The fields of each span as `key=value`, in the order of their ends.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Attributes(BTreeMap<&'static str, String>);

impl Visit for Attributes {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, span: &span::Attributes<'_>, id: &span::Id, cx: LayerContext<'_, S>) {
        let mut attributes = Attributes::default();
        span.record(&mut attributes);
        cx.span(id).unwrap().extensions_mut().insert(attributes);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: LayerContext<'_, S>) {
        let span = cx.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Attributes>().unwrap());
    }

    fn on_close(&self, id: span::Id, cx: LayerContext<'_, S>) {
        let span = cx.span(&id).unwrap();
        if span.name() == "program" {
            self.0.lock().unwrap().push("program".into());
        }
        if span.metadata().target() != "tower_tracer::span" {
            return;
        }
        let extensions = span.extensions();
        let attributes = extensions.get::<Attributes>().unwrap().0.iter();
        let line: Vec<_> = attributes
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        self.0.lock().unwrap().push(line.join(" "));
    }
}

/// The spans of these requests, each with its response, in one layer.
async fn spans(
    layer: TracerLayer<TracingTracer>,
    exchanges: impl IntoIterator<Item = (Request<()>, Response<Empty<Bytes>>)>,
) -> Vec<String> {
    let spans = Spans::default();
    let installed = tracing_subscriber::registry()
        .with(spans.clone())
        .set_default();
    for (request, response) in exchanges {
        let mut response = Some(response);
        let service = layer.layer(service_fn(move |_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
        }));
        let response = service.oneshot(request).await.unwrap();
        let _ = response.into_body().collect().await;
    }
    drop(installed);
    spans.0.lock().unwrap().clone()
}

/// An RPC of this content type, answered with this status.
fn rpc(path: &str, content_type: &str, status: &str) -> (Request<()>, Response<Empty<Bytes>>) {
    let request = Request::post(path).header("content-type", content_type);
    let response = Response::builder()
        .header("content-type", content_type)
        .header("grpc-status", status);
    (
        request.body(()).unwrap(),
        response.body(Empty::new()).unwrap(),
    )
}

fn known() -> KnownMethods {
    KnownMethods::new(["a.B/C", "a.B/D", "up.B/C", "down.B/C"])
}

/// A span's `otel.name`, and all fields of an event.
#[derive(Default)]
struct Fields {
    name: String,
    text: String,
}

thread_local! {
    /// What a subscriber that writes a value as it is would not escape. Within a hook the layer would contain
    /// the panic of an assertion.
    static UNESCAPED: Cell<String> = const { Cell::new(String::new()) };
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if value.contains(forges) {
            UNESCAPED.set(UNESCAPED.take() + value);
        }
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "otel.name" => self.name = format!("{value:?}").trim_matches('"').to_owned(),
            "duration_ms" => {}
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

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: LayerContext<'_, S>) {
        let span = cx.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Fields>().unwrap());
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

/// What no text of a peer may bring into a line.
fn forges(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202e}' | '\u{feff}'
        )
}

/// A body that reports when it is polled and dropped.
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
    let tracer = TracingTracer::new().methods(known()).level_of(|_| None);
    let service = TracerLayer::new(tracer).server().layer(service_fn(
        async |request: Request<tonic::body::Body>| {
            tracing::info!(target: "test", "called");
            tokio::task::yield_now().await;
            tracing::info!(target: "test", "handled");
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Telling("response", false)))
        },
    ));
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
    let ends = RecordingTracer::new();
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
                ": rpc role=\"server\" method=\"echo.Echo/UnaryEcho\" \
                 peer=\"{first}\" status=\"OK\" ending=\"trailers\" request_messages=1 \
                 request_bytes=12 response_messages=1 response_bytes=12"
            ),
            format!(
                ": rpc role=\"server\" method=\"echo.Echo/UnaryEcho\" \
                 peer=\"{second}\" status=\"NOT_FOUND\" ending=\"headers_only\" request_messages=1 \
                 request_bytes=26 response_messages=0 response_bytes=0 \
                 error=\"line one\\\\nline two\""
            ),
        ]
    );
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
async fn the_level_fits_the_outcome_and_not_found_is_not_an_error() {
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
async fn the_level_can_be_chosen_and_none_prints_no_line() {
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
async fn a_peer_cannot_write_a_line_or_move_the_cursor() {
    let long = format!("/{}", "é".repeat(30_000));
    for path in [
        "/a\n ERROR rpc: forged",
        "/a\r\x1b[2Jb",
        "/a\"b, c=d 🦀",
        "/\u{202e}gnp",
        "/a\u{200e}b\u{200f}c\u{61c}d\u{feff}e",
        &long,
    ] {
        let error = format!("{path}\x07\u{9b}31m");
        let printed = printed(path, TracingTracer::new(), Err(error)).await;
        let [line] = &*printed.lines().collect::<Vec<_>>() else {
            panic!("{printed:?}")
        };
        assert!(
            line.starts_with("ERROR tower_tracer::access: rpc role="),
            "{line:?}"
        );
        assert!(!line.contains(forges), "{line:?}");
        assert!(line.len() < 4096, "{}", line.len());
    }
    assert_eq!(UNESCAPED.take(), "");
}

#[tokio::test]
async fn a_client_in_a_handler_is_a_child_of_the_handlers_span() {
    let log = Log::default();
    let _installed = log.install();
    let quiet = || TracingTracer::new().methods(known()).level_of(|_| None);
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
    assert_eq!(log.lines(), ["GET > GET: attempted"]);
}

#[tokio::test]
async fn a_span_says_what_the_conventions_for_rpc_say() {
    let tracer = || TracingTracer::new().methods(known()).level_of(|_| None);
    let server = spans(
        TracerLayer::new(tracer()).server(),
        [
            rpc("/a.B/C", "application/grpc", "0"),
            rpc("/a.B/C", "application/grpc-web+proto", "5"),
            rpc("/a.B/C", "application/grpc", "13"),
            rpc("/a.B/Guess", "application/grpc", "12"),
            rpc("/guess", "application/grpc", "12"),
        ],
    )
    .await;
    assert_eq!(
        server,
        [
            "otel.kind=server otel.name=a.B/C rpc.method=a.B/C rpc.status_code=OK \
             rpc.system.name=grpc",
            "otel.kind=server otel.name=a.B/C rpc.method=a.B/C rpc.status_code=NOT_FOUND \
             rpc.system.name=grpc",
            "error.type=INTERNAL otel.kind=server otel.name=a.B/C otel.status_code=ERROR \
             rpc.method=a.B/C rpc.status_code=INTERNAL rpc.system.name=grpc",
            "error.type=UNIMPLEMENTED otel.kind=server otel.name=grpc otel.status_code=ERROR \
             rpc.method=_OTHER rpc.method_original=a.B/Guess \
             rpc.status_code=UNIMPLEMENTED rpc.system.name=grpc",
            "error.type=UNIMPLEMENTED otel.kind=server otel.name=grpc otel.status_code=ERROR \
             rpc.method=_OTHER rpc.method_original=guess rpc.status_code=UNIMPLEMENTED \
             rpc.system.name=grpc",
        ]
    );
    // What generated code calls is known without a list.
    for path in ["/x.Y/Z", "/origin/x.Y/Z"] {
        let (mut generated, response) = rpc(path, "application/grpc", "5");
        let method = tonic::GrpcMethod::new("x.Y", "Z");
        generated.extensions_mut().insert(method);
        let client = TracerLayer::new(tracer()).client();
        assert_eq!(
            spans(client, [(generated, response)]).await,
            [
                "error.type=NOT_FOUND otel.kind=client otel.name=x.Y/Z otel.status_code=ERROR \
                 rpc.method=x.Y/Z rpc.status_code=NOT_FOUND rpc.system.name=grpc"
            ]
        );
    }
}

#[cfg(feature = "connect")]
#[tokio::test]
async fn connect_has_its_own_system_and_spelling() {
    let (mut request, mut response) = rpc("/a.B/C", "application/proto", "");
    let version = http::HeaderValue::from_static("1");
    request
        .headers_mut()
        .insert("connect-protocol-version", version);
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    let tracer = TracingTracer::new().methods(known()).level_of(|_| None);
    assert_eq!(
        spans(TracerLayer::new(tracer).server(), [(request, response)]).await,
        [
            "error.type=unimplemented otel.kind=server otel.name=a.B/C otel.status_code=ERROR \
             rpc.method=a.B/C rpc.status_code=unimplemented rpc.system.name=connectrpc"
        ]
    );
}

#[tokio::test]
async fn a_span_of_plain_http_says_what_the_conventions_for_http_say() {
    let exchange = |method: &str, status: u16| {
        let uri = "http://user:password@example.org/a.B/C?secret=1";
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let response = Response::builder().status(status);
        (request, response.body(Empty::new()).unwrap())
    };
    let exchanges = || [exchange("GET", 404), exchange("GUESS", 500)];
    let layer = || TracerLayer::new(TracingTracer::new().level_of(|_| None));
    assert_eq!(
        spans(layer().server(), exchanges()).await,
        [
            "http.request.method=GET http.response.status_code=404 otel.kind=server otel.name=GET \
             server.address=example.org url.path=/a.B/C url.scheme=http",
            "error.type=500 http.request.method=_OTHER http.request.method_original=GUESS \
             http.response.status_code=500 otel.kind=server otel.name=HTTP otel.status_code=ERROR \
             server.address=example.org url.path=/a.B/C url.scheme=http",
        ]
    );
    let route = TracingTracer::new()
        .level_of(|_| None)
        .on_span(|span, _, _| {
            span.record("http.route", "/{service}/{method}");
            span.record("otel.name", "GET /{service}/{method}");
        });
    assert_eq!(
        spans(TracerLayer::new(route).client(), [exchange("GET", 404)]).await,
        [
            "error.type=404 http.request.method=GET http.response.status_code=404 \
             http.route=/{service}/{method} otel.kind=client otel.name=GET /{service}/{method} \
             otel.status_code=ERROR server.address=example.org \
             url.full=http://example.org/a.B/C"
        ]
    );
}

#[tokio::test]
async fn a_method_without_a_list_is_known_once_answered_up_to_a_limit() {
    let layer = TracerLayer::new(TracingTracer::new().level_of(|_| None)).server();
    let names = |lines: Vec<String>| -> Vec<String> {
        let names = lines.iter().map(|line| {
            let fields = line.split(' ');
            let wanted = fields.filter(|f| f.starts_with("otel.name=") || f.contains("method"));
            let values = wanted.map(|field| field.rsplit('=').next().unwrap());
            values.collect::<Vec<_>>().join(" ")
        });
        names.collect()
    };
    let grpc = |path: &str, status: &str| rpc(path, "application/grpc", status);
    let first = [
        grpc("/a.B/C", "12"),
        grpc("/a.B/C", "0"),
        grpc("/a.B/C", "12"),
    ];
    assert_eq!(
        names(spans(layer.clone(), first).await),
        ["grpc _OTHER a.B/C", "a.B/C a.B/C", "a.B/C a.B/C"]
    );
    // A service that answers to any name.
    let any = (0..200).map(|n| grpc(&format!("/any.Any/M{n}"), "0"));
    let named = names(spans(layer, any).await);
    let known = named.iter().filter(|name| !name.contains("_OTHER"));
    assert_eq!(known.count(), 99);
}

#[tokio::test]
async fn the_peers_address_and_port_are_two_attributes() {
    let spans = Spans::default();
    let _installed = tracing_subscriber::registry()
        .with(spans.clone())
        .set_default();
    let ends = RecordingTracer::new();
    let tracer = TracingTracer::new().level_of(|_| None);
    let uri = serve(TracerLayer::new((ends.clone(), tracer))).await;
    let mut echo = connect(&uri, TracerLayer::new(())).await;
    echo.unary_echo(say("hello")).await.unwrap();
    let peer = soon(ends.wait_finished(1)).await[0]
        .caller()
        .socket()
        .unwrap();
    let line = soon(async {
        loop {
            if let Some(line) = spans.0.lock().unwrap().first() {
                return line.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let expected = format!(
        "network.peer.address=127.0.0.1 network.peer.port={} ",
        peer.port()
    );
    assert!(line.starts_with(&expected), "{line}");
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

    let ends = RecordingTracer::new();
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
    // The server learns the name from the answer to the first call.
    // The bridge takes a text and an event of level ERROR for an error too; the third call, of
    // level WARN and without a text, has the tracer's word alone.
    for (code, text) in [(0, "hello"), (14, "broken"), (14, "")] {
        let _ = echo.unary_echo(EchoRequest { code, ..say(text) }).await;
        soon(ends.wait_finished(1)).await;
        ends.clear();
        // The span closes when the last of its scopes is gone, which is a moment later.
        let spans = soon(async {
            loop {
                let spans = exporter.get_finished_spans().unwrap();
                let rpcs: Vec<_> = spans
                    .into_iter()
                    .filter(|span| matches!(&*span.name, "grpc" | "echo.Echo/UnaryEcho"))
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
        assert_eq!(client.name, "echo.Echo/UnaryEcho");
        // Also the first, whose method is only known at its end.
        assert_eq!(server.name, "echo.Echo/UnaryEcho");
        let port = server
            .attributes
            .iter()
            .find(|a| a.key.as_str() == "network.peer.port");
        assert!(port.is_some_and(|port| matches!(port.value, Value::I64(1..))));
        let (status, name, error) = match code {
            0 => (OtelStatus::Unset, "OK", None),
            _ => (OtelStatus::error(text), "UNAVAILABLE", Some("UNAVAILABLE")),
        };
        for span in &spans {
            assert_eq!(span.status, status);
            for (key, value) in [
                ("rpc.method", Some("echo.Echo/UnaryEcho")),
                ("rpc.system.name", Some("grpc")),
                ("rpc.status_code", Some(name)),
                ("error.type", error),
            ] {
                let found = span.attributes.iter().find(|a| a.key.as_str() == key);
                let found = found.map(|a| a.value.to_string());
                assert_eq!(found.as_deref(), value, "{key}");
            }
        }
        exporter.reset();
    }
    drop(installed);
}

/// A line that a tracer logs in `finish` is inside the RPC's span, in any order of the tracers
/// and however the RPC ends.
#[tokio::test]
async fn finish_runs_within_the_scopes_of_its_rpc() {
    type Handled = Result<Response<Telling>, Infallible>;
    async fn check(layer: TracerLayer<impl Tracer>) {
        let log = Log::default();
        let _installed = log.install();
        let service = layer.server().layer(service_fn(
            async |request: Request<tonic::body::Body>| -> Handled {
                if request.uri().path() == "/a.B/E" {
                    std::future::pending::<()>().await;
                }
                Ok(Response::new(Telling("response", false)))
            },
        ));
        let to = |path| service.clone().oneshot(grpc_request(path));
        // To its end, dropped inside the response, and dropped before it.
        let _ = to("/a.B/C").await.unwrap().into_body().collect().await;
        drop(to("/a.B/D").await.unwrap());
        let mut pending = Box::pin(to("/a.B/E"));
        assert!(futures_util::poll!(&mut pending).is_pending());
        drop(pending);
        let ended: Vec<_> = log.lines();
        let ended: Vec<_> = ended.iter().filter(|line| line.contains("ended")).collect();
        assert_eq!(ended, ["a.B/C: ended", "a.B/D: ended", "grpc: ended"]);
        tracing::info!(target: "test", "outside");
        assert_eq!(log.lines().last().unwrap(), ": outside");
    }
    let ended = || tower_tracer::on_finish(|_: &RpcInfo| tracing::info!(target: "test", "ended"));
    let spans = || TracingTracer::new().methods(known()).level_of(|_| None);
    check(TracerLayer::new((spans(), ended()))).await;
    check(TracerLayer::new((ended(), spans()))).await;
    check(TracerLayer::new((ended(), spans(), ()))).await;
}

/// One line of the usual subscriber, of one exchange within a span of the program's own.
async fn line_within(filter: &str, request: http::Request<String>, status: u16) -> String {
    let written = Written::default();
    let writer = written.clone();
    let _installed = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .set_default();
    let answer = service_fn(move |request: Request<String>| async move {
        if let Some(rpc) = request.extensions().get::<RpcInfo>() {
            rpc.set_tag("tenant", "blue\nforged");
        }
        let is_grpc = request.headers().contains_key("content-type") && status == 200;
        let response = Response::builder().status(status);
        let response = match is_grpc {
            true => response
                .header("content-type", "application/grpc")
                .header("grpc-status", "5"),
            false => response,
        };
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    });
    let service = TracerLayer::new(TracingTracer::new())
        .server()
        .layer(answer);
    let program = tracing::info_span!("program", id = 7);
    let _ = tracing::Instrument::instrument(service.oneshot(request), program).await;
    let bytes = written.0.lock().unwrap().clone();
    let printed = String::from_utf8(bytes).unwrap();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    printed.trim().to_owned()
}

/// As JSON, every current span is written: that of the RPC, which says the same, is not one of them.
#[tokio::test]
async fn a_line_of_json_says_each_thing_once_too() {
    let written = Written::default();
    let writer = written.clone();
    let _installed = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .set_default();
    let service = || {
        let answer = async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()));
        TracerLayer::new(TracingTracer::new()).layer(service_fn(answer))
    };
    service().oneshot(grpc_with(None)).await.unwrap();
    let program = tracing::info_span!("program", id = 7);
    let within = service().oneshot(grpc_with(None));
    tracing::Instrument::instrument(within, program)
        .await
        .unwrap();
    let printed = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    for line in &lines {
        assert_eq!(line.matches("echo.Echo/UnaryEcho").count(), 1, "{line}");
        assert!(!line.contains("otel.kind"), "{line}");
    }
    assert!(!lines[0].contains("\"spans\":[{"), "{}", lines[0]);
    assert!(lines[1].contains("program"), "{}", lines[1]);
}

fn grpc_with(header: Option<(&str, &str)>) -> http::Request<String> {
    let request = Request::post("/echo.Echo/UnaryEcho").header("content-type", "application/grpc");
    let request = match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    };
    request.body(String::new()).unwrap()
}

#[tokio::test]
async fn a_line_says_each_thing_once_and_belongs_to_the_programs_span() {
    for filter in ["info", "info,tower_tracer::span=off"] {
        let line = line_within(filter, grpc_with(None), 200).await;
        let (before, rest) = line.split_once("duration_ms=").unwrap();
        let (_, after) = rest.split_once(' ').unwrap();
        assert_eq!(
            format!("{before}{after}"),
            "INFO program{id=7}: tower_tracer::access: rpc role=\"server\" \
             method=\"echo.Echo/UnaryEcho\" status=\"NOT_FOUND\" ending=\"headers_only\" \
             response_messages=0 response_bytes=0 tags=\"tenant=blue\\\\nforged\"",
            "{filter}"
        );
    }
}

#[tokio::test]
async fn a_line_of_plain_http_has_the_method() {
    for method in ["GET", "DELETE"] {
        let request = Request::builder().method(method).uri("/users/7");
        let line = line_within("info", request.body(String::new()).unwrap(), 200).await;
        let expected = format!("http_method=\"{method}\" method=\"/users/7\" status=\"200\"");
        assert!(line.contains(&expected), "{line}");
    }
}

// Ending 46.
#[tokio::test]
async fn plain_http_in_answer_to_grpc_is_in_the_line_and_in_both_spans() {
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    for status in [401, 404, 413, 429, 503] {
        let line = line_within("info", grpc_with(None), status).await;
        let expected = format!("status=\"UNKNOWN\" http_status={status} ");
        assert!(line.contains(&expected), "{line}");

        let exporter = InMemorySpanExporter::default();
        let traces = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let otel = tower_tracer::otel::OtelTracer::new()
            .tracer_provider(&traces)
            .meter_provider(&SdkMeterProvider::builder().build());
        let spans = Spans::default();
        let _installed = tracing_subscriber::registry()
            .with(spans.clone())
            .set_default();
        let refuse = service_fn(move |_: Request<String>| async move {
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(String::new()).unwrap())
        });
        let layer = TracerLayer::new((otel, TracingTracer::new())).server();
        layer.layer(refuse).oneshot(grpc_with(None)).await.unwrap();
        let [of_tracing] = &spans.0.lock().unwrap()[..] else {
            panic!("one span")
        };
        let expected = format!("http.response.status_code={status}");
        assert!(of_tracing.contains(&expected), "{of_tracing}");
        let [of_otel] = &exporter.get_finished_spans().unwrap()[..] else {
            panic!("one span")
        };
        let attribute = |key| {
            let mut attributes = of_otel.attributes.iter();
            attributes
                .find(|a| a.key.as_str() == key)
                .map(|a| a.value.clone())
        };
        let found = attribute("http.response.status_code");
        assert_eq!(found, Some(Value::I64(status.into())));
        let found = attribute("rpc.status_code");
        assert_eq!(found, Some(Value::from("UNKNOWN")));
    }
    let line = line_within("info", grpc_with(None), 200).await;
    assert!(!line.contains("http_status"), "{line}");
}

#[tokio::test]
async fn a_line_has_the_id_of_its_trace() {
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("00-{id}-00f067aa0ba902b7-01");
    let line = line_within("info", grpc_with(Some(("traceparent", &header))), 200).await;
    assert!(line.contains(&format!("trace_id=\"{id}\"")), "{line}");
    let garbled = header.replace('4', "\u{78}");
    let line = line_within("info", grpc_with(Some(("traceparent", &garbled))), 200).await;
    assert!(!line.contains("trace_id"), "{line}");

    // The id of an OpenTelemetry span comes first, in any order of the tracers.
    let exporter = InMemorySpanExporter::default();
    let traces = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let otel = || {
        tower_tracer::otel::OtelTracer::new()
            .tracer_provider(&traces)
            .meter_provider(&SdkMeterProvider::builder().build())
    };
    let log = Log::default();
    let _installed = log.install();
    let ok = async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()));
    let first = TracerLayer::new((otel(), TracingTracer::new())).layer(service_fn(ok));
    first.oneshot(grpc_with(None)).await.unwrap();
    let second = TracerLayer::new((TracingTracer::new(), otel())).layer(service_fn(ok));
    second.oneshot(grpc_with(None)).await.unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.len(), 2);
    for (span, line) in spans.iter().zip(log.lines()) {
        let id = span.span_context.trace_id();
        assert!(line.contains(&format!("trace_id=\"{id}\"")), "{line}");
    }
}

#[tokio::test]
async fn a_disabled_span_calls_no_hook_and_has_no_scope() {
    let called = Arc::new(Mutex::new(0));
    let count = Arc::clone(&called);
    let tracer = || {
        let count = Arc::clone(&count);
        TracingTracer::new().on_span(move |_, _, _| *count.lock().unwrap() += 1)
    };
    for (filter, times) in [("warn", 0), ("info,tower_tracer::span=off", 0), ("info", 1)] {
        let _installed = tracing_subscriber::registry()
            .with(tracing_subscriber::EnvFilter::new(filter))
            .set_default();
        let ok = async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()));
        let service = TracerLayer::new(tracer()).layer(service_fn(ok));
        service.oneshot(grpc_with(None)).await.unwrap();
        assert_eq!(*called.lock().unwrap(), times, "{filter}");
    }
}

/// A job that keeps the request keeps neither the span of the RPC nor of its handler open.
#[tokio::test]
async fn a_span_closes_with_its_rpc_though_a_task_keeps_the_request() {
    let spans = Spans::default();
    let _installed = tracing_subscriber::registry()
        .with(spans.clone())
        .set_default();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let handler = service_fn(move |request: Request<tonic::body::Body>| {
        keep.lock().unwrap().push(request);
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let inner = TracerLayer::new(TracingTracer::new()).layer(handler);
    let service = TracerLayer::new(TracingTracer::new()).layer(inner);
    let program = tracing::info_span!("program");
    let call = service.oneshot(grpc_request("/echo.Echo/UnaryEcho"));
    let response = tracing::Instrument::instrument(call, program)
        .await
        .unwrap();
    // The response is whole, and kept too.
    assert_eq!(kept.lock().unwrap().len(), 1);
    assert_eq!(spans.0.lock().unwrap().len(), 3, "all are closed");
    drop(response);
}

/// The line of a call belongs to what the program has around its handler.
#[tokio::test]
async fn a_call_in_a_handler_logs_within_the_programs_span_too() {
    let log = Log::default();
    let _installed = log.install();
    let ok = async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()));
    let client = TracerLayer::new(TracingTracer::new())
        .client()
        .layer(service_fn(ok));
    let handler = service_fn(move |_: Request<String>| {
        let client = client.clone();
        async move { client.oneshot(grpc_with(None)).await }
    });
    let server = TracerLayer::new(TracingTracer::new())
        .server()
        .layer(handler);
    let program = tracing::info_span!("program");
    tracing::Instrument::instrument(server.oneshot(grpc_with(None)), program)
        .await
        .unwrap();
    let lines = log.lines();
    let starts: Vec<_> = lines
        .iter()
        .map(|line| line.split(" method").next().unwrap())
        .collect();
    assert_eq!(
        starts,
        [
            "program: rpc role=\"client\"",
            "program: rpc role=\"server\""
        ]
    );
}

/// What `tracing_subscriber::fmt` writes.
#[cfg(feature = "connection")]
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

#[cfg(feature = "connection")]
impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "connection")]
#[tokio::test]
async fn a_connection_logs_at_debug_and_its_failure_as_a_warning() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tower_tracer::connection::Acceptor;

    let text = Text::default();
    let writer = text.clone();
    let installed = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .with_max_level(Level::DEBUG)
        .set_default();
    let acceptor = Acceptor::new(TracingTracer::new());
    let between = |peer: &str, near| {
        let local = Some("10.0.0.1:50051".parse().unwrap());
        acceptor.accept_between(near, local, Some(peer.parse().unwrap()))
    };

    // One that is ready, says something and goes.
    let (near, mut far) = tokio::io::duplex(64);
    let mut io = between("10.0.0.2:1000", near);
    io.set_ready();
    far.write_all(b"hello").await.unwrap();
    drop(far);
    io.read_to_end(&mut Vec::new()).await.unwrap();
    let good = io.connection().number();
    drop(io);
    // One that never gets so far.
    let io = between("[::1]:2000", tokio::io::duplex(64).0);
    let bad = io.connection().number();
    drop(io);
    drop(installed);

    let text = String::from_utf8(text.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let starts = [
        "DEBUG tower_tracer::connection: connection ready number=",
        "DEBUG tower_tracer::connection: connection closed number=",
        "WARN tower_tracer::connection: connection failed number=",
    ];
    assert_eq!(lines.len(), starts.len(), "{text}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let common = [good, good, bad].map(|number| format!("number={number} role=\"server\" "));
    for (line, common) in lines.iter().zip(common) {
        assert!(line.contains(&common), "{line}");
    }
    assert!(lines[0].contains("peer=\"10.0.0.2:1000\""), "{text}");
    for part in ["end=\"peer_closed\"", "received_bytes=5", "rpcs_started=0"] {
        assert!(lines[1].contains(part), "{part} in {text}");
    }
    for part in ["peer=\"[::1]:2000\"", "end=\"handshake_failed\""] {
        assert!(lines[2].contains(part), "{part} in {text}");
    }
    assert!(!text.contains("attempt="), "a server has none: {text}");
}
