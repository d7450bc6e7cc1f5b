//! What reaches OpenTelemetry: every attribute and no other, on both sides of real calls.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};

use crate::support::tcp::{
    echo::{Echo, EchoClient, EchoRequest, EchoResponse, EchoServer, EchoService, listen, say},
    soon,
};
use crate::support::telemetry::{Telemetry, attributes, duration};
use opentelemetry::{
    Context, KeyValue,
    baggage::BaggageExt as _,
    trace::{
        FutureExt as _, Link, SpanContext, SpanId, SpanKind, Status as SpanStatus,
        TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData},
};
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::TcpConnectInfo},
};
use tower::{Service, ServiceBuilder, ServiceExt as _, util::MapRequestLayer};
use tower_tracer::{
    Event, Level, Role, RpcInfo, TracerLayer,
    methods::KnownMethods,
    otel::{self, Conventions, GrpcMetrics, OtelTracer},
    service::{ResponseBody, TracerService},
    testing::RecordingTracer,
};

/// The recorder comes first, so it finishes last: an RPC that it has seen finish has its span.
type Both = (RecordingTracer, OtelTracer);
type Client = EchoClient<TracerService<Channel, Both>>;

const CALLEE: &str = "echo.example:50051";

const METHODS: [&str; 4] = [
    "echo.Echo/UnaryEcho",
    "echo.Echo/ServerStreamingEcho",
    "echo.Echo/ClientStreamingEcho",
    "echo.Echo/BidirectionalStreamingEcho",
];

fn methods() -> KnownMethods {
    KnownMethods::new(METHODS)
}

async fn serve<E: Echo>(service: E, tracer: OtelTracer) -> (String, RecordingTracer) {
    let seen = RecordingTracer::new();
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .layer(TracerLayer::new((seen.clone(), tracer)).server())
        .add_service(EchoServer::new(service))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (uri, seen)
}

async fn connect(uri: &str, tracer: OtelTracer) -> (Client, RecordingTracer) {
    let seen = RecordingTracer::new();
    let layer = TracerLayer::new((seen.clone(), tracer))
        .callee(tower_tracer::rpc::Endpoint::default().address(CALLEE));
    let endpoint = Endpoint::from_shared(uri.to_owned()).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let client = EchoClient::new(ServiceBuilder::new().layer(layer).service(channel));
    (client, seen)
}

/// One call of each kind of method, to its end; the code it ended with.
async fn call(client: &mut Client, kind: usize, request: EchoRequest) -> Code {
    call_within(client, kind, request, None).await
}

async fn call_within(
    client: &mut Client,
    kind: usize,
    request: EchoRequest,
    timeout: Option<Duration>,
) -> Code {
    let streaming = |response: Response<Streaming<EchoResponse>>| async {
        let mut messages = response.into_inner();
        while let Some(message) = messages.next().await {
            message?;
        }
        Ok(())
    };
    let mut requests = Request::new(tokio_stream::iter([request.clone()]));
    let mut request = Request::new(request);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
        requests.set_timeout(timeout);
    }
    let result = match kind {
        0 => client.unary_echo(request).await.map(drop),
        1 => match client.server_streaming_echo(request).await {
            Ok(response) => streaming(response).await,
            Err(status) => Err(status),
        },
        2 => client.client_streaming_echo(requests).await.map(drop),
        _ => match client.bidirectional_streaming_echo(requests).await {
            Ok(response) => streaming(response).await,
            Err(status) => Err(status),
        },
    };
    result.err().map_or(Code::Ok, |status| status.code())
}

/// The last span, and its attributes.
fn last(telemetry: &Telemetry) -> SpanData {
    telemetry.spans().pop().expect("a span")
}

fn name_of(code: Code) -> &'static str {
    tower_tracer::Code::from(code).as_str()
}

/// The peer's port and the server's differ from run to run.
fn without_ports(mut attributes: Vec<String>) -> Vec<String> {
    for attribute in &mut attributes {
        for name in ["network.peer.port", "server.port"] {
            let differs = attribute.starts_with(&format!("{name}="));
            // That of the target that a client is configured with.
            if differs && attribute != "server.port=50051" {
                *attribute = format!("{name}=…");
            }
        }
    }
    attributes
}

/// Asserts on the last span and its duration: each attribute, and no other.
fn assert_reported(
    role: Role,
    telemetry: &Telemetry,
    method: &str,
    code: &str,
    failed: bool,
) -> SpanData {
    let mut common = vec![
        format!("rpc.method={method}"),
        format!("rpc.status_code={code}"),
        "rpc.system.name=grpc".to_owned(),
    ];
    if failed {
        common.push(format!("error.type={code}"));
    }
    if role == Role::Client {
        common.push("server.address=echo.example".to_owned());
        common.push("server.port=50051".to_owned());
    }
    common.sort();
    let mut of_span = common.clone();
    if role == Role::Server {
        of_span.push("network.peer.address=127.0.0.1".to_owned());
        of_span.push("network.peer.port=…".to_owned());
        // As the caller named it.
        of_span.push("server.address=127.0.0.1".to_owned());
        of_span.push("server.port=…".to_owned());
        of_span.sort();
    }
    let span = last(telemetry);
    let (kind, metric) = match role {
        Role::Client => (SpanKind::Client, "rpc.client.call.duration"),
        Role::Server => (SpanKind::Server, "rpc.server.call.duration"),
    };
    assert_eq!((&*span.name, &span.span_kind), (method, &kind));
    assert_eq!(
        without_ports(attributes(&span.attributes)),
        of_span,
        "{role} {method} {code}"
    );
    let is_error = matches!(span.status, SpanStatus::Error { .. });
    assert_eq!(is_error, failed, "{role} {method} {code}");
    assert!(span.events.is_empty() && span.links.is_empty());

    let points = telemetry.histogram(metric);
    let same: Vec<_> = points
        .iter()
        .filter(|point| without_ports(point.attributes.clone()) == common)
        .collect();
    assert_eq!(same.len(), 1, "{role} {method} {code}: {points:#?}");
    assert_eq!(same[0].count, 1);
    let seconds = duration(&span).as_secs_f64();
    assert_eq!(same[0].sum, seconds, "the same as the span's");
    span
}

#[tokio::test]
async fn spans_and_durations_have_each_attribute_and_no_other_for_all_codes_and_kinds() {
    let (client_side, server_side) = (Telemetry::new(), Telemetry::new());
    let listed = server_side.tracer().methods(methods());
    let (uri, served) = serve(EchoService, listed).await;
    let (mut client, called) = connect(&uri, client_side.tracer()).await;
    let server_failures = [
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
    ];

    let mut calls = 0;
    for (kind, method) in METHODS.into_iter().enumerate() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            let request = EchoRequest {
                code: number.try_into().unwrap(),
                ..say("as asked")
            };
            assert_eq!(call(&mut client, kind, request).await, code);
            calls += 1;
            soon(called.wait_finished(calls)).await;
            soon(served.wait_finished(calls)).await;

            let name = name_of(code);
            for (role, telemetry) in [(Role::Client, &client_side), (Role::Server, &server_side)] {
                let failed = match role {
                    Role::Client => code != Code::Ok,
                    Role::Server => server_failures.contains(&code),
                };
                let span = assert_reported(role, telemetry, method, name, failed);
                let expected = match (failed, kind) {
                    (false, _) => SpanStatus::Unset,
                    // Echo's server stream ends with a status that has no message.
                    (true, 1) => SpanStatus::error(""),
                    (true, _) => SpanStatus::error("as asked"),
                };
                assert_eq!(span.status, expected, "{role} {method} {name}");
            }
        }
    }
    for (telemetry, metric) in [
        (&client_side, "rpc.client.call.duration"),
        (&server_side, "rpc.server.call.duration"),
    ] {
        assert_eq!(telemetry.histogram(metric).len(), 17 * 4);
        assert_eq!(telemetry.metrics(), [metric], "and nothing else");
        assert_eq!(telemetry.unit(metric), "s");
        let bounds = &telemetry.histogram(metric)[0].bounds;
        let expected = [
            0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ];
        assert_eq!(*bounds, expected);
    }
}

#[tokio::test]
async fn a_cancelled_call_a_passed_deadline_and_a_panic_differ_for_all_kinds() {
    let cases = ["cancelled", "deadline", "panic"];
    let cases = cases
        .into_iter()
        .flat_map(|case| (0..METHODS.len()).map(move |kind| (case, kind)));
    futures_util::future::join_all(cases.map(|(case, kind)| end_early(case, kind))).await;
}

async fn end_early(case: &'static str, kind: usize) {
    let method = METHODS[kind];
    let (client_side, server_side) = (Telemetry::new(), Telemetry::new());
    let (served, entered) = (RecordingTracer::new(), Arc::new(Notify::new()));
    let tracer = server_side.tracer().methods(methods());
    let mut layer = TracerLayer::new((served.clone(), tracer)).server();
    if case == "deadline" {
        // Over long before the client's, which ends the call: tonic enforces neither this one nor,
        // once there are headers, the client's.
        layer = layer.server_timeout(Duration::from_millis(1));
    }
    let handler_has_it = Arc::clone(&entered);
    let enter = MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
        handler_has_it.notify_one();
        request
    });
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .layer(layer)
        .layer(enter)
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let (client, called) = connect(&uri, client_side.tracer()).await;

    let timeout = (case == "deadline").then(|| Duration::from_secs(1));
    let message = EchoRequest {
        panic: case == "panic",
        delay_ms: if case == "panic" { 0 } else { 60_000 },
        ..say(case)
    };
    let mut calling = tokio::spawn(async move {
        let mut client = client;
        call_within(&mut client, kind, message, timeout).await
    });
    soon(entered.notified()).await;
    let answered = match case {
        "cancelled" => None,
        "deadline" => {
            let deadline = called.started()[0].deadline().unwrap();
            let answered = tokio::time::timeout_at(deadline.into(), &mut calling);
            answered.await.ok().map(Result::unwrap)
        }
        _ => Some(soon(&mut calling).await.unwrap()),
    };
    calling.abort();
    soon(called.wait_finished(1)).await;
    soon(served.wait_finished(1)).await;
    server.abort();

    let (of_client, of_server, server_failed) = match case {
        "cancelled" => ("CANCELLED", "CANCELLED", false),
        "deadline" => ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", true),
        // The caller's status is tonic's.
        _ => (name_of(answered.unwrap()), "UNKNOWN", true),
    };
    assert_ne!(of_client, "OK");
    assert_reported(Role::Client, &client_side, method, of_client, true);
    let span = assert_reported(Role::Server, &server_side, method, of_server, server_failed);
    if case == "panic" {
        assert_eq!(span.status, SpanStatus::error("asked to panic"));
    }
}

