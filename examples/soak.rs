//! Makes many RPCs over TCP, a third of them hostile, under all built-in tracers on both sides, and checks that
//! nothing is left over.
//!
//! ```sh
//! cargo run -p examples --example soak --features soak -- [RPCS]
//! ```
//!
//! RPCS is 50,000 by default. At the end, as many RPCs have finished as started, every gauge is at 0, no
//! tracer has panicked, and resident memory has grown by less than [`GROWTH`] since half of the RPCs were made;
//! the first half warms up. The samples of the live pages do not count: they fill 16 MiB a page, and no more.
//! If something is left over, it says what and exits with 1.

mod echo;
mod load;

use std::{
    error::Error,
    io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use echo::{EchoClient, say};
use futures_util::StreamExt as _;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt as _, Full};
use load::Traced;
use metrics_exporter_prometheus::PrometheusBuilder;
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    },
    propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tonic::{Code, Request, body::Body};
use tower::{Service as _, ServiceExt as _};
use tower_tracer::{
    RequestParts, RpcInfo, Tracer, TracerLayer,
    live::{Access, Live},
    methods::KnownMethods,
    metrics::{DURATION_BUCKETS, MetricsTracer},
    otel::OtelTracer,
    prometheus::PrometheusTracer,
    tracer,
    tracing::TracingTracer,
};

/// How much resident memory, less the samples of the live pages, may grow in the second half of the RPCs.
const GROWTH: u64 = 2 << 20;
/// How many RPCs are in flight at a time.
const AT_ONCE: usize = 64;

/// Counts starts and finishes of one side.
#[derive(Clone, Default)]
struct Count(Arc<[AtomicU64; 2]>);

impl Count {
    fn started(&self) -> u64 {
        self.0[0].load(Relaxed)
    }

    fn finished(&self) -> u64 {
        self.0[1].load(Relaxed)
    }
}

impl Tracer for Count {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {
        self.0[0].fetch_add(1, Relaxed);
    }

    fn finish(&self, (): (), _: &RpcInfo) {
        self.0[1].fetch_add(1, Relaxed);
    }
}

/// All tracers of one side, as far as they are read at the end.
struct Side {
    name: &'static str,
    count: Count,
    prometheus: PrometheusTracer,
    live: Live,
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
    exported: InMemoryMetricExporter,
}

impl Side {
    fn new(name: &'static str) -> Self {
        let exported = InMemoryMetricExporter::default();
        // It is flushed at the end, and not before.
        let reader = PeriodicReader::builder(exported.clone())
            .with_interval(Duration::from_secs(24 * 60 * 60))
            .build();
        Self {
            name,
            count: Count::default(),
            prometheus: PrometheusTracer::new(),
            live: Live::new().name(name).guard(|_| Access::Everything),
            spans: SdkTracerProvider::builder().build(),
            metrics: SdkMeterProvider::builder().with_reader(reader).build(),
            exported,
        }
    }

    fn tracer(&self, methods: &KnownMethods) -> impl Tracer + use<> {
        let otel = OtelTracer::new()
            .tracer_provider(&self.spans)
            .meter_provider(&self.metrics)
            .propagator(TraceContextPropagator::new())
            .methods(methods.clone())
            .message_events()
            .in_flight();
        (
            (self.count.clone(), otel, self.live.tracer()),
            (
                MetricsTracer::new().methods(methods.clone()),
                self.prometheus.clone().methods(methods.clone()),
                TracingTracer::new().methods(methods.clone()),
            ),
        )
    }

