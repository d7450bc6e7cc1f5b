//! What the metrics tracer counts, over real tonic and with what peers make up.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::custom::{Done, Named};
use crate::support::tcp::{connect, echo::EchoRequest, echo::say, serve, soon};
use http::{Request, Response};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::Layer as _;
use tower::{Service as _, ServiceExt as _, service_fn};
use tower_tracer::{
    RpcInfo, Status, TracerLayer,
    methods::KnownMethods,
    metrics::{DURATION_BUCKETS, MetricsTracer},
    testing,
};

const ECHO: [&str; 4] = [
    "echo.Echo/UnaryEcho",
    "echo.Echo/ServerStreamingEcho",
    "echo.Echo/ClientStreamingEcho",
    "echo.Echo/BidirectionalStreamingEcho",
];

/// A tracer, and what it recorded. What is asked for is reset by asking.
fn tracer() -> (MetricsTracer, Snapshotter) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    (MetricsTracer::new().recorder(recorder), snapshotter)
}

/// Every series as a line, in alphabetical order: `name{labels} value`, for a histogram how many
/// values it has.
fn series(snapshotter: &Snapshotter) -> Vec<String> {
    let snapshot = snapshotter.snapshot().into_vec();
    let mut lines: Vec<_> = snapshot
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value()).collect();
            let value = match value {
                DebugValue::Counter(value) => value.to_string(),
                DebugValue::Gauge(value) => value.to_string(),
                DebugValue::Histogram(values) => format!("#{}", values.len()),
            };
            format!("{}{{{}}} {value}", key.key().name(), labels.join(","))
        })
        .collect();
    lines.sort();
    lines
}

fn starting_with(lines: &[String], start: &str) -> Vec<String> {
    let found = lines.iter().filter(|line| line.starts_with(start));
    found.cloned().collect()
}

/// Takes away what a listed method has for outcomes that no call of it had.
fn without_prepared(lines: &mut Vec<String>) {
    lines.retain(|line| !(line.starts_with("rpc_handled_total") && line.ends_with(" 0")));
}

