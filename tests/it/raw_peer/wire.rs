//! What is counted and reported when a peer's bytes, paths, headers and deadlines are not what they
//! should be; and that all of it passes through unchanged.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::raw_peer::{
    End,
    Kind::{ServerStreaming, Unary},
    RawClient, Step, data, encoded, framed, map, meet, meet_asking, meet_with, message, ok, serve,
    serve_routes, serve_script, trailers,
};
use crate::support::tcp::{
    echo::{EchoRequest, EchoServer, EchoService, say},
    soon,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use prost::Message as _;
use tonic::{service::Routes, transport::Server};
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{
    Code, Ending, RequestParts, RpcInfo, Status, Tracer, TracerLayer,
    rpc::{Protocol, Traffic},
    testing::RecordingTracer,
};

const UNARY: &str = "/echo.Echo/UnaryEcho";

#[track_caller]
fn reports(rpc: &RpcInfo, ending: Ending, code: Code, wire: Option<Code>) {
    let stats = rpc.stats();
    assert_eq!(stats.ending(), Some(ending), "{rpc:?}");
    assert_eq!(stats.status(), Some(Status::Grpc(code)), "{rpc:?}");
    assert_eq!(stats.wire_status(), wire.map(Status::Grpc), "{rpc:?}");
}

/// A body and what is to be counted of it.
#[derive(Clone, Debug)]
struct Sample {
    name: &'static str,
    pieces: Vec<Bytes>,
    messages: u64,
    message_bytes: u64,
    compressed: u64,
    truncated: bool,
    /// Whether tonic's client gives up when it sees it.
    refused: bool,
}

impl Sample {
    fn new(name: &'static str, pieces: Vec<Bytes>, messages: u64, message_bytes: u64) -> Self {
        Self {
            name,
            pieces,
            messages,
            message_bytes,
            compressed: 0,
            truncated: false,
            refused: false,
        }
    }

    fn truncated(self) -> Self {
        let truncated = true;
        Self { truncated, ..self }
    }

    fn refused(self) -> Self {
        let refused = true;
        Self { refused, ..self }
    }

    fn steps(&self) -> impl Iterator<Item = Step> {
        self.pieces.iter().cloned().map(Step::Data)
    }

    #[track_caller]
    fn is_counted(&self, traffic: Traffic) {
        let name = self.name;
        let bytes = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        assert_eq!(traffic.messages(), Some(self.messages), "{name}");
        assert_eq!(traffic.message_bytes(), Some(self.message_bytes), "{name}");
        assert_eq!(traffic.body_bytes(), Some(bytes), "{name}");
        assert_eq!(
            traffic.compressed_messages(),
            Some(self.compressed),
            "{name}"
        );
        assert_eq!(traffic.truncated(), self.truncated, "{name}");
    }
}

type Seen = Arc<Mutex<Vec<Request<Bytes>>>>;

/// A handler that keeps what it got, and answers OK.
fn mirror() -> (Routes, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let answer = move |request: axum::extract::Request| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            kept.lock().unwrap().push(Request::from_parts(head, body));
            [("content-type", "application/grpc"), ("grpc-status", "0")]
        }
    };
    (Routes::from(axum::Router::new().fallback(answer)), seen)
}

/// `bytes`, each in a piece of its own.
fn split(bytes: &[u8]) -> Vec<Bytes> {
    let piece = |byte: &u8| Bytes::copy_from_slice(&[*byte]);
    bytes.iter().map(piece).collect()
}