/// Answers by calling another Echo server.
struct Forward(Client);

type NoResponses = tokio_stream::Empty<Result<EchoResponse, Status>>;

#[tonic::async_trait]
impl Echo for Forward {
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        let rpc = request.extensions().get::<RpcInfo>().unwrap().clone();
        let span = Context::current().span().span_context().clone();
        rpc.set_tag("seen.span", span.span_id().to_string());
        let baggage = Context::current().baggage().get("tenant").cloned();
        rpc.set_tag(
            "seen.tenant",
            baggage.map_or(String::new(), |v| v.to_string()),
        );
        self.0.clone().unary_echo(request.into_inner()).await
    }

    type ServerStreamingEchoStream = NoResponses;

    async fn server_streaming_echo(
        &self,
        _: Request<EchoRequest>,
    ) -> Result<Response<NoResponses>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type BidirectionalStreamingEchoStream = NoResponses;

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<NoResponses>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tokio::test]
async fn a_call_through_two_servers_is_one_trace_each_span_the_child_of_the_one_before() {
    let telemetry = Telemetry::new();
    let (downstream, second) = serve(EchoService, telemetry.tracer()).await;
    let (onward, _) = connect(&downstream, telemetry.tracer()).await;
    let (uri, first) = serve(Forward(onward), telemetry.tracer()).await;
    let (mut client, _) = connect(&uri, telemetry.tracer()).await;

    let root = telemetry.tracer_provider.tracer("test").start("root");
    let context = Context::new()
        .with_span(root)
        .with_baggage([KeyValue::new("tenant", "blue")]);
    let root = context.span().span_context().clone();
    let called = client.unary_echo(say("hello")).with_context(context).await;
    assert_eq!(called.unwrap().into_inner().message, "hello");
    soon(first.wait_finished(1)).await;
    soon(second.wait_finished(1)).await;

    let spans = telemetry.spans();
    let child_of = |parent: SpanId| {
        let mut children = spans.iter().filter(|span| span.parent_span_id == parent);
        let child = children.next().expect("a child").clone();
        assert!(children.next().is_none(), "one child each");
        child
    };
    let mut parent = root.span_id();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let span = child_of(parent);
        assert_eq!(span.span_context.trace_id(), root.trace_id());
        assert_eq!(
            span.parent_span_is_remote,
            span.span_kind == SpanKind::Server
        );
        parent = span.span_context.span_id();
        if kinds.len() == 1 {
            let found = attributes(&span.attributes);
            let seen = format!("seen.span={parent}");
            assert!(found.contains(&seen), "current in the handler: {found:?}");
            assert!(found.contains(&"seen.tenant=blue".to_owned()));
        }
        kinds.push(span.span_kind);
    }
    let (client, server) = (SpanKind::Client, SpanKind::Server);
    assert_eq!(kinds, [client.clone(), server.clone(), client, server]);
    assert!(
        !Context::current().has_active_span(),
        "nothing is left on the thread"
    );
}

/// A body of one message that notes which span is current when it is polled, and when it is dropped.
struct Watching {
    message: Option<&'static str>,
    /// Whether it says at its message that this is the end.
    says_end: bool,
    seen: Arc<Mutex<Vec<SpanId>>>,
}

impl http_body::Body for Watching {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let span = Context::current().span().span_context().span_id();
        self.seen.lock().unwrap().push(span);
        let message = self
            .message
            .take()
            .map(|text| bytes::Bytes::from_static(text.as_bytes()));
        Poll::Ready(message.map(|message| Ok(http_body::Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.says_end && self.message.is_none()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let span = Context::current().span().span_context().span_id();
        self.seen.lock().unwrap().push(span);
    }
}

#[tokio::test]
async fn the_span_is_current_in_the_polls_of_a_users_bodies_and_in_the_drops_of_both() {
    use http_body_util::BodyExt as _;

    for (elsewhere, says_end) in [(false, false), (false, true), (true, false), (true, true)] {
        let telemetry = Telemetry::new();
        let watching = move |message, seen: &Arc<_>| Watching {
            message: Some(message),
            says_end,
            seen: Arc::clone(seen),
        };
        let [asked, answered] = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
        let response = Arc::clone(&answered);
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(telemetry.tracer()).server())
            .service_fn(move |request: http::Request<tonic::body::Body>| {
                let response = watching("response", &response);
                async move {
                    let read = request.into_body().collect();
                    if elsewhere {
                        tokio::spawn(read).await.unwrap().unwrap();
                    } else {
                        read.await.unwrap();
                    }
                    Ok::<_, std::convert::Infallible>(http::Response::new(response))
                }
            });
        let body = tonic::body::Body::new(watching("request", &asked));
        let request = request("/a.B/C", &[]).map(|_| body);
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();

        let span = last(&telemetry).span_context.span_id();
        // A task that reads the request has no span of its own, but the drop has one.
        let read = if elsewhere { SpanId::INVALID } else { span };
        let expected = [read, read, span];
        assert_eq!(*asked.lock().unwrap(), expected, "elsewhere: {elsewhere}");
        assert_eq!(*answered.lock().unwrap(), [span; 3]);
        assert!(!Context::current().has_active_span());
    }
}

/// An in-process service that says what it was sent, under a layer.
fn in_process<T: tower_tracer::Tracer>(
    layer: TracerLayer<T>,
) -> impl Service<
    http::Request<String>,
    Response = http::Response<ResponseBody<String, T>>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    ServiceBuilder::new()
        .layer(layer)
        .service_fn(|request: http::Request<String>| async move {
            let code = request.body().parse().unwrap_or(0_i32);
            let mut response = http::Response::new(String::new());
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", code.into());
            for name in ["traceparent", "tracestate", "baggage"] {
                for value in request.headers().get_all(name) {
                    headers.append(name, value.clone());
                }
            }
            Ok::<_, std::convert::Infallible>(response)
        })
}

fn request(path: &str, headers: &[(&str, &str)]) -> http::Request<String> {
    let mut request = http::Request::new(String::new());
    *request.uri_mut() = path.parse().unwrap();
    *request.method_mut() = http::Method::POST;
    let all = request.headers_mut();
    all.insert("content-type", "application/grpc".parse().unwrap());
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        all.append(
            name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    request
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn an_invalid_traceparent_is_ignored_and_the_request_is_served() {
    let telemetry = Telemetry::new();
    let service = in_process(TracerLayer::new(telemetry.tracer()).server());
    let good = format!("00-{TRACE}-{SPAN}-01");
    let continued = |headers: Vec<(&'static str, String)>| {
        let (service, telemetry) = (service.clone(), &telemetry);
        async move {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let answered = service
                .oneshot(request("/echo.Echo/UnaryEcho", &headers))
                .await;
            assert_eq!(answered.ok().unwrap().status(), 200);
            let span = last(telemetry);
            let same = span.span_context.trace_id().to_string() == TRACE;
            assert_eq!(same, span.parent_span_id.to_string() == SPAN);
            assert!(same || span.parent_span_id == SpanId::INVALID, "a root");
            same
        }
    };

    assert!(continued(vec![("traceparent", good.clone())]).await);
    for bad in [
        String::new(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}-{}-01", &SPAN[1..]),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01é"),
        "x".repeat(60_000),
    ] {
        assert!(
            !continued(vec![("traceparent", bad.clone())]).await,
            "{bad}"
        );
    }
    let twice = ("traceparent", good);
    assert!(!continued(vec![twice.clone(), twice.clone()]).await, "two");

    // A bad tracestate takes nothing else with it.
    for (members, kept) in [(32, true), (33, false), (40, false)] {
        let state: Vec<_> = (0..members).map(|n| format!("k{n}=v")).collect();
        assert!(continued(vec![twice.clone(), ("tracestate", state.join(","))]).await);
        let state = last(&telemetry).span_context.trace_state().header();
        assert_eq!(!state.is_empty(), kept, "{members}");
    }
}

#[tokio::test]
async fn a_tracestate_that_is_too_long_keeps_the_members_that_fit() {
    let telemetry = Telemetry::new();
    // The service answers with what a client below it has sent.
    let client = in_process(TracerLayer::new(telemetry.tracer()).client());
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(telemetry.tracer()).server())
        .service_fn(move |_: http::Request<String>| client.clone().oneshot(request("/a.B/C", &[])));
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let big = format!("big={}", "x".repeat(580));
    let large = format!("large={}", "y".repeat(194));
    let small = "a=1,b=2";
    for (values, sent) in [
        (
            vec![format!("rojo=1,congo=2,{big}")],
            "rojo=1,congo=2".to_owned(),
        ),
        (vec![format!("{big},rojo=1")], "rojo=1".to_owned()),
        (
            vec![small.to_owned(), big.clone(), "c=3".to_owned()],
            format!("{small},c=3"),
        ),
        (vec![format!("{large},{small}")], format!("{large},{small}")),
        (vec![big], String::new()),
    ] {
        let mut headers = vec![("traceparent", &*traceparent)];
        headers.extend(values.iter().map(|value| ("tracestate", &**value)));
        let call = service.clone().oneshot(request("/a.B/C", &headers));
        let response = call.await.unwrap();
        let span = last(&telemetry);
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.span_context.trace_state().header(), sent);
        let injected = response.headers().get("tracestate");
        let injected = injected.map_or("", |value| value.to_str().unwrap());
        assert_eq!(injected, sent);
    }
}

#[tokio::test]
async fn baggage_is_bounded() {
    let telemetry = Telemetry::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(telemetry.tracer()).server())
        .service_fn(|_: http::Request<String>| async {
            let members = Context::current().baggage().len();
            let mut response = http::Response::new(String::new());
            response.headers_mut().insert("members", members.into());
            Ok::<_, std::convert::Infallible>(response)
        });
    let one = |n: usize| format!("k{n}=v");
    let many = |n: usize| (0..n).map(one).collect::<Vec<_>>();
    for (values, expected) in [
        (vec!["k=v,l=w".to_owned()], "2"),
        (many(10), "10"),
        (many(64), "64"),
        (many(200), "0"),
        (vec![many(65).join(",")], "0"),
        (vec![format!("k={}", "v".repeat(9_000))], "0"),
        (
            vec![
                format!("k={}", "v".repeat(5_000)),
                format!("l={}", "v".repeat(5_000)),
            ],
            "0",
        ),
        (vec!["é".to_owned()], "0"),
        (vec![String::new()], "0"),
    ] {
        let headers: Vec<_> = values.iter().map(|v| ("baggage", v.as_str())).collect();
        let response = service
            .clone()
            .oneshot(request("/a.B/C", &headers))
            .await
            .unwrap();
        assert_eq!(
            response.headers()["members"],
            expected,
            "{} values",
            values.len()
        );
        let span = last(&telemetry);
        assert!(
            !attributes(&span.attributes).iter().any(|a| a.contains('v')),
            "never recorded"
        );
    }
}

