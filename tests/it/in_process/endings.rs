//! Endings that need no connection: services and bodies that follow a script.

use std::{
    convert::Infallible,
    fmt,
    future::{self, Future},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_tracer::{
    Code, Ending, RequestParts, Role, RpcInfo, Stats, Status, Tracer, TracerLayer,
    service::TracerService, testing::RecordingTracer,
};

use crate::support::scripted::{
    Course, Handler, Scripted, Step, bare_request, data, drive, grpc_status, message,
    panic_on_purpose, poll_body, poll_once, quiet, request, response, run, show, trailers,
};

/// Answers each request with a copy of its response.
struct Answer(Response<Scripted>);

impl<B> Service<Request<B>> for Answer {
    type Response = Response<Scripted>;
    type Error = BoxError;
    type Future = future::Ready<Result<Response<Scripted>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        future::ready(Ok(self.0.clone()))
    }
}

fn answering(
    recorder: &RecordingTracer,
    role: Role,
    response: Response<Scripted>,
) -> TracerService<Answer, RecordingTracer> {
    on(role, TracerLayer::new(recorder.clone())).layer(Answer(response))
}

fn on<T>(role: Role, layer: TracerLayer<T>) -> TracerLayer<T> {
    match role {
        Role::Client => layer.client(),
        Role::Server => layer.server(),
    }
}

/// All that the body gives until it is at its end, a line for each poll.
fn frames(mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin) -> Vec<String> {
    let mut frames = Vec::new();
    loop {
        frames.push(show(&poll_body(&mut body)));
        if frames.last().is_some_and(|last| last == "end") {
            return frames;
        }
    }
}

const STARTED: [&str; 3] = ["start", "request_headers", "half_close"];

/// The log of an RPC with an empty request that went on like this.
#[track_caller]
fn assert_log(recorder: &RecordingTracer, rest: &[&str]) {
    let expected: Vec<_> = STARTED.iter().chain(rest).copied().collect();
    assert_eq!(recorder.log(), expected);
}

// Ending 3. Ending 4. Ending 5. Ending 6. Ending 7. Ending 8. Ending 9.
#[test]
fn each_course_of_an_rpc_starts_and_finishes_once_and_looks_the_same_to_the_caller() {
    for course in Course::ALL {
        for role in [Role::Client, Role::Server] {
            let recorder = RecordingTracer::new();
            let layer = on(role, TracerLayer::new(recorder.clone()));
            let seen = drive(&mut layer.layer(Handler::of(course)), course);
            assert_eq!(seen, Handler::of(course).untraced(), "{course:?}");
            let log = recorder.log();
            assert_eq!(log[0], "start", "{course:?}");
            assert_eq!(log.last().unwrap(), course.finish(), "{course:?}");
            assert_eq!(recorder.started().len(), 1, "{course:?}: {log:?}");
            assert_eq!(recorder.finished().len(), 1, "{course:?}: {log:?}");
        }
    }
}

// Ending 3.
#[tokio::test]
async fn a_panic_of_the_handler_is_recorded_and_goes_on() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .service_fn(async |_: Request<tonic::body::Body>| match () {
            () if true => panic_on_purpose(),
            () => Ok::<_, BoxError>(response([])),
        });
    let joined = tokio::spawn(service.oneshot(bare_request())).await;
    let Err(joined) = joined else {
        panic!("the panic did not reach the task")
    };
    let panic = joined.into_panic();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "on purpose");
    assert_log(&recorder, &["finish panic UNKNOWN"]);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().panic(), Some("on purpose"));
    assert_eq!(rpc.stats().wire_status(), None);
}

// Ending 3.
#[test]
fn a_panic_of_the_response_body_inside_a_message_leaves_it_truncated() {
    quiet();
    let recorder = RecordingTracer::new();
    let half = Step::Data(message(9).slice(..8));
    let mut service = answering(
        &recorder,
        Role::Server,
        response([data(1), half, Step::Panic]),
    );
    let mut body = run(service.call(bare_request())).unwrap().into_body();
    assert!(poll_body(&mut body).is_ready());
    assert!(poll_body(&mut body).is_ready());
    assert!(catch_unwind(AssertUnwindSafe(|| poll_body(&mut body))).is_err());
    drop(body);
    assert_log(
        &recorder,
        &[
            "response_headers",
            "response_message #0 1B",
            "finish panic UNKNOWN",
        ],
    );
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().panic(), Some("on purpose"));
    assert_eq!(rpc.stats().response().body_bytes(), Some(14));
    assert!(rpc.stats().response().truncated());
}