#[tokio::test]
async fn each_kind_of_call_is_counted_completely_on_both_sides() {
    let (server, server_seen) = tracer();
    let server = server.methods(KnownMethods::new(ECHO));
    let (client, client_seen) = tracer();
    let server_ends = testing::RecordingTracer::new();
    // Tracers finish in reverse order: when the recorder has seen the end, so have the metrics.
    let uri = serve(TracerLayer::new((server_ends.clone(), server))).await;
    let mut echo = connect(&uri, TracerLayer::new(client)).await;

    echo.unary_echo(say("hello")).await.unwrap();
    let stream = EchoRequest {
        count: 3,
        ..say("abc")
    };
    let mut responses = echo
        .server_streaming_echo(stream)
        .await
        .unwrap()
        .into_inner();
    while responses.message().await.unwrap().is_some() {}
    let requests = tokio_stream::iter([say("a"), say("b")]);
    echo.client_streaming_echo(requests).await.unwrap();
    let requests = tokio_stream::iter([say("a"), say("b")]);
    let responses = echo.bidirectional_streaming_echo(requests).await.unwrap();
    let mut responses = responses.into_inner();
    while responses.message().await.unwrap().is_some() {}
    let missing = EchoRequest {
        code: 5,
        ..say("x")
    };
    echo.unary_echo(missing).await.unwrap_err();
    soon(server_ends.wait_finished(5)).await;

    for (role, seen, sent, received) in [
        ("client", client_seen, "sent", "received"),
        ("server", server_seen, "received", "sent"),
    ] {
        let mut seen = series(&seen);
        without_prepared(&mut seen);
        let mut expected = Vec::new();
        for line in [
            "rpc_duration_seconds{R,echo.Echo,BidirectionalStreamingEcho,OK} #1",
            "rpc_duration_seconds{R,echo.Echo,ClientStreamingEcho,OK} #1",
            "rpc_duration_seconds{R,echo.Echo,ServerStreamingEcho,OK} #1",
            "rpc_duration_seconds{R,echo.Echo,UnaryEcho,NOT_FOUND} #1",
            "rpc_duration_seconds{R,echo.Echo,UnaryEcho,OK} #1",
            "rpc_failed_total{R,echo.Echo,BidirectionalStreamingEcho} 0",
            "rpc_failed_total{R,echo.Echo,ClientStreamingEcho} 0",
            "rpc_failed_total{R,echo.Echo,ServerStreamingEcho} 0",
            // A NOT_FOUND is a failure of the client, not of the server.
            "rpc_failed_total{R,echo.Echo,UnaryEcho} FAILED",
            "rpc_handled_total{R,echo.Echo,BidirectionalStreamingEcho,OK,trailers} 1",
            "rpc_handled_total{R,echo.Echo,ClientStreamingEcho,OK,trailers} 1",
            "rpc_handled_total{R,echo.Echo,ServerStreamingEcho,OK,trailers} 1",
            "rpc_handled_total{R,echo.Echo,UnaryEcho,NOT_FOUND,headers_only} 1",
            "rpc_handled_total{R,echo.Echo,UnaryEcho,OK,trailers} 1",
            "rpc_in_flight{R,echo.Echo,BidirectionalStreamingEcho} 0",
            "rpc_in_flight{R,echo.Echo,ClientStreamingEcho} 0",
            "rpc_in_flight{R,echo.Echo,ServerStreamingEcho} 0",
            "rpc_in_flight{R,echo.Echo,UnaryEcho} 0",
            // A message of n characters is n + 2 bytes; the two further ones of "x" with code 5 and
            // of "abc" with count 3 are the second field.
            "rpc_OUT_message_bytes_total{R,echo.Echo,BidirectionalStreamingEcho} 6",
            "rpc_OUT_message_bytes_total{R,echo.Echo,ClientStreamingEcho} 6",
            "rpc_OUT_message_bytes_total{R,echo.Echo,ServerStreamingEcho} 7",
            "rpc_OUT_message_bytes_total{R,echo.Echo,UnaryEcho} 12",
            "rpc_OUT_messages_total{R,echo.Echo,BidirectionalStreamingEcho} 2",
            "rpc_OUT_messages_total{R,echo.Echo,ClientStreamingEcho} 2",
            "rpc_OUT_messages_total{R,echo.Echo,ServerStreamingEcho} 1",
            "rpc_OUT_messages_total{R,echo.Echo,UnaryEcho} 2",
            "rpc_IN_message_bytes_total{R,echo.Echo,BidirectionalStreamingEcho} 6",
            "rpc_IN_message_bytes_total{R,echo.Echo,ClientStreamingEcho} 4",
            "rpc_IN_message_bytes_total{R,echo.Echo,ServerStreamingEcho} 15",
            "rpc_IN_message_bytes_total{R,echo.Echo,UnaryEcho} 7",
            "rpc_IN_messages_total{R,echo.Echo,BidirectionalStreamingEcho} 2",
            "rpc_IN_messages_total{R,echo.Echo,ClientStreamingEcho} 1",
            "rpc_IN_messages_total{R,echo.Echo,ServerStreamingEcho} 3",
            "rpc_IN_messages_total{R,echo.Echo,UnaryEcho} 1",
            "rpc_started_total{R,echo.Echo,BidirectionalStreamingEcho} 1",
            "rpc_started_total{R,echo.Echo,ClientStreamingEcho} 1",
            "rpc_started_total{R,echo.Echo,ServerStreamingEcho} 1",
            "rpc_started_total{R,echo.Echo,UnaryEcho} 2",
        ] {
            let line = line.replace("{R", &format!("{{{role}"));
            expected.push(
                line.replace("OUT", sent)
                    .replace("FAILED", if role == "client" { "1" } else { "0" })
                    .replace("IN_", &format!("{received}_")),
            );
        }
        expected.sort();
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn nothing_is_in_flight_after_any_number_of_cancelled_calls() {
    let (server, server_seen) = tracer();
    let server = server.methods(KnownMethods::new(ECHO));
    let (client, client_seen) = tracer();
    let server_ends = testing::RecordingTracer::new();
    let uri = serve(TracerLayer::new((server_ends.clone(), server))).await;
    let client = Arc::new(client);
    let echo = connect(&uri, TracerLayer::new(Arc::clone(&client))).await;

    let slow = || EchoRequest {
        delay_ms: 60_000,
        ..say("slow")
    };
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..60 {
        let mut echo = echo.clone();
        calls.spawn(async move {
            match index % 3 {
                0 => drop(echo.unary_echo(slow()).await),
                1 => drop(
                    echo.server_streaming_echo(slow())
                        .await
                        .unwrap()
                        .into_inner()
                        .message()
                        .await,
                ),
                _ => {
                    let forever = tokio_stream::pending();
                    drop(echo.client_streaming_echo(forever).await);
                }
            }
        });
    }
    soon(async {
        while server_ends.started().len() < 60 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    calls.shutdown().await;
    soon(server_ends.wait_finished(60)).await;

    // The server has listed its four methods, of which three were called.
    for (seen, methods) in [(client_seen, 3), (server_seen, 4)] {
        let mut seen = series(&seen);
        without_prepared(&mut seen);
        let gauges = starting_with(&seen, "rpc_in_flight");
        assert_eq!(gauges.len(), methods, "{gauges:?}");
        assert!(
            gauges.iter().all(|line| line.ends_with("} 0")),
            "{gauges:?}"
        );
        let handled = starting_with(&seen, "rpc_handled_total");
        assert_eq!(handled.len(), 3, "{handled:?}");
        assert!(
            handled
                .iter()
                .all(|line| line.ends_with("CANCELLED,cancelled} 20")),
            "{handled:?}"
        );
    }
}

#[tokio::test]
async fn a_call_is_in_flight_until_its_body_is_gone() {
    let (tracer, seen) = tracer();
    let mut service = TracerLayer::new(tracer)
        .server()
        .layer(service_fn(async |_: Request<()>| {
            let body = http_body_util::StreamBody::new(tokio_stream::pending::<
                Result<http_body::Frame<bytes::Bytes>, Infallible>,
            >());
            Ok::<_, Infallible>(Response::new(body))
        }));
    let response = service.call(Request::new(())).await.unwrap();
    let in_flight = |expected| {
        let gauges = starting_with(&series(&seen), "rpc_in_flight");
        assert_eq!(
            gauges,
            [format!("rpc_in_flight{{server,_OTHER,_OTHER}} {expected}")]
        );
    };
    // Asking resets the gauge to 0, so the end shows as one less.
    in_flight(1);
    drop(response);
    in_flight(-1);
}

#[tokio::test]
async fn an_invented_name_of_a_peer_makes_no_label_and_no_series() {
    let recorder = prometheus();
    let exposition = recorder.handle();
    let tracer = MetricsTracer::new()
        .recorder(recorder)
        .methods(KnownMethods::new(ECHO));
    let mut service = TracerLayer::new(tracer)
        .server()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));

    let long = format!("/echo.Echo/{}", "x".repeat(60_000));
    let mut names: Vec<String> = [
        "",
        "/",
        "*",
        "/echo.Echo/\"UnaryEcho",
        "/echo.Echo/Unary Echo",
        "/echo.Echo/Unary,Echo",
        "/echo.Echo/Unary\nEcho",
        "/a\"} 1\nrpc_started_total{x=\"/b",
        "/écho.Echo/🦀",
        "/a=b/c\\",
        "/echo.Echo/UnaryEcho2",
        "/ECHO.ECHO/UNARYECHO",
        "echo.Echo/UnaryEcho",
        &long,
    ]
    .map(str::to_owned)
    .into();
    names.extend((0..1000).map(|n| format!("/well.Formed/Method{n}")));
    let count = names.len();
    for name in names {
        service
            .ready()
            .await
            .unwrap()
            .call(Named(name))
            .await
            .unwrap();
    }
    service
        .call(Named("/echo.Echo/UnaryEcho".to_owned()))
        .await
        .unwrap();

    let rendered = exposition.render();
    let mut started: Vec<_> = rendered
        .lines()
        .filter(|line| line.starts_with("rpc_started_total") && !line.ends_with(" 0"))
        .collect();
    started.sort_unstable();
    let other = format!(
        r#"rpc_started_total{{role="server",rpc_service="_OTHER",rpc_method="_OTHER"}} {count}"#
    );
    let known =
        r#"rpc_started_total{role="server",rpc_service="echo.Echo",rpc_method="UnaryEcho"} 1"#;
    assert_eq!(started, [&*other, known]);
    for line in rendered.lines().filter(|line| !line.is_empty()) {
        assert!(line.starts_with("# ") || line.starts_with("rpc_"), "{line}");
        assert!(line.len() < 200, "{line}");
    }
}

#[tokio::test]
async fn the_methods_of_generated_clients_are_separate_and_bounded() {
    let (tracer, seen) = tracer();
    let mut service = TracerLayer::new(tracer)
        .client()
        .layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        }));
    // As a program's own, names live as long as it does.
    let methods: Vec<&'static str> = (0..3000)
        .map(|n| &*Box::leak(format!("M{n}").into_boxed_str()))
        .collect();
    let mut call = async |method| {
        let mut request = Request::post(format!("/gen.Gen/{method}"))
            .body(())
            .unwrap();
        let (name, value) = ("content-type", "application/grpc");
        request.headers_mut().insert(name, value.parse().unwrap());
        let generated = tonic::GrpcMethod::new("gen.Gen", method);
        request.extensions_mut().insert(generated);
        service.ready().await.unwrap().call(request).await.unwrap();
    };
    for method in methods[..200].iter().chain(&methods[..200]) {
        call(method).await;
    }
    let started = starting_with(&series(&seen), "rpc_started_total");
    let mut expected: Vec<_> = (0..200)
        .map(|n| format!("rpc_started_total{{client,gen.Gen,M{n}}} 2"))
        .collect();
    expected.sort();
    assert_eq!(started, expected);

    for method in &methods {
        call(method).await;
    }
    let started = starting_with(&series(&seen), "rpc_started_total");
    assert!(started.len() <= 1025, "{}", started.len());
    let other = starting_with(&started, "rpc_started_total{client,_OTHER,_OTHER} ");
    assert_eq!(other.len(), 1);
}

