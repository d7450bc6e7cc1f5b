//! reqwest's client under the layer, over TCP.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use crate::support::telemetry::{Telemetry, attributes};
use axum::{
    Router,
    body::Body as AxumBody,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::IntoResponse as _,
    routing::{get, post},
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use opentelemetry::trace::{SpanKind, Status as SpanStatus};
use reqwest::{Body, Client, Method, Request, Url};
use tokio::{net::TcpListener, sync::Notify};
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{
    Code, Ending, Event, Level, RequestParts, Role, RpcInfo, Status, Tracer, TracerLayer,
    rpc::Protocol, service::TracerService, testing::RecordingTracer,
};

/// Has the response to `/broken` fail.
static BREAK_OFF: Notify = Notify::const_new();

/// A server on a port of its own; requests to `/stuck` and `/stalled` get no more than the head of a response.
async fn serve() -> SocketAddr {
    let stalled = || async {
        let first = tokio_stream::once(Ok::<_, Infallible>("some"));
        let rest = tokio_stream::pending();
        AxumBody::from_stream(tokio_stream::StreamExt::chain(first, rest))
    };
    let broken = || async {
        let first = tokio_stream::once(Ok("some"));
        let error = futures_util::stream::once(async {
            BREAK_OFF.notified().await;
            Err("the disk is gone")
        });
        AxumBody::from_stream(tokio_stream::StreamExt::chain(first, error))
    };
    let router = Router::new()
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/missing",
            get(async || (StatusCode::NOT_FOUND, "nothing here")),
        )
        .route(
            "/moved",
            post(async || (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/echo")]).into_response()),
        )
        .route(
            "/traceparent",
            get(async |headers: HeaderMap| {
                let value = headers
                    .get("traceparent")
                    .map(|value| value.to_str().unwrap().to_owned());
                value.unwrap_or_default()
            }),
        )
        .route("/stuck", get(std::future::pending::<()>))
        .route("/stalled", get(stalled))
        .route("/broken", get(broken));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn request(method: Method, address: SocketAddr, path: &str) -> Request {
    let url = format!("http://{address}{path}");
    Request::new(method, Url::parse(&url).unwrap())
}

fn traced<T: Tracer>(tracer: T) -> TracerService<Client, T> {
    ServiceBuilder::new()
        .layer(TracerLayer::new(tracer))
        .service(client())
}

fn streamed(pieces: &[&'static str]) -> Body {
    let frames: Vec<_> = pieces
        .iter()
        .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))))
        .collect();
    Body::wrap(StreamBody::new(tokio_stream::iter(frames)))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("done within ten seconds")
}

#[tokio::test]
async fn an_exchange_has_its_status_its_sizes_and_its_end() {
    let address = serve().await;
    for (body, is_stream) in [
        (Body::from("hello world"), false),
        (streamed(&["hello ", "world"]), true),
    ] {
        let recorder = RecordingTracer::new();
        let mut request = request(Method::POST, address, "/echo?secret=1");
        *request.body_mut() = Some(body);
        let response = traced(recorder.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.url().path(), "/echo");
        assert_eq!(response.url().query(), Some("secret=1"));
        assert_eq!(response.remote_addr(), Some(address));
        assert_eq!(response.content_length(), Some(11));
        assert!(recorder.finished().is_empty(), "the body is still to come");
        assert_eq!(response.text().await.unwrap(), "hello world");

        let rpc = recorder.only_finished();
        assert_eq!(rpc.role(), Role::Client);
        assert_eq!(rpc.protocol(), Protocol::Http);
        assert_eq!(rpc.path(), "/echo");
        assert_eq!(rpc.http_method(), Some(&Method::POST));
        let stats = rpc.stats();
        assert_eq!(stats.status(), Some(Status::Http(200)));
        assert_eq!(stats.ending(), Some(Ending::BodyEnd));
        for traffic in [stats.request(), stats.response()] {
            assert_eq!(traffic.body_bytes(), Some(11), "stream: {is_stream}");
            assert!(traffic.is_complete() && !traffic.truncated());
        }
    }
}

#[tokio::test]
async fn an_error_status_is_recorded_and_the_callers_to_read() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let request = request(Method::GET, address, "/missing");
    let response = traced(recorder.clone()).oneshot(request).await.unwrap();
    assert_eq!(
        response.error_for_status_ref().unwrap_err().status(),
        Some(StatusCode::NOT_FOUND)
    );
    assert_eq!(response.text().await.unwrap(), "nothing here");
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Http(404)));
    assert!(rpc.stats().failed());
    assert_eq!(rpc.stats().request().body_bytes(), Some(0));
    assert_eq!(rpc.stats().response().body_bytes(), Some(12));
}

