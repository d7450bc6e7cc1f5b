//! Progress of RPCs that run, and calls that go with the RPC that made them.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use crate::support::telemetry::{Telemetry, attributes};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use metrics_exporter_prometheus::PrometheusBuilder;
use tonic::body::Body;
use tower::{Layer as _, ServiceBuilder, service_fn};
use tower_tracer::{
    Code, Ending, Level, RequestParts, RpcInfo, Tracer, TracerLayer,
    methods::KnownMethods,
    metrics::MetricsTracer,
    on_finish,
    prometheus::PrometheusTracer,
    testing::{EntryKind, RecordingTracer},
    tracer::Either,
};

/// A response of these frames, and OK in its trailers.
fn response(frames: Vec<Bytes>, pause: Duration) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let data = frames.into_iter().map(move |frame| {
        thread::sleep(pause);
        Frame::data(frame)
    });
    let frames = data.chain([Frame::trailers(trailers)]);
    let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(StreamBody::new(frames))).unwrap()
}

fn message() -> Bytes {
    Bytes::from_static(b"\0\0\0\0\x01x")
}

fn request(body: Body) -> Request<Body> {
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    request.body(body).unwrap()
}

async fn run<T: Tracer>(layer: TracerLayer<T>, frames: usize, pause: Duration) {
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |_: Request<Body>| {
            let response = response(vec![message(); frames], pause);
            async { Ok::<_, Infallible>(response) }
        });
    let response = service.oneshot(request(Body::empty())).await.unwrap();
    response.into_body().collect().await.unwrap();
}

fn progress(recorder: &RecordingTracer) -> Vec<String> {
    let mut log = recorder.log();
    log.retain(|line| line.starts_with("progress"));
    log
}

#[tokio::test]
async fn progress_is_reported_once_in_each_interval_and_not_without() {
    let recorder = RecordingTracer::new();
    let layer = || TracerLayer::new(recorder.clone()).server();
    run(layer(), 5, Duration::ZERO).await;
    assert!(progress(&recorder).is_empty());
    run(
        layer().progress_every(Duration::from_secs(3600)),
        5,
        Duration::ZERO,
    )
    .await;
    assert!(progress(&recorder).is_empty());

    // At each frame, but for the last: then the RPC is over.
    recorder.clear();
    run(layer().progress_every(Duration::ZERO), 3, Duration::ZERO).await;
    assert_eq!(
        recorder.log(),
        [
            "start",
            "request_headers",
            "half_close",
            "response_headers",
            "response_message #0 1B",
            "progress 0/1",
            "response_message #1 1B",
            "progress 0/2",
            "response_message #2 1B",
            "progress 0/3",
            "trailers",
            "finish trailers OK",
        ]
    );

    recorder.clear();
    let every = layer().progress_every(Duration::from_millis(25));
    run(every, 10, Duration::from_millis(10)).await;
    // Of 100 ms, in which a machine may be slow.
    let seen = progress(&recorder).len();
    assert!((2..=4).contains(&seen), "{seen}");
}

/// Counts calls of its hook. It wants no events.
struct Hook(Arc<AtomicUsize>);

impl Tracer for Hook {
    type State = usize;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> usize {
        0
    }

    fn finish(&self, state: usize, _: &RpcInfo) {
        self.0.fetch_add(state, Ordering::Relaxed);
    }

    fn progress(&self, state: &mut usize, _: &RpcInfo) {
        *state += 1;
        assert!(*state != 2, "told to panic");
    }
}

#[tokio::test]
async fn hook_reaches_a_tracer_in_whatever_stack_and_its_panic_is_contained() {
    let count = Arc::new(AtomicUsize::new(0));
    let hook = || Hook(Arc::clone(&count));
    async fn with<T: Tracer>(tracer: T) {
        let layer = TracerLayer::new(tracer).progress_every(Duration::ZERO);
        run(layer.server(), 4, Duration::ZERO).await;
    }
    with(hook()).await;
    with((hook(), ())).await;
    with(vec![hook()]).await;
    with(Some(hook())).await;
    with(Arc::new(hook())).await;
    with(hook().boxed()).await;
    with(hook().reloadable()).await;
    with(hook().filter(|_| true)).await;
    with(hook().finish_if(|_| true)).await;
    with(Either::<Hook, ()>::Left(hook())).await;
    assert_eq!(count.load(Ordering::Relaxed), 10 * 4);
}