// Ending 4.
#[test]
fn a_panic_in_the_call_itself_is_recorded_and_goes_on() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(Handler::of(Course::PanicInCall));
    let called = catch_unwind(AssertUnwindSafe(|| service.call(bare_request())));
    assert_eq!(
        called.err().unwrap().downcast_ref::<String>().unwrap(),
        "on purpose"
    );
    assert_log(&recorder, &["finish panic UNKNOWN"]);
    assert_eq!(recorder.only_finished().stats().panic(), Some("on purpose"));
    assert!(RpcInfo::current().is_none(), "the thread is left clean");
}

// Ending 5.
#[test]
fn a_future_dropped_before_its_first_poll_is_cancelled() {
    let recorder = RecordingTracer::new();
    let mut service = answering(&recorder, Role::Client, response([]));
    drop(service.call(bare_request()));
    assert_log(&recorder, &["finish cancelled CANCELLED"]);
    let stats = recorder.only_finished();
    assert_eq!(stats.stats().wire_status(), None);
    assert_eq!(stats.stats().http_status(), None);
}

// Ending 6.
#[test]
fn a_future_dropped_while_pending_is_cancelled_and_keeps_what_moved() {
    let recorder = RecordingTracer::new();
    let mut service =
        TracerLayer::new(recorder.clone()).layer(service_fn(async |request: Request<_>| {
            let mut body: tonic::body::Body = request.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok::<_, BoxError>(response([]))
        }));
    let half = Step::Data(message(9).slice(..8));
    let body = Scripted::new([data(3), half, Step::Pending, data(4)]);
    let mut future = Box::pin(service.call(request(body)));
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    assert_eq!(
        recorder.log(),
        [
            "start",
            "request_headers",
            "request_message #0 3B",
            "finish cancelled CANCELLED"
        ],
    );
    let sent = recorder.only_finished().stats().request();
    assert_eq!(sent.messages(), Some(1));
    assert_eq!(sent.body_bytes(), Some(16));
    assert!(sent.truncated() && !sent.is_complete());
}

// Ending 6.
#[test]
fn a_future_dropped_after_its_deadline_has_exceeded_it() {
    for (timeout, finish) in [
        ("1n", "finish deadline DEADLINE_EXCEEDED"),
        ("1H", "finish cancelled CANCELLED"),
        ("banana", "finish cancelled CANCELLED"),
    ] {
        let recorder = RecordingTracer::new();
        let mut service =
            TracerLayer::new(recorder.clone()).layer(Handler::of(Course::DropPending));
        let mut request = bare_request();
        let timeout = HeaderValue::from_static(timeout);
        request.headers_mut().insert("grpc-timeout", timeout);
        drop(service.call(request));
        assert_log(&recorder, &[finish]);
        assert_eq!(recorder.only_finished().stats().wire_status(), None);
    }
}

// Ending 7.
#[test]
fn a_response_body_dropped_inside_a_message_is_cancelled_and_that_message_is_not_counted() {
    for role in [Role::Client, Role::Server] {
        let recorder = RecordingTracer::new();
        let half = Step::Data(message(9).slice(..8));
        let steps = [data(1), half, Step::Pending, trailers("0")];
        let mut service = answering(&recorder, role, response(steps));
        let mut body = run(service.call(bare_request())).unwrap().into_body();
        assert!(poll_body(&mut body).is_ready());
        assert!(poll_body(&mut body).is_ready());
        assert!(poll_body(&mut body).is_pending());
        drop(body);
        assert_log(
            &recorder,
            &[
                "response_headers",
                "response_message #0 1B",
                "finish cancelled CANCELLED",
            ],
        );
        let received = recorder.only_finished().stats().response();
        assert_eq!(received.messages(), Some(1));
        assert_eq!(received.message_bytes(), Some(1));
        assert_eq!(received.body_bytes(), Some(14));
        assert!(received.truncated() && !received.is_complete());
    }
}

// Ending 7.
#[test]
fn a_response_body_dropped_between_its_last_message_and_the_trailers_is_not_ok() {
    let recorder = RecordingTracer::new();
    let mut service = answering(&recorder, Role::Client, response([data(1), trailers("0")]));
    let mut body = run(service.call(bare_request())).unwrap().into_body();
    assert!(poll_body(&mut body).is_ready());
    drop(body);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Cancelled)));
    assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    assert!(!rpc.stats().response().truncated());
}

// Ending 8.
#[test]
fn headers_that_carry_the_status_finish_at_once_and_the_body_need_not_be_polled() {
    for (steps, tells) in [(vec![], true), (vec![], false), (vec![data(1)], false)] {
        let recorder = RecordingTracer::new();
        let mut response = response(steps);
        response.headers_mut().extend(grpc_status("5"));
        if tells {
            *response.body_mut() = Scripted::default().telling();
        }
        let mut service = answering(&recorder, Role::Client, response);
        let response = run(service.call(bare_request())).unwrap();
        let expected = ["response_headers", "finish headers_only NOT_FOUND"];
        assert_log(&recorder, &expected);
        drop(response);
        assert_log(&recorder, &expected);
        let wire = recorder.only_finished().stats().wire_status();
        assert_eq!(wire, Some(Status::Grpc(Code::NotFound)));
    }
}

