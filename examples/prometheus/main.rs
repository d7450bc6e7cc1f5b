//! Serves `/metrics` for Prometheus: a server and a client in one program, both traced.
//!
//! ```text
//! cargo run -p examples --example prometheus --features metrics -- [ROUNDS] [ADDRESS] [NAMES] [MESSAGES]
//! curl http://127.0.0.1:9464/metrics
//! ```
//!
//! It makes ROUNDS rounds of calls of every kind, 10 by default, and serves until it is interrupted.
//! NAMES is `rpc`, or `grpc-prometheus` for the names of go-grpc-prometheus. Then comes one stream of this
//! many MESSAGES, 0 by default, one every 100 ms: its counters move while it runs. Beside this file are a
//! dashboard for Grafana, `dashboard.json`, and rules for alerts, `alerts.yml`.

#[path = "../echo/mod.rs"]
mod echo;
#[path = "../load/mod.rs"]
mod load;

use std::{error::Error, net::SocketAddr, time::Duration};

use echo::{EchoClient, EchoRequest, say};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    metrics::{DURATION_BUCKETS, MetricsTracer, Names},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let address = arguments.next().unwrap_or("127.0.0.1:9464".to_owned());
    let address: SocketAddr = address.parse()?;
    let names = match arguments.next().as_deref() {
        None | Some("rpc") => Names::Rpc,
        Some("grpc-prometheus") => Names::GrpcPrometheus,
        Some(other) => return Err(format!("NAMES is rpc or grpc-prometheus, not {other}").into()),
    };
    let messages: u32 = arguments.next().map_or(Ok(0), |n| n.parse())?;
    // What a server says of its methods: all others are counted together.
    let methods = KnownMethods::from_descriptor_set(include_bytes!("../echo/descriptors.bin"))?;
    let tracer = || MetricsTracer::new().names(names);

    // Before the first RPC: handles are taken then, and kept.
    let mut exporter = PrometheusBuilder::new().with_http_listener(address);
    for name in tracer().duration_names() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name), &DURATION_BUCKETS)?;
    }
    exporter.install()?;

    let often = Duration::from_millis(200);
    let layer = TracerLayer::new(tracer().methods(methods.clone())).progress_every(often);
    let server = load::serve(layer.server()).await?;
    let layer = TracerLayer::new(tracer()).progress_every(often);
    let channel = load::connect(&server.uri, layer.client().methods(methods)).await?;
    load::rounds(&channel, rounds).await?;
    println!("{rounds} rounds done; metrics on http://{address}/metrics");

    if messages > 0 {
        let request = EchoRequest {
            count: messages,
            delay_ms: 100,
            ..say("message")
        };
        let mut echo = EchoClient::new(channel);
        let mut stream = echo.server_streaming_echo(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        println!("{messages} messages received");
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
