//! Plain HTTP exchanges.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Method, StatusCode},
    response::Response,
    routing,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::sync::Notify;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_tracer::{
    Code, Ending, Event, Role, RpcInfo, Status, TracerLayer, rpc::Protocol,
    testing::RecordingTracer,
};

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("done within ten seconds")
}

/// One exchange through a server's layer, its body read to the end, in process.
async fn exchange(request: Request, response: Response) -> (RpcInfo, Vec<String>) {
    let recorder = RecordingTracer::new();
    let mut response = Some(response);
    let service = TracerLayer::new(recorder.clone()).layer(service_fn(move |request: Request| {
        let response = response.take().unwrap();
        async move {
            request.into_body().collect().await?;
            Ok::<_, axum::Error>(response)
        }
    }));
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    (recorder.only_finished(), recorder.log())
}

fn post(body: impl Into<Body>) -> Request {
    Request::post("/upload?secret=1").body(body.into()).unwrap()
}

fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

fn streamed(pieces: &[&'static str]) -> Body {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Ok::<_, Infallible>(*piece))
        .collect();
    Body::from_stream(tokio_stream::iter(pieces))
}

#[tokio::test]
async fn the_headers_give_the_status_and_bytes_are_counted() {
    for (status, failed) in [
        (200, false),
        (201, false),
        (302, false),
        (404, false),
        (500, true),
        (999, true),
    ] {
        let (rpc, log) = exchange(post("hello"), answer(status, "a page")).await;
        let stats = rpc.stats();
        assert_eq!(rpc.protocol(), Protocol::Http);
        assert_eq!(rpc.role(), Role::Server);
        assert_eq!(rpc.http_method(), Some(&Method::POST));
        assert_eq!((rpc.path(), rpc.full_method()), ("/upload", None));
        assert_eq!(stats.status(), Some(Status::Http(status)));
        assert_eq!(stats.http_status(), Some(status));
        assert_eq!(stats.failed(), failed);
        assert_eq!(stats.request().body_bytes(), Some(5));
        assert_eq!(stats.response().body_bytes(), Some(6));
        let end = format!("finish body_end {status}");
        let expected = [
            "start",
            "request_headers",
            "half_close",
            "response_headers",
            &end,
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn figures_that_http_does_not_have_are_unknown() {
    let (rpc, _) = exchange(post("hello"), answer(200, "a page")).await;
    for traffic in [rpc.stats().request(), rpc.stats().response()] {
        assert_eq!(traffic.messages(), None);
        assert_eq!(traffic.compressed_messages(), None);
        assert_eq!(traffic.message_bytes(), None);
        assert_eq!(traffic.last_message_bytes(), None);
        assert_eq!(traffic.first_message_at(), None);
        assert!(traffic.is_complete() && !traffic.truncated());
    }
    assert_eq!(rpc.timeout(), None);
    assert_eq!(rpc.deadline(), None);
    assert_eq!(rpc.attempt(), 1);
}

#[tokio::test]
async fn a_request_that_cannot_be_observed_has_no_figures() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service_fn(async |request: http::Request<String>| {
            request.into_body().collect().await?;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
    let request = http::Request::new("hello".to_owned());
    service.oneshot(request).await.unwrap();
    let stats = recorder.only_finished();
    let request = stats.stats().request();
    assert_eq!(request.body_bytes(), None, "unknown is not zero");
    assert!(!request.is_complete());
    assert_eq!(stats.stats().at(Event::HALF_CLOSE), None);
    assert_eq!(stats.stats().response().body_bytes(), Some(0));
}

#[tokio::test]
async fn an_empty_request_is_known_to_be_empty() {
    let (rpc, log) = exchange(post(Body::empty()), answer(200, Body::empty())).await;
    assert_eq!(rpc.stats().request().body_bytes(), Some(0));
    assert_eq!(rpc.stats().response().body_bytes(), Some(0));
    assert_eq!(log.last().unwrap(), "finish headers_only 200");
}

// A server stops polling once it has sent so much as the header says.
#[tokio::test]
async fn a_body_of_known_length_ends_with_its_last_byte() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service_fn(async |_: Request| {
            let response = Response::builder().header("content-length", "11");
            response.body(streamed(&["hello ", "world"]))
        });
    let mut body = service.oneshot(post("")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(recorder.finished().is_empty());
    body.frame().await.unwrap().unwrap();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
    assert_eq!(rpc.stats().response().body_bytes(), Some(11));
    assert!(rpc.stats().response().is_complete());
    drop(body);
    assert_eq!(recorder.finished().len(), 1);
}

#[tokio::test]
async fn a_header_that_is_not_a_length_does_not_end_a_body() {
    for length in ["banana", "-1", "", "99999999999999999999", "100"] {
        let recorder = RecordingTracer::new();
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()))
            .service_fn(async |request: Request| {
                let length = &request.headers()["length"];
                let response = Response::builder().header("content-length", length);
                response.body(streamed(&["hello ", "world"]))
            });
        let mut request = post("");
        request
            .headers_mut()
            .insert("length", length.parse().unwrap());
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
        assert_eq!(rpc.stats().response().body_bytes(), Some(11));
    }
}

#[tokio::test]
async fn a_body_dropped_early_is_cancelled_and_keeps_the_status() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service_fn(async |_: Request| {
            Ok::<_, Infallible>(answer(200, streamed(&["hello ", "world"])))
        });
    let mut body = service.oneshot(post("")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().wire_status(), None);
    assert_eq!(rpc.stats().response().body_bytes(), Some(6));
    assert!(!rpc.stats().response().is_complete());
}

#[tokio::test]
async fn an_exchange_without_a_response_has_no_status() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service_fn(async |_: Request| Err::<Response, _>(std::io::Error::other("gone")));
    service.oneshot(post("hello")).await.unwrap_err();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), None);
    assert_eq!(rpc.stats().http_status(), None);
    assert_eq!(rpc.stats().ending(), Some(Ending::ServiceError));
    assert_eq!(rpc.stats().error(), Some("gone"));
    assert!(rpc.stats().failed());
    assert_eq!(rpc.stats().response().body_bytes(), Some(0));
}

