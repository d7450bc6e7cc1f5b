//! What the metrics tracer costs per RPC, in one run with what else there is:
//! `cargo bench --bench stores --all-features`.
//!
//! Times are the best of many short rounds, the layers taking turns; look at the ratios. Each round
//! ends with the exporter's upkeep, which sorts a histogram's values into its buckets, for those that
//! leave it to the exporter. The run fails where one of them has not counted every RPC, and with
//! `--gate` where the tracer, on top of the layer, costs more than twice its own `metrics` calls, or
//! more than another crate's layer. `--only NAME CALLS` makes the calls of one of them and no more,
//! for a profiler.

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

/// Whether `--gate` compares the whole layer with the tracer, too, or only tells.
const WHOLE_LAYER: bool = false;

type Runner = Box<dyn FnMut(u32)>;

/// Something that counts RPCs.
struct Variant {
    name: &'static str,
    run: Runner,
    exporter: Option<PrometheusHandle>,
    /// Where it counts the RPCs that are over.
    counter: &'static str,
}

impl Variant {
    /// How many RPCs are over, as it exposes them.
    fn counted(&self) -> f64 {
        let text = match &self.exporter {
            Some(exporter) => exporter.render(),
            None => tonic_prometheus_layer::metrics::encode_to_string().expect("an exposition"),
        };
        let lines = text.lines().filter_map(|line| {
            let labels = line.strip_prefix(self.counter)?;
            let (_, value) = labels.strip_prefix('{')?.rsplit_once(' ')?;
            value.parse::<f64>().ok()
        });
        lines.sum()
    }
}

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

fn variants() -> Vec<Variant> {
    let tracer = || {
        let recorder = builder().build_recorder();
        let exporter = recorder.handle();
        let known = KnownMethods::new(["echo.Echo/UnaryEcho", "echo.Echo/ServerStreamingEcho"]);
        let tracer = MetricsTracer::new().recorder(recorder).methods(known);
        (tracer, exporter)
    };
    let handler = || call::handler(1);
    let variant = |name, run, exporter, counter| Variant {
        name,
        run,
        exporter,
        counter,
    };
    let none = repeat(Identity::new().layer(handler()));
    let client_layer = repeat(TracerLayer::new(()).client().layer(handler()));
    let server_layer = repeat(TracerLayer::new(()).server().layer(handler()));
    let own = builder().build_recorder();
    let in_hand = handles(&own);
    let (client, client_exporter) = tracer();
    let client = repeat(TracerLayer::new(client).client().layer(handler()));
    let (server, server_exporter) = tracer();
    let server = repeat(TracerLayer::new(server).server().layer(handler()));
    let tonic = repeat(tonic_prometheus_layer::MetricsLayer::new().layer(handler()));
    let global = builder().install_recorder().expect("no other recorder");
    let axum = repeat(axum_prometheus::BaseMetricLayer::new().layer(handler()));
    let handled = "rpc_handled_total";
    vec![
        variant("none", none, None, ""),
        variant("client layer", client_layer, None, ""),
        variant("server layer", server_layer, None, ""),
        variant("handles", in_hand, Some(own.handle()), "handled"),
        variant("client", client, Some(client_exporter), handled),
        variant("server", server, Some(server_exporter), handled),
        variant("tonic_prometheus", tonic, None, "grpc_server_handled_total"),
        variant(
            "axum-prometheus",
            axum,
            Some(global),
            "axum_http_requests_total",
        ),
    ]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let mut variants = variants();
    if let Some(at) = arguments.iter().position(|a| a == "--only") {
        let [name, calls] = &arguments[at + 1..] else {
            panic!("--only NAME CALLS");
        };
        let calls = calls.parse().expect("a number");
        for variant in variants.iter_mut().filter(|v| v.name == *name) {
            (variant.run)(calls);
        }
        return ExitCode::SUCCESS;
    }
    // `cargo test` runs a benchmark too, only to see that it works.
    let quick = !arguments.iter().any(|argument| argument == "--bench");
    let (rounds, calls) = if quick { (2, 100) } else { (300, 2_000) };
    let mut best = vec![Duration::MAX; variants.len()];
    for _ in 0..rounds {
        for (variant, best) in variants.iter_mut().zip(&mut best) {
            let start = Instant::now();
            (variant.run)(calls);
            if let Some(exporter) = &variant.exporter {
                exporter.run_upkeep();
            }
            *best = (*best).min(start.elapsed());
        }
    }
    let expected = f64::from(rounds * calls);
    for variant in variants.iter().filter(|v| !v.counter.is_empty()) {
        let (name, counted) = (variant.name, variant.counted());
        assert!(
            counted == expected,
            "{name} counted {counted} of {expected}"
        );
    }

    let nanos = |time: Duration| time.as_nanos() as f64 / f64::from(calls);
    let &[
        none,
        client_layer,
        server_layer,
        in_hand,
        client,
        server,
        tonic,
        axum,
    ] = &*best
    else {
        unreachable!("as many as there are variants");
    };
    let above = |time: Duration| nanos(time) - nanos(none);
    println!("unary RPC without a layer: {:.0} ns", nanos(none));
    let handles = nanos(in_hand);
    println!("a tracer's metrics calls with handles in hand: {handles:.0} ns");
    for (name, time) in [
        ("client layer", client_layer),
        ("client", client),
        ("server layer", server_layer),
        ("server", server),
        ("tonic_prometheus", tonic),
        ("axum-prometheus", axum),
    ] {
        println!("{name:<17} {:>6.0} ns above no layer", above(time));
    }
    let mut within = true;
    let mut compare = |what: &str, ratio: f64, limit: f64, is_gate: bool| {
        within &= ratio <= limit || !is_gate;
        let gate = if is_gate { "at most" } else { "hoped for" };
        println!("{what}: {ratio:.2} ({gate} {limit})");
    };
    for (side, time, layer) in [
        ("client", client, client_layer),
        ("server", server, server_layer),
    ] {
        let on_top = format!("{side}, on top of the layer, to");
        let tracer = above(time) - above(layer);
        compare(
            &format!("{on_top} its metrics calls"),
            tracer / handles,
            2.0,
            true,
        );
        for (name, other) in [("tonic_prometheus", tonic), ("axum-prometheus", axum)] {
            compare(
                &format!("{on_top} {name}"),
                tracer / above(other),
                1.0,
                true,
            );
            // The layer's own share is still to come down.
            let whole = above(time) / above(other);
            compare(
                &format!("{side}, with the layer, to {name}"),
                whole,
                1.0,
                WHOLE_LAYER,
            );
        }
    }
    let gate = arguments.iter().any(|argument| argument == "--gate");
    match within || !gate {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