#[tokio::test]
async fn an_injected_header_replaces_the_one_before() {
    let telemetry = Telemetry::new();
    let service = in_process(TracerLayer::new(telemetry.tracer()).client());
    let stale = format!("00-{TRACE}-{SPAN}-01");
    let headers = [
        ("traceparent", &*stale),
        ("traceparent", &*stale),
        ("tracestate", "stale=1"),
    ];
    let response = service.oneshot(request("/a.B/C", &headers)).await.unwrap();
    let context = last(&telemetry).span_context;
    let expected = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    let sent: Vec<_> = response.headers().get_all("traceparent").iter().collect();
    assert_eq!(sent, [expected.as_str()]);
    assert!(!response.headers().contains_key("tracestate"));
}

#[tokio::test]
async fn an_unsampled_call_is_injected_and_measured_and_has_no_span() {
    let telemetry = Telemetry::sampled(Sampler::AlwaysOff);
    let service = in_process(TracerLayer::new(telemetry.tracer()).client());
    let response = service.oneshot(request("/a.B/C", &[])).await.unwrap();
    let sent = response.headers()["traceparent"].to_str().unwrap();
    assert!(sent.starts_with("00-") && sent.ends_with("-00"), "{sent}");
    assert!(telemetry.spans().is_empty());
    assert_eq!(telemetry.histogram("rpc.client.call.duration")[0].count, 1);
}

#[tokio::test]
async fn a_sampler_sees_system_method_and_server_before_the_span_starts() {
    type Sampled = (String, Vec<String>);
    #[derive(Clone, Debug, Default)]
    struct Seen(Arc<std::sync::Mutex<Vec<Sampled>>>);
    impl opentelemetry_sdk::trace::ShouldSample for Seen {
        fn should_sample(
            &self,
            _: Option<&Context>,
            _: TraceId,
            name: &str,
            _: &SpanKind,
            given: &[KeyValue],
            _: &[Link],
        ) -> opentelemetry_sdk::trace::SamplingResult {
            let mut seen = self.0.lock().unwrap();
            seen.push((name.to_owned(), attributes(given)));
            opentelemetry_sdk::trace::SamplingResult {
                decision: opentelemetry_sdk::trace::SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: TraceState::default(),
            }
        }
    }
    let seen = Seen::default();
    let telemetry = Telemetry::sampled(seen.clone());
    let tracer = telemetry.tracer().methods(KnownMethods::new(["/a.B/C"]));
    let layer = TracerLayer::new(tracer.request_headers(["tenant"]))
        .client()
        .callee(tower_tracer::rpc::Endpoint::default().address(CALLEE));
    in_process(layer)
        .oneshot(request("/a.B/C", &[("tenant", "blue")]))
        .await
        .unwrap();
    let expected = [
        "rpc.method=a.B/C",
        "rpc.request.header.tenant=[\"blue\"]",
        "rpc.system.name=grpc",
        "server.address=echo.example",
        "server.port=50051",
    ];
    let seen = seen.0.lock().unwrap().clone();
    assert_eq!(
        seen,
        [("a.B/C".to_owned(), expected.map(str::to_owned).to_vec())]
    );
}

#[tokio::test]
async fn a_listed_method_is_known_under_a_prefix() {
    let telemetry = Telemetry::new();
    let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
    let service = in_process(TracerLayer::new(tracer).server());
    for path in ["/api/a.B/C", "/api/a.B/D"] {
        let request = request(path, &[]);
        service.clone().oneshot(request).await.unwrap();
    }
    let spans = telemetry.spans();
    assert_eq!(spans[0].name, "a.B/C");
    assert_ne!(spans[1].name, "a.B/D");
}

#[tokio::test]
async fn a_public_endpoint_starts_a_trace_of_its_own_linked_to_the_callers() {
    let telemetry = Telemetry::new();
    let layer = TracerLayer::new(telemetry.tracer().public_endpoint()).server();
    let service = in_process(layer);
    let caller = format!("00-{TRACE}-{SPAN}-00");
    let headers = [("traceparent", &*caller)];
    service
        .clone()
        .oneshot(request("/a.B/C", &headers))
        .await
        .unwrap();
    let span = last(&telemetry);
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    assert_ne!(span.span_context.trace_id().to_string(), TRACE);
    assert!(span.span_context.is_sampled(), "the caller does not decide");
    let [link] = &span.links.links[..] else {
        panic!("one link: {:?}", span.links);
    };
    let expected = SpanContext::new(
        TraceId::from_hex(TRACE).unwrap(),
        SpanId::from_hex(SPAN).unwrap(),
        TraceFlags::default(),
        true,
        TraceState::default(),
    );
    assert_eq!(link.span_context, expected);

    service.oneshot(request("/a.B/C", &[])).await.unwrap();
    assert!(last(&telemetry).links.links.is_empty());
}

#[tokio::test]
async fn a_public_endpoint_keeps_the_values_that_its_own_process_made_current() {
    #[derive(Debug, PartialEq)]
    struct Tenant(u8);

    let telemetry = Telemetry::new();
    let layer = TracerLayer::new(telemetry.tracer().public_endpoint()).server();
    let service =
        ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |_: http::Request<String>| {
                let current = Context::current();
                assert_eq!(current.get(), Some(&Tenant(7)));
                assert!(current.baggage().is_empty());
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
    let caller = format!("00-{TRACE}-{SPAN}-01");
    let headers = [("traceparent", &*caller), ("baggage", "from=caller")];
    let call = service.oneshot(request("/a.B/C", &headers));
    let own = Context::new().with_value(Tenant(7));
    call.with_context(own).await.unwrap();
    assert_eq!(last(&telemetry).links.links.len(), 1);
}

#[tokio::test]
async fn a_server_inside_a_handler_uses_the_headers_of_its_own_request() {
    for public in [false, true] {
        let telemetry = Telemetry::new();
        let inner = match public {
            true => telemetry.tracer().public_endpoint(),
            false => telemetry.tracer(),
        };
        // A layer of something else has not read the headers.
        let inner = ServiceBuilder::new()
            .layer(TracerLayer::new(()).server())
            .service(in_process(TracerLayer::new(inner).server()));
        let gateway = ServiceBuilder::new()
            .layer(TracerLayer::new(telemetry.tracer()).server())
            .service_fn(move |_: http::Request<String>| {
                let caller = format!("00-{TRACE}-{SPAN}-01");
                inner
                    .clone()
                    .oneshot(request("/a.B/C", &[("traceparent", &caller)]))
            });
        gateway.oneshot(request("/a.B/Batch", &[])).await.unwrap();
        let span = &telemetry.spans()[0];
        let trace = span.span_context.trace_id().to_string();
        assert_eq!(trace == TRACE, !public);
        let parent = span.parent_span_id.to_string();
        assert_eq!(parent == SPAN, !public);
        let links: Vec<_> = span
            .links
            .iter()
            .map(|l| l.span_context.span_id())
            .collect();
        assert_eq!(links.len(), usize::from(public));
        assert!(links.iter().all(|link| link.to_string() == SPAN));
    }
}

/// Whatever the worker of the buffer has for a context.
#[tokio::test]
async fn layers_with_a_buffer_between_them_are_parent_and_child() {
    for (client, public, worker_has_span) in [
        (true, false, false),
        (true, false, true),
        (false, false, false),
        (false, false, true),
        (false, true, false),
        (false, true, true),
    ] {
        let telemetry = Telemetry::new();
        let layer = || {
            let tracer = match public {
                true => telemetry.tracer().public_endpoint(),
                false => telemetry.tracer(),
            };
            match client {
                true => TracerLayer::new(tracer).client(),
                false => TracerLayer::new(tracer).server(),
            }
        };
        // A layer of something else between the two changes nothing.
        let inner = ServiceBuilder::new()
            .layer(TracerLayer::new(()))
            .service(in_process(layer()));
        let (buffer, worker) = tower::buffer::Buffer::pair(inner, 4);
        let boot = telemetry.tracer_provider.tracer("boot").start("boot");
        let context = match worker_has_span {
            true => Context::new().with_span(boot),
            false => Context::new(),
        };
        tokio::spawn(worker.with_context(context));
        let service = ServiceBuilder::new()
            .layer(layer())
            .map_err(|error: tower::BoxError| error.to_string())
            .service(buffer);
        let caller = format!("00-{TRACE}-{SPAN}-01");
        let request = request("/a.B/C", &[("traceparent", &caller)]);
        service.oneshot(request).await.unwrap();

        let spans: Vec<_> = telemetry.spans();
        let mut spans = spans.iter().filter(|span| span.name != "boot");
        let (Some(inner), Some(outer)) = (spans.next(), spans.next()) else {
            panic!("two spans")
        };
        let case = format!("client {client}, public {public}, worker {worker_has_span}");
        assert_eq!(inner.parent_span_id, outer.span_context.span_id(), "{case}");
        let traces = [inner, outer].map(|span| span.span_context.trace_id());
        assert_eq!(traces[0], traces[1], "{case}");
        let of_caller = !client && !public;
        assert_eq!(outer.parent_span_id.to_string() == SPAN, of_caller);
        assert!(inner.links.links.is_empty(), "{case}");
    }
}

#[tokio::test]
async fn a_proxy_that_forwards_its_request_through_a_buffer_is_the_clients_parent() {
    let telemetry = Telemetry::new();
    let client = in_process(TracerLayer::new(telemetry.tracer()).client());
    let buffer = tower::buffer::Buffer::new(client, 4);
    let proxy = ServiceBuilder::new()
        .layer(TracerLayer::new(telemetry.tracer()).server())
        .map_err(|error: tower::BoxError| error.to_string())
        .service(buffer);
    let caller = format!("00-{TRACE}-{SPAN}-01");
    let request = request("/a.B/C", &[("traceparent", &caller)]);
    proxy.oneshot(request).await.unwrap();
    let spans = telemetry.spans();
    let [called, served] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(called.span_kind, SpanKind::Client);
    assert_eq!(called.parent_span_id, served.span_context.span_id());
    assert_eq!(served.parent_span_id.to_string(), SPAN);
}

#[tokio::test]
async fn suppressed_telemetry_has_neither_span_nor_metric() {
    let telemetry = Telemetry::new();
    let service = in_process(TracerLayer::new(telemetry.tracer()).client());
    let suppressed = Context::new().with_telemetry_suppressed();
    let call = service.clone().oneshot(request("/a.B/C", &[]));
    let response = call.with_context(suppressed.clone()).await.unwrap();
    // `oneshot` calls the service when polled, so within the context.
    assert!(!response.headers().contains_key("traceparent"));
    assert!(telemetry.spans().is_empty());
    assert!(telemetry.metrics().is_empty());

    service.oneshot(request("/a.B/C", &[])).await.unwrap();
    assert_eq!(telemetry.spans().len(), 1);
}

#[tokio::test]
async fn nested_layers_make_parent_and_child_on_either_side() {
    for client in [false, true] {
        let telemetry = Telemetry::new();
        let side = |layer: TracerLayer<OtelTracer>| match client {
            true => layer.client(),
            false => layer.server(),
        };
        let outer = side(TracerLayer::new(telemetry.tracer()));
        let inner = in_process(side(TracerLayer::new(telemetry.tracer())));
        let caller = format!("00-{TRACE}-{SPAN}-01");
        let request = request("/a.B/C", &[("traceparent", &caller)]);
        let nested = ServiceBuilder::new().layer(outer).service(inner);
        nested.oneshot(request).await.unwrap();
        let spans = telemetry.spans();
        let [inner, outer] = &spans[..] else {
            panic!("{spans:?}")
        };
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        assert_eq!(outer.span_context.trace_id().to_string() == TRACE, !client);
    }
}

#[tokio::test]
async fn a_method_is_other_until_the_service_has_answered_a_call_of_it() {
    let telemetry = Telemetry::new();
    let service = in_process(TracerLayer::new(telemetry.tracer()).server());
    let call = async |method: &str, code: u8| {
        let request = request(method, &[]).map(|_| code.to_string());
        service.clone().oneshot(request).await.unwrap();
        let span = last(&telemetry);
        let attributes = attributes(&span.attributes);
        let rpc = attributes
            .into_iter()
            .filter(|a| a.starts_with("rpc.method"));
        (span.name.into_owned(), rpc.collect::<Vec<_>>())
    };
    let other = |original: &str| {
        let attributes = [
            "rpc.method=_OTHER".to_owned(),
            format!("rpc.method_original={original}"),
        ];
        ("grpc".to_owned(), attributes.to_vec())
    };
    let known = || ("a.B/C".to_owned(), vec!["rpc.method=a.B/C".to_owned()]);
    assert_eq!(call("/a.B/C", 12).await, other("a.B/C"));
    assert_eq!(call("/a.B/C", 5).await, other("a.B/C"));
    assert_eq!(call("/a.B/C", 0).await, known());
    assert_eq!(call("/a.B/C", 12).await, known());
    assert_eq!(call("/a.B/D", 1).await, other("a.B/D"));
    assert_eq!(call("/a.B/C?query", 0).await, known());
    // Paths that are not methods, whatever answers.
    for path in ["/", "/x", "/a/b/c/d", "/%43/x", "*"] {
        let name = path.strip_prefix('/').filter(|name| !name.is_empty());
        assert_eq!(call(path, 0).await, other(name.unwrap_or(path)), "{path}");
    }
}

#[tokio::test]
async fn a_list_or_a_descriptor_set_makes_every_other_method_unknown() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/echo");
    let set = protox::compile(["echo.proto"], [root]).unwrap();
    let set = prost::Message::encode_to_vec(&set);
    assert!(KnownMethods::from_descriptor_set(b"no such thing").is_err());

    let telemetry = Telemetry::new();
    let tracer = telemetry
        .tracer()
        .methods(KnownMethods::from_descriptor_set(&set).unwrap());
    let service = in_process(TracerLayer::new(tracer).server());
    for (path, name) in [
        ("/echo.Echo/UnaryEcho", "echo.Echo/UnaryEcho"),
        ("/echo.Echo/NoEcho", "grpc"),
        ("/other.Service/Method", "grpc"),
    ] {
        service.clone().oneshot(request(path, &[])).await.unwrap();
        assert_eq!(last(&telemetry).name, name);
    }
    let points = telemetry.histogram("rpc.server.call.duration");
    let mut methods: Vec<_> = points
        .iter()
        .map(|point| point.attributes[0].clone())
        .collect();
    methods.sort();
    assert_eq!(
        methods,
        ["rpc.method=_OTHER", "rpc.method=echo.Echo/UnaryEcho"]
    );
}