#[tokio::test]
async fn a_response_without_a_body_ends_with_its_headers() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let request = request(Method::HEAD, address, "/missing");
    let response = traced(recorder.clone()).oneshot(request).await.unwrap();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
    assert_eq!(rpc.stats().status(), Some(Status::Http(404)));
    drop(response);
}

#[tokio::test]
async fn a_response_that_is_not_read_is_cancelled_unless_the_layer_finishes_at_the_response() {
    let address = serve().await;
    for (at_response, ending) in [(false, Ending::Cancelled), (true, Ending::Response)] {
        let recorder = RecordingTracer::new();
        let mut layer = TracerLayer::new(recorder.clone());
        if at_response {
            layer = layer.finish_at_response();
        }
        let service = ServiceBuilder::new().layer(layer).service(client());
        let response = service
            .oneshot(request(Method::GET, address, "/stalled"))
            .await
            .unwrap();
        drop(response);
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().ending(), Some(ending));
        assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    }
}

#[tokio::test]
async fn a_refused_connection_is_an_error_with_its_cause() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let recorder = RecordingTracer::new();
    let error = traced(recorder.clone())
        .oneshot(request(Method::GET, address, "/"))
        .await
        .unwrap_err();
    assert!(error.is_connect());
    let rpc = recorder.only_finished();
    let stats = rpc.stats();
    assert_eq!(stats.ending(), Some(Ending::ServiceError));
    assert_eq!(stats.status(), None, "there was no response");
    assert!(stats.failed());
    let text = stats.error().unwrap();
    assert!(text.contains("Connection refused"), "{text}");
}

#[tokio::test]
async fn a_timeout_of_the_client_is_a_deadline_before_and_within_the_response() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let mut stuck = request(Method::GET, address, "/stuck");
    *stuck.timeout_mut() = Some(Duration::from_millis(50));
    let error = soon(traced(recorder.clone()).oneshot(stuck))
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::Deadline));
    assert_eq!(rpc.stats().status(), None);
    let text = rpc.stats().error().unwrap();
    assert!(text.contains("operation timed out"), "{text}");

    let recorder = RecordingTracer::new();
    let mut stalled = request(Method::GET, address, "/stalled");
    *stalled.timeout_mut() = Some(Duration::from_millis(300));
    let response = traced(recorder.clone()).oneshot(stalled).await.unwrap();
    let error = soon(response.text()).await.unwrap_err();
    assert!(
        error.is_timeout() && error.is_decode(),
        "as without the layer"
    );
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::Deadline));
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().response().body_bytes(), Some(4));
    assert!(rpc.stats().failed());
}

// With gRPC's names the two have codes, too.
#[tokio::test]
async fn errors_of_a_grpc_call_have_codes() {
    let address = serve().await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for (address, code, ending) in [
        (address, Code::DeadlineExceeded, Ending::Deadline),
        (free, Code::Unavailable, Ending::ServiceError),
    ] {
        let recorder = RecordingTracer::new();
        let mut request = request(Method::GET, address, "/stuck");
        let grpc = "application/grpc".parse().unwrap();
        request.headers_mut().insert("content-type", grpc);
        *request.timeout_mut() = Some(Duration::from_millis(50));
        soon(traced(recorder.clone()).oneshot(request))
            .await
            .unwrap_err();
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(code)));
        assert_eq!(rpc.stats().ending(), Some(ending));
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_a_failure_of_its_body() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let response = traced(recorder.clone())
        .oneshot(request(Method::GET, address, "/broken"))
        .await
        .unwrap();
    BREAK_OFF.notify_one();
    soon(response.text()).await.unwrap_err();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::BodyError));
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert!(rpc.stats().failed());
    assert!(!rpc.stats().response().is_complete());
}

#[tokio::test]
async fn a_stream_that_fails_fails_the_call_with_its_text() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let mut request = request(Method::POST, address, "/echo");
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"some"))),
        Err("the disk is gone"),
    ];
    *request.body_mut() = Some(Body::wrap(StreamBody::new(tokio_stream::iter(frames))));
    let error = soon(traced(recorder.clone()).oneshot(request))
        .await
        .unwrap_err();
    assert!(error.is_request());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::ServiceError));
    let text = rpc.stats().error().unwrap();
    assert!(text.contains("the disk is gone"), "{text}");
    assert!(!rpc.stats().request().is_complete());
}

