//! How a record is printed, and how its status compares with tonic's.

use crate::support::scripted::{Scripted, Step, data, grpc_status, response, run};
use http::Request;
use http_body_util::BodyExt as _;
use tower::{BoxError, Layer as _, Service as _, service_fn};
use tower_tracer::{Code, Event, Level, RpcInfo, Status, TracerLayer, testing::RecordingTracer};

/// One call of a service that answers so, and its record.
fn record(request: Request<tonic::body::Body>, steps: Vec<Step>) -> RpcInfo {
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).server();
    let steps = std::sync::Mutex::new(Some(steps));
    let mut service = layer.layer(service_fn(move |request: Request<tonic::body::Body>| {
        let rpc = request.extensions().get::<RpcInfo>().unwrap();
        rpc.set_tag("tenant", "blue");
        rpc.record(Event::new("cache_miss", Level::Base));
        let steps = steps.lock().unwrap().take().unwrap();
        async move {
            request.into_body().collect().await?;
            Ok::<_, BoxError>(response(steps))
        }
    }));
    let response = run(service.call(request)).unwrap();
    let _ = run(response.into_body().collect());
    recorder.only_finished()
}

fn grpc(path: &str) -> Request<tonic::body::Body> {
    let body = tonic::body::Body::new(Scripted::new([data(5)]));
    let request = Request::post(path).header("content-type", "application/grpc");
    request.body(body).unwrap()
}

/// Without what differs from run to run.
fn without_time(printed: &str) -> String {
    let cut = |text: &str, from: &str, to: &str| {
        let (before, rest) = text.split_once(from).unwrap();
        let (_, after) = rest.split_once(to).unwrap();
        format!("{before}{from}…{to}{after}")
    };
    match printed.contains("cost: ") {
        true => cut(printed, "cost: ", ", "),
        false => cut(printed, "headers_only", " ms"),
    }
}

#[test]
fn a_record_prints_as_one_line() {
    let rpc = record(
        grpc("/echo.Echo/UnaryEcho"),
        vec![Step::Trailers(grpc_status("5"))],
    );
    let line = rpc.to_string();
    let words: Vec<_> = line.split_whitespace().collect();
    let [method, role, status, ending, millis, ..] = words[..] else {
        panic!("{line}")
    };
    assert_eq!(
        [method, role, status, ending],
        ["echo.Echo/UnaryEcho", "server", "NOT_FOUND", "trailers"]
    );
    assert!(millis.parse::<f64>().unwrap() >= 0.0);
    assert!(line.ends_with("ms  sent 0/0    received 1/5"), "{line}");
}

#[test]
fn debug_shows_names_status_ending_and_counts_and_no_internals() {
    let rpc = record(
        grpc("/echo.Echo/UnaryEcho"),
        vec![Step::Trailers(grpc_status("5"))],
    );
    assert_eq!(
        without_time(&format!("{rpc:?}")),
        "RpcInfo { role: server, protocol: grpc, method: \"echo.Echo/UnaryEcho\", \
         http_method: POST, stats: Stats { status: NOT_FOUND, ending: trailers, http_status: 200, \
         cost: …, request: Traffic { messages: 1, message_bytes: 5, body_bytes: 10, \
         is_complete: true }, response: Traffic { messages: 0, message_bytes: 0, body_bytes: 0, \
         is_complete: true }, tags: {\"tenant\": \"blue\"}, events: [\"cache_miss\"] } }"
    );
    for internal in ["Atomic", "Once", "Mutex", "flags", "Some(", "None"] {
        assert!(!format!("{rpc:#?}").contains(internal), "{rpc:#?}");
    }
}

/// What a peer sends shapes no line.
#[test]
fn a_hostile_path_is_printed_escaped_and_bounded() {
    let long = "/x".repeat(30_000);
    for path in ["/a%0A\u{202e}b/é", &long] {
        let request = Request::builder().method("GET").uri(path);
        let Ok(request) = request.body(tonic::body::Body::empty()) else {
            continue;
        };
        let rpc = record(request, vec![]);
        for printed in [rpc.to_string(), format!("{rpc:?}")] {
            assert!(printed.len() < 1000, "{}", printed.len());
            let shapes = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!printed.contains(shapes), "{printed}");
        }
        assert!(rpc.to_string().starts_with("GET /"));
    }
}

#[test]
fn a_running_rpc_prints_that_it_runs() {
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&lines);
    let mut service =
        TracerLayer::new(()).layer(service_fn(move |request: Request<tonic::body::Body>| {
            let rpc = request.extensions().get::<RpcInfo>().unwrap();
            seen.lock()
                .unwrap()
                .extend([rpc.to_string(), format!("{rpc:?}")]);
            std::future::ready(Ok::<_, BoxError>(response([])))
        }));
    run(service.call(grpc("/a.B/C"))).unwrap();
    let lines = lines.lock().unwrap();
    assert!(
        lines[0].contains(" - ") && lines[0].contains(" running "),
        "{}",
        lines[0]
    );
    assert!(lines[1].contains("Stats { age: "), "{}", lines[1]);
}

#[test]
fn a_status_compares_with_tonics_codes_and_converts_from_one() {
    let rpc = record(grpc("/a.B/C"), vec![Step::Trailers(grpc_status("5"))]);
    let status = rpc.stats().status().unwrap();
    assert_eq!(status, tonic::Code::NotFound);
    assert_eq!(tonic::Code::NotFound, status);
    assert_eq!(status, Code::NotFound);
    assert_eq!(rpc.stats().code().unwrap(), tonic::Code::NotFound);
    assert_eq!(tonic::Code::NotFound, Code::NotFound);
    assert_ne!(Status::Http(5), tonic::Code::NotFound);
    for number in 0..17 {
        let code = tonic::Code::from_i32(number);
        assert_eq!(Status::from(code), code);
        assert_eq!(Status::from(code), Status::Grpc(code.into()));
    }
    let http = record(Request::new(tonic::body::Body::empty()), vec![]);
    assert_eq!(http.stats().code(), None);
}