#[tokio::test]
async fn a_hundred_thousand_paths_do_not_change_the_number_of_series() {
    let telemetry = Telemetry::sampled(Sampler::AlwaysOff);
    let service = in_process(TracerLayer::new(telemetry.tracer()).server());
    let call = async |path: String, code: u8| {
        let request = request(&path, &[]).map(|_| code.to_string());
        service.clone().oneshot(request).await.unwrap();
    };
    call("/a.B/C".to_owned(), 0).await;
    call("/scan/x".to_owned(), 12).await;
    let before = telemetry.histogram("rpc.server.call.duration").len();
    assert_eq!(before, 2);
    for n in 0..100_000 {
        // What is not there, what is refused before it is routed, what is given up.
        call(format!("/scan{n}/x"), [12, 16, 1][n % 3]).await;
    }
    assert_eq!(
        telemetry.histogram("rpc.server.call.duration").len(),
        4,
        "one for each code"
    );

    // The number is limited even if a service answers to any name.
    for n in 0..5_000 {
        call(format!("/catch.All/x{n}"), 0).await;
    }
    let points = telemetry.histogram("rpc.server.call.duration");
    assert_eq!(points.len(), 4 + 99 + 1, "a hundred methods are learnt");
    let rest = [
        "rpc.method=_OTHER",
        "rpc.status_code=OK",
        "rpc.system.name=grpc",
    ];
    let rest = points
        .iter()
        .find(|point| point.attributes == rest)
        .unwrap();
    assert_eq!(rest.count, 4_901);
}

/// A client's origin can have a path, which its requests have before the method.
#[tokio::test]
async fn a_generated_clients_method_is_known_whatever_its_path() {
    let telemetry = Telemetry::new();
    let service = in_process(TracerLayer::new(telemetry.tracer()).client());
    for origin in 0..3_000 {
        let mut request = request(&format!("/api/{origin}/a.B/Prefixed"), &[]);
        let method = tonic::GrpcMethod::new("a.B", "Prefixed");
        request.extensions_mut().insert(method);
        service.clone().oneshot(request).await.unwrap();
    }
    let spans = telemetry.spans();
    assert!(spans.iter().all(|span| span.name == "a.B/Prefixed"));
    assert_eq!(
        attributes(&spans[0].attributes)[0],
        "rpc.method=a.B/Prefixed"
    );
    let points = telemetry.histogram("rpc.client.call.duration");
    let [point] = &points[..] else {
        panic!("{points:?}")
    };
    assert_eq!(point.count, 3_000);
}