fn samples() -> Vec<Sample> {
    let hello = || framed(0, &encoded("hello"));
    let empty = || vec![Bytes::new(); 50];
    let compressed = Sample {
        compressed: 1,
        ..Sample::new(
            "compressed, no encoding named",
            vec![framed(1, b"zip")],
            1,
            3,
        )
    };
    vec![
        Sample::new("no data at all", vec![], 0, 0),
        Sample::new("a message without content", vec![framed(0, b"")], 1, 0),
        Sample::new("byte by byte", split(&[hello(), hello()].concat()), 2, 14),
        Sample::new(
            "between empty frames",
            [empty(), vec![hello()], empty()].concat(),
            1,
            7,
        ),
        Sample::new(
            "two in one frame",
            vec![[hello(), hello()].concat().into()],
            2,
            14,
        ),
        Sample::new("one and a half", vec![hello(), hello().slice(..9)], 1, 7).truncated(),
        Sample::new(
            "trailing bytes",
            vec![hello(), Bytes::from_static(b"\0\0\0")],
            1,
            7,
        )
        .truncated(),
        Sample::new("half a prefix", vec![Bytes::from_static(b"\0\0")], 0, 0).truncated(),
        Sample::new(
            "4 GiB promised",
            vec![Bytes::from_static(b"\0\xff\xff\xff\xffgo on")],
            0,
            0,
        )
        .truncated()
        .refused(),
        Sample::new("flag 60", vec![framed(60, b"what")], 1, 4).refused(),
        compressed.refused(),
    ]
}