// Ending 9.
#[test]
fn http_200_without_trailers_is_unknown() {
    for role in [Role::Client, Role::Server] {
        for tells in [false, true] {
            for empty in [false, true] {
                let recorder = RecordingTracer::new();
                let steps = if empty { vec![] } else { vec![data(1)] };
                let mut response = response(steps.clone());
                if tells {
                    *response.body_mut() = Scripted::new(steps).telling();
                }
                let mut service = answering(&recorder, role, response);
                let response = run(service.call(bare_request())).unwrap();
                frames(response.into_body());
                let rpc = recorder.only_finished();
                let ending = match tells && empty {
                    true => Ending::HeadersOnly,
                    false => Ending::BodyEnd,
                };
                assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unknown)));
                assert_eq!(rpc.stats().ending(), Some(ending));
                assert_eq!(rpc.stats().wire_status(), None);
                assert!(rpc.stats().response().is_complete());
            }
        }
    }
}

// Ending 10.
#[test]
fn http_503_without_a_grpc_status_is_unavailable_to_a_client() {
    for (role, code) in [
        (Role::Client, Code::Unavailable),
        (Role::Server, Code::Unknown),
    ] {
        for content_type in ["text/html", "application/grpc"] {
            let recorder = RecordingTracer::new();
            let page = Step::Data(Bytes::from_static(b"\0\0\0\0\x02<html>"));
            let response = Response::builder()
                .status(503)
                .header("content-type", content_type)
                .body(Scripted::new([page]))
                .unwrap();
            let mut service = answering(&recorder, role, response);
            let response = run(service.call(bare_request())).unwrap();
            frames(response.into_body());
            let rpc = recorder.only_finished();
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(code)));
            assert_eq!(rpc.stats().wire_status(), None);
            assert_eq!(rpc.stats().http_status(), Some(503));
            // A page is not messages, whatever its first bytes are.
            let messages = (content_type == "application/grpc").then_some(1);
            assert_eq!(rpc.stats().response().messages(), messages);
            assert_eq!(rpc.stats().response().body_bytes(), Some(11));
        }
    }
}

// Ending 13.
#[test]
fn the_status_in_the_headers_overrides_the_status_in_the_trailers() {
    let recorder = RecordingTracer::new();
    let mut response = response([data(1), trailers("0")]);
    response.headers_mut().extend(grpc_status("5"));
    let mut service = answering(&recorder, Role::Client, response);
    let response = run(service.call(bare_request())).unwrap();
    let frames = frames(response.into_body());
    assert!(
        frames[1].contains(r#""grpc-status": "0""#),
        "passed on: {frames:?}"
    );
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
}

// Ending 15.
#[test]
fn a_grpc_message_of_any_kind_is_kept_bounded_and_printed_escaped() {
    let long = "%E2%98%BA".repeat(120_000);
    for (raw, kept) in [
        ("%FF%FE", "\u{fffd}\u{fffd}".to_owned()),
        ("%1B[31m%0D%0A", "\u{1b}[31m\r\n".to_owned()),
        ("100%", "100%".to_owned()),
        (&long, "\u{263a}".repeat(341)),
    ] {
        let recorder = RecordingTracer::new();
        let mut end = grpc_status("13");
        end.insert("grpc-message", raw.parse().unwrap());
        let expected = end.clone();
        let mut service = answering(&recorder, Role::Client, response([Step::Trailers(end)]));
        let response = run(service.call(bare_request())).unwrap();
        let body = run(response.into_body().collect()).unwrap();
        assert_eq!(body.trailers(), Some(&expected), "passed on as it came");
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Internal)));
        assert_eq!(rpc.stats().error(), Some(&*kept));
        for printed in [format!("{rpc:?}"), format!("{:?}", rpc.stats())] {
            assert!(!printed.contains(char::is_control), "{printed:?}");
        }
    }
}

// Ending 28, without a connection.
#[test]
fn as_many_finishes_as_starts_when_300_calls_are_dropped_at_once() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(Handler::of(Course::DropPending));
    let mut futures: Vec<_> = (0..300)
        .map(|_| Box::pin(service.call(bare_request())))
        .collect();
    for future in futures.iter_mut().step_by(2) {
        assert!(poll_once(future).is_pending());
    }
    assert_eq!(recorder.finished().len(), 0);
    drop(futures);
    assert_eq!(recorder.started().len(), 300);
    assert_eq!(recorder.finished().len(), 300);
    for rpc in recorder.started() {
        let log = recorder.log_of(&rpc);
        assert_eq!(
            log.iter().filter(|line| line.starts_with("finish")).count(),
            1
        );
        assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED");
    }
}