#[tokio::test]
async fn the_span_has_tags_and_events_of_the_handler_if_asked_for() {
    static MISS: Event = Event::new("cache_miss", Level::Base);
    static SLOW: Event = Event::new("slow_store", Level::Base);
    for timeline in [false, true] {
        let telemetry = Telemetry::new();
        let mut tracer = telemetry.tracer();
        if timeline {
            tracer = tracer.rpc_events();
        }
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(tracer).server())
            .service_fn(|_: http::Request<String>| async {
                let rpc = RpcInfo::current().unwrap();
                rpc.set_tag("tenant", "blue");
                rpc.record(MISS);
                rpc.record_with(SLOW, tower_tracer::rpc::Severity::Warn, "shard 7");
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
        service.oneshot(request("/a.B/C", &[])).await.unwrap();
        let span = last(&telemetry);
        assert!(attributes(&span.attributes).contains(&"tenant=blue".to_owned()));
        let events: Vec<_> = span
            .events
            .iter()
            .map(|event| {
                (
                    event.name.to_string(),
                    attributes(&event.attributes).join(" "),
                )
            })
            .collect();
        let mut expected = vec![
            ("cache_miss".to_owned(), String::new()),
            (
                "slow_store".to_owned(),
                "info=shard 7 status=warn".to_owned(),
            ),
        ];
        if timeline {
            expected.push(("response_headers".to_owned(), String::new()));
        }
        assert_eq!(events, expected);
        assert!(
            span.events
                .iter()
                .all(|event| { (span.start_time..=span.end_time).contains(&event.timestamp) })
        );
    }
}

#[tokio::test]
async fn each_message_is_an_event_if_asked_for() {
    let (client_side, server_side) = (Telemetry::new(), Telemetry::new());
    let (uri, served) = serve(EchoService, server_side.tracer().message_events()).await;
    let (mut client, called) = connect(&uri, client_side.tracer().message_events()).await;
    let twice = EchoRequest {
        count: 2,
        ..say("hello")
    };
    assert_eq!(call(&mut client, 1, twice).await, Code::Ok);
    soon(called.wait_finished(1)).await;
    soon(served.wait_finished(1)).await;
    let events = |telemetry: &Telemetry| -> Vec<String> {
        let line = |event: &opentelemetry::trace::Event| {
            format!("{} {}", event.name, attributes(&event.attributes).join(" "))
        };
        last(telemetry).events.iter().map(line).collect()
    };
    assert_eq!(
        events(&client_side),
        [
            "Outbound message message-size=9 sequence-number=0",
            "Inbound message message-size=7 sequence-number=0",
            "Inbound message message-size=7 sequence-number=1",
        ]
    );
    assert_eq!(
        events(&server_side),
        [
            "Inbound message message-size=9 sequence-number=0",
            "Outbound message message-size=7 sequence-number=0",
            "Outbound message message-size=7 sequence-number=1",
        ]
    );
}

#[tokio::test]
async fn headers_are_recorded_by_allow_list_only_and_sensitive_values_never() {
    let telemetry = Telemetry::new();
    let tracer = telemetry
        .tracer()
        .request_headers(["tenant", "token"])
        .request_headers(["Tenant"])
        .response_headers(["grpc-status"]);
    let service = in_process(TracerLayer::new(tracer).server());
    let mut request = request(
        "/a.B/C",
        &[
            ("Tenant", "blue"),
            ("tenant", "green"),
            ("tenant", "é"),
            ("authorization", "secret"),
            ("cookie", "secret"),
            ("key-bin", "secret"),
        ],
    );
    let mut token = http::HeaderValue::from_static("secret");
    token.set_sensitive(true);
    request.headers_mut().insert("token", token);
    service.oneshot(request).await.unwrap();
    let found = attributes(&last(&telemetry).attributes);
    let metadata: Vec<_> = found.iter().filter(|a| a.contains(".header.")).collect();
    assert_eq!(
        metadata,
        [
            "rpc.request.header.tenant=[\"blue\",\"green\",\"w6k=\"]",
            "rpc.response.header.grpc-status=[\"0\"]",
        ]
    );
    assert!(!found.iter().any(|a| a.contains("secret")), "{found:?}");
}

#[tokio::test]
async fn the_conventions_and_the_status_key_are_a_setting() {
    const IN_FLIGHT: &str = "tower_tracer.server.active_calls";
    let run = async |conventions, key| {
        let telemetry = Telemetry::new();
        let tracer = telemetry
            .tracer()
            .methods(KnownMethods::new(["a.B/C"]))
            .conventions(conventions)
            .request_headers(["tenant"])
            .in_flight();
        let layer = TracerLayer::new(tracer.status_code_key(key)).server();
        let request = request("/a.B/C", &[("tenant", "blue")]).map(|_| "13".to_owned());
        in_process(layer).oneshot(request).await.unwrap();
        let span = attributes(&last(&telemetry).attributes);
        let metrics: Vec<_> = telemetry
            .metrics()
            .into_iter()
            .map(|name| {
                if name == IN_FLIGHT {
                    return format!("{name} {}", telemetry.sum(&name)[0].0);
                }
                let attributes = telemetry.histogram(&name)[0].attributes.join(" ");
                format!("{name} [{}] {attributes}", telemetry.unit(&name))
            })
            .collect();
        (span, metrics)
    };
    let new = "rpc.server.call.duration [s] error.type=INTERNAL rpc.method=a.B/C \
               rpc.status_code=INTERNAL rpc.system.name=grpc";
    let old = "rpc.server.duration [ms] rpc.grpc.status_code=13 rpc.method=C rpc.service=a.B \
               rpc.system=grpc";
    let in_flight = format!("{IN_FLIGHT} rpc.method=a.B/C rpc.system.name=grpc");
    let default_key = "rpc.status_code";

    let (span, metrics) = run(Conventions::Legacy, default_key).await;
    assert_eq!(
        span,
        [
            "rpc.grpc.request.metadata.tenant=[\"blue\"]",
            "rpc.grpc.status_code=13",
            "rpc.method=C",
            "rpc.service=a.B",
            "rpc.system=grpc"
        ]
    );
    let old_in_flight = format!("{IN_FLIGHT} rpc.method=C rpc.service=a.B rpc.system=grpc");
    assert_eq!(metrics, [old, &*old_in_flight]);

    let (span, metrics) = run(Conventions::Both, default_key).await;
    assert_eq!(
        span,
        [
            "error.type=INTERNAL",
            "rpc.grpc.request.metadata.tenant=[\"blue\"]",
            "rpc.grpc.status_code=13",
            "rpc.method=a.B/C",
            "rpc.request.header.tenant=[\"blue\"]",
            "rpc.service=a.B",
            "rpc.status_code=INTERNAL",
            "rpc.system.name=grpc",
            "rpc.system=grpc",
        ]
    );
    assert_eq!(metrics, [new, old, &*in_flight]);

    let (span, metrics) = run(Conventions::New, "rpc.response.status_code").await;
    assert_eq!(
        span,
        [
            "error.type=INTERNAL",
            "rpc.method=a.B/C",
            "rpc.request.header.tenant=[\"blue\"]",
            "rpc.response.status_code=INTERNAL",
            "rpc.system.name=grpc",
        ]
    );
    let new = "rpc.server.call.duration [s] error.type=INTERNAL rpc.method=a.B/C \
               rpc.response.status_code=INTERNAL rpc.system.name=grpc";
    assert_eq!(metrics, [new, &*in_flight]);
}

#[tokio::test]
async fn a_call_whose_state_is_dropped_without_a_finish_is_not_in_flight() {
    let telemetry = Telemetry::new();
    let tracer = telemetry
        .tracer()
        .methods(KnownMethods::new(["a.B/C"]))
        .in_flight();
    // OK is not a failure, so its state is dropped.
    let service = in_process(TracerLayer::new(tower_tracer::Tracer::only_failed(tracer)).server());
    service.oneshot(request("/a.B/C", &[])).await.unwrap();
    assert_eq!(
        telemetry.sum("tower_tracer.server.active_calls"),
        [("rpc.method=a.B/C rpc.system.name=grpc".to_owned(), 0)]
    );
}

/// A propagator that reads all values of a header, and panics if one of them says so.
#[derive(Debug)]
struct Reading(Arc<Mutex<Vec<String>>>);

impl opentelemetry::propagation::TextMapPropagator for Reading {
    fn inject_context(&self, _: &Context, _: &mut dyn opentelemetry::propagation::Injector) {}

    fn extract_with_context(
        &self,
        context: &Context,
        from: &dyn opentelemetry::propagation::Extractor,
    ) -> Context {
        for key in ["several", "baggage", "none"] {
            let values = from.get_all(key).unwrap_or_default();
            assert!(!values.contains(&"panic"), "on purpose");
            self.0.lock().unwrap().push(format!("{key}={values:?}"));
        }
        context.clone()
    }

    fn fields(&self) -> opentelemetry::propagation::text_map_propagator::FieldIter<'_> {
        opentelemetry::propagation::text_map_propagator::FieldIter::new(&[])
    }
}

#[tokio::test]
async fn a_propagator_reads_all_values_of_its_header_and_its_panic_is_not_counted() {
    let telemetry = Telemetry::new();
    let read = Arc::new(Mutex::new(Vec::new()));
    let tracer = telemetry.tracer().propagator(Reading(Arc::clone(&read)));
    let tracer = tracer
        .grpc_metrics(GrpcMetrics::CallsAndAttempts)
        .in_flight();
    let service = in_process(TracerLayer::new(tracer).server());
    let headers = [("several", "a"), ("several", "b"), ("several", "é")];
    let call = service.clone().oneshot(request("/a.B/C", &headers));
    call.await.unwrap();
    let expected = ["several=[\"a\", \"b\"]", "baggage=[]", "none=[]"];
    assert_eq!(*read.lock().unwrap(), expected);

    let started = || telemetry.sum("grpc.server.call.started");
    let before = started();
    let call = service.oneshot(request("/a.B/C", &[("several", "panic")]));
    call.await.unwrap();
    assert_eq!(started(), before);
}

#[tokio::test]
async fn the_span_of_a_call_that_is_not_finished_still_ends() {
    let telemetry = Telemetry::new();
    let tracer = tower_tracer::Tracer::only_failed(telemetry.tracer());
    let service = in_process(TracerLayer::new(tracer).server());
    let response = service.oneshot(request("/a.B/C", &[])).await.unwrap();
    // Its headers were the end, and the body is still there.
    assert_eq!(telemetry.spans().len(), 1);
    assert!(telemetry.metrics().is_empty());
    drop(response);
    assert_eq!(telemetry.spans().len(), 1);
}

#[tokio::test]
async fn the_path_of_an_unknown_method_is_recorded_whatever_it_holds() {
    let long = format!("a.B/{}", "x".repeat(2000));
    for listed in [false, true] {
        let telemetry = Telemetry::new();
        let tracer = match listed {
            true => telemetry.tracer().methods(methods()),
            false => telemetry.tracer(),
        };
        let service = in_process(TracerLayer::new(tracer).server());
        for name in ["a.B/C", "x", "a/b/c/d", "a.B/%43", "a.B/C~", &long] {
            let unimplemented = request(&format!("/{name}"), &[]).map(|_| "12".to_owned());
            service.clone().oneshot(unimplemented).await.unwrap();
            let found = attributes(&last(&telemetry).attributes);
            let name = name.get(..1024).unwrap_or(name);
            let original = format!("rpc.method_original={name}");
            assert!(found.contains(&original), "{found:?}");
            assert!(found.contains(&"rpc.method=_OTHER".to_owned()));
        }
    }
}

#[tokio::test]
async fn calls_in_flight_are_counted_up_and_down() {
    let telemetry = Telemetry::new();
    let tracer = telemetry
        .tracer()
        .methods(KnownMethods::new(["a.B/C"]))
        .in_flight();
    let layer = TracerLayer::new(tracer).server();
    let (entered, wait) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (enter, go) = (Arc::clone(&entered), Arc::clone(&wait));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |_: http::Request<String>| {
            let (enter, go) = (Arc::clone(&enter), Arc::clone(&go));
            async move {
                enter.notify_one();
                go.notified().await;
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            }
        });
    let running = tokio::spawn(service.oneshot(request("/a.B/C", &[])));
    soon(entered.notified()).await;
    let expected = |n| [("rpc.method=a.B/C rpc.system.name=grpc".to_owned(), n)];
    assert_eq!(
        telemetry.sum("tower_tracer.server.active_calls"),
        expected(1)
    );
    wait.notify_one();
    soon(running).await.unwrap().unwrap();
    assert_eq!(
        telemetry.sum("tower_tracer.server.active_calls"),
        expected(0)
    );
}

