//! What layers cost per RPC, side by side in one run: `cargo bench --bench overhead`.
//!
//! Times are the best of many short rounds, the layers taking turns, as overhead above no layer at
//! all, and of those the middle one of 15 processes: where a process is in memory moves them by
//! 20 ns. Look at the ratios. Give the name of one layer to run only its calls, for counting
//! instructions (`valgrind --tool=callgrind … --only empty`, built by `-p benches` and so without `quanta`, whose
//! calibration takes as long as it takes), how many for sampling, and the setting: `unary`, `single` or
//! `packed`. With `--features live` or `--all-features` there is the live page's tracer too.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

mod call;
mod figures;
mod hand_written;

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use call::Load;
use figures::{Figures, report};
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

/// Makes that many calls.
type Runner = Box<dyn FnMut(u32)>;

/// A layer around the handler, whatever its types are.
trait LayerOf {
    fn runner(&self, load: Load) -> Runner;
}

impl LayerOf for Identity {
    fn runner(&self, load: Load) -> Runner {
        around(self, load)
    }
}

impl LayerOf for HandWrittenLayer {
    fn runner(&self, load: Load) -> Runner {
        around(self, load)
    }
}

impl<T: Tracer> LayerOf for TracerLayer<T> {
    fn runner(&self, load: Load) -> Runner {
        around(self, load)
    }
}

impl LayerOf for Stack<TracerLayer<()>, TracerLayer<()>> {
    fn runner(&self, load: Load) -> Runner {
        around(self, load)
    }
}

impl LayerOf for TraceLayer<SharedClassifier<GrpcErrorsAsFailures>> {
    fn runner(&self, load: Load) -> Runner {
        around(self, load)
    }
}

fn around<L, S, B>(layer: &L, load: Load) -> Runner
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>> + 'static,
    B: http_body::Body,
{
    let mut service = layer.layer(call::handler(load));
    Box::new(move |calls| repeat(&mut service, load, calls))
}

fn repeat<S, B>(service: &mut S, load: Load, calls: u32)
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    for _ in 0..calls {
        call::call(black_box(&mut *service), &call::Side::Client, load);
    }
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

fn variants(load: Load) -> Vec<(&'static str, Runner)> {
    fn tracer<T: Tracer>(tracer: T) -> TracerLayer<T> {
        TracerLayer::new(tracer).client()
    }
    let layers: Vec<(&str, Box<dyn LayerOf>)> = vec![
        ("none", Box::new(Identity::new())),
        ("hand_written", Box::new(HandWrittenLayer(Some(report)))),
        ("empty", Box::new(tracer(()))),
        ("figures", Box::new(tracer(Figures))),
        ("two_tracers", Box::new(tracer((Figures, Figures)))),
        ("two_layers", Box::new(Stack::new(tracer(()), tracer(())))),
        ("tower_http", Box::new(TraceLayer::new_for_grpc())),
        ("detailed", Box::new(tracer(()).level(Level::Detailed))),
        (
            "hand_written_off",
            Box::new(HandWrittenLayer(black_box(None))),
        ),
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
        ("carry_reload", Box::new(tracer(Carry.reloadable()))),
        #[cfg(feature = "live")]
        (
            "live",
            Box::new(tracer(tower_tracer::live::Live::new().tracer())),
        ),
    ];
    let runners = layers.into_iter();
    runners
        .map(|(name, layer)| (name, layer.runner(load)))
        .collect()
}

/// A title, a name for `--only`, and what passes each way.
const SETTINGS: [(&str, &str, Load); 3] = [
    (
        "unary",
        "unary",
        Load {
            frames: 1,
            per_frame: 1,
        },
    ),
    (
        "stream of 100 messages each way, a frame each",
        "single",
        Load {
            frames: 100,
            per_frame: 1,
        },
    ),
    (
        "stream of 1000 messages each way, 100 in a frame",
        "packed",
        Load {
            frames: 10,
            per_frame: 100,
        },
    ),
];

const PROCESSES: usize = 15;

/// What one process measured: for each setting, each layer's nanoseconds per RPC.
type Measured = Vec<Vec<f64>>;

/// Measures the layers in turns, the best of so many rounds.
fn measure(rounds: u32, calls: usize) -> Measured {
    let of_setting = |(_, _, load): (_, _, Load)| {
        let calls = (calls / load.frames).max(1) as u32;
        let mut variants = variants(load);
        let mut best = vec![Duration::MAX; variants.len()];
        for _ in 0..rounds {
            for ((_, run), best) in variants.iter_mut().zip(&mut best) {
                let start = Instant::now();
                run(calls);
                *best = (*best).min(start.elapsed());
            }
        }
        let nanos = |time: &Duration| time.as_nanos() as f64 / f64::from(calls);
        best.iter().map(nanos).collect()
    };
    SETTINGS.into_iter().map(of_setting).collect()
}

/// Has another process of this program measure.
fn measure_apart() -> Result<Measured, Box<dyn std::error::Error>> {
    let process = std::env::current_exe()?;
    let output = Command::new(process).arg("--measure").output()?;
    let lines = String::from_utf8(output.stdout)?;
    let numbers = |line: &str| line.split(' ').map(str::parse).collect::<Result<_, _>>();
    Ok(lines.lines().map(numbers).collect::<Result<_, _>>()?)
}

fn print(processes: &[Measured]) {
    // The middle one, the least and the most.
    let spread = |of: &dyn Fn(&Measured) -> f64| {
        let mut all: Vec<f64> = processes.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[0], all[all.len() - 1])
    };
    for (setting, (title, _, load)) in SETTINGS.into_iter().enumerate() {
        let (none, ..) = spread(&|measured| measured[setting][0]);
        let above = |layer: usize| spread(&|m| m[setting][layer] - m[setting][0]);
        let (hand_written, ..) = above(1);
        println!("\n{title}: {none:.0} ns per RPC without a layer");
        println!(
            "{:<16} {:>9} {:>16} {:>16}",
            "layer", "above it", "least to most", "to hand-written"
        );
        for (layer, (name, _)) in variants(load).iter().enumerate().skip(1) {
            let (middle, least, most) = above(layer);
            let spread = format!("{least:.0} to {most:.0}");
            let ratio = middle / hand_written;
            println!("{name:<16} {middle:>6.0} ns {spread:>16} {ratio:>16.2}");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |wanted| arguments.iter().any(|argument| argument == wanted);
    if let Some(at) = arguments.iter().position(|a| a == "--only") {
        let wanted = arguments.get(at + 1).expect("--only NAME");
        let calls = arguments
            .get(at + 2)
            .map_or(2_000, |calls| calls.parse().expect("a number"));
        let setting = arguments.get(at + 3).map_or("unary", |setting| setting);
        let (.., load) = SETTINGS
            .into_iter()
            .find(|(_, name, _)| *name == setting)
            .expect("unary, single or packed");
        for (name, mut run) in variants(load) {
            if name == wanted {
                run(calls);
            }
        }
    } else if has("--measure") {
        for nanos in measure(150, 2_000) {
            let nanos: Vec<String> = nanos.iter().map(f64::to_string).collect();
            println!("{}", nanos.join(" "));
        }
    } else if has("--bench") {
        let mut processes = Vec::new();
        for number in 1..=PROCESSES {
            eprintln!("process {number} of {PROCESSES}");
            processes.push(measure_apart()?);
        }
        print(&processes);
    } else {
        // `cargo test` runs a benchmark too, only to see that it works.
        print(&[measure(2, 100)]);
    }
    Ok(())
}