// Ending 29.
#[test]
fn wall_times_come_from_one_reading_and_cannot_run_backwards() {
    let recorder = RecordingTracer::new();
    let course = Course::OK;
    drive(
        &mut TracerLayer::new(recorder.clone()).layer(Handler::of(course)),
        course,
    );
    let rpc = recorder.only_finished();
    let stats = rpc.stats();
    let events = stats.events();
    assert!(events.len() >= 8, "{events:?}");
    for pair in events.windows(2) {
        let [a, b] = pair else {
            unreachable!("windows of two")
        };
        let apart = stats.between(a.event, b.event).unwrap();
        let wall = stats
            .time(b.event)
            .unwrap()
            .duration_since(stats.time(a.event).unwrap());
        assert_eq!(wall.unwrap(), apart);
    }
    let last = events.last().unwrap();
    assert_eq!(stats.duration(), Some(last.at), "{events:?}");
}

/// Panics when it is called without having been ready; a clone is not ready.
#[derive(Default)]
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<tonic::body::Body>> for Strict {
    type Response = Response<Scripted>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<tonic::body::Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        future::ready(Ok(response([trailers("0")])))
    }
}

// Ending 30.
#[test]
fn the_ready_inner_service_is_called_even_among_clones_in_flight() {
    let recorder = RecordingTracer::new();
    let mut first = TracerLayer::new(recorder.clone()).layer(Strict::default());
    assert!(run(first.ready()).is_ok());
    let mut second = first.clone();
    let in_flight = first.call(bare_request());
    assert!(run(second.ready()).is_ok());
    let third = second.clone();
    let response = run(second.call(bare_request())).unwrap();
    drop((first, second, third));

    let [one, two] = recorder.started().try_into().unwrap();
    assert!(!one.ptr_eq(&two));
    assert!(one.parent().is_none() && two.parent().is_none());
    frames(response.into_body());
    assert_eq!(two.stats().status(), Some(Status::OK));
    assert_eq!(one.stats().ending(), None, "the other is still in flight");
    frames(run(in_flight).unwrap().into_body());
    assert_eq!(one.stats().status(), Some(Status::OK));
    assert_eq!(recorder.log_of(&one), recorder.log_of(&two));
}

// Ending 31.
#[tokio::test]
async fn readiness_is_passed_through_and_starts_nothing() {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(layer);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    handle.send_error("not today");
    match service.poll_ready() {
        Poll::Ready(Err(error)) => assert_eq!(error.to_string(), "not today"),
        other => panic!("expected the error: {other:?}"),
    }
    assert_eq!(recorder.log(), [""; 0]);
}

/// A future that can be polled without end.
struct Again(Arc<AtomicUsize>);

impl Future for Again {
    type Output = Result<Response<Scripted>, BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.fetch_add(1, SeqCst) {
            0 => Poll::Ready(Err("first".into())),
            1 => Poll::Ready(Ok(response([data(1), trailers("0")]))),
            _ => Poll::Pending,
        }
    }
}

// Ending 32.
#[test]
fn a_future_polled_again_after_its_end_does_what_the_inner_one_does_and_finishes_nothing() {
    let recorder = RecordingTracer::new();
    let polls = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&polls);
    let mut service = TracerLayer::new(recorder.clone())
        .layer(service_fn(move |_: Request<()>| Again(Arc::clone(&inner))));
    let mut future = service.call(Request::new(()));
    assert!(matches!(poll_once(&mut future), Poll::Ready(Err(_))));
    let log = recorder.log();
    assert_eq!(log.last().unwrap(), "finish service_error");
    match poll_once(&mut future) {
        Poll::Ready(Ok(response)) => assert_eq!(frames(response.into_body()).len(), 3),
        _ => panic!("the inner future's second output"),
    }
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    assert_eq!(polls.load(SeqCst), 3);
    assert_eq!(recorder.log(), log);
}

// Ending 32.
#[test]
fn a_body_polled_again_after_its_end_does_what_the_inner_one_does_and_finishes_nothing() {
    let more = [data(2), trailers("13")];
    for end in [trailers("0"), Step::Error(None)] {
        let recorder = RecordingTracer::new();
        let steps: Vec<_> = [data(1), end].into_iter().chain(more.clone()).collect();
        let mut service = answering(&recorder, Role::Server, response(steps.clone()));
        let body = run(service.call(bare_request())).unwrap().into_body();
        assert_eq!(frames(body), frames(Scripted::new(steps)));
        let rpc = recorder.only_finished();
        assert_eq!(rpc.stats().response().messages(), Some(1));
        assert!(recorder.log().last().unwrap().starts_with("finish"));
    }
}