#[tokio::test]
async fn a_path_without_the_form_of_a_method_has_no_method() {
    let (tracer, seen) = tracer();
    let names = ["shop", "a/b/c", "", "/"];
    // None of them can be listed, so nothing that is listed is taken for one.
    for name in names {
        assert!(KnownMethods::try_new([name]).is_err(), "{name}");
    }
    let mut service = TracerLayer::new(tracer.methods(KnownMethods::new(["a.B/C", "b/d"])))
        .server()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    for name in names {
        let request = Named(format!("/{name}"));
        service.ready().await.unwrap().call(request).await.unwrap();
    }
    assert_eq!(
        starting_with(&series(&seen), "rpc_started_total"),
        [
            "rpc_started_total{server,_OTHER,_OTHER} 4",
            "rpc_started_total{server,a.B,C} 0",
            "rpc_started_total{server,b,d} 0",
        ]
    );
}

#[tokio::test]
async fn a_listed_method_is_known_under_a_prefix_too() {
    let (tracer, seen) = tracer();
    let mut service = TracerLayer::new(tracer.methods(KnownMethods::new(["a.B/C"])))
        .server()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    for path in ["/a.B/C", "/api/a.B/C", "/api/v1/a.B/C", "/api/a.B/D"] {
        let request = Named(path.to_owned());
        service.ready().await.unwrap().call(request).await.unwrap();
    }
    let started = starting_with(&series(&seen), "rpc_started_total{server,");
    assert!(
        started.contains(&"rpc_started_total{server,a.B,C} 3".to_owned()),
        "{started:?}"
    );
    assert!(
        started.contains(&"rpc_started_total{server,_OTHER,_OTHER} 1".to_owned()),
        "{started:?}"
    );
}

