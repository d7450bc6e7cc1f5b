//! What users shape of the metrics tracer: names, prefix, labels, families.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::ServiceBuilder;
use tower_tracer::{
    RpcInfo, TracerLayer,
    methods::KnownMethods,
    metrics::{MetricsTracer, Names},
    rpc::MethodKind,
    testing::RecordingTracer,
};

const DESCRIPTORS: &[u8] = include_bytes!("../../../examples/echo/descriptors.bin");

/// The tracer with a recorder of its own, and what that shows.
fn recorded(tracer: MetricsTracer) -> (MetricsTracer, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    (tracer.recorder(recorder), handle)
}

/// A call that ends with a code. The handler tags it with its `tenant` header.
async fn call(layer: TracerLayer<MetricsTracer>, path: &str, tenant: &str, code: u32) {
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |request: Request<String>| {
            let tenant = request.headers().get("tenant").unwrap().to_str().unwrap();
            let rpc = request.extensions().get::<RpcInfo>().unwrap();
            // A header cannot have the end of a line, but a tag can.
            rpc.set_tag("tenant", tenant.replace("<end>", "\n"));
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", code);
            async move { Ok::<_, Infallible>(response.body(String::new()).unwrap()) }
        });
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("tenant", tenant);
    service
        .oneshot(request.body(String::new()).unwrap())
        .await
        .unwrap();
}

/// The series that have moved, and a family of which has this in its name.
fn moved(handle: &PrometheusHandle, family: &str) -> Vec<String> {
    let rendered = handle.render();
    let lines = rendered
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(family) && !line.ends_with(" 0"));
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

fn families(handle: &PrometheusHandle) -> BTreeSet<String> {
    let rendered = handle.render();
    let types = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.map(|line| line.split(' ').next().unwrap().to_owned());
    names.collect()
}

#[tokio::test]
async fn names_of_go_grpc_prometheus_have_its_labels_and_codes() {
    let methods = KnownMethods::from_descriptor_set(DESCRIPTORS).unwrap();
    let tracer = MetricsTracer::new()
        .names(Names::GrpcPrometheus)
        .methods(methods);
    assert_eq!(
        tracer.duration_names(),
        [
            "grpc_client_handling_seconds",
            "grpc_server_handling_seconds"
        ]
    );
    let (tracer, handle) = recorded(tracer);
    let layer = TracerLayer::new(tracer);
    call(layer.clone().server(), "/echo.Echo/UnaryEcho", "", 5).await;
    call(
        layer.clone().server(),
        "/echo.Echo/ServerStreamingEcho",
        "",
        1,
    )
    .await;
    call(layer.clone().server(), "/made.Up/Name", "", 12).await;
    let labels = |kind: &str, method: &str| {
        format!(r#"grpc_type="{kind}",grpc_service="echo.Echo",grpc_method="{method}""#)
    };
    let unary = labels("unary", "UnaryEcho");
    let stream = labels("server_stream", "ServerStreamingEcho");
    let other = r#"grpc_type="unknown",grpc_service="_OTHER",grpc_method="_OTHER""#;
    assert_eq!(
        moved(&handle, "handled"),
        [
            format!(r#"grpc_server_handled_total{{{stream},grpc_code="Canceled"}} 1"#),
            format!(r#"grpc_server_handled_total{{{unary},grpc_code="NotFound"}} 1"#),
            format!(r#"grpc_server_handled_total{{{other},grpc_code="Unimplemented"}} 1"#),
        ]
    );
    assert_eq!(
        moved(&handle, "started"),
        [
            format!("grpc_server_started_total{{{stream}}} 1"),
            format!("grpc_server_started_total{{{unary}}} 1"),
            format!("grpc_server_started_total{{{other}}} 1"),
        ]
    );
    let count = format!("grpc_server_handling_seconds_count{{{unary}}} 1");
    assert!(moved(&handle, "handling").contains(&count));
    // Those of the client have names of their own, and plain HTTP none.
    call(layer.client(), "/echo.Echo/UnaryEcho", "", 0).await;
    assert_eq!(
        moved(&handle, "client_handled"),
        [format!(
            r#"grpc_client_handled_total{{{unary},grpc_code="OK"}} 1"#
        )]
    );
}

#[tokio::test]
async fn plain_http_is_not_counted_as_grpc() {
    let (tracer, handle) = recorded(MetricsTracer::new().names(Names::GrpcPrometheus));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new())));
    service.oneshot(Request::default()).await.unwrap();
    assert!(families(&handle).is_empty());
}

#[tokio::test]
async fn kind_of_a_method_is_of_the_layers_descriptor_set_and_never_guessed() {
    let recorder = RecordingTracer::new();
    let known = KnownMethods::from_descriptor_set(DESCRIPTORS).unwrap();
    let with = TracerLayer::new(recorder.clone()).server().methods(known);
    let without = TracerLayer::new(recorder.clone()).server();
    for (layer, path) in [
        (with.clone(), "/echo.Echo/UnaryEcho"),
        (with.clone(), "/api/echo.Echo/BidirectionalStreamingEcho"),
        (with, "/made.Up/Name"),
        (without, "/echo.Echo/UnaryEcho"),
    ] {
        let service = ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |_: Request<String>| {
                Ok::<_, Infallible>(Response::new(String::new()))
            });
        let request = Request::post(path).header("content-type", "application/grpc");
        service
            .oneshot(request.body(String::new()).unwrap())
            .await
            .unwrap();
    }
    let finished = recorder.finished();
    let kinds: Vec<_> = finished.iter().map(RpcInfo::method_kind).collect();
    assert_eq!(
        kinds,
        [
            Some(MethodKind::Unary),
            Some(MethodKind::BidiStream),
            None,
            None
        ]
    );
}

