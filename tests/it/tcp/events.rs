//! Events, levels, attempts, and what a live record shows.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::scripted::{Scripted, data, message, request, response, trailers};
use crate::support::tcp::{
    connect,
    echo::{EchoServer, Unary, listen, say},
    pair, soon,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{body::Body, transport::Server};
use tower::{BoxError, ServiceBuilder, retry::Policy};
use tower_tracer::{
    Code, Ending, Event, Level, RequestParts, Role, RpcInfo, Status, Tracer, TracerLayer,
    rpc::Severity, service::StageLayer, testing::RecordingTracer,
};

static BASE: Event = Event::new("base", Level::Base);
static DETAILED: Event = Event::new("detailed", Level::Detailed);
static START: Event = Event::new("start", Level::Base);
static FINISH: Event = Event::new("finish", Level::Base);

type Answer = Result<Response<Scripted>, BoxError>;

/// Reads all of the request and answers with two messages, and `during` in between.
async fn handle(request: Request<Body>, during: impl FnOnce(&RpcInfo)) -> Answer {
    let rpc = request.extensions().get::<RpcInfo>().cloned();
    request.into_body().collect().await?;
    if let Some(rpc) = &rpc {
        during(rpc);
    }
    Ok(response([data(1), data(2), trailers("0")]))
}

/// One RPC through this layer, to its end; its record.
async fn rpc<T: Tracer>(
    layer: TracerLayer<T>,
    during: impl FnOnce(&RpcInfo) + Clone + Send + 'static,
) -> RpcInfo {
    let service = ServiceBuilder::new()
        .layer(layer.insert_into_response())
        .layer(StageLayer::server_handle())
        .service_fn(move |request| handle(request, during.clone()));
    let answer = service.oneshot(request(Scripted::new([data(3)]))).await;
    let (parts, body) = answer.unwrap().into_parts();
    body.collect().await.unwrap();
    parts.extensions.get::<RpcInfo>().unwrap().clone()
}

fn names(rpc: &RpcInfo) -> Vec<&'static str> {
    let events = rpc.stats().events();
    events
        .iter()
        .map(|recorded| recorded.event.name())
        .collect()
}

fn record_both(rpc: &RpcInfo) {
    rpc.record(BASE);
    rpc.record(DETAILED);
}

#[tokio::test]
async fn level_base_records_start_finish_and_counts() {
    let rpc = rpc(TracerLayer::new(()), record_both).await;
    assert_eq!(rpc.level(), Level::Base);
    assert_eq!(names(&rpc), ["rpc_start", "base", "rpc_finish"]);
    let stats = rpc.stats();
    assert_eq!(stats.status(), Some(Status::OK));
    assert_eq!(stats.ending(), Some(Ending::Trailers));
    assert_eq!(stats.request().messages(), Some(1));
    assert_eq!(stats.response().message_bytes(), Some(3));
    assert_eq!(stats.response().last_message_bytes(), Some(2));
    assert_eq!(stats.response().first_message_at(), None);
    assert_eq!(stats.at(DETAILED), None);
    assert_eq!(stats.events_left_out(), 0, "it was not asked for");
}

#[tokio::test]
async fn level_detailed_records_every_event_in_order() {
    let layer = TracerLayer::new(()).level(Level::Detailed);
    let rpc = rpc(layer, record_both).await;
    assert_eq!(rpc.level(), Level::Detailed);
    let stats = rpc.stats();
    for event in Event::PREDEFINED {
        assert!(stats.at(*event).is_some(), "{event}");
    }
    let order = [
        Event::RPC_START,
        Event::SERVER_HANDLE_START,
        Event::REQUEST_FIRST_BYTE,
        Event::REQUEST_FIRST_MESSAGE,
        Event::HALF_CLOSE,
        BASE,
        DETAILED,
        Event::SERVER_HANDLE_FINISH,
        Event::RESPONSE_HEADERS,
        Event::RESPONSE_FIRST_BYTE,
        Event::RESPONSE_FIRST_MESSAGE,
        Event::RESPONSE_LAST_BYTE,
        Event::TRAILERS,
        Event::RPC_FINISH,
    ];
    let times: Vec<_> = order.map(|event| stats.at(event).unwrap()).into();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(names(&rpc).len(), Event::PREDEFINED.len() + 2);
    assert_eq!(stats.duration(), Some(times[13]));
    let (first, last) = (
        stats.response().first_message_at().unwrap(),
        stats.response().last_message_at().unwrap(),
    );
    assert_eq!(Some(first), stats.at(Event::RESPONSE_FIRST_MESSAGE));
    assert!(first <= last);
}