#[tokio::test]
async fn a_body_that_fails_behind_a_good_status_is_a_failure() {
    let recorder = RecordingTracer::new();
    let service = TracerLayer::new(recorder.clone()).layer(service_fn(async |_: Request| {
        let pieces = [Ok("a"), Err(std::io::Error::other("disk"))];
        let body = Body::from_stream(tokio_stream::iter(pieces));
        Ok::<_, Infallible>(answer(200, body))
    }));
    let response = service.oneshot(post("")).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().ending(), Some(Ending::BodyError));
    assert!(rpc.stats().failed());
}

#[tokio::test]
async fn a_response_without_a_body_is_complete_if_a_client_finishes_at_the_response() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(
            TracerLayer::new(recorder.clone())
                .client()
                .finish_at_response(),
        )
        .service_fn(async |_: Request| Ok::<_, Infallible>(answer(200, Body::empty())));
    drop(service.oneshot(post("")).await.unwrap());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
    assert!(rpc.stats().response().is_complete());
    assert_eq!(rpc.stats().response().body_bytes(), Some(0));
}

#[tokio::test]
async fn a_client_can_finish_at_the_response() {
    for (content_type, at_once) in [("text/plain", true), ("application/grpc", false)] {
        let recorder = RecordingTracer::new();
        let service = ServiceBuilder::new()
            .layer(
                TracerLayer::new(recorder.clone())
                    .client()
                    .finish_at_response(),
            )
            .service_fn(move |_: Request| async move {
                let response = Response::builder().header("content-type", content_type);
                response.body(streamed(&["hello ", "world"]))
            });
        let request = Request::post("/echo.Echo/UnaryEcho").header("content-type", content_type);
        let request = request.body(Body::empty()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(recorder.finished().len(), usize::from(at_once));
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "hello world");
        let rpc = recorder.only_finished();
        if at_once {
            assert_eq!(rpc.stats().ending(), Some(Ending::Response));
            assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
            assert_eq!(rpc.stats().response().body_bytes(), None, "not looked at");
        } else {
            assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
        }
    }
}

