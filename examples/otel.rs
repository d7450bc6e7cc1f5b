//! Two services and a client, with traces and metrics over OTLP to whatever listens at the standard
//! endpoint, and on the console when nothing does.
//!
//! ```text
//! cargo run -p examples --example otel --features otel          # all three in one process
//! cargo run -p examples --example otel --features otel -- serve 127.0.0.1:50051
//! cargo run -p examples --example otel --features otel -- call http://127.0.0.1:50051
//! ```
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_PROTOCOL` (`grpc` or `http/protobuf`) and
//! `OTEL_SERVICE_NAME` are honoured. `serve` runs until its standard input ends.

#[path = "echo/mod.rs"]
mod echo;

use std::{env, error::Error, net::TcpStream, pin::Pin, time::Duration};

use echo::{Echo, EchoClient, EchoRequest, EchoResponse, EchoServer, EchoService, listen, say};
use opentelemetry::global;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use tokio::io::AsyncReadExt as _;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, Uri, server::TcpIncoming},
};
use tower::ServiceBuilder;
use tower_tracer::{
    TracerLayer,
    otel::{self, OtelTracer},
    service::TracerService,
};

type Failure = Box<dyn Error + Send + Sync>;
type Client = EchoClient<TracerService<Channel, OtelTracer>>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let telemetry = Telemetry::start()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => all_in_one().await?,
        ["serve", address] => {
            let incoming = TcpIncoming::bind(address.parse()?)?;
            println!("serving {}", incoming.local_addr()?);
            tokio::spawn(serve(EchoService, incoming));
            tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        }
        ["call", uri] => call(client(uri)?).await,
        _ => return Err("otel [serve ADDRESS | call URI]".into()),
    }
    telemetry.stop()
}

/// A client calls a service, which calls another.
async fn all_in_one() -> Result<(), Failure> {
    let (incoming, downstream) = listen().await?;
    tokio::spawn(serve(EchoService, incoming));
    let (incoming, front) = listen().await?;
    tokio::spawn(serve(Front(client(&downstream)?), incoming));
    call(client(&front)?).await;
    // The servers' spans end a moment after the client has its answer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

async fn serve(service: impl Echo, incoming: TcpIncoming) {
    let server = Server::builder()
        .layer(TracerLayer::new(otel::OtelTracer::new()))
        .add_service(EchoServer::new(service))
        .serve_with_incoming(incoming);
    if let Err(error) = server.await {
        eprintln!("server: {error}");
    }
}

fn client(uri: &str) -> Result<Client, Failure> {
    let channel = Endpoint::from_shared(uri.to_owned())?.connect_lazy();
    let callee = tower_tracer::rpc::Endpoint::new("echo").address(uri);
    let layer = TracerLayer::new(otel::OtelTracer::new()).callee(callee);
    let traced = ServiceBuilder::new().layer(layer).service(channel);
    Ok(EchoClient::new(traced))
}

/// One call that succeeds, and one that does not.
async fn call(mut client: Client) {
    let fails = EchoRequest {
        code: tonic::Code::NotFound as u32,
        ..say("no such thing")
    };
    for request in [say("hello"), fails] {
        match client.unary_echo(request).await {
            Ok(response) => println!("answer: {}", response.into_inner().message),
            Err(status) => println!("error: {status}"),
        }
    }
}

/// Passes unary calls on.
struct Front(Client);

type Responses = Pin<Box<dyn tokio_stream::Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Front {
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        self.0.clone().unary_echo(request.into_inner()).await
    }

    type ServerStreamingEchoStream = Responses;

    async fn server_streaming_echo(
        &self,
        _: Request<EchoRequest>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("unary calls only"))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        Err(Status::unimplemented("unary calls only"))
    }

    type BidirectionalStreamingEchoStream = Responses;

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("unary calls only"))
    }
}

/// The SDK's providers, which are the global ones too.
struct Telemetry {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    fn start() -> Result<Self, Failure> {
        let by_http = env::var("OTEL_EXPORTER_OTLP_PROTOCOL").is_ok_and(|p| p == "http/protobuf");
        let default = match by_http {
            true => "http://localhost:4318",
            false => "http://localhost:4317",
        };
        let endpoint = env::var("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or(default.to_owned());
        let (spans, metrics) = if !listens(&endpoint) {
            println!("nothing listens at {endpoint}: telemetry goes to the console");
            (
                SdkTracerProvider::builder()
                    .with_simple_exporter(opentelemetry_stdout::SpanExporter::default()),
                SdkMeterProvider::builder()
                    .with_periodic_exporter(opentelemetry_stdout::MetricExporter::default()),
            )
        } else if by_http {
            let (spans, metrics) = (
                format!("{endpoint}/v1/traces"),
                format!("{endpoint}/v1/metrics"),
            );
            let spans = SpanExporter::builder().with_http().with_endpoint(spans);
            let metrics = MetricExporter::builder().with_http().with_endpoint(metrics);
            (
                SdkTracerProvider::builder().with_batch_exporter(spans.build()?),
                SdkMeterProvider::builder().with_periodic_exporter(metrics.build()?),
            )
        } else {
            let spans = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&endpoint);
            let metrics = MetricExporter::builder()
                .with_tonic()
                .with_endpoint(&endpoint);
            (
                SdkTracerProvider::builder().with_batch_exporter(spans.build()?),
                SdkMeterProvider::builder().with_periodic_exporter(metrics.build()?),
            )
        };
        let telemetry = Self {
            spans: spans.build(),
            metrics: metrics.build(),
        };
        global::set_tracer_provider(telemetry.spans.clone());
        global::set_meter_provider(telemetry.metrics.clone());
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(telemetry)
    }

    /// Sends what is left.
    fn stop(self) -> Result<(), Failure> {
        self.spans.shutdown()?;
        self.metrics.shutdown()?;
        Ok(())
    }
}

fn listens(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<Uri>() else {
        return false;
    };
    let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    });
    let address = (uri.host().unwrap_or("localhost"), port);
    TcpStream::connect(address).is_ok()
}