#[tokio::test]
async fn the_first_record_of_an_event_counts() {
    let layer = TracerLayer::new(()).level(Level::Detailed);
    let rpc = rpc(layer, |rpc| {
        rpc.record_with(BASE, Severity::Warn, "first");
        rpc.record_with(BASE, Severity::Error, "second");
        // The same name is the same event.
        rpc.record(Event::new("base", Level::Detailed));
        let before = rpc.stats().at(Event::SERVER_HANDLE_START).unwrap();
        rpc.record_with(Event::SERVER_HANDLE_START, Severity::Error, "too late");
        assert_eq!(rpc.stats().at(Event::SERVER_HANDLE_START), Some(before));
        // These are the layer's to say.
        rpc.record(Event::RPC_START);
        rpc.record(Event::RPC_FINISH);
        assert_eq!(rpc.stats().duration(), None);
    })
    .await;
    let recorded = rpc.stats().event(BASE).unwrap();
    assert_eq!(recorded.status, Severity::Warn);
    assert_eq!(recorded.info.as_deref(), Some("first"));
    assert_eq!(
        names(&rpc).iter().filter(|name| **name == "base").count(),
        1
    );
    let start = rpc.stats().event(Event::SERVER_HANDLE_START).unwrap();
    assert_eq!((start.status, start.info), (Severity::Info, None));
    assert_eq!(rpc.stats().events_left_out(), 0);
}

#[tokio::test]
async fn an_rpc_keeps_64_events_and_counts_the_rest() {
    let events: Vec<Event> = (0..100)
        .map(|number| Event::new(format!("event {number}").leak(), Level::Base))
        .collect();
    let all = events.clone();
    let rpc = rpc(TracerLayer::new(()), move |rpc| {
        for event in &all {
            rpc.record(*event);
        }
    })
    .await;
    assert_eq!(rpc.stats().events_left_out(), 36);
    assert_eq!(names(&rpc).len(), 64 + 2);
    assert!(rpc.stats().at(events[63]).is_some());
    assert_eq!(rpc.stats().at(events[64]), None);
}

#[tokio::test]
async fn events_after_the_end_are_counted_and_not_kept() {
    let rpc = rpc(TracerLayer::new(()).level(Level::Detailed), |_| ()).await;
    let before = rpc.stats().events();
    rpc.record(BASE);
    rpc.record_with(Event::SERVER_HANDLE_START, Severity::Warn, "late");
    assert_eq!(rpc.stats().events_left_out(), 2);
    assert_eq!(rpc.stats().events(), before);
}

#[tokio::test]
async fn the_level_is_chosen_for_each_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler_saw = Arc::clone(&seen);
    let layer = TracerLayer::new(()).level_of(|request| match request.path() {
        "/off" => Level::Disabled,
        "/base" => Level::Base,
        _ => Level::Detailed,
    });
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |request: Request<Body>| {
            let rpc = request.extensions().get::<RpcInfo>();
            let level = rpc.map(RpcInfo::level);
            let current = RpcInfo::current().as_ref().map(RpcInfo::level);
            handler_saw.lock().unwrap().push((level, current));
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        });
    for path in ["/off", "/base", "/detailed"] {
        let request = Request::post(path).body(Body::empty()).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let levels = [None, Some(Level::Base), Some(Level::Detailed)];
    assert_eq!(*seen.lock().unwrap(), levels.map(|level| (level, level)));
}