// reqwest sends bytes in memory again, but no stream.
#[tokio::test]
async fn a_redirect_is_followed_as_without_the_layer() {
    let address = serve().await;
    let mut moved = request(Method::POST, address, "/moved");
    *moved.body_mut() = Some(Body::from("hello"));
    let recorder = RecordingTracer::new();
    let response = traced(recorder.clone()).oneshot(moved).await.unwrap();
    assert_eq!(response.url().path(), "/echo");
    assert_eq!(response.text().await.unwrap(), "hello");
    let rpc = recorder.only_finished();
    assert_eq!(rpc.path(), "/moved", "the call as the caller made it");
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().request().body_bytes(), Some(5), "counted once");
}

#[tokio::test]
async fn an_untraced_request_passes() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).level(Level::Disabled);
    let service = ServiceBuilder::new().layer(layer).service(client());
    let mut request = request(Method::POST, address, "/echo");
    *request.body_mut() = Some(Body::from("hello"));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "hello");
    assert!(recorder.log().is_empty());
}

/// Its state cannot be shared between threads, only sent.
struct NotSync;

impl Tracer for NotSync {
    type State = std::cell::Cell<u8>;

    fn start(&self, _: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        let uri = request.uri().unwrap();
        assert_eq!(uri.path_and_query().unwrap(), "/missing?a=b");
        assert_eq!(uri.scheme_str(), Some("http"));
        assert!(uri.port().is_some());
        assert_eq!(request.role(), Role::Client);
        std::cell::Cell::new(0)
    }

    fn finish(&self, _: Self::State, _: &RpcInfo) {}
}

#[tokio::test]
async fn a_tracer_sees_the_url_and_its_state_need_not_be_sync() {
    let address = serve().await;
    let request = request(Method::GET, address, "/missing?a=b#fragment");
    let response = traced(NotSync).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn the_record_is_in_the_response_if_the_layer_is_asked_to() {
    let address = serve().await;
    let layer = TracerLayer::new(RecordingTracer::new()).insert_into_response();
    let service = ServiceBuilder::new().layer(layer).service(client());
    let response = service
        .oneshot(request(Method::GET, address, "/missing"))
        .await
        .unwrap();
    let rpc = response.extensions().get::<RpcInfo>().unwrap().clone();
    assert_eq!(rpc.stats().http_status(), Some(404));
    assert_eq!(rpc.stats().ending(), None);
    response.bytes().await.unwrap();
    assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
}

// A request of reqwest's carries no record: the one that is current is the parent.
#[tokio::test]
async fn the_inner_of_two_layers_has_the_outer_as_its_parent() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(()))
        .layer(TracerLayer::new(recorder.clone()))
        .service(client());
    let response = service
        .oneshot(request(Method::GET, address, "/missing"))
        .await
        .unwrap();
    response.bytes().await.unwrap();
    let rpc = recorder.only_finished();
    let parent = rpc.parent().unwrap();
    assert_eq!(parent.path(), "/missing");
    assert_eq!(parent.role(), Role::Client);
}

#[tokio::test]
async fn opentelemetry_injects_its_context_and_names_the_server() {
    let address = serve().await;
    let telemetry = Telemetry::new();
    let response = traced(telemetry.tracer())
        .oneshot(request(Method::GET, address, "/traceparent?a=b"))
        .await
        .unwrap();
    let received = response.text().await.unwrap();
    let spans = telemetry.spans();
    let [span] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    let context = &span.span_context;
    let sent = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    assert_eq!(received, sent);
    assert_eq!(span.span_kind, SpanKind::Client);
    assert_eq!(span.status, SpanStatus::Unset);
    let attributes = attributes(&span.attributes);
    for expected in [
        "http.request.method=GET".to_owned(),
        "http.response.status_code=200".to_owned(),
        "server.address=127.0.0.1".to_owned(),
        format!("server.port={}", address.port()),
        format!("url.full=http://{address}/traceparent"),
    ] {
        assert!(
            attributes.contains(&expected),
            "{expected} in {attributes:?}"
        );
    }
}

// A caller that leaves drops the future; the client is shared and stays usable.
#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let address = serve().await;
    let recorder = RecordingTracer::new();
    let mut service = traced(recorder.clone());
    let left = Arc::new(Notify::new());
    let leave = Arc::clone(&left);
    let call = service.call(request(Method::GET, address, "/stuck"));
    let caller = tokio::spawn(async move {
        tokio::select! {
            _ = call => unreachable!("it is stuck"),
            () = left.notified() => {}
        }
    });
    leave.notify_one();
    soon(caller).await.unwrap();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    assert_eq!(rpc.stats().at(Event::RESPONSE_HEADERS), None);
    let response = service
        .oneshot(request(Method::GET, address, "/missing"))
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
}