// Ending 33.
#[test]
fn requests_and_responses_pass_the_layer_unchanged() {
    let steps = [
        data(3),
        Step::Pending,
        Step::Data(Bytes::new()),
        Step::Data(Bytes::from_static(b"\x3c\xff\xff\xff\xff and no end")),
        trailers("7"),
    ];
    for tells in [false, true] {
        let script = match tells {
            true => Scripted::new(steps.clone()).telling(),
            false => Scripted::new(steps.clone()),
        };
        let recorder = RecordingTracer::new();
        let seen_inside = Arc::new(Mutex::new(Vec::new()));
        let (inside, answer) = (Arc::clone(&seen_inside), script.clone());
        let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(
            move |request: Request<tonic::body::Body>| {
                let mut body = request.into_body();
                let mut seen = inside.lock().unwrap();
                look(&mut body, &mut seen);
                let mut response = response([]);
                response
                    .headers_mut()
                    .insert("x-answer", HeaderValue::from_static("42"));
                *response.body_mut() = answer.clone();
                future::ready(Ok::<_, BoxError>(response))
            },
        ));
        let response = run(service.call(request(script.clone()))).unwrap();
        assert_eq!(response.headers()["x-answer"], "42");
        assert_eq!(response.headers().len(), 2);
        let (mut seen, mut expected) = (Vec::new(), Vec::new());
        look(&mut response.into_body(), &mut seen);
        look(&mut script.clone(), &mut expected);
        assert_eq!(seen, expected);
        assert_eq!(*seen_inside.lock().unwrap(), expected);
        assert_eq!(recorder.finished().len(), 1);
    }
}

/// Writes down all that can be seen of a body.
fn look<B: Body<Data = Bytes> + Unpin>(body: &mut B, seen: &mut Vec<String>)
where
    B::Error: std::fmt::Display,
{
    loop {
        seen.push(format!("{:?} {}", body.size_hint(), body.is_end_stream()));
        let polled = poll_body(body);
        seen.push(show(&polled));
        if matches!(polled, Poll::Ready(None)) {
            return;
        }
    }
}

// Ending 34.
#[test]
fn two_layers_have_complete_records_linked_as_parent_and_child() {
    for course in Course::ALL {
        let (outer, inner) = (RecordingTracer::new(), RecordingTracer::new());
        let mut service = ServiceBuilder::new()
            .layer(TracerLayer::new(outer.clone()).client())
            .layer(TracerLayer::new(inner.clone()))
            .service(Handler::of(course));
        assert_eq!(drive(&mut service, course), Handler::of(course).untraced());
        assert_eq!(outer.log(), inner.log(), "{course:?}");
        let (outer, inner) = (outer.only_finished(), inner.only_finished());
        assert_eq!(inner.role(), Role::Client, "the side of the outer one");
        assert!(inner.parent().unwrap().ptr_eq(&outer), "{course:?}");
        assert!(outer.parent().is_none());
        for direction in [Stats::request, Stats::response] {
            let (a, b) = (direction(outer.stats()), direction(inner.stats()));
            assert_eq!(a.body_bytes(), b.body_bytes());
            assert_eq!(a.messages(), b.messages());
            assert_eq!(a.truncated(), b.truncated());
        }
        assert!(
            RpcInfo::current().is_none(),
            "{course:?} left the thread clean"
        );
    }
}

// Ending 34.
#[test]
fn a_client_called_inside_a_handler_has_the_servers_record_as_its_parent() {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let client = TracerLayer::new(client_side.clone())
        .client()
        .layer(Handler::of(Course::OK));
    let mut server = TracerLayer::new(server_side.clone())
        .server()
        .layer(service_fn(move |request: Request<tonic::body::Body>| {
            let mut client = client.clone();
            async move {
                let here = RpcInfo::current().expect("the record of the RPC being served");
                assert!(here.ptr_eq(request.extensions().get().unwrap()));
                // The request is a new one, not that of the server.
                let response = client.call(bare_request()).await?;
                response.into_body().collect().await?;
                assert!(here.ptr_eq(&RpcInfo::current().unwrap()));
                Ok::<_, BoxError>(response_ok())
            }
        }));
    let mut future = Box::pin(server.call(bare_request()));
    let mut polls = 0;
    let response = loop {
        polls += 1;
        if let Poll::Ready(response) = poll_once(&mut future) {
            break response.unwrap();
        }
        assert!(RpcInfo::current().is_none(), "between two polls");
    };
    assert!(polls > 1, "it was interrupted at least once");
    frames(response.into_body());
    let (client, server) = (client_side.only_finished(), server_side.only_finished());
    assert!(client.parent().unwrap().ptr_eq(&server));
    assert_eq!((client.role(), server.role()), (Role::Client, Role::Server));
    assert_eq!(client.attempt(), 1);
    assert!(RpcInfo::current().is_none());
}