#[tokio::test]
async fn a_handle_changes_the_level_while_a_service_runs_and_a_call_keeps_its_own() {
    let layer = TracerLayer::new(());
    let level = layer.level_handle();
    let (hold, held) = (Arc::new(tokio::sync::Notify::new()), Arc::default());
    let (release, keep): (_, Arc<Mutex<Vec<RpcInfo>>>) = (Arc::clone(&hold), Arc::clone(&held));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |request: Request<Body>| {
            let rpc = request.extensions().get::<RpcInfo>().cloned();
            let waits = (request.uri().path() == "/held").then(|| Arc::clone(&hold));
            keep.lock().unwrap().extend(rpc.clone());
            async move {
                if let Some(hold) = waits {
                    hold.notified().await;
                }
                Ok::<_, Infallible>(Response::new(rpc.map_or(Body::empty(), |rpc| {
                    Body::new(Full::new(Bytes::from(format!("{:?}", rpc.level()))))
                })))
            }
        });
    let call = |path: &'static str| {
        let request = Request::post(path).body(Body::empty()).unwrap();
        let answer = service.clone().oneshot(request);
        async {
            answer
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
        }
    };
    let mut held_call = Box::pin(call("/held"));
    assert!(futures_util::poll!(&mut held_call).is_pending());
    for (set, seen) in [
        (Level::Disabled, ""),
        (Level::Detailed, "Detailed"),
        (Level::Base, "Base"),
        (Level::Disabled, ""),
    ] {
        level.set(set);
        assert_eq!(call("/").await, seen, "{set:?}");
    }
    release.notify_one();
    assert_eq!(held_call.await, "Base", "as it was when it started");
    assert_eq!(held.lock().unwrap().len(), 3, "two with no record");
}

#[tokio::test]
async fn a_frame_without_a_byte_records_no_first_and_no_last_byte() {
    let layer = TracerLayer::new(())
        .level(Level::Detailed)
        .insert_into_response();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |request: Request<Body>| {
            request.into_body().collect().await?;
            let empty = crate::support::scripted::Step::Data(Bytes::new());
            Ok::<_, BoxError>(response([empty, trailers("0")]))
        });
    let empty = crate::support::scripted::Step::Data(Bytes::new());
    let answer = service.oneshot(request(Scripted::new([data(3), empty])));
    let (parts, body) = answer.await.unwrap().into_parts();
    body.collect().await.unwrap();
    let stats = parts.extensions.get::<RpcInfo>().unwrap().stats();
    assert_eq!(stats.at(Event::RESPONSE_FIRST_BYTE), None);
    assert_eq!(stats.at(Event::RESPONSE_LAST_BYTE), None);
    assert_eq!(stats.response().body_bytes(), Some(0));
    let [first, last] = [Event::REQUEST_FIRST_BYTE, Event::REQUEST_LAST_BYTE];
    assert!(stats.at(first).is_some());
    assert_eq!(stats.at(first), stats.at(last));
    assert_eq!(stats.request().first_message_at(), stats.at(first));
    assert_eq!(stats.request().last_message_at(), stats.at(first));
}

#[tokio::test]
async fn an_event_that_moves_on_keeps_its_text_with_the_later_time() {
    let layer = TracerLayer::new(()).level(Level::Detailed);
    let rpc = rpc(layer, |rpc| {
        rpc.record_with(Event::RESPONSE_LAST_BYTE, Severity::Warn, "early");
    })
    .await;
    let event = rpc.stats().event(Event::RESPONSE_LAST_BYTE).unwrap();
    assert_eq!(event.info.as_deref(), Some("early"));
    assert_eq!(Some(event.at), rpc.stats().at(Event::RESPONSE_LAST_BYTE));
    assert!(event.at >= rpc.stats().at(Event::RESPONSE_FIRST_BYTE).unwrap());
}

