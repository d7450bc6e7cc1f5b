//! OpenTelemetry's spans, metrics and propagation.