#[tokio::test]
async fn request_that_streams_is_reported_too() {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone())
        .client()
        .progress_every(Duration::ZERO);
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |request: Request<Body>| {
            request.into_body().collect().await.unwrap();
            Ok::<_, Infallible>(response(vec![], Duration::ZERO))
        });
    let frames = [message(), message()].map(|frame| Ok::<_, Infallible>(Frame::data(frame)));
    let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    let response = service.oneshot(request(body)).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(progress(&recorder), ["progress 1/?", "progress 2/?"]);
}

#[tokio::test]
async fn delay_of_a_request_is_the_time_until_the_transport_takes_it() {
    for (client, level, known) in [
        (true, Level::Detailed, true),
        (true, Level::Base, false),
        (false, Level::Detailed, false),
    ] {
        let finished = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&finished);
        let tracer = on_finish(move |rpc| *seen.lock().unwrap() = rpc.stats().send_delay());
        let layer = TracerLayer::new(tracer).level(level);
        let layer = if client {
            layer.client()
        } else {
            layer.server()
        };
        let service =
            ServiceBuilder::new()
                .layer(layer)
                .service_fn(async |request: Request<Body>| {
                    // As long as a connection takes.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    request.into_body().collect().await.unwrap();
                    Ok::<_, Infallible>(response(vec![], Duration::ZERO))
                });
        let frames = [Ok::<_, Infallible>(Frame::data(message()))];
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        let response = service.oneshot(request(body)).await.unwrap();
        response.into_body().collect().await.unwrap();
        let delay = *finished.lock().unwrap();
        assert_eq!(
            delay.is_some_and(|delay| delay >= Duration::from_millis(15)),
            known
        );
        assert_eq!(delay.is_some(), known);
    }
}

/// What a series of this method says.
fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn counters_move_while_a_stream_runs_and_count_nothing_twice() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let facade = recorder.handle();
    let known = KnownMethods::new(["a.B/C"]);
    let metrics = MetricsTracer::new()
        .recorder(recorder)
        .methods(known.clone());
    let prometheus = PrometheusTracer::new().methods(known);
    let layer = TracerLayer::new((metrics, prometheus.clone()))
        .server()
        .progress_every(Duration::ZERO);
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |_: Request<Body>| {
            // Two messages in a frame.
            let packed: Bytes = [message(), message()].concat().into();
            Ok::<_, Infallible>(response(vec![message(), packed, message()], Duration::ZERO))
        });
    let response = service.oneshot(request(Body::empty())).await.unwrap();
    let mut body = response.into_body();
    for (messages, bytes) in [(1, 1), (3, 3), (4, 4)] {
        body.frame().await.unwrap().unwrap();
        for text in [facade.render(), prometheus.encode()] {
            assert_eq!(figure(&text, "rpc_sent_messages_total{"), messages);
            assert_eq!(figure(&text, "rpc_sent_message_bytes_total{"), bytes);
            assert_eq!(figure(&text, "rpc_in_flight{"), 1);
        }
    }
    body.collect().await.unwrap();
    for text in [facade.render(), prometheus.encode()] {
        assert_eq!(figure(&text, "rpc_sent_messages_total{"), 4);
        assert_eq!(figure(&text, "rpc_sent_message_bytes_total{"), 4);
        assert_eq!(figure(&text, "rpc_in_flight{"), 0);
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a handler that makes a call goes.
#[derive(Clone, Copy, Debug)]
enum Goes {
    /// The server RPC is dropped within the handler.
    Dropped,
    Panics,
    /// The handler gives the call up, and answers.
    GivesUp,
    /// The call goes on in a task, and is dropped after the server RPC is over.
    OutlivedByTask,
}

// Ending 48.
#[tokio::test]
async fn calls_that_go_with_the_rpc_that_made_them_say_so() {
    for (goes, with_parent) in [
        (Goes::Dropped, true),
        (Goes::Panics, true),
        (Goes::GivesUp, false),
        (Goes::OutlivedByTask, true),
    ] {
        let recorder = RecordingTracer::new();
        let telemetry = Telemetry::new();
        let failed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&failed);
        let count = on_finish(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let tracers = (recorder.clone(), telemetry.tracer(), count.only_failed());
        let client =
            TracerLayer::new(tracers)
                .client()
                .layer(service_fn(async |_: Request<Body>| {
                    pending::<Result<Response<Body>, Infallible>>().await
                }));
        let server = RecordingTracer::new();
        let task = Arc::new(Mutex::new(None::<Task>));
        let kept = Arc::clone(&task);
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(server.clone()).server())
            .service_fn(move |_: Request<Body>| {
                let client = client.clone();
                let kept = Arc::clone(&kept);
                async move {
                    let mut call = Box::pin(async move {
                        let _ = client.oneshot(request(Body::empty())).await;
                    });
                    // It starts.
                    poll_fn(|cx| {
                        assert!(call.poll_unpin(cx).is_pending());
                        Poll::Ready(())
                    })
                    .await;
                    match goes {
                        Goes::Dropped => call.await,
                        Goes::Panics => panic!("told to panic"),
                        Goes::GivesUp => drop(call),
                        Goes::OutlivedByTask => *kept.lock().unwrap() = Some(call),
                    }
                    Ok::<_, Infallible>(response(vec![], Duration::ZERO))
                }
            });
        let served = async move {
            let Ok(response) = service.oneshot(request(Body::empty())).await;
            response.into_body().collect().await.unwrap();
        };
        let mut served = Box::pin(std::panic::AssertUnwindSafe(served).catch_unwind());
        let _ = futures_util::poll!(&mut served);
        drop(served);
        drop(task.lock().unwrap().take());

        assert_eq!(server.finished().len(), 1, "{goes:?}");
        let rpc = recorder.only_finished();
        let stats = rpc.stats();
        assert_eq!(stats.ending(), Some(Ending::Cancelled), "{goes:?}");
        assert_eq!(stats.code(), Some(Code::Cancelled));
        assert_eq!(stats.cancelled_with_parent(), with_parent, "{goes:?}");
        assert_eq!(stats.failed(), !with_parent);
        assert_eq!(failed.load(Ordering::Relaxed), usize::from(!with_parent));
        let span = attributes(&telemetry.spans().pop().unwrap().attributes);
        let says = |text: &str| span.contains(&text.to_owned());
        assert_eq!(says("tower_tracer.cancelled_with_parent=true"), with_parent);
        assert_eq!(says("error.type=CANCELLED"), !with_parent);
    }
}

