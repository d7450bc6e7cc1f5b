//! What OpenTelemetry costs per RPC, beside other layers that emit it, in one run:
//! `cargo bench --bench otel --features otel-bound`.
//!
//! Times are the best of many short rounds, the layers taking turns, as overhead above no layer at
//! all; look at the ratios. All share one SDK that drops what it is given, and are set up as their
//! documents show. `tower-otel` ends its span at the response's headers, before the status is known.
//! `by_hand` and `by_hand_bound` are the least that such a layer can do: the price of the API and the
//! SDK themselves.
//!
//! Give the name of one layer to run only its calls, for counting instructions (`valgrind
//! --tool=callgrind … --only ours`), how many for sampling, and the name of the setting: `server`,
//! `server_w3c`, `server_caller`, `client` or `client_w3c`.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

mod call;
mod otel_by_hand;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use http::HeaderValue;
use opentelemetry::{
    global,
    metrics::{Meter, MeterProvider as _},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use otel_by_hand::ByHandLayer;
use tonic_tracing_opentelemetry::middleware::{client, server};
use tower::{
    Layer, Service, ServiceBuilder,
    layer::util::{Identity, Stack},
};
use tower_tracer::{
    Role, TracerLayer,
    otel::{self, OtelTracer},
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

/// Makes that many calls.
type Runner = Box<dyn FnMut(u32)>;

/// What the layers are measured in.
struct Setting {
    name: &'static str,
    title: &'static str,
    role: Role,
    /// With W3C's propagator, the global one.
    propagates: bool,
    /// What the caller sent.
    traceparent: Option<HeaderValue>,
}

fn settings() -> [Setting; 5] {
    let setting = |name, title, role, propagates| Setting {
        name,
        title,
        role,
        propagates,
        traceparent: None,
    };
    let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    // The propagator is set once for all: those without it come first.
    [
        setting("server", "server without a propagator", Role::Server, false),
        setting("client", "client without a propagator", Role::Client, false),
        setting(
            "server_w3c",
            "server with W3C's propagator, untraced caller",
            Role::Server,
            true,
        ),
        Setting {
            traceparent: Some(HeaderValue::from_static(caller)),
            ..setting(
                "server_caller",
                "server with W3C's propagator, traced caller",
                Role::Server,
                true,
            )
        },
        setting(
            "client_w3c",
            "client with W3C's propagator",
            Role::Client,
            true,
        ),
    ]
}

/// The SDK that all share.
struct Sdk {
    spans: SdkTracerProvider,
    unsampled: SdkTracerProvider,
    metrics: SdkMeterProvider,
    meter: Meter,
}

impl Sdk {
    fn new() -> Self {
        let provider = |sampler| {
            SdkTracerProvider::builder()
                .with_sampler(sampler)
                .with_span_processor(Nowhere)
                .build()
        };
        let reader = PeriodicReader::builder(InMemoryMetricExporter::default())
            .with_interval(Duration::from_secs(3600))
            .build();
        let metrics = SdkMeterProvider::builder().with_reader(reader).build();
        Self {
            spans: provider(Sampler::AlwaysOn),
            unsampled: provider(Sampler::AlwaysOff),
            meter: metrics.meter("bench"),
            metrics,
        }
    }
}

fn variants(setting: &Setting, sdk: &Sdk) -> Vec<(&'static str, Runner)> {
    let Sdk { meter, metrics, .. } = sdk;
    let traceparent = &setting.traceparent;
    let ours = |provider: &SdkTracerProvider| {
        let tracer = otel::OtelTracer::new().tracer_provider(provider);
        tracer.meter_provider(metrics)
    };
    let traced = |tracer: OtelTracer| {
        let layer = TracerLayer::new(tracer);
        match setting.role {
            Role::Client => around(layer.client(), traceparent),
            Role::Server => around(layer.server(), traceparent),
        }
    };
    let by_hand = |bound| {
        let tracer = sdk.spans.tracer("bench");
        around(
            ByHandLayer::new(setting.role, tracer, meter, bound),
            traceparent,
        )
    };
    let level = tracing::Level::INFO;
    let (tower_otel, tonic_tracing_otel) = match setting.role {
        Role::Client => (
            around(
                Stack::new(
                    tower_otel::trace::GrpcLayer::client(level),
                    tower_otel::metrics::HttpLayer::client(meter),
                ),
                traceparent,
            ),
            around(client::OtelGrpcLayer, traceparent),
        ),
        Role::Server => (
            around(
                Stack::new(
                    tower_otel::trace::GrpcLayer::server(level),
                    tower_otel::metrics::HttpLayer::server(meter),
                ),
                traceparent,
            ),
            around(server::OtelGrpcLayer::default(), traceparent),
        ),
    };
    let empty = match setting.role {
        Role::Client => TracerLayer::new(()).client(),
        Role::Server => TracerLayer::new(()).server(),
    };
    vec![
        ("none", around(Identity::new(), traceparent)),
        ("tower_otel", tower_otel),
        ("tonic_tracing_otel", tonic_tracing_otel),
        ("empty", around(empty, traceparent)),
        ("by_hand", by_hand(false)),
        ("by_hand_bound", by_hand(true)),
        ("ours", traced(ours(&sdk.spans))),
        ("ours_bound", traced(ours(&sdk.spans).bound_instruments())),
        ("ours_unsampled", traced(ours(&sdk.unsampled))),
    ]
}

/// The layer around the handler, called by a caller that may be traced.
fn around<L, S, B>(layer: L, traceparent: &Option<HeaderValue>) -> Runner
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body + 'static,
{
    let traceparent = traceparent.clone();
    let mut service = ServiceBuilder::new()
        .map_request(move |mut request: http::Request<tonic::body::Body>| {
            if let Some(traceparent) = &traceparent {
                let headers = request.headers_mut();
                headers.insert("traceparent", traceparent.clone());
            }
            request
        })
        .service(layer.layer(call::handler(1)));
    Box::new(move |calls| {
        for _ in 0..calls {
            call::call(black_box(&mut service), &call::Side::Client, 1);
        }
    })
}

fn measure(setting: &Setting, sdk: &Sdk, rounds: u32, calls: u32) {
    let mut variants = variants(setting, sdk);
    let mut best = vec![Duration::MAX; variants.len()];
    let mut allocations = vec![0; variants.len()];
    for ((_, run), allocations) in variants.iter_mut().zip(&mut allocations) {
        run(10);
        *allocations = allocation_counter::measure(|| run(100)).count_total / 100;
    }
    for _ in 0..rounds {
        for ((_, run), best) in variants.iter_mut().zip(&mut best) {
            let start = Instant::now();
            // Counting makes each allocation dearer.
            allocation_counter::opt_out(|| run(calls));
            *best = (*best).min(start.elapsed());
        }
    }
    let nanos = |time: Duration| time.as_nanos() as f64 / f64::from(calls);
    let none = nanos(best[0]);
    let other = nanos(best[1]) - none;
    println!(
        "\n{}: {none:.0} ns and {} allocations without a layer",
        setting.title, allocations[0]
    );
    println!(
        "{:<20} {:>9} {:>12} {:>14}",
        "layer", "above it", "allocations", "to tower-otel"
    );
    let figures = variants.iter().zip(best.iter().zip(&allocations));
    for ((name, _), (best, count)) in figures.skip(1) {
        let above = nanos(*best) - none;
        let count = count - allocations[0];
        println!(
            "{name:<20} {above:>6.0} ns {count:>12} {:>14.2}",
            above / other
        );
    }
}

fn main() {
    let sdk = Sdk::new();
    let bridge = tracing_opentelemetry::layer().with_tracer(sdk.spans.tracer("bench"));
    let subscriber = tracing_subscriber::registry().with(bridge);
    tracing::subscriber::set_global_default(subscriber).expect("set once");

    let arguments: Vec<String> = std::env::args().collect();
    let only = arguments.iter().position(|a| a == "--only");
    let only = only.map(|at| arguments.get(at + 1..).unwrap_or_default());
    // `cargo test` runs a benchmark too, only to see that it works.
    let quick = !arguments.iter().any(|argument| argument == "--bench");
    let (rounds, calls) = if quick { (2, 50) } else { (300, 1_000) };
    for setting in settings() {
        if setting.propagates {
            global::set_text_map_propagator(TraceContextPropagator::new());
        }
        let Some(only) = only else {
            measure(&setting, &sdk, rounds, calls);
            continue;
        };
        let [wanted, rest @ ..] = only else {
            panic!("--only NAME [CALLS [SETTING]]");
        };
        if rest.get(1).map_or("server", String::as_str) != setting.name {
            continue;
        }
        let calls = rest.first().map_or(2_000, |n| n.parse().expect("a number"));
        for (name, mut run) in variants(&setting, &sdk) {
            if name == wanted {
                allocation_counter::opt_out(|| run(calls));
            }
        }
    }
}