#[tokio::test]
async fn grpcs_own_metrics_tell_calls_from_attempts() {
    let telemetry = Telemetry::new();
    let tracer = |what| {
        telemetry
            .tracer()
            .methods(KnownMethods::new(["a.B/C"]))
            .grpc_metrics(what)
    };
    let callee = || tower_tracer::rpc::Endpoint::default().address("dns:///echo.example:50051");
    let outer = TracerLayer::new(tracer(GrpcMetrics::Calls))
        .client()
        .callee(callee());
    let inner = TracerLayer::new(tracer(GrpcMetrics::Attempts).in_flight())
        .client()
        .callee(callee());
    // Two attempts that fail, and one that does not.
    let attempts = in_process(inner);
    let retrying =
        ServiceBuilder::new()
            .layer(outer)
            .service_fn(move |request: http::Request<String>| {
                let attempts = attempts.clone();
                async move {
                    for code in ["14", "14"] {
                        let attempt = request.clone().map(|_| code.to_owned());
                        let _ = attempts.clone().oneshot(attempt).await.unwrap();
                    }
                    attempts.oneshot(request).await
                }
            });
    retrying.oneshot(request("/a.B/C", &[])).await.unwrap();

    let target = "grpc.target=dns:///echo.example:50051";
    let all = |status: &str| {
        let mut all = vec!["grpc.method=a.B/C".to_owned()];
        all.extend((!status.is_empty()).then(|| format!("grpc.status={status}")));
        all.push(target.to_owned());
        all
    };
    assert_eq!(
        telemetry.sum("grpc.client.attempt.started"),
        [(all("").join(" "), 3)]
    );
    let histogram = |name: &str| {
        let points = telemetry.histogram(name).into_iter();
        let mut points: Vec<_> = points.map(|p| (p.attributes, p.count)).collect();
        points.sort();
        points
    };
    let attempts = [(all("OK"), 1), (all("UNAVAILABLE"), 2)];
    assert_eq!(histogram("grpc.client.attempt.duration"), attempts);
    assert_eq!(
        histogram("grpc.client.attempt.rcvd_total_compressed_message_size"),
        attempts
    );
    assert_eq!(histogram("grpc.client.call.duration"), [(all("OK"), 1)]);
    let calls = histogram("rpc.client.call.duration");
    let [(call, 1)] = &calls[..] else {
        panic!("an attempt is no call: {calls:?}")
    };
    assert!(telemetry.sum("tower_tracer.client.active_calls").is_empty());
    assert!(call.contains(&"rpc.status_code=OK".to_owned()));
    assert_eq!(telemetry.spans().len(), 4);
    assert_eq!(histogram("grpc.client.call.retries"), [(all(""), 1)]);
    assert_eq!(telemetry.histogram("grpc.client.call.retries")[0].sum, 2.0);
    assert_eq!(telemetry.unit("grpc.client.call.retries"), "{retry}");

    // Without a retry layer, and on a server.
    let telemetry = Telemetry::new();
    let tracer = || {
        telemetry
            .tracer()
            .methods(methods())
            .grpc_metrics(GrpcMetrics::CallsAndAttempts)
    };
    let (uri, served) = serve(EchoService, tracer()).await;
    let (mut client, called) = connect(&uri, tracer()).await;
    client.unary_echo(say("hello")).await.unwrap();
    soon(called.wait_finished(1)).await;
    soon(served.wait_finished(1)).await;
    let expected = [
        "grpc.client.attempt.duration",
        "grpc.client.attempt.rcvd_total_compressed_message_size",
        "grpc.client.attempt.sent_total_compressed_message_size",
        "grpc.client.attempt.started",
        "grpc.client.call.duration",
        "grpc.server.call.duration",
        "grpc.server.call.rcvd_total_compressed_message_size",
        "grpc.server.call.sent_total_compressed_message_size",
        "grpc.server.call.started",
        "rpc.client.call.duration",
        "rpc.server.call.duration",
    ];
    assert_eq!(telemetry.metrics(), expected);
    for name in &expected[5..9] {
        if name.ends_with("size") {
            let point = telemetry.histogram(name).remove(0);
            assert_eq!(
                point.attributes,
                ["grpc.method=echo.Echo/UnaryEcho", "grpc.status=OK"]
            );
            assert_eq!(point.sum, 7.0, "without the prefix");
            assert_eq!(telemetry.unit(name), "By");
            assert_eq!(point.bounds.len(), 14);
        }
    }
    assert_eq!(
        telemetry.histogram("grpc.server.call.duration")[0]
            .bounds
            .len(),
        41
    );
    let started = telemetry.sum("grpc.server.call.started");
    assert_eq!(started, [("grpc.method=echo.Echo/UnaryEcho".to_owned(), 1)]);
}

/// Sends each request three times, to what is under this layer.
async fn thrice<O: tower_tracer::Tracer, I: tower_tracer::Tracer>(
    outer: TracerLayer<O>,
    inner: TracerLayer<I>,
    request: http::Request<String>,
) {
    let attempts = in_process(inner);
    let retrying =
        ServiceBuilder::new()
            .layer(outer)
            .service_fn(async |request: http::Request<String>| {
                for _ in 0..2 {
                    attempts.clone().oneshot(request.clone()).await.unwrap();
                }
                attempts.clone().oneshot(request).await
            });
    retrying.oneshot(request).await.unwrap();
}

/// The kind of each span, and which attempt it says it is.
fn kinds_and_numbers(telemetry: &Telemetry, name: &str) -> Vec<(SpanKind, Option<String>)> {
    let spans = telemetry.spans().into_iter().map(|span| {
        let number = span.attributes.iter().find(|a| a.key.as_str() == name);
        let number = number.map(|number| number.value.to_string());
        (span.span_kind, number)
    });
    spans.collect()
}

#[tokio::test]
async fn the_spans_of_attempts_have_their_number_and_only_the_calls_is_a_client_span() {
    let layer = |tracer: OtelTracer| TracerLayer::new(tracer).client();
    let number = |n: &str| Some(n.to_owned());

    let telemetry = Telemetry::new();
    let tracer = || telemetry.tracer();
    thrice(layer(tracer()), layer(tracer()), request("/a.B/C", &[])).await;
    let expected = [
        (SpanKind::Internal, number("0")),
        (SpanKind::Internal, number("1")),
        (SpanKind::Internal, number("2")),
        (SpanKind::Client, None),
    ];
    assert_eq!(
        kinds_and_numbers(&telemetry, "previous-rpc-attempts"),
        expected
    );
    let number_of_2nd = &telemetry.spans()[1].attributes;
    assert!(number_of_2nd.contains(&KeyValue::new("previous-rpc-attempts", 1)));
    for point in telemetry.histogram("rpc.client.call.duration") {
        let labels = point.attributes.join(" ");
        assert!(!labels.contains("attempts"), "no label: {labels}");
    }

    // Plain HTTP: the first one is not resent.
    let telemetry = Telemetry::new();
    let tracer = || telemetry.tracer();
    thrice(
        layer(tracer()),
        layer(tracer()),
        http("GET", "http://a/b", ""),
    )
    .await;
    let expected = [
        (SpanKind::Internal, None),
        (SpanKind::Internal, number("1")),
        (SpanKind::Internal, number("2")),
        (SpanKind::Client, None),
    ];
    assert_eq!(
        kinds_and_numbers(&telemetry, "http.request.resend_count"),
        expected
    );
    assert!(!telemetry.spans().iter().any(|span| {
        let names = attributes(&span.attributes).join(" ");
        names.contains("previous-rpc-attempts")
    }));
    for point in telemetry.histogram("http.client.request.duration") {
        let labels = point.attributes.join(" ");
        assert!(!labels.contains("resend"), "no label: {labels}");
    }
}

#[tokio::test]
async fn the_kind_of_an_attempts_span_is_a_setting_and_without_a_calls_span_it_is_client() {
    let name = "previous-rpc-attempts";
    let client = |n: &str| (SpanKind::Client, Some(n.to_owned()));

    let telemetry = Telemetry::new();
    let attempt = telemetry.tracer().attempt_span_kind(SpanKind::Client);
    let outer = TracerLayer::new(telemetry.tracer()).client();
    thrice(
        outer,
        TracerLayer::new(attempt).client(),
        request("/a.B/C", &[]),
    )
    .await;
    let call = (SpanKind::Client, None);
    let expected = [client("0"), client("1"), client("2"), call];
    assert_eq!(kinds_and_numbers(&telemetry, name), expected);

    let telemetry = Telemetry::new();
    let (outer, inner) = (TracerLayer::new(()).client(), telemetry.tracer());
    thrice(
        outer,
        TracerLayer::new(inner).client(),
        request("/a.B/C", &[]),
    )
    .await;
    let expected = [client("0"), client("1"), client("2")];
    assert_eq!(kinds_and_numbers(&telemetry, name), expected);

    // One layer alone: a call, and no attempt of one.
    let telemetry = Telemetry::new();
    let alone = in_process(TracerLayer::new(telemetry.tracer()).client());
    alone.oneshot(request("/a.B/C", &[])).await.unwrap();
    assert_eq!(
        kinds_and_numbers(&telemetry, name),
        [(SpanKind::Client, None)]
    );
}

#[tokio::test]
async fn only_the_outer_of_two_layers_on_a_server_makes_a_server_span() {
    let telemetry = Telemetry::new();
    let layer = || TracerLayer::new(telemetry.tracer()).server();
    let previous = [("grpc-previous-rpc-attempts", "2")];
    let nested = ServiceBuilder::new()
        .layer(layer())
        .service(in_process(layer()));
    nested.oneshot(request("/a.B/C", &previous)).await.unwrap();
    assert_eq!(
        kinds_and_numbers(&telemetry, "previous-rpc-attempts"),
        [(SpanKind::Internal, None), (SpanKind::Server, None)]
    );
}

// Ending 52.
#[tokio::test]
async fn the_size_of_a_response_without_a_message_is_recorded_as_0_like_its_duration() {
    type Answer = Result<http::Response<String>, Status>;
    async fn sizes(role: Role, answer: impl Fn() -> Option<Answer>, code: &str) -> Option<f64> {
        let telemetry = Telemetry::new();
        let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
        let layer = TracerLayer::new(tracer.grpc_metrics(GrpcMetrics::CallsAndAttempts));
        let layer = match role {
            Role::Client => layer.client(),
            Role::Server => layer.server(),
        };
        let answers = ServiceBuilder::new().layer(layer).service_fn(
            async |_: http::Request<tonic::body::Body>| match answer() {
                Some(answer) => answer,
                None => std::future::pending().await,
            },
        );
        let mut call = Box::pin(answers.oneshot(request("/a.B/C", &[]).map(|_| {
            tonic::body::Body::new(http_body_util::Full::<bytes::Bytes>::from(
                &b"\0\0\0\0\x01a"[..],
            ))
        })));
        if let Poll::Ready(Ok(response)) = futures_util::poll!(&mut call) {
            let _ = http_body_util::BodyExt::collect(response.into_body()).await;
        }
        drop(call);
        let (started, of_response, of_request) = match role {
            Role::Client => ("client.attempt", "rcvd", "sent"),
            Role::Server => ("server.call", "sent", "rcvd"),
        };
        let one = |name: String| {
            let mut points = telemetry.histogram(&name);
            assert!(points.len() <= 1, "{points:?}");
            let point = points.pop()?;
            assert_eq!(point.count, 1);
            let status = format!("grpc.status={code}");
            assert_eq!(point.attributes, ["grpc.method=a.B/C", &status], "{name}");
            Some(point.sum)
        };
        assert!(one(format!("grpc.{started}.duration")).is_some());
        let size = |way| format!("grpc.{started}.{way}_total_compressed_message_size");
        // The body of the request is not read here, so nothing of it has passed.
        assert_eq!(one(size(of_request)), Some(0.0), "{role} {code}");
        one(size(of_response))
    }
    let page = |status: u16, content_type: &'static str, body: &'static str| {
        move || {
            let mut response = http::Response::builder().status(status);
            if !content_type.is_empty() {
                response = response.header("content-type", content_type);
            }
            Some(Ok(response.body(body.to_owned()).unwrap()))
        }
    };
    let client = Role::Client;
    for body in ["", "upstream connect error"] {
        // The proxy's own answers, with and without a media type, empty and not.
        assert_eq!(
            sizes(client, page(503, "", body), "UNAVAILABLE").await,
            Some(0.0)
        );
        let html = page(503, "text/html", body);
        assert_eq!(sizes(client, html, "UNAVAILABLE").await, Some(0.0));
        assert_eq!(
            sizes(client, page(200, "", body), "UNKNOWN").await,
            Some(0.0)
        );
        let server = sizes(Role::Server, page(503, "", body), "UNKNOWN").await;
        assert_eq!(server, Some(0.0));
    }
    for role in [Role::Client, Role::Server] {
        let refused = || Some(Err(Status::unavailable("refused")));
        assert_eq!(sizes(role, refused, "UNAVAILABLE").await, Some(0.0));
        assert_eq!(sizes(role, || None, "CANCELLED").await, Some(0.0));
        let grpc = page(200, "application/grpc", "\0\0\0\0\x01a");
        assert_eq!(sizes(role, grpc, "UNKNOWN").await, Some(1.0));
        // What was answered with success and cannot be read is unknown, and unknown is not 0.
        let unread = || {
            let response = http::Response::builder().header("grpc-status", "0");
            Some(Ok(response.body("\0\0\0\0\x01a".to_owned()).unwrap()))
        };
        assert_eq!(sizes(role, unread, "OK").await, None);
    }
}

