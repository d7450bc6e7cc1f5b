// The service that documentation examples call.

use std::{convert::Infallible, thread, time::Duration};

use http::{Request, Response, StatusCode};
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{Tracer, TracerLayer};

/// Calls a traced server once for each path. A path that ends in `Slow` takes 300 milliseconds, one
/// that ends in `Fail` is answered with an error.
pub(super) fn call<const N: usize>(tracer: impl Tracer, paths: [&'static str; N]) {
    let mut service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |request: Request<String>| {
            let path = request.uri().path();
            if path.ends_with("Slow") {
                thread::sleep(Duration::from_millis(300));
            }
            let mut response = Response::new(String::new());
            if path.ends_with("Fail") {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            Ok::<_, Infallible>(response)
        });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for path in paths {
        let request = Request::get(path).body(String::new()).unwrap();
        drop(runtime.block_on(service.call(request)));
    }
}

/// Calls a traced server of gRPC once for each path; it answers with this many messages, each after
/// 20 milliseconds.
pub(super) fn stream<const N: usize>(
    tracer: impl Tracer,
    paths: [&'static str; N],
    messages: usize,
) {
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};

    let mut service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |_: Request<String>| {
            let ends = [("grpc-status", "0")].map(|(name, value)| {
                let value: http::HeaderValue = value.parse().unwrap();
                (http::HeaderName::from_static(name), value)
            });
            let frames = (0..messages)
                .map(|_| {
                    thread::sleep(Duration::from_millis(20));
                    Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\x01a"))
                })
                .chain([Frame::trailers(ends.into_iter().collect())]);
            // Made one by one, as they are asked for.
            let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
            let response = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(StreamBody::new(frames)).unwrap())
        });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for path in paths {
        let request = Request::post(path).header("content-type", "application/grpc");
        let request = request.body(String::new()).unwrap();
        runtime.block_on(async {
            let response = service.call(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        });
    }
}
