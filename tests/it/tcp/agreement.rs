//! The record of an RPC says what its caller saw.

use std::{error::Error, fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::support::scripted::{Scripted, Step};
use crate::support::tcp::{
    echo::{EchoClient, EchoServer, EchoService, listen, say},
    soon,
};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tonic::transport::{Endpoint, Server};
use tower::{BoxError, Layer as _, ServiceBuilder, service_fn};
use tower_tracer::{Code, Ending, RpcInfo, Status, TracerLayer, testing::RecordingTracer};

fn hyper_client() -> Client<HttpConnector, tonic::body::Body> {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

fn grpc(code: Code) -> Option<Status> {
    Some(Status::Grpc(code))
}

/// A server that resets each stream for this reason: before the headers, or inside the body.
async fn resetting(reason: Reason, after_headers: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let _request = request;
                if after_headers {
                    let head = Response::builder().header("content-type", "application/grpc");
                    let head = head.body(()).unwrap();
                    let mut body = respond.send_response(head, false).unwrap();
                    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false)
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    body.send_reset(reason);
                } else {
                    respond.send_reset(reason);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            });
        }
    });
    address
}

/// Calls through a layer on hyper-util's client: what the caller gets, and the record.
async fn call_over_hyper_util(origin: String) -> (tonic::Status, RpcInfo) {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).client();
    let service = ServiceBuilder::new().layer(layer).service(hyper_client());
    let mut client = EchoClient::with_origin(service, origin.parse().unwrap());
    let error = soon(client.unary_echo(say("x"))).await.unwrap_err();
    (error, soon(recorder.wait_finished(1)).await.remove(0))
}

// Ending 41.
#[tokio::test]
async fn calls_that_wait_for_a_stream_when_the_connection_closes_are_cancelled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closed) = oneshot::channel::<()>();
    let (accepted, has_accepted) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut settings = h2::server::Builder::new();
        let handshake = settings
            .max_concurrent_streams(1)
            .handshake::<_, Bytes>(socket);
        let mut connection = handshake.await.unwrap();
        let mut calls = Vec::new();
        let mut accepted = Some(accepted);
        let serve = async {
            while let Some(Ok(call)) = connection.accept().await {
                calls.push(call);
                if let Some(accepted) = accepted.take() {
                    let _ = accepted.send(());
                }
            }
        };
        tokio::select! { () = serve => {} _ = closed => {} }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = soon(endpoint.connect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let call = || {
        let channel = channel.clone();
        tokio::spawn(async move {
            let recorder = RecordingTracer::new();
            let layer = TracerLayer::new(recorder.clone());
            let service = ServiceBuilder::new().layer(layer).service(channel);
            let error = EchoClient::new(service).unary_echo(say("x")).await;
            (error.unwrap_err().code(), recorder.only_finished())
        })
    };
    let first = call();
    soon(has_accepted).await.unwrap();
    let waiting = [call(), call(), call()];
    tokio::time::sleep(Duration::from_millis(50)).await;
    close.send(()).unwrap();
    let mut cancelled = 0;
    for call in waiting.into_iter().chain([first]) {
        let (got, rpc) = soon(call).await.unwrap();
        assert_eq!(rpc.stats().status(), grpc(got.into()), "{rpc:?}");
        cancelled += usize::from(got == tonic::Code::Cancelled);
    }
    assert!(cancelled > 0, "no call was waiting");
}

// Ending 42.
#[tokio::test]
async fn a_reset_over_hyper_utils_client_has_the_code_of_its_reason() {
    for (reason, code) in [
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::CANCEL, Code::Cancelled),
        (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::REFUSED_STREAM, Code::Unavailable),
    ] {
        for after_headers in [false, true] {
            let address = resetting(reason, after_headers).await;
            let (error, rpc) = call_over_hyper_util(format!("http://{address}")).await;
            assert_eq!(Code::from(error.code()), code, "{reason:?}");
            assert_eq!(rpc.stats().status(), grpc(code), "{rpc:?}");
            assert_eq!(rpc.stats().ending(), Some(Ending::Reset));
        }
    }
}

