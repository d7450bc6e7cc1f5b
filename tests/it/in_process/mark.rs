//! `StageLayer`: the time of one part of an RPC.

use std::task::{Context, Waker};

use http::{Request, Response};
use tower::{Layer as _, ServiceBuilder, service_fn};
use tower_tracer::{
    Ending, Event, Level, TracerLayer, service::StageLayer, testing::RecordingTracer,
};

static START: Event = Event::new("start", Level::Base);
static FINISH: Event = Event::new("finish", Level::Base);

type Answer = Result<Response<String>, std::convert::Infallible>;

fn names(recorder: &RecordingTracer) -> Vec<&'static str> {
    let events = recorder.only_finished().stats().events();
    events
        .iter()
        .map(|recorded| recorded.event.name())
        .collect()
}

#[tokio::test]
async fn both_events_are_there_when_the_handler_returns() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .layer(StageLayer::new(START, FINISH))
        .service_fn(async |_: Request<String>| Answer::Ok(Response::new(String::new())));
    service.oneshot(Request::default()).await.unwrap();

    let expected = [
        "rpc_start",
        "start",
        "finish",
        "response_headers",
        "rpc_finish",
    ];
    assert_eq!(names(&recorder), expected);
}

#[tokio::test]
async fn both_events_are_there_when_the_handler_panics() {
    async fn panics(_: Request<String>) -> Answer {
        panic!("asked to panic")
    }
    for in_the_call in [true, false] {
        let recorder = RecordingTracer::new();
        let handler = service_fn(move |request| {
            assert!(!in_the_call, "asked to panic");
            panics(request)
        });
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(recorder.clone()))
            .service(StageLayer::new(START, FINISH).layer(handler));
        let call = async { service.oneshot(Request::default()).await };
        assert!(tokio::spawn(call).await.unwrap_err().is_panic());

        assert_eq!(
            names(&recorder),
            ["rpc_start", "start", "finish", "rpc_finish"]
        );
        assert_eq!(
            recorder.only_finished().stats().ending(),
            Some(Ending::Panic)
        );
        assert_eq!(recorder.only_finished().stats().events_left_out(), 0);
    }
}

#[tokio::test]
async fn both_events_are_there_when_the_call_is_dropped() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .layer(StageLayer::new(START, FINISH))
        .service_fn(async |_: Request<String>| std::future::pending::<Answer>().await);
    let mut call = Box::pin(service.oneshot(Request::default()));
    assert!(
        call.as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    drop(call);

    assert_eq!(
        names(&recorder),
        ["rpc_start", "start", "finish", "rpc_finish"]
    );
}
