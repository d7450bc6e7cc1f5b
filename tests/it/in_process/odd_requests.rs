//! Requests that no gRPC client sends.

use std::{convert::Infallible, future, sync::Arc};

use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use tower::{BoxError, Layer as _, Service as _, ServiceExt as _, service_fn};
use tower_tracer::{
    Status, Tracer, TracerLayer,
    rpc::Protocol,
    service::{RequestObserver, RpcGuard, TracedRequest, TracedResponse},
    testing::RecordingTracer,
};

use crate::{
    support::scripted::{Scripted, data, message, request, response, run, trailers},
    support::tcp::echo::{EchoServer, EchoService},
};

// Ending 21.
#[test]
fn a_path_that_is_not_grpcs_is_an_unknown_method_and_is_served() {
    let long = format!("/a/{}", "b".repeat(60_000));
    for uri in [
        "/",
        "*",
        "/x",
        "//",
        "/a/",
        "//b",
        "/a/b/c/d",
        "/é/ü",
        "/a/%43",
        "/a/b:c",
        &long,
        "example.com:80",
        "http://example.com",
        "http://example.com/x",
    ] {
        let uri: Uri = uri.parse().unwrap();
        let recorder = RecordingTracer::new();
        let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(
            |request: Request<tonic::body::Body>| {
                let mut response = response([data(1), trailers("0")]);
                response.extensions_mut().insert(request.uri().clone());
                future::ready(Ok::<_, BoxError>(response))
            },
        ));
        let mut request = request(Scripted::new([data(2)]));
        *request.uri_mut() = uri.clone();
        let response = run(service.call(request)).unwrap();
        assert_eq!(
            response.extensions().get(),
            Some(&uri),
            "passed on as it came"
        );
        run(response.into_body().collect()).unwrap();
        let rpc = recorder.only_finished();
        assert_eq!(rpc.path(), uri.path());
        assert_eq!(rpc.protocol(), Protocol::Grpc);
        assert_eq!(rpc.full_method(), None, "{:.20}", rpc.path());
        assert_eq!(
            (rpc.package(), rpc.service(), rpc.method()),
            (None, None, None)
        );
        assert_eq!(rpc.stats().status(), Some(Status::OK));
    }
}

/// A request that is not HTTP, with any path.
struct Named(Arc<str>);

impl TracedRequest for Named {
    fn path(&self) -> &str {
        &self.0
    }

    fn observe(&mut self, mut observer: RequestObserver) {
        observer.message(3, false);
    }
}

struct Done;

impl TracedResponse for Done {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self {
        open.finish(None);
        self
    }
}

// Ending 21.
#[test]
fn a_path_without_a_slash_or_without_anything_is_an_unknown_method() {
    let long = "x/y".repeat(20_000);
    for path in ["", "x", "x/y", "é", "\0", "/a\n/b", &long] {
        let recorder = RecordingTracer::new();
        let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(|_: Named| {
            future::ready(Ok::<_, Infallible>(Done))
        }));
        assert!(run(service.call(Named(path.into()))).is_ok());
        let rpc = recorder.only_finished();
        assert_eq!(rpc.path(), path);
        assert_eq!(rpc.full_method(), None, "{path:.20}");
        assert_eq!(
            (rpc.package(), rpc.service(), rpc.method()),
            (None, None, None)
        );
    }
}

// Ending 22.
#[test]
fn a_query_is_not_part_of_a_name() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(
        |request: Request<tonic::body::Body>| {
            assert_eq!(request.uri().query(), Some("token=secret/x"), "passed on");
            future::ready(Ok::<_, BoxError>(response([trailers("0")])))
        },
    ));
    let mut request = request(Scripted::default());
    *request.uri_mut() = "/echo.Echo/UnaryEcho?token=secret/x".parse().unwrap();
    let response = run(service.call(request)).unwrap();
    run(response.into_body().collect()).unwrap();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.full_method(), Some("echo.Echo/UnaryEcho"));
    assert_eq!(rpc.package(), Some("echo"));
    assert_eq!(rpc.service(), Some("echo.Echo"));
    assert_eq!(rpc.method(), Some("UnaryEcho"));
    assert_eq!(rpc.path(), "/echo.Echo/UnaryEcho");
    for printed in [format!("{rpc:?}"), format!("{:?}", rpc.stats())] {
        assert!(!printed.contains("secret"), "{printed}");
    }
}

// Ending 23.
#[tokio::test]
async fn a_get_or_an_html_form_to_a_grpc_method_is_traced_as_plain_http() {
    for (method, content_type, protocol) in [
        (Method::GET, None, Protocol::Http),
        (Method::GET, Some("text/html"), Protocol::Http),
        (Method::POST, Some("text/html"), Protocol::Http),
        (Method::POST, Some("application/grpcx"), Protocol::Http),
        (Method::GET, Some("application/grpc"), Protocol::Grpc),
    ] {
        let make = || {
            let body = tonic::body::Body::new(Full::new(message(3)));
            let mut request = Request::new(body);
            *request.method_mut() = method.clone();
            *request.uri_mut() = "/echo.Echo/UnaryEcho".parse().unwrap();
            if let Some(value) = content_type {
                let value = HeaderValue::from_static(value);
                request.headers_mut().insert("content-type", value);
            }
            request
        };
        let routes = || tonic::service::Routes::new(EchoServer::new(EchoService)).prepare();
        let untraced = routes().oneshot(make()).await.unwrap();

        let recorder = RecordingTracer::new();
        let service = TracerLayer::new(recorder.clone()).layer(routes());
        let response: Response<_> = service.oneshot(make()).await.unwrap();
        assert_eq!(response.status(), untraced.status());
        assert_eq!(response.headers(), untraced.headers());
        let body = response.into_body().collect().await.unwrap();
        let untraced_body = untraced.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), untraced_body.trailers());
        assert_eq!(body.to_bytes(), untraced_body.to_bytes());

        let rpc = recorder.only_finished();
        assert_eq!(rpc.protocol(), protocol, "{method} {content_type:?}");
        assert_eq!(rpc.http_method(), Some(&method));
        assert_eq!(rpc.path(), "/echo.Echo/UnaryEcho");
        if protocol == Protocol::Http {
            assert_eq!(rpc.full_method(), None);
            let http = rpc.stats().http_status().unwrap();
            assert_eq!(rpc.stats().status(), Some(Status::Http(http)));
            assert_eq!(rpc.stats().request().messages(), None, "it has no messages");
        }
    }
}