/// Answers a plain HTTP request with the status that its body says.
fn answering(
    layer: TracerLayer<OtelTracer>,
) -> impl Service<
    http::Request<String>,
    Response = http::Response<ResponseBody<String, OtelTracer>>,
    Error = std::convert::Infallible,
> + Clone {
    ServiceBuilder::new()
        .layer(layer)
        .service_fn(|request: http::Request<String>| async move {
            let mut response = http::Response::new(String::new());
            *response.status_mut() = request.body().parse().unwrap();
            Ok(response)
        })
}

fn http(method: &str, uri: &str, status: &str) -> http::Request<String> {
    let request = http::Request::builder().method(method).uri(uri);
    request.body(status.to_owned()).unwrap()
}

#[tokio::test]
async fn a_servers_odd_statuses_make_no_series_of_a_client() {
    let telemetry = Telemetry::new();
    let client = answering(TracerLayer::new(telemetry.tracer()).client());
    for status in 200..=999 {
        let request = http("GET", "http://echo.example/", &status.to_string());
        client.clone().oneshot(request).await.unwrap();
        let span = attributes(&last(&telemetry).attributes);
        assert!(span.contains(&format!("http.response.status_code={status}")));
    }
    let points = telemetry.histogram("http.client.request.duration");
    let series = |status: u16, error: bool| {
        let mut attributes = vec![
            "http.request.method=GET".to_owned(),
            format!("http.response.status_code={status}"),
            "network.protocol.version=1.1".to_owned(),
            "server.address=echo.example".to_owned(),
            "server.port=80".to_owned(),
        ];
        if error {
            attributes.insert(0, format!("error.type={status}"));
        }
        let mut found = points.iter().filter(|p| p.attributes == attributes);
        found.next().map(|point| point.count)
    };
    // What is registered has its own, the rest of a class is its first, and nonsense is a 500.
    assert_eq!(series(404, true), Some(1));
    assert_eq!(series(477, true), None);
    let registered = |class: u16| {
        let all = (class..class + 100).filter_map(|s| http::StatusCode::from_u16(s).ok());
        all.filter(|s| s.canonical_reason().is_some()).count() as u64
    };
    assert_eq!(series(200, false), Some(101 - registered(200)));
    assert_eq!(series(300, false), Some(101 - registered(300)));
    assert_eq!(series(400, true), Some(101 - registered(400)));
    assert_eq!(series(500, true), Some(101 - registered(500) + 400));
    let all: u64 = [200, 300, 400, 500].into_iter().map(registered).sum();
    assert_eq!(points.len() as u64, all);
}

#[tokio::test]
async fn http_requests_in_flight_name_the_server_on_a_client() {
    let telemetry = Telemetry::new();
    for layer in [
        TracerLayer::new(telemetry.tracer().in_flight()).client(),
        TracerLayer::new(telemetry.tracer().in_flight()).server(),
    ] {
        let request = http("GET", "http://echo.example:8080/", "200");
        answering(layer).oneshot(request).await.unwrap();
    }
    let client = "http.request.method=GET server.address=echo.example server.port=8080";
    assert_eq!(
        telemetry.sum("http.client.active_requests"),
        [(client.to_owned(), 0)]
    );
    let server = "http.request.method=GET url.scheme=http";
    assert_eq!(
        telemetry.sum("http.server.active_requests"),
        [(server.to_owned(), 0)]
    );
}

#[cfg(feature = "otel-bound")]
#[tokio::test]
async fn bound_instruments_record_the_same_values() {
    let telemetry = Telemetry::new();
    let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
    let tracer = tracer.conventions(Conventions::Both).bound_instruments();
    let service = in_process(TracerLayer::new(tracer).server());
    let mut seconds = [0.0; 2];
    for (at, code) in ["0", "5", "0"].into_iter().enumerate() {
        let request = request("/a.B/C", &[]).map(|_| code.to_owned());
        service.clone().oneshot(request).await.unwrap();
        seconds[at % 2] += duration(&last(&telemetry)).as_secs_f64();
    }
    let mut points = telemetry.histogram("rpc.server.call.duration");
    points.sort_by_key(|point| point.attributes.clone());
    let all = |code: &str| {
        [
            "rpc.method=a.B/C".to_owned(),
            format!("rpc.status_code={code}"),
            "rpc.system.name=grpc".to_owned(),
        ]
    };
    assert_eq!(points.len(), 2);
    for (point, (code, count, sum)) in points
        .iter()
        .zip([("NOT_FOUND", 1, seconds[1]), ("OK", 2, seconds[0])])
    {
        assert_eq!(point.attributes, all(code));
        assert_eq!((point.count, point.sum), (count, sum));
    }
    let old = telemetry.histogram("rpc.server.duration");
    assert_eq!(old.iter().map(|point| point.count).sum::<u64>(), 3);
}

#[tokio::test]
async fn plain_http_is_described_by_the_conventions_for_http() {
    let telemetry = Telemetry::new();
    let tracer = || {
        telemetry.tracer().http_route(|request| {
            let known = request.path().starts_with("/users/");
            known.then(|| "/users/{id}".to_owned())
        })
    };
    let server = answering(TracerLayer::new(tracer()).server());
    server
        .clone()
        .oneshot(http("GET", "/users/7?secret=1", "404"))
        .await
        .unwrap();
    let span = last(&telemetry);
    assert_eq!(span.name, "GET /users/{id}");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, SpanStatus::Unset, "the caller's own fault");
    assert_eq!(
        attributes(&span.attributes),
        [
            "http.request.method=GET",
            "http.response.status_code=404",
            "http.route=/users/{id}",
            "network.protocol.version=1.1",
            "url.path=/users/7",
            "url.scheme=http",
        ]
    );
    let point = telemetry
        .histogram("http.server.request.duration")
        .remove(0);
    assert_eq!(
        point.attributes,
        [
            "http.request.method=GET",
            "http.response.status_code=404",
            "http.route=/users/{id}",
            "network.protocol.version=1.1",
            "url.scheme=http",
        ]
    );
    assert_eq!(point.sum, duration(&span).as_secs_f64());

    server
        .oneshot(http("BREW", "https://tea/pot", "503"))
        .await
        .unwrap();
    let span = last(&telemetry);
    assert_eq!(span.name, "HTTP");
    assert_eq!(span.status, SpanStatus::error(""));
    assert_eq!(
        attributes(&span.attributes),
        [
            "error.type=503",
            "http.request.method=_OTHER",
            "http.request.method_original=BREW",
            "http.response.status_code=503",
            "network.protocol.version=1.1",
            "server.address=tea",
            "server.port=443",
            "url.path=/pot",
            "url.scheme=https",
        ]
    );
    // HTTP/1 has the name in a header; in a label it has no place.
    let server = answering(TracerLayer::new(tracer().http_methods(["BREW"])).server());
    let mut named = http("BREW", "/pot", "200");
    let host = http::HeaderValue::from_static("tea.example:8080");
    named.headers_mut().insert("host", host);
    server.clone().oneshot(named).await.unwrap();
    let span = last(&telemetry);
    assert_eq!(span.name, "BREW");
    assert_eq!(
        attributes(&span.attributes),
        [
            "http.request.method=BREW",
            "http.response.status_code=200",
            "network.protocol.version=1.1",
            "server.address=tea.example",
            "server.port=8080",
            "url.path=/pot",
            "url.scheme=http",
        ]
    );
    let points = telemetry.histogram("http.server.request.duration");
    let labels = || points.iter().flat_map(|point| &point.attributes);
    assert!(!labels().any(|label| label.starts_with("server.")));
    let mut no_port = http("GET", "/pot", "200");
    let host = http::HeaderValue::from_static("tea.example:99999");
    no_port.headers_mut().insert("host", host);
    server.oneshot(no_port).await.unwrap();
    let span = last(&telemetry);
    assert_eq!(span.name, "HTTP", "the list is the whole list");
    let found = attributes(&span.attributes);
    let server: Vec<_> = found.iter().filter(|a| a.starts_with("server.")).collect();
    assert_eq!(server, ["server.address=tea.example"]);
    // A client of HTTP/1 has the name in a header, too.
    let client = answering(TracerLayer::new(tracer()).client());
    let mut named = http("GET", "/pot", "200");
    let host = http::HeaderValue::from_static("tea.example");
    named.headers_mut().insert("host", host);
    client.oneshot(named).await.unwrap();
    let found = attributes(&last(&telemetry).attributes);
    let server: Vec<_> = found.iter().filter(|a| a.starts_with("server.")).collect();
    assert_eq!(server, ["server.address=tea.example", "server.port=80"]);

    let client = answering(TracerLayer::new(tracer()).client());
    let uri = "https://user:secret@echo.example/users/7?secret=1";
    client.oneshot(http("POST", uri, "404")).await.unwrap();
    let span = last(&telemetry);
    assert_eq!(span.name, "POST", "routes are the server's");
    assert_eq!(span.span_kind, SpanKind::Client);
    assert_eq!(span.status, SpanStatus::error(""));
    assert_eq!(
        attributes(&span.attributes),
        [
            "error.type=404",
            "http.request.method=POST",
            "http.response.status_code=404",
            "network.protocol.version=1.1",
            "server.address=echo.example",
            "server.port=443",
            "url.full=https://echo.example/users/7",
        ]
    );
    let point = telemetry
        .histogram("http.client.request.duration")
        .remove(0);
    assert!(
        !point.attributes.iter().any(|a| a.starts_with("url.")),
        "{point:?}"
    );
}