fn router(release: Arc<Notify>) -> Router {
    let slow = move || {
        let release = Arc::clone(&release);
        let first = futures_util::stream::iter([Ok::<_, Infallible>("first ")]);
        let second = futures_util::stream::once(async move {
            release.notified().await;
            Ok("second")
        });
        let body = Body::from_stream(futures_util::StreamExt::chain(first, second));
        async move { Response::new(body) }
    };
    Router::new()
        .route("/page", routing::get(|| async { "a page" }))
        .route(
            "/nothing",
            routing::get(|| async { StatusCode::NO_CONTENT }),
        )
        // A response to these must not have a body, but a handler can make one.
        .route(
            "/odd",
            routing::get(|| async { (StatusCode::NO_CONTENT, "odd") }),
        )
        .route(
            "/same",
            routing::get(|| async { answer(304, streamed(&["odd"])) }),
        )
        .route(
            "/stream",
            routing::get(|| async { answer(200, streamed(&["a", "bc"])) }),
        )
        .route(
            "/file",
            routing::get(|| async {
                let mut response = answer(200, streamed(&["a", "bc"]));
                response.headers_mut().insert("content-length", 3.into());
                response
            }),
        )
        .route("/slow", routing::get(slow))
        .route("/upload", routing::post(|body: Bytes| async move { body }))
}

/// A body that announces its length, but never that it is at its end.
struct Told(Vec<&'static str>);

impl HttpBody for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let piece = Bytes::from_static(self.0.remove(0).as_bytes());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

// An HTTP/1 server makes the header from it, and drops the body when so much is sent.
#[tokio::test]
async fn a_body_dropped_after_all_announced_bytes_is_complete() {
    use Ending::{BodyEnd, Cancelled, HeadersOnly};
    for (content_type, pieces, polls, ending) in [
        ("text/plain", vec!["hello ", "world"], 2, BodyEnd),
        ("text/plain", vec!["hello ", "world"], 1, Cancelled),
        // Such a server would not have polled again.
        ("text/plain", vec!["hello ", "world"], 3, Cancelled),
        ("text/plain", vec![], 0, HeadersOnly),
        ("text/plain", vec![], 1, Cancelled),
        // Here trailers have to follow.
        ("application/grpc", vec!["\0\0\0\0\x01", "a"], 2, Cancelled),
    ] {
        let recorder = RecordingTracer::new();
        let size = pieces.iter().take(polls).map(|p| p.len() as u64).sum();
        let (mut asked, mut answered) = (None, Some(Told(pieces.clone())));
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()).server())
            .service_fn(|request: Request| {
                asked = Some(request.into_body());
                let response = Response::builder().header("content-type", content_type);
                std::future::ready(response.body(answered.take().unwrap()))
            });
        let request = Request::post("/a.B/C").header("content-type", content_type);
        let request = request.body(Body::new(Told(pieces))).unwrap();
        let mut response = service.oneshot(request).await.unwrap().into_body();
        let mut request = asked.unwrap();
        for _ in 0..polls {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut request).poll_frame(&mut cx);
            let _ = Pin::new(&mut response).poll_frame(&mut cx);
        }
        assert!(recorder.finished().is_empty(), "it may go on");
        drop(request);
        drop(response);
        let stats = recorder.only_finished();
        let stats = stats.stats();
        assert_eq!(stats.ending(), Some(ending), "{content_type} {polls}");
        for traffic in [stats.request(), stats.response()] {
            assert_eq!(traffic.is_complete(), ending != Cancelled);
            assert_eq!(traffic.body_bytes(), Some(size));
        }
    }
}

// The header was written by whoever made the request.
#[tokio::test]
async fn a_request_dropped_after_all_announced_bytes_is_complete() {
    for (length, whole) in [("11", true), ("12", false)] {
        let recorder = RecordingTracer::new();
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()).client())
            .service_fn(async |request: Request| {
                let mut body = request.into_body();
                body.frame().await.unwrap()?;
                body.frame().await.unwrap()?;
                drop(body);
                Ok::<_, axum::Error>(answer(200, ""))
            });
        let request = Request::post("/").header("content-length", length);
        let request = request.body(streamed(&["hello ", "world"])).unwrap();
        service.oneshot(request).await.unwrap();
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().request().is_complete(), whole);
        assert_eq!(recorder.log().contains(&"half_close".to_owned()), whole);
    }
}