#[tokio::test]
async fn prefix_constant_labels_and_families_are_settings() {
    let tracer = MetricsTracer::new()
        .prefix("shop_")
        .constant_labels([("region", "eu-1")])
        .without(["shop_rpc_in_flight", "shop_rpc_duration_seconds"])
        .methods(KnownMethods::new(["a.B/C"]));
    assert!(tracer.duration_names().is_empty());
    let (tracer, handle) = recorded(tracer);
    call(TracerLayer::new(tracer).server(), "/a.B/C", "", 0).await;
    let labels = r#"region="eu-1",role="server",rpc_service="a.B",rpc_method="C""#;
    assert_eq!(
        moved(&handle, "started"),
        [format!("shop_rpc_started_total{{{labels}}} 1")]
    );
    let expected = [
        "shop_rpc_failed_total",
        "shop_rpc_handled_total",
        "shop_rpc_received_message_bytes_total",
        "shop_rpc_received_messages_total",
        "shop_rpc_sent_message_bytes_total",
        "shop_rpc_sent_messages_total",
        "shop_rpc_started_total",
    ];
    assert_eq!(families(&handle), expected.map(str::to_owned).into());
}

#[tokio::test]
async fn labels_that_callers_choose_make_a_bounded_number_of_series() {
    let tracer = MetricsTracer::new()
        .methods(KnownMethods::new(["a.B/C"]))
        .tag_labels(["tenant"])
        .label_combinations(10);
    let (tracer, handle) = recorded(tracer);
    let layer = TracerLayer::new(tracer).server();
    let long = "x".repeat(60_000);
    let odd = ["a\"b\\c", &long, "one<end>two"].map(str::to_owned);
    for tenant in odd
        .into_iter()
        .chain((0..20_000).map(|n| format!("tenant {n}")))
    {
        call(layer.clone(), "/a.B/C", &tenant, 0).await;
    }
    let handled = moved(&handle, "rpc_handled_total");
    assert_eq!(handled.len(), 11, "{handled:#?}");
    let labels = r#"role="server",rpc_service="a.B",rpc_method="C""#;
    for (tenant, count) in [
        (r#"a\"b\\c"#, 1),
        (&long[..128], 1),
        (r"one\ntwo", 1),
        ("tenant 6", 1),
        ("_OTHER", 19_993),
    ] {
        let line = format!(
            r#"rpc_handled_total{{{labels},tenant="{tenant}",code="OK",ending="headers_only"}} {count}"#
        );
        assert!(handled.contains(&line), "{line}\n{handled:#?}");
    }
    // What is not known before the end has no such label.
    assert_eq!(
        moved(&handle, "started"),
        [format!("rpc_started_total{{{labels}}} 20003")]
    );
}

#[tokio::test]
async fn function_of_labels_that_panics_leaves_them_empty() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&panics);
    let tracer = MetricsTracer::new()
        .methods(KnownMethods::new(["a.B/C"]))
        .labels(["one", "two"], move |rpc| -> Vec<String> {
            if rpc.stats().failed() {
                counter.fetch_add(1, Ordering::Relaxed);
                panic!("told to panic");
            }
            vec!["1".to_owned()]
        });
    let (tracer, handle) = recorded(tracer);
    let layer = TracerLayer::new(tracer).server();
    call(layer.clone(), "/a.B/C", "", 0).await;
    call(layer, "/a.B/C", "", 13).await;
    assert_eq!(panics.load(Ordering::Relaxed), 1);
    let failed = r#"role="server",rpc_service="a.B",rpc_method="C",one="",two="""#;
    assert_eq!(
        moved(&handle, "rpc_failed_total"),
        [format!("rpc_failed_total{{{failed}}} 1")]
    );
    let handled = moved(&handle, "rpc_handled_total");
    assert!(
        handled
            .iter()
            .any(|line| line.contains(r#"one="1",two="""#)),
        "{handled:#?}"
    );
}

#[test]
#[should_panic(expected = "\"rpc-service\" is not the name of a label")]
fn name_that_prometheus_does_not_take_is_an_error_of_the_configuration() {
    let _ = MetricsTracer::new().tag_labels(["rpc-service"]);
}

#[test]
#[should_panic(expected = "\"7shop_\" cannot begin a metric's name")]
fn prefix_that_prometheus_does_not_take_is_an_error_of_the_configuration() {
    let _ = MetricsTracer::new().prefix("7shop_");
}

#[test]
#[should_panic(expected = "\"rpc_duration\" is not a family of this tracer")]
fn family_that_does_not_exist_cannot_be_left_out() {
    let _ = MetricsTracer::new().without(["rpc_duration"]);
}