fn response_ok() -> Response<Scripted> {
    response([data(1), trailers("0")])
}

/// A tracer that injects a header, as one that propagates a context does.
struct Inject(AtomicUsize);

impl Tracer for Inject {
    type State = ();

    fn start(&self, _: &RpcInfo, request: &mut RequestParts<'_>) {
        let value = HeaderValue::from(self.0.fetch_add(1, SeqCst));
        if let Some(headers) = request.headers_mut() {
            headers.insert("x-context", value);
        }
    }

    fn finish(&self, (): (), _: &RpcInfo) {}
}

#[derive(Clone)]
struct UntilOk;

impl<B, E> tower::retry::Policy<Request<Full<Bytes>>, Response<B>, E> for UntilOk {
    type Future = future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<B>, E>,
    ) -> Option<Self::Future> {
        result.is_err().then(|| future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

// Ending 35.
#[test]
fn each_attempt_of_a_retry_has_a_record_linked_to_the_calls_and_headers_are_replaced() {
    let (call, attempts) = (RecordingTracer::new(), RecordingTracer::new());
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&contexts);
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new((call.clone(), Inject(100.into()))).client())
        .retry(UntilOk)
        .layer(TracerLayer::new((attempts.clone(), Inject(200.into()))).client())
        .service_fn(move |request: Request<Full<Bytes>>| {
            let all = request.headers().get_all("x-context").iter();
            let mut seen = seen.lock().unwrap();
            seen.push(
                all.map(|value| value.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            );
            future::ready(match seen.len() {
                1 | 2 => Err(BoxError::from(tonic::Status::unavailable("try again"))),
                _ => Ok(response_ok()),
            })
        });
    let mut request = bare_request().map(|_| Full::new(message(3)));
    let stale = HeaderValue::from_static("stale");
    request.headers_mut().insert("x-context", stale);
    let response = run(service.oneshot(request)).unwrap();
    frames(response.into_body());

    assert_eq!(*contexts.lock().unwrap(), [["200"], ["201"], ["202"]]);
    let call = call.only_finished();
    assert_eq!(call.stats().status(), Some(Status::OK));
    let attempts = attempts.finished();
    let numbers: Vec<_> = attempts.iter().map(RpcInfo::attempt).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.parent().unwrap().ptr_eq(&call))
    );
    let codes: Vec<_> = attempts
        .iter()
        .map(|a| a.stats().status().unwrap())
        .collect();
    let unavailable = Status::Grpc(Code::Unavailable);
    assert_eq!(codes, [unavailable, unavailable, Status::OK]);
}

// Ending 36.
#[tokio::test]
async fn a_timeout_layer_outside_drops_the_rpc_and_the_clock_decides_whether_its_deadline_has_passed()
 {
    for (asked, finish) in [
        (Some("1m"), "finish deadline DEADLINE_EXCEEDED"),
        (Some("1H"), "finish cancelled CANCELLED"),
        (None, "finish cancelled CANCELLED"),
    ] {
        let recorder = RecordingTracer::new();
        let service = ServiceBuilder::new()
            .timeout(Duration::from_millis(20))
            .layer(TracerLayer::new(recorder.clone()))
            .service(Handler::of(Course::DropPending));
        let mut request = bare_request();
        if let Some(asked) = asked {
            request
                .headers_mut()
                .insert("grpc-timeout", HeaderValue::from_static(asked));
        }
        let error = service.oneshot(request).await.err().unwrap();
        assert!(error.is::<tower::timeout::error::Elapsed>());
        assert_log(&recorder, &[finish]);
    }
}

// Ending 36.
#[tokio::test]
async fn a_timeout_layer_inside_is_an_error_with_that_errors_code() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .timeout(Duration::from_millis(1))
        .service(Handler::of(Course::DropPending));
    let error = service.oneshot(bare_request()).await.err().unwrap();
    // Tower's own error has no code; tonic takes it for UNKNOWN too.
    assert_eq!(
        tonic::Status::from_error(error).code(),
        tonic::Code::Unknown
    );
    assert_log(&recorder, &["finish service_error UNKNOWN"]);
    assert_eq!(
        recorder.only_finished().stats().error(),
        Some("request timed out")
    );

    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(|_: Request<_>| {
        future::ready(Err::<Response<Scripted>, _>(BoxError::from(
            tonic::TimeoutExpired(()),
        )))
    }));
    assert!(run(service.call(bare_request())).is_err());
    assert_log(&recorder, &["finish deadline DEADLINE_EXCEEDED"]);
    let wire = recorder.only_finished().stats().wire_status();
    assert_eq!(wire, Some(Status::Grpc(Code::Cancelled)));
}

