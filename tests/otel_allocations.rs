//! What OpenTelemetry costs in allocations, which do not depend on the machine.

#![allow(unreachable_pub)]

#[path = "../benches/call/mod.rs"]
mod call;
#[path = "it/support/telemetry.rs"]
mod telemetry;

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use std::time::Duration;
use telemetry::Telemetry;
use tonic::body::Body;
use tower::{Layer as _, Service};
use tower_tracer::{
    TracerLayer,
    otel::{self, OtelTracer},
    rpc::Endpoint,
};

/// Where spans end. What an exporter costs is not the tracer's.
#[derive(Debug)]
struct Nowhere;

impl SpanProcessor for Nowhere {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
    fn on_end(&self, _: SpanData) {}
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
    fn set_resource(&mut self, _: &Resource) {}
}

fn allocations<S, B>(mut service: S) -> u64
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    for _ in 0..10 {
        call::call(&mut service, &call::Side::Client, 1);
    }
    let calls = 100;
    let counted = allocation_counter::measure(|| {
        for _ in 0..calls {
            call::call(&mut service, &call::Side::Client, 1);
        }
    });
    assert_eq!(counted.count_current, 0, "nothing is kept");
    assert_eq!(counted.count_total % calls, 0, "each call costs the same");
    counted.count_total / calls
}

#[test]
fn a_unary_call_with_span_and_metrics_costs_at_most_eight_allocations() {
    let telemetry = Telemetry::new();
    let tracer = |sampler: Sampler| -> OtelTracer {
        let spans = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_span_processor(Nowhere)
            .build();
        otel::OtelTracer::new()
            .tracer_provider(&spans)
            .meter_provider(&telemetry.meter_provider)
    };
    let none = allocations(call::handler(1));
    let above = |layer: TracerLayer<OtelTracer>| {
        let layer = layer.callee(Endpoint::default().address("echo.example:50051"));
        allocations(layer.layer(call::handler(1))) - none
    };
    let client = above(TracerLayer::new(tracer(Sampler::AlwaysOn)).client());
    let server = above(TracerLayer::new(tracer(Sampler::AlwaysOn)).server());
    let unsampled = above(TracerLayer::new(tracer(Sampler::AlwaysOff)).server());
    let w3c = tracer(Sampler::AlwaysOn).propagator(TraceContextPropagator::new());
    let with_w3c = above(TracerLayer::new(w3c).client());
    println!("client {client}, server {server}, unsampled {unsampled}, injecting {with_w3c}");
    assert!(client <= 8, "client: {client}");
    assert!(server <= 8, "server: {server}");
    assert!(unsampled <= server, "unsampled: {unsampled}");
    // The propagator makes a text of each header, and the header map grows.
    assert!(with_w3c <= client + 10, "injecting: {with_w3c}");
}