// Ending 18. Ending 19. Ending 20.
#[tokio::test]
async fn a_response_is_counted_as_it_came_on_a_client() {
    for sample in samples() {
        let mut script = vec![ok()];
        script.extend(sample.steps());
        script.push(trailers(&[("grpc-status", "0")]));
        let met = meet(ServerStreaming, script).await;
        sample.is_counted(met.rpc.stats().response());
        if sample.refused {
            // tonic drops the body.
            reports(&met.rpc, Ending::Cancelled, Code::Cancelled, None);
            assert_ne!(met.got.code(), Some(tonic::Code::Ok));
        } else {
            reports(&met.rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
        }
    }
}

// Ending 18. Ending 19. Ending 20.
#[tokio::test]
async fn a_response_is_counted_as_it_came_on_a_server() {
    for sample in samples() {
        let mut script = vec![ok()];
        script.extend(sample.steps());
        script.push(trailers(&[("grpc-status", "0")]));
        let served = serve(script).await;
        sample.is_counted(served.rpc.stats().response());
        assert_eq!(
            served.answer.data,
            sample.pieces.concat(),
            "{}",
            sample.name
        );
        reports(&served.rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
    }
}

// Ending 18. Ending 19. Ending 20.
#[tokio::test]
async fn a_request_is_counted_as_it_came_on_a_server() {
    for sample in samples() {
        let (routes, seen) = mirror();
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let uri = serve_routes(Some(layer), Server::builder(), routes).await;
        let mut client = RawClient::connect(&uri).await;
        let mut call = client.open(UNARY, &[]).await;
        for piece in &sample.pieces {
            call.data(piece.clone());
        }
        call.end();
        soon(call.answer()).await;

        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        sample.is_counted(rpc.stats().request());
        assert!(rpc.stats().request().is_complete());
        let request = seen.lock().unwrap().remove(0);
        assert_eq!(*request.body(), sample.pieces.concat(), "{}", sample.name);
    }
}

/// The routes of the Echo service.
fn echo() -> Routes {
    Routes::new(EchoServer::new(EchoService))
}

#[tokio::test]
async fn a_request_is_counted_and_passes_as_it_is_on_a_client() {
    for length in [0, 1, 500, 200_000] {
        let text = "x".repeat(length);
        let end = trailers(&[("grpc-status", "0")]);
        let met = meet_asking(
            Unary,
            [Step::Read, ok(), message("one"), end],
            |endpoint| endpoint,
            || tonic::Request::new(say(&*text)),
        )
        .await;
        let message = encoded(&text);
        assert_eq!(met.sent, framed(0, &message));
        let request = met.rpc.stats().request();
        assert_eq!(request.messages(), Some(1));
        assert_eq!(request.message_bytes(), Some(message.len() as u64));
        assert_eq!(request.body_bytes(), Some(message.len() as u64 + 5));
        assert!(request.is_complete() && !request.truncated());
    }
}

// Ending 20.
#[tokio::test]
async fn two_messages_in_a_unary_call_are_two_messages() {
    let end = trailers(&[("grpc-status", "0")]);
    let met = meet(Unary, [ok(), message("one"), message("two"), end]).await;
    assert_eq!(met.rpc.stats().response().messages(), Some(2));
    assert_eq!(met.got.messages, ["one"]);
    reports(&met.rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));

    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone());
    let uri = serve_routes(Some(layer), Server::builder(), echo()).await;
    let both = [framed(0, &encoded("one")), framed(0, &encoded("two"))].concat();
    let mut client = RawClient::connect(&uri).await;
    let answer = client.ask(UNARY, &[], both.into()).await;
    assert_eq!(answer.data, framed(0, &encoded("one")));
    let rpc = soon(recorder.wait_finished(1)).await.remove(0);
    assert_eq!(rpc.stats().request().messages(), Some(2));
    reports(&rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
}

// Ending 18. Ending 19.
#[tokio::test]
async fn a_request_that_tonic_refuses_has_the_status_that_tonic_answers() {
    for (body, code) in [
        (&b"\0\xff\xff\xff\xffgo on"[..], Code::OutOfRange),
        (b"\x3c\0\0\0\x04what", Code::Internal),
        (b"\x01\0\0\0\x03zip", Code::Internal),
        (b"\0\0\0\0\x09half", Code::Internal),
        (b"", Code::Internal),
    ] {
        let body = Bytes::from_static(body);
        let plain = serve_routes(None, Server::builder(), echo()).await;
        let mut client = RawClient::connect(&plain).await;
        let expected = client.ask(UNARY, &[], body.clone()).await;

        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let traced = serve_routes(Some(layer), Server::builder(), echo()).await;
        let mut client = RawClient::connect(&traced).await;
        assert_eq!(client.ask(UNARY, &[], body.clone()).await, expected);

        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        reports(&rpc, Ending::HeadersOnly, code, Some(code));
        assert_eq!(rpc.stats().request().body_bytes(), Some(body.len() as u64));
    }
}

// Ending 19.
#[tokio::test]
async fn a_body_that_ends_inside_a_message_is_truncated() {
    let half = Step::Data(framed(0, &encoded("two")).slice(..7));
    let met = meet(ServerStreaming, [ok(), message("one"), half, Step::End]).await;
    // tonic calls it INTERNAL; all that the wire says is that there was no status.
    assert_eq!(met.got.code(), Some(tonic::Code::Internal));
    reports(&met.rpc, Ending::BodyEnd, Code::Unknown, None);
    assert_eq!(met.rpc.stats().response().messages(), Some(1));
    assert!(met.rpc.stats().response().truncated());
    assert!(met.rpc.stats().response().is_complete());
}

// Ending 19.
#[tokio::test]
async fn a_million_empty_frames_count_no_message() {
    // h2 keeps empty frames to itself, and closes the connection after a hundred; other transports
    // need not.
    let frames = 1_000_000;
    let empty = (0..frames).map(|_| Frame::data(Bytes::new()));
    let end = [
        Frame::data(framed(0, b"hello")),
        Frame::trailers(map(&[("grpc-status", "0")])),
    ];
    let body = tokio_stream::iter(empty.chain(end).map(Ok::<_, Infallible>));
    let body = Mutex::new(Some(StreamBody::new(body)));
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .service_fn(async |_: Request<Empty<Bytes>>| {
            let mut response = Response::new(body.lock().unwrap().take().unwrap());
            *response.headers_mut() = map(&[("content-type", "application/grpc")]);
            Ok::<_, Infallible>(response)
        });
    let mut request = Request::new(Empty::new());
    *request.headers_mut() = map(&[("content-type", "application/grpc")]);
    let mut body = service.oneshot(request).await.unwrap().into_body();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        seen += 1;
    }

    assert_eq!(seen, frames + 2);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().response().messages(), Some(1));
    assert_eq!(rpc.stats().response().body_bytes(), Some(10));
    reports(&rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
}

// Ending 19.
#[tokio::test]
async fn more_empty_frames_than_h2_allows_fail_as_without_the_layer() {
    let mut script = vec![ok(), message("one")];
    script.extend(vec![data(b""); 1000]);
    script.push(trailers(&[("grpc-status", "0")]));
    let met = meet(ServerStreaming, script).await;
    assert_eq!(met.got.code(), Some(tonic::Code::ResourceExhausted));
    let code = Code::ResourceExhausted;
    reports(&met.rpc, Ending::BodyError, code, Some(code));
    assert_eq!(met.rpc.stats().response().messages(), Some(1));
}

