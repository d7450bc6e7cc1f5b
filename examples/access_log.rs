//! An access log: a line per RPC, at a level that fits how it ended.
//!
//! ```text
//! cargo run --example access_log --features tracing
//! RUST_LOG=warn cargo run --example access_log --features tracing
//! ```

#[path = "echo/mod.rs"]
mod echo;
#[path = "load/mod.rs"]
mod load;

use std::{error::Error, time::Duration};

use tower_tracer::{
    TracerLayer,
    tracers::tracing::{TracingTracer, level_of},
};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or(EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();

    // The server logs as is usual; the client says nothing of what went well.
    let server = TracingTracer::new();
    let client = TracingTracer::new().level_of(|rpc| match rpc.stats().failed() {
        false => None,
        true => Some(level_of(rpc)),
    });
    let uri = load::serve(TracerLayer::new(server).server()).await?;
    let channel = load::connect(&uri, TracerLayer::new(client).client()).await?;
    load::round(&channel).await?;
    // What was cancelled ends on the server a moment later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}