#[tokio::test]
async fn a_body_over_http_1_that_announces_only_its_size_is_complete() {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let traced = ServiceBuilder::new()
        .layer(TracerLayer::new(server_side.clone()).server())
        .service_fn(async |request: http::Request<Incoming>| {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Told(vec!["a", "bc"])))
        });
    let (client, server) = tokio::io::duplex(1024);
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), TowerToHyperService::new(traced));
    tokio::spawn(serving);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    let client = ServiceBuilder::new()
        .layer(TracerLayer::new(client_side.clone()).client())
        .service_fn(move |request| sender.send_request(request));
    let request = Request::post("/upload").header("host", "localhost");
    let request = request.body(Body::new(Told(vec!["hello ", "world"])));
    let response = soon(client.oneshot(request.unwrap())).await.unwrap();
    assert_eq!(response.headers()["content-length"], "3");
    let body = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "abc");
    let server = soon(server_side.wait_finished(1)).await.remove(0);
    let client = client_side.only_finished();
    for rpc in [&client, &server] {
        assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd), "{rpc:?}");
        assert!(rpc.stats().response().is_complete());
    }
    assert!(client.stats().request().is_complete());
    assert_eq!(client.stats().request().body_bytes(), Some(11));
}

/// A server, and a client of it, a recorder on each.
struct Pair {
    uri: String,
    server: RecordingTracer,
    release: Arc<Notify>,
}

