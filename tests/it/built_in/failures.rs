//! One meaning of failure: what the layer decides, all tracers say.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::telemetry::{Telemetry, attributes};
use http::{Request, Response};
use opentelemetry::trace::Status as SpanStatus;
use tower::ServiceBuilder;
use tower_tracer::{
    Code, RpcInfo, Tracer as _, TracerLayer, methods::KnownMethods, on_finish, rpc::Failures,
    testing::RecordingTracer, tracing::level_of,
};

/// What the tracers say of one call that ends with this code.
#[derive(Debug, PartialEq)]
struct Said {
    failed: bool,
    only_failed: usize,
    span_is_error: bool,
    error_type: Option<String>,
    metric_error_type: Option<String>,
    level: tracing::Level,
}

async fn call(set: impl FnOnce(TracerLayer<Tracers>) -> TracerLayer<Tracers>, code: Code) -> Said {
    let telemetry = Telemetry::new();
    let recorder = RecordingTracer::new();
    let failed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&failed);
    let level = Arc::new(Mutex::new(None));
    let levels = Arc::clone(&level);
    let tracers: Tracers = (
        recorder.clone().boxed(),
        telemetry
            .tracer()
            .methods(KnownMethods::new(["a.B/C"]))
            .boxed(),
        on_finish(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .only_failed()
        .boxed(),
        on_finish(move |rpc| *levels.lock().unwrap() = Some(level_of(rpc))).boxed(),
    );
    let service = ServiceBuilder::new()
        .layer(set(TracerLayer::new(tracers)))
        .service_fn(move |_: Request<String>| async move {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", code as u32);
            Ok::<_, Infallible>(response.body(String::new()).unwrap())
        });
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    service
        .oneshot(request.body(String::new()).unwrap())
        .await
        .unwrap();

    let span = telemetry.spans().pop().unwrap();
    let error_type = |attributes: &[String]| {
        let found = attributes
            .iter()
            .find_map(|a| a.strip_prefix("error.type="));
        found.map(str::to_owned)
    };
    let metric = match recorder.only_finished().role() {
        tower_tracer::Role::Client => "rpc.client.call.duration",
        tower_tracer::Role::Server => "rpc.server.call.duration",
    };
    Said {
        failed: recorder.only_finished().stats().failed(),
        only_failed: failed.load(Ordering::Relaxed),
        span_is_error: matches!(span.status, SpanStatus::Error { .. }),
        error_type: error_type(&attributes(&span.attributes)),
        metric_error_type: error_type(&telemetry.histogram(metric)[0].attributes),
        level: level.lock().unwrap().unwrap(),
    }
}

type Tracers = (
    tower_tracer::tracer::BoxTracer,
    tower_tracer::tracer::BoxTracer,
    tower_tracer::tracer::BoxTracer,
    tower_tracer::tracer::BoxTracer,
);

fn success() -> Said {
    Said {
        failed: false,
        only_failed: 0,
        span_is_error: false,
        error_type: None,
        metric_error_type: None,
        level: tracing::Level::INFO,
    }
}

fn failure(error: &str, level: tracing::Level) -> Said {
    Said {
        failed: true,
        only_failed: 1,
        span_is_error: true,
        error_type: Some(error.to_owned()),
        metric_error_type: Some(error.to_owned()),
        level,
    }
}

#[tokio::test]
async fn default_rule_is_said_by_all_tracers() {
    use tracing::Level;
    for (code, client, server) in [
        (Code::Ok, success(), success()),
        (Code::NotFound, failure("NOT_FOUND", Level::WARN), success()),
        (
            Code::Cancelled,
            failure("CANCELLED", Level::WARN),
            success(),
        ),
        (
            Code::Unavailable,
            failure("UNAVAILABLE", Level::WARN),
            failure("UNAVAILABLE", Level::WARN),
        ),
        (
            Code::Internal,
            failure("INTERNAL", Level::ERROR),
            failure("INTERNAL", Level::ERROR),
        ),
    ] {
        assert_eq!(call(TracerLayer::client, code).await, client, "{code:?}");
        assert_eq!(call(TracerLayer::server, code).await, server, "{code:?}");
    }
}

#[tokio::test]
async fn codes_of_one_side_are_replaced_and_all_tracers_follow() {
    let failures = Failures::new()
        .client([Code::Internal])
        .server([Code::NotFound, Code::Ok]);
    let client = async |code| call(|l| l.client().failures(failures.clone()), code).await;
    let server = async |code| call(|l| l.server().failures(failures.clone()), code).await;
    assert_eq!(client(Code::NotFound).await, success());
    let error = tracing::Level::ERROR;
    assert_eq!(client(Code::Internal).await, failure("INTERNAL", error));
    assert_eq!(server(Code::Internal).await, success());
    let warn = tracing::Level::WARN;
    assert_eq!(server(Code::NotFound).await, failure("NOT_FOUND", warn));
    assert_eq!(server(Code::Ok).await, failure("OK", warn));
}

#[tokio::test]
async fn function_of_the_record_decides_once_for_each_rpc() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let rule = Failures::new();
    let failures = Failures::from_fn(move |rpc: &RpcInfo| {
        counter.fetch_add(1, Ordering::Relaxed);
        // What it sees follows the default rule.
        assert_eq!(rpc.stats().failed(), rule.is_failure(rpc));
        rpc.full_method() != Some("a.B/C") && rule.is_failure(rpc)
    });
    let said = call(|l| l.server().failures(failures), Code::Internal).await;
    assert_eq!(said, success());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn function_that_panics_leaves_the_default_rule() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&panics);
    let failures = Failures::from_fn(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        panic!("told to panic")
    });
    let said = call(|l| l.server().failures(failures.clone()), Code::Internal).await;
    assert_eq!(said, failure("INTERNAL", tracing::Level::ERROR));
    let said = call(|l| l.server().failures(failures), Code::NotFound).await;
    assert_eq!(said, success());
    assert_eq!(panics.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn cancelled_plain_http_is_no_failure_of_a_client() {
    let recorder = RecordingTracer::new();
    let telemetry = Telemetry::new();
    let tracers = (recorder.clone(), telemetry.tracer());
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracers).client())
        .service_fn(|_: Request<String>| {
            std::future::pending::<Result<Response<String>, Infallible>>()
        });
    drop(service.oneshot(Request::new(String::new())));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new((recorder.clone(), telemetry.tracer())).client())
        .service_fn(|_: Request<String>| {
            std::future::pending::<Result<Response<String>, Infallible>>()
        });
    let mut call = Box::pin(service.oneshot(Request::new(String::new())));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().ending(), Some(tower_tracer::Ending::Cancelled));
    assert!(!rpc.stats().failed());
    let span = telemetry.spans().pop().unwrap();
    assert_eq!(span.status, SpanStatus::Unset);
    let has_error = |a: &String| a.starts_with("error.type");
    assert!(!attributes(&span.attributes).iter().any(has_error));
}
