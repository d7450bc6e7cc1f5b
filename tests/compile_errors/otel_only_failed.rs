//! Spans that are to be chosen after their end.
// error: a span is chosen at its start, not after its end
// at: only_failed
// note: sees whole traces

use tower_tracer::otel::OtelTracer;

fn main() {
    let _ = OtelTracer::new().only_failed();
}
