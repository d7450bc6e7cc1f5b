//! An access log: a line per RPC, at a level that fits how it ended.
//!
//! ```text
//! cargo run -p examples --example access_log --features tracing
//! RUST_LOG=warn cargo run -p examples --example access_log --features tracing
//! ```

#[path = "echo/mod.rs"]
mod echo;
#[path = "load/mod.rs"]
mod load;

use std::error::Error;

use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    tracing::{TracingTracer, level_of},
};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or(EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();

    // The server logs as is usual, and its spans are named after the methods that it has. The client
    // says nothing of what went well.
    let server = TracingTracer::new().methods(KnownMethods::new(load::METHODS));
    let client = TracingTracer::new().level_of(|rpc| match rpc.stats().failed() {
        false => None,
        true => Some(level_of(rpc)),
    });
    let server = load::serve(TracerLayer::new(server).server()).await?;
    let channel = load::connect(&server.uri, TracerLayer::new(client).client()).await?;
    load::rounds(&channel, 1).await?;
    drop(channel);
    server.end().await;
    Ok(())
}
