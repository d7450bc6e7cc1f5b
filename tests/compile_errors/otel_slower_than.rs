//! Spans that are to be chosen after their end.
// error: a span is chosen at its start, not after its end
// at: slower_than
// note: let the collector decide

use std::time::Duration;

use tower_tracer::{TracerLayer, otel::OtelTracer};

fn main() {
    let _ = TracerLayer::new(OtelTracer::new().slower_than(Duration::from_secs(1)));
}