#[tokio::test]
async fn an_http_status_that_is_not_registered_makes_no_series_of_its_own() {
    let (tracer, seen) = tracer();
    let mut service =
        TracerLayer::new(tracer)
            .client()
            .layer(service_fn(async |status: Request<u16>| {
                match *status.body() {
                    0 => Err("no response"),
                    status => {
                        let body = http_body_util::Empty::<bytes::Bytes>::new();
                        Ok(Response::builder().status(status).body(body).unwrap())
                    }
                }
            }));
    for status in (100..1000).chain([0, 404]) {
        let _ = service
            .ready()
            .await
            .unwrap()
            .call(Request::new(status))
            .await;
    }
    let seen = series(&seen);
    let handled = starting_with(&seen, "rpc_handled_total{client,_OTHER,_OTHER");
    assert!(handled.len() < 70, "{}", handled.len());
    for line in [
        "rpc_handled_total{client,_OTHER,_OTHER,200,headers_only} 1",
        "rpc_handled_total{client,_OTHER,_OTHER,404,headers_only} 2",
        "rpc_handled_total{client,_OTHER,_OTHER,none,service_error} 1",
    ] {
        assert!(handled.contains(&line.to_owned()), "{line} of {handled:#?}");
    }
    let other = starting_with(&handled, "rpc_handled_total{client,_OTHER,_OTHER,_OTHER,");
    let registered = handled.len() - 2;
    let [other] = &*other else {
        panic!("{other:?}")
    };
    assert!(
        other.ends_with(&format!(" {}", 900 - registered)),
        "{other}"
    );
}

