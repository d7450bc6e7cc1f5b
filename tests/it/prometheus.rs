//! Metrics with exemplars: which RPCs they name.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tower::ServiceBuilder;
use tower_tracer::{
    TracerLayer, methods::KnownMethods, otel::OtelTracer, prometheus::PrometheusTracer,
};

fn tracer() -> PrometheusTracer {
    PrometheusTracer::new().methods(KnownMethods::new(["a.B/C"]))
}

/// A call of this time that ends with a code.
async fn call<T: tower_tracer::Tracer>(
    layer: TracerLayer<T>,
    traceparent: &str,
    code: u32,
    time: Duration,
) {
    let service =
        ServiceBuilder::new()
            .layer(layer)
            .service_fn(move |_: Request<String>| async move {
                std::thread::sleep(time);
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", code);
                Ok::<_, Infallible>(response.body(String::new()).unwrap())
            });
    let request = Request::post("/a.B/C")
        .header("content-type", "application/grpc")
        .header("traceparent", traceparent);
    service
        .oneshot(request.body(String::new()).unwrap())
        .await
        .unwrap();
}

/// A `traceparent` of a trace whose id has this digit, and is sampled or not.
fn parent(digit: char, flags: &str) -> String {
    let trace = digit.to_string().repeat(32);
    format!("00-{trace}-00f067aa0ba902b7-{flags}")
}

/// The first digits of the traces that exemplars name, with the code of their series.
fn exemplars(tracer: &PrometheusTracer) -> Vec<String> {
    let text = tracer.encode();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some((series, exemplar)) = line.split_once(" # ") {
            assert!(line.starts_with("rpc_duration_seconds_bucket"), "{line}");
            let code = series.split("code=\"").nth(1).unwrap();
            let code = code.split('"').next().unwrap();
            let trace = exemplar.strip_prefix("{trace_id=\"").unwrap();
            let (trace, rest) = trace.split_once("\"} ").unwrap();
            assert_eq!(trace.len(), 32);
            // A value and a time.
            assert_eq!(rest.split(' ').count(), 2, "{line}");
            found.push(format!("{code} {}", &trace[..1]));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn failures_and_the_slowest_are_named_and_others_are_not() {
    let tracer = tracer();
    let layer = TracerLayer::new(tracer.clone()).server();
    let (short, long) = (Duration::ZERO, Duration::from_millis(15));
    call(layer.clone(), &parent('1', "01"), 0, long).await;
    assert_eq!(exemplars(&tracer), ["OK 1"]);
    // Not as slow.
    call(layer.clone(), &parent('2', "01"), 0, short).await;
    assert_eq!(exemplars(&tracer), ["OK 1"]);
    // A failure is named whatever it took, and replaces one in its bucket.
    call(layer.clone(), &parent('3', "01"), 13, long).await;
    call(layer.clone(), &parent('4', "01"), 13, short).await;
    assert_eq!(exemplars(&tracer), ["INTERNAL 3", "INTERNAL 4", "OK 1"]);
    // Its own failure is not the server's.
    call(layer.clone(), &parent('5', "01"), 5, long).await;
    call(layer, &parent('6', "01"), 5, short).await;
    let expected = ["INTERNAL 3", "INTERNAL 4", "NOT_FOUND 5", "OK 1"];
    assert_eq!(exemplars(&tracer), expected);
}

#[tokio::test]
async fn traces_that_are_not_sampled_are_never_named() {
    let tracer = tracer();
    let layer = TracerLayer::new(tracer.clone()).server();
    for code in [0, 13] {
        call(layer.clone(), &parent('1', "00"), code, Duration::ZERO).await;
        call(layer.clone(), "nonsense", code, Duration::ZERO).await;
    }
    assert!(exemplars(&tracer).is_empty());

    // OpenTelemetry's decision comes before the caller's.
    let spans = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .build();
    let otel = OtelTracer::new().tracer_provider(&spans);
    let layer = TracerLayer::new((otel, tracer.clone())).server();
    call(layer, &parent('2', "01"), 13, Duration::ZERO).await;
    assert!(exemplars(&tracer).is_empty());
}

#[tokio::test]
async fn a_scrape_has_the_content_type_all_families_and_its_end() {
    let tracer = tracer();
    let layer = TracerLayer::new(tracer.clone());
    call(layer.clone().client(), "", 5, Duration::ZERO).await;
    call(layer.server(), "", 0, Duration::ZERO).await;
    let response = tracer.response();
    let content_type = &response.headers()["content-type"];
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = response.into_body();
    assert!(text.ends_with("# EOF\n"));
    let labels = |role: &str| format!(r#"role="{role}",rpc_service="a.B",rpc_method="C""#);
    for line in [
        "# TYPE rpc_duration_seconds histogram".to_owned(),
        "# UNIT rpc_duration_seconds seconds".to_owned(),
        format!("rpc_started_total{{{}}} 1", labels("client")),
        format!("rpc_failed_total{{{}}} 1", labels("client")),
        format!("rpc_failed_total{{{}}} 0", labels("server")),
        format!("rpc_in_flight{{{}}} 0", labels("server")),
        format!(
            r#"rpc_handled_total{{{},code="OK",ending="headers_only"}} 1"#,
            labels("server")
        ),
        format!(
            r#"rpc_duration_seconds_bucket{{le="+Inf",{},code="OK"}} 1"#,
            labels("server")
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn what_peers_make_up_is_no_series() {
    let tracer = tracer();
    let layer = TracerLayer::new(tracer.clone()).server();
    let service =
        ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |request: Request<String>| {
                let status: u16 = request.body().parse().unwrap();
                let response = Response::builder().status(status);
                Ok::<_, Infallible>(response.body(String::new()).unwrap())
            });
    for n in 0..2000 {
        let path = format!("/made.Up/Name{n}");
        let status = (100 + n % 900).to_string();
        let request = Request::post(path).body(status).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let text = tracer.encode();
    assert!(text.lines().count() < 5000, "{}", text.lines().count());
    assert!(text.contains(r#"rpc_service="_OTHER",rpc_method="_OTHER",code="_OTHER""#));
    assert!(!text.contains("made.Up"));
}
