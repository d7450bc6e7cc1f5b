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

use call::Side;
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tower::{Layer, Service, layer::util::Identity};
use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    metrics::{DURATION_BUCKETS, MetricsTracer},
};

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

fn repeat<S, B>(mut service: S, side: &Side) -> Runner
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body,
{
    let side = side.clone();
    Box::new(move |calls| {
        for _ in 0..calls {
            call::call(black_box(&mut service), &side, 1);
        }
    })
}

/// The same calls of the facade that the tracer makes for one RPC, with handles in hand.
fn handles(recorder: &impl Recorder) -> Runner {
    let metadata = Metadata::new("bench", Level::INFO, None);
    let key = |name: &'static str| {
        let labels = ["role", "rpc_service", "rpc_method", "code", "ending"];
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
    let to_client = &Side::Client;
    let to_server = &Side::server().expect("a connection");
    let client_none = repeat(Identity::new().layer(handler()), to_client);
    let server_none = repeat(Identity::new().layer(handler()), to_server);
    let client_layer = TracerLayer::new(()).client().layer(handler());
    let client_layer = repeat(client_layer, to_client);
    let server_layer = TracerLayer::new(()).server().layer(handler());
    let server_layer = repeat(server_layer, to_server);
    let own = builder().build_recorder();
    let in_hand = handles(&own);
    let (client, client_exporter) = tracer();
    let client = TracerLayer::new(client).client().layer(handler());
    let client = repeat(client, to_client);
    let (server, server_exporter) = tracer();
    let server = TracerLayer::new(server).server().layer(handler());
    let server = repeat(server, to_server);
    // These two are for servers.
    let tonic = tonic_prometheus_layer::MetricsLayer::new().layer(handler());
    let tonic = repeat(tonic, to_server);
    let global = builder().install_recorder().expect("no other recorder");
    let axum = axum_prometheus::BaseMetricLayer::new().layer(handler());
    let axum = repeat(axum, to_server);
    let handled = "rpc_handled_total";
    vec![
        variant("client none", client_none, None, ""),
        variant("server none", server_none, None, ""),
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
        client_none,
        server_none,
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
    let handles = nanos(in_hand);
    println!("a tracer's metrics calls with handles in hand: {handles:.0} ns");
    let tell = |name: &str, time: Duration, none: Duration| {
        let above = nanos(time) - nanos(none);
        println!("{name:<17} {above:>6.0} ns above no layer");
        above
    };
    println!(
        "unary RPC of a client without a layer: {:.0} ns",
        nanos(client_none)
    );
    let client_layer = tell("client layer", client_layer, client_none);
    let client = tell("client", client, client_none);
    println!(
        "unary RPC of a server without a layer: {:.0} ns",
        nanos(server_none)
    );
    let server_layer = tell("server layer", server_layer, server_none);
    let server = tell("server", server, server_none);
    let tonic = tell("tonic_prometheus", tonic, server_none);
    let axum = tell("axum-prometheus", axum, server_none);
    let mut within = true;
    let mut compare = |what: &str, ratio: f64, limit: f64| {
        within &= ratio <= limit;
        println!("{what}: {ratio:.2} (at most {limit})");
    };
    for (side, whole, layer) in [
        ("client", client, client_layer),
        ("server", server, server_layer),
    ] {
        let on_top = format!("{side}, on top of the layer, to");
        let tracer = whole - layer;
        compare(
            &format!("{on_top} its metrics calls"),
            tracer / handles,
            2.0,
        );
        for (name, other) in [("tonic_prometheus", tonic), ("axum-prometheus", axum)] {
            compare(&format!("{on_top} {name}"), tracer / other, 1.0);
            compare(
                &format!("{side}, with the layer, to {name}"),
                whole / other,
                1.0,
            );
        }
    }
    let gate = arguments.iter().any(|argument| argument == "--gate");
    match within || !gate {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