#[cfg(feature = "connect")]
#[tokio::test]
async fn a_get_of_connect_counts_as_the_method_it_calls_with_the_code_of_its_error() {
    let (tracer, seen) = tracer();
    let tracer = tracer.methods(KnownMethods::new(ECHO));
    let service =
        TracerLayer::new(tracer)
            .server()
            .layer(service_fn(async |request: Request<String>| {
                let error = request.into_body();
                let status = if error.is_empty() { 200 } else { 503 };
                Response::builder().status(status).body(error)
            }));
    for error in ["", r#"{"code":"unavailable"}"#] {
        let request = Request::get("/echo.Echo/UnaryEcho?connect=v1&encoding=json&message=secret");
        let request = request.body(error.to_owned()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), error);
    }
    let mut handled = starting_with(&series(&seen), "rpc_handled_total");
    without_prepared(&mut handled);
    assert_eq!(
        handled,
        [
            "rpc_handled_total{server,echo.Echo,UnaryEcho,OK,headers_only} 1",
            "rpc_handled_total{server,echo.Echo,UnaryEcho,UNAVAILABLE,body_end} 1",
        ]
    );
}

/// Counts what is asked of a recorder by name.
struct LookUps(Arc<AtomicUsize>, DebuggingRecorder);

impl Recorder for LookUps {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.1.describe_counter(key, unit, text);
    }
    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.1.describe_gauge(key, unit, text);
    }
    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.1.describe_histogram(key, unit, text);
    }
    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.register_counter(key, metadata)
    }
    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.register_gauge(key, metadata)
    }
    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.register_histogram(key, metadata)
    }
}

#[tokio::test]
async fn handles_are_registered_once_per_method_and_outcome() {
    let look_ups = Arc::new(AtomicUsize::new(0));
    let tracer =
        MetricsTracer::new().recorder(LookUps(Arc::clone(&look_ups), DebuggingRecorder::new()));
    let mut service = TracerLayer::new(tracer.methods(KnownMethods::new(ECHO)))
        .server()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    let mut asked = Vec::new();
    for name in [
        "/echo.Echo/UnaryEcho",
        "/echo.Echo/UnaryEcho",
        "/x/y",
        "/x/z",
        "/echo.Echo/UnaryEcho",
    ] {
        service
            .ready()
            .await
            .unwrap()
            .call(Named(name.to_owned()))
            .await
            .unwrap();
        asked.push(look_ups.load(Ordering::Relaxed));
    }
    // At first, seven for each listed method, and its 37 outcomes; when called, a histogram
    // and the count of an ending that is no call's over HTTP. Of the
    // other methods, seven and two for the outcome.
    let listed = 4 * (7 + 37);
    assert_eq!(asked, [2, 2, 11, 11, 11].map(|n| listed + n));
}

