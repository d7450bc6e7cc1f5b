//! What layers cost per RPC, side by side in one run: `cargo bench --bench overhead`.
//!
//! Times are the best of many short rounds, the layers taking turns, as overhead above no layer at
//! all; look at the ratios. Give the name of one layer to run only its calls, for counting
//! instructions (`valgrind --tool=callgrind … --only empty`, built without feature `quanta`, whose
//! calibration takes as long as it takes), and how many for sampling.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

mod call;
mod hand_written;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hand_written::HandWrittenLayer;
use tower::{
    Layer, Service,
    layer::util::{Identity, Stack},
};
use tower_http::{
    classify::{GrpcErrorsAsFailures, SharedClassifier},
    trace::TraceLayer,
};
use tower_tracer::{Level, RequestParts, RpcInfo, Tracer, TracerLayer};

/// Reads what a metrics tracer reads.
struct Figures;

impl Tracer for Figures {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        black_box((
            rpc.full_method(),
            stats.status(),
            stats.cost(),
            stats.sent().wire_bytes(),
            stats.received().wire_bytes(),
        ));
    }
}

/// Makes that many calls.
type Runner = Box<dyn FnMut(u32)>;

/// A layer around the handler, whatever its types are.
trait LayerOf {
    fn runner(&self, messages: usize) -> Runner;
}

impl LayerOf for Identity {
    fn runner(&self, messages: usize) -> Runner {
        around(self, messages)
    }
}

impl LayerOf for HandWrittenLayer {
    fn runner(&self, messages: usize) -> Runner {
        around(self, messages)
    }
}

impl<T: Tracer> LayerOf for TracerLayer<T> {
    fn runner(&self, messages: usize) -> Runner {
        around(self, messages)
    }
}

impl LayerOf for Stack<TracerLayer<()>, TracerLayer<()>> {
    fn runner(&self, messages: usize) -> Runner {
        around(self, messages)
    }
}

impl LayerOf for TraceLayer<SharedClassifier<GrpcErrorsAsFailures>> {
    fn runner(&self, messages: usize) -> Runner {
        around(self, messages)
    }
}

fn around<L, S, B>(layer: &L, messages: usize) -> Runner
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body,
{
    let mut service = layer.layer(call::handler(messages));
    Box::new(move |calls| repeat(&mut service, messages, calls))
}

fn repeat<S, B>(service: &mut S, messages: usize, calls: u32)
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    for _ in 0..calls {
        call::call(black_box(&mut *service), &call::Side::Client, messages);
    }
}

fn report(method: &str, status: u16, cost: Duration, sent: u64, received: u64) {
    black_box((method, status, cost, sent, received));
}

/// Does nothing, and has something to carry.
#[derive(Clone)]
struct Carry;

impl Tracer for Carry {
    type State = u64;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> u64 {
        black_box(1)
    }

    fn finish(&self, state: u64, _: &RpcInfo) {
        black_box(state);
    }
}

fn variants(messages: usize) -> Vec<(&'static str, Runner)> {
    fn tracer<T: Tracer>(tracer: T) -> TracerLayer<T> {
        TracerLayer::new(tracer).client()
    }
    let layers: Vec<(&str, Box<dyn LayerOf>)> = vec![
        ("none", Box::new(Identity::new())),
        ("hand_written", Box::new(HandWrittenLayer(report))),
        ("empty", Box::new(tracer(()))),
        ("figures", Box::new(tracer(Figures))),
        ("two_tracers", Box::new(tracer((Figures, Figures)))),
        ("two_layers", Box::new(Stack::new(tracer(()), tracer(())))),
        ("tower_http", Box::new(TraceLayer::new_for_grpc())),
        ("detailed", Box::new(tracer(()).level(Level::Detailed))),
        ("disabled", Box::new(tracer(()).level(Level::Disabled))),
        (
            "declined",
            Box::new(tracer(().filter(|c| c.path().len() > 200))),
        ),
        (
            "eight_empty",
            Box::new(tracer(((), (), (), (), (), (), (), ()))),
        ),
        ("carry", Box::new(tracer(Carry))),
        ("carry_boxed", Box::new(tracer(Carry.boxed()))),
        ("carry_in_vec", Box::new(tracer(vec![Carry.boxed()]))),
        ("carry_reload", Box::new(tracer(Carry.reload()))),
    ];
    let runners = layers.into_iter();
    runners
        .map(|(name, layer)| (name, layer.runner(messages)))
        .collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--only") {
        let wanted = arguments.get(at + 1).expect("--only NAME");
        let calls = arguments
            .get(at + 2)
            .map_or(2_000, |calls| calls.parse().expect("a number"));
        for (name, mut run) in variants(1) {
            if name == wanted {
                run(calls);
            }
        }
        return;
    }
    // `cargo test` runs a benchmark too, only to see that it works.
    let quick = !arguments.iter().any(|argument| argument == "--bench");
    let (rounds, calls) = if quick { (2, 100) } else { (400, 2_000) };
    for (title, messages) in [("unary", 1), ("stream of 100 messages each way", 100)] {
        let calls = (calls / messages).max(1) as u32;
        let mut variants = variants(messages);
        let mut best = vec![Duration::MAX; variants.len()];
        for _ in 0..rounds {
            for ((_, run), best) in variants.iter_mut().zip(&mut best) {
                let start = Instant::now();
                run(calls);
                *best = (*best).min(start.elapsed());
            }
        }
        let nanos = |time: Duration| time.as_nanos() as f64 / f64::from(calls);
        let none = nanos(best[0]);
        let hand_written = nanos(best[1]) - none;
        println!("\n{title}: {none:.0} ns per RPC without a layer");
        println!(
            "{:<14} {:>9} {:>16}",
            "layer", "above it", "to hand-written"
        );
        for ((name, _), best) in variants.iter().zip(&best).skip(1) {
            let above = nanos(*best) - none;
            println!("{name:<14} {above:>6.0} ns {:>16.2}", above / hand_written);
        }
    }
}
