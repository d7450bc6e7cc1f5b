//! What layers cost end to end, a real tonic client and server, both with the layer:
//! `cargo bench --all-features --bench end_to_end`.
//!
//! Each figure is the rate with the layers over the rate without, of rounds that take turns: the middle one,
//! and the quartiles. `none again` shows the noise. `--quick` runs a few short rounds, and `--only TEXT` only
//! the variants whose name has this text.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

#[path = "../examples/echo/generated.rs"]
#[rustfmt::skip]
#[allow(clippy::all, dead_code, unused_imports, rust_2018_idioms)]
mod echo;
mod figures;
mod hand_written;
mod otel_by_hand;

use std::{
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use echo::{
    EchoRequest, EchoResponse,
    echo_client::EchoClient,
    echo_server::{Echo, EchoServer},
};
use figures::{Figures, report};
use futures_util::{Stream, StreamExt as _, future::join_all, stream};
use hand_written::HandWrittenLayer;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use opentelemetry::{metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider},
    trace::{SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use otel_by_hand::ByHandLayer;
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::{ServiceBuilder, layer::util::Identity, layer::util::Stack, service_fn};
use tower_http::trace::TraceLayer;
use tower_tracer::{
    Role, TracerLayer,
    connection::{Connector, Incoming},
    otel::OtelTracer,
};

/// Answers at once, with the request's message. A stream has `count` of them: as many in a frame as fit, or one
/// if `delay_ms` is not 0.
struct Service;

type Responses = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message }))
    }

    type ServerStreamingEchoStream = Responses;

    async fn server_streaming_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Responses>, Status> {
        let EchoRequest {
            message,
            count,
            delay_ms,
            ..
        } = request.into_inner();
        let messages = (0..count).map(move |_| {
            let message = message.clone();
            Ok(EchoResponse { message })
        });
        let messages = stream::iter(messages);
        Ok(Response::new(match delay_ms {
            0 => Box::pin(messages),
            _ => Box::pin(Apart {
                inner: messages,
                waits: false,
            }),
        }))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type BidirectionalStreamingEchoStream = Responses;

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// Is pending before each item, so that each message gets a frame of its own.
struct Apart<S> {
    inner: S,
    waits: bool,
}

impl<S: Stream + Unpin> Stream for Apart<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.inner.poll_next_unpin(cx)
    }
}

/// What is called, and how often at once.
#[derive(Clone, Copy)]
struct Cell {
    name: &'static str,
    /// 0 for a unary call.
    messages: u32,
    /// Of a message's text.
    bytes: usize,
    apart: bool,
    at_once: usize,
    /// How many calls a round has.
    calls: usize,
}

const CELLS: [Cell; 6] = [
    cell("unary, 1 in flight", 0, false, 1, 400),
    cell("unary, 64 in flight", 0, false, 64, 640),
    cell("1000 messages, packed, 1 in flight", 1000, false, 1, 12),
    cell("1000 messages, packed, 64 in flight", 1000, false, 64, 64),
    cell("1000 messages, a frame each", 1000, true, 1, 6),
    Cell {
        bytes: 64 * 1024,
        ..cell("1 GiB in messages of 64 KiB", 16 * 1024, false, 1, 1)
    },
];

const fn cell(
    name: &'static str,
    messages: u32,
    apart: bool,
    at_once: usize,
    calls: usize,
) -> Cell {
    Cell {
        name,
        messages,
        bytes: 9,
        apart,
        at_once,
        calls,
    }
}