    /// What is left over, a sentence each.
    async fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let (started, finished) = (self.count.started(), self.count.finished());
        println!("{}: {started} started, {finished} finished", self.name);
        if started != finished || started == 0 {
            complaints.push(format!("{started} started and {finished} finished"));
        }
        complaints.extend(open_gauges("prometheus", &self.prometheus.encode()));
        let otel = self.otel_in_flight();
        if otel != Some(0) {
            complaints.push(format!("OpenTelemetry has {otel:?} in flight"));
        }
        let live = self.live().await.map(|(in_flight, _)| in_flight);
        if live != Some(0) {
            complaints.push(format!("the live page shows {live:?} in flight"));
        }
        let name = self.name;
        complaints
            .into_iter()
            .map(|complaint| format!("{name}: {complaint}"))
            .collect()
    }

    /// The sum of the counters that go up and down; `None` if there are none.
    fn otel_in_flight(&self) -> Option<i64> {
        self.metrics.force_flush().ok()?;
        let exported = self.exported.get_finished_metrics().ok()?;
        let scopes = exported.last()?.scope_metrics();
        let sums = scopes
            .flat_map(|scope| scope.metrics())
            .filter_map(|metric| match metric.data() {
                AggregatedMetrics::I64(MetricData::Sum(sum)) if !sum.is_monotonic() => Some(
                    sum.data_points()
                        .map(|point| point.value().abs())
                        .sum::<i64>(),
                ),
                _ => None,
            });
        sums.reduce(|a, b| a + b)
    }

    /// How many RPCs are in flight by the live page, and how many bytes its samples take.
    async fn live(&self) -> Option<(u64, u64)> {
        let mut request = http::Request::new(String::new());
        *request.uri_mut() = Uri::from_static("/.json");
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert("host", host);
        let response = self.live.service().oneshot(request).await.ok()?;
        let page = response.into_body().collect().await.ok()?.to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&page).ok()?;
        let in_flight = page["in_flight"]["total"].as_u64()?;
        Some((in_flight, page["samples"]["bytes"].as_u64()?))
    }
}

/// The gauges of a scrape that are not 0; or that there are none.
fn open_gauges(of: &str, scrape: &str) -> Vec<String> {
    let gauges = scrape
        .lines()
        .filter(|line| line.starts_with("rpc_in_flight{"));
    let gauges: Vec<_> = gauges.collect();
    if gauges.is_empty() {
        return vec![format!("{of} has no gauge")];
    }
    let open = gauges.into_iter().filter(|line| !line.ends_with(" 0"));
    open.map(|line| format!("{of} has {line}")).collect()
}

/// The resident memory of this program; 0 where that cannot be read.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}

/// Resident memory, and what the samples of the live pages take of it.
async fn memory(sides: [&Side; 2]) -> (u64, u64) {
    let mut samples = 0;
    for side in sides {
        samples += side.live().await.map_or(0, |(_, bytes)| bytes);
    }
    (resident_bytes(), samples)
}

/// One RPC of each third is hostile: it is broken off, fails, or is not what it says.
async fn rpc<T: Tracer>(channel: Traced<T>, number: u64) {
    let mut echo = EchoClient::new(channel.clone());
    match (number % 3, number / 3 % 6) {
        (2, 0) => {
            // The caller goes after the first message.
            let many = say("first").times(20);
            if let Ok(responses) = echo.server_streaming_echo(many).await {
                let _ = responses.into_inner().message().await;
            }
        }
        (2, 1) => {
            let mut late = Request::new(say("late").after(Duration::from_secs(60)));
            late.set_timeout(Duration::from_millis(number % 10));
            let _ = echo.unary_echo(late).await;
        }
        (2, 2) => drop(echo.unary_echo(say("boom").panicking()).await),
        (2, 3) => {
            // The caller goes before there is an answer.
            let slow = echo.unary_echo(say("slow").after(Duration::from_secs(60)));
            let _ = tokio::time::timeout(Duration::from_millis(number % 5), slow).await;
        }
        (2, kind) => odd(channel, number, kind).await,
        (_, 0 | 1) => drop(echo.unary_echo(say("hello")).await),
        (_, 2) => drop(echo.unary_echo(say("none").failing(Code::NotFound)).await),
        (_, 3) => {
            if let Ok(responses) = echo.server_streaming_echo(say("three").times(3)).await {
                let mut responses = responses.into_inner();
                while let Ok(Some(_)) = responses.message().await {}
            }
        }
        (_, 4) => {
            let requests = tokio_stream::iter([say("a"), say("b"), say("c")]);
            drop(echo.client_streaming_echo(requests).await);
        }
        _ => {
            let requests = tokio_stream::iter([say("a"), say("b")]);
            if let Ok(responses) = echo.bidirectional_streaming_echo(requests).await {
                let mut responses = responses.into_inner();
                while let Ok(Some(_)) = responses.message().await {}
            }
        }
    }
}

