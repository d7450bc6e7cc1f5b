//! What the metrics tracer costs per RPC, in one run with what else there is:
//! `cargo bench --bench stores --all-features`.
//!
//! Times are the best of many short rounds, the layers taking turns; look at the ratios. With
//! `--gate` the run fails where the tracer, on top of the layer, costs more than twice its own
//! `metrics` calls, or more than another crate's layer.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

mod call;

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tower::{Layer, Service, layer::util::Identity};
use tower_tracer::{
    TracerLayer,
    tracers::{
        KnownMethods,
        metrics::{DURATION_BUCKETS, MetricsTracer},
    },
};

type Runner = Box<dyn FnMut(u32)>;

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("duration_seconds".to_owned()),
            &DURATION_BUCKETS,
        )
        .expect("there are buckets")
}

fn repeat<S, B>(mut service: S) -> Runner
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body,
{
    Box::new(move |calls| {
        for _ in 0..calls {
            call::call(black_box(&mut service), 1);
        }
    })
}

/// The same calls of the facade that the tracer makes for one RPC, with handles in hand.
fn handles(recorder: &impl Recorder) -> Runner {
    let metadata = Metadata::new("bench", Level::INFO, None);
    let key = |name: &'static str| {
        let labels = ["role", "service", "method", "code", "ending"];
        Key::from_parts(name, labels.map(|label| Label::new(label, label)).to_vec())
    };
    let counter = |name| recorder.register_counter(&key(name), &metadata);
    let counters = [
        counter("started"),
        counter("handled"),
        counter("sent_messages"),
        counter("sent_bytes"),
        counter("received_messages"),
        counter("received_bytes"),
    ];
    let in_flight = recorder.register_gauge(&key("in_flight"), &metadata);
    let duration = recorder.register_histogram(&key("raw_duration_seconds"), &metadata);
    Box::new(move |calls| {
        for n in 0..calls {
            black_box(&in_flight).increment(1.0);
            for counter in black_box(&counters) {
                counter.increment(1);
            }
            black_box(&duration).record(Duration::from_nanos(n.into()));
            black_box(&in_flight).decrement(1.0);
        }
    })
}

fn variants() -> (Vec<(&'static str, Runner)>, Vec<PrometheusHandle>) {
    let global = builder().install_recorder().expect("no other recorder");
    let own = builder().build_recorder();
    let mut exporters = vec![global, own.handle()];
    let in_hand = handles(&own);
    let mut tracer = || {
        let recorder = builder().build_recorder();
        exporters.push(recorder.handle());
        let known = KnownMethods::new(["echo.Echo/UnaryEcho", "echo.Echo/ServerStreamingEcho"]);
        MetricsTracer::new().recorder(recorder).methods(known)
    };
    let (client, server) = (tracer(), tracer());
    let handler = || call::handler(1);
    let variants = vec![
        ("none", repeat(Identity::new().layer(handler()))),
        ("handles in hand", in_hand),
        (
            "layer",
            repeat(TracerLayer::new(()).client().layer(handler())),
        ),
        (
            "client",
            repeat(TracerLayer::new(client).client().layer(handler())),
        ),
        (
            "server",
            repeat(TracerLayer::new(server).server().layer(handler())),
        ),
        (
            "tonic_prometheus",
            repeat(tonic_prometheus_layer::MetricsLayer::new().layer(handler())),
        ),
        (
            "axum-prometheus",
            repeat(axum_prometheus::BaseMetricLayer::new().layer(handler())),
        ),
    ];
    (variants, exporters)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test` runs a benchmark too, only to see that it works.
    let quick = !arguments.iter().any(|argument| argument == "--bench");
    let (rounds, calls) = if quick { (2, 100) } else { (300, 2_000) };
    let (mut variants, exporters) = variants();
    let mut best = vec![Duration::MAX; variants.len()];
    for _ in 0..rounds {
        for ((_, run), best) in variants.iter_mut().zip(&mut best) {
            let start = Instant::now();
            run(calls);
            *best = (*best).min(start.elapsed());
        }
        for exporter in &exporters {
            // Histograms keep every value until somebody asks.
            exporter.run_upkeep();
        }
    }
    let nanos = |index: usize| best[index].as_nanos() as f64 / f64::from(calls);
    let above = |index: usize| nanos(index) - nanos(0);
    println!("unary RPC without a layer: {:.0} ns", nanos(0));
    println!(
        "a tracer's metrics calls with handles in hand: {:.0} ns",
        nanos(1)
    );
    for (index, (name, _)) in variants.iter().enumerate().skip(2) {
        println!("{name:<17} {:>6.0} ns above no layer", above(index));
    }
    let mut within = true;
    for (index, side) in [(3, "client"), (4, "server")] {
        let tracer = above(index) - above(2);
        for (what, ratio, limit) in [
            ("its metrics calls", tracer / nanos(1), 2.0),
            ("tonic_prometheus_layer", tracer / above(5), 1.0),
            ("axum-prometheus", tracer / above(6), 1.0),
        ] {
            within &= ratio <= limit;
            println!("{side}, on top of the layer, to {what}: {ratio:.2} (at most {limit})");
        }
        for (what, other) in [("tonic_prometheus_layer", 5), ("axum-prometheus", 6)] {
            let ratio = above(index) / above(other);
            println!("{side}, with the layer, to {what}: {ratio:.2}");
        }
    }
    let gate = arguments.iter().any(|argument| argument == "--gate");
    match within || !gate {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