// Ending 37.
#[test]
fn an_answer_that_never_went_out_is_cancelled() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone())
        .server()
        .layer(service_fn(async |request: Request<tonic::body::Body>| {
            // As tonic does with a request that its client cancelled.
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            Ok::<_, BoxError>(response_ok())
        }));
    let body = Scripted::new([data(3), Step::Error(Some(tonic::Code::Cancelled))]);
    drop(run(service.call(request(body))).unwrap());
    assert_eq!(
        recorder.log(),
        [
            "start",
            "request_headers",
            "request_message #0 3B",
            "response_headers",
            "finish cancelled CANCELLED",
        ],
    );
}

// Ending 38.
#[test]
fn early_trailers_end_the_rpc_while_the_request_continues() {
    let recorder = RecordingTracer::new();
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let mut service = TracerLayer::new(recorder.clone())
        .client()
        .layer(service_fn(move |request: Request<tonic::body::Body>| {
            let mut body = request.into_body();
            assert!(poll_body(&mut body).is_ready());
            *keep.lock().unwrap() = Some(body);
            future::ready(Ok::<_, BoxError>(response([trailers("5")])))
        }));
    let body = Scripted::new([data(1), data(2), Step::Pending, data(3)]);
    let response = run(service.call(request(body))).unwrap();
    frames(response.into_body());
    let log = recorder.log();
    assert_eq!(log.last().unwrap(), "finish trailers NOT_FOUND");
    let rpc = recorder.only_finished();
    let (cost, status) = (rpc.stats().duration(), rpc.stats().status());

    let rest = frames_of_any(kept.lock().unwrap().take().unwrap());
    assert_eq!(rest, 4, "two messages, a pause and the end");
    assert_eq!(recorder.log(), log, "nothing is reported after the end");
    assert_eq!(
        (rpc.stats().duration(), rpc.stats().status()),
        (cost, status)
    );
    assert_eq!(recorder.finished().len(), 1);
}

fn frames_of_any(mut body: tonic::body::Body) -> usize {
    let mut polls = 1;
    while !matches!(poll_body(&mut body), Poll::Ready(None)) {
        polls += 1;
    }
    polls
}

thread_local! {
    /// Dropped with the thread, after whatever was used first.
    static LEFT: Mutex<Option<Box<dyn std::any::Any>>> = const { Mutex::new(None) };
}

// Ending 40.
#[test]
fn an_rpc_dropped_while_its_runtime_shuts_down_finishes() {
    let recorder = RecordingTracer::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let mut service = TracerLayer::new(recorder.clone()).layer(Handler::of(Course::DropPending));
    let (polled, waiting) = std::sync::mpsc::channel();
    for _ in 0..20 {
        let mut future = Box::pin(service.call(bare_request()));
        let polled = polled.clone();
        runtime.spawn(async move {
            assert!(poll_once(&mut future).is_pending());
            polled.send(()).unwrap();
            future.await
        });
    }
    for _ in 0..20 {
        waiting.recv().unwrap();
    }
    assert_eq!(recorder.finished().len(), 0);
    drop(runtime);
    assert_eq!(recorder.finished().len(), 20);
    assert_eq!(recorder.started().len(), 20);
}

// Ending 40.
#[test]
fn an_rpc_dropped_while_its_thread_tears_down_finishes() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(Handler::of(Course::DropPending));
    let ended = std::thread::spawn(move || {
        // The slot below is set up first, so it goes last: after the current record's own.
        LEFT.with(|left| drop(left.lock()));
        let mut future = Box::pin(service.call(bare_request()));
        assert!(poll_once(&mut future).is_pending());
        LEFT.with(|left| *left.lock().unwrap() = Some(Box::new(future)));
    })
    .join();
    assert!(ended.is_ok());
    assert_log(&recorder, &["finish cancelled CANCELLED"]);
}

/// An error that cannot be printed.
#[derive(Debug)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic_on_purpose()
    }
}

impl std::error::Error for Unprintable {}

/// An error whose text has no end.
#[derive(Debug)]
struct Endless(Arc<AtomicUsize>);

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for _ in 0..1_000_000 {
            self.0.fetch_add(1, SeqCst);
            f.write_str("on and on ")?;
        }
        Ok(())
    }
}

impl std::error::Error for Endless {}