async fn serve() -> Pair {
    let server = RecordingTracer::new();
    let release = Arc::new(Notify::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let router = router(Arc::clone(&release)).layer(TracerLayer::new(server.clone()));
    let serving = async move { axum::serve(listener, router).await };
    tokio::spawn(serving);
    Pair {
        uri,
        server,
        release,
    }
}

impl Pair {
    /// Calls through a traced client; the response's body is not read yet.
    async fn call(
        &self,
        method: Method,
        path: &str,
        http2: bool,
    ) -> (
        RecordingTracer,
        http::Response<impl HttpBody<Data = Bytes, Error: std::fmt::Debug> + use<>>,
    ) {
        let client_side = RecordingTracer::new();
        let http = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Body>();
        let client = ServiceBuilder::new()
            .layer(TracerLayer::new(client_side.clone()).client())
            .service(http);
        let request = Request::builder()
            .method(&method)
            .uri(format!("{}{path}", self.uri));
        let body = match method {
            Method::POST => Body::from("hello"),
            _ => Body::empty(),
        };
        let response = soon(client.oneshot(request.body(body).unwrap())).await;
        (client_side, response.unwrap())
    }
}

#[tokio::test]
async fn each_exchange_over_http_succeeds_on_both_sides() {
    use Ending::{BodyEnd, HeadersOnly};
    for http2 in [false, true] {
        let pair = serve().await;
        for (method, path, status, bytes, server_bytes, endings) in [
            (Method::GET, "/page", 200, 6, 6, [BodyEnd, BodyEnd]),
            (Method::HEAD, "/page", 200, 0, 0, [HeadersOnly, HeadersOnly]),
            (
                Method::GET,
                "/nothing",
                204,
                0,
                0,
                [HeadersOnly, HeadersOnly],
            ),
            (Method::GET, "/odd", 204, 0, 0, [HeadersOnly, HeadersOnly]),
            (Method::GET, "/stream", 200, 3, 3, [BodyEnd, BodyEnd]),
            (
                Method::HEAD,
                "/stream",
                200,
                0,
                0,
                [HeadersOnly, HeadersOnly],
            ),
            (Method::GET, "/file", 200, 3, 3, [BodyEnd, BodyEnd]),
            (Method::HEAD, "/file", 200, 0, 0, [HeadersOnly, HeadersOnly]),
            (Method::POST, "/upload", 200, 5, 5, [BodyEnd, BodyEnd]),
            (Method::GET, "/none", 404, 0, 0, [HeadersOnly, HeadersOnly]),
        ] {
            if http2 && path == "/odd" {
                // Over HTTP/2 hyper sends what there is.
                continue;
            }
            pair.server.clear();
            let (client_side, response) = pair.call(method.clone(), path, http2).await;
            assert_eq!(response.status(), status);
            let body = soon(response.into_body().collect()).await.unwrap();
            assert_eq!(body.to_bytes().len() as u64, bytes, "{method} {path}");
            let server = soon(pair.server.wait_finished(1)).await.remove(0);
            let client = client_side.only_finished();
            for (rpc, ending) in [&client, &server].into_iter().zip(endings) {
                let stats = rpc.stats();
                let case = format!("{method} {path} {http2} {rpc:?}");
                assert_eq!(stats.status(), Some(Status::Http(status)), "{case}");
                assert_eq!(stats.ending(), Some(ending), "{case}");
            }
            assert_eq!(client.stats().response().body_bytes(), Some(bytes));
            assert_eq!(server.stats().response().body_bytes(), Some(server_bytes));
            let version = match http2 {
                true => http::Version::HTTP_2,
                false => http::Version::HTTP_11,
            };
            assert_eq!(client.stats().http_version(), Some(version));
            assert_eq!(server.stats().http_version(), None);
            let sent = if method == Method::POST { 5 } else { 0 };
            assert_eq!(client.stats().request().body_bytes(), Some(sent));
            assert_eq!(server.stats().request().body_bytes(), Some(sent));
        }
    }
}

// Where an inner layer leaves a body on such a response, the server looks away.
#[tokio::test]
async fn a_body_that_must_not_be_sent_ends_with_the_headers() {
    for (method, status) in [
        (Method::HEAD, 200),
        (Method::CONNECT, 200),
        (Method::GET, 204),
        (Method::GET, 304),
    ] {
        let recorder = RecordingTracer::new();
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()))
            .service_fn(move |_: Request| async move {
                Ok::<_, Infallible>(answer(status, streamed(&["never", "sent"])))
            });
        let request = Request::builder().method(&method).body(Body::empty());
        let response = service.oneshot(request.unwrap()).await.unwrap();
        drop(response);
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
        assert_eq!(rpc.stats().status(), Some(Status::Http(status)));
    }
}

#[tokio::test]
async fn an_empty_body_by_its_header_is_over_with_the_headers() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .service_fn(async |_: Request| {
            let response = Response::builder().header("content-length", "0");
            response.body(streamed(&[]))
        });
    // As an HTTP/1 server does, the body is dropped unpolled.
    drop(service.oneshot(post("hello")).await.unwrap());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
    assert!(rpc.stats().response().is_complete());
}

#[tokio::test]
async fn a_stream_is_counted_while_it_runs_and_a_caller_that_leaves_cancels() {
    for leaves in [true, false] {
        let pair = serve().await;
        let (client_side, response) = pair.call(Method::GET, "/slow", true).await;
        let mut body = Box::pin(response.into_body());
        soon(body.frame()).await.unwrap().unwrap();
        let rpc = pair.server.started().remove(0);
        assert_eq!(rpc.stats().response().body_bytes(), Some(6));
        assert_eq!(rpc.stats().ending(), None);
        assert_eq!(rpc.stats().status(), None);
        assert_eq!(rpc.stats().http_status(), Some(200));
        let next = body
            .as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(next.is_pending());
        let (ending, bytes) = if leaves {
            drop(body);
            (Ending::Cancelled, 6)
        } else {
            pair.release.notify_one();
            soon(body.collect()).await.unwrap();
            (Ending::BodyEnd, 12)
        };
        let server = soon(pair.server.wait_finished(1)).await.remove(0);
        for rpc in [&client_side.only_finished(), &server] {
            assert_eq!(rpc.stats().ending(), Some(ending));
            assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
            assert_eq!(rpc.stats().response().body_bytes(), Some(bytes));
        }
    }
}