impl Cell {
    fn rounds(&self, is_quick: bool) -> usize {
        match (is_quick, self.bytes > 1000) {
            (true, _) => 3,
            (false, true) => 10,
            (false, false) => 60,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    /// A pipe in memory.
    Pipe,
    Tcp,
    /// TCP whose connections are traced on both sides.
    Traced,
}

/// Makes a cell's calls, and says how long they took.
type Runner = Box<dyn FnMut(&Runtime, Cell) -> Duration>;

/// A client and a server with these layers, on a connection of their own.
macro_rules! pair {
    ($runtime:expr, $transport:expr, $client:expr, $server:expr) => {{
        let server = Server::builder()
            .layer($server)
            .add_service(EchoServer::new(Service));
        let channel = $runtime.block_on(async {
            match $transport {
                Transport::Pipe => {
                    let (near, far) = tokio::io::duplex(256 * 1024);
                    let incoming = stream::iter([Ok::<_, std::io::Error>(far)]);
                    // The connection outlives the stream of connections.
                    let incoming = incoming.chain(stream::pending());
                    tokio::spawn(server.serve_with_incoming(incoming));
                    let mut near = Some(near);
                    let connector = service_fn(move |_| {
                        let near = near.take().map(TokioIo::new);
                        async { near.ok_or(std::io::Error::other("there is one pipe")) }
                    });
                    Endpoint::from_static("http://pipe")
                        .connect_with_connector(connector)
                        .await
                }
                on => {
                    let any = "127.0.0.1:0".parse().expect("an address");
                    let incoming = tonic::transport::server::TcpIncoming::bind(any)
                        .expect("a port")
                        .with_nodelay(Some(true));
                    let address = incoming.local_addr().expect("an address");
                    let endpoint = Endpoint::from_shared(format!("http://{address}"));
                    let endpoint = endpoint.expect("a URI");
                    // tonic's own connector is this one.
                    let mut http = HttpConnector::new();
                    http.set_nodelay(true);
                    if on == Transport::Traced {
                        let incoming = Incoming::new(incoming, ());
                        tokio::spawn(server.serve_with_incoming(incoming));
                        endpoint
                            .connect_with_connector(Connector::new(http, ()))
                            .await
                    } else {
                        tokio::spawn(server.serve_with_incoming(incoming));
                        endpoint.connect_with_connector(http).await
                    }
                }
            }
        });
        let channel: Channel = channel.expect("a connection");
        let client = EchoClient::new(ServiceBuilder::new().layer($client).service(channel));
        let runner: Runner = Box::new(move |runtime, cell: Cell| {
            let worker = |calls: usize| {
                let mut client = client.clone();
                async move {
                    for _ in 0..calls {
                        let request = EchoRequest {
                            message: "m".repeat(cell.bytes),
                            count: cell.messages,
                            delay_ms: u32::from(cell.apart),
                            ..EchoRequest::default()
                        };
                        if cell.messages == 0 {
                            black_box(client.unary_echo(request).await.expect("an answer"));
                            continue;
                        }
                        let answer = client.server_streaming_echo(request).await;
                        let mut messages = answer.expect("an answer").into_inner();
                        while let Some(message) = messages.next().await {
                            black_box(message.expect("a message"));
                        }
                    }
                }
            };
            let start = Instant::now();
            runtime.block_on(async {
                join_all((0..cell.at_once).map(|_| worker(cell.calls / cell.at_once))).await;
            });
            start.elapsed()
        });
        runner
    }};
}

/// Takes spans that have ended.
#[derive(Debug)]
struct Nowhere;

impl SpanProcessor for Nowhere {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        drop(black_box(span));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn variants(runtime: &Runtime, on: Transport) -> Vec<(&'static str, Runner)> {
    let spans = SdkTracerProvider::builder()
        .with_span_processor(Nowhere)
        .build();
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default())
        .with_interval(Duration::from_secs(3600))
        .build();
    let metrics = SdkMeterProvider::builder().with_reader(reader).build();
    let meter = metrics.meter("bench");
    let none = Identity::new;
    let hand = || HandWrittenLayer(Some(report));
    let otel = || {
        let tracer = OtelTracer::new().tracer_provider(&spans);
        TracerLayer::new(tracer.meter_provider(&metrics))
    };
    let by_hand = |role| ByHandLayer::new(role, spans.tracer("bench"), &meter, false);
    let level = tracing::Level::INFO;
    let tower_otel_client = Stack::new(
        tower_otel::trace::GrpcLayer::client(level),
        tower_otel::metrics::HttpLayer::client(&meter),
    );
    let tower_otel_server = Stack::new(
        tower_otel::trace::GrpcLayer::server(level),
        tower_otel::metrics::HttpLayer::server(&meter),
    );
    let _entered = runtime.enter();
    let mut variants = vec![
        ("none", pair!(runtime, on, none(), none())),
        ("none again", pair!(runtime, on, none(), none())),
        ("by hand", pair!(runtime, on, hand(), hand())),
        (
            "empty tracer",
            pair!(
                runtime,
                on,
                TracerLayer::new(()).client(),
                TracerLayer::new(()).server()
            ),
        ),
        (
            "a tracer that reads all",
            pair!(
                runtime,
                on,
                TracerLayer::new(Figures).client(),
                TracerLayer::new(Figures).server()
            ),
        ),
        (
            "OpenTelemetry by hand",
            pair!(runtime, on, by_hand(Role::Client), by_hand(Role::Server)),
        ),
        (
            "OtelTracer",
            pair!(runtime, on, otel().client(), otel().server()),
        ),
        (
            "tower-http trace",
            pair!(
                runtime,
                on,
                TraceLayer::new_for_grpc(),
                TraceLayer::new_for_grpc()
            ),
        ),
        (
            "tower-otel",
            pair!(runtime, on, tower_otel_client, tower_otel_server),
        ),
        // It is for servers.
        (
            "tonic_prometheus_layer",
            pair!(
                runtime,
                on,
                none(),
                tonic_prometheus_layer::MetricsLayer::new()
            ),
        ),
    ];
    if on == Transport::Tcp {
        let on = Transport::Traced;
        variants.push(("connections", pair!(runtime, on, none(), none())));
        let (client, server) = (TracerLayer::new(()).client(), TracerLayer::new(()).server());
        let both = pair!(runtime, on, client, server);
        variants.push(("connections, empty tracer", both));
    }
    variants
}

/// The middle one of these, and the quartiles.
fn quartiles(mut ratios: Vec<f64>) -> [f64; 3] {
    ratios.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| ratios[(ratios.len() - 1) * quarter / 4])
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let is_quick = !is_bench || arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for (transport, title) in [(Transport::Pipe, "pipe in memory"), (Transport::Tcp, "TCP")] {
        let mut variants = variants(&runtime, transport);
        variants.retain(|(name, _)| {
            only.is_none_or(|only| name.starts_with("none") || name.contains(only))
        });
        for mut cell in CELLS {
            let rounds = cell.rounds(is_quick);
            if is_quick {
                cell.calls = cell.at_once;
                cell.messages = cell.messages.min(1000);
            }
            let mut rates = vec![Vec::new(); variants.len()];
            for round in 0..=rounds {
                let times: Vec<_> = variants
                    .iter_mut()
                    .map(|(_, run)| run(&runtime, cell).as_secs_f64())
                    .collect();
                // The first one warms up.
                if round > 0 {
                    for (rates, time) in rates.iter_mut().zip(&times) {
                        rates.push(times[0] / time);
                    }
                }
            }
            println!("\n{title}: {}", cell.name);
            for ((name, _), rates) in variants.iter().zip(rates).skip(1) {
                let [first, middle, third] = quartiles(rates);
                println!("  {name:<26} {middle:.3}   ({first:.3} to {third:.3})");
            }
        }
    }
}
