//! Serves `/metrics` with exemplars: from a slow bucket or a failure to its trace.
//!
//! ```text
//! cargo run -p examples --example exemplars --features exemplars -- [ROUNDS] [ADDRESS]
//! curl http://127.0.0.1:9465/metrics
//! ```
//!
//! It makes ROUNDS rounds of calls of every kind, 10 by default, prints the ids of the traces that the
//! OpenTelemetry tracer beside it has exported, and serves until it is interrupted. Prometheus keeps the
//! exemplars if it runs with `--enable-feature=exemplar-storage`.

mod echo;
mod load;

use std::{collections::BTreeSet, error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tower_tracer::{
    TracerLayer, methods::KnownMethods, otel::OtelTracer, prometheus::PrometheusTracer,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let address = arguments.next().unwrap_or("127.0.0.1:9465".to_owned());
    let address: SocketAddr = address.parse()?;

    // In memory, to print the ids: a program exports its spans to a store of traces.
    let exporter = InMemorySpanExporter::default();
    let spans = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let otel = || OtelTracer::new().tracer_provider(&spans);

    let metrics = PrometheusTracer::new().methods(KnownMethods::new(load::METHODS));
    // The span is current when the metrics finish: their exemplars have its trace.
    let layer = TracerLayer::new((otel(), metrics.clone()));
    let server = load::serve(layer.clone().server()).await?;
    let channel = load::connect(&server.uri, layer.client()).await?;
    load::rounds(&channel, rounds).await?;

    let traces: BTreeSet<_> = exporter
        .get_finished_spans()?
        .iter()
        .map(|span| span.span_context.trace_id().to_string())
        .collect();
    for trace in traces {
        println!("trace {trace}");
    }
    println!("{rounds} rounds done; metrics on http://{address}/metrics");
    let app = Router::new().route("/metrics", get(async move || metrics.response()));
    let listener = tokio::net::TcpListener::bind(address).await?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}