#[tokio::test]
async fn calls_that_forward_a_servers_record_are_not_attempts_of_it() {
    let (incoming, outgoing) = (RecordingTracer::new(), RecordingTracer::new());
    let client = ServiceBuilder::new()
        .layer(TracerLayer::new(outgoing.clone()).client())
        .service_fn(|request: Request<Body>| handle(request, |_| ()));
    let proxy = ServiceBuilder::new()
        .layer(TracerLayer::new(incoming.clone()).server())
        .service_fn(move |incoming: Request<Body>| {
            let client = client.clone();
            async move {
                for _ in 0..2 {
                    let mut forwarded = request(Scripted::new([data(3)]));
                    *forwarded.extensions_mut() = incoming.extensions().clone();
                    let answer = client.clone().oneshot(forwarded).await?;
                    answer.into_body().collect().await?;
                }
                Ok::<_, BoxError>(response([trailers("0")]))
            }
        });
    let answer = proxy.oneshot(request(Scripted::new([data(3)])));
    answer.await.unwrap().into_body().collect().await.unwrap();
    let server = incoming.only_finished();
    assert_eq!(server.stats().attempts(), 0);
    for call in outgoing.finished() {
        assert!(call.parent().unwrap().ptr_eq(&server));
        assert_eq!(call.attempt(), 1);
    }
}

#[tokio::test]
async fn level_disabled_records_nothing_and_asks_no_tracer() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(
            TracerLayer::new(recorder.clone())
                .level(Level::Disabled)
                .insert_into_response(),
        )
        .layer(StageLayer::server_handle())
        .service_fn(|request: Request<Body>| {
            assert!(request.extensions().is_empty());
            assert!(RpcInfo::current().is_none());
            handle(request, |_| ())
        });
    let answer = service.oneshot(request(Scripted::new([data(3)]))).await;
    let answer = answer.unwrap();
    assert!(answer.extensions().get::<RpcInfo>().is_none());
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), [message(1), message(2)].concat());
    assert_eq!(recorder.log(), [""; 0]);
}

/// Wants this level of those RPCs it takes part in.
struct Wants(Level);

impl Tracer for Wants {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), _: &RpcInfo) {}

    fn level(&self) -> Level {
        self.0
    }
}

#[tokio::test]
async fn a_tracer_can_raise_the_level_and_cannot_lower_it() {
    for (layer, tracer, expected) in [
        (Level::Base, Level::Detailed, Level::Detailed),
        (Level::Detailed, Level::Base, Level::Detailed),
        (Level::Base, Level::Disabled, Level::Base),
    ] {
        for several in [false, true] {
            let rpc = if several {
                let layer = TracerLayer::new(((), Wants(tracer))).level(layer);
                rpc(layer, record_both).await
            } else {
                rpc(TracerLayer::new(Wants(tracer)).level(layer), record_both).await
            };
            assert_eq!(rpc.level(), expected);
            let detailed = expected == Level::Detailed;
            assert_eq!(rpc.stats().at(DETAILED).is_some(), detailed);
            assert_eq!(rpc.stats().at(Event::HALF_CLOSE).is_some(), detailed);
        }
    }
}

/// Tries again until it works.
#[derive(Clone)]
struct UntilOk;

