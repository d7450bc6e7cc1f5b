//! Global providers, installed for the process after the first RPCs.

#[path = "it/support/telemetry.rs"]
mod telemetry;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use opentelemetry::{global, trace::SpanKind};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use telemetry::Telemetry;
use tokio::sync::Notify;
use tower::{Layer as _, service_fn};
use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    otel::{self, OtelTracer},
};

/// With the global providers.
fn tracer() -> OtelTracer {
    let tracer = otel::OtelTracer::new()
        .methods(KnownMethods::new(["a.B/C"]))
        .in_flight();
    #[cfg(feature = "otel-bound")]
    let tracer = tracer.bound_instruments();
    tracer
}

async fn call(layer: &TracerLayer<OtelTracer>) {
    wait(layer, None).await;
}

/// A call that ends on a signal.
async fn wait(layer: &TracerLayer<OtelTracer>, until: Option<Arc<Notify>>) {
    let service = layer.layer(service_fn(async |_: Request<String>| {
        if let Some(until) = &until {
            until.notified().await;
        }
        let response = Response::builder().header("grpc-status", "0");
        let response = response.header("content-type", "application/grpc");
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    }));
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    // The no-op tracer repeats the span of a caller; it makes none of its own.
    let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = request.header("traceparent", caller);
    let request = request.body(String::new()).unwrap();
    service.oneshot(request).await.unwrap();
}

fn measured(telemetry: &Telemetry, metric: &str) -> u64 {
    telemetry.histogram(metric).iter().map(|p| p.count).sum()
}

#[tokio::test]
async fn providers_that_are_installed_after_the_first_rpc_are_used_from_then_on() {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let client = TracerLayer::new(tracer()).client();
    let server = TracerLayer::new(tracer()).server();
    // This one has long given up looking at each RPC.
    let waiting = TracerLayer::new(tracer()).server();
    for _ in 0..3 {
        call(&client).await;
        call(&server).await;
    }
    for _ in 0..1100 {
        call(&waiting).await;
    }
    let until = Arc::new(Notify::new());
    let across = wait(&server, Some(Arc::clone(&until)));
    tokio::pin!(across);
    assert!(futures_util::poll!(&mut across).is_pending());

    let telemetry = Telemetry::new();
    global::set_tracer_provider(telemetry.tracer_provider.clone());
    call(&client).await;
    call(&server).await;
    let kinds = |telemetry: &Telemetry| {
        let spans = telemetry.spans().into_iter();
        spans.map(|span| span.span_kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&telemetry), [SpanKind::Client, SpanKind::Server]);
    assert!(telemetry.metrics().is_empty());

    // Each signal on its own.
    global::set_meter_provider(telemetry.meter_provider.clone());
    call(&client).await;
    call(&server).await;
    assert_eq!(telemetry.spans().len(), 4);
    assert_eq!(measured(&telemetry, "rpc.client.call.duration"), 1);
    assert_eq!(measured(&telemetry, "rpc.server.call.duration"), 1);
    // One that began before is measured when it ends, and was never counted as in flight.
    until.notify_one();
    across.await;
    assert_eq!(telemetry.spans().len(), 4, "its span began before");
    assert_eq!(measured(&telemetry, "rpc.server.call.duration"), 2);
    for metric in [
        "tower_tracer.client.active_calls",
        "tower_tracer.server.active_calls",
    ] {
        let in_flight = telemetry.sum(metric);
        assert!(in_flight.iter().all(|(_, n)| *n == 0), "{in_flight:?}");
        assert_eq!(in_flight.len(), 1);
    }

    let mut patience = 1000;
    let mut calls = 0;
    let found =
        || telemetry.spans().len() > 4 && measured(&telemetry, "rpc.server.call.duration") > 2;
    while !found() {
        assert!(patience > 0, "not found after {calls} calls");
        patience -= 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        call(&waiting).await;
        calls += 1;
    }

    // What was found stays.
    let second = Telemetry::new();
    global::set_tracer_provider(second.tracer_provider.clone());
    global::set_meter_provider(second.meter_provider.clone());
    call(&client).await;
    assert_eq!(measured(&telemetry, "rpc.client.call.duration"), 2);
    assert!(second.spans().is_empty() && second.metrics().is_empty());
}