#[tokio::test]
async fn listed_methods_have_their_series_before_the_first_call() {
    let known = || KnownMethods::new(["a.B/C"]);
    for methods_first in [false, true] {
        let recorder = DebuggingRecorder::new();
        let seen = recorder.snapshotter();
        let tracer = match methods_first {
            false => MetricsTracer::new().recorder(recorder).methods(known()),
            true => MetricsTracer::new().methods(known()).recorder(recorder),
        };
        let seen = series(&seen);
        assert!(seen.iter().all(|line| line.ends_with(" 0")), "{seen:#?}");
        assert!(
            seen.iter().all(|line| line.contains("{server,a.B,C")),
            "{seen:#?}"
        );
        for line in [
            "rpc_started_total{server,a.B,C} 0",
            "rpc_in_flight{server,a.B,C} 0",
            "rpc_sent_messages_total{server,a.B,C} 0",
            "rpc_handled_total{server,a.B,C,OK,trailers} 0",
            "rpc_handled_total{server,a.B,C,UNAVAILABLE,trailers} 0",
            "rpc_handled_total{server,a.B,C,INTERNAL,headers_only} 0",
            "rpc_handled_total{server,a.B,C,CANCELLED,cancelled} 0",
        ] {
            assert!(seen.contains(&line.to_owned()), "{line} of {seen:#?}");
        }
        drop(tracer);
    }
}

#[tokio::test]
async fn a_method_without_a_list_is_named_once_answered_up_to_a_limit() {
    let (tracer, seen) = tracer();
    let mut service =
        TracerLayer::new(tracer)
            .server()
            .layer(service_fn(async |Named(path): Named| {
                let is_there = !path.contains("Missing");
                let code = if is_there {
                    tower_tracer::Code::Ok
                } else {
                    tower_tracer::Code::Unimplemented
                };
                Ok::<_, Infallible>(Done(Status::Grpc(code)))
            }));
    let mut call = async |path: String| {
        service
            .ready()
            .await
            .unwrap()
            .call(Named(path))
            .await
            .unwrap();
    };
    for path in ["/a.B/C", "/a.B/C", "/a.B/Missing", "/a.B/Missing", "/a/b/c"] {
        call(path.to_owned()).await;
    }
    let first = series(&seen);
    for line in [
        "rpc_started_total{server,a.B,C} 2",
        "rpc_handled_total{server,a.B,C,OK,response} 2",
        "rpc_started_total{server,_OTHER,_OTHER} 3",
        "rpc_in_flight{server,_OTHER,_OTHER} 0",
        "rpc_in_flight{server,a.B,C} 0",
    ] {
        assert!(first.contains(&line.to_owned()), "{line} of {first:#?}");
    }
    for n in 0..300 {
        call(format!("/a.B/M{n}")).await;
    }
    let started = starting_with(&series(&seen), "rpc_started_total");
    assert_eq!(started.len(), 101, "100 methods and `_OTHER`");
}

#[tokio::test]
async fn the_first_call_of_a_client_makes_the_series_of_every_listed_method() {
    let (tracer, seen) = tracer();
    let tracer = tracer.methods(KnownMethods::new(["a.B/C", "a.B/D"]));
    let service = TracerLayer::new(tracer)
        .client()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    service.oneshot(Named("/a.B/C".to_owned())).await.unwrap();
    assert_eq!(
        starting_with(&series(&seen), "rpc_started_total{client"),
        [
            "rpc_started_total{client,a.B,C} 1",
            "rpc_started_total{client,a.B,D} 0"
        ]
    );
}