// Ending 21. Ending 22.
#[tokio::test]
async fn a_path_that_names_no_method_is_served_without_a_method_name() {
    let long = format!("/long/{}", "x".repeat(60_000));
    for (path, full_method) in [
        ("/", None),
        ("//", None),
        ("/x", None),
        ("/a/", None),
        ("//b", None),
        ("/a/b/c/d", None),
        ("/\u{e9}/\u{fc}", None),
        ("/%43/%43", None),
        ("/echo.Echo/Unary%45cho", None),
        (&long, None),
        ("/a/b?token=secret", Some("a/b")),
        (
            "/echo.Echo/UnaryEcho?token=secret",
            Some("echo.Echo/UnaryEcho"),
        ),
        ("/?token=secret/x", None),
    ] {
        let (routes, seen) = mirror();
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let uri = serve_routes(Some(layer), Server::builder(), routes).await;
        let mut client = RawClient::connect(&uri).await;
        client.ask(path, &[], framed(0, b"hello")).await;

        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        reports(&rpc, Ending::HeadersOnly, Code::Ok, Some(Code::Ok));
        assert_eq!(rpc.full_method(), full_method, "{path:.50}");
        let names = full_method.and_then(|full| full.split_once('/'));
        assert_eq!(
            (rpc.service(), rpc.method()),
            match names {
                Some((service, method)) => (Some(service), Some(method)),
                None => (None, None),
            }
        );
        assert_eq!(rpc.path(), path.split('?').next().unwrap());
        assert!(!format!("{rpc:?}").contains("secret"));
        let request = seen.lock().unwrap().remove(0);
        assert_eq!(request.uri().path_and_query().unwrap(), path);
    }
}

// Ending 21.
#[tokio::test]
async fn a_star_path_is_served_and_names_no_method() {
    let recorder = RecordingTracer::new();
    let uri = serve_script(Some(&recorder), [Step::HeadersOnly(204, HeaderMap::new())]).await;
    let mut client = RawClient::connect(&uri).await;
    let grpc = map(&[("content-type", "application/grpc")]);
    let mut call = client.open_with(Method::OPTIONS, "*", grpc).await.unwrap();
    call.end();
    let answer = soon(call.answer()).await;

    let rpc = soon(recorder.wait_finished(1)).await.remove(0);
    assert_eq!(answer.status, 204);
    assert_eq!(rpc.path(), "*");
    assert_eq!(rpc.full_method(), None);
    assert_eq!(rpc.http_method(), Some(&Method::OPTIONS));
    reports(&rpc, Ending::HeadersOnly, Code::Unknown, None);
}

// Ending 23.
#[tokio::test]
async fn a_request_that_is_not_grpc_is_traced_as_plain_http() {
    let html = map(&[("content-type", "text/html")]);
    for (method, headers) in [
        (Method::GET, HeaderMap::new()),
        (Method::GET, html.clone()),
        (Method::POST, HeaderMap::new()),
        (Method::POST, html),
    ] {
        let plain = serve_routes(None, Server::builder(), echo()).await;
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let traced = serve_routes(Some(layer), Server::builder(), echo()).await;
        let mut answers = Vec::new();
        for uri in [plain, traced] {
            let mut client = RawClient::connect(&uri).await;
            let call = client.open_with(method.clone(), UNARY, headers.clone());
            let mut call = call.await.unwrap();
            call.end();
            answers.push(soon(call.answer()).await);
        }
        assert_eq!(answers[0], answers[1]);

        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        assert_eq!(rpc.protocol(), Protocol::Http);
        assert_eq!(rpc.http_method(), Some(&method));
        assert_eq!(rpc.stats().status(), Some(Status::Http(answers[0].status)));
        assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
        assert_eq!(rpc.full_method(), None);
        assert_eq!(rpc.path(), UNARY);
        assert_eq!(rpc.stats().request().messages(), None);
    }
}

/// Counts ends and keeps nothing.
#[derive(Default)]
struct Ends(AtomicUsize);

impl Tracer for Ends {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), _: &RpcInfo) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