// Ending 42.
#[tokio::test]
async fn a_refused_connection_over_hyper_utils_client_is_in_the_text() {
    let (error, rpc) = call_over_hyper_util("http://127.0.0.1:1".to_owned()).await;
    assert_eq!(rpc.stats().status(), grpc(error.code().into()));
    assert_eq!(rpc.stats().ending(), Some(Ending::ServiceError));
    let text = rpc.stats().error().unwrap();
    assert!(text.contains("refused"), "{text}");
}

/// An error type of a service's own, which the layer has never heard of.
#[derive(Debug)]
enum GatewayError {
    Upstream(Box<dyn Error + Send + Sync>),
    Full,
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upstream(_) => "upstream failed",
            Self::Full => "full",
        })
    }
}

impl Error for GatewayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Upstream(cause) => Some(&**cause),
            Self::Full => None,
        }
    }
}

fn request() -> Request<String> {
    let request = Request::post("http://x/echo.Echo/UnaryEcho");
    let request = request.header("content-type", "application/grpc");
    request.body(String::new()).unwrap()
}

/// The record of a call whose service fails with this.
async fn failed_with<E: fmt::Display + 'static>(
    layer: impl FnOnce(TracerLayer<RecordingTracer>) -> TracerLayer<RecordingTracer>,
    error: E,
) -> RpcInfo {
    let recorder = RecordingTracer::new();
    let layer = layer(TracerLayer::new(recorder.clone()).client());
    let mut error = Some(error);
    let service = service_fn(move |_: Request<String>| {
        std::future::ready(Err::<Response<String>, _>(error.take().unwrap()))
    });
    assert!(layer.layer(service).oneshot(request()).await.is_err());
    recorder.only_finished()
}

// Ending 43.
#[tokio::test]
async fn a_named_error_type_has_the_code_of_its_cause() {
    let upstream = |cause: BoxError| GatewayError::Upstream(cause);
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    for (error, code, text) in [
        (
            upstream(tonic::Status::not_found("no such").into()),
            Code::NotFound,
            "no such",
        ),
        (
            upstream(h2::Error::from(Reason::REFUSED_STREAM).into()),
            Code::Unavailable,
            "upstream failed: ",
        ),
        (
            upstream(tower::load_shed::error::Overloaded::new().into()),
            Code::ResourceExhausted,
            "upstream failed: ",
        ),
        (
            upstream(GatewayError::Upstream(refused.into()).into()),
            Code::Unknown,
            "upstream failed: connection refused",
        ),
        (GatewayError::Full, Code::Unknown, "full"),
    ] {
        let rpc = failed_with(TracerLayer::error_type::<GatewayError>, error).await;
        assert_eq!(rpc.stats().status(), grpc(code), "{rpc:?}");
        let shown = rpc.stats().error().unwrap();
        assert!(shown.starts_with(text), "{shown}");
    }
    // Not named, its text is all that there is.
    let error = upstream(tonic::Status::not_found("no such").into());
    let rpc = failed_with(|layer| layer, error).await;
    assert_eq!(rpc.stats().status(), grpc(Code::Unknown));
    assert_eq!(rpc.stats().error(), Some("upstream failed"));
}

// Ending 43.
#[tokio::test]
async fn an_error_in_any_box_has_the_code_of_its_cause() {
    fn error() -> GatewayError {
        GatewayError::Upstream(tonic::Status::aborted("a").into())
    }
    let boxed: Box<dyn Error> = error().into();
    let sendable: Box<dyn Error + Send> = Box::new(error());
    let shared: Arc<dyn Error + Send + Sync> = Arc::new(error());
    let local: Arc<dyn Error> = Arc::new(error());
    let status = || tonic::Status::aborted("a");
    let mut deep = BoxError::from(error());
    for _ in 0..40 {
        deep = GatewayError::Upstream(deep).into();
    }
    for rpc in [
        failed_with(|layer| layer, Box::new(status())).await,
        failed_with(|layer| layer, Arc::new(status())).await,
        failed_with(|layer| layer, local).await,
        failed_with(|layer| layer, Arc::new(BoxError::from(error()))).await,
        failed_with(|layer| layer, deep).await,
        failed_with(|layer| layer, BoxError::from(error())).await,
        failed_with(|layer| layer, boxed).await,
        failed_with(|layer| layer, sendable).await,
        failed_with(|layer| layer, shared).await,
    ] {
        assert_eq!(rpc.stats().status(), grpc(Code::Aborted), "{rpc:?}");
    }
    let reset = Arc::new(h2::Error::from(Reason::CANCEL));
    let rpc = failed_with(|layer| layer, reset).await;
    assert_eq!(rpc.stats().status(), grpc(Code::Cancelled));
    let overloaded = tower::load_shed::error::Overloaded::new();
    let rpc = failed_with(|layer| layer, overloaded).await;
    assert_eq!(rpc.stats().status(), grpc(Code::ResourceExhausted));
}

