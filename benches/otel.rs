//! What OpenTelemetry costs per RPC, beside other layers that emit it, in one run:
//! `cargo bench --bench otel --features otel`.
//!
//! Times are the best of many short rounds, the layers taking turns, as overhead above no layer at
//! all; look at the ratios. All are on the server's side, with one SDK that drops what it is given.
//! `tower-otel` ends its span at the response's headers, before the status is known.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

mod call;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use opentelemetry::{global, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tonic_tracing_opentelemetry::middleware::server::OtelGrpcLayer;
use tower::{
    Layer, Service,
    layer::util::{Identity, Stack},
};
use tower_tracer::{
    TracerLayer,
    tracers::otel::{self, OtelTracer},
};
use tracing_subscriber::layer::SubscriberExt as _;

/// Where spans end.
#[derive(Debug)]
struct Nowhere;

impl SpanProcessor for Nowhere {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
    fn on_end(&self, span: SpanData) {
        black_box(span);
    }
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
    fn set_resource(&mut self, _: &Resource) {}
}

type Runner = Box<dyn FnMut(u32)>;

fn run<S, B>(mut service: S) -> Runner
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body + 'static,
{
    Box::new(move |calls| {
        for _ in 0..calls {
            call::call(black_box(&mut service), 1);
        }
    })
}

fn provider(sampler: Sampler) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(Nowhere)
        .build()
}

fn main() {
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, calls) = if quick { (2, 50) } else { (300, 1_000) };

    let reader = PeriodicReader::builder(InMemoryMetricExporter::default())
        .with_interval(Duration::from_secs(3600))
        .build();
    let metrics = SdkMeterProvider::builder().with_reader(reader).build();
    let meter = metrics.meter("bench");
    let spans = provider(Sampler::AlwaysOn);
    let bridge = tracing_opentelemetry::layer().with_tracer(spans.tracer("bench"));
    let subscriber = tracing_subscriber::registry().with(bridge);
    tracing::subscriber::set_global_default(subscriber).expect("set once");

    let ours = |provider: &SdkTracerProvider| -> TracerLayer<OtelTracer> {
        let tracer = otel::tracer().tracer_provider(provider);
        TracerLayer::new(tracer.meter_provider(&metrics)).server()
    };
    let handler = || call::handler(1);
    let tower_otel = || {
        Stack::new(
            tower_otel::trace::GrpcLayer::server(tracing::Level::INFO),
            tower_otel::metrics::HttpLayer::server(&meter),
        )
    };

    for (title, propagates) in [
        ("without a propagator", false),
        ("with W3C's propagator", true),
    ] {
        if propagates {
            global::set_text_map_propagator(TraceContextPropagator::new());
        }
        let mut variants: Vec<(&str, Runner)> = vec![
            ("none", run(Identity::new().layer(handler()))),
            (
                "tower-otel, spans and metrics",
                run(tower_otel().layer(handler())),
            ),
            (
                "tonic-tracing-otel., spans",
                run(OtelGrpcLayer::default().layer(handler())),
            ),
            (
                "empty tracer",
                run(TracerLayer::new(()).server().layer(handler())),
            ),
            (
                "ours, spans and metrics",
                run(ours(&spans).layer(handler())),
            ),
            (
                "ours, unsampled",
                run(ours(&provider(Sampler::AlwaysOff)).layer(handler())),
            ),
        ];
        let mut best = vec![Duration::MAX; variants.len()];
        let mut allocations = vec![0; variants.len()];
        for ((_, run), allocations) in variants.iter_mut().zip(&mut allocations) {
            run(10);
            *allocations = allocation_counter::measure(|| run(100)).count_total / 100;
        }
        for _ in 0..rounds {
            for ((_, run), best) in variants.iter_mut().zip(&mut best) {
                let start = Instant::now();
                run(calls);
                *best = (*best).min(start.elapsed());
            }
        }
        let nanos = |time: Duration| time.as_nanos() as f64 / f64::from(calls);
        let none = nanos(best[0]);
        let other = nanos(best[1]) - none;
        println!(
            "\n{title}: {none:.0} ns and {} allocations without a layer",
            allocations[0]
        );
        println!(
            "{:<32} {:>9} {:>12} {:>14}",
            "layer", "above it", "allocations", "to tower-otel"
        );
        let figures = variants.iter().zip(best.iter().zip(&allocations));
        for ((name, _), (best, count)) in figures.skip(1) {
            let above = nanos(*best) - none;
            let count = count - allocations[0];
            println!(
                "{name:<32} {above:>6.0} ns {count:>12} {:>14.2}",
                above / other
            );
        }
    }
}