/// A request that no generated client makes: a name that was never seen before, headers that are not what they
/// should be, and bytes that are not messages.
async fn odd<T: Tracer>(mut channel: Traced<T>, number: u64, kind: u64) {
    let (path, body) = match kind {
        4 => (
            format!("/x{number}.Service/M{number}"),
            &b"\0\0\0\0\x02hi"[..],
        ),
        // It announces 4 GiB.
        _ => (
            "/echo.Echo/UnaryEcho".to_owned(),
            &b"\x01\xff\xff\xff\xffgo"[..],
        ),
    };
    let body = Full::new(Bytes::from_static(body)).map_err(|never| match never {});
    let mut request = http::Request::new(Body::new(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().unwrap_or_default();
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("grpc-timeout", "99999999999H"),
        ("grpc-previous-rpc-attempts", "-1"),
        ("traceparent", "00-banana-00"),
        ("baggage", "=;=,,=%zz"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    if let Ok(ready) = channel.ready().await
        && let Ok(response) = ready.call(request).await
    {
        drop(response.into_body().collect().await);
    }
}

/// Handlers panic by the thousand here; that is not printed.
fn print_no_asked_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&"asked to panic") {
            print(panic);
        }
    }));
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let rpcs: u64 = std::env::args().nth(1).map_or(Ok(50_000), |n| n.parse())?;
    print_no_asked_panics();
    // Spans and lines are made, and go nowhere.
    tracing_subscriber::fmt().with_writer(io::sink).init();
    // Without buckets the exporter keeps samples for its quantiles, and grows for minutes.
    let scrape = PrometheusBuilder::new()
        .set_buckets(&DURATION_BUCKETS)?
        .install_recorder()?;
    let methods = KnownMethods::from_descriptor_set(include_bytes!("echo/descriptors.bin"))?;

    let (client, server) = (Side::new("client"), Side::new("server"));
    let served = load::serve(TracerLayer::new(server.tracer(&methods)).server()).await?;
    let layer = TracerLayer::new(client.tracer(&methods)).client();
    let channel = load::connect(&served.uri, layer).await?;

    let begin = Instant::now();
    let (mut settled, mut resident, mut samples) = (0, 0, 0);
    let tenth = (rpcs / 10).max(1);
    let calls = futures_util::stream::iter(0..rpcs).map(|number| rpc(channel.clone(), number));
    let mut calls = Box::pin(calls.buffer_unordered(AT_ONCE));
    let mut done = 0;
    while calls.next().await.is_some() {
        done += 1;
        if done % 500 == 0 {
            // As a scrape does: until then the exporter holds each measurement.
            scrape.run_upkeep();
        }
        if done % tenth == 0 {
            (resident, samples) = memory([&client, &server]).await;
            if done == 5 * tenth {
                settled = resident.saturating_sub(samples);
            }
            let seconds = begin.elapsed().as_secs_f32();
            let (resident, samples) = (resident >> 10, samples >> 10);
            println!(
                "{done} of {rpcs} RPCs, {seconds:.1} s, {resident} KiB resident, {samples} of it samples"
            );
        }
    }
    drop(calls);
    drop(channel);
    served.end().await;

    let mut complaints = [client.complaints().await, server.complaints().await].concat();
    complaints.extend(open_gauges("metrics", &scrape.render()));
    let contained = tracer::contained_panics();
    if contained != 0 {
        complaints.push(format!("{contained} panics of tracers were contained"));
    }
    let growth = resident.saturating_sub(samples + settled);
    println!(
        "resident memory grew by {} KiB in the second half",
        growth >> 10
    );
    if growth > GROWTH {
        complaints.push(format!("that is more than {} KiB", GROWTH >> 10));
    }
    for complaint in &complaints {
        eprintln!("LEFT OVER: {complaint}");
    }
    Ok(match complaints.is_empty() {
        true => {
            println!("nothing is left over");
            ExitCode::SUCCESS
        }
        false => ExitCode::FAILURE,
    })
}