// Ending 53.
#[tokio::test]
async fn a_call_that_is_shed_inside_the_layer_is_resource_exhausted() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).client())
        .load_shed()
        .concurrency_limit(0)
        .service(service_fn(async |_: Request<tonic::body::Body>| {
            Ok::<_, BoxError>(Response::new(tonic::body::Body::empty()))
        }));
    let error = EchoClient::new(service).unary_echo(say("x")).await;
    assert_eq!(error.unwrap_err().code(), tonic::Code::ResourceExhausted);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), grpc(Code::ResourceExhausted));
}

// Ending 44.
#[tokio::test]
async fn grpc_in_any_letter_case_is_grpc() {
    let recorder = RecordingTracer::new();
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .layer(TracerLayer::new(recorder.clone()))
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let mut calls = 0;
    for content_type in [
        "application/GRPC",
        "Application/grpc+proto",
        "application/grpc\t;a=b",
    ] {
        let message = say("gone").failing(tonic::Code::NotFound).encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
        let request = Request::post(format!("{uri}/echo.Echo/UnaryEcho"))
            .header("te", "trailers")
            .header("content-type", content_type)
            .body(tonic::body::Body::new(body))
            .unwrap();
        let response = soon(hyper_client().request(request)).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "5");
        calls += 1;
        let rpc = soon(recorder.wait_finished(calls)).await.remove(calls - 1);
        assert_eq!(rpc.stats().status(), grpc(Code::NotFound), "{content_type}");
        assert_eq!(rpc.stats().request().messages(), Some(1));
    }
}

// Ending 45.
#[tokio::test]
async fn a_caller_that_leaves_inside_its_request_over_http1_has_cancelled() {
    let length = "content-length: 100\r\n\r\n\0\0\0\0\x5fhello";
    let chunked = "transfer-encoding: chunked\r\n\r\n8\r\n\0\0\0\0\x5fhel\r\n";
    for (content_type, rest) in [
        ("application/grpc-web+proto", length),
        ("application/grpc-web+proto", chunked),
    ] {
        let recorder = RecordingTracer::new();
        let (incoming, uri) = listen().await.unwrap();
        let layers = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()))
            .layer(tonic_web::GrpcWebLayer::new())
            .into_inner();
        let server = Server::builder()
            .accept_http1(true)
            .layer(layers)
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        let address = uri.strip_prefix("http://").unwrap();
        let mut browser = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /echo.Echo/UnaryEcho HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n{rest}"
        );
        browser.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(browser);
        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        assert_eq!(rpc.stats().status(), grpc(Code::Cancelled), "{rpc:?}");
        assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    }
}

// Ending 54.
#[tokio::test]
async fn a_reset_of_the_handlers_upstream_is_an_error_of_the_servers_body() {
    for role in [TracerLayer::client, TracerLayer::server] {
        let recorder = RecordingTracer::new();
        let address = resetting(Reason::ENHANCE_YOUR_CALM, true).await;
        let proxy = service_fn(move |_: Request<String>| {
            let request = Request::post(format!("http://{address}/echo.Echo/UnaryEcho"))
                .header("content-type", "application/grpc")
                .body(tonic::body::Body::empty())
                .unwrap();
            hyper_client().request(request)
        });
        let service = role(TracerLayer::new(recorder.clone())).layer(proxy);
        let response = service.oneshot(request()).await.unwrap();
        assert!(soon(response.into_body().collect()).await.is_err());
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().status(), grpc(Code::ResourceExhausted));
        let ending = match rpc.role() {
            tower_tracer::Role::Server => Ending::BodyError,
            _ => Ending::Reset,
        };
        assert_eq!(rpc.stats().ending(), Some(ending));
    }
}