impl Policy<Request<Full<Bytes>>, Response<Full<Bytes>>, tonic::Status> for UntilOk {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<Full<Bytes>>, tonic::Status>,
    ) -> Option<Self::Future> {
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn a_layer_above_retry_records_one_call_and_a_layer_below_records_each_attempt() {
    let (call, attempts) = (RecordingTracer::new(), RecordingTracer::new());
    let below = attempts.clone();
    let tries = Arc::new(Mutex::new(0));
    // The body of a request is counted if it is tonic's.
    let server = ServiceBuilder::new()
        .layer(TracerLayer::new(below).client())
        .service_fn(move |request: Request<Body>| {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            let fails = *tries < 3;
            async move {
                request.into_body().collect().await.unwrap();
                if fails {
                    return Err(tonic::Status::unavailable("try again"));
                }
                let response = Response::builder().header("grpc-status", "0");
                Ok(response.body(Full::<Bytes>::default()).unwrap())
            }
        });
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(call.clone()).client())
        .retry(UntilOk)
        .layer(StageLayer::new(START, FINISH))
        .map_request(|request: Request<Full<Bytes>>| request.map(Body::new))
        .map_response(|response: Response<_>| response.map(|_| Full::default()))
        .service(server);
    let request = Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(Full::new(message(9)))
        .unwrap();
    service.oneshot(request).await.unwrap();

    let call = call.only_finished();
    assert_eq!(call.attempt(), 1);
    assert!(call.parent().is_none());
    assert_eq!(call.stats().status(), Some(Status::OK));
    // The mark below retry belongs to the call, and the first attempt's counts.
    let attempts = attempts.finished();
    assert_eq!(attempts.len(), 3);
    for (number, attempt) in (1..).zip(&attempts) {
        assert_eq!(attempt.attempt(), number);
        assert!(attempt.parent().unwrap().ptr_eq(&call));
        let code = if number < 3 {
            Code::Unavailable
        } else {
            Code::Ok
        };
        assert_eq!(attempt.stats().status(), Some(Status::Grpc(code)));
        assert_eq!(attempt.stats().request().messages(), Some(1));
        assert_eq!(attempt.stats().request().message_bytes(), Some(9));
    }
    let stats = call.stats();
    assert!(stats.at(START) <= stats.at(FINISH));
    assert!(stats.at(FINISH) <= stats.duration());
}

#[tokio::test]
async fn a_stage_below_a_buffer_measures_how_long_a_request_waited() {
    let recorder = RecordingTracer::new();
    let (hold, held) = tokio::sync::oneshot::channel::<()>();
    let held = Arc::new(Mutex::new(Some(held)));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .map_err(|error: BoxError| error.to_string())
        .buffer(4)
        .concurrency_limit(1)
        .layer(StageLayer::new(START, FINISH))
        .service_fn(move |_: Request<Body>| {
            let held = held.lock().unwrap().take();
            async move {
                if let Some(held) = held {
                    held.await?;
                }
                Ok::<_, BoxError>(Response::new(Body::empty()))
            }
        });
    let first = tokio::spawn(service.clone().oneshot(Request::new(Body::empty())));
    while recorder.started().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn(service.oneshot(Request::new(Body::empty())));
    while recorder.started().len() < 2 {
        tokio::task::yield_now().await;
    }
    let released_after = recorder.started()[1].stats().elapsed();
    hold.send(()).unwrap();
    soon(first).await.unwrap().unwrap();
    soon(second).await.unwrap().unwrap();
    let [first, second] = [0, 1].map(|number| recorder.started().remove(number));
    assert!(first.stats().at(FINISH).is_some());
    let waited = second.stats().between(Event::RPC_START, START).unwrap();
    assert!(waited >= released_after, "{waited:?}");
    assert!(second.stats().between(START, FINISH).is_some());
}

