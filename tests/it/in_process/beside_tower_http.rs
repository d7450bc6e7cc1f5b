//! What `guide::comparison` says of tower-http's trace layer, shown: both layers around the same service.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio_stream::Stream;
use tower::ServiceBuilder;
use tower_http::{classify::GrpcFailureClass, trace::TraceLayer};
use tower_tracer::{TracerLayer, testing::RecordingTracer};

type Log = Arc<Mutex<Vec<String>>>;

/// Which of tower-http's hooks are called, and what the recorder logs, for a response that `use_it`
/// is given: two messages, then trailers with this status.
async fn see<F, U>(grpc_status: &'static str, use_it: F) -> (Vec<String>, Vec<String>)
where
    F: FnOnce(http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Infallible>) -> U,
    U: Future<Output = ()>,
{
    let (log, recorder) = (Log::default(), RecordingTracer::new());
    let hook = |name: &'static str| {
        let log = Arc::clone(&log);
        move || log.lock().unwrap().push(name.to_owned())
    };
    let (responded, ended, failed) = (hook("response"), hook("eos"), hook("failure"));
    let trace = TraceLayer::new_for_grpc()
        .on_response(move |_: &Response<_>, _, _: &tracing::Span| responded())
        .on_eos(move |_: Option<&HeaderMap>, _, _: &tracing::Span| ended())
        .on_failure(move |_: GrpcFailureClass, _, _: &tracing::Span| failed());
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .layer(trace)
        .service_fn(async move |_: Request<String>| {
            let response = Response::builder().header("content-type", "application/grpc");
            response.body(StreamBody::new(frames(grpc_status)))
        });

    let request = Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(String::new());
    let response = service.oneshot(request.unwrap()).await.unwrap();
    use_it(response.into_body().boxed_unsync()).await;

    let hooks = log.lock().unwrap().clone();
    let seen = recorder.log();
    (hooks, seen)
}

fn frames(
    grpc_status: &'static str,
) -> impl Stream<Item = Result<Frame<bytes::Bytes>, Infallible>> + Send {
    let message = || Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\x02hi"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(grpc_status));
    tokio_stream::iter([message(), message(), Frame::trailers(trailers)].map(Ok))
}

#[tokio::test]
async fn a_response_that_is_read_to_its_end_is_seen_by_both() {
    let (hooks, seen) = see("5", async |body| drop(body.collect().await)).await;
    assert_eq!(hooks, ["response", "failure", "eos"]);
    assert_eq!(seen.last().unwrap(), "finish trailers NOT_FOUND");
}

#[tokio::test]
async fn a_dropped_response_is_reported_here_and_not_by_tower_http() {
    let (hooks, seen) = see("0", async |mut body| drop(body.frame().await)).await;
    assert_eq!(hooks, ["response"]);
    assert_eq!(seen.last().unwrap(), "finish cancelled CANCELLED");
}

#[tokio::test]
async fn a_garbled_status_is_unknown_here_and_not_a_failure_in_tower_http() {
    let (hooks, seen) = see("banana", async |body| drop(body.collect().await)).await;
    assert_eq!(hooks, ["response", "eos"]);
    assert_eq!(seen.last().unwrap(), "finish trailers UNKNOWN");
}