#[tokio::test]
async fn scheme_host_and_client_come_from_a_proxy_that_is_trusted_and_no_other() {
    let telemetry = Telemetry::new();
    let server = |trusted: bool| {
        let tracer = telemetry.tracer().in_flight();
        let tracer = match trusted {
            true => tracer.trust_forwarded(),
            false => tracer,
        };
        TracerLayer::new(tracer).server()
    };
    let get = async |layer: TracerLayer<OtelTracer>, headers: &[(&'static str, &str)]| {
        let mut request = http("GET", "/a", "200");
        // The address of the connection, as tonic's transport has it.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: "10.0.0.7:4711".parse().ok(),
        });
        for (name, value) in headers {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(*name, value);
        }
        answering(layer).oneshot(request).await.unwrap();
        let is_address = |a: &String| {
            let names = ["client.", "server.", "url.scheme"];
            names.iter().any(|name| a.starts_with(name))
        };
        let mut found = attributes(&last(&telemetry).attributes);
        found.retain(is_address);
        found.join(" ")
    };
    let standard = (
        "forwarded",
        "for=192.0.2.1;proto=https;host=\"shop.example:8443\", for=10.0.0.1;proto=http",
    );
    let usual = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "mall.example"),
        ("x-forwarded-for", "2001:db8::1, 10.0.0.1"),
    ];
    let host = ("host", "inner.example:8080");
    let own = "server.address=inner.example server.port=8080 url.scheme=http";
    for headers in [
        vec![host],
        vec![host, standard],
        [&[host], &usual[..]].concat(),
    ] {
        assert_eq!(get(server(false), &headers).await, own, "not trusted");
    }
    let points = telemetry.histogram("http.server.request.duration");
    let [point] = &points[..] else {
        panic!("{points:?}")
    };
    assert!(point.attributes.contains(&"url.scheme=http".to_owned()));

    let peer = format!("client.address=10.0.0.7 {own}");
    assert_eq!(get(server(true), &[host]).await, peer);
    let of_standard =
        "client.address=192.0.2.1 server.address=shop.example server.port=8443 url.scheme=https";
    let of_usual =
        "client.address=2001:db8::1 server.address=mall.example server.port=443 url.scheme=https";
    assert_eq!(get(server(true), &[host, standard]).await, of_standard);
    assert_eq!(
        get(server(true), &[&[host], &usual[..]].concat()).await,
        of_usual
    );
    assert_eq!(
        get(server(true), &[&[host, standard], &usual[..]].concat()).await,
        of_standard
    );
    let nonsense = [
        host,
        ("forwarded", "for=unknown;proto=javascript;host=\"a b\""),
        ("x-forwarded-proto", "wss"),
        ("x-forwarded-host", "user:secret@evil.example"),
        ("x-forwarded-for", "'; drop table clients"),
    ];
    assert_eq!(get(server(true), &nonsense).await, peer);
    let long = "x".repeat(60_000);
    let long = [
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-for",
        "forwarded",
    ]
    .map(|name| (name, &*long));
    assert_eq!(
        get(server(true), &[&[host], &long[..]].concat()).await,
        peer
    );
    // The configured address comes first, and a client has no proxy in front of it.
    let configured =
        server(true).callee(tower_tracer::rpc::Endpoint::default().address("configured:1"));
    assert_eq!(
        get(configured, &[host, standard]).await,
        "client.address=192.0.2.1 server.address=configured server.port=1 url.scheme=https"
    );
    let client = TracerLayer::new(telemetry.tracer().trust_forwarded()).client();
    let own = "server.address=inner.example server.port=8080";
    assert_eq!(get(client, &[host, standard]).await, own);

    // The scheme is a label, the addresses are not.
    let mut of_metrics = Vec::new();
    for point in telemetry.histogram("http.server.request.duration") {
        of_metrics.push(point.attributes.join(" "));
    }
    of_metrics.sort();
    let label = |scheme: &str| {
        format!(
            "http.request.method=GET http.response.status_code=200 network.protocol.version=1.1 \
             url.scheme={scheme}"
        )
    };
    assert_eq!(of_metrics, [label("http"), label("https")]);
    let mut in_flight = telemetry.sum("http.server.active_requests");
    in_flight.sort();
    let label = |scheme: &str| (format!("http.request.method=GET url.scheme={scheme}"), 0);
    assert_eq!(in_flight, [label("http"), label("https")]);
}

#[tokio::test]
async fn the_span_of_an_rpc_has_the_addresses_that_a_trusted_proxy_says() {
    let telemetry = Telemetry::new();
    let headers = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "echo.example:50051"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    for (tracer, expected) in [
        (telemetry.tracer(), vec![]),
        (
            telemetry.tracer().trust_forwarded(),
            vec![
                "client.address=192.0.2.1",
                "server.address=echo.example",
                "server.port=50051",
            ],
        ),
    ] {
        let tracer = tracer.methods(KnownMethods::new(["a.B/C"]));
        let service = in_process(TracerLayer::new(tracer).server());
        service.oneshot(request("/a.B/C", &headers)).await.unwrap();
        let mut found = attributes(&last(&telemetry).attributes);
        found.retain(|a| !a.starts_with("rpc."));
        assert_eq!(found, expected);
    }
    let points = telemetry.histogram("rpc.server.call.duration");
    assert_eq!(points.len(), 1, "no labels: {points:?}");
}

#[tokio::test]
async fn connect_and_grpc_web_have_their_own_descriptions() {
    let telemetry = Telemetry::new();
    let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).client())
        .service_fn(|request: http::Request<String>| async move {
            let mut response = http::Response::new(request.into_body());
            if !response.body().is_empty() {
                *response.status_mut() = http::StatusCode::NOT_FOUND;
                let json = "application/json".parse().unwrap();
                response.headers_mut().insert("content-type", json);
            }
            Ok::<_, std::convert::Infallible>(response)
        });
    let call = async |content_type: &str, body: &str| {
        let mut request = request("/a.B/C", &[("connect-protocol-version", "1")]);
        let headers = request.headers_mut();
        headers.insert("content-type", content_type.parse().unwrap());
        let request = request.map(|_| body.to_owned());
        let response = service.clone().oneshot(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        drop(body.unwrap());
        attributes(&last(&telemetry).attributes)
    };
    let connect = ["rpc.method=a.B/C", "rpc.system.name=connectrpc"];
    assert_eq!(call("application/proto", "").await, connect);
    assert_eq!(
        call("application/proto", r#"{"code":"not_found"}"#).await,
        [
            "error.type=not_found",
            "rpc.method=a.B/C",
            "rpc.status_code=not_found",
            "rpc.system.name=connectrpc",
        ]
    );
    let get = http::Request::get("/a.B/C?connect=v1&encoding=json&message=secret");
    let get = service.clone().oneshot(get.body(String::new()).unwrap());
    drop(get.await.unwrap());
    assert_eq!(attributes(&last(&telemetry).attributes), connect);
    assert_eq!(last(&telemetry).name, "a.B/C");
    // A response that ends without a status.
    assert_eq!(
        call("application/grpc-web", "").await,
        [
            "error.type=UNKNOWN",
            "rpc.method=a.B/C",
            "rpc.status_code=UNKNOWN",
            "rpc.system.name=grpc",
        ]
    );
}

#[tokio::test]
async fn the_legacy_conventions_have_their_own_words_for_connect() {
    let telemetry = Telemetry::new();
    let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer.conventions(Conventions::Legacy)).client())
        .service_fn(async |_: http::Request<String>| {
            let error = r#"{"code":"not_found"}"#.to_owned();
            let response = http::Response::builder().status(404);
            let response = response.header("content-type", "application/json");
            Ok::<_, std::convert::Infallible>(response.body(error).unwrap())
        });
    let mut request = request("/a.B/C", &[("connect-protocol-version", "1")]);
    let proto = "application/proto".parse().unwrap();
    request.headers_mut().insert("content-type", proto);
    let response = service.oneshot(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    drop(body.unwrap());
    let expected = [
        "rpc.connect_rpc.error_code=not_found",
        "rpc.method=C",
        "rpc.service=a.B",
        "rpc.system=connect_rpc",
    ];
    assert_eq!(attributes(&last(&telemetry).attributes), expected);
    let points = telemetry.histogram("rpc.client.duration");
    assert_eq!(points[0].attributes, expected);
}

/// Tracing and metrics over OTLP, sent often, from short queues, to this address.
fn over_otlp(endpoint: &str) -> (SdkTracerProvider, SdkMeterProvider) {
    const OFTEN: Duration = Duration::from_millis(10);
    const PATIENCE: Duration = Duration::from_secs(1);
    let spans = SpanExporter::builder().with_tonic();
    let spans = spans.with_endpoint(endpoint).with_timeout(PATIENCE).build();
    let config = BatchConfigBuilder::default()
        .with_scheduled_delay(OFTEN)
        .with_max_queue_size(16)
        .with_max_export_batch_size(16);
    let processor = BatchSpanProcessor::builder(spans.unwrap()).with_batch_config(config.build());
    let spans = SdkTracerProvider::builder().with_span_processor(processor.build());
    let metrics = MetricExporter::builder().with_tonic();
    let metrics = metrics.with_endpoint(endpoint).with_timeout(PATIENCE);
    let reader = PeriodicReader::builder(metrics.build().unwrap()).with_interval(OFTEN);
    let metrics = SdkMeterProvider::builder().with_reader(reader.build());
    (spans.build(), metrics.build())
}

// Ending 40.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pass_and_a_shutdown_ends_while_the_collector_is_down() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // One accepts and never answers; the other has no listener.
    let addresses = [&silent, &gone].map(|listener| listener.local_addr().unwrap());
    drop(gone);
    for address in addresses {
        let (spans, metrics) = over_otlp(&format!("http://{address}"));
        let tracer = || {
            let tracer = otel::OtelTracer::new().tracer_provider(&spans);
            tracer.meter_provider(&metrics)
        };
        let (uri, served) = serve(EchoService, tracer()).await;
        let (client, called) = connect(&uri, tracer()).await;
        let call = async |count: usize| {
            let begun = Instant::now();
            for _ in 0..count {
                let answer = soon(client.clone().unary_echo(say("hello"))).await.unwrap();
                assert_eq!(answer.into_inner().message, "hello");
                let fails = EchoRequest {
                    code: tonic::Code::NotFound as u32,
                    ..say("no")
                };
                let error = soon(client.clone().unary_echo(fails)).await.unwrap_err();
                assert_eq!((error.code(), error.message()), (Code::NotFound, "no"));
            }
            begun.elapsed()
        };
        // Were each to wait for an export, they took a hundred seconds.
        let took = call(50).await;
        assert!(took < Duration::from_secs(20), "{took:?}");

        let stop = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            // That what is left could not be sent, is said here.
            let _ = spans.shutdown();
            let _ = metrics.shutdown();
            begun.elapsed()
        });
        let took = tokio::time::timeout(Duration::from_secs(60), stop).await;
        let took = took.expect("a shutdown ends").unwrap();
        assert!(took < Duration::from_secs(30), "{took:?}");

        call(1).await;
        for seen in [served, called] {
            soon(seen.wait_finished(102)).await;
            assert_eq!(seen.started().len(), 102);
        }
    }
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_ok(), "something was to be exported");
}