/// A body's error is one of the service's as well.
#[tokio::test]
async fn a_body_that_fails_has_the_code_of_its_cause() {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).server();
    let service = layer.layer(service_fn(async |_: Request<String>| {
        let body = Scripted::new([Step::Fail(std::sync::Arc::new(tonic::Status::aborted("a")))]);
        let response = Response::builder().header("content-type", "application/grpc");
        Ok::<_, BoxError>(response.body(body).unwrap())
    }));
    let response = service.oneshot(request()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), grpc(Code::Aborted));
}

// Ending 47.
#[tokio::test]
async fn a_call_that_tonics_handle_cancels_is_cancelled() {
    let recorder = RecordingTracer::new();
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let channel = Endpoint::from_shared(uri).unwrap();
    let channel = soon(channel.connect()).await.unwrap();
    let layer = TracerLayer::new(recorder.clone());
    let service = ServiceBuilder::new().layer(layer).service(channel);
    // tonic resets the stream only while the request still runs.
    let mut request = tonic::Request::new(tokio_stream::pending());
    let handle = request.cancellation_handle();
    let call = async move {
        let mut client = EchoClient::new(service);
        client.client_streaming_echo(request).await
    };
    let call = tokio::spawn(call);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(recorder.finished().len(), 0);
    handle.cancel();
    let error = soon(call).await.unwrap().unwrap_err();
    assert_eq!(error.code(), tonic::Code::Cancelled);
    let rpc = soon(recorder.wait_finished(1)).await.remove(0);
    assert_eq!(rpc.stats().status(), grpc(Code::Cancelled));
    // To the layer it is an error that the channel gives.
    assert_eq!(rpc.stats().ending(), Some(Ending::ServiceError));
    assert_eq!(recorder.finished().len(), 1);
}

/// In a test with paused time, only tokio's clock says that a deadline has passed.
#[tokio::test(start_paused = true)]
async fn a_deadline_uses_tokios_clock() {
    let asked = || Request::post("/a.B/C").header("content-type", "application/grpc");
    let timed = || asked().header("grpc-timeout", "60S").body(String::new());
    let handler = async |_: Request<String>| -> Result<Response<tonic::body::Body>, BoxError> {
        let body = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, BoxError>>());
        Ok(Response::new(tonic::body::Body::new(body)))
    };
    let late = async |_: Request<String>| -> Result<Response<tonic::body::Body>, BoxError> {
        std::future::pending().await
    };
    let (recorder, minute) = (RecordingTracer::new(), Duration::from_secs(60));
    for layer in [
        TracerLayer::new(recorder.clone()).server(),
        TracerLayer::new(recorder.clone()).client(),
    ] {
        // Dropped before the response, and inside it.
        let call = layer
            .clone()
            .layer(service_fn(late))
            .oneshot(timed().unwrap());
        assert!(tokio::time::timeout(minute, call).await.is_err());
        let call = layer
            .clone()
            .layer(service_fn(handler))
            .oneshot(timed().unwrap());
        let body = call.await.unwrap().into_body();
        tokio::time::timeout(minute, body.collect())
            .await
            .unwrap_err();
        // A millisecond too early, it is the caller's wish.
        let call = layer.layer(service_fn(handler)).oneshot(timed().unwrap());
        let body = call.await.unwrap().into_body();
        let early = minute - Duration::from_millis(1);
        tokio::time::timeout(early, body.collect())
            .await
            .unwrap_err();
    }
    // The server's own timeout, which the layer is configured with.
    let layer = TracerLayer::new(recorder.clone()).server_timeout(minute);
    let call = layer
        .layer(service_fn(handler))
        .oneshot(asked().body(String::new()).unwrap());
    let body = call.await.unwrap().into_body();
    tokio::time::timeout(minute, body.collect())
        .await
        .unwrap_err();
    let late = (grpc(Code::DeadlineExceeded), Some(Ending::Deadline));
    let left = (grpc(Code::Cancelled), Some(Ending::Cancelled));
    let finished = recorder.finished();
    let ends = finished
        .iter()
        .map(|rpc| (rpc.stats().status(), rpc.stats().ending()));
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [late, late, left, late, late, left, late]
    );
}