#[test]
fn an_error_that_panics_when_printed_ends_the_rpc_like_any_other() {
    let recorder = RecordingTracer::new();
    let mut service =
        TracerLayer::new(recorder.clone()).layer(service_fn(|_: Request<tonic::body::Body>| {
            future::ready(Err::<Response<Scripted>, BoxError>(Unprintable.into()))
        }));
    let error = run(service.call(bare_request())).err().unwrap();
    assert!(error.is::<Unprintable>(), "passed on");
    assert_log(&recorder, &["finish service_error UNKNOWN"]);
    assert_eq!(recorder.only_finished().stats().error(), None);
}

#[test]
fn an_error_with_a_long_text_formats_only_its_beginning() {
    let recorder = RecordingTracer::new();
    let written = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&written);
    let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(
        move |_: Request<tonic::body::Body>| {
            let error = Endless(Arc::clone(&inner));
            future::ready(Err::<Response<Scripted>, BoxError>(error.into()))
        },
    ));
    assert!(run(service.call(bare_request())).is_err());
    assert_log(&recorder, &["finish service_error UNKNOWN"]);
    let rpc = recorder.only_finished();
    let text = rpc.stats().error().unwrap();
    assert_eq!(text.len(), 1024);
    assert!(text.starts_with("on and on on and on "));
    assert!(written.load(SeqCst) < 200);
}

/// Writes down, when it is dropped, whether its RPC is current and not over yet.
struct Witness(RecordingTracer, Arc<Mutex<Vec<(bool, usize)>>>);

impl Drop for Witness {
    fn drop(&mut self) {
        let current = RpcInfo::current().is_some();
        let mut seen = self.1.lock().unwrap();
        seen.push((current, self.0.finished().len()));
    }
}

/// A body that is never done, with a witness in it.
struct Open {
    _witness: Witness,
}

impl Body for Open {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Pending
    }
}

// Ending 5. Ending 6. Ending 7.
#[test]
fn an_unfinished_inner_value_is_dropped_before_finish_with_its_record_current() {
    let recorder = RecordingTracer::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = || Witness(recorder.clone(), Arc::clone(&seen));
    let body = || Open {
        _witness: witness(),
    };
    let open_request = || bare_request().map(|_| tonic::body::Body::new(body()));
    let layer = TracerLayer::new(recorder.clone());

    // The request's body and the future, before the first poll and after it.
    for polls in [0, 1] {
        let mut service = layer.layer(service_fn(|request: Request<tonic::body::Body>| {
            let witness = witness();
            Box::pin(async move {
                request.into_body().collect().await?;
                drop(witness);
                Ok::<_, BoxError>(Response::new(body()))
            })
        }));
        let mut future = Box::pin(service.call(open_request()));
        for _ in 0..polls {
            assert!(poll_once(&mut future).is_pending());
        }
        drop(future);
        assert_eq!(
            seen.lock().unwrap().split_off(0),
            [(true, 0); 2],
            "{polls} polls"
        );
        assert_eq!(recorder.finished().len(), 1);
        recorder.clear();
    }

    // The response's body.
    let mut service = layer.layer(service_fn(|_: Request<tonic::body::Body>| {
        future::ready(Ok::<_, BoxError>(Response::new(body())))
    }));
    let mut response = run(service.call(bare_request())).unwrap().into_body();
    assert!(poll_body(&mut response).is_pending());
    drop(response);
    assert_eq!(*seen.lock().unwrap(), [(true, 0)]);
    assert_eq!(recorder.finished().len(), 1);
}

#[test]
fn an_answer_to_head_is_over_with_its_headers_whatever_its_body() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(|_: Request<()>| {
        future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(
            "not sent",
        ))))
    }));
    // An HTTP server drops the body of such an answer unpolled.
    drop(run(service.call(Request::head("/").body(()).unwrap())));
    assert_eq!(recorder.log().last().unwrap(), "finish headers_only 200");
    recorder.clear();
    drop(run(service.call(Request::get("/").body(()).unwrap())));
    assert_eq!(recorder.log().last().unwrap(), "finish cancelled 200");
}

#[test]
fn messages_in_data_in_pieces_are_unknown_and_their_bytes_are_counted() {
    type Pieces = bytes::buf::Chain<Bytes, Bytes>;
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(service_fn(|_: Request<_>| {
        let body = Full::<Pieces>::new(message(3).chain(message(4)));
        let mut response = Response::new(body);
        *response.headers_mut() = self::response([]).headers().clone();
        future::ready(Ok::<_, BoxError>(response))
    }));
    let response = run(service.call(bare_request())).unwrap();
    let whole = run(response.into_body().collect()).unwrap().to_bytes();
    assert_eq!(whole, [message(3), message(4)].concat());
    let received = recorder.only_finished().stats().response();
    assert_eq!(received.body_bytes(), Some(17));
    assert_eq!(received.messages(), None);
    assert_eq!(received.message_bytes(), None);
    assert!(received.is_complete() && !received.truncated());
}