#[tokio::test]
async fn metrics_name_the_ending_of_calls_that_go_with_their_parent() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let facade = recorder.handle();
    let client = TracerLayer::new(MetricsTracer::new().recorder(recorder))
        .client()
        .layer(service_fn(async |_: Request<Body>| {
            pending::<Result<Response<Body>, Infallible>>().await
        }));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(()).server())
        .service_fn(move |_: Request<Body>| {
            let client = client.clone();
            async move { client.oneshot(request(Body::empty())).await }
        });
    let mut served = Box::pin(service.oneshot(request(Body::empty())));
    assert!(futures_util::poll!(&mut served).is_pending());
    drop(served);
    let text = facade.render();
    let line = r#"code="CANCELLED",ending="cancelled_with_parent"} 1"#;
    assert!(text.contains(line), "{text}");
    assert_eq!(figure(&text, "rpc_failed_total{"), 0);
}

#[tokio::test]
async fn real_stream_is_reported_while_it_runs() {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).progress_every(Duration::from_millis(1));
    let uri = crate::support::tcp::serve(layer).await;
    let mut client = crate::support::tcp::connect(&uri, TracerLayer::new(())).await;
    let request = crate::support::tcp::echo::EchoRequest {
        count: 5,
        delay_ms: 5,
        ..crate::support::tcp::echo::say("hello")
    };
    let mut messages = client
        .server_streaming_echo(request)
        .await
        .unwrap()
        .into_inner();
    while let Some(message) = messages.next().await {
        message.unwrap();
    }
    let rpc = crate::support::tcp::soon(recorder.wait_finished(1))
        .await
        .remove(0);
    assert_eq!(rpc.stats().response().messages(), Some(5));
    let is_progress = |entry: &EntryKind| matches!(entry, EntryKind::Progress(..));
    let entries = recorder.entries();
    let first = entries.iter().position(|entry| is_progress(&entry.what));
    assert!(
        first.is_some_and(|at| at < entries.len() - 1),
        "{:?}",
        recorder.log()
    );
}