// Ending 24.
#[test]
fn a_million_paths_keep_no_memory() {
    const EACH: usize = 250_000;
    let ends = Arc::new(Ends::default());
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(Arc::clone(&ends)).server())
        .service_fn(|request: Request<Empty<Bytes>>| {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.headers_mut() = request.into_parts().0.headers;
            std::future::ready(Ok::<_, Infallible>(response))
        });
    let headers = map(&[("content-type", "application/grpc"), ("grpc-status", "0")]);
    let call = &|number: usize| {
        let path = Bytes::from(format!("/svc.S{number}/M{number}"));
        let path = http::uri::PathAndQuery::from_maybe_shared(path).unwrap();
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = path.into();
        request.headers_mut().clone_from(&headers);
        let response = futures_util::FutureExt::now_or_never(service.clone().call(request));
        assert!(response.unwrap().is_ok());
    };
    // A million in one thread take long without optimization.
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                call(0);
                let paths = part * EACH + 1..=(part + 1) * EACH;
                let measured = allocation_counter::measure(|| paths.for_each(call));
                assert_eq!(measured.bytes_current, 0);
                assert!(measured.bytes_max < 64 * 1024, "{measured:?}");
            });
        }
    });
    assert_eq!(ends.0.load(Ordering::Relaxed), 1_000_004);
}

/// Headers that peers send and that the layer does not read.
fn odd_headers() -> HeaderMap {
    let mut odd = HeaderMap::new();
    let mut add = |name: &'static str, value: &[u8]| {
        odd.append(name, HeaderValue::from_bytes(value).unwrap());
    };
    add("traceparent", b"00-1234");
    add("traceparent", "\u{e9}".as_bytes());
    add(
        "traceparent",
        b"00-00000000000000000000000000000000-0000000000000000-01",
    );
    add(
        "traceparent",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    for member in 0..40 {
        add(
            "tracestate",
            format!("vendor{member}=secret{member}").as_bytes(),
        );
    }
    add("baggage", &[b'b'; 9 * 1024]);
    for entry in 0..200 {
        add("baggage", format!("key{entry}=secret{entry}").as_bytes());
    }
    add("authorization", b"Bearer secret");
    add("cookie", b"session=secret");
    add("token-bin", b"c2VjcmV0");
    add("grpc-previous-rpc-attempts", b"secret");
    odd
}

/// Nothing of a request's headers is in its record.
#[track_caller]
fn tells_nothing(rpc: &RpcInfo) {
    assert!(rpc.parent().is_none());
    assert_eq!(rpc.tags(), []);
    assert_eq!(rpc.attempt(), 1);
    assert_eq!(rpc.timeout(), None);
    let printed = format!("{rpc:?} {:?} {:?}", rpc.stats(), rpc.stats().events());
    assert!(!printed.contains("secret") && !printed.contains("c2VjcmV0"));
}

// Ending 25. Ending 26. Ending 27.
#[tokio::test]
async fn odd_headers_reach_the_handler_and_no_record() {
    let (routes, seen) = mirror();
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone());
    let uri = serve_routes(Some(layer), Server::builder(), routes).await;
    let mut client = RawClient::connect(&uri).await;
    let mut sent = odd_headers();
    sent.insert("content-type", HeaderValue::from_static("application/grpc"));
    let call = client.open_with(Method::POST, UNARY, sent.clone());
    let mut call = call.await.unwrap();
    call.end();
    let answer = soon(call.answer()).await;
    assert_eq!(answer.grpc_status(), Some(&b"0"[..]));

    assert_eq!(*seen.lock().unwrap()[0].headers(), sent);
    let rpc = soon(recorder.wait_finished(1)).await.remove(0);
    tells_nothing(&rpc);
}

