//! Serves `/metrics` for Prometheus: a server and a client in one program, both traced.
//!
//! ```text
//! cargo run -p examples --example prometheus --features metrics -- [ROUNDS] [ADDRESS]
//! curl http://127.0.0.1:9464/metrics
//! ```
//!
//! It makes ROUNDS rounds of calls of every kind, 10 by default, and serves until it is
//! interrupted. Beside it are a dashboard for Grafana, `dashboard.json`, and rules for alerts,
//! `alerts.yml`.

#[path = "../echo/mod.rs"]
mod echo;
#[path = "../load/mod.rs"]
mod load;

use std::{error::Error, net::SocketAddr};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    metrics::{DURATION_BUCKETS, MetricsTracer},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let address = arguments.next().unwrap_or("127.0.0.1:9464".to_owned());
    let address: SocketAddr = address.parse()?;

    // Before the first RPC: handles are taken then, and kept.
    PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(
            Matcher::Full("rpc_duration_seconds".to_owned()),
            &DURATION_BUCKETS,
        )?
        .install()?;

    // A server says which methods it has; all others are counted together.
    let tracer = MetricsTracer::new().methods(KnownMethods::new(load::METHODS));
    let server = load::serve(TracerLayer::new(tracer).server()).await?;
    let layer = TracerLayer::new(MetricsTracer::new()).client();
    let channel = load::connect(&server.uri, layer).await?;
    load::rounds(&channel, rounds).await?;
    println!("{rounds} rounds done; metrics on http://{address}/metrics");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