/// The only test here that installs a recorder for the process.
#[tokio::test]
async fn a_recorder_installed_after_the_first_call_counts_from_then_on() {
    let tracer = MetricsTracer::new().methods(KnownMethods::new(["a.B/C", "a.B/D"]));
    let mut service = TracerLayer::new(tracer)
        .server()
        .layer(service_fn(async |_: Named| {
            Ok::<_, Infallible>(Done(Status::OK))
        }));
    let mut call = async || {
        let request = Named("/a.B/C".to_owned());
        service.ready().await.unwrap().call(request).await.unwrap();
    };
    call().await;
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    recorder.install().unwrap();
    call().await;
    let seen = series(&seen);
    for line in [
        "rpc_started_total{server,a.B,C} 1",
        "rpc_started_total{server,a.B,D} 0",
        "rpc_handled_total{server,a.B,C,OK,response} 1",
        "rpc_in_flight{server,a.B,C} 0",
    ] {
        assert!(seen.contains(&line.to_owned()), "{line} of {seen:#?}");
    }
}

fn prometheus() -> metrics_exporter_prometheus::PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("rpc_duration_seconds".to_owned()),
            &DURATION_BUCKETS,
        )
        .unwrap()
        .build_recorder()
}

#[tokio::test]
async fn prometheus_gets_a_histogram_with_grpcs_buckets_and_texts() {
    let recorder = prometheus();
    let exposition = recorder.handle();
    let ends = testing::RecordingTracer::new();
    let tracer = MetricsTracer::new()
        .recorder(recorder)
        .methods(KnownMethods::new(ECHO));
    let uri = serve(TracerLayer::new((ends.clone(), tracer))).await;
    let mut echo = connect(&uri, TracerLayer::new(())).await;
    let slow = EchoRequest {
        delay_ms: 30,
        ..say("slow")
    };
    echo.unary_echo(slow).await.unwrap();
    let cost = soon(ends.wait_finished(1)).await[0]
        .stats()
        .duration()
        .unwrap();
    assert!(cost >= Duration::from_millis(30));

    let rendered = exposition.render();
    let labels = r#"role="server",rpc_service="echo.Echo",rpc_method="UnaryEcho""#;
    for line in [
        "# TYPE rpc_duration_seconds histogram".to_owned(),
        "# HELP rpc_duration_seconds Time from start to end of RPCs that are over.".to_owned(),
        "# TYPE rpc_handled_total counter".to_owned(),
        "# TYPE rpc_in_flight gauge".to_owned(),
        format!(r#"rpc_duration_seconds_bucket{{{labels},code="OK",le="0.00001"}} 0"#),
        format!(r#"rpc_duration_seconds_bucket{{{labels},code="OK",le="0.025"}} 0"#),
        format!(r#"rpc_duration_seconds_bucket{{{labels},code="OK",le="100"}} 1"#),
        format!(r#"rpc_duration_seconds_count{{{labels},code="OK"}} 1"#),
        format!(
            r#"rpc_duration_seconds_sum{{{labels},code="OK"}} {}"#,
            cost.as_secs_f64()
        ),
        format!(r#"rpc_handled_total{{{labels},code="OK",ending="trailers"}} 1"#),
        format!(r#"rpc_in_flight{{{labels}}} 0"#),
    ] {
        assert!(rendered.lines().any(|l| l == line), "{line}\n{rendered}");
    }
}

#[tokio::test]
async fn a_panic_of_the_handler_is_counted_and_leaves_nothing_in_flight() {
    let (tracer, seen) = tracer();
    let service = TracerLayer::new(tracer).server().layer(service_fn(
        async |_: Named| -> Result<Done, Infallible> {
            assert!(RpcInfo::current().is_none(), "asked to panic");
            Ok(Done(Status::OK))
        },
    ));
    let call = tokio::spawn(service.oneshot(Named("/a.B/C".to_owned())));
    assert!(call.await.is_err());
    let seen = series(&seen);
    assert!(seen.contains(&"rpc_handled_total{server,_OTHER,_OTHER,UNKNOWN,panic} 1".to_owned()));
    assert!(seen.contains(&"rpc_in_flight{server,_OTHER,_OTHER} 0".to_owned()));
}