// Ending 25. Ending 26. Ending 27.
#[tokio::test]
async fn odd_metadata_of_a_client_reaches_the_server_and_no_record() {
    // `meet` compares what arrived with what an untraced client sends.
    let end = trailers(&[("grpc-status", "0"), ("set-cookie", "secret")]);
    let met = meet_asking(
        ServerStreaming,
        [ok(), message("one"), end],
        |endpoint| endpoint,
        || {
            let mut request = tonic::Request::new(say("hello"));
            let mut headers = odd_headers();
            for (_, value) in headers.iter_mut() {
                value.set_sensitive(true);
            }
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
            request
        },
    )
    .await;
    reports(&met.rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
    tells_nothing(&met.rpc);
    let End::Ok(trailers) = met.got.end else {
        panic!("{:?}", met.got)
    };
    assert_eq!(trailers["set-cookie"], "secret");
}

#[tokio::test]
async fn a_valid_timeout_is_read_and_an_invalid_one_is_ignored() {
    let day = Duration::from_secs(24 * 60 * 60);
    for (value, timeout) in [
        ("24H", Some(day)),
        ("1440M", Some(day)),
        ("86400S", Some(day)),
        ("86400000m", Some(day)),
        ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
        ("864000000m", None),
        ("1h", None),
        ("-1S", None),
        ("1.5S", None),
        ("S", None),
        ("", None),
        ("banana", None),
        ("\u{e9}S", None),
    ] {
        let (routes, seen) = mirror();
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let uri = serve_routes(Some(layer), Server::builder(), routes).await;
        let mut client = RawClient::connect(&uri).await;
        let answer = client
            .ask(UNARY, &[("grpc-timeout", value)], framed(0, b"hello"))
            .await;
        assert_eq!(answer.grpc_status(), Some(&b"0"[..]), "{value:?}");
        assert_eq!(seen.lock().unwrap()[0].headers()["grpc-timeout"], value);
        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        assert_eq!(rpc.timeout(), timeout, "{value:?}");
    }
}

// Ending 36.
#[tokio::test]
async fn a_deadline_that_passes_on_a_client_is_a_deadline_though_tonic_says_cancelled() {
    let timeout = Duration::from_millis(50);
    let asked = || {
        let mut request = tonic::Request::new(say("hello"));
        request.set_timeout(timeout);
        request
    };
    for kind in [Unary, ServerStreaming] {
        let met = meet_asking(kind, [Step::Forever], |endpoint| endpoint, asked).await;
        is_deadline(&met.rpc, &met.got);
        assert_eq!(met.rpc.timeout(), Some(timeout));
        // The channel's own timeout, which is not in a header.
        let met = meet_with(kind, [Step::Forever], |endpoint| endpoint.timeout(timeout)).await;
        is_deadline(&met.rpc, &met.got);
        assert_eq!(met.rpc.timeout(), None);
    }
}

#[track_caller]
fn is_deadline(rpc: &RpcInfo, got: &crate::support::raw_peer::Got) {
    assert_eq!(got.code(), Some(tonic::Code::Cancelled));
    reports(
        rpc,
        Ending::Deadline,
        Code::DeadlineExceeded,
        Some(Code::Cancelled),
    );
}

// Ending 36.
#[tokio::test]
async fn the_configured_timeout_of_a_server_is_a_deadline() {
    let own = Duration::from_millis(100);
    let request = EchoRequest {
        delay_ms: 1_000_000,
        ..say("hello")
    };
    let body = framed(0, &request.encode_to_vec());
    for (configured, asked, known) in [
        (Some(own), None, Some(own)),
        (Some(own), Some("1H"), Some(own)),
        (Some(own), Some("50m"), Some(Duration::from_millis(50))),
        (None, Some("50m"), Some(Duration::from_millis(50))),
        (None, None, None),
    ] {
        let recorder = RecordingTracer::new();
        let mut layer = TracerLayer::new(recorder.clone());
        if let Some(configured) = configured {
            layer = layer.server_timeout(configured);
        }
        let server = Server::builder().timeout(own);
        let uri = serve_routes(Some(layer), server, echo()).await;
        let mut client = RawClient::connect(&uri).await;
        let asked: Vec<_> = asked
            .map(|asked| ("grpc-timeout", asked))
            .into_iter()
            .collect();
        let answer = client.ask(UNARY, &asked, body.clone()).await;
        // tonic's timeout is outside of the layer, which is only dropped.
        assert_eq!(answer.grpc_status(), Some(&b"1"[..]));
        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        assert_eq!(rpc.timeout(), known);
        match known {
            Some(_) => reports(&rpc, Ending::Deadline, Code::DeadlineExceeded, None),
            None => reports(&rpc, Ending::Cancelled, Code::Cancelled, None),
        }
    }
}