/// Names itself as its own cause.
#[derive(Debug)]
struct Circle;

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("circle")
    }
}

impl std::error::Error for Circle {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self)
    }
}

#[tokio::test]
async fn an_error_that_is_its_own_cause_does_not_hang_the_call() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service_fn(async |_: Request| Err::<Response, tower::BoxError>(Circle.into()));
    service.oneshot(post("hello")).await.unwrap_err();
    assert_eq!(recorder.only_finished().stats().error(), Some("circle"));
}

#[test]
fn a_level_applies_to_the_layer_that_it_was_set_on() {
    let base = TracerLayer::new(());
    let detailed = base.clone().level(tower_tracer::Level::Detailed);
    assert_eq!(base.level_handle().get(), tower_tracer::Level::Base);
    let clone = detailed.clone();
    detailed.level_handle().set(tower_tracer::Level::Disabled);
    assert_eq!(clone.level_handle().get(), tower_tracer::Level::Disabled);
}

/// Serves a router behind a layer that records.
async fn serve_recorded(router: Router) -> (std::net::SocketAddr, RecordingTracer) {
    let recorder = RecordingTracer::new();
    let router = router.layer(TracerLayer::new(recorder.clone()).server());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (address, recorder)
}

#[tokio::test]
async fn axums_connect_info_gives_the_peer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (address, recorder) =
        serve_recorded(Router::new().route("/", routing::get(async || "x"))).await;
    let mut caller = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    caller.write_all(request).await.unwrap();
    let own = caller.local_addr().unwrap();
    let mut answer = Vec::new();
    soon(caller.read_to_end(&mut answer)).await.unwrap();
    let rpc = soon(recorder.wait_finished(1)).await.remove(0);
    assert_eq!(rpc.peer().socket(), Some(own));
}

#[tokio::test]
async fn the_path_in_a_nested_router_is_the_received_one() {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).server();
    let grpc = routing::post(async || [("content-type", "application/grpc")]);
    let inner = Router::new()
        .route("/users/{id}", routing::get(async || "u"))
        .route("/echo.Echo/UnaryEcho", grpc)
        .layer(layer);
    let app = Router::new().nest("/api", Router::new().nest("/v1", inner));
    let plain = http::Request::get("/api/v1/users/7?q=1").body(Body::empty());
    let called = http::Request::post("/api/v1/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(Body::empty());
    for request in [plain, called] {
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let [plain, called] = &recorder.finished()[..] else {
        panic!("two exchanges")
    };
    assert_eq!(plain.path(), "/api/v1/users/7");
    assert_eq!(called.full_method(), Some("echo.Echo/UnaryEcho"));
}

// Ending 45.
#[tokio::test]
async fn a_caller_of_plain_http_or_connect_that_leaves_inside_its_request_has_cancelled() {
    use tokio::io::AsyncWriteExt as _;

    let types = [
        "text/plain",
        #[cfg(feature = "connect")]
        "application/proto\r\nconnect-protocol-version: 1",
        #[cfg(feature = "connect")]
        "application/connect+proto",
    ];
    for content_type in types {
        for rest in [
            "content-length: 100\r\n\r\nhello",
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            // A handler that waits for its request, and answers whatever came of it.
            let read = routing::post(async |body: Body| {
                let _ = body.collect().await;
                [("content-type", "text/plain")]
            });
            let (address, recorder) = serve_recorded(Router::new().route("/a.B/C", read)).await;
            let mut caller = tokio::net::TcpStream::connect(address).await.unwrap();
            let head =
                format!("POST /a.B/C HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n");
            caller.write_all(head.as_bytes()).await.unwrap();
            caller.write_all(rest.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(caller);
            let rpc = soon(recorder.wait_finished(1)).await.remove(0);
            assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled), "{rpc:?}");
            let status = match rpc.protocol() {
                Protocol::Http => Some(Status::Http(200)),
                _ => Some(Status::Grpc(Code::Cancelled)),
            };
            assert_eq!(rpc.stats().status(), status, "{content_type}");
            assert!(!rpc.stats().request().is_complete());
        }
    }
}
