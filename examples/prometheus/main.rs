//! Serves `/metrics` for Prometheus: a server and a client in one program, both traced.
//!
//! ```text
//! cargo run -p examples --example prometheus --features metrics -- [ROUNDS] [ADDRESS] [NAMES]
//! curl http://127.0.0.1:9464/metrics
//! ```
//!
//! It makes ROUNDS rounds of calls of every kind, 10 by default, and serves until it is interrupted.
//! NAMES is `rpc`, or `grpc-prometheus` for the names of go-grpc-prometheus. Beside this file are a
//! dashboard for Grafana, `dashboard.json`, and rules for alerts, `alerts.yml`.

#[path = "../echo/mod.rs"]
mod echo;
#[path = "../load/mod.rs"]
mod load;

use std::{error::Error, net::SocketAddr};

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
    // What a server says of its methods: all others are counted together.
    let methods = KnownMethods::from_descriptor_set(include_bytes!("../echo/descriptors.bin"))?;
    let tracer = || MetricsTracer::new().names(names);

    // Before the first RPC: handles are taken then, and kept.
    let mut exporter = PrometheusBuilder::new().with_http_listener(address);
    for name in tracer().duration_names() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name), &DURATION_BUCKETS)?;
    }
    exporter.install()?;

    let layer = TracerLayer::new(tracer().methods(methods.clone())).server();
    let server = load::serve(layer).await?;
    let layer = TracerLayer::new(tracer()).client().methods(methods);
    let channel = load::connect(&server.uri, layer).await?;
    load::rounds(&channel, rounds).await?;
    println!("{rounds} rounds done; metrics on http://{address}/metrics");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