#[tokio::test]
async fn a_live_record_shows_what_has_moved_so_far() {
    let mut pair = pair().await;
    let (send, requests) = mpsc::channel(1);
    send.send(say("a")).await.unwrap();
    let stream = pair
        .client
        .bidirectional_streaming_echo(ReceiverStream::new(requests))
        .await;
    let mut stream = stream.unwrap().into_inner();
    let (client, server) = (pair.client_side.started(), pair.server_side.started());
    let live = [&client[0], &server[0]];
    let mut ages = live.map(|rpc| rpc.stats().elapsed());
    for count in 1..5 {
        soon(stream.next()).await.unwrap().unwrap();
        for (rpc, age) in live.iter().zip(&mut ages) {
            let stats = rpc.stats();
            for traffic in [stats.request(), stats.response()] {
                assert_eq!(traffic.messages(), Some(count));
                assert_eq!(traffic.message_bytes(), Some(3 * count));
                assert_eq!(traffic.last_message_bytes(), Some(3));
                assert!(!traffic.is_complete());
            }
            assert!(stats.elapsed() > *age);
            *age = stats.elapsed();
            assert_eq!(
                (stats.duration(), stats.status(), stats.ending()),
                (None, None, None)
            );
            assert!(!stats.failed());
        }
        send.send(say("b")).await.unwrap();
    }
    drop(send);
    while soon(stream.next()).await.is_some() {}
    soon(pair.server_side.wait_finished(1)).await;
    for rpc in live {
        assert_eq!(rpc.stats().status(), Some(Status::OK));
        assert_eq!(rpc.stats().elapsed(), rpc.stats().duration().unwrap());
    }
}

#[tokio::test]
async fn a_server_learns_the_attempt_from_the_request() {
    for (previous, attempt) in [(None, 1), (Some("1"), 2), (Some("4"), 5), (Some("x"), 1)] {
        let mut pair = pair().await;
        let mut ask = tonic::Request::new(say("again"));
        if let Some(previous) = previous {
            let metadata = ask.metadata_mut();
            metadata.insert("grpc-previous-rpc-attempts", previous.parse().unwrap());
        }
        pair.client.unary_echo(ask).await.unwrap();
        let server = soon(pair.server_side.wait_finished(1)).await.remove(0);
        assert_eq!(server.attempt(), attempt, "{previous:?}");
        assert!(server.parent().is_none());
        assert_eq!(pair.client_side.only_finished().attempt(), 1);
    }
}

#[tokio::test]
async fn a_client_inside_a_handler_has_the_servers_record_as_its_parent() {
    let back = crate::support::tcp::serve(TracerLayer::new(RecordingTracer::new())).await;
    let (outgoing, spawned, server_side) = (
        RecordingTracer::new(),
        RecordingTracer::new(),
        RecordingTracer::new(),
    );
    let inner = connect(&back, TracerLayer::new(outgoing.clone())).await;
    let in_a_task = connect(&back, TracerLayer::new(spawned.clone())).await;
    let handler = Unary(move |request: tonic::Request<_>| {
        let (mut inner, mut in_a_task) = (inner.clone(), in_a_task.clone());
        async move {
            let here = request.extensions().get::<RpcInfo>().unwrap().clone();
            inner.unary_echo(say("first")).await?;
            assert!(RpcInfo::current().unwrap().ptr_eq(&here));
            let task = tokio::spawn(async move {
                assert!(RpcInfo::current().is_none(), "a task has none");
                in_a_task.unary_echo(say("second")).await
            });
            task.await.unwrap()
        }
    });
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .layer(TracerLayer::new(server_side.clone()))
        .add_service(EchoServer::new(handler))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let mut client = connect(&uri, TracerLayer::new(RecordingTracer::new())).await;
    client.unary_echo(say("hello")).await.unwrap();
    assert!(RpcInfo::current().is_none(), "the thread is left clean");

    let server = soon(server_side.wait_finished(1)).await.remove(0);
    let outgoing = outgoing.only_finished();
    assert!(outgoing.parent().unwrap().ptr_eq(&server));
    assert_eq!(outgoing.role(), Role::Client);
    assert_eq!((outgoing.attempt(), server.attempt()), (1, 1));
    assert!(server.parent().is_none());
    assert!(spawned.only_finished().parent().is_none());
    assert_eq!(outgoing.timeout(), None::<Duration>);
}
