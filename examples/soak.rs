//! Makes many RPCs over TCP, a third of them hostile, under all built-in tracers on both sides, and checks that
//! nothing is left over.
//!
//! ```sh
//! cargo run -p examples --example soak --features soak -- [RPCS]
//! ```
//!
//! RPCS is 50,000 by default. Meanwhile connections are cut, replaced, grow old and fail, and peers come that speak
//! no gRPC. At the end, as many RPCs have finished as started, and as many connections have closed as opened. Every
//! gauge is at 0, no tracer has panicked, and resident memory has grown by less than [`GROWTH`] since half of the
//! RPCs were made; the first half warms up. The samples of the live pages do not count: they fill 16 MiB a page, and
//! no more. If something is left over, it says what and exits with 1.

mod echo;
mod load;

use std::{
    error::Error,
    io,
    net::{Shutdown, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use echo::{EchoClient, say};
use futures_util::StreamExt as _;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
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
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Request,
    body::Body,
    transport::{Endpoint, Server},
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::{
    RequestParts, RpcInfo, Tracer, TracerLayer,
    connection::{BoxConnectionTracer, ConnectionInfo, ConnectionTracer, Connector, Incoming},
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
/// How old a connection of the server becomes.
const AGE: Duration = Duration::from_secs(1);

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

/// Counts connections of one side: opened, ready, closed before they were ready, closed.
#[derive(Clone, Default)]
struct Connections(Arc<[AtomicU64; 4]>);

impl Connections {
    fn add(&self, index: usize) {
        self.0[index].fetch_add(1, Relaxed);
    }
}

impl ConnectionTracer for Connections {
    type State = ();

    fn opened(&self, _: &ConnectionInfo) {
        self.add(0);
    }

    fn ready(&self, (): &mut (), _: &ConnectionInfo) {
        self.add(1);
    }

    fn closed(&self, (): (), connection: &ConnectionInfo) {
        if !connection.is_ready() {
            self.add(2);
        }
        self.add(3);
    }
}

/// All tracers of one side, as far as they are read at the end.
struct Side {
    name: &'static str,
    count: Count,
    connections: Connections,
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
            connections: Connections::default(),
            prometheus: PrometheusTracer::new(),
            live: Live::new().name(name).guard(|_| Access::Everything),
            spans: SdkTracerProvider::builder().build(),
            metrics: SdkMeterProvider::builder().with_reader(reader).build(),
            exported,
        }
    }

    fn otel(&self) -> OtelTracer {
        OtelTracer::new()
            .tracer_provider(&self.spans)
            .meter_provider(&self.metrics)
    }

    fn connection_tracer(&self) -> BoxConnectionTracer {
        BoxConnectionTracer::new((
            self.connections.clone(),
            self.otel(),
            self.live.tracer(),
            MetricsTracer::new(),
            TracingTracer::new(),
        ))
    }

    fn tracer(&self, methods: &KnownMethods) -> impl Tracer + use<> {
        let otel = self
            .otel()
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
        let [opened, ready, never_ready, closed] =
            [0, 1, 2, 3].map(|index| self.connections.0[index].load(Relaxed));
        println!(
            "{}: {opened} connections opened, {ready} ready, {never_ready} never ready, {closed} closed",
            self.name
        );
        if opened != closed || opened != ready + never_ready || ready == 0 {
            complaints.push(format!("{opened} connections opened and {closed} closed"));
        }
        complaints.extend(open_gauges("prometheus", &self.prometheus.encode()));
        let otel = self.otel_in_flight();
        if otel != Some(0) {
            complaints.push(format!("OpenTelemetry has {otel:?} in flight or open"));
        }
        let live = self.live().await.map(|(in_flight, _)| in_flight);
        if live != Some(0) {
            complaints.push(format!("the live page shows {live:?} in flight"));
        }
        let live = self.live_connections().await;
        if live != Some((opened, 0)) {
            complaints.push(format!(
                "the live page shows {live:?} connections opened and open"
            ));
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

    async fn page(&self, path: &'static str) -> Option<serde_json::Value> {
        let mut request = http::Request::new(String::new());
        *request.uri_mut() = Uri::from_static(path);
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert("host", host);
        let response = self.live.service().oneshot(request).await.ok()?;
        let page = response.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&page).ok()
    }

    /// How many connections were opened and are open by the live page.
    async fn live_connections(&self) -> Option<(u64, u64)> {
        let page = self.page("/connections.json").await?;
        let totals = page["totals"][self.name].as_object()?;
        Some((totals["opened"].as_u64()?, totals["open"].as_u64()?))
    }

    /// How many RPCs are in flight by the live page, and how many bytes its samples take.
    async fn live(&self) -> Option<(u64, u64)> {
        let page = self.page("/.json").await?;
        let in_flight = page["in_flight"]["total"].as_u64()?;
        Some((in_flight, page["samples"]["bytes"].as_u64()?))
    }
}

/// The gauges of a scrape that are not 0; or that there are none.
fn open_gauges(of: &str, scrape: &str) -> Vec<String> {
    let names = ["rpc_in_flight{", "rpc_connections_open{"];
    let gauges = scrape
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
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

/// Connects by TCP, and keeps a handle of the latest connection, by which it can be cut.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Wire {
    fn swap(&self, wire: Option<std::net::TcpStream>) -> Option<std::net::TcpStream> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *kept, wire)
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let address = uri.authority().map_or("", |authority| authority.as_str());
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tcp = tcp.into_std()?;
        self.swap(Some(tcp.try_clone()?));
        Ok(TokioIo::new(TcpStream::from_std(tcp)?))
    }

    fn cut(&self) {
        if let Some(tcp) = self.swap(None) {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }
}

/// A client whose connections are traced and can be cut.
fn connect<T: Tracer>(
    uri: &str,
    layer: TracerLayer<T>,
    side: &Side,
    wire: &Wire,
) -> Option<Traced<T>> {
    let wire = wire.clone();
    let connector = tower::service_fn(move |uri| wire.clone().connect(uri));
    let connector = Connector::new(connector, side.connection_tracer());
    let endpoint = Endpoint::from_shared(uri.to_owned()).ok()?;
    let channel = endpoint.connect_with_connector_lazy(connector);
    Some(ServiceBuilder::new().layer(layer).service(channel))
}

/// Peers of the server that speak no gRPC, and attempts to connect that come to nothing.
async fn odd_connections(server: SocketAddr, client: &Side, wire: &Wire) -> io::Result<()> {
    drop(TcpStream::connect(server).await?);
    for bytes in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\xff\xff\xff\x07\0\0\0\0\x01garbage",
    ] {
        let mut tcp = TcpStream::connect(server).await?;
        tcp.write_all(bytes).await?;
        let mut answer = [0; 1024];
        let answer = tcp.read(&mut answer);
        let _ = tokio::time::timeout(Duration::from_millis(50), answer).await;
    }
    let wire = wire.clone();
    let connector = tower::service_fn(move |uri| wire.clone().connect(uri));
    let mut connector = Connector::new(connector, client.connection_tracer());
    let _refused = connector.call(Uri::from_static("http://127.0.0.1:1")).await;
    drop(connector.call(Uri::from_static("http://127.0.0.1:1")));
    Ok(())
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
    let (incoming, uri) = echo::listen().await?;
    let address = incoming.local_addr()?;
    let served = load::serve_incoming(
        Server::builder().max_connection_age(AGE),
        TracerLayer::new(server.tracer(&methods)).server(),
        Incoming::new(incoming, server.connection_tracer()),
        uri,
    );
    let layer = TracerLayer::new(Arc::new(client.tracer(&methods))).client();
    let wire = Wire::default();
    let connect = || connect(&served.uri, layer.clone(), &client, &wire).ok_or("no channel");
    let channel = Mutex::new(connect()?);
    let current = || {
        channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    };

    let begin = Instant::now();
    let (mut settled, mut resident, mut samples) = (0, 0, 0);
    let tenth = (rpcs / 10).max(1);
    let calls = futures_util::stream::iter(0..rpcs).map(|number| rpc(current(), number));
    let mut calls = Box::pin(calls.buffer_unordered(AT_ONCE));
    let mut done = 0;
    while calls.next().await.is_some() {
        done += 1;
        if done % 500 == 0 {
            // As a scrape does: until then the exporter holds each measurement.
            scrape.run_upkeep();
        }
        // So often that the first tenth of a short run has filled what keeps the last connections.
        match done % 200 {
            50 => wire.cut(),
            // The calls of the one before go on.
            100 => *channel.lock().unwrap_or_else(PoisonError::into_inner) = connect()?,
            150 => odd_connections(address, &client, &wire).await?,
            _ => {}
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
    drop(wire.swap(None));
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
